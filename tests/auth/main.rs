//! Who may enter, and what they may do there: the real binary with files that say so, raw sockets and mosquitto's
//! clients.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must fail")]

#[path = "../support/mod.rs"]
mod support;

mod bans;
mod certified;
mod flood;
mod http;
mod passwords;
mod reload;
mod rules;
mod scram;
mod service;
mod tokens;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use support::{Connect, Version, connect, unique};

/// A folder of a test's own, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(unique("fulmar-auth"));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file and gives its path as text.
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Adds users, each with the password `{name}-password`, with the tool that is there for it.
    fn users(&self, names: &[&str]) -> String {
        let path = self.path("passwords");
        for name in names {
            let output = passwd("add", &path, name, &format!("{name}-password"));
            assert!(output.status.success(), "{output:?}");
        }
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A CONNECT with a client identifier of its own and the password that [`Folder::users`] gives.
fn user(version: Version, name: &str) -> Connect {
    connect(version).client_id(unique(name)).username(name).password(format!("{name}-password"))
}

/// Runs `fulmar passwd` with a password on standard input.
fn passwd(verb: &str, file: &Path, user: &str, password: &str) -> Output {
    fulmar(&["passwd", verb, &file.display().to_string(), user], &format!("{password}\n"))
}

/// Runs the binary to its end with a text on standard input.
fn fulmar(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fulmar"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that does not read what it is given ends before it is written.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// What a finished command said, both streams together.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs one of mosquitto's clients to its end.
fn mosquitto(tool: &str, port: u16, arguments: &[&str]) -> Output {
    Command::new(tool).args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(arguments).output().unwrap()
}
