//! A headless Chromium, led by the DevTools protocol: open a page, evaluate in it, be told what it answers.

use std::collections::VecDeque;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::certificates::Folder;
use crate::support::program::Program;
use crate::support::websocket::{FIN, TEXT, WebSocket, frame, head, request};

/// How long the browser may take to start, and how long it may be silent when something is expected of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nothing is asked of anybody but the broker, and nothing is kept.
const FLAGS: [&str; 9] = [
    "--headless",
    // The pages are our own, and root has no other way.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
];

/// A browser with one page, and a home of its own; all of it ends on drop.
pub struct Chromium {
    // Fields are dropped in this order: the browser ends before its home goes.
    socket: WebSocket<TcpStream>,
    program: Program,
    _home: Folder,
    session: String,
    calls: u64,
    events: VecDeque<Value>,
}

impl Chromium {
    /// Starts it; it trusts the authority in that file, if there is one, beside those that it comes with.
    #[track_caller]
    pub fn start(authority: Option<&Path>) -> Self {
        let home = Folder::new();
        if let Some(authority) = authority {
            trust(home.path(), authority);
        }
        let profile = home.path().join("profile");
        let profile_flag = format!("--user-data-dir={}", profile.display());
        let arguments = [&FLAGS[..], &[&profile_flag, "about:blank"]].concat();
        let mut program = Program::start("chromium", &arguments, home.path(), &[("HOME", home.path())]);

        // Where it is led from stands in this file: the port, and the path of the WebSocket.
        let start = Instant::now();
        let (port, path) = loop {
            let text = fs::read_to_string(profile.join("DevToolsActivePort")).unwrap_or_default();
            if let Some((port, path)) = text.split_once('\n') {
                break (port.parse::<u16>().unwrap(), path.trim().to_owned());
            }
            program.must_run();
            assert!(start.elapsed() < PATIENCE, "Chromium does not start:\n{}", program.log());
            thread::sleep(Duration::from_millis(20));
        };
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        std::io::Write::write_all(&mut stream, request(&path, "").as_bytes()).unwrap();
        let answer = head(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");

        let socket = WebSocket::upgraded(stream);
        let mut this =
            Self { socket, program, _home: home, session: String::new(), calls: 0, events: VecDeque::new() };
        let target = this.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached =
            this.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        this.session = attached["sessionId"].as_str().unwrap().to_owned();
        this.call("Page.enable", json!({}));
        this.call("Runtime.enable", json!({}));
        this
    }

    /// Opens a page and waits until it has been loaded.
    #[track_caller]
    pub fn open(&mut self, url: &str) {
        self.events.clear();
        let answer = self.call("Page.navigate", json!({ "url": url }));
        assert_eq!(answer["errorText"], Value::Null, "{url}");
        self.wait_for("Page.loadEventFired");
    }

    /// Loads the page again.
    #[track_caller]
    pub fn reload(&mut self) {
        self.events.clear();
        self.call("Page.reload", json!({}));
        self.wait_for("Page.loadEventFired");
    }

    /// Evaluates an expression in the page, and waits for the value if it is a promise. What it throws is the error.
    #[track_caller]
    pub fn evaluate(&mut self, expression: &str) -> Result<Value, String> {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", parameters);
        match answer.get("exceptionDetails") {
            None => Ok(answer["result"]["value"].clone()),
            Some(details) => {
                let thrown = details["exception"]["description"].as_str().map(str::to_owned);
                Err(thrown.unwrap_or_else(|| details.to_string()))
            }
        }
    }

    /// Waits until an expression is true in the page.
    #[track_caller]
    pub fn wait_until(&mut self, expression: &str) {
        let start = Instant::now();
        while self.evaluate(expression) != Ok(Value::Bool(true)) {
            if start.elapsed() > PATIENCE {
                let page = self.evaluate("document.body.innerText");
                panic!("in vain waited for {expression}; the page:\n{page:#?}\n{:#?}", self.events);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn wait_for(&mut self, event: &str) {
        loop {
            while let Some(seen) = self.events.pop_front() {
                if seen["method"] == event {
                    return;
                }
            }
            self.read();
        }
    }

    /// Calls a method and waits for its result.
    #[track_caller]
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let mut call = json!({ "id": id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            call["sessionId"] = json!(self.session);
        }
        let bytes = frame(FIN | TEXT, call.to_string().as_bytes());
        std::io::Write::write_all(&mut self.socket.inner, &bytes).unwrap();
        loop {
            if let Some(answer) = self.read().filter(|answer| answer["id"] == id) {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// The next message, if it is an answer; an event is kept.
    #[track_caller]
    fn read(&mut self) -> Option<Value> {
        let frame = self.socket.read_frame().unwrap_or_else(|error| {
            panic!("Chromium does not answer ({error}):\n{}\n{:#?}", self.program.log(), self.events)
        });
        let message: Value = serde_json::from_slice(&frame.payload).expect("JSON");
        if message.get("id").is_some() {
            return Some(message);
        }
        self.events.push_back(message);
        None
    }
}

/// As a user does it, in the store of certificates that Chromium looks into in its home.
#[track_caller]
fn trust(home: &Path, authority: &Path) {
    let folder = home.join(".pki/nssdb");
    fs::create_dir_all(&folder).unwrap();
    let store = format!("sql:{}", folder.display());
    let authority = authority.display().to_string();
    for arguments in
        [&["-N", "--empty-password"][..], &["-A", "-t", "C,,", "-n", "trusted", "-i", &authority]]
    {
        let output = Command::new("certutil")
            .args(["-d", &store])
            .args(arguments)
            .output()
            .unwrap_or_else(|error| panic!("certutil: {error}; bash tests/run installs libnss3-tools"));
        assert!(output.status.success(), "{output:?}");
    }
}
