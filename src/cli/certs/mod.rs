//! `fulmar certs DIR HOST...`: certificates for trying TLS, and what to do with them.
//!
//! What always holds: everything is made before anything is written; a file that is there already is replaced only if
//! that is asked for; a key is readable by its owner alone from the moment its file exists.

mod issue;

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;

use self::issue::{CLIENT, Issued, host, issue};

/// Who may read a file: everybody, or its owner.
const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;

#[derive(Debug, Args)]
pub(super) struct CertsArguments {
    /// The folder they are written to; it is made when it is missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Names and addresses by which clients reach the server, such as localhost or 192.0.2.7
    #[arg(value_name = "HOST", required = true, value_parser = host)]
    hosts: Vec<String>,
    /// Replace those that are there; whoever trusts the old authority does not trust the new one
    #[arg(long)]
    force: bool,
}

/// Makes them, writes them, and tells what comes next.
pub(super) fn certs(arguments: CertsArguments) -> Result<(), Box<dyn Error>> {
    let CertsArguments { directory, hosts, force } = arguments;
    let issued =
        issue(&hosts).map_err(|error| format!("fulmar: the certificates cannot be made: {error}"))?;
    let files = files(&directory, &issued);
    if !force {
        refuse_what_is_there(&files)?;
    }
    fs::create_dir_all(&directory)
        .map_err(|error| format!("fulmar: {} cannot be made: {error}", directory.display()))?;
    for file in &files {
        file.write(force)
            .map_err(|error| format!("fulmar: {} cannot be written: {error}", file.path.display()))?;
    }
    tell(&files, &issued, &hosts)?;
    Ok(())
}

/// One of the files.
struct File<'a> {
    path: PathBuf,
    contents: &'a str,
    mode: u32,
    /// What it is, for people.
    what: String,
}

/// Each key stands before its certificate: who waits for a new certificate then finds both.
fn files<'a>(directory: &Path, issued: &'a Issued) -> [File<'a>; 5] {
    let until = &issued.until;
    let file = |name, contents, mode, what| File { path: directory.join(name), contents, mode, what };
    [
        file(
            "ca.crt",
            &issued.authority,
            PUBLIC,
            format!("the authority, {}: clients trust it", issued.name),
        ),
        file(
            "server.key",
            &issued.server.key,
            PRIVATE,
            "the server's key: nobody but you can read it".to_owned(),
        ),
        file(
            "server.crt",
            &issued.server.certificate,
            PUBLIC,
            format!("the server's certificate, until {until}"),
        ),
        file("client.key", &issued.client.key, PRIVATE, "a client's key".to_owned()),
        file(
            "client.crt",
            &issued.client.certificate,
            PUBLIC,
            format!("its certificate in the name of {CLIENT}, until {until}; needed for mutual TLS only"),
        ),
    ]
}

fn refuse_what_is_there(files: &[File<'_>]) -> Result<(), String> {
    // A link counts, wherever it leads.
    let there: Vec<_> = files
        .iter()
        .filter(|file| fs::symlink_metadata(&file.path).is_ok())
        .map(|file| file.path.display().to_string())
        .collect();
    if there.is_empty() {
        return Ok(());
    }
    let verb = if there.len() == 1 { "is" } else { "are" };
    Err(format!(
        "fulmar: {} {verb} there already; nothing was written. Choose another folder, or replace all with --force: \
         then every client needs the new ca.crt",
        there.join(", ")
    ))
}

impl File<'_> {
    fn write(&self, force: bool) -> io::Result<()> {
        if force {
            match fs::remove_file(&self.path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        // New or not at all: what somebody has put there meanwhile is not written through.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(self.mode).open(&self.path)?;
        file.write_all(self.contents.as_bytes())
    }
}

fn tell(files: &[File<'_>; 5], issued: &Issued, hosts: &[String]) -> io::Result<()> {
    let [ca, server_key, server, client_key, client] =
        files.each_ref().map(|file| file.path.display().to_string());
    let mut out = io::stdout();
    let widest = files.iter().map(|file| file.path.display().to_string().len()).max().unwrap_or(0);
    writeln!(out, "For {}, these were written:\n", hosts.join(", "))?;
    for file in files {
        writeln!(out, "  {:widest$}  {}", file.path.display().to_string(), file.what)?;
    }
    let host = issued.reachable.as_deref().unwrap_or("HOST");
    writeln!(
        out,
        "\nNext, let a listener of kind \"tls\" or \"wss\" show the certificate, as examples/tls.toml does:\n\n  \
         certificate = {server:?}\n  key = {server_key:?}\n\n\
         Then clients come in that trust the authority, and with a certificate where one is asked for:\n\n  \
         mosquitto_sub -h {host} -p 8883 --cafile {ca} -t '#'\n  \
         mosquitto_sub -h {host} -p 8883 --cafile {ca} --cert {client} --key {client_key} -t '#'\n\n\
         The authority's own key was not kept, so that nobody can sign anything else with it: for other hosts,\n\
         all is made anew, in another folder or with --force."
    )
}
