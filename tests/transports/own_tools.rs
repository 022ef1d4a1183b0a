//! Fulmar's own tools, `fulmar pub`, `sub` and `bench`, through every way in, beside other people's.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::certificates::{Authority, Folder};
use crate::support::{Broker, PUBACK, V5, broker_under_test, connect, publish, unique};
use crate::tools::{Outcome, run};

const FULMAR: &str = env!("CARGO_BIN_EXE_fulmar");

/// A broker with all four ways in, of which two need TLS.
struct Everywhere {
    broker: Broker,
    ca: String,
    _folder: Folder,
}

impl Everywhere {
    fn start() -> Self {
        let folder = Folder::new();
        let authority = Authority::new(&folder, "ca");
        let pair = authority.server("server").toml();
        let listener = |name: &str, kind: &str, rest: &str| {
            format!("[[listeners]]\nname = \"{name}\"\nkind = \"{kind}\"\naddress = \"127.0.0.1:0\"\n{rest}")
        };
        let config = [
            "[[listeners]]\naddress = \"127.0.0.1:{PORT}\"\n".to_owned(),
            listener("secure", "tls", &pair),
            listener("web", "ws", ""),
            listener("secure-web", "wss", &pair),
        ]
        .concat();
        let ca = authority.certificate().display().to_string();
        Self { broker: Broker::with_config(&config), ca, _folder: folder }
    }

    /// The four, as URLs.
    fn urls(&self) -> [String; 4] {
        let port = |listener| self.broker.address_of(listener).port();
        [
            format!("mqtt://127.0.0.1:{}", self.broker.port()),
            format!("mqtts://localhost:{}", port("secure")),
            format!("ws://127.0.0.1:{}", port("web")),
            format!("wss://localhost:{}/mqtt", port("secure-web")),
        ]
    }
}

#[track_caller]
fn json(outcome: &Outcome) -> serde_json::Value {
    assert!(outcome.succeeded, "{}", outcome.output);
    serde_json::from_str(&outcome.output).unwrap_or_else(|error| panic!("{error}: {}", outcome.output))
}

#[test]
fn bench_counts_every_message_through_every_way_in() {
    let everywhere = Everywhere::start();
    for (url, version, qos) in
        everywhere.urls().iter().flat_map(|url| [(url, "3.1.1", "0"), (url, "5", "1"), (url, "5.0", "2")])
    {
        let arguments = ["bench", "pub-sub", "--url", url, "--ca", &everywhere.ca, "-V", version, "-q", qos];
        let arguments =
            [&arguments[..], &["-c", "3", "--topics", "2", "-n", "3000", "-s", "1KiB", "--json"]].concat();
        let found = json(&run(FULMAR, &arguments));
        for (key, value) in [
            ("sent", 3_000),
            ("delivered", 3_000),
            ("lost", 0),
            ("out_of_order", 0),
            ("duplicates", 0),
            ("rejected", 0),
        ] {
            assert_eq!(found[key], value, "{url}, QoS {qos}: {found}");
        }
        assert_eq!(found["latency_us"]["count"], 3_000, "{url}: {found}");
        assert!(found["latency_us"]["p99"].as_f64() >= found["latency_us"]["p50"].as_f64(), "{found}");
    }
}

#[test]
fn every_scenario_of_bench_comes_to_its_end() {
    let broker = broker_under_test();
    let (url, pid) = (format!("mqtt://127.0.0.1:{}", broker.port()), broker.pid().to_string());
    let bench = |arguments: &[&str]| {
        let common = ["bench", arguments[0], "--url", &url, "--json"];
        json(&run(FULMAR, &[&common[..], &arguments[1..]].concat()))
    };
    let brief = ["-d", "200ms", "--warm-up", "50ms"];
    let fan_out = bench(&[&["fan-out", "-c", "20", "-q", "1", "--pid", &pid][..], &brief].concat());
    assert_eq!((&fan_out["lost"], &fan_out["subscribers"]), (&0.into(), &20.into()), "{fan_out}");
    assert!(fan_out["broker_cpu_us_per_operation"].as_f64() > Some(0.0), "{fan_out}");
    assert!(fan_out["broker_memory_peak_bytes"].as_u64() > Some(100_000), "{fan_out}");

    let latency = bench(&[&["latency", "-r", "500", "-c", "2"][..], &brief].concat());
    assert_eq!(latency["lost"], 0, "{latency}");
    assert!((50..=150).contains(&latency["operations"].as_u64().unwrap()), "{latency}");
    assert!(latency["schedule_lag_us"]["count"].as_u64() > Some(0), "{latency}");

    let shared = bench(
        &[&["pub-sub", "--pattern", "shared", "--subscribers", "4", "--groups", "2"][..], &brief].concat(),
    );
    assert_eq!(shared["lost"], 0, "{shared}");
    let filters = ["pub-sub", "--pattern", "filters", "--filters", "1000", "--topics", "100", "-n", "2000"];
    let filters = bench(&filters);
    assert_eq!((&filters["subscriptions"], &filters["lost"]), (&1_000.into(), &0.into()), "{filters}");

    let connect = bench(&["connect", "-c", "50", "--hold", "0s", "--subscribe", "--persistent"]);
    assert_eq!(connect["operations"], 50, "{connect}");
    let cycle = bench(&[&["connect", "--cycle", "-c", "5", "-q", "2"][..], &brief].concat());
    assert!(cycle["operations"].as_u64() > Some(0) && cycle["failed"] == 0, "{cycle}");

    let retained = bench(&["retained", "-n", "500", "-c", "2"]);
    assert_eq!((&retained["operations"], &retained["lost"]), (&1_000.into(), &0.into()), "{retained}");
    let queue = bench(&["queue", "-n", "500", "-q", "2", "-V", "5"]);
    let figures =
        ["operations", "lost", "duplicates", "sessions_resumed"].map(|key| queue[key].as_i64().unwrap());
    assert_eq!(figures, [500, 0, 0, 10], "{queue}");
}

