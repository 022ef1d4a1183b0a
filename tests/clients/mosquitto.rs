//! `mosquitto_pub` and `mosquitto_sub` in MQTT 3.1, 3.1.1 and 5.0.

use std::collections::{BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{broker_under_test, unique};

const VERSIONS: [&str; 3] = ["mqttv31", "mqttv311", "mqttv5"];

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a subscriber prints of a message unless told otherwise: topic, QoS, RETAIN, payload.
const FORMAT: &str = "%t|%q|%r|%p";

#[test]
fn every_quality_of_service_arrives() {
    for version in VERSIONS {
        for qos in ["0", "1", "2"] {
            let topic = unique("qos");
            let mut subscriber = Subscriber::start(version, &["-t", &topic, "-q", qos]);
            publish(version, &["-t", &topic, "-q", qos, "-m", "hello"]);
            assert_eq!(subscriber.message(), format!("{topic}|{qos}|0|hello"), "{version}");
        }
    }
}

#[test]
fn the_lower_quality_of_service_counts() {
    for version in VERSIONS {
        let topic = unique("downgrade");
        let mut subscriber = Subscriber::start(version, &["-t", &topic, "-q", "1"]);
        publish(version, &["-t", &topic, "-q", "2", "-m", "hello"]);
        assert_eq!(subscriber.message(), format!("{topic}|1|0|hello"), "{version}");
    }
}

#[test]
fn a_retained_message_waits_for_subscribers_until_it_is_cleared() {
    for version in VERSIONS {
        let (topic, marker) = (unique("retained"), unique("marker"));
        publish(version, &["-t", &topic, "-q", "1", "-r", "-m", "first"]);
        publish(version, &["-t", &topic, "-q", "1", "-r", "-m", "kept"]);
        let mut subscriber = Subscriber::start(version, &["-t", &topic, "-q", "1"]);
        assert_eq!(subscriber.message(), format!("{topic}|1|1|kept"), "{version}");

        publish(version, &["-t", &topic, "-q", "1", "-r", "-n"]);
        assert_eq!(subscriber.message(), format!("{topic}|1|0|"), "{version}: a live one has no RETAIN");
        let mut late = Subscriber::start(version, &["-t", &topic, "-t", &marker, "-q", "1"]);
        publish(version, &["-t", &marker, "-m", "now"]);
        assert_eq!(late.message(), format!("{marker}|0|0|now"), "{version}: nothing is retained any more");
    }
}

#[test]
fn the_will_of_a_killed_client_is_published_and_that_of_one_that_leaves_is_not() {
    for version in VERSIONS {
        let (topic, ending) = (unique("will"), unique("ending"));
        let will = ["--will-topic", &topic, "--will-qos", "1", "--will-payload"];
        let mut watcher = Subscriber::start(version, &["-t", &topic, "-q", "1"]);

        // `-C 1`: it disconnects after one message.
        let leaving =
            Subscriber::start(version, &[&["-t", &ending, "-C", "1"], &will[..], &["left"]].concat());
        publish(version, &["-t", &ending, "-m", "go"]);
        leaving.until_it_ends();
        let killed = Subscriber::start(version, &[&["-t", &ending], &will[..], &["killed"]].concat());
        killed.kill();
        assert_eq!(watcher.message(), format!("{topic}|1|0|killed"), "{version}");
    }
}

#[test]
fn a_client_may_leave_and_ask_for_its_will() {
    let topic = unique("asked-for");
    let mut watcher = Subscriber::start("mqttv5", &["-t", &topic]);
    // At SIGTERM the tool sends DISCONNECT with reason code 0x04.
    Subscriber::start("mqttv5", &["-t", "nothing", "--will-topic", &topic, "--will-payload", "bye"]).leave();
    assert_eq!(watcher.message(), format!("{topic}|0|0|bye"));
}

#[test]
fn a_retained_will_is_there_for_later_subscribers() {
    for version in VERSIONS {
        let topic = unique("retained-will");
        let mut watcher = Subscriber::start(version, &["-t", &topic]);
        let killed = Subscriber::start(
            version,
            &["-t", "nothing", "--will-topic", &topic, "--will-payload", "gone", "--will-retain"],
        );
        killed.kill();
        assert_eq!(watcher.message(), format!("{topic}|0|0|gone"), "{version}");
        let mut late = Subscriber::start(version, &["-t", &topic]);
        assert_eq!(late.message(), format!("{topic}|0|1|gone"), "{version}");
    }
}

#[test]
fn a_persistent_session_gets_what_came_while_it_was_away() {
    for version in VERSIONS {
        for kill in [false, true] {
            let (topic, id) = (unique("offline"), unique("sleeper"));
            let mut arguments = vec!["-c", "-i", &id, "-t", &topic, "-q", "2"];
            if version == "mqttv5" {
                arguments.extend(["-x", "3600"]);
            }
            let first = Subscriber::start(version, &arguments);
            if kill {
                first.kill()
            } else {
                first.leave()
            }
            for (payload, qos) in [("one", "1"), ("two", "2"), ("three", "1"), ("four", "2")] {
                publish(version, &["-t", &topic, "-q", qos, "-m", payload]);
            }
            let mut second = Subscriber::start(version, &arguments);
            // In order for each QoS; the tool tells of a QoS 2 message when its PUBREL has come.
            let mut messages: Vec<String> = (0..4).map(|_| second.message()).collect();
            messages.sort_by_key(|message| message.contains("|2|0|"));
            let expected = [("one", "1"), ("three", "1"), ("two", "2"), ("four", "2")]
                .map(|(payload, qos)| format!("{topic}|{qos}|0|{payload}"));
            assert_eq!(messages, expected, "{version}, kill: {kill}");
        }
    }
}

#[test]
fn a_clean_session_gets_nothing_of_what_it_missed() {
    for version in VERSIONS {
        let (topic, id) = (unique("missed"), unique("forgetful"));
        let arguments = ["-i", &id, "-t", &topic, "-q", "1"];
        Subscriber::start(version, &arguments).leave();
        publish(version, &["-t", &topic, "-q", "1", "-m", "missed"]);
        let mut second = Subscriber::start(version, &arguments);
        publish(version, &["-t", &topic, "-q", "1", "-m", "seen"]);
        assert_eq!(second.message(), format!("{topic}|1|0|seen"), "{version}");
    }
}

#[test]
fn wildcards_match() {
    for version in VERSIONS {
        let root = unique("wild");
        let (plus, hash, marker) = (format!("{root}/+/x"), format!("{root}/deep/#"), format!("{root}/end"));
        let mut subscriber = Subscriber::start(version, &["-t", &plus, "-t", &hash, "-t", &marker]);
        for topic in ["a/y", "a/x", "a/b/x", "deep", "deep/1/2", "end"] {
            publish(version, &["-t", &format!("{root}/{topic}"), "-m", "m"]);
        }
        for topic in ["a/x", "deep", "deep/1/2", "end"] {
            assert_eq!(subscriber.message(), format!("{root}/{topic}|0|0|m"), "{version}");
        }
    }
}

#[test]
fn a_shared_subscription_gives_each_message_to_one_member() {
    for version in VERSIONS {
        let (topic, marker) = (unique("shared"), unique("marker"));
        let share = format!("$share/group/{topic}");
        let arguments = ["-t", &share, "-t", &marker, "-q", "1"];
        let mut members = [Subscriber::start(version, &arguments), Subscriber::start(version, &arguments)];
        let payloads: Vec<String> = (0..40).map(|number| number.to_string()).collect();
        publish_lines(version, &["-t", &topic, "-q", "1"], &payloads);
        // The marker is not shared: it ends what each member has got, at QoS 1 and in order behind it.
        publish(version, &["-t", &marker, "-q", "1", "-m", "end"]);
        let mut seen = Vec::new();
        let mut before_marker = |member: &mut Subscriber| {
            loop {
                let line = member.message();
                if line == format!("{marker}|1|0|end") {
                    return;
                }
                seen.push(line);
            }
        };
        members.iter_mut().for_each(&mut before_marker);
        let expected: BTreeSet<String> =
            payloads.iter().map(|payload| format!("{topic}|1|0|{payload}")).collect();
        assert_eq!(seen.len(), expected.len(), "{version}: each once: {seen:?}");
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), expected, "{version}");
    }
}

