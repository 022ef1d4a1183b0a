//! The keys of a listener that are about its transport; a part of the table in `table.rs`.

use std::path::PathBuf;

use super::Listener;
use super::key::{Key, Shape, Worded};
use super::transport::{ClientCertificates, TlsVersion};

/// Paths of files, one or several.
macro_rules! files {
    ($name:literal, $group:ident . $field:ident, $doc:literal) => {
        Key {
            name: $name,
            doc: $doc,
            zero: None,
            shape: Shape::Texts {
                expects: "the path of a file, or a list of them",
                get: |listener| {
                    listener.$group.$field.iter().map(|path| path.display().to_string()).collect()
                },
                set: |listener, paths| {
                    listener.$group.$field = paths.iter().map(PathBuf::from).collect();
                    paths.iter().all(|path| !path.is_empty())
                },
            },
        }
    };
}

macro_rules! choice {
    ($name:literal, $group:ident . $field:ident: $type:ty, $doc:literal) => {
        Key {
            name: $name,
            doc: $doc,
            zero: None,
            shape: Shape::Choice {
                words: <$type>::words,
                later: &[],
                get: |listener| listener.$group.$field.word(),
                set: |listener, word| {
                    if let Some(variant) = <$type>::from_word(word) {
                        listener.$group.$field = variant;
                    }
                },
            },
        }
    };
}

/// See the module.
pub(super) static TRANSPORT_KEYS: &[Key<Listener>] = &[
    files!(
        "certificate",
        tls.certificates,
        "For kinds \"tls\" and \"wss\": the certificate chain in PEM, the server's own certificate first. Of several, \
         the one that bears the name the client asks for is shown, and the first where none does. The files named \
         here and below are read again when they change and at SIGHUP; connections stay."
    ),
    files!(
        "key",
        tls.keys,
        "The private key of the certificate in PEM (PKCS#8, PKCS#1 or SEC1); one for each certificate, in the same \
         order."
    ),
    Key {
        name: "server_names",
        doc: "Names by which clients reach this listener. A name that no certificate is for is told at start.",
        zero: None,
        shape: Shape::Texts {
            expects: "a host name, or a list of them",
            get: |listener| listener.tls.server_names.clone(),
            set: |listener, names| {
                listener.tls.server_names = names.iter().map(|name| (*name).to_owned()).collect();
                names.iter().all(|name| !name.is_empty())
            },
        },
    },
    choice!("min_tls_version", tls.min_version: TlsVersion, "The oldest version of TLS that is spoken."),
    choice!(
        "client_certificates",
        tls.client_certificates: ClientCertificates,
        "Whether clients show a certificate: they are not asked, or may, or must."
    ),
    files!(
        "client_ca",
        tls.client_ca,
        "The authorities (PEM) that sign the certificates of clients. Needed where those are optional or required."
    ),
    files!(
        "revocation_lists",
        tls.revocation_lists,
        "Lists of revoked client certificates (CRL, PEM or DER), one from each authority that signs them."
    ),
];
