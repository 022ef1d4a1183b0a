//! The password file: a line for each user, `name:hash`. Read at start and at every reload, written by `fulmar passwd`.
//!
//! What always holds: a name stands in it once; empty lines and those that begin with `#` are left as they are. A
//! file is replaced as a whole, so nobody ever reads half of one.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use hashbrown::HashMap;
use ring::hmac;
use thiserror::Error;

use super::password::{Password, PasswordError};
use super::scram::{Form, Verifier};

/// Names are at most this long, in bytes: what a CONNECT can hold.
const LONGEST_NAME: usize = 65_535;

/// See the module.
#[derive(Debug, Default)]
pub struct PasswordFile {
    users: HashMap<Box<str>, Password>,
    /// Checked in place of the password of a user that there is not: one for each cost that a user's password has,
    /// and how many those users are.
    decoys: Vec<(Password, usize)>,
    secret: Secret,
}

/// Chooses a decoy for each name that there is not.
struct Secret(hmac::Key);

impl Default for Secret {
    /// Of this process; all zero if the system had no randomness.
    fn default() -> Self {
        let mut secret = [0; 32];
        let _: Result<(), getrandom::Error> = getrandom::fill(&mut secret);
        Self(hmac::Key::new(hmac::HMAC_SHA256, &secret))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// What is wrong with a password file.
#[derive(Debug, Error)]
pub enum PasswordFileError {
    /// It cannot be read.
    #[error("{}: the password file cannot be read: {error}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It cannot be written.
    #[error("{}: the password file cannot be written: {error}", .path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A line is wrong.
    #[error("{name}:{line}: {fault}")]
    Line {
        /// The file.
        name: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        fault: LineFault,
    },
    /// A name cannot stand in a file.
    #[error(
        "a user name must not be empty, longer than 65,535 bytes, begin with '#' or contain ':' or a line break"
    )]
    Name,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LineFault {
    /// There is no colon, or no name before it.
    #[error("expected a user name, a colon and a hashed password")]
    Form,
    /// See [`PasswordError`].
    #[error("user {0:?}: {1}")]
    Password(String, PasswordError),
    /// The name stands above already.
    #[error("user {0:?} stands above already")]
    Twice(String),
}

impl PasswordFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or the first line that is wrong.
    pub fn read(path: &Path) -> Result<Self, PasswordFileError> {
        let text = read_text(path)?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// Reads a file's text; `name` is for the error.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(name: &str, text: &str) -> Result<Self, PasswordFileError> {
        let mut file = Self::default();
        for (index, line) in text.lines().enumerate() {
            let wrong = |fault| PasswordFileError::Line { name: name.to_owned(), line: index + 1, fault };
            let Some((user, hash)) = entry(line).map_err(wrong)? else { continue };
            let password =
                Password::parse(hash).map_err(|error| wrong(LineFault::Password(user.to_owned(), error)))?;
            if file.users.contains_key(user) {
                return Err(wrong(LineFault::Twice(user.to_owned())));
            }
            file.set(user, password);
        }
        Ok(file)
    }

    /// Adds a user or replaces the password.
    pub fn set(&mut self, user: &str, password: Password) {
        match self.decoys.iter_mut().find(|(decoy, _)| decoy.costs_what(&password)) {
            Some((_, users)) => *users += 1,
            None => self.decoys.push((password.decoy_like(), 1)),
        }
        let Some(old) = self.users.insert(user.into(), password) else { return };
        if let Some((_, users)) = self.decoys.iter_mut().find(|(decoy, _)| decoy.costs_what(&old)) {
            *users -= 1;
        }
    }

    /// The password of a user.
    pub fn get(&self, user: &str) -> Option<&Password> {
        self.users.get(user)
    }

