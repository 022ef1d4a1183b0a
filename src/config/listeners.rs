//! The `[[listeners]]` of a file: a list of tables, each read by its own keys and then checked as a whole.
//!
//! Called by `load.rs` while it reads a file. A listener's address must be written; all else has a default. Whom it
//! lets in is settled in `auth.rs`, when everything is read.

use std::net::{Ipv4Addr, SocketAddr};

use ::config::{Map, Value, ValueKind};

use super::key::Key;
use super::load::{LISTENERS, Loader, TomlFile};
use super::problem::{Fault, Place, closest};
use super::table::listener_keys;
use super::transport;
use super::{Listener, ListenerKind};

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
            let ValueKind::Table(table) = &element.kind else {
                let expectation = "expected a table: write [[listeners]] and its keys below".to_owned();
                self.report_value(file.place(&path), &path, &element.kind, expectation);
                continue;
            };
            self.listener(file, &path, table);
        }
    }

    fn listener(&mut self, file: &TomlFile<'_>, path: &str, table: &Map<String, Value>) {
        let name = format!("listener-{}", self.config.listeners.len() + 1);
        // Until an address is read, one that gives no cause for complaint.
        let mut listener = Listener::tcp(&name, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        for (name, value) in table {
            let dotted = format!("{path}.{name}");
            let place = file.place(&dotted);
            match listener_keys().find(|key| key.name == name) {
                Some(key) => {
                    if let Err(expectation) = key.apply(&mut listener, &value.kind) {
                        self.report_value(place, &dotted, &value.kind, expectation);
                    }
                }
                None => {
                    let suggestion = closest(name, listener_keys().map(|key| key.name));
                    let suggestion = suggestion.map(str::to_owned);
                    self.report(place, Fault::UnknownKey { key: dotted, suggestion });
                }
            }
        }
        if !table.contains_key("address") && listener.kind != ListenerKind::Unix {
            let expectation = "write where to listen, such as address = \"127.0.0.1:1883\"".to_owned();
            let key = format!("{path}.address");
            self.report(file.place(path), Fault::Missing { key, expectation });
        }
        let defaults = Listener::default();
        let is_set = |name: &str| {
            let is_other = |key: &Key<Listener>| key.show(&listener) != key.show(&defaults);
            table.contains_key(name) && listener_keys().any(|key| key.name == name && is_other(key))
        };
        for (key, expectation) in transport::faults(&listener, is_set) {
            let dotted = format!("{path}.{key}");
            let place = file.place(&dotted);
            let is_written = table.contains_key(key);
            let fault = if is_written {
                Fault::Conflict(format!("{dotted}: {expectation}"))
            } else {
                Fault::Missing { key: dotted, expectation: expectation.to_owned() }
            };
            self.report(place, fault);
        }
        let anonymity_said = table.contains_key("allow_anonymous");
        self.listener_places.push((file.place(path), anonymity_said));
        self.check_listener(file.place(path), path, &listener);
        self.config.listeners.push(listener);
    }

    /// What is right key by key and may still be wrong: taken twice.
    fn check_listener(&mut self, place: Place, path: &str, listener: &Listener) {
        let place_taken = listener.place();
        let twins = self.config.listeners.iter().enumerate();
        let faults: Vec<_> = twins
            .flat_map(|(index, other)| {
                let name = (other.name == listener.name)
                    .then(|| format!("{path}: {LISTENERS}[{index}] has the same name {:?}", other.name));
                let overlap = overlaps(other, listener).then(|| {
                    format!(
                        "{path}: {place_taken} is taken by {LISTENERS}[{index}], which listens on {}",
                        other.place()
                    )
                });
                [name, overlap]
            })
            .flatten()
            .collect();
        for fault in faults {
            self.report(place.clone(), Fault::Conflict(fault));
        }
    }
}

/// Whether two listeners cannot both be bound: the same port on the same address, or on one and on all.
fn overlaps(left: &Listener, right: &Listener) -> bool {
    if left.kind == ListenerKind::Unix || right.kind == ListenerKind::Unix {
        return left.kind == right.kind && left.socket_path == right.socket_path;
    }
    let (left, right) = (left.address, right.address);
    let is_every = |address: SocketAddr| address.ip().is_unspecified();
    // Every address of IPv6 is every one of IPv4, too.
    let covers = |one: SocketAddr, other: SocketAddr| is_every(one) && (one.is_ipv6() || other.is_ipv4());
    left.port() != 0
        && left.port() == right.port()
        && (left.ip() == right.ip() || covers(left, right) || covers(right, left))
}
