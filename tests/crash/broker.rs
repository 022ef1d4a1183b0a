//! The broker under test: any command that starts one on a port of the loopback with its data in a folder,
//! killed with SIGKILL and started again as often as wanted.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::random::Random;
use crate::support::unique;

/// Another broker to judge instead of Fulmar: a command line with `{PORT}` and `{DIR}` in it.
const COMMAND: &str = "FULMAR_CRASH_BROKER";

/// Its configuration files, separated by spaces: copied to `{DIR}`, with the placeholders filled in.
const FILES: &str = "FULMAR_CRASH_FILES";

/// If set, the folder stays when the test is over.
const KEEP: &str = "FULMAR_CRASH_KEEP";

/// How long a broker may take until it accepts a connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ends the broker when the pipe on standard input is closed without a word: the test process died.
const WATCH: &str = r#"read -r word || { kill -9 "$1"; sleep 0.2; rm -rf "$2"; }"#;

/// A broker and its folder; both end on drop.
pub struct Broker {
    name: String,
    is_fulmar: bool,
    command: String,
    port: u16,
    directory: PathBuf,
    running: Option<Running>,
}

struct Running {
    broker: Child,
    watch: Child,
}

impl Broker {
    /// Fulmar with these arguments; not started yet.
    pub fn fulmar(arguments: &str) -> Self {
        let program = env!("CARGO_BIN_EXE_fulmar");
        let command = format!("'{program}' run --port {{PORT}} --data-dir '{{DIR}}/data' {arguments}");
        let mut broker = Self::new(format!("fulmar run {arguments}"), &command, "");
        broker.is_fulmar = true;
        broker
    }

    /// The broker that the environment names, or else Fulmar.
    pub fn any(arguments: &str) -> Self {
        match std::env::var(COMMAND) {
            Ok(command) => Self::new(command.clone(), &command, &std::env::var(FILES).unwrap_or_default()),
            Err(_) => Self::fulmar(arguments),
        }
    }

    fn new(name: String, command: &str, files: &str) -> Self {
        let directory = std::env::temp_dir().join(unique("fulmar-crash"));
        fs::create_dir_all(&directory).unwrap();
        let mut broker = Self {
            name,
            is_fulmar: false,
            command: String::new(),
            port: free_port(),
            directory,
            running: None,
        };
        broker.command = broker.fill(command);
        for file in files.split_whitespace().map(Path::new) {
            let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            fs::write(broker.directory.join(file.file_name().unwrap()), broker.fill(&text)).unwrap();
        }
        broker
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{PORT}", &self.port.to_string()).replace("{DIR}", &self.directory.display().to_string())
    }

    /// Whether it is Fulmar, which promises more than the standard.
    pub fn is_fulmar(&self) -> bool {
        self.is_fulmar
    }

    /// What is under test, in words.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts the process and waits until it accepts connections.
    pub fn start(&mut self) -> Result<(), String> {
        self.spawn();
        let start = Instant::now();
        while !self.accepts() {
            if let Some(end) = self.end() {
                return Err(format!("{end} before it listened"));
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("the broker does not listen after {PATIENCE:?}{}", self.last_words()));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Starts the process and does not wait.
    pub fn spawn(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.directory.join("log")).unwrap();
        let broker = Command::new("sh")
            .args(["-c", &format!("exec {}", self.command)])
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let watch = Command::new("sh")
            .args(["-c", WATCH, "watch", &broker.id().to_string()])
            .arg(&self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.running = Some(Running { broker, watch });
    }

    /// If it has ended by itself: how, in words.
    pub fn end(&mut self) -> Option<String> {
        let status = self.running.as_mut()?.broker.try_wait().unwrap()?;
        Some(format!("the broker ended by itself with {status}{}", self.last_words()))
    }

    /// SIGKILL, at once; its data stays.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.broker.kill();
            let _ = running.broker.wait();
            let _ = running.watch.stdin.take().map(|mut pipe| pipe.write_all(b"over\n"));
            let _ = running.watch.wait();
        }
    }

    /// The end of its log.
    fn last_words(&self) -> String {
        let log = fs::read(self.directory.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().rev().take(12).collect();
        let lines: Vec<_> = lines.into_iter().rev().collect();
        format!("; the end of its log:\n{}", lines.join("\n"))
    }

    /// Whether somebody listens.
    fn accepts(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if std::env::var_os(KEEP).is_some() {
            println!("kept: {}", self.directory.display());
        } else {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// A port that was free a moment ago, and below those that systems choose for outgoing connections: while the
/// broker is down, none of them may take its port by chance, least of all a client that connects to itself.
fn free_port() -> u16 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = since.as_nanos() as u64 ^ u64::from(std::process::id()) << 40;
    let name = unique("port");
    let mut random = Random::new(seed, name.bytes().map(u64::from).sum());
    (0..1_000)
        .map(|_| 10_000 + random.below(20_000) as u16)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("of twenty thousand ports one is free")
}
