//! The password file: written by `fulmar passwd` and mosquitto_passwd, asked at every CONNECT.

use std::fs;
use std::time::Duration;

use crate::support::{Broker, RawClient, V3_1_1, V5, Version, connect, publish, unique};
use crate::{Folder, fulmar, mosquitto, passwd, said, user};

/// Written by mosquitto_passwd 2.0.
const MOSQUITTO_FILE: &str = "\
old:$6$CchuyhFXoutwVNAD$53qF8eYe9QiG70OMe7QpAknREcDqAQ1sBrGzucbFNbhZrW6HjMH5LPc358TTD0uvWenHtcrwA1zHjZ5d1b8JjQ==
new:$7$101$HrAtparnnTWRAWTU$ErZaslRr+JyKXJW/oumkmKntKRtvHfzF8LUot+uDqlxl5Kc+0StYX0+w34BztWTLryZurD4afUw00ghhUYr7qA==
";

fn guarded(password_file: &str, more: &str) -> Broker {
    let config =
        format!("[auth]\nauthenticators = [\"password-file\"]\npassword_file = {password_file:?}\n{more}");
    Broker::with_config(&config)
}

#[test]
fn who_is_known_enters_and_everybody_else_is_told_why_not() {
    let folder = Folder::new();
    let broker = guarded(&folder.users(&["alice"]), "");
    for version in Version::ALL {
        let v5 = version.is_v5();
        let (wrong, not_authorized) = if v5 { (0x86, 0x87) } else { (4, 5) };
        let mut alice = user(version, "alice").open(&broker);
        alice.subscribe("t", 1);
        alice.publish(&publish("t", "m").qos(1, 1));
        assert_eq!(alice.receive().text(), "m");
        for refused in [
            user(version, "alice").password("alice-passwore"),
            user(version, "alice").password(""),
            user(version, "bob"),
            user(version, "Alice").password("alice-password"),
            connect(version).client_id("c").username("alice"),
        ] {
            assert_eq!(refused.refused(&broker), wrong, "{version:?} {refused:?}");
        }
        assert_eq!(connect(version).client_id("nameless").refused(&broker), not_authorized);
    }
    broker.wait_for_log("user=\"alice\"");
    broker.wait_for_log(
        "user \"bob\": there is no such user, or the password is wrong (authenticator: password-file)",
    );
    broker.wait_for_log(
        "client \"nameless\", no user name: it says nothing of who it is, and allow_anonymous is off \
         (authenticator: anonymous)",
    );
    assert!(!broker.log().contains("alice-passwor"), "no password comes into the log");
}

/// To the byte and in time: in the processor time that the broker takes, as what else the machine does is not its work.
/// Two at a time are compared, one after the other, as the machine is not as quick all the time.
#[test]
fn nobody_learns_which_users_there_are() {
    let folder = Folder::new();
    let broker = guarded(&folder.users(&["alice"]), "");
    for version in [V3_1_1, V5] {
        let knock = |name: &str| {
            let mut client = RawClient::open(&broker, version);
            let connect = user(version, name).client_id("x").password("a guess").bytes();
            let before = processor_time(&broker);
            client.send(&connect);
            let answer = client.read();
            (processor_time(&broker) - before, answer)
        };
        let mut ratios: Vec<f64> = (0..15)
            .map(|turn| {
                let mut names = ["alice", "nobody"];
                names.rotate_left(turn % 2);
                let mut answers = names.map(knock);
                answers.rotate_left(turn % 2);
                let [(known, one), (unknown, other)] = answers;
                assert_eq!(one, other);
                assert!(known.min(unknown) > Duration::from_millis(5), "a password is hashed: {known:?}");
                known.as_secs_f64() / unknown.as_secs_f64()
            })
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let median = ratios[ratios.len() / 2];
        assert!(
            (0.8..1.25).contains(&median),
            "a known user takes so many times as long as an unknown one: {ratios:.2?}"
        );
    }
}

