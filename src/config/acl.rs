//! What clients may do, as it is written: `[[acl]]`, a rule each, and `[[groups]]` of users.
//!
//! They stand in the configuration or in a file of their own (`auth.acl_file`), in the same form; `auth` makes of them
//! what is asked. What always holds after loading: every rule has topics, and each is a Topic Filter once its
//! placeholders are filled in.

use std::path::Path;

use ::config::{Map, Value, ValueKind};

use super::key::{Key, Shape, Worded};
use super::load::{Loader, TomlFile};
use super::network::Network;
use super::problem::{Fault, Place, Problems, closest};
use crate::topic::TopicFilter;

pub(super) const ACL: &str = "acl";
pub(super) const GROUPS: &str = "groups";

/// The rules and groups of the configuration or of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl {
    /// In order: the first that fits decides.
    pub rules: Vec<AclRule>,
    /// Users that rules may name together.
    pub groups: Vec<AclGroup>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AclRule {
    /// What it says.
    pub action: AclAction,
    /// What it is about.
    pub access: AclAccess,
    /// Topic Filters with `%u`, `%c` and `%g`; one at least.
    pub topics: Vec<String>,
    /// Whom it is about.
    pub who: AclWho,
    /// Only this user; `*` stands for any characters. Empty: any.
    pub user: String,
    /// Only this Client Identifier; `*` stands for any characters. Empty: any.
    pub client: String,
    /// Only users of this group; empty: any.
    pub group: String,
    /// Only clients from this network.
    pub address: Option<Network>,
    /// The highest QoS it allows.
    pub max_qos: u8,
    /// Whether it allows to publish with RETAIN.
    pub retain: bool,
    /// Its user and topics mean what they say: no `*`, no placeholders. Not a key: of mosquitto's files.
    pub literal: bool,
    /// Where it is written.
    pub place: Place,
}

impl Default for AclRule {
    fn default() -> Self {
        Self {
            action: AclAction::Allow,
            access: AclAccess::All,
            topics: Vec::new(),
            who: AclWho::Anyone,
            user: String::new(),
            client: String::new(),
            group: String::new(),
            address: None,
            max_qos: 2,
            retain: true,
            literal: false,
            place: Place::default(),
        }
    }
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AclAction {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AclAccess {
    /// Sending, Wills too.
    Publish,
    /// Subscribing and receiving.
    Subscribe,
    /// Both.
    All,
}

/// Whom a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AclWho {
    /// Everyone.
    Anyone,
    /// Clients of which an authenticator found out who they are.
    Identified,
    /// All others.
    Anonymous,
}

/// Users with a name in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AclGroup {
    /// Its name.
    pub name: String,
    /// Its users.
    pub users: Vec<String>,
}

/// Reads a file that holds `[[acl]]` and `[[groups]]` and nothing else.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_acl(path: &Path) -> Result<Acl, Problems> {
    let mut loader = Loader { only: &[ACL, GROUPS], ..Loader::default() };
    loader.file(path);
    if loader.problems.is_empty() { Ok(loader.config.acl) } else { Err(Problems(loader.problems)) }
}

/// Whether a text is a Topic Filter once its placeholders are filled in.
pub fn is_acl_topic(text: &str) -> bool {
    let filled = ["%u", "%c", "%g"].iter().fold(text.to_owned(), |text, mark| text.replace(mark, "x"));
    TopicFilter::parse(&filled).is_ok()
}

/// The keys of one `[[acl]]`.
pub(super) static RULE_KEYS: &[Key<AclRule>] = &[
    Key {
        name: "action",
        doc: "What the rule says.",
        zero: None,
        shape: Shape::Choice {
            words: AclAction::words,
            later: &[],
            get: |rule| rule.action.word(),
            set: |rule, word| rule.action = AclAction::from_word(word).unwrap_or(rule.action),
        },
    },
    Key {
        name: "access",
        doc: "What the rule is about.",
        zero: None,
        shape: Shape::Choice {
            words: AclAccess::words,
            later: &[],
            get: |rule| rule.access.word(),
            set: |rule, word| rule.access = AclAccess::from_word(word).unwrap_or(rule.access),
        },
    },
    Key {
        name: "topics",
        doc: "Topic filters. %u stands for the user name, %c for the client identifier, %g for each group of the user; \
              where such a value is empty or has a '/', '+' or '#' in it, an allowing rule does not fit. Required.",
        zero: None,
        shape: Shape::Texts {
            expects: "a topic filter or a list of them, such as [\"home/%u/#\"]",
            get: |rule| rule.topics.clone(),
            set: |rule, topics| {
                let good = !topics.is_empty() && topics.iter().all(|topic| is_acl_topic(topic));
                good.then(|| rule.topics = topics.iter().map(ToString::to_string).collect()).is_some()
            },
        },
    },
    Key {
        name: "who",
        doc: "Whom the rule is about: anyone, those of whom it is known who they are, or all others.",
        zero: None,
        shape: Shape::Choice {
            words: AclWho::words,
            later: &[],
            get: |rule| rule.who.word(),
            set: |rule, word| rule.who = AclWho::from_word(word).unwrap_or(rule.who),
        },
    },
    Key {
        name: "user",
        doc: "Only users of this name; * stands for any characters.",
        zero: None,
        shape: Shape::Text {
            expects: "a user name, \"\" for any",
            get: |rule| rule.user.clone(),
            set: |rule, text| set(&mut rule.user, text),
        },
    },
    Key {
        name: "client",
        doc: "Only clients with this client identifier; * stands for any characters.",
        zero: None,
        shape: Shape::Text {
            expects: "a client identifier, \"\" for any",
            get: |rule| rule.client.clone(),
            set: |rule, text| set(&mut rule.client, text),
        },
    },
    Key {
        name: "group",
        doc: "Only users of this group: one of [[groups]], or what an authenticator says of the user.",
        zero: None,
        shape: Shape::Text {
            expects: "the name of a group, \"\" for any",
            get: |rule| rule.group.clone(),
            set: |rule, text| set(&mut rule.group, text),
        },
    },
    Key {
        name: "address",
        doc: "Only clients from this address or network.",
        zero: None,
        shape: Shape::Text {
            expects: "an address or a network such as \"10.0.0.0/8\", \"\" for any",
            get: |rule| rule.address.map(|network| network.to_string()).unwrap_or_default(),
            set: |rule, text| {
                rule.address = text.parse().ok();
                text.is_empty() || rule.address.is_some()
            },
        },
    },
    Key {
        name: "max_qos",
        doc: "The highest quality of service that an allowing rule allows.",
        zero: None,
        shape: Shape::Number {
            bounds: 0..=2,
            unit: "",
            get: |rule| rule.max_qos.into(),
            set: |rule, number| rule.max_qos = u8::try_from(number).unwrap_or(2),
        },
    },
    Key {
        name: "retain",
        doc: "Whether an allowing rule allows to publish retained messages.",
        zero: None,
        shape: Shape::Boolean { get: |rule| rule.retain, set: |rule, boolean| rule.retain = boolean },
    },
];

