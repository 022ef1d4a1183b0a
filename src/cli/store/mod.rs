//! `fulmar store info|verify|export|import|backup DIR`: the store of a broker that does not run.
//!
//! Everything but `import` and the copy that `backup` makes leaves it as it is. A broker that runs holds its store locked, and
//! is told about.

mod export;
mod import;

use std::error::Error;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::store::disk::Examined;

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Tell what is in a store
    Info(StoreArguments),
    /// Verify every checksum of a store, and that a broker would start with it
    Verify(StoreArguments),
    /// Write all that is in a store as lines of JSON to standard output
    Export(StoreArguments),
    /// Make a store of lines of JSON, read from standard input; the directory must hold none
    Import(StoreArguments),
    /// Copy a store to another directory, which must be empty
    Backup(BackupArguments),
}

#[derive(Debug, Args)]
pub(super) struct StoreArguments {
    /// The store's directory, as named by directory in [store]
    directory: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct BackupArguments {
    #[command(flatten)]
    of: StoreArguments,
    /// Where the copy goes
    to: PathBuf,
}

/// Does what is asked for and tells that it is done.
pub(super) fn store(command: StoreCommand) -> Result<(), Box<dyn Error>> {
    match command {
        StoreCommand::Info(arguments) => info(&arguments.directory),
        StoreCommand::Verify(arguments) => verify(&arguments.directory),
        StoreCommand::Export(arguments) => {
            let examined = examine(&arguments.directory)?;
            let mut output = BufWriter::new(io::stdout().lock());
            export::export(&examined, &mut output).and_then(|()| output.flush()).map_err(told)?;
            Ok(())
        }
        StoreCommand::Import(arguments) => {
            let lines = import::import(&arguments.directory, io::stdin().lock()).map_err(told)?;
            writeln!(io::stdout(), "{lines} lines are now a store in {}", arguments.directory.display())?;
            Ok(())
        }
        StoreCommand::Backup(BackupArguments { of, to }) => {
            let bytes = examine(&of.directory)?.copy_to(&to).map_err(told)?;
            writeln!(io::stdout(), "{bytes} bytes were copied to {}", to.display())?;
            Ok(())
        }
    }
}

fn info(directory: &Path) -> Result<(), Box<dyn Error>> {
    let examined = examine(directory)?;
    let summary = examined.summary();
    let lines = [
        ("sessions", summary.sessions),
        ("subscriptions", summary.subscriptions),
        ("shared groups", summary.groups),
        ("queued messages", summary.queued),
        ("retained messages", summary.retained),
        ("wills", summary.wills),
        ("files", summary.segments),
        ("bytes written", summary.written_bytes),
        ("bytes alive, roughly", summary.live_bytes),
        ("commits", summary.commits),
    ];
    let mut output = io::stdout().lock();
    for (name, number) in lines {
        writeln!(output, "{name}: {number}")?;
    }
    examined.losses().iter().try_for_each(|loss| writeln!(output, "at the next start: {loss}"))?;
    Ok(())
}

fn verify(directory: &Path) -> Result<(), Box<dyn Error>> {
    let examined = examine(directory)?;
    let mut messages = 0_u64;
    examined
        .each(|_| {
            messages += 1;
            Ok(())
        })
        .map_err(told)?;
    let summary = examined.summary();
    let mut output = io::stdout().lock();
    examined.losses().iter().try_for_each(|loss| writeln!(output, "at the next start: {loss}"))?;
    writeln!(
        output,
        "{} is sound: {} bytes in {} files, {messages} records alive",
        directory.display(),
        summary.written_bytes,
        summary.segments
    )?;
    Ok(())
}

fn examine(directory: &Path) -> Result<Examined, String> {
    Examined::open(directory).map_err(told)
}

fn told(error: impl std::fmt::Display) -> String {
    format!("fulmar: {error}")
}