    /// What is checked in place of the password of a user that there is not: as if it were any of those that there are,
    /// and the same one each time.
    pub fn decoy(&self, user: &str) -> Cow<'_, Password> {
        let chosen = self.choose(user, |_| true);
        chosen.map_or_else(|| Cow::Owned(Password::decoy()), Cow::Borrowed)
    }

    /// The form that a user who is not there would have for SCRAM-SHA-256, chosen like the decoy.
    pub fn scram_form(&self, user: &str) -> Form {
        let chosen = self.choose(user, |decoy| decoy.verifier().is_some());
        chosen.and_then(Password::verifier).map_or_else(Form::default, Verifier::form)
    }

    fn choose(&self, user: &str, suits: impl Fn(&Password) -> bool) -> Option<&Password> {
        let candidates = || self.decoys.iter().filter(|(decoy, _)| suits(decoy));
        let users: usize = candidates().map(|(_, users)| users).sum();
        let tag = hmac::sign(&self.secret.0, user.as_bytes());
        let number = tag.as_ref().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let mut left = number.checked_rem(users as u64)?;
        let chosen = candidates().find(|(_, users)| {
            let users = *users as u64;
            left < users || {
                left -= users;
                false
            }
        });
        chosen.map(|(decoy, _)| decoy)
    }

    /// All users.
    pub fn users(&self) -> impl Iterator<Item = (&str, &Password)> {
        self.users.iter().map(|(user, password)| (&**user, password))
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

/// Adds a user to a file or replaces the password, the rest being left as it is; the file is made when it is missing.
/// Whether the user is new.
///
/// # Errors
/// When the file cannot be read or written.
pub fn set_in_file(path: &Path, user: &str, password: &Password) -> Result<bool, PasswordFileError> {
    let fits = !user.is_empty()
        && user.len() <= LONGEST_NAME
        && !user.starts_with('#')
        && !user.contains([':', '\n', '\r', '\0']);
    if !fits {
        return Err(PasswordFileError::Name);
    }
    let text = match read_text(path) {
        Err(PasswordFileError::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            String::new()
        }
        read => read?,
    };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let new = format!("{user}:{password}");
    let known = lines.iter_mut().find(|line| is_of(line, user));
    let is_new = known.is_none();
    match known {
        Some(line) => *line = new,
        None => lines.push(new),
    }
    replace(path, &lines)?;
    Ok(is_new)
}

/// Removes a user from a file, the rest being left as it is; whether it was there.
///
/// # Errors
/// When the file cannot be read or written.
pub fn remove_from_file(path: &Path, user: &str) -> Result<bool, PasswordFileError> {
    let text = read_text(path)?;
    let kept: Vec<String> = text.lines().filter(|line| !is_of(line, user)).map(str::to_owned).collect();
    let found = kept.len() < text.lines().count();
    if found {
        replace(path, &kept)?;
    }
    Ok(found)
}

/// The name and the hash of a line that has any.
fn entry(line: &str) -> Result<Option<(&str, &str)>, LineFault> {
    let line = line.trim_end();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    match line.split_once(':') {
        Some((user, hash)) if !user.is_empty() => Ok(Some((user, hash))),
        Some(_) | None => Err(LineFault::Form),
    }
}

fn is_of(line: &str, user: &str) -> bool {
    matches!(entry(line), Ok(Some((name, _))) if name == user)
}

fn read_text(path: &Path) -> Result<String, PasswordFileError> {
    fs::read_to_string(path).map_err(|error| PasswordFileError::Unreadable { path: path.to_owned(), error })
}

/// Writes the lines to a file of their own, which then takes the place of the old one with its owner and rights;
/// behind a symbolic link it is the file there.
fn replace(path: &Path, lines: &[String]) -> Result<(), PasswordFileError> {
    let unwritable = |error| PasswordFileError::Unwritable { path: path.to_owned(), error };
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut beside = target.clone().into_os_string();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
        if let Ok(old) = fs::metadata(&target) {
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
            // Only root can give a file away; anybody else has made it his own.
            let _: io::Result<()> = fchown(&file, Some(old.uid()), Some(old.gid()));
        }
        for line in lines {
            writeln!(file, "{line}")?;
        }
        file.sync_all()?;
        fs::rename(&beside, &target)
    };
    write().map_err(|error| {
        let _: io::Result<()> = fs::remove_file(&beside);
        unwritable(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    const HASH: &str = "$6$CchuyhFXoutwVNAD$53qF8eYe9QiG70OMe7QpAknREcDqAQ1sBrGzucbFNbhZrW6HjMH5LPc358TTD0uvWenHtcrwA1zHjZ5d1b8JjQ==";

    #[test]
    fn a_file_is_read_line_by_line() {
        let text = format!("# people\n\nalice:{HASH}\r\nbob with spaces:{HASH}\n");
        let file = PasswordFile::parse("f", &text).unwrap();
        assert_eq!(file.len(), 2);
        assert!(file.get("alice").unwrap().is(b"wonderland"));
        assert!(file.get("bob with spaces").is_some());
        assert!(file.get("Alice").is_none() && file.get("").is_none());
    }

    /// With users of several kinds, who is not there must not stand out among those who are.
    #[test]
    fn who_is_not_there_costs_what_those_cost_who_are() {
        let mut file = PasswordFile::parse("f", &format!("a:{HASH}\nb:{HASH}\nc:{HASH}\n")).unwrap();
        file.set("d", Password::make_cheap(b"x"));
        file.set("c", Password::make_cheap(b"x"));
        let cheap = Password::make_cheap(b"y");
        let names: Vec<String> = (0..200).map(|number| format!("nobody-{number}")).collect();
        let is_cheap = |name: &String| file.decoy(name).costs_what(&cheap);
        let count = names.iter().filter(|name| is_cheap(name)).count();
        assert!((40..160).contains(&count), "{count} of 200 look like two of four users");
        assert!(names.iter().all(|name| is_cheap(name) == is_cheap(name)), "and the same each time");
        let alone = PasswordFile::parse("f", &format!("a:{HASH}\n")).unwrap();
        assert!(names.iter().all(|name| alone.decoy(name).costs_what(alone.get("a").unwrap())));
        assert_eq!(alone.scram_form("x"), Form::default());
        let scram = "e:$scram-sha-256$4096$c2FsdHNhbHQ=$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let scram = PasswordFile::parse("f", &format!("a:{HASH}\n{scram}\n")).unwrap();
        assert_eq!(scram.scram_form("x"), Form { rounds: NonZeroU32::new(4_096).unwrap(), salt_length: 8 });
        assert!(PasswordFile::default().decoy("x").costs_what(&Password::make(b"x").unwrap()));
    }

    #[test]
    fn the_first_wrong_line_is_told() {
        for (text, told) in [
            ("alice", "f:1: expected a user name, a colon and a hashed password"),
            (&format!("\n:{HASH}"), "f:2: expected a user name"),
            ("#\nalice:wonderland", "f:2: user \"alice\": the password is not hashed"),
            ("alice:$6$x$y", "f:1: user \"alice\": the hashed password is damaged"),
            (&format!("a:{HASH}\na:{HASH}"), "f:2: user \"a\" stands above already"),
        ] {
            let error = PasswordFile::parse("f", text).unwrap_err().to_string();
            assert!(error.starts_with(told), "{error}");
        }
    }

    #[test]
    fn users_come_and_go_and_the_rest_of_the_file_stays() {
        let path = std::env::temp_dir().join(format!("fulmar-passwords-{}", std::process::id()));
        let password = Password::make_cheap(b"one");
        fs::write(&path, "# kept\nalice:old\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(!set_in_file(&path, "alice", &password).unwrap());
        assert!(set_in_file(&path, "bob", &password).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("# kept\nalice:{password}\nbob:{password}\n"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert!(remove_from_file(&path, "alice").unwrap());
        assert!(!remove_from_file(&path, "alice").unwrap());
        assert_eq!(PasswordFile::read(&path).unwrap().len(), 1);
        for name in ["", "a:b", "a\nb", "#a"] {
            assert!(matches!(set_in_file(&path, name, &password), Err(PasswordFileError::Name)), "{name:?}");
        }
        fs::remove_file(&path).unwrap();
        assert!(remove_from_file(&path, "bob").is_err());
        assert!(set_in_file(&path, "bob", &password).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
    }
}