/// The keys of one `[[groups]]`.
pub(super) static GROUP_KEYS: &[Key<AclGroup>] = &[
    Key {
        name: "name",
        doc: "Its name. Required.",
        zero: None,
        shape: Shape::Text {
            expects: "a text that is not empty",
            get: |group| group.name.clone(),
            set: |group, text| !text.is_empty() && set(&mut group.name, text),
        },
    },
    Key {
        name: "users",
        doc: "The names of its users.",
        zero: None,
        shape: Shape::Texts {
            expects: "a user name or a list of them",
            get: |group| group.users.clone(),
            set: |group, users| {
                let good = users.iter().all(|user| !user.is_empty());
                good.then(|| group.users = users.iter().map(ToString::to_string).collect()).is_some()
            },
        },
    },
];

fn set(field: &mut String, text: &str) -> bool {
    text.clone_into(field);
    true
}

impl Loader {
    /// Reads the rules; what is wrong with any of them is told.
    pub(super) fn acl(&mut self, file: &TomlFile<'_>, value: &ValueKind) {
        self.elements(file, ACL, value, |loader, path, table| {
            let mut rule = AclRule { place: file.place(path), ..AclRule::default() };
            loader.keys_of(file, path, table, RULE_KEYS, &mut rule);
            if !table.contains_key("topics") {
                let expectation = "write which topics, such as topics = [\"home/%u/#\"]".to_owned();
                let key = format!("{path}.topics");
                loader.report(file.place(path), Fault::Missing { key, expectation });
            }
            loader.config.acl.rules.push(rule);
        });
    }

    /// Reads the groups; what is wrong with any of them is told.
    pub(super) fn groups(&mut self, file: &TomlFile<'_>, value: &ValueKind) {
        self.elements(file, GROUPS, value, |loader, path, table| {
            let mut group = AclGroup::default();
            loader.keys_of(file, path, table, GROUP_KEYS, &mut group);
            if !table.contains_key("name") {
                let expectation = "write what it is called".to_owned();
                let key = format!("{path}.name");
                loader.report(file.place(path), Fault::Missing { key, expectation });
            }
            loader.config.acl.groups.push(group);
        });
    }

    fn elements(
        &mut self,
        file: &TomlFile<'_>,
        name: &str,
        value: &ValueKind,
        read: impl Fn(&mut Self, &str, &Map<String, Value>),
    ) {
        let ValueKind::Array(elements) = value else {
            let expectation = format!("expected a list: write [[{name}]], with two brackets, above each");
            return self.report_value(file.place(name), name, value, expectation);
        };
        for (index, element) in elements.iter().enumerate() {
            let path = format!("{name}[{index}]");
            match &element.kind {
                ValueKind::Table(table) => read(self, &path, table),
                kind => {
                    let expectation = format!("expected a table: write [[{name}]] and its keys below");
                    self.report_value(file.place(&path), &path, kind, expectation);
                }
            }
        }
    }

    fn keys_of<T>(
        &mut self,
        file: &TomlFile<'_>,
        path: &str,
        table: &Map<String, Value>,
        keys: &[Key<T>],
        target: &mut T,
    ) {
        for (name, value) in table {
            let dotted = format!("{path}.{name}");
            let place = file.place(&dotted);
            match keys.iter().find(|key| key.name == name) {
                Some(key) => {
                    if let Err(expectation) = key.apply(target, &value.kind) {
                        self.report_value(place, &dotted, &value.kind, expectation);
                    }
                }
                None => {
                    let suggestion = closest(name, keys.iter().map(|key| key.name)).map(str::to_owned);
                    self.report(place, Fault::UnknownKey { key: dotted, suggestion });
                }
            }
        }
    }
}
