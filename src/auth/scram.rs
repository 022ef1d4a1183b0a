//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's half: client and server prove to each other that they know the
//! password, or what is kept of it, and neither is sent.
//!
//! Sans-IO: [`begin`] takes the client's first message and gives the server's; [`Exchange::finish`] takes the second and
//! gives the last. Called by [`super::Auth`] for MQTT 5.0's enhanced authentication. What always holds: an unknown user
//! gets a salt like anyone else, the same each time, and fails only at the end; no channel binding is offered. Names and
//! passwords are prepared by SASLprep (RFC 4013) before they are compared or hashed.

use std::borrow::Cow;
use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};
use subtle::ConstantTimeEq;

/// Bytes of SHA-256.
const LENGTH: usize = digest::SHA256_OUTPUT_LEN;

/// Random bytes of ours in the nonce.
const NONCE_BYTES: usize = 24;

/// Rounds and bytes of salt for new passwords.
pub const ROUNDS: u32 = 15_000;
pub const SALT_LENGTH: usize = 16;

/// What is kept of a password: enough to verify who knows it, not enough to claim to.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// Rounds of PBKDF2.
    pub rounds: NonZeroU32,
    /// The salt.
    pub salt: Box<[u8]>,
    /// StoredKey.
    pub stored_key: [u8; LENGTH],
    /// ServerKey.
    pub server_key: [u8; LENGTH],
}

impl Verifier {
    /// Of a password.
    pub fn of(password: &[u8], salt: &[u8], rounds: NonZeroU32) -> Self {
        let mut salted = [0; LENGTH];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, &prepare_password(password), &mut salted);
        let client_key = sign(&salted, b"Client Key");
        Self {
            rounds,
            salt: salt.into(),
            stored_key: hash(&client_key),
            server_key: sign(&salted, b"Server Key"),
        }
    }

    /// What is seen of it.
    pub fn form(&self) -> Form {
        Form { rounds: self.rounds, salt_length: self.salt.len() }
    }

    /// Of a user that there is not, in this form; `secret` is this process's own.
    fn of_nobody(user: &str, form: Form, secret: &hmac::Key) -> Self {
        let mut salt = Vec::new();
        for block in (0_u8..=u8::MAX).take_while(|block| usize::from(*block) * LENGTH < form.salt_length) {
            let text = [&[block], user.as_bytes()].concat();
            salt.extend_from_slice(hmac::sign(secret, &text).as_ref());
        }
        salt.truncate(form.salt_length);
        Self { rounds: form.rounds, salt: salt.into(), stored_key: [0; LENGTH], server_key: [0; LENGTH] }
    }
}

/// What a client sees of a verifier before it has proved anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Rounds of PBKDF2.
    pub rounds: NonZeroU32,
    /// Bytes of the salt.
    pub salt_length: usize,
}

impl Default for Form {
    /// That of new passwords.
    fn default() -> Self {
        Self { rounds: NonZeroU32::new(ROUNDS).unwrap_or(NonZeroU32::MIN), salt_length: SALT_LENGTH }
    }
}

/// A user name in the form in which names are compared; `None` if it can be none.
pub fn prepare_name(name: &str) -> Option<Cow<'_, str>> {
    stringprep::saslprep(name).ok().filter(|prepared| !prepared.is_empty())
}

/// A password in the form in which it is hashed. One that SASLprep does not know how to prepare, with characters younger
/// than its tables for instance, is taken as it is, as other servers and clients do.
fn prepare_password(password: &[u8]) -> Cow<'_, [u8]> {
    match std::str::from_utf8(password).ok().and_then(prepare_name) {
        Some(Cow::Owned(prepared)) => Cow::Owned(prepared.into_bytes()),
        Some(Cow::Borrowed(_)) | None => Cow::Borrowed(password),
    }
}

