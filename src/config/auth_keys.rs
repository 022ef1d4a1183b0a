//! The rows of the table for `[auth]`.

use std::path::PathBuf;
use std::time::Duration;

use super::Config;
use super::auth::{AuthenticatorKind, DeniedPublish};
use super::key::{Key, Shape, Worded};

macro_rules! claim {
    ($name:literal, $field:ident, $doc:literal) => {
        Key {
            name: $name,
            doc: $doc,
            zero: None,
            shape: Shape::Text {
                expects: "the name of a claim",
                get: |config| config.auth.jwt.$field.clone(),
                set: |config, text| {
                    (!text.is_empty()).then(|| config.auth.jwt.$field = text.to_owned()).is_some()
                },
            },
        }
    };
}

/// See `table.rs`.
pub(super) static AUTH_KEYS: &[Key<Config>] = &[
    Key {
        name: "auth.authenticators",
        doc: "Who is asked about clients with credentials, in this order, on every listener that names none of its own: \
              \"password-file\" knows the users of password_file, \"jwt\" believes signed tokens in the password, \"certificate\" those that showed one to TLS; \"scram-sha-256\" offers MQTT 5.0 clients to prove without sending it that they know a password of password_file (fulmar passwd add --scram); \"http\" asks a service of yours. Each says yes, no, or not mine; the first that says yes or no decides.",
        zero: None,
        shape: Shape::Words {
            words: AuthenticatorKind::ALL_WORDS,
            get: |config| config.auth.authenticators.iter().map(|kind| kind.word()).collect(),
            set: |config, words| config.auth.authenticators = AuthenticatorKind::list(words),
        },
    },
    Key {
        name: "auth.password_file",
        doc: "User names and hashed passwords, written by fulmar passwd; files of mosquitto_passwd work as they are. \
              Relative to where fulmar is started.",
        zero: None,
        shape: Shape::Text {
            expects: "the path of a file, or \"\" for none",
            get: |config| config.auth.password_file.to_string_lossy().into_owned(),
            set: |config, text| set_path(&mut config.auth.password_file, text),
        },
    },
    Key {
        name: "auth.certificate_user",
        doc: "The user name of a client that has shown a certificate: %cn stands for its common name, %dns, %email and \
              %uri for the first such subject alternative name. One that lacks such a name is not taken.",
        zero: None,
        shape: Shape::Text {
            expects: "a text with %cn, %dns, %email or %uri in it",
            get: |config| config.auth.certificate_user.clone(),
            set: |config, text| {
                let asks = ["%cn", "%dns", "%email", "%uri"].iter().any(|mark| text.contains(mark));
                asks.then(|| config.auth.certificate_user = text.to_owned()).is_some()
            },
        },
    },
    Key {
        name: "auth.jwt_keys",
        doc: "What verifies tokens: a JWKS (JSON), public keys in PEM (RSA, P-256, P-384, Ed25519), or a secret of 32 bytes \
              or more for HS256, HS384 and HS512.",
        zero: None,
        shape: Shape::Text {
            expects: "the path of a file, or \"\" for none",
            get: |config| config.auth.jwt.keys.to_string_lossy().into_owned(),
            set: |config, text| set_path(&mut config.auth.jwt.keys, text),
        },
    },
    Key {
        name: "auth.jwt_require",
        doc: "Claims that a token must have, or with a value that they must have, such as \"aud=fulmar\". A connection \
              ends when the token's exp has passed, whether it is required or not.",
        zero: None,
        shape: Shape::Texts {
            expects: "a claim or a list of them, each as name or name=value",
            get: |config| config.auth.jwt.require.clone(),
            set: |config, texts| {
                let good = texts.iter().all(|text| !text.is_empty() && !text.starts_with('='));
                let texts = || texts.iter().map(ToString::to_string).collect();
                good.then(|| config.auth.jwt.require = texts()).is_some()
            },
        },
    },
    claim!(
        "auth.jwt_user_claim",
        user_claim,
        "The claim of a token that names the user. What the CONNECT says is not looked at."
    ),
    claim!(
        "auth.jwt_groups_claim",
        groups_claim,
        "The claim of a token that names the user's groups, if it is there."
    ),
    claim!(
        "auth.jwt_acl_claim",
        acl_claim,
        "The claim of a token that holds rules, if it is there, as {\"pub\": [...], \"sub\": [...], \"all\": [...]} with \
         topic filters. Then these alone hold for the client, and no other rule."
    ),
    Key {
        name: "auth.http_url",
        doc: "A service of yours that is asked by POST about each client with credentials or a certificate. It is sent JSON: \
              {\"client_id\": \"c1\", \"username\": \"ann\", \"password\": \"secret\", \"listener\": \"mqtt\", \
              \"address\": \"192.0.2.7\", \"certificate\": {\"cn\": \"c1\", \"dns\": null, \"email\": null, \"uri\": null}}, \
              where what there is not is null; a password that is no UTF-8 comes as password_base64 in place of password. \
              It answers with status 200 and JSON: {\"result\": \"allow\"}, \"deny\", or \"ignore\" if the client is not its \
              own and the next authenticator is to be asked. With \"allow\" there may be \"user\" (if it is not the username), \
              \"groups\", \"acl\" (then these rules alone hold) and \"lifetime\" in seconds, after which the connection ends: \
              {\"result\": \"allow\", \"groups\": [\"staff\"], \"acl\": {\"pub\": [\"in/%u/#\"], \"sub\": [\"out/%u/#\"]}, \
              \"lifetime\": 3600}. Any other answer, or none in time, lets nobody in: 0x88. A name and a password in the URL \
              are sent as Basic authentication; redirects are not followed.",
        zero: None,
        shape: Shape::Text {
            expects: "a URL that begins with http:// or https://, or \"\" for none",
            get: |config| config.auth.http.url.clone(),
            set: |config, text| {
                let good = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
                (good || text.is_empty()).then(|| config.auth.http.url = text.to_owned()).is_some()
            },
        },
    },
    Key {
        name: "auth.http_ca",
        doc: "Who must have signed the certificate of the service of http_url: authorities in PEM, in place of those that \
              the system trusts.",
        zero: None,
        shape: Shape::Text {
            expects: "the path of a file, or \"\" for none",
            get: |config| config.auth.http.ca.to_string_lossy().into_owned(),
            set: |config, text| set_path(&mut config.auth.http.ca, text),
        },
    },
    Key {
        name: "auth.http_timeout",
        doc: "How long the service of http_url may take to answer, the wait for a turn included.",
        zero: None,
        shape: Shape::Duration {
            bounds: Duration::from_millis(100)..=Duration::from_secs(60),
            get: |config| config.auth.http.timeout,
            set: |config, duration| config.auth.http.timeout = duration,
        },
    },
    Key {
        name: "auth.http_concurrent",
        doc: "Questions to the service of http_url that are on their way at a time.",
        zero: None,
        shape: Shape::Number {
            bounds: 1..=10_000,
            unit: "",
            get: |config| config.auth.http.concurrent as u64,
            set: |config, number| config.auth.http.concurrent = usize::try_from(number).unwrap_or(1),
        },
    },
    Key {
        name: "auth.http_queue",
        doc: "Logins that may wait for their turn to be asked about. Those beyond are told that the broker is busy (0x89), \
              those from the address with the most of them first.",
        zero: None,
        shape: Shape::Number {
            bounds: 1..=1_000_000,
            unit: "",
            get: |config| config.auth.http.queue as u64,
            set: |config, number| config.auth.http.queue = usize::try_from(number).unwrap_or(1),
        },
    },
    Key {
        name: "auth.http_cache",
        doc: "How long it is remembered that the service of http_url let a client in with the same credentials from the \
              same address, so that many can come back at once. Only keyed hashes are kept of them; what it has denied is \
              always asked again.",
        zero: Some("not at all"),
        shape: Shape::Duration {
            bounds: Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60),
            get: |config| config.auth.http.cache,
            set: |config, duration| config.auth.http.cache = duration,
        },
    },
    Key {
        name: "auth.acl_file",
        doc: "Rules about what clients may do, after those written as [[acl]] in the configuration: a file that ends in \
              .toml holds [[acl]] and [[groups]] too, any other is an acl_file of mosquitto. As soon as there is any \
              rule, what no rule allows is denied.",
        zero: None,
        shape: Shape::Text {
            expects: "the path of a file, or \"\" for none",
            get: |config| config.auth.acl_file.to_string_lossy().into_owned(),
            set: |config, text| set_path(&mut config.auth.acl_file, text),
        },
    },
    Key {
        name: "auth.denied_publish",
        doc: "What happens to a client of MQTT 3.1 or 3.1.1 that publishes where it may not, as it cannot be told: its \
              message goes nowhere and is acknowledged, or its connection is closed. Clients of 5.0 are told with 0x87.",
        zero: None,
        shape: Shape::Choice {
            words: DeniedPublish::words,
            later: &[],
            get: |config| config.auth.denied_publish.word(),
            set: |config, word| {
                config.auth.denied_publish = DeniedPublish::from_word(word).unwrap_or(DeniedPublish::Ignore);
            },
        },
    },
    Key {
        name: "auth.hashing_threads",
        doc: "Passwords hashed at a time. Hashing is slow on purpose, some 20 ms; it happens beside the broker's work and \
              at the lowest priority, and no flood of logins takes more than this.",
        zero: Some("one fewer than the machine has cores, at least one"),
        shape: Shape::Number {
            bounds: 1..=1024,
            unit: "",
            get: |config| config.auth.hashing_threads.unwrap_or(0) as u64,
            set: |config, number| {
                config.auth.hashing_threads = usize::try_from(number).ok().filter(|threads| *threads > 0);
            },
        },
    },
    Key {
        name: "auth.hashing_queue",
        doc: "Logins that may wait to be hashed. Those beyond are told at once that the broker is busy (0x89; 3.x: server \
              unavailable), those from the address with the most of them first: however many come from one address, a \
              login from another waits for one or two hashes. Each that waits for one thread waits some 20 ms longer \
              than the one before it, and not beyond limits.connect_timeout.",
        zero: None,
        shape: Shape::Number {
            bounds: 1..=1_000_000,
            unit: "",
            get: |config| config.auth.hashing_queue as u64,
            set: |config, number| config.auth.hashing_queue = usize::try_from(number).unwrap_or(usize::MAX),
        },
    },
    Key {
        name: "auth.password_cache",
        doc: "How long a password that was right is known to be right without hashing it again, so that many clients can \
              come back at once.",
        zero: Some("not at all"),
        shape: Shape::Duration {
            bounds: Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60),
            get: |config| config.auth.password_cache,
            set: |config, duration| config.auth.password_cache = duration,
        },
    },
];

fn set_path(field: &mut PathBuf, text: &str) -> bool {
    (!text.contains('\0')).then(|| *field = PathBuf::from(text)).is_some()
}
