//! A small HTTP service that a test asks the broker to ask: it answers as the test says, and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use serde_json::Value;

/// What it answers to one question.
pub enum Reply {
    /// Status 200 and this body.
    Ok(String),
    /// A status line's rest, further headers, and a body.
    Other(&'static str, &'static str, String),
    /// Nothing, for as long as the service lives.
    Never,
    /// The connection is closed instead.
    HangUp,
}

/// See the module. Ends when dropped.
pub struct Service {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    over: AtomicBool,
    /// Being answered now, and the most at a time that there were.
    open: AtomicUsize,
    most: AtomicUsize,
    asked: Mutex<Vec<Value>>,
    gate: Mutex<bool>,
    opened: Condvar,
    reply: Box<dyn Fn(&Value) -> Reply + Send + Sync>,
}

/// What it is asked over: TCP, or TLS on top of it.
type Secure = Box<dyn Fn(TcpStream) -> Box<dyn Stream> + Send + Sync>;

pub trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

impl Service {
    pub fn start(reply: impl Fn(&Value) -> Reply + Send + Sync + 'static) -> Self {
        Self::over(Box::new(|stream| Box::new(stream)), reply)
    }

    pub fn over(secure: Secure, reply: impl Fn(&Value) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            over: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            asked: Mutex::default(),
            gate: Mutex::new(true),
            opened: Condvar::new(),
            reply: Box::new(reply),
        });
        let (secure, accepting) = (Arc::new(secure), shared.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.over.load(Ordering::Acquire) {
                    return;
                }
                let (stream, shared, secure) = (stream.unwrap(), accepting.clone(), secure.clone());
                thread::spawn(move || shared.serve(secure(stream)));
            }
        });
        Self { port, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/login?from=fulmar", self.port)
    }

    /// How often it was asked.
    pub fn count(&self) -> usize {
        self.shared.asked.lock().unwrap().len()
    }

    /// What it was asked last.
    pub fn last(&self) -> Value {
        self.shared.asked.lock().unwrap().last().expect("it was asked").clone()
    }

    /// The most questions that it had at a time.
    pub fn most(&self) -> usize {
        self.shared.most.load(Ordering::Acquire)
    }

    /// From now on it takes questions and answers none, until it is opened.
    pub fn shut(&self) {
        *self.shared.gate.lock().unwrap() = false;
    }

    pub fn open(&self) {
        *self.shared.gate.lock().unwrap() = true;
        self.shared.opened.notify_all();
    }
}

impl Shared {
    /// One connection, with as many questions as there are.
    fn serve(&self, stream: Box<dyn Stream>) {
        let mut stream = BufReader::new(stream);
        while let Some(question) = read_question(&mut stream) {
            let open = self.open.fetch_add(1, Ordering::AcqRel) + 1;
            self.most.fetch_max(open, Ordering::AcqRel);
            self.asked.lock().unwrap().push(question.clone());
            drop(self.opened.wait_while(self.gate.lock().unwrap(), |open| !*open).unwrap());
            let reply = (self.reply)(&question);
            if matches!(reply, Reply::Never) {
                // Until the broker gives up.
                let _ = stream.read(&mut [0; 1]);
            }
            self.open.fetch_sub(1, Ordering::AcqRel);
            let (status, headers, body) = match reply {
                Reply::Ok(body) => ("200 OK", "Content-Type: application/json\r\n", body),
                Reply::Other(status, headers, body) => (status, headers, body),
                Reply::Never | Reply::HangUp => return,
            };
            let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
            // A broker that has given up does not read it.
            if stream
                .get_mut()
                .write_all((head + &body).as_bytes())
                .and_then(|()| stream.get_mut().flush())
                .is_err()
            {
                return;
            }
        }
    }
}

/// A POST with JSON, by the letter of HTTP/1.1; `None` when the connection is over.
fn read_question(stream: &mut BufReader<Box<dyn Stream>>) -> Option<Value> {
    let mut line = String::new();
    if stream.read_line(&mut line).ok()? == 0 {
        return None;
    }
    assert_eq!(line, "POST /login?from=fulmar HTTP/1.1\r\n");
    let (mut length, mut kind) = (0, String::new());
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let line = line.trim_end().to_ascii_lowercase();
        match line.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(("content-type", value)) => value.clone_into(&mut kind),
            Some(_) => {}
            None => break,
        }
    }
    assert_eq!(kind, "application/json");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(serde_json::from_slice(&body).unwrap())
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        self.open();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}
