//! Sees when files that say who may enter have changed: the configuration, passwords, rules, keys of tokens.
//!
//! Called by [`super::signals`]; certificates are watched by their listeners. A change counts once it has been seen
//! twice, a second apart, as files are often replaced one after the other or written piece by piece. What is looked at is
//! what a path leads to in the end, so a symbolic link that is turned is a change, wherever on the way it stands, as when
//! Kubernetes swaps a mounted folder.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{Config, Sources};

const INTERVAL: Duration = Duration::from_secs(1);

/// What tells one state of a file from another; `None`: it cannot be found.
type Stamp = Option<[i128; 5]>;

/// Files and the state that each was in at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stamps(Vec<(PathBuf, Stamp)>);

/// See the module.
#[derive(Debug)]
pub struct Watch {
    /// When they were last read.
    read: Stamps,
    /// When they were last looked at.
    seen: Option<Stamps>,
}

impl Stamps {
    /// The files that a configuration names, as they are now. Blocks.
    pub fn of(config: &Config, sources: &Sources) -> Self {
        let auth = &config.auth;
        let named = [&auth.password_file, &auth.acl_file, &auth.jwt.keys, &auth.http.ca];
        let named = named.into_iter().filter(|path| !path.as_os_str().is_empty());
        Self(sources.file.iter().chain(named).map(|path| (path.clone(), stamp(path))).collect())
    }

    /// The same files, but with their older states where those are known.
    pub fn not_newer_than(mut self, older: &Self) -> Self {
        for (path, stamp) in &mut self.0 {
            if let Some((_, known)) = older.0.iter().find(|(known, _)| known == path) {
                *stamp = *known;
            }
        }
        self
    }

    /// The same files as they are now. Blocks.
    pub fn again(&self) -> Self {
        Self(self.0.iter().map(|(path, _)| (path.clone(), stamp(path))).collect())
    }

    fn different_from(&self, other: &Self) -> Vec<String> {
        let pairs = self.0.iter().zip(&other.0);
        pairs.filter(|(one, other)| one != other).map(|((path, _), _)| path.display().to_string()).collect()
    }
}

impl Watch {
    /// Of files that were read in this state.
    pub fn new(read: Stamps) -> Self {
        Self { read, seen: None }
    }

    /// They have been read again, when they were in this state.
    pub fn have_been_read(&mut self, read: Stamps) {
        *self = Self::new(read);
    }

    /// Waits until files are others than those that were read; which those are. May be dropped and called again.
    pub async fn changed(&mut self) -> String {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let read = self.read.clone();
            let Ok(now) = tokio::task::spawn_blocking(move || read.again()).await else { continue };
            let is_settled = self.seen.as_ref() == Some(&now);
            let changed = now.different_from(&self.read);
            self.seen = Some(now);
            if is_settled && !changed.is_empty() {
                return changed.join(", ");
            }
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let file = fs::metadata(path).ok()?;
    let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    Some([
        file.dev().into(),
        file.ino().into(),
        file.size().into(),
        nanoseconds(file.mtime(), file.mtime_nsec()),
        // Tells of a file that was put there with an old time of modification.
        nanoseconds(file.ctime(), file.ctime_nsec()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_change_a_file_is_seen() {
        let folder = std::env::temp_dir().join(format!("fulmar-watch-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        let link = |name: &str| {
            let target = folder.join(name);
            fs::create_dir_all(&target).unwrap();
            fs::write(target.join("file"), "same").unwrap();
            std::os::unix::fs::symlink(&target, folder.join("new")).unwrap();
            fs::rename(folder.join("new"), folder.join("data")).unwrap();
        };
        let changes: [&dyn Fn(); 6] = [
            &|| fs::write(&path, "one").unwrap(),
            &|| fs::write(&path, "others").unwrap(),
            &|| {
                fs::write(folder.join("fresh"), "others").unwrap();
                fs::rename(folder.join("fresh"), &path).unwrap();
            },
            &|| fs::remove_file(&path).unwrap(),
            &|| {
                link("first");
                std::os::unix::fs::symlink("data/file", &path).unwrap();
            },
            &|| link("second"),
        ];
        let mut before = stamp(&path);
        for change in changes {
            change();
            let now = stamp(&path);
            assert_ne!(now, before);
            assert_eq!(now, stamp(&path));
            before = now;
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_changes_while_it_is_read_is_read_again() {
        let stamps = |entries: &[(&str, i128)]| {
            Stamps(entries.iter().map(|(path, state)| (PathBuf::from(path), Some([*state; 5]))).collect())
        };
        let (before, after) = (stamps(&[("a", 1), ("b", 1)]), stamps(&[("a", 2), ("c", 2)]));
        let read = after.clone().not_newer_than(&before);
        assert_eq!(read, stamps(&[("a", 1), ("c", 2)]));
        assert_eq!(after.different_from(&read), ["a"]);
    }
}
