//! The `[[listeners]]` of a file: a list of tables, each read by its own keys and then checked as a whole.
//!
//! Called by `load.rs` while it reads a file. Each listener starts from [`Listener::default`], but its address
//! must be written, and so must be the choice to let everyone in where others can reach it.

use ::config::{Map, Value, ValueKind};

use super::Listener;
use super::lines::line_of;
use super::load::{LISTENERS, Loader, TomlFile};
use super::problem::{Fault, closest};
use super::table::LISTENER_KEYS;

impl Loader {
    /// Reads the list; what is wrong with any of them is told.
    pub(super) fn listeners(&mut self, file: &TomlFile<'_>, value: &ValueKind) {
        let ValueKind::Array(elements) = value else {
            let expectation =
                "expected a list: write [[listeners]], with two brackets, above each".to_owned();
            return self.report_value(file.place(LISTENERS), LISTENERS, value, expectation);
        };
        if elements.is_empty() {
            let expectation = "expected one listener at least; without any, leave the key out".to_owned();
            return self.report_value(file.place(LISTENERS), LISTENERS, value, expectation);
        }
        self.config.listeners.clear();
        for (index, element) in elements.iter().enumerate() {
            let path = format!("{LISTENERS}[{index}]");
            match &element.kind {
                ValueKind::Table(table) => self.listener(file, &path, table),
                ValueKind::Nil
                | ValueKind::Boolean(_)
                | ValueKind::I64(_)
                | ValueKind::I128(_)
                | ValueKind::U64(_)
                | ValueKind::U128(_)
                | ValueKind::Float(_)
                | ValueKind::String(_)
                | ValueKind::Array(_) => {
                    let expectation = "expected a table: write [[listeners]] and its keys below".to_owned();
                    self.report_value(file.place(&path), &path, &element.kind, expectation);
                }
            }
        }
    }

    fn listener(&mut self, file: &TomlFile<'_>, path: &str, table: &Map<String, Value>) {
        let mut listener = Listener::default();
        let problems_before = self.problems.len();
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| line_of(file.text, &format!("{path}.{name}")));
        for (name, value) in entries {
            let dotted = format!("{path}.{name}");
            let place = file.place(&dotted);
            match LISTENER_KEYS.iter().find(|key| key.name == name) {
                Some(key) => {
                    if let Err(expectation) = key.apply(&mut listener, &value.kind) {
                        self.report_value(place, &dotted, &value.kind, expectation);
                    }
                }
                None => {
                    let suggestion = closest(name, LISTENER_KEYS.iter().map(|key| key.name));
                    let suggestion = suggestion.map(str::to_owned);
                    self.report(place, Fault::UnknownKey { key: dotted, suggestion });
                }
            }
        }
        if !table.contains_key("address") {
            let expectation = "write where to listen, such as address = \"127.0.0.1:1883\"".to_owned();
            let key = format!("{path}.address");
            self.report(file.place(path), Fault::Missing { key, expectation });
        }
        if !table.contains_key("name") {
            listener.name = listener.address.to_string();
        }
        if self.problems.len() == problems_before {
            let anonymity_said = table.contains_key("allow_anonymous");
            self.check_listener(file.place(path), path, &listener, anonymity_said);
        }
        self.config.listeners.push(listener);
    }

    /// What is right key by key and may still be wrong: open to the world without saying so, taken twice.
    fn check_listener(&mut self, place: String, path: &str, listener: &Listener, anonymity_said: bool) {
        let address = listener.address;
        if !anonymity_said && !address.ip().is_loopback() {
            let expectation = format!(
                "{address} can be reached from other machines, and this version knows no passwords; write \
                 allow_anonymous = true below this listener if everyone who reaches it may connect, or \
                 listen on 127.0.0.1 only"
            );
            let key = format!("{path}.allow_anonymous");
            self.report(place.clone(), Fault::Missing { key, expectation });
        }
        if !listener.allow_anonymous {
            self.report(
                place.clone(),
                Fault::Conflict(format!(
                    "{path}.allow_anonymous = false: this version knows no passwords, so nobody could connect; \
                     write true or remove the listener"
                )),
            );
        }
        let twins = self.config.listeners.iter().enumerate();
        let faults: Vec<_> = twins
            .flat_map(|(index, other)| {
                let name = (other.name == listener.name)
                    .then(|| format!("{path}: {LISTENERS}[{index}] has the same name {:?}", other.name));
                let overlap = overlaps(other, listener).then(|| {
                    format!(
                        "{path}.address: {address} is taken by {LISTENERS}[{index}], which listens on {}",
                        other.address
                    )
                });
                // Unnamed listeners are named by their address; one complaint is enough.
                overlap.or(name)
            })
            .collect();
        for fault in faults {
            self.report(place.clone(), Fault::Conflict(fault));
        }
    }
}

/// Whether two listeners cannot both be bound: the same port on the same address, or on one and on all.
fn overlaps(left: &Listener, right: &Listener) -> bool {
    let (left, right) = (left.address, right.address);
    left.port() != 0
        && left.port() == right.port()
        && left.is_ipv4() == right.is_ipv4()
        && (left.ip() == right.ip() || left.ip().is_unspecified() || right.ip().is_unspecified())
}