/// An exchange that waits for the client's second message.
pub struct Exchange {
    user: Box<str>,
    is_known: bool,
    verifier: Verifier,
    /// `c=` as it must come back.
    binding: String,
    nonce: String,
    /// The client's first message without its header, and ours.
    so_far: String,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Exchange").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Takes the client's first message; the exchange and the server's answer, or `None` if the message is none of this
/// method. `look_up` knows the users, and the form that a user who is not there would have.
pub fn begin(
    message: &[u8],
    look_up: impl FnOnce(&str) -> Result<Verifier, Form>,
    secret: &hmac::Key,
    random: [u8; NONCE_BYTES],
) -> Option<(Exchange, Vec<u8>)> {
    let message = std::str::from_utf8(message).ok()?;
    // gs2-header: no channel binding ("y": the client would have liked one), perhaps an authzid, which nobody needs.
    let (flag, rest) = message.split_once(',')?;
    let (authzid, bare) = rest.split_once(',')?;
    if !matches!(flag, "n" | "y") || !authzid.is_empty() {
        return None;
    }
    let mut fields = bare.split(',');
    let user = unescape(fields.next()?.strip_prefix("n=")?)?;
    let user = prepare_name(&user)?.into_owned();
    let client_nonce = fields.next()?.strip_prefix("r=")?;
    if client_nonce.is_empty() || !client_nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let found = look_up(&user);
    let is_known = found.is_ok();
    let verifier = found.unwrap_or_else(|form| Verifier::of_nobody(&user, form, secret));
    let nonce = format!("{client_nonce}{}", STANDARD.encode(random));
    let answer = format!("r={nonce},s={},i={}", STANDARD.encode(&verifier.salt), verifier.rounds);
    let so_far = format!("{bare},{answer}");
    let binding = STANDARD.encode(format!("{flag},,"));
    let exchange = Exchange { user: user.into(), is_known, verifier, binding, nonce, so_far };
    Some((exchange, answer.into_bytes()))
}

impl Exchange {
    /// Who the client claims to be.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Takes the client's second message; the server's last if the client has proved who it is.
    pub fn finish(self, message: &[u8]) -> Option<Vec<u8>> {
        let message = std::str::from_utf8(message).ok()?;
        let (without_proof, proof) = message.rsplit_once(",p=")?;
        let mut fields = without_proof.split(',');
        let binding = fields.next()?.strip_prefix("c=")?;
        let nonce = fields.next()?.strip_prefix("r=")?;
        if binding != self.binding || nonce != self.nonce {
            return None;
        }
        let proof: [u8; LENGTH] = STANDARD.decode(proof).ok()?.try_into().ok()?;
        let text = format!("{},{without_proof}", self.so_far);
        let signature = sign(&self.verifier.stored_key, text.as_bytes());
        let mut client_key = proof;
        client_key.iter_mut().zip(signature).for_each(|(byte, other)| *byte ^= other);
        let is_right = bool::from(hash(&client_key).ct_eq(&self.verifier.stored_key));
        if !(is_right && self.is_known) {
            return None;
        }
        let proof_of_ours = STANDARD.encode(sign(&self.verifier.server_key, text.as_bytes()));
        Some(format!("v={proof_of_ours}").into_bytes())
    }
}

/// `=2C` is a comma, `=3D` an equals sign, and nothing else is escaped.
fn unescape(name: &str) -> Option<String> {
    let plain = name.replace("=2C", ",").replace("=3D", "=");
    let escapes = name.matches("=2C").count() + name.matches("=3D").count();
    (name.matches('=').count() == escapes && !plain.contains('\0')).then_some(plain)
}

fn sign(key: &[u8], message: &[u8]) -> [u8; LENGTH] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    tag.as_ref().try_into().unwrap_or([0; LENGTH])
}