/// Of all its threads, as the kernel counts it.
fn processor_time(broker: &Broker) -> Duration {
    let threads = fs::read_dir(format!("/proc/{}/task", broker.pid())).unwrap();
    let of_one = |thread: std::io::Result<fs::DirEntry>| -> Option<u64> {
        let counts = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        counts.split_whitespace().next()?.parse().ok()
    };
    Duration::from_nanos(threads.filter_map(of_one).sum())
}

#[test]
fn mosquittos_own_file_works_as_it_is() {
    let folder = Folder::new();
    let broker = guarded(&folder.write("passwords", MOSQUITTO_FILE), "");
    for (name, password, code) in
        [("old", "wonderland", 0), ("new", "looking-glass", 0), ("old", "looking-glass", 4), ("x", "y", 4)]
    {
        for version in ["mqttv31", "mqttv311", "mqttv5"] {
            let arguments = ["-V", version, "-u", name, "-P", password, "-t", "t", "-m", "m", "-q", "1"];
            let output = mosquitto("mosquitto_pub", broker.port(), &arguments);
            let expected = if version == "mqttv5" && code == 4 { 134 } else { code };
            assert_eq!(output.status.code(), Some(expected), "{version} {name}: {output:?}");
        }
    }
}

#[test]
fn a_listener_can_let_in_the_nameless_and_those_it_knows() {
    let folder = Folder::new();
    let users = folder.users(&["alice"]);
    let broker = Broker::with_config(&format!(
        "[auth]\npassword_file = {users:?}\n[[listeners]]\naddress = \"127.0.0.1:{{PORT}}\"\n\
         allow_anonymous = true\nauthenticators = [\"password-file\"]\n"
    ));
    for version in Version::ALL {
        connect(version).client_id(unique("anybody")).open(&broker);
        user(version, "alice").open(&broker);
        user(version, "alice").password("guess").refused(&broker);
    }
}

#[test]
fn users_are_added_checked_and_removed() {
    let folder = Folder::new();
    let file = folder.path("passwords");
    for (verb, name, password, code, told) in [
        ("check", "alice", "one", 1, "cannot be read"),
        ("del", "alice", "", 1, "cannot be read"),
        ("add", "alice", "one", 0, "alice was added"),
        ("check", "alice", "one", 0, "the password is right"),
        ("check", "alice", "two", 1, "the password is another one"),
        ("add", "alice", "two", 0, "alice has a new password"),
        ("check", "alice", "one", 1, "the password is another one"),
        ("check", "alice", "two", 0, "the password is right"),
        ("add", "bob", "", 1, "an empty password is none"),
        ("check", "bob", "x", 1, "there is no user \"bob\""),
        ("add", "b:b", "x", 1, "a user name must not be empty"),
        ("add", "bob", "ein Wörtchen mit Leerzeichen ", 0, "bob was added"),
        ("check", "bob", "ein Wörtchen mit Leerzeichen ", 0, "the password is right"),
        ("del", "alice", "", 0, "alice was removed"),
        ("del", "alice", "", 1, "there is no user \"alice\""),
    ] {
        let output = passwd(verb, &file, name, password);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(code), "{verb} {name}: {text}");
        assert!(text.contains(told), "{verb} {name}: {text}");
    }
    assert!(fs::read_to_string(&file).unwrap().starts_with("bob:$argon2id$"));
}

#[test]
fn a_broker_does_not_start_with_a_file_that_is_wrong_and_says_where() {
    let folder = Folder::new();
    let users = folder.write("passwords", "# people\nalice:wonderland\n");
    let told = format!("{users}:2: user \"alice\": the password is not hashed");
    let missing = folder.path("nobody").display().to_string();
    let nobody = format!("{missing}: the password file cannot be read");
    for (file, told) in [(&users, &told), (&missing, &nobody)] {
        let config = format!("[auth]\nauthenticators = [\"password-file\"]\npassword_file = {file:?}\n");
        let config = folder.write("fulmar.toml", &config);
        for verb in ["check", "run"] {
            let output = fulmar(&[verb, "-c", &config], "");
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            let text = said(&output);
            assert!(text.starts_with(told.as_str()) && text.contains("1 problem"), "{verb}: {text}");
        }
    }
}
