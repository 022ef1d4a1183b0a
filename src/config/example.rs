//! The documentation of every key, as a TOML file that sets each to its default: `examples/fulmar.toml`.

use super::acl::{AclGroup, AclRule, GROUP_KEYS, RULE_KEYS};
use super::key::Key;
use super::table::{SECTIONS, keys, listener_keys};
use super::{Config, Listener};

const WIDTH: usize = 100;

const INTRODUCTION: &str = "The configuration of Fulmar: every key there is, with its default. Keys that are left \
out keep their defaults, so a file of your own needs only what differs.";

const HOW: &str = "Start with it: fulmar run -c fulmar.toml. Check it first: fulmar check -c fulmar.toml. Any key \
but those of a listener can be overridden by an environment variable, as FULMAR__LIMITS__MAX_PACKET_SIZE=1MiB for \
max_packet_size in [limits], and some by flags: see fulmar run --help.";

const LISTENERS: &str = "Where clients connect; one [[listeners]] for each address. As soon as the file names one, \
the defaults below are not in force any more.";

const OTHERS: &str = "The second listener that is there by default: for browsers.";

const RULES: &str = "What clients may do; one [[acl]] for each rule, tried in order: the first that fits decides. \
Without any rule everyone may do everything; as soon as there is one, here or in auth.acl_file, what no rule allows is \
denied. A subscription that is wider than what may be read is granted and brings only what may be read. Which rule \
decides, and why: fulmar acl explain. All values but topics are the defaults.";

const GROUPS: &str = "Users that rules can name together, one [[groups]] for each group.";

/// The text of `examples/fulmar.toml`.
pub fn example() -> String {
    let mut text = String::new();
    comment(&mut text, INTRODUCTION);
    comment(&mut text, "");
    comment(&mut text, HOW);

    text.push('\n');
    comment(&mut text, LISTENERS);
    text.push_str("[[listeners]]\n");
    rows(&mut text, listener_keys(), &Listener::default());

    text.push('\n');
    comment(&mut text, RULES);
    text.push_str("# [[acl]]\n");
    commented_rows(
        &mut text,
        RULE_KEYS,
        &AclRule { topics: vec!["home/%u/#".to_owned()], ..AclRule::default() },
    );
    text.push('\n');
    comment(&mut text, GROUPS);
    text.push_str("# [[groups]]\n");
    let group = AclGroup { name: "operators".to_owned(), users: vec!["alice".to_owned(), "bob".to_owned()] };
    commented_rows(&mut text, GROUP_KEYS, &group);

    let defaults = Config::default();
    for listener in defaults.listeners.iter().skip(1) {
        text.push('\n');
        comment(&mut text, OTHERS);
        text.push_str("[[listeners]]\n");
        let first = Listener::default();
        for key in listener_keys().filter(|key| key.show(listener) != key.show(&first)) {
            text.push_str(&format!("{} = {}\n", key.name, key.show(listener)));
        }
    }
    for (section, doc) in SECTIONS {
        text.push('\n');
        comment(&mut text, doc);
        text.push_str(&format!("[{section}]\n"));
        rows(&mut text, keys().filter(|key| section_of(key.name) == *section), &defaults);
    }
    text
}

fn rows<'a, T: 'a>(text: &mut String, keys: impl Iterator<Item = &'a Key<T>>, defaults: &T) {
    for (index, key) in keys.enumerate() {
        if index > 0 {
            text.push('\n');
        }
        comment(text, key.doc);
        comment(text, &format!("Takes {}.", key.expects()));
        let field = key.name.rsplit('.').next().unwrap_or(key.name);
        text.push_str(&format!("{field} = {}\n", key.show(defaults)));
    }
}

/// Rows that set nothing.
fn commented_rows<T>(text: &mut String, keys: &'static [Key<T>], example: &T) {
    let mut shown = String::new();
    rows(&mut shown, keys.iter(), example);
    for line in shown.lines() {
        let mark = if line.is_empty() || line.starts_with('#') { "" } else { "# " };
        text.push_str(&format!("{mark}{line}\n"));
    }
}

fn section_of(name: &str) -> &str {
    name.split_once('.').map_or("", |(section, _)| section)
}

/// Wrapped at words.
fn comment(text: &mut String, words: &str) {
    let mut line = String::from("#");
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};
    use std::collections::HashMap;
    use std::path::Path;

    /// After a change of the table: `FULMAR_WRITE_EXAMPLE=1 cargo test --lib config::example`.
    #[test]
    fn the_file_in_the_repository_is_what_the_table_says_and_sets_the_defaults() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/fulmar.toml");
        if std::env::var_os("FULMAR_WRITE_EXAMPLE").is_some() {
            std::fs::write(&path, example()).unwrap();
        }
        assert!(
            std::fs::read_to_string(&path).unwrap() == example(),
            "examples/fulmar.toml is not what the table of keys says; write it anew with \
             FULMAR_WRITE_EXAMPLE=1 cargo test --lib config::example"
        );
        let sources = Sources { file: Some(path), environment: Some(HashMap::new()), ..Sources::default() };
        assert_eq!(load(&sources).unwrap(), Config::default());
    }
}