fn hash(bytes: &[u8]) -> [u8; LENGTH] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().unwrap_or([0; LENGTH])
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";

    fn secret() -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, b"of this test")
    }

    fn pencil(user: &str) -> Result<Verifier, Form> {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let rounds = NonZeroU32::new(4096).unwrap();
        let form = Form { rounds, salt_length: salt.len() };
        if user == "user" { Ok(Verifier::of(b"pencil", &salt, rounds)) } else { Err(form) }
    }

    /// RFC 7677 §3. Its server's nonce is no base64, so it is put where ours would stand.
    #[test]
    fn the_example_of_the_rfc() {
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let (mut exchange, answer) = begin(FIRST, pencil, &secret(), [0; NONCE_BYTES]).unwrap();
        let ours = std::mem::replace(&mut exchange.nonce, nonce.to_owned());
        let answer = String::from_utf8(answer).unwrap();
        exchange.so_far = exchange.so_far.replace(&ours, nonce);
        assert_eq!(answer.replace(&ours, nonce), format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"));
        let proof = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        let last = exchange.finish(proof.as_bytes()).unwrap();
        assert_eq!(last, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    /// A client's proof for what the server said.
    fn prove(password: &[u8], first_bare: &str, server: &[u8], binding: &str) -> Vec<u8> {
        let server = std::str::from_utf8(server).unwrap();
        let mut fields = server.split(',');
        let nonce = fields.next().unwrap();
        let salt = STANDARD.decode(&fields.next().unwrap()[2..]).unwrap();
        let rounds: NonZeroU32 = fields.next().unwrap()[2..].parse().unwrap();
        let mut salted = [0; LENGTH];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password, &mut salted);
        let client_key = sign(&salted, b"Client Key");
        let without_proof = format!("c={binding},{nonce}");
        let text = format!("{first_bare},{server},{without_proof}");
        let signature = sign(&hash(&client_key), text.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(one, other)| one ^ other).collect();
        format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes()
    }

    #[test]
    fn only_the_right_password_of_a_known_user_proves_anything() {
        for (user, password, right) in [
            ("user", "pencil", true),
            ("user", "pencil ", false),
            ("user", "", false),
            ("nobody", "pencil", false),
        ] {
            let bare = format!("n={user},r=abc");
            let (exchange, server) =
                begin(format!("y,,{bare}").as_bytes(), pencil, &secret(), [7; NONCE_BYTES]).unwrap();
            let proof = prove(password.as_bytes(), &bare, &server, "eSws");
            assert_eq!(exchange.finish(&proof).is_some(), right, "{user} {password}");
        }
        // Nobody's salt is the same each time, and differs from another nobody's.
        let salt = |user: &str| {
            let first = format!("n,,n={user},r=abc");
            let (_, server) = begin(first.as_bytes(), pencil, &secret(), [7; NONCE_BYTES]).unwrap();
            String::from_utf8(server).unwrap().split(',').nth(1).unwrap().to_owned()
        };
        assert_eq!(salt("a"), salt("a"));
        assert_ne!(salt("a"), salt("b"));
        // And nothing else tells that it is nobody's.
        assert_eq!(salt("a").len(), salt("user").len());
        for salt_length in [0, 8, 32, 33, 100] {
            let form = Form { salt_length, ..Form::default() };
            assert_eq!(Verifier::of_nobody("a", form, &secret()).form(), form);
        }
    }

    #[test]
    fn what_was_changed_on_the_way_proves_nothing() {
        let bare = "n=user,r=abc";
        let begin = || begin(format!("n,,{bare}").as_bytes(), pencil, &secret(), [7; NONCE_BYTES]).unwrap();
        let (_, server) = begin();
        let good = String::from_utf8(prove(b"pencil", bare, &server, "biws")).unwrap();
        assert!(begin().0.finish(good.as_bytes()).is_some());
        for bad in [
            good.replace("c=biws", "c=eSws"),
            good.replace("r=abc", "r=abd"),
            good.replace(",p=", ",x=1,p="),
            good.replace(",p=", ",q="),
            good[..good.len() - 4].to_owned(),
            String::new(),
        ] {
            assert!(begin().0.finish(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    /// RFC 4013 §3, and what is not in its tables.
    #[test]
    fn names_and_passwords_are_prepared() {
        for (written, prepared) in [
            ("I\u{AD}X", Some("IX")),
            ("user", Some("user")),
            ("USER", Some("USER")),
            ("\u{AA}", Some("a")),
            ("\u{2168}", Some("IX")),
            ("a\u{A0}b", Some("a b")),
            ("\u{7}", None),
            ("\u{627}1", None),
            ("\u{1F9AD}", None),
            ("\u{AD}", None),
        ] {
            assert_eq!(prepare_name(written).as_deref(), prepared, "{written:?}");
            let password = prepared.unwrap_or(written).as_bytes();
            assert_eq!(&*prepare_password(written.as_bytes()), password, "{written:?}");
            let first = format!("n,,n={written},r=x");
            let begun = begin(first.as_bytes(), |_| Err(Form::default()), &secret(), [0; NONCE_BYTES]);
            assert_eq!(begun.as_ref().map(|(exchange, _)| exchange.user()), prepared, "{written:?}");
        }
        assert_eq!(&*prepare_password(b"\xFF"), b"\xFF");
        let rounds = NonZeroU32::MIN;
        assert!(Verifier::of("\u{2168}".as_bytes(), b"salt", rounds) == Verifier::of(b"IX", b"salt", rounds));
    }

    #[test]
    fn names_are_unescaped_and_what_is_no_first_message_is_refused() {
        let (exchange, _) =
            begin(b"n,,n=a=2Cb=3Dc,r=x", |_| Err(Form::default()), &secret(), [0; NONCE_BYTES]).unwrap();
        assert_eq!(exchange.user(), "a,b=c");
        for message in [
            &b""[..],
            b"n,,",
            b"n,,n=user",
            b"n,,r=x,n=user",
            b"p=tls-unique,,n=user,r=x",
            b"n,a=other,n=user,r=x",
            b"n,,n=,r=x",
            b"n,,n=user,r=",
            b"n,,n=us=er,r=x",
            b"n,,m=1,n=user,r=x",
            b"\xff",
            b"n,,n=user,r=a b",
        ] {
            assert!(begin(message, pencil, &secret(), [0; NONCE_BYTES]).is_none(), "{message:?}");
        }
    }
}