#[test]
fn tls_sessions_are_resumed_only_where_that_is_asked_for() {
    let everywhere = Everywhere::start();
    let url = &everywhere.urls()[1];
    for resume in [false, true] {
        let mut arguments = vec!["bench", "connect", "--url", url, "--insecure", "-c", "4", "--json"];
        arguments.extend(["--concurrency", "1", "--hold", "0s"]);
        if resume {
            arguments.push("--resume");
        }
        let found = json(&run(FULMAR, &arguments));
        // The first has nothing to resume.
        assert_eq!(found["tls_resumed"], if resume { 3 } else { 0 }, "{found}");
    }
}

#[test]
fn bench_says_what_is_wrong() {
    let everywhere = Everywhere::start();
    let [plain, secure, web, _] = everywhere.urls();
    let nowhere = format!("ws://127.0.0.1:{}/nowhere", everywhere.broker.address_of("web").port());
    for (arguments, told) in [
        (&["--url", "http://localhost"][..], "the scheme is unknown"),
        (&["--url", "mqtt://127.0.0.1:1"], "127.0.0.1:1 cannot be reached: "),
        (&["--url", &secure, "--ca", "no-such-file"], "no-such-file cannot be used: "),
        (
            &["--url", &nowhere],
            "the broker refused the WebSocket: 404 Not Found there is nothing at /nowhere",
        ),
        (&["--url", &web, "--subscribers", "3"], "as many --subscribers as --publishers"),
        (&["--url", &plain, "--pid", "4294967295"], "there is no such process"),
        (&["--url", &plain, "-P", "secret"], "a password without a user name needs MQTT 5.0"),
        (&["--url", &plain, "--receive-maximum", "5"], "--receive-maximum needs -V 5.0"),
        (&["--url", &plain, "--persistent"], "--persistent needs -V 5.0"),
        (&["--url", &plain, "--groups", "2"], "--groups is for --pattern shared"),
        (&["--url", &plain, "--filters", "2"], "--filters is for --pattern filters"),
    ] {
        let outcome = run(FULMAR, &[&["bench", "pub-sub", "-d", "1s"], arguments].concat());
        assert!(!outcome.succeeded && outcome.output.contains(told), "{arguments:?}: {}", outcome.output);
        assert!(outcome.output.starts_with("fulmar bench: "), "{}", outcome.output);
    }
}

#[test]
fn what_a_bench_found_is_told_though_the_broker_closed_a_connection() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    let broker = thread::spawn(move || {
        let mut buffer = [0; 4096];
        let [mut subscriber, mut publisher] = [(); 2].map(|()| {
            let mut stream = listener.accept().unwrap().0;
            assert!(stream.read(&mut buffer).unwrap() > 0, "CONNECT");
            stream.write_all(&[0x20, 2, 0, 0]).unwrap();
            stream
        });
        assert!(subscriber.read(&mut buffer).unwrap() > 0, "SUBSCRIBE");
        // QoS 0 is granted.
        subscriber.write_all(&[0x90, 3, 0, 1, 0]).unwrap();
        assert!(publisher.read(&mut buffer).unwrap() > 0, "PUBLISH");
    });
    let outcome =
        run(FULMAR, &["bench", "pub-sub", "--url", &url, "-c", "1", "-q", "1", "-n", "10", "--json"]);
    broker.join().unwrap();
    assert!(!outcome.succeeded);
    let found = outcome.output.lines().find(|line| line.starts_with('{')).expect(&outcome.output);
    let found: serde_json::Value = serde_json::from_str(found).unwrap();
    let error = found["error"].as_str().unwrap();
    assert!(error.starts_with("the broker closed a connection"), "{found}");
    assert!(outcome.output.contains(&format!("fulmar bench: {error}")), "{}", outcome.output);
    let figures = ["sent", "delivered", "lost", "granted_qos"].map(|key| found[key].as_i64());
    assert_eq!(figures, [10, 0, 10, 0].map(Some), "{found}");
}

