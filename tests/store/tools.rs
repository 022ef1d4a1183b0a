//! `fulmar store`, on directories that this test fills.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use fulmar::codec::{PacketId, SubscriptionOptions};
use fulmar::config::Durability;
use fulmar::store::disk::Options;
use fulmar::store::{
    GroupImage, Owner, Record, Records, Recovered, RetainedSlot, RowSeq, Store, Timestamp, WillImage,
};

use crate::real::{Directory, fetch, message, push_rows, session, wait};

fn fulmar(arguments: &[&str], directory: &Path, input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fulmar"))
        .arg("store")
        .args(arguments)
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    // A command that does not read its input closes it.
    let _ = writer.join().unwrap();
    output
}

fn succeeds(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// One of everything.
fn fill(directory: &Directory) {
    let (store, _) = directory.open(Durability::Os, Options::default());
    let (one, two) = (Owner(1), Owner(7));
    store.append(&session(one, "one"));
    let mut records = Records::default();
    records.push(&Record::Group(GroupImage { owner: two, name: "group", filter: "a/#" }));
    let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    records.push(&Record::Subscribed { owner: one, filter: "a/#", options, identifier: 9 });
    records.push(&Record::Received { owner: one, packet_id: PacketId::new(77).unwrap() });
    let will = message(b"farewell");
    let due = Some(Timestamp(1 << 41));
    records.push(&Record::Will(WillImage { owner: one, message: will, expiry: Some(3), delay: 4, due }));
    records.push(&Record::Kept { slot: RetainedSlot(3), message: message(b"kept") });
    push_rows(&mut records, &[one, two], 5, b"shared by two");
    push_rows(&mut records, &[one], 6, &[0, 255]);
    store.append(&records);
    let mut records = Records::default();
    records.push_sent(one, RowSeq(5), PacketId::new(11).unwrap());
    records.push_done(one, RowSeq(8));
    records.push(&Record::Ended { owner: Owner(20) });
    wait(&*store, store.append(&records));
}

/// All of it, in words that do not depend on the process.
fn told(recovered: &Recovered) -> String {
    let sessions = format!("{:?} {:?}", recovered.sessions, recovered.groups);
    // A Will's message has no address or time of its own; a retained one neither.
    format!("{sessions} {:?} {}", recovered.retained, recovered.next_owner)
}

#[test]
fn a_store_is_told_of_verified_copied_and_moved_by_way_of_lines() {
    let directory = Directory::new("tools");
    fill(&directory);
    let (expected, secret) = {
        let (store, recovered) = directory.open(Durability::Os, Options::default());
        assert_eq!(fetch(&store, Owner(7), [5]), [Some(b"shared by two".to_vec())]);
        (told(&recovered), store.secret())
    };

    let info = succeeds(fulmar(&["info"], &directory.0, b""));
    for line in ["sessions: 1", "shared groups: 1", "queued messages: 3", "retained messages: 1", "wills: 1"]
    {
        assert!(info.lines().any(|told| told == line), "{line:?} is not in {info}");
    }
    assert!(succeeds(fulmar(&["verify"], &directory.0, b"")).contains("is sound"));

    let lines = succeeds(fulmar(&["export"], &directory.0, b""));
    let moved = Directory::new("tools-moved");
    succeeds(fulmar(&["import"], &moved.0, lines.as_bytes()));
    let again = succeeds(fulmar(&["export"], &moved.0, b""));
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&again), sorted(&lines));

    let copy = Directory::new("tools-copy");
    let copied = Command::new(env!("CARGO_BIN_EXE_fulmar"))
        .args(["store", "backup"])
        .args([&directory.0, &copy.0])
        .output()
        .unwrap();
    succeeds(copied);
    for of in [&moved, &copy] {
        let (store, recovered) = of.open(Durability::Sync, Options::default());
        assert_eq!(told(&recovered), expected);
        assert_eq!(store.secret(), secret);
        let read = fetch(&store, Owner(1), [5, 6]);
        assert_eq!(read, [Some(b"shared by two".to_vec()), Some(vec![0, 255])]);
    }
}

#[test]
fn what_cannot_be_done_is_told() {
    let directory = Directory::new("tools-refused");
    let fails = |arguments: &[&str], input: &[u8]| {
        let output = fulmar(arguments, &directory.0, input);
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(fails(&["info"], b"").contains("there is no store in"));
    assert!(fails(&["import"], b"").contains("nothing to be read"));
    assert!(fails(&["import"], b"{\"fulmar_store\": 99}\n").contains("of version 99"));
    fill(&directory);
    assert!(fails(&["import"], b"").contains("there is a store in"));
    {
        let (_store, _) = directory.open(Durability::Os, Options::default());
        for command in ["info", "verify", "export"] {
            let told = fails(&[command], b"");
            assert!(
                told.contains(&format!("in use by another broker (process {})", std::process::id())),
                "{told}"
            );
        }
    }
    let name = directory.0.join("0000000001.seg");
    let mut bytes = std::fs::read(&name).unwrap();
    bytes[4_200] ^= 1;
    std::fs::write(&name, bytes).unwrap();
    let told = fails(&["verify"], b"");
    assert!(told.contains("0000000001.seg, byte") && told.contains("--salvage"), "{told}");
}
