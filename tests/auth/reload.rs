//! SIGHUP, or a file that changes: everything is read again and swapped at once, or nothing is.

use std::fs;
use std::process::Output;

use crate::support::{Broker, DISCONNECT, PUBACK, RawClient, V5, publish, unique};
use crate::tokens::{bearer, token};
use crate::{Folder, fulmar, passwd, said, user};

/// A broker whose rules stand in a file of their own.
struct Guarded {
    folder: Folder,
    broker: Broker,
}

impl Guarded {
    fn new(rules: &str) -> Self {
        let folder = Folder::new();
        let users = folder.users(&["alice", "bob"]);
        let rules = folder.write("rules.toml", rules);
        let broker = Broker::with_config(&format!(
            "[auth]\nauthenticators = [\"password-file\"]\npassword_file = {users:?}\nacl_file = {rules:?}\n"
        ));
        Self { folder, broker }
    }

    /// Writes other rules and has them read.
    fn rules(&self, rules: &str, told: &str) {
        self.folder.write("rules.toml", rules);
        self.reload(told);
    }

    fn reload(&self, told: &str) {
        let before = self.broker.log().len();
        self.broker.signal("HUP");
        let start = std::time::Instant::now();
        while !self.broker.log().get(before..).unwrap_or_default().contains(told) {
            assert!(start.elapsed().as_secs() < 5, "no {told:?} in {}", self.broker.log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// What `fulmar check` says to the same files.
    fn check(&self) -> Output {
        let config = self.broker.directory().join("fulmar.toml");
        fulmar(&["check", "-c", config.to_str().unwrap()], "")
    }
}

fn code(client: &mut RawClient, topic: &str) -> u8 {
    client.send(&publish(topic, "m").qos(1, 1).bytes(V5));
    client.read_kind(PUBACK).ack(PUBACK).1
}

const A: &str = "[[acl]]\ntopics = [\"a/#\"]\n";
const A_AND_B: &str = "[[acl]]\ntopics = [\"a/#\", \"b/#\"]\n";
const B: &str = "[[acl]]\ntopics = [\"b/#\"]\n";

#[test]
fn other_rules_hold_for_those_who_are_connected() {
    let guarded = Guarded::new(A_AND_B);
    let mut reader = user(V5, "alice").open(&guarded.broker);
    reader.subscribe("#", 1);
    let mut writer = user(V5, "bob").open(&guarded.broker);
    for topic in ["a/1", "b/1"] {
        assert_eq!(code(&mut writer, topic), 0);
        assert_eq!(reader.receive().topic, topic);
    }
    guarded.rules(B, "other rules (1 now)");
    assert_eq!(code(&mut writer, "a/1"), 0x87);
    assert_eq!(code(&mut writer, "b/1"), 0);
    assert_eq!(reader.receive().topic, "b/1");
    // Who may write what nobody may read.
    let one_way = "[[acl]]\naccess = \"publish\"\ntopics = [\"#\"]\n[[acl]]\ntopics = [\"a/#\"]\n";
    guarded.rules(one_way, "other rules (2 now)");
    assert_eq!(code(&mut writer, "b/1"), 0x10);
    assert_eq!(code(&mut writer, "a/1"), 0);
    assert_eq!(reader.receive().topic, "a/1");
    reader.expect_nothing();
}

#[test]
fn what_waits_for_a_session_is_looked_at_again() {
    let guarded = Guarded::new(A_AND_B);
    let id = unique("sleeper");
    let sleeper = || user(V5, "alice").client_id(&id).persistent();
    let mut client = sleeper().open(&guarded.broker);
    client.subscribe("#", 1);
    client.disconnect();
    let mut writer = user(V5, "bob").open(&guarded.broker);
    for topic in ["a/1", "b/1", "a/2", "b/2"] {
        assert_eq!(code(&mut writer, topic), 0);
    }
    guarded.rules(B, "other rules");
    let mut client = sleeper().open(&guarded.broker);
    for topic in ["b/1", "b/2"] {
        assert_eq!(client.receive().topic, topic);
    }
    client.expect_nothing();
}

#[test]
fn a_mistake_anywhere_leaves_everything_as_it_was() {
    let guarded = Guarded::new(A);
    let mut bob = user(V5, "bob").open(&guarded.broker);
    let carol = passwd("add", &guarded.folder.path("passwords"), "carol", "carol-password");
    assert!(carol.status.success());
    let rules = guarded.folder.path("rules.toml");
    let mistake = format!("{}:2: acl[0].topics = [\"a/#/b\"]: expected a topic filter", rules.display());
    guarded.rules("[[acl]]\ntopics = [\"a/#/b\"]\n", &format!("everything stays as it was: {mistake}"));
    assert!(said(&guarded.check()).contains(&mistake), "{}", said(&guarded.check()));
    assert_eq!(code(&mut bob, "a/1"), 0x10);
    assert_eq!(code(&mut bob, "b/1"), 0x87);
    assert_eq!(
        user(V5, "carol").refused(&guarded.broker),
        0x86,
        "the good file was taken without the bad one"
    );
    guarded.rules(B, "reloaded: 1 user added, other rules (1 now)");
    assert!(guarded.check().status.success());
    assert_eq!(code(&mut bob, "b/1"), 0x10);
    user(V5, "carol").open(&guarded.broker);
}

#[test]
fn who_was_removed_or_has_another_password_is_sent_away() {
    let guarded = Guarded::new(A);
    let mut alice = user(V5, "alice").open(&guarded.broker);
    let mut bob = user(V5, "bob").open(&guarded.broker);
    assert!(passwd("del", &guarded.folder.path("passwords"), "alice", "").status.success());
    guarded.reload("reloaded: 1 user removed");
    assert_eq!(alice.read().reason(DISCONNECT).0, 0x87);
    alice.expect_closed();
    assert_eq!(user(V5, "alice").refused(&guarded.broker), 0x86);
    bob.ping();
    assert!(passwd("add", &guarded.folder.path("passwords"), "bob", "another").status.success());
    guarded.reload("reloaded: 1 user changed");
    assert_eq!(bob.read().reason(DISCONNECT).0, 0x87);
    assert_eq!(user(V5, "bob").refused(&guarded.broker), 0x86);
    user(V5, "bob").password("another").open(&guarded.broker);
}

#[test]
fn a_file_that_changes_needs_no_signal() {
    let guarded = Guarded::new(A);
    let watching = &guarded.broker;
    let passwords = guarded.folder.path("passwords");
    let not_watching = Broker::with_config(&format!(
        "server.watch_files = false\n[auth]\nauthenticators = [\"password-file\"]\npassword_file = \"{}\"\n",
        passwords.display()
    ));
    let mut bob = user(V5, "bob").open(watching);
    for (name, told) in [("carol", "reloaded: 1 user added"), ("bob", "reloaded: 1 user changed")] {
        let output = passwd("add", &passwords, name, &format!("new-{name}"));
        assert!(output.status.success(), "{output:?}");
        watching.wait_for_log(&format!("everything is read again files=\"{}\"", passwords.display()));
        watching.wait_for_log(told);
        user(V5, name).password(format!("new-{name}")).open(watching);
    }
    assert_eq!(bob.read().reason(DISCONNECT).0, 0x87);
    // The same goes for rules, with the same mistakes.
    guarded.folder.write("rules.toml", "[[acl]]\ntopics = [\"a/#/b\"]\n");
    watching.wait_for_log("everything stays as it was");
    let mut alice = user(V5, "alice").open(watching);
    assert_eq!((code(&mut alice, "a/1"), code(&mut alice, "b/1")), (0x10, 0x87));
    guarded.folder.write("rules.toml", B);
    watching.wait_for_log("reloaded: other rules (1 now)");
    assert_eq!((code(&mut alice, "a/1"), code(&mut alice, "b/1")), (0x87, 0x10));
    assert_eq!(watching.log().matches("everything stays as it was").count(), 1, "a mistake is told once");
    // Meanwhile the other has done nothing until it is told to.
    assert!(!not_watching.log().contains("reload") && !not_watching.log().contains("read again"));
    user(V5, "bob").open(&not_watching);
    not_watching.signal("HUP");
    not_watching.wait_for_log("reloaded: 1 user added, 1 user changed");
    user(V5, "carol").password("new-carol").open(&not_watching);
}

/// The way of Kubernetes: files are links into a folder that is a link, and only that one is turned.
#[test]
fn secrets_that_are_mounted_as_links_are_watched() {
    let folder = Folder::new();
    let claims = r#""sub":"carol""#;
    let secrets = ["the first secret, which is long enough", "the second secret, which is long enough"];
    let turn = |version: usize| {
        let target = folder.path(&format!("..version-{version}"));
        fs::create_dir(&target).unwrap();
        fs::write(target.join("keys"), secrets[version]).unwrap();
        fs::write(target.join("rules"), format!("pattern readwrite v{version}/#\n")).unwrap();
        let link = folder.path("..fresh");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        fs::rename(&link, folder.path("..data")).unwrap();
    };
    turn(0);
    for name in ["keys", "rules"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), folder.path(name)).unwrap();
    }
    let broker = Broker::with_config(&format!(
        "[auth]\nauthenticators = [\"jwt\"]\njwt_keys = \"{}\"\nacl_file = \"{}\"\n",
        folder.path("keys").display(),
        folder.path("rules").display()
    ));
    let tokens = secrets.map(|secret| token(secret, 600, claims));
    bearer(V5, &tokens[0]).open(&broker);
    bearer(V5, &tokens[1]).refused(&broker);
    turn(1);
    broker.wait_for_log("reloaded: other rules (1 now), other keys for tokens");
    bearer(V5, &tokens[0]).refused(&broker);
    let mut carol = bearer(V5, &tokens[1]).open(&broker);
    assert_eq!((code(&mut carol, "v0/x"), code(&mut carol, "v1/x")), (0x87, 0x10));
}

#[test]
fn what_needs_a_start_is_said() {
    let guarded = Guarded::new(A);
    let config = guarded.broker.directory().join("fulmar.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n[queue]\nmessages = 5\n")).unwrap();
    guarded.reload("[queue] changed; that takes effect at the next start");
}
