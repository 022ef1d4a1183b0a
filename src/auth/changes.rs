//! What is different between two policies, for whoever has to act on it and for the log.

use std::fmt;

use hashbrown::HashSet;

use super::password_file::PasswordFile;
use super::policy::Policy;

/// See the module.
#[derive(Debug, Default)]
pub struct Changes {
    /// Users who were removed or have another password: what they proved holds no longer.
    pub users: HashSet<Box<str>>,
    /// The rules are others.
    pub rules: bool,
    added: usize,
    removed: usize,
    changed: usize,
    rules_now: usize,
    /// Other keys verify tokens.
    keys: bool,
    /// Other settings of `[auth]`.
    settings: bool,
    doors: Vec<Box<str>>,
}

impl Changes {
    /// What is different in the new one.
    pub(super) fn between(old: &Policy, new: &Policy) -> Self {
        let mut changes = Self {
            rules: old.acl != new.acl,
            keys: match (&old.tokens, &new.tokens) {
                (Some(old), Some(new)) => !old.has_keys_of(new),
                (old, new) => old.is_some() != new.is_some(),
            },
            settings: old.settings != new.settings,
            rules_now: new.acl.as_ref().map_or(0, |acl| acl.len()),
            ..Self::default()
        };
        let nobody = PasswordFile::default();
        let before = old.passwords.as_deref().unwrap_or(&nobody);
        let after = new.passwords.as_deref().unwrap_or(&nobody);
        for (user, password) in before.users() {
            match after.get(user) {
                Some(same) if same == password => continue,
                Some(_) => changes.changed += 1,
                None => changes.removed += 1,
            }
            changes.users.insert(user.into());
        }
        changes.added = after.users().filter(|(user, _)| before.get(user).is_none()).count();
        for (listener, door) in &new.doors {
            if old.doors.get(listener).is_none_or(|before| before.summary() != door.summary()) {
                changes.doors.push(listener.clone());
            }
        }
        changes.doors.sort();
        changes
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (count, what) in [(self.added, "added"), (self.removed, "removed"), (self.changed, "changed")] {
            if count > 0 {
                parts.push(format!("{count} {} {what}", if count == 1 { "user" } else { "users" }));
            }
        }
        if self.rules {
            parts.push(format!("other rules ({} now)", self.rules_now));
        }
        if self.keys {
            parts.push("other keys for tokens".to_owned());
        }
        if self.settings {
            parts.push("other settings in [auth]".to_owned());
        }
        if !self.doors.is_empty() {
            parts.push(format!("who is asked on {}", self.doors.join(", ")));
        }
        let text = if parts.is_empty() {
            "nobody may do more or less than before".to_owned()
        } else {
            parts.join(", ")
        };
        formatter.write_str(&text)
    }
}
