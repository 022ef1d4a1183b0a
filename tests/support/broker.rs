//! A broker process: started on a free port of the loopback, ended with the test, whatever becomes of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Another broker to test instead of Fulmar: a command line with `{PORT}` and `{DIR}` in it.
const PEER: &str = "FULMAR_CONFORMANCE_BROKER";

/// What the brokers of tests that do not care promise.
const DURABILITY: &str = "FULMAR_TEST_DURABILITY";

fn durability() -> String {
    std::env::var(DURABILITY).unwrap_or_else(|_| "none".to_owned())
}

/// How long a broker may take to listen, or to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs the broker, tells its process id, and kills it when the pipe on standard input closes: that happens
/// when the test drops it, and also when the whole test process dies. Then the folder `$1` goes too.
const GUARD: &str = r#"
directory=$1
shift
exec 3<&0
"$@" 3<&- </dev/null >&2 &
broker=$!
echo "$broker"
exec >&-
( read -r line <&3; : > "$directory/.over"; kill -9 "$broker" ) 2>/dev/null &
watch=$!
wait "$broker"
code=$?
[ ! -e "$directory/.over" ] || rm -rf "$directory"
kill "$watch" 2>/dev/null
exit "$code"
"#;

/// A running broker and its folder; both end on drop.
pub struct Broker {
    port: u16,
    pid: u32,
    guard: Child,
    pipe: Option<ChildStdin>,
    directory: PathBuf,
    /// Where it runs, if that is not where the tests do.
    site: Option<PathBuf>,
    config: Option<String>,
    arguments: Vec<String>,
}

/// The broker that all tests of one target share. Tests keep apart by their client identifiers and topics.
pub fn broker_under_test() -> &'static Broker {
    static SHARED: OnceLock<Broker> = OnceLock::new();
    SHARED.get_or_init(Broker::start)
}

