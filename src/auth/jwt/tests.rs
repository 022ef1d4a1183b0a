use super::*;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair,
};

const SECRET: &[u8] = b"a secret that is long enough for all";

/// Signed with openssl by a key that was thrown away; it expires in 2100.
const RSA_TOKEN: &str = "eyJhbGciOiAiUlMyNTYiLCAia2lkIjogInJzYSJ9.eyJzdWIiOiAiYWxpY2UiLCAiZXhwIjogNDEwMjQ0NDgwMH0.oI6FfVw2UrnJVDFSFTv26W8bNg3tvzg7S6lsviONMdtsfqdODrnbwIzKE85rzrACfYzimSa8AWmqZ_YdgNJ-YpaoubTFd1geHXbkN5hroTupFkaNm_iPq9Hz3P5DUu9KFY-oSBxaOeS0Wyo6N0dFpR--fghN2qtoWPtfZle-3l3-KtHcpVm2YudKsnTPHlXH29auMYoySNHppn_NW9QlSXwSNy7x51LyvKSy3QUCqVDuyjQ74FM09LkzKOd8vb7sBltoRjHu7ZCOjaFRe-HPyQyk54G-5nCsZ8MBxh7tzocwP779d7P5iVUGa0PzSef4wPMLRg6St2ObocW9DtLCXw";
const RSA_PEM: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAq7gA+urss9xmdASbpRI2
P447/qHW0CmndpSIlgDeiRC/+OAeM+tPkOrNaGlr1N3xdRlYumhlfx1mfsm7etcl
q/r1kxN/AU52ApImlZbTv0d90T/f1fwtZ7e1paGVYAD9SQrNhEV7pIdk9t36aHob
CQm42tFTHlX8fOz5c7ObzgW6GT+bIjv7/BkK1XKCLKyHN+b/sw1ZdTn/2qVYoSnw
Q30Ec09ufJYkw3buZ0xRtuv4EVr5Z/FAyB+vAqk/zqLB+J0iplV/dpPzxmPmZgCJ
dM6SYGi9h8+HC78Z8d3WyARozUJdq50fdBiQheZb+eKGjiqZ+NxzjgNKNPRxjs1H
sQIDAQAB
-----END PUBLIC KEY-----
";
const RSA_MODULUS: &str = "q7gA-urss9xmdASbpRI2P447_qHW0CmndpSIlgDeiRC_-OAeM-tPkOrNaGlr1N3xdRlYumhlfx1mfsm7etclq_r1kxN_AU52ApImlZbTv0d90T_f1fwtZ7e1paGVYAD9SQrNhEV7pIdk9t36aHobCQm42tFTHlX8fOz5c7ObzgW6GT-bIjv7_BkK1XKCLKyHN-b_sw1ZdTn_2qVYoSnwQ30Ec09ufJYkw3buZ0xRtuv4EVr5Z_FAyB-vAqk_zqLB-J0iplV_dpPzxmPmZgCJdM6SYGi9h8-HC78Z8d3WyARozUJdq50fdBiQheZb-eKGjiqZ-NxzjgNKNPRxjs1HsQ";

/// RFC 7515 A.1.
const RFC_TOKEN: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const RFC_SET: &str = r#"{"keys":[{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}]}"#;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_300_000_000)
}

fn tokens(keys: &[u8]) -> Tokens {
    Tokens::new(Keys::parse(keys).unwrap(), config::Jwt::default())
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn unsigned(header: &str, claims: &str) -> String {
    format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()))
}

fn signed(header: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let text = unsigned(header, claims);
    let signature = encode(&sign(text.as_bytes()));
    format!("{text}.{signature}")
}

fn by_secret(claims: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET);
    signed(r#"{"alg":"HS256"}"#, claims, |text| ring::hmac::sign(&key, text).as_ref().to_vec())
}

fn judge(tokens: &Tokens, token: &str) -> Result<Identity, TokenError> {
    tokens.check(token.as_bytes(), now(), Instant::now()).unwrap()
}

