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
              \"password-file\" knows the users of password_file, \"jwt\" believes signed tokens in the password, \"certificate\" those that showed one to TLS. The first that says yes or no decides.",
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
        doc: "Passwords hashed at a time. Hashing is slow on purpose; it happens beside the broker's work, and no flood \
              of logins takes more than this.",
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
        doc: "Logins that may wait to be hashed. Those beyond are told that the broker is busy.",
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