#[test]
fn a_large_message_arrives_whole() {
    for version in VERSIONS {
        for qos in ["0", "2"] {
            let topic = unique("large");
            let payload = "0123456789abcdef".repeat(6_000);
            let mut subscriber = Subscriber::start(version, &["-t", &topic, "-q", qos]);
            publish(version, &["-t", &topic, "-q", qos, "-m", &payload]);
            let message = subscriber.message();
            assert!(message == format!("{topic}|{qos}|0|{payload}"), "{version}: {} bytes", message.len());
        }
    }
}

#[test]
fn user_properties_and_the_other_properties_travel_unchanged() {
    let topic = unique("properties");
    let mut subscriber = Subscriber::with_format("mqttv5", "%P|%C|%F|%R|%D|%p", &["-t", &topic, "-q", "1"]);
    let mut arguments = vec!["-t", &topic, "-q", "1", "-m", "hello"];
    for property in [
        &["user-property", "colour", "red"][..],
        &["user-property", "colour", "green"],
        &["content-type", "text/plain"],
        &["payload-format-indicator", "1"],
        &["response-topic", "the/answer"],
        &["correlation-data", "42"],
    ] {
        arguments.extend(["-D", "publish"]);
        arguments.extend(property);
    }
    publish("mqttv5", &arguments);
    assert_eq!(subscriber.message(), "colour:red colour:green|text/plain|1|the/answer|42|hello");
}