/// A name no other test uses: for client identifiers and topics.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Broker {
    /// With the defaults; nothing on disk, unless FULMAR_TEST_DURABILITY says otherwise.
    pub fn start() -> Self {
        Self::launch(None, &["--durability", &durability()])
    }

    /// With a configuration in TOML, nothing on disk. `{PORT}` in it stands for the port; then it must name
    /// the listener itself.
    pub fn with_config(toml: &str) -> Self {
        Self::launch(Some(toml), &["--durability", &durability()])
    }

    /// As [`Broker::with_config`], run in a folder on which the relative paths of the configuration depend.
    pub fn with_config_in(site: &Path, toml: &str) -> Self {
        Self::launch_in(Some(site), Some(toml), &["--durability", &durability()])
    }

    /// With a configuration or none, and any arguments for `fulmar run`, such as `--durability sync`.
    pub fn launch(config: Option<&str>, arguments: &[&str]) -> Self {
        Self::launch_in(None, config, arguments)
    }

    fn launch_in(site: Option<&Path>, config: Option<&str>, arguments: &[&str]) -> Self {
        if config.is_some() && std::env::var_os(PEER).is_some() {
            panic!("a broker that is not Fulmar cannot be given its configuration");
        }
        let directory = std::env::temp_dir().join(unique("fulmar-test"));
        fs::create_dir_all(&directory).unwrap();
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let config = config.map(ToString::to_string);
        let mut failures = String::new();
        for _ in 0..5 {
            let port = free_port();
            match spawn(port, &directory, site, config.as_deref(), &arguments) {
                Ok((guard, pipe, pid)) => {
                    let site = site.map(Path::to_owned);
                    return Self { port, pid, guard, pipe: Some(pipe), directory, site, config, arguments };
                }
                Err(failure) => failures.push_str(&failure),
            }
        }
        let _ = fs::remove_dir_all(&directory);
        panic!("the broker does not start:\n{failures}");
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where a listener of that name listens, as the log tells: for those with port 0.
    pub fn address_of(&self, listener: &str) -> SocketAddr {
        let ending = format!(" name={listener}\n");
        self.wait_for_log(&ending);
        let log = self.log();
        let line = log.split_inclusive('\n').find(|line| line.ends_with(&ending));
        let address = line.and_then(|line| line.split("address=").nth(1)?.split(' ').next()?.parse().ok());
        address.unwrap_or_else(|| panic!("no address of {listener} in the log:\n{log}"))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its folder: the configuration, the log, and the data in `data`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it has written to standard error so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("stderr")).unwrap_or_default()
    }

    /// Waits until the log holds `words`; panics after 5 s.
    #[track_caller]
    pub fn wait_for_log(&self, words: &str) {
        let start = Instant::now();
        while !self.log().contains(words) {
            assert!(start.elapsed() < Duration::from_secs(5), "no {words:?} in the log:\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.guard.try_wait().unwrap().is_none()
    }

    /// Sends it a signal by name, such as `TERM`, `HUP`, `KILL`.
    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.pid);
        let status = Command::new("sh").args(["-c", &command]).status().unwrap();
        assert!(status.success(), "{command} failed");
    }

    /// Waits until it has ended; panics after 15 s.
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.guard.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the broker does not end:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it in the midst of what it does; its data stays.
    pub fn kill(&mut self) {
        self.signal("KILL");
        self.wait();
    }

    /// Asks it to end and waits until it has; its data stays.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// Starts it again, on the same port and with the same data, after `kill` or `stop`.
    pub fn restart(&mut self) {
        let start = Instant::now();
        loop {
            let site = self.site.as_deref();
            match spawn(self.port, &self.directory, site, self.config.as_deref(), &self.arguments) {
                Ok((guard, pipe, pid)) => {
                    (self.guard, self.pipe, self.pid) = (guard, Some(pipe), pid);
                    return;
                }
                Err(failure) => assert!(start.elapsed() < PATIENCE, "no restart: {failure}"),
            }
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.guard.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Starts the process and waits until it accepts connections.
fn spawn(
    port: u16,
    directory: &Path,
    site: Option<&Path>,
    config: Option<&str>,
    arguments: &[String],
) -> Result<(Child, ChildStdin, u32), String> {
    let log = fs::OpenOptions::new().create(true).append(true).open(directory.join("stderr")).unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", GUARD, "guard"])
        .arg(directory)
        .args(command_line(port, directory, config, arguments));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    if let Some(site) = site {
        command.current_dir(site);
    }
    let mut guard = command.spawn().unwrap();
    let pipe = guard.stdin.take().unwrap();
    let mut line = String::new();
    BufReader::new(guard.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid = line.trim().parse().unwrap();

    let start = Instant::now();
    loop {
        if let Some(status) = guard.try_wait().unwrap() {
            let log = fs::read_to_string(directory.join("stderr")).unwrap_or_default();
            return Err(format!("ended with {status}:\n{log}"));
        }
        if accepts(port) {
            return Ok((guard, pipe, pid));
        }
        if start.elapsed() > PATIENCE {
            drop(pipe);
            let _ = guard.wait();
            return Err(format!("does not listen on {port} after {PATIENCE:?}\n"));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether somebody listens. A connection to a free port of the ephemeral range may by chance be one from that
/// very port to itself: that is nobody.
fn accepts(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port))
        .is_ok_and(|stream| stream.local_addr().is_ok_and(|address| address.port() != port))
}

/// The broker's own command line, or that of the peer.
fn command_line(port: u16, directory: &Path, config: Option<&str>, arguments: &[String]) -> Vec<String> {
    if let Ok(peer) = std::env::var(PEER) {
        let fill = |word: &str| {
            word.replace("{PORT}", &port.to_string()).replace("{DIR}", &directory.display().to_string())
        };
        return peer.split_whitespace().map(fill).collect();
    }
    let mut line = vec![env!("CARGO_BIN_EXE_fulmar").to_string(), "run".to_string()];
    let mut names_listeners = false;
    if let Some(toml) = config {
        names_listeners = toml.contains("{PORT}");
        let file = directory.join("fulmar.toml");
        fs::write(&file, toml.replace("{PORT}", &port.to_string())).unwrap();
        line.extend(["-c".to_string(), file.display().to_string()]);
    }
    if !names_listeners {
        line.extend(["--port".to_string(), port.to_string()]);
    }
    line.extend(["--data-dir".to_string(), directory.join("data").display().to_string()]);
    if !arguments.iter().any(|argument| argument == "--log-level") {
        line.extend(["--log-level".to_string(), "info".to_string()]);
    }
    line.extend(arguments.iter().cloned());
    line
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
