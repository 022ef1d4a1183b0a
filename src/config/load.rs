//! From what was written to what is used: the defaults, one file, the environment, flags, each over the last.
//!
//! Called by `cli` alone. Every source is read to its end, so that one run tells everything that is wrong;
//! [`load`] returns a [`Config`] only if nothing is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ::config::{ConfigError, Environment, File, FileFormat, Source, Value, ValueKind};

use super::acl::{ACL, GROUPS};
use super::lines::line_of;
use super::problem::{Fault, Place, Problem, Problems, closest};
use super::table::{SECTIONS, keys};
use super::{Config, Listener};

/// What the names of the environment variables begin with; `__` also stands between section and key.
const PREFIX: &str = "FULMAR";
pub(super) const LISTENERS: &str = "listeners";

/// Where a configuration is written.
#[derive(Debug, Default)]
pub struct Sources {
    /// A TOML file. Without one none is read.
    pub file: Option<PathBuf>,
    /// Environment variables, of which those named `FULMAR__SECTION__KEY` count. `None` = those of the
    /// process.
    pub environment: Option<HashMap<String, String>>,
    /// Listeners named by flags, in place of all others.
    pub listeners: Vec<Listener>,
    /// Other flags.
    pub flags: Vec<Flag>,
}

/// A key that was set on the command line.
#[derive(Debug, Clone)]
pub struct Flag {
    /// As it was written: `--log-level`.
    pub name: &'static str,
    /// The dotted key.
    pub key: &'static str,
    /// The value as text.
    pub value: String,
}

/// Reads all sources, the later over the earlier: defaults, file, environment, flags.
pub fn load(sources: &Sources) -> Result<Config, Problems> {
    let mut loader = Loader::default();
    if let Some(path) = &sources.file {
        loader.file(path);
    }
    loader.environment(sources.environment.clone());
    loader.flags(&sources.flags);
    loader.check_limits();
    loader.check_auth();
    if !sources.listeners.is_empty() {
        loader.config.listeners.clone_from(&sources.listeners);
        loader.listener_places.clear();
        loader.check_doors();
    }
    if loader.problems.is_empty() { Ok(loader.config) } else { Err(Problems(loader.problems)) }
}

/// Whether a key takes a text, for flags that are checked where they are read; else what was expected.
pub fn check_text(key: &str, text: &str) -> Result<(), String> {
    match keys().find(|known| known.name == key) {
        Some(known) => known.apply_text(&mut Config::default(), text),
        None => Err(format!("there is no such key as {key}")),
    }
}

/// A configuration in the making. Its listeners are read in `listeners.rs`.
#[derive(Default)]
pub(super) struct Loader {
    pub(super) config: Config,
    pub(super) problems: Vec<Problem>,
    /// What may stand at the top of the file; empty: everything.
    pub(super) only: &'static [&'static str],
    /// Of each listener of the file: where it is written, and whether it says `allow_anonymous`.
    pub(super) listener_places: Vec<(Place, bool)>,
    /// Where each key was set last.
    pub(super) places: HashMap<&'static str, Place>,
}

/// The file that is being read.
pub(super) struct TomlFile<'a> {
    name: String,
    text: &'a str,
}

impl TomlFile<'_> {
    pub(super) fn place(&self, key: &str) -> Place {
        Place { name: self.name.clone(), line: line_of(self.text, key) }
    }
}

