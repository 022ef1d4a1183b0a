//! `fulmar passwd add|del|check FILE USER`: who stands in a password file.
//!
//! The password is read from the terminal without being shown, or as one line from standard input, so that it never
//! stands on a command line, where every user of the machine could read it.

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::auth::{Password, PasswordFile, PasswordFileError, prepare_name, remove_from_file, set_in_file};

#[derive(Debug, Subcommand)]
pub(super) enum PasswdCommand {
    /// Add a user or replace the password; the file is made when it is missing
    Add(AddArguments),
    /// Remove a user
    Del(PasswdArguments),
    /// Tell whether a password is the user's
    Check(PasswdArguments),
}

#[derive(Debug, Args)]
pub(super) struct PasswdArguments {
    /// The password file, as named by password_file in [auth]
    file: PathBuf,
    /// The user's name
    user: String,
}

#[derive(Debug, Args)]
pub(super) struct AddArguments {
    #[command(flatten)]
    of: PasswdArguments,
    /// Keep of the password what SCRAM-SHA-256 needs; it can be used in the ordinary way, too
    #[arg(long)]
    scram: bool,
}

/// Does what is asked for and tells that it is done.
pub(super) fn passwd(command: PasswdCommand) -> Result<(), Box<dyn Error>> {
    let done = match command {
        PasswdCommand::Add(AddArguments { of: PasswdArguments { file, user }, scram }) => {
            let password = new_password()?;
            // Clients name themselves in this form.
            let user = if scram {
                prepare_name(&user).ok_or(PasswordFileError::Name).map_err(told)?.into_owned()
            } else {
                user
            };
            let make = if scram { Password::make_scram } else { Password::make };
            let hashed = make(password.as_bytes()).map_err(told)?;
            let is_new = set_in_file(&file, &user, &hashed).map_err(told)?;
            format!("{user} {}", if is_new { "was added" } else { "has a new password" })
        }
        PasswdCommand::Del(PasswdArguments { file, user }) => {
            if !remove_from_file(&file, &user).map_err(told)? {
                return Err(format!("fulmar: there is no user {user:?} in {}", file.display()).into());
            }
            format!("{user} was removed")
        }
        PasswdCommand::Check(PasswdArguments { file, user }) => {
            let users = PasswordFile::read(&file).map_err(told)?;
            let Some(hashed) = users.get(&user) else {
                return Err(format!("fulmar: there is no user {user:?} in {}", file.display()).into());
            };
            if !hashed.is(ask("Password: ")?.as_bytes()) {
                return Err("fulmar: the password is another one".into());
            }
            "the password is right".to_owned()
        }
    };
    writeln!(std::io::stdout(), "{done}")?;
    Ok(())
}

fn told(error: impl Error) -> String {
    format!("fulmar: {error}")
}

/// Asked for twice where nobody can see what is typed.
fn new_password() -> Result<String, Box<dyn Error>> {
    let password = ask("New password: ")?;
    if password.is_empty() {
        return Err("fulmar: an empty password is none".into());
    }
    if std::io::stdin().is_terminal() && ask("The same again: ")? != password {
        return Err("fulmar: these were two passwords; nothing was changed".into());
    }
    Ok(password)
}

fn ask(prompt: &str) -> Result<String, Box<dyn Error>> {
    if std::io::stdin().is_terminal() {
        return Ok(rpassword::prompt_password(prompt)?);
    }
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