#[test]
fn signatures_of_every_kind_are_verified() {
    let random = SystemRandom::new();
    let claims = r#"{"sub":"alice","exp":2000000000}"#;
    let ecdsa = |kind: &'static EcdsaSigningAlgorithm, name: &str, curve: &str| {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).unwrap();
        let header = format!(r#"{{"alg":"{name}","kid":"1"}}"#);
        let token = signed(&header, claims, |text| pair.sign(&random, text).unwrap().as_ref().to_vec());
        let point = &pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let (x, y) = (encode(x), encode(y));
        let key = format!(r#"{{"keys":[{{"kty":"EC","crv":"{curve}","kid":"1","x":"{x}","y":"{y}"}}]}}"#);
        (key, token)
    };
    let ed25519 = {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let token = signed(r#"{"alg":"EdDSA"}"#, claims, |text| pair.sign(text).as_ref().to_vec());
        let x = encode(pair.public_key().as_ref());
        (format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}]}}"#), token)
    };
    let set = format!(
        r#"{{"keys":[{{"kty":"XYZ"}},{{"kty":"RSA","use":"enc","n":"","e":""}},
        {{"kty":"RSA","kid":"rsa","use":"sig","n":"{RSA_MODULUS}","e":"AQAB"}}]}}"#
    );
    let all = [
        (String::from_utf8(SECRET.to_vec()).unwrap() + "\n", by_secret(claims)),
        (RSA_PEM.to_owned(), RSA_TOKEN.to_owned()),
        (set, RSA_TOKEN.to_owned()),
        ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, "ES256", "P-256"),
        ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING, "ES384", "P-384"),
        ed25519,
    ];
    for (number, (key, token)) in all.iter().enumerate() {
        let own = tokens(key.as_bytes());
        assert_eq!(judge(&own, token).map(|found| found.user), Ok(Some("alice".into())), "{number}");
        // Other claims, the same signature.
        let (text, signature) = token.rsplit_once('.').unwrap();
        let header = text.split_once('.').unwrap().0;
        let forged = format!("{header}.{}.{signature}", encode(br#"{"sub":"root","exp":2000000000}"#));
        assert_eq!(judge(&own, &forged), Err(TokenError::Signature), "{number}");
        for (other, (key, _)) in all.iter().enumerate() {
            let is_same_key = number == other || (number.min(other), number.max(other)) == (1, 2);
            assert_eq!(judge(&tokens(key.as_bytes()), token).is_ok(), is_same_key, "{number} {other}");
        }
    }
    let rfc = tokens(RFC_SET.as_bytes());
    let before = UNIX_EPOCH + Duration::from_secs(1_300_000_000);
    let found = rfc.check(RFC_TOKEN.as_bytes(), before, Instant::now()).unwrap();
    assert_eq!(found, Err(TokenError::NoUser), "the signature is right, and it names nobody");
}

#[test]
fn no_algorithm_is_none_and_no_public_key_a_secret() {
    let claims = r#"{"sub":"root","exp":2000000000}"#;
    let own = tokens(RSA_PEM.as_bytes());
    for name in ["none", "None", "", "HS256", "RS257"] {
        let header = format!(r#"{{"alg":"{name}"}}"#);
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, RSA_PEM.as_bytes());
        let token = signed(&header, claims, |text| ring::hmac::sign(&key, text).as_ref().to_vec());
        assert_eq!(judge(&own, &token), Err(TokenError::NoKey), "{name}");
        assert_eq!(judge(&own, &(unsigned(&header, claims) + ".")), Err(TokenError::NoKey), "{name}");
    }
}

#[test]
fn claims_are_looked_at() {
    let settings = config::Jwt {
        require: vec!["exp".to_owned(), "aud=fulmar".to_owned()],
        user_claim: "name".to_owned(),
        ..config::Jwt::default()
    };
    let own = Tokens::new(Keys::parse(SECRET).unwrap(), settings);
    for (claims, outcome) in [
        (r#"{"name":"a","aud":"fulmar","exp":1300000001}"#, Ok(())),
        (r#"{"name":"a","aud":["x","fulmar"],"exp":1300000001.5,"nbf":1300000059}"#, Ok(())),
        (r#"{"name":"a","aud":"fulmar","exp":1300000000}"#, Err(TokenError::Expired)),
        (r#"{"name":"a","aud":"fulmar","exp":"2000000000"}"#, Err(TokenError::Expired)),
        (r#"{"name":"a","aud":"fulmar","exp":-1}"#, Err(TokenError::Expired)),
        (r#"{"name":"a","aud":"fulmar","exp":1e300}"#, Err(TokenError::Expired)),
        (r#"{"name":"a","aud":"fulmar","exp":2000000000,"nbf":1300000061}"#, Err(TokenError::NotYet)),
        (r#"{"name":"a","aud":"fulmar"}"#, Err(TokenError::Claim)),
        (r#"{"name":"a","aud":"other","exp":2000000000}"#, Err(TokenError::Claim)),
        (r#"{"name":"","aud":"fulmar","exp":2000000000}"#, Err(TokenError::NoUser)),
        (r#"{"sub":"a","aud":"fulmar","exp":2000000000}"#, Err(TokenError::NoUser)),
        (r#"{"name":"a","aud":"fulmar","exp":2000000000,"acl":[]}"#, Err(TokenError::Rules)),
        (r#"{"name":"a","aud":"fulmar","exp":2000000000,"acl":{"pub":["a/#/b"]}}"#, Err(TokenError::Rules)),
        (r#"{"name":"a","aud":"fulmar","exp":2000000000,"acl":{"publish":["a"]}}"#, Err(TokenError::Rules)),
        (r#"{"name":"a","aud":"fulmar","exp":2000000000,"acl":{}}"#, Ok(())),
    ] {
        assert_eq!(judge(&own, &by_secret(claims)).map(|_| ()), outcome, "{claims}");
    }
}

#[test]
fn groups_that_are_none_are_not_overlooked() {
    let check = |groups: &str| {
        let claims = format!(r#"{{"sub":"a","exp":1300000100,"groups":{groups}}}"#);
        judge(&tokens(SECRET), &by_secret(&claims)).map(|identity| identity.groups.len())
    };
    for (groups, expected) in [
        ("[]", Ok(0)),
        ("null", Ok(0)),
        (r#""x""#, Ok(1)),
        (r#"{"x":true}"#, Err(TokenError::Groups)),
        (r#"["x",{}]"#, Err(TokenError::Groups)),
    ] {
        assert_eq!(check(groups), expected, "{groups}");
    }
}

#[test]
fn groups_rules_and_the_end_come_out_of_the_token() {
    let claims = r#"{"sub":"a","groups":["x","y"],"exp":1300000100,"acl":{"pub":["p/%u"],"sub":"s/#"}}"#;
    let instant = Instant::now();
    let found = tokens(SECRET).check(by_secret(claims).as_bytes(), now(), instant).unwrap().unwrap();
    assert_eq!(found.groups.iter().map(|group| &**group).collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(found.expires, Some(instant + Duration::from_secs(100)));
    assert_eq!(found.rules.unwrap().len(), 2);
}

#[test]
fn what_is_no_token_is_left_to_others() {
    for password in ["", "secret", "a.b.c", "..", "a.b", "e30.e30.e30", "e30.e30."] {
        assert!(tokens(SECRET).check(password.as_bytes(), now(), Instant::now()).is_none(), "{password}");
    }
    assert!(tokens(SECRET).check(b"\xff", now(), Instant::now()).is_none());
}

#[test]
fn what_is_no_key_says_why() {
    for (text, fault) in [
        ("short", "the secret has 5 bytes"),
        ("{}", "expected a JSON object with \"keys\""),
        ("{", "it is no JSON"),
        (r#"{"keys":[]}"#, "there is no key in it"),
        (r#"{"keys":[{"kty":"oct","k":"AAAA","kid":"a"}]}"#, "key a: the secret has 3 bytes"),
        (r#"{"keys":[{"kty":"RSA","n":"AAAA"}]}"#, "key without kid: \"e\" is missing"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "a PRIVATE KEY is in it"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "the public key is damaged"),
    ] {
        let error = Keys::parse(text.as_bytes()).unwrap_err();
        assert!(error.starts_with(fault), "{text}: {error}");
    }
}