impl Loader {
    pub(super) fn file(&mut self, path: &Path) {
        let name = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                return self.report(name, Fault::Unreadable(format!("the file cannot be read: {error}")));
            }
        };
        match File::from_str(&text, FileFormat::Toml).collect() {
            Ok(tree) => {
                let file = TomlFile { name, text: &text };
                for (key, value) in tree {
                    self.top_level(&file, &key, value);
                }
                // The tree has no order; people read from the top.
                self.problems.sort_by_cached_key(|problem| (problem.place.line, problem.to_string()));
            }
            Err(ConfigError::FileParse { cause, .. }) => {
                self.report(name, Fault::Unreadable(cause.to_string().trim_end().to_owned()));
            }
            Err(error) => self.report(name, Fault::Unreadable(error.to_string())),
        }
    }

    fn top_level(&mut self, file: &TomlFile<'_>, name: &str, value: Value) {
        let is_section = SECTIONS.iter().any(|(section, _)| *section == name);
        match value.kind {
            _ if !self.only.is_empty() && !self.only.contains(&name) => {
                let fault = Fault::Conflict(format!(
                    "{name}: only [[{}]] may stand here",
                    self.only.join("]] and [[")
                ));
                self.report(file.place(name), fault);
            }
            kind if name == ACL => self.acl(file, &kind),
            kind if name == GROUPS => self.groups(file, &kind),
            kind if name == LISTENERS => self.listeners(file, &kind),
            ValueKind::Table(table) => {
                if table.is_empty() && !is_section {
                    self.unknown(file.place(name), name);
                }
                for (key, value) in table {
                    self.set_from_file(file, &format!("{name}.{key}"), &value.kind);
                }
            }
            kind if is_section => {
                let expectation = format!("expected a section: write [{name}] and its keys below");
                self.report_value(file.place(name), name, &kind, expectation);
            }
            _ => self.unknown(file.place(name), name),
        }
    }

    fn set_from_file(&mut self, file: &TomlFile<'_>, name: &str, value: &ValueKind) {
        let place = file.place(name);
        let Some(key) = keys().find(|key| key.name == name) else {
            return self.unknown(place, name);
        };
        match key.apply(&mut self.config, value) {
            Ok(()) => {
                self.places.insert(key.name, place);
            }
            Err(expectation) => self.report_value(place, name, value, expectation),
        }
    }

    fn environment(&mut self, variables: Option<HashMap<String, String>>) {
        let source = Environment::with_prefix(PREFIX).separator("__").source(variables);
        let tree = match source.collect() {
            Ok(tree) => tree,
            Err(error) => return self.report("environment".to_owned(), Fault::Unreadable(error.to_string())),
        };
        let mut entries: Vec<_> = tree.into_iter().collect();
        entries.sort_by(|(left, _), (right, _)| left.cmp(right));
        for (name, value) in entries {
            let place = variable(&name);
            let section = name.split(['.', '[']).next().unwrap_or_default();
            if [ACL, GROUPS].contains(&section) {
                let advice = "rules and groups are written in a file, not in the environment";
                self.report(place, Fault::Conflict(advice.to_owned()));
            } else if section == LISTENERS {
                let advice = "listeners are named in the file or with --port, not in the environment";
                self.report(place, Fault::Conflict(advice.to_owned()));
            } else if let ValueKind::String(text) = &value.kind {
                self.set_from_text(place, &name, text, variable);
            }
        }
    }

    fn flags(&mut self, flags: &[Flag]) {
        for flag in flags {
            self.set_from_text(flag.name.to_owned(), flag.key, &flag.value, str::to_owned);
        }
    }

    /// `spell` writes a key the way this source does.
    fn set_from_text(&mut self, place: impl Into<Place>, name: &str, text: &str, spell: fn(&str) -> String) {
        let Some(key) = keys().find(|key| key.name == name) else {
            let suggestion = closest(name, keys().map(|key| key.name)).map(spell);
            return self.report(place, Fault::UnknownKey { key: name.to_owned(), suggestion });
        };
        match key.apply_text(&mut self.config, text) {
            Ok(()) => {
                self.places.insert(key.name, place.into());
            }
            Err(expectation) => self.report_value(place, name, &ValueKind::from(text), expectation),
        }
    }

    fn check_limits(&mut self) {
        let (soft, hard) = (self.config.limits.outbox_soft, self.config.limits.outbox_hard);
        if soft >= hard {
            let place = self.places.get("limits.outbox_soft").or(self.places.get("limits.outbox_hard"));
            let place = place.cloned().unwrap_or_default();
            let fault = format!(
                "limits.outbox_soft must be less than limits.outbox_hard, but they are {soft} and {hard} bytes"
            );
            self.report(place, Fault::Conflict(fault));
        }
    }

    fn unknown(&mut self, place: Place, name: &str) {
        let known = keys().map(|key| key.name);
        let known = known.chain(SECTIONS.iter().map(|(section, _)| *section)).chain([LISTENERS, ACL, GROUPS]);
        let suggestion = closest(name, known).map(str::to_owned);
        self.report(place, Fault::UnknownKey { key: name.to_owned(), suggestion });
    }

    pub(super) fn report_value(
        &mut self,
        place: impl Into<Place>,
        key: &str,
        value: &ValueKind,
        expectation: String,
    ) {
        self.report(place, Fault::Value { key: key.to_owned(), value: show(value), expectation });
    }

    pub(super) fn report(&mut self, place: impl Into<Place>, fault: Fault) {
        self.problems.push(Problem { place: place.into(), fault });
    }
}

/// The environment variable of a key.
fn variable(key: &str) -> String {
    format!("{PREFIX}__{}", key.to_uppercase().replace('.', "__"))
}