#[test]
fn a_request_is_answered_over_its_response_topic() {
    let (request, response) = (unique("request"), unique("response"));
    let mut responder = Subscriber::with_format("mqttv5", "%R|%D|%p", &["-t", &request, "-q", "1"]);
    let mut requester = Subscriber::run(
        "mosquitto_rr",
        "mqttv5",
        FORMAT,
        &[
            "-t",
            &request,
            "-e",
            &response,
            "-q",
            "1",
            "-m",
            "question",
            "-D",
            "publish",
            "correlation-data",
            "x",
        ],
    );
    requester.wait_for_line("received SUBACK");
    assert_eq!(responder.message(), format!("{response}|x|question"));
    publish("mqttv5", &["-t", &response, "-q", "1", "-m", "answer"]);
    assert_eq!(requester.message(), format!("{response}|1|0|answer"));
}

#[test]
fn the_subscription_identifier_comes_with_the_message() {
    let topic = unique("identifier");
    let mut subscriber = Subscriber::with_format(
        "mqttv5",
        "%S|%p",
        &["-t", &topic, "-D", "subscribe", "subscription-identifier", "268435455"],
    );
    publish("mqttv5", &["-t", &topic, "-m", "hello"]);
    assert_eq!(subscriber.message(), "268435455|hello");
}

#[test]
fn a_topic_alias_stands_for_its_topic() {
    for qos in ["0", "1", "2"] {
        let topic = unique("alias");
        // Only from client to broker: mosquitto_sub offers a Topic Alias Maximum but cannot read an alias.
        let mut subscriber = Subscriber::start("mqttv5", &["-t", &topic, "-q", qos]);
        let payloads: Vec<String> = (0..5).map(|number| number.to_string()).collect();
        publish_lines("mqttv5", &["-t", &topic, "-q", qos, "-D", "publish", "topic-alias", "3"], &payloads);
        for payload in payloads {
            assert_eq!(subscriber.message(), format!("{topic}|{qos}|0|{payload}"));
        }
    }
}

#[test]
fn the_message_expiry_interval_counts_down_while_the_subscriber_is_away() {
    let (topic, id) = (unique("expiry"), unique("sleeper"));
    let arguments = ["-c", "-x", "3600", "-i", &id, "-t", &topic, "-q", "1"];
    Subscriber::start("mqttv5", &arguments).leave();
    let expiry = ["-D", "publish", "message-expiry-interval"];
    publish("mqttv5", &[&["-t", &topic, "-q", "1", "-m", "short"], &expiry[..], &["1"]].concat());
    publish("mqttv5", &[&["-t", &topic, "-q", "1", "-m", "long"], &expiry[..], &["100"]].concat());
    // The interval itself must pass; nothing announces its end.
    thread::sleep(Duration::from_millis(2_200));
    let mut subscriber = Subscriber::with_format("mqttv5", "%E|%p", &arguments);
    let message = subscriber.message();
    let (left, payload) = message.split_once('|').expect("the format has a bar");
    assert_eq!(payload, "long", "the short one has expired");
    let left: u32 = left.parse().expect("a number of seconds");
    assert!((80..=98).contains(&left), "{left} s left of 100 after more than two");
}

#[test]
fn a_newer_connection_takes_the_client_identifier_over() {
    for version in VERSIONS {
        let (topic, gone, id) = (unique("takeover"), unique("gone"), unique("twin"));
        let mut watcher = Subscriber::start(version, &["-t", &gone]);
        let arguments = ["-i", &id, "-t", &topic, "--will-topic", &gone, "--will-payload", "out"];
        let first = Subscriber::start(version, &arguments);
        // Otherwise it would connect again and take its identifier back.
        first.freeze();
        let mut second = Subscriber::start(version, &arguments);
        assert_eq!(watcher.message(), format!("{gone}|0|0|out"), "{version}: the first one is thrown out");
        publish(version, &["-t", &topic, "-m", "hello"]);
        assert_eq!(second.message(), format!("{topic}|0|0|hello"), "{version}");
    }
}

