//! Other people's programs: mosquitto's clients, openssl, curl; run to their end.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a program left behind.
#[derive(Debug)]
pub struct Outcome {
    pub succeeded: bool,
    /// Both of its streams.
    pub output: String,
}

/// Runs a program without input until it ends; panics if it is missing or takes 20 s.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> Outcome {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; bash tests/run installs it"));
    let mut streams: [Box<dyn Read + Send>; 2] =
        [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
    let [stdout, stderr] = &mut streams;
    let mut output = String::new();
    let errors = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut text = Vec::new();
        let watchdog = scope.spawn(|| {
            let start = Instant::now();
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    return status.success();
                }
                if start.elapsed() > PATIENCE {
                    child.kill().unwrap();
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        stdout.read_to_end(&mut text).unwrap();
        output = String::from_utf8_lossy(&text).into_owned();
        (reader.join().unwrap(), watchdog.join().unwrap())
    });
    output.push_str(&errors.0);
    Outcome { succeeded: errors.1, output }
}

/// Publishes a retained message and reads it back, each with a connection of its own.
#[track_caller]
pub fn mosquitto_round_trip(connection: &[&str], topic: &str) -> Result<(), String> {
    let publish = [connection, &["-V", "mqttv5", "-t", topic, "-q", "1", "-r", "-m", "carried"]].concat();
    let published = run("mosquitto_pub", &publish);
    if !published.succeeded {
        return Err(published.output);
    }
    let subscribe = [connection, &["-V", "mqttv311", "-t", topic, "-q", "1", "-C", "1", "-W", "10"]].concat();
    let received = run("mosquitto_sub", &subscribe);
    assert_eq!(received.output.trim(), "carried");
    Ok(())
}
