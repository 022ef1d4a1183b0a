//! The files of a TLS listener as they are on disk, and whether they have changed.
//!
//! They are read in full and compared by a digest: that sees through symbolic links, as Kubernetes swaps them, and
//! does not depend on times of modification. They are a few kilobytes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};

use crate::config;

/// One file's name, and what was in it or why it could not be read.
#[derive(Debug)]
pub struct File {
    /// As the configuration names it.
    pub path: PathBuf,
    /// Its bytes.
    pub contents: io::Result<Vec<u8>>,
}

/// All files of a listener at one time.
#[derive(Debug)]
pub struct Files {
    /// Certificate chains.
    pub certificates: Vec<File>,
    /// Their keys.
    pub keys: Vec<File>,
    /// Authorities of clients.
    pub client_ca: Vec<File>,
    /// Revocation lists.
    pub revocation_lists: Vec<File>,
}

/// Tells whether files are the same as at another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Files {
    /// Reads them; blocks.
    pub fn read(settings: &config::Tls) -> Self {
        let read = |paths: &[PathBuf]| paths.iter().map(|path| File::read(path)).collect();
        Self {
            certificates: read(&settings.certificates),
            keys: read(&settings.keys),
            client_ca: read(&settings.client_ca),
            revocation_lists: read(&settings.revocation_lists),
        }
    }

    /// Of all that was read, or of why it was not.
    pub fn digest(&self) -> Digest {
        let mut context = Context::new(&SHA256);
        let mut update = |bytes: &[u8]| {
            context.update(&bytes.len().to_be_bytes());
            context.update(bytes);
        };
        for file in
            [&self.certificates, &self.keys, &self.client_ca, &self.revocation_lists].into_iter().flatten()
        {
            match &file.contents {
                Ok(bytes) => update(bytes),
                Err(error) => update(error.to_string().as_bytes()),
            }
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Digest(digest)
    }
}

impl File {
    fn read(path: &Path) -> Self {
        Self { path: path.to_owned(), contents: fs::read(path) }
    }
}