/// Publishes and waits until the tool has ended well, which it does when the exchange is over.
fn publish(version: &str, arguments: &[&str]) {
    publish_lines(version, arguments, &[]);
}

/// Publishes one message per line (option `-l`), or what `arguments` say if there are none.
fn publish_lines(version: &str, arguments: &[&str], lines: &[String]) {
    let mut command = tool("mosquitto_pub", version);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if !lines.is_empty() {
        command.arg("-l");
    }
    let mut child = spawn(&mut command);
    let mut input = child.stdin.take().expect("piped");
    for line in lines {
        writeln!(input, "{line}").expect("mosquitto_pub reads its input");
    }
    drop(input);
    let output = child.wait_with_output().expect("mosquitto_pub ends");
    assert!(
        output.status.success(),
        "mosquitto_pub -V {version} {arguments:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A tool that subscribes, its output line by line; killed on drop.
struct Subscriber {
    child: Child,
    lines: Receiver<String>,
    /// Messages that came while something else was waited for.
    early: VecDeque<String>,
    /// Every line so far, for the message of a failure.
    transcript: Vec<String>,
}

impl Subscriber {
    /// Returns when the SUBACK is there.
    fn start(version: &str, arguments: &[&str]) -> Self {
        Self::with_format(version, FORMAT, arguments)
    }

    fn with_format(version: &str, format: &str, arguments: &[&str]) -> Self {
        let mut subscriber = Self::run("mosquitto_sub", version, format, arguments);
        subscriber.until_subscribed_again();
        subscriber
    }

    fn run(name: &str, version: &str, format: &str, arguments: &[&str]) -> Self {
        let mut command = tool(name, version);
        // `-d` tells of every packet, and `stdbuf` lets each line through at once.
        command.args(["-d", "-F", &format!("MESSAGE {format}")]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = spawn(&mut command);
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, early: VecDeque::new(), transcript: Vec::new() }
    }

    /// Waits for the next SUBACK.
    #[track_caller]
    fn until_subscribed_again(&mut self) {
        // A broker may send messages before the SUBACK; a resumed session's come so.
        let line = loop {
            let line = self.wait_for_line("");
            if line.contains("Subscribed (mid:") {
                break line;
            }
            if line.contains("MESSAGE ") {
                self.early.push_back(line);
            }
        };
        let granted = line.rsplit(": ").next().unwrap_or_default();
        assert!(granted.split(", ").all(|code| matches!(code, "0" | "1" | "2")), "refused: {line}");
    }

    /// The next message in the chosen format.
    #[track_caller]
    fn message(&mut self) -> String {
        let line = self.early.pop_front().unwrap_or_else(|| self.wait_for_line("MESSAGE "));
        line.replacen("MESSAGE ", "", 1)
    }

    #[track_caller]
    fn wait_for_line(&mut self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.transcript.push(line.clone());
                    if line.contains(words) {
                        return line;
                    }
                }
                Err(error @ (RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected)) => {
                    panic!("no {words:?} ({error}); so far:\n{}", self.transcript.join("\n"))
                }
            }
        }
    }

    /// Lets the tool disconnect as it should, and waits for its end.
    fn leave(mut self) {
        self.signal("-TERM");
        self.child.wait().expect("the child is ours");
    }

    /// Waits for the tool to end of itself.
    fn until_it_ends(mut self) {
        self.wait_for_line("sending DISCONNECT");
        self.child.wait().expect("the child is ours");
    }

    /// Stops the process where it stands; its socket stays open.
    fn freeze(&self) {
        self.signal("-STOP");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let command = format!("kill {signal} {pid}");
        let status = Command::new("sh").args(["-c", &command]).status().expect("sh runs");
        assert!(status.success(), "kill {signal} {pid}");
    }

    /// Ends the process by its id, without a DISCONNECT.
    fn kill(mut self) {
        self.child.kill().expect("the child is ours");
        self.child.wait().expect("the child is ours");
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tool(name: &str, version: &str) -> Command {
    let mut command = Command::new("stdbuf");
    let port = broker_under_test().port().to_string();
    command.args(["-oL", name, "-h", "127.0.0.1", "-p", &port, "-V", version]);
    require(name);
    command
}

/// A missing tool is no reason to pass.
fn require(name: &str) {
    let found = Command::new(name).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if let Err(error) = found {
        panic!(
            "{name} cannot be run ({error}): `bash tests/run --install` or `apt-get install mosquitto-clients`"
        );
    }
}

fn spawn(command: &mut Command) -> Child {
    command.spawn().unwrap_or_else(|error| {
        let reason = if error.kind() == ErrorKind::NotFound { "install coreutils" } else { "" };
        panic!("{command:?}: {error} {reason}")
    })
}
