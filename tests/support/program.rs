//! A program of somebody else's that runs beside a test: ended with it, and a while after the test process if that dies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long it may run, in seconds, whatever becomes of the test.
const LIFE: &str = "120";

/// How long it may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running program. It leads a process group, in which all that it starts ends with it.
pub struct Program {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Program {
    /// Starts it in `directory`, with these variables in its environment; what it writes goes to a file there.
    #[track_caller]
    pub fn start(name: &str, arguments: &[&str], directory: &Path, environment: &[(&str, &Path)]) -> Self {
        let file = Path::new(name).file_name().unwrap_or_default();
        let log = directory.join(file).with_extension("log");
        let output = fs::File::create(&log).unwrap();
        // `timeout` makes the group, ends it when its time is over, and passes a signal on to it.
        let child = Command::new("timeout")
            .args(["--kill-after=1", LIFE, name])
            .args(arguments)
            .current_dir(directory)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("timeout: {error}; bash tests/run installs coreutils"));
        Self { child, name: name.to_owned(), log }
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Panics with what it has written if it has ended.
    #[track_caller]
    pub fn must_run(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            let hint = if status.code() == Some(127) { "; bash tests/run installs it" } else { "" };
            panic!("{} ended with {status}{hint}:\n{}", self.name, self.log());
        }
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let signal = |name: &str, to: String| {
            let command = format!("kill -{name} {to}");
            let _ = Command::new("sh").args(["-c", &command]).stderr(Stdio::null()).status();
        };
        let id = self.child.id();
        let start = Instant::now();
        if !self.is_over() {
            signal("TERM", id.to_string());
        }
        while !self.is_over() && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(10));
        }
        // Whatever of the group is left.
        signal("KILL", format!("-- -{id}"));
        let _ = self.child.wait();
    }
}