/// A written value, short enough for one line.
fn show(value: &ValueKind) -> String {
    const LONGEST: usize = 60;
    let text = match value {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Table(_) => "{ ... }".to_owned(),
        ValueKind::Array(values) => {
            format!("[{}]", values.iter().map(|value| show(&value.kind)).collect::<Vec<_>>().join(", "))
        }
        ValueKind::Nil => "nothing".to_owned(),
        ValueKind::Boolean(boolean) => boolean.to_string(),
        ValueKind::I64(number) => number.to_string(),
        ValueKind::I128(number) => number.to_string(),
        ValueKind::U64(number) => number.to_string(),
        ValueKind::U128(number) => number.to_string(),
        ValueKind::Float(number) => format!("{number:?}"),
    };
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::key::{Key, Shape};
    use crate::config::{Durability, Leniencies, Overflow};
    use std::time::Duration;

    #[test]
    fn without_any_source_the_defaults_hold() {
        assert_eq!(load(&sources(&[])).unwrap(), Config::default());
        assert_eq!(from_file("").unwrap(), Config::default());
    }

    #[test]
    fn a_file_sets_what_it_names_and_nothing_else() {
        let config = from_file(
            r#"
            limits.max_packet_size = "1MiB"
            limits.max_keep_alive = 60
            [queue]
            overflow = "reject"
            [store]
            durability = "none"
            directory = 'a\b'
            [session]
            max_expiry = "30d"
            [server]
            workers = 3
            [sys]
            interval = 0
            [[listeners]]
            address = "127.0.0.1:2883"
            [[listeners]]
            name = "open"
            address = "[::]:2884"
            allow_anonymous = true
            max_connections = 7
            lenient = ["receive-maximum"]
            "#,
        )
        .unwrap();
        let mut expected = Config::default();
        expected.limits.max_packet_size = 1 << 20;
        expected.limits.max_keep_alive = 60;
        expected.queue.overflow = Overflow::Reject;
        expected.store.durability = Durability::None;
        expected.store.directory = PathBuf::from("a\\b");
        expected.session.max_expiry = Some(Duration::from_secs(30 * 24 * 60 * 60));
        expected.server.workers = Some(3);
        expected.sys.interval = Duration::ZERO;
        expected.listeners = vec![
            Listener::tcp("listener-1", "127.0.0.1:2883".parse().unwrap()),
            Listener {
                max_connections: Some(7),
                leniencies: Leniencies { receive_maximum: true, ..Leniencies::default() },
                ..Listener::tcp("open", "[::]:2884".parse().unwrap())
            },
        ];
        assert_eq!(config, expected);
    }

    /// Each key is set to something that is not its default, through the file and through the environment.
    #[test]
    fn every_key_can_be_set_in_a_file_and_in_the_environment() {
        // Authenticators need what another key names: see `auth.rs`.
        for key in keys().filter(|key| key.name != "auth.authenticators") {
            let mut expected = Config::default();
            let other = other_value(key);
            key.apply_text(&mut expected, &other).unwrap();
            assert_ne!(expected, Config::default(), "{} = {other}", key.name);

            let written = format!("{} = {}\n", key.name, key.show(&expected));
            assert_eq!(from_file(&written).unwrap(), expected, "{written}");

            let by_environment = load(&sources(&[(&variable(key.name), &other)])).unwrap();
            assert_eq!(by_environment, expected, "{}", variable(key.name));
        }
    }

    #[test]
    fn the_environment_is_over_the_file_and_flags_are_over_both() {
        let file = TemporaryFile::new("[log]\nlevel = \"warn\"\nformat = \"json\"\n[queue]\nmessages = 5\n");
        let mut sources =
            sources(&[("FULMAR__LOG__LEVEL", "debug"), ("FULMAR__QUEUE__MESSAGES", "6"), ("HOME", "/")]);
        sources.file = Some(file.path.clone());
        sources.flags = vec![Flag { name: "--log-level", key: "log.level", value: "trace".to_owned() }];
        sources.listeners = vec![Listener::tcp("mqtt", "127.0.0.1:0".parse().unwrap())];
        let config = load(&sources).unwrap();
        assert_eq!(config.log.level, "trace");
        assert_eq!(config.log.format, crate::config::LogFormat::Json);
        assert_eq!(config.queue.messages, 6);
        assert_eq!(config.listeners, sources.listeners);
    }

    /// A file and what must be told about it, in this order and with nothing else.
    #[test]
    fn everything_wrong_is_told_with_its_place() {
        let cases: &[(&str, &[&str])] = &[
            (
                "[limits]\nmax_packet_size = \"16MB\"\nmax_conections = 3\n[queue]\nmessages = 0\noverflow = 1\n",
                &[
                    ":2: limits.max_packet_size = \"16MB\": expected a size from 16B to 256MiB",
                    ":3: limits.max_conections: there is no such key; did you mean limits.max_connections?",
                    ":5: queue.messages = 0: expected a number from 1 to 4294967295",
                    ":6: queue.overflow = 1: expected \"drop-oldest\", \"drop-newest\" or \"reject\"",
                ],
            ),
            (
                "max_connections = 3\nlog = 3\nbridges = {}\n[limit]\nwrite_timeout = \"1s\"",
                &[
                    ":1: max_connections: there is no such key; did you mean limits.max_connections?",
                    ":2: log = 3: expected a section: write [log]",
                    ":3: bridges: there is no such key",
                    ":5: limit.write_timeout: there is no such key; did you mean limits.write_timeout?",
                ],
            ),
            ("[log]\nlevel = \n", &[": TOML parse error at line 2, column"]),
            ("[log]\nlevel = \"info\"\nlevel = \"info\"", &[": TOML parse error at line 3, column"]),
            (
                "limits.outbox_soft = \"8MiB\"",
                &[":1: limits.outbox_soft must be less than limits.outbox_hard"],
            ),
            (
                "[limits]\noutbox_hard = 1024",
                &[":2: limits.outbox_soft must be less than limits.outbox_hard"],
            ),
            ("listeners = []", &[":1: listeners = []: expected one listener at least"]),
            ("listeners = [3]", &[":1: listeners[0] = 3: expected a table"]),
            ("[listeners]\naddress = \"127.0.0.1:1\"", &[":1: listeners = { ... }: expected a list"]),
            (
                "[[listeners]]\nkind = \"quic\"\n[[listeners]]\naddress = \"localhost\"\nadress = 1",
                &[
                    ":1: listeners[0].address is missing: write where to listen",
                    ":2: listeners[0].kind = \"quic\": expected \"tcp\"",
                    ":4: listeners[1].address = \"localhost\": expected an IP address and a port",
                    ":5: listeners[1].adress: there is no such key; did you mean address?",
                ],
            ),
            (
                "[[listeners]]\nkind = \"tls\"\naddress = \"127.0.0.1:1\"\ncertificate = [\"a\", \"b\"]\nkey = \"c\"\n\
                 client_certificates = \"required\"\n\
                 [[listeners]]\naddress = \"127.0.0.1:2\"\ncertificate = \"a\"",
                &[
                    ":1: listeners[0].client_ca is missing: name the file",
                    ":5: listeners[0].key: write one key for each certificate",
                    ":9: listeners[1].certificate: only a listener of kind \"tls\"",
                ],
            ),
            (
                "[[listeners]]\naddress = \"0.0.0.0:1883\"",
                &[
                    ":1: listeners[0].allow_anonymous is missing: 0.0.0.0:1883 can be reached from other machines; \
                     write allow_anonymous = true",
                ],
            ),
            (
                "[[listeners]]\naddress = \"127.0.0.1:1883\"\nallow_anonymous = false",
                &[
                    ":1: listeners[0].allow_anonymous = false: nobody could connect, as no authenticator is named",
                ],
            ),
            (
                "[[acl]]\naction = \"alow\"\n[[acl]]\ntopics = [\"a/#/b\"]\n[[acl]]\ntopics = \"%u\"\nuser = 1\n[[groups]]\n\
                 nam = \"x\"\n",
                &[
                    ":1: acl[0].topics is missing: write which topics",
                    ":2: acl[0].action = \"alow\": expected \"allow\" or \"deny\"",
                    ":4: acl[1].topics = [\"a/#/b\"]: expected a topic filter or a list of them",
                    ":7: acl[2].user = 1: expected a user name",
                    ":8: groups[0].name is missing: write what it is called",
                    ":9: groups[0].nam: there is no such key; did you mean name?",
                ],
            ),
            (
                "[auth]\nauthenticators = [\"password-file\"]\n[[listeners]]\naddress = \"127.0.0.1:1883\"\n\
                 authenticators = [\"passwords\"]\n",
                &[
                    ":2: auth.password_file is missing: the authenticators \"password-file\" and",
                    ":5: listeners[0].authenticators = [\"passwords\"]: expected a list of any of \"password-file\"",
                ],
            ),
            (
                "[[listeners]]\nname = \"a\"\naddress = \"127.0.0.1:1883\"\n\
                 [[listeners]]\naddress = \"0.0.0.0:1883\"\nallow_anonymous = true\n\
                 [[listeners]]\nname = \"a\"\naddress = \"127.0.0.1:1884\"\n",
                &[
                    ":4: listeners[1]: 0.0.0.0:1883 is taken by listeners[0], which listens on 127.0.0.1:1883",
                    ":7: listeners[2]: listeners[0] has the same name \"a\"",
                ],
            ),
        ];
        for (text, expected) in cases {
            let file = TemporaryFile::new(text);
            let sources = Sources { file: Some(file.path.clone()), ..sources(&[]) };
            let problems = load(&sources).unwrap_err();
            let told: Vec<_> = problems.0.iter().map(ToString::to_string).collect();
            assert_eq!(told.len(), expected.len(), "{text}\n{problems}");
            for (line, start) in told.iter().zip(*expected) {
                let start = format!("{}{start}", file.path.display());
                assert!(line.starts_with(&start), "expected {start}\nfound    {line}");
            }
        }
    }

    #[test]
    fn the_environment_is_checked_like_the_file() {
        let problems = load(&sources(&[
            ("FULMAR__LOG__LEVEL", "loud"),
            ("FULMAR__LOG__LEVELS", "info"),
            ("FULMAR__LISTENERS__0__ADDRESS", "127.0.0.1:1"),
            ("FULMAR__RETAINED__ENABLED", "yes"),
        ]))
        .unwrap_err();
        let told: Vec<_> = problems.0.iter().map(ToString::to_string).collect();
        for (line, start) in told.iter().zip([
            "FULMAR__LISTENERS__0__ADDRESS: listeners are named in the file or with --port",
            "FULMAR__LOG__LEVEL: log.level = \"loud\": expected \"error\", \"warn\"",
            "FULMAR__LOG__LEVELS: log.levels: there is no such key; did you mean FULMAR__LOG__LEVEL?",
            "FULMAR__RETAINED__ENABLED: retained.enabled = \"yes\": expected true or false",
        ]) {
            assert!(line.starts_with(start), "expected {start}\nfound    {line}");
        }
        assert_eq!(told.len(), 4, "{problems}");
    }

    #[test]
    fn a_file_that_is_not_there_is_told() {
        let sources = Sources { file: Some(PathBuf::from("no/such/fulmar.toml")), ..sources(&[]) };
        let problems = load(&sources).unwrap_err().to_string();
        assert!(problems.starts_with("no/such/fulmar.toml: the file cannot be read: "), "{problems}");
    }

    fn from_file(text: &str) -> Result<Config, Problems> {
        let file = TemporaryFile::new(text);
        load(&Sources { file: Some(file.path.clone()), ..sources(&[]) })
    }

    fn sources(environment: &[(&str, &str)]) -> Sources {
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Sources { environment: Some(environment), ..Sources::default() }
    }

    /// A valid value, as text, that is not the default.
    fn other_value(key: &Key<Config>) -> String {
        let defaults = Config::default();
        match &key.shape {
            Shape::Number { bounds, get, .. } | Shape::Size { bounds, get, .. } => {
                let end = if get(&defaults) == *bounds.end() { bounds.start() } else { bounds.end() };
                // Some bounds are tied to another key, so as near to the default as can be.
                let near = get(&defaults) + 1;
                if bounds.contains(&near) { near.to_string() } else { end.to_string() }
            }
            Shape::Duration { bounds, .. } => format!("{}ms", bounds.start().as_millis()),
            Shape::Boolean { get, .. } => (!get(&defaults)).to_string(),
            Shape::Choice { words, get, .. } => {
                words().into_iter().find(|word| *word != get(&defaults)).unwrap().to_owned()
            }
            Shape::Words { words, .. } => words.join(","),
            Shape::Text { .. } if key.name == "auth.certificate_user" => "%dns".to_owned(),
            Shape::Texts { .. } if key.name == "bans.exempt" => "10.0.0.0/8".to_owned(),
            Shape::Text { .. } if key.name == "auth.http_url" => "http://127.0.0.1:1/login".to_owned(),
            Shape::Text { .. } | Shape::Texts { .. } => "trace".to_owned(),
        }
    }

    struct TemporaryFile {
        path: PathBuf,
    }

    impl TemporaryFile {
        fn new(text: &str) -> Self {
            use std::sync::atomic::{AtomicUsize, Ordering};
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("fulmar-config-{}-{number}.toml", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, text).unwrap();
            Self { path }
        }
    }

    impl Drop for TemporaryFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