#[test]
fn pub_sends_lines_a_file_or_all_of_its_input() {
    let broker = broker_under_test();
    let (port, topic) = (broker.port().to_string(), unique("input"));
    let file = broker.directory().join(unique("message"));
    fs::write(&file, "from a file").unwrap();
    let lines: String = (0..300).map(|number| format!("line {number}\n")).collect();
    let subscribe = ["sub", "-h", "127.0.0.1", "-p", &port, "-t", &topic, "-q", "2", "-C", "303", "-W", "15"];
    let subscribe = subscribe.map(String::from);
    let reader = thread::spawn(move || run(FULMAR, &subscribe.each_ref().map(String::as_str)));
    let place = ["pub", "-h", "127.0.0.1", "-p", &port, "-t", &topic, "-q", "2"];
    wait_for_subscriber(broker, &topic);
    feed(&[&place[..], &["-l"]].concat(), &lines);
    feed(&[&place[..], &["-s"]].concat(), "all\nof it");
    feed(&[&place[..], &["-f", &file.display().to_string()]].concat(), "");
    let read = reader.join().unwrap();
    assert!(read.succeeded, "{}", read.output);
    assert_eq!(read.output, format!("are you there?\n{lines}all\nof it\nfrom a file\n"));
}

/// Runs `fulmar` with this on its standard input.
#[track_caller]
fn feed(arguments: &[&str], input: &str) {
    let mut child = Command::new(FULMAR).args(arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{arguments:?}");
}

/// Publishes until somebody gets it: 5.0 tells a publisher that nobody does.
#[track_caller]
fn wait_for_subscriber(broker: &Broker, topic: &str) {
    let mut client = connect(V5).client_id(unique("asks")).open(broker);
    let start = Instant::now();
    loop {
        client.send(&publish(topic, "are you there?").qos(1, 1).bytes(V5));
        let (_, reason, _) = client.read().ack(PUBACK);
        if reason == 0 {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "nobody subscribes");
    }
}

#[test]
fn pub_and_sub_talk_to_each_other_and_to_mosquittos() {
    let everywhere = Everywhere::start();
    let port = everywhere.broker.port().to_string();
    let mosquitto = ["-h", "127.0.0.1", "-p", &port];
    for url in everywhere.urls() {
        for qos in ["0", "1", "2"] {
            let topic = unique("tools");
            let ours = ["--url", &url, "--ca", &everywhere.ca, "-V", "5", "-t", &topic, "-q", qos];
            let published = run(FULMAR, &[&["pub"], &ours[..], &["-r", "-m", "carried by ours"]].concat());
            assert!(published.succeeded && published.output.is_empty(), "{published:?}");
            let read = run(FULMAR, &[&["sub"], &ours[..], &["-v", "-C", "1", "-W", "10"]].concat());
            assert!(read.succeeded, "{read:?}");
            assert_eq!(read.output, format!("{topic} carried by ours\n"));
            let theirs = [&mosquitto[..], &["-t", &topic, "-q", qos]].concat();
            let read = run("mosquitto_sub", &[&theirs[..], &["-C", "1", "-W", "10"]].concat());
            assert_eq!(read.output, "carried by ours\n");
            run("mosquitto_pub", &[&theirs[..], &["-r", "-m", "carried by theirs"]].concat());
            let read = run(FULMAR, &[&["sub"], &ours[..], &["-C", "1", "-W", "10", "-N"]].concat());
            assert_eq!(read.output, "carried by theirs");
            let cleared = run(FULMAR, &[&["pub"], &ours[..], &["-r", "-n"]].concat());
            assert!(cleared.succeeded, "{cleared:?}");
        }
    }
    let topic = unique("nothing");
    let late = run(FULMAR, &["sub", "-h", "127.0.0.1", "-p", &port, "-t", &topic, "-C", "1", "-W", "0"]);
    assert!(!late.succeeded && late.output.contains("1 messages did not come in time"), "{late:?}");
    let wildcard = run(FULMAR, &["pub", "-p", &port, "-t", "a/#", "-n"]);
    assert!(!wildcard.succeeded && wildcard.output.contains("'a/#' for '--topic <TOPIC>'"), "{wildcard:?}");
}
