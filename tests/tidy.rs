//! Guards the shape of the house: reads `src/` and checks that imports only point down the floors, that the
//! sans-IO modules have neither a runtime, a socket nor a clock, and that nothing is mutable and global.
//!
//! Text, not syntax: comments and literals are blanked out, the rest is searched. It looks at what is there, so
//! a floor that is not built yet is no fault; a module that the table does not know is one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails must fail its test")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Module and floor; an import points to a lower floor, or stays in its own module. See ARCHITECTURE.md.
const FLOORS: [(&str, u8); 15] = [
    ("main", 7),
    ("cli", 7),
    ("server", 6),
    ("net", 5),
    ("admin", 5),
    ("broker", 4),
    ("routing", 3),
    ("session", 3),
    ("auth", 3),
    ("store", 2),
    ("codec", 1),
    ("message", 1),
    ("topic", 1),
    ("config", 1),
    ("limits", 1),
];

/// The ground floor's modules are shared nouns and may name each other.
const GROUND: u8 = 1;

/// What state in, packets out and time as an argument cannot do.
const SANS_IO: [&str; 3] = ["codec", "session", "routing"];
/// An address is a value like any other; a socket is not.
const NOT_SANS_IO: [&str; 9] = [
    "tokio",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "std::fs",
    "Instant::now",
    "SystemTime::now",
    "thread::sleep",
];

/// Types that make a static mutable.
const MUTABLE: [&str; 9] =
    ["mut ", "Atomic", "Mutex", "RwLock", "OnceLock", "OnceCell", "RefCell", "Cell<", "UnsafeCell"];

/// Statics that may be mutable after all: file, name, why.
const MUTABLE_AND_YET: [(&str, &str, &str); 4] = [
    ("src/broker/mod.rs", "THREADS", "numbers threads, whosever they are; no broker reads another's"),
    ("src/broker/mod.rs", "INDEX", "the number of this thread, set once"),
    ("src/net/round.rs", "BEGINS", "of the runtime's worker, which has one however many brokers it runs"),
    ("src/net/scratch.rs", "SCRATCH", "lent for one poll and given back empty of meaning"),
];

#[test]
fn imports_point_down_the_floors() {
    let mut faults = String::new();
    for file in sources() {
        for (line, import) in imports(&file.text, file.depth) {
            if let Some(fault) = misdirected(&file.module, &import) {
                let _ = writeln!(faults, "{}:{line}: {fault}", file.path);
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn every_module_has_its_floor() {
    for file in sources() {
        assert!(
            file.module == "lib" || floor(&file.module).is_some(),
            "{}: `{}` has no floor; give it one in this test and in ARCHITECTURE.md",
            file.path,
            file.module
        );
    }
}

#[test]
fn the_sans_io_modules_have_no_runtime_no_socket_and_no_clock() {
    let mut faults = String::new();
    let is_test = |file: &Source| file.path.ends_with("tests.rs") || file.path.contains("/tests/");
    for file in sources().iter().filter(|file| SANS_IO.contains(&file.module.as_str()) && !is_test(file)) {
        for (line, word) in worldly(&file.text) {
            let _ = writeln!(faults, "{}:{line}: `{word}`; time and bytes are arguments here", file.path);
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn nothing_global_is_mutable() {
    let mut faults = String::new();
    for file in sources() {
        for (line, name) in mutable_statics(&file.text) {
            if !MUTABLE_AND_YET.iter().any(|(path, known, _)| *path == file.path && *known == name) {
                let _ = writeln!(faults, "{}:{line}: static `{name}`; two brokers share it", file.path);
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn the_search_finds_what_it_looks_for() {
    let text = blank(
        "use crate::net::Connection; // crate::admin\nuse crate::{topic::Name, broker::{self, Broker}};",
    );
    assert_eq!(imports(&text, 1), [(1, "net".into()), (2, "topic".into()), (2, "broker".into())]);
    assert_eq!(imports("pub(in crate::session) fn f() { super::super::server::g() }", 2).len(), 2);
    assert_eq!(imports("super::server::g()", 2), [], "of its own module, at that depth");
    assert!(misdirected("session", "broker").is_some(), "up");
    assert!(misdirected("session", "routing").is_some(), "sideways");
    assert!(misdirected("session", "session").is_none(), "at home");
    assert!(misdirected("session", "codec").is_none(), "down");
    assert!(misdirected("message", "topic").is_none(), "on the ground");
    assert!(misdirected("codec", "store").is_some(), "up from the ground");

    assert_eq!(
        worldly(&blank("// tokio\nlet s = \"tokio\";\nlet n = Instant::now();")),
        [(3, "Instant::now")]
    );
    assert_eq!(worldly(&blank("fn f() {}\n#[cfg(test)]\nmod tests { fn now() { Instant::now(); } }")), []);
    assert_eq!(mutable_statics("static mut N: u8 = 0;\nstatic TABLE: [u8; 2] = [0; 2];")[0], (1, "N".into()));
    assert_eq!(mutable_statics("pub static COUNT: AtomicU64 = AtomicU64::new(0);").len(), 1);
    assert_eq!(mutable_statics("static TABLE: [u8; 2] = [0; 2]; fn f(s: &'static Mutex<u8>) {}"), []);
    assert_eq!(blank(r##"a '"' b "x\"y" c r#"z"# d 'a "##), r##"a     b        c        d 'a "##);
}

/// One file under `src/`, comments and literals blanked out.
struct Source {
    path: String,
    /// The first level: `session` of `src/session/window.rs`.
    module: String,
    /// How many `super::` lead out of the file's module to the root of the crate.
    depth: usize,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    gather(&root.join("src"), &mut files);
    files.sort();
    assert!(!files.is_empty(), "src/ has no Rust file");
    let source = |file: PathBuf| {
        let below = file.strip_prefix(root).expect("it is under the root").with_extension("");
        let mut levels: Vec<&str> = below.iter().skip(1).filter_map(|level| level.to_str()).collect();
        if levels.last() == Some(&"mod") {
            levels.pop();
        }
        Source {
            path: file.strip_prefix(root).expect("it is under the root").display().to_string(),
            module: levels[0].to_owned(),
            depth: levels.len(),
            text: blank(&fs::read_to_string(&file).expect("a source is UTF-8")),
        }
    };
    files.into_iter().map(source).collect()
}

fn gather(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src/ can be read") {
        let path = entry.expect("src/ can be read").path();
        if path.is_dir() {
            gather(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// Why an import of `to` in `from` is wrong, if it is. Names that are no module of the first level are fine.
fn misdirected(from: &str, to: &str) -> Option<String> {
    let there = floor(to)?;
    let here = floor(from)?;
    let fine = from == to || there < here || (here == GROUND && there == GROUND);
    (!fine).then(|| format!("`{from}` (floor {here}) must not know `{to}` (floor {there})"))
}

/// The first levels of all paths that begin with `crate::`, or with as many `super::` as lead there.
fn imports(text: &str, depth: usize) -> Vec<(usize, String)> {
    let to_the_root = "super::".repeat(depth);
    let mut found = Vec::new();
    for start in [&"crate::".to_owned(), &to_the_root] {
        for (position, _) in text.match_indices(start.as_str()) {
            if text[..position].ends_with(|before: char| before.is_alphanumeric() || before == '_')
                || (start == &to_the_root && text[..position].ends_with("::"))
            {
                continue;
            }
            let line = text[..position].lines().count().max(1);
            let rest = &text[position + start.len()..];
            found.extend(first_levels(rest).into_iter().map(|name| (line, name)));
        }
    }
    found
}

/// `a` of `a::b`, or `a` and `c` of `{a::b, c::{d}}`.
fn first_levels(path: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|character| character.is_alphanumeric() || *character == '_')
            .collect()
    };
    let Some(group) = path.strip_prefix('{') else {
        return vec![name(path)];
    };
    let mut names = vec![name(group)];
    let mut open = 1;
    for (position, character) in group.char_indices() {
        match character {
            '{' => open += 1,
            '}' => open -= 1,
            ',' if open == 1 => names.push(name(&group[position + 1..])),
            _ => {}
        }
        if open == 0 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// What does not belong in a sans-IO module, outside its tests.
fn worldly(text: &str) -> Vec<(usize, &'static str)> {
    let on_line = |line: &str| NOT_SANS_IO.into_iter().find(|word| line.contains(word));
    without_tests(text)
        .lines()
        .enumerate()
        .filter_map(|(index, line)| Some((index + 1, on_line(line)?)))
        .collect()
}

/// The text up to the test module, which stands at the end of a file.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or_default()
}

/// Line and name of every static whose type can change, outside the tests.
fn mutable_statics(text: &str) -> Vec<(usize, String)> {
    let text = without_tests(text);
    let mut found = Vec::new();
    for (position, _) in text.match_indices("static ") {
        let before = text[..position].trim_end_matches([' ', '\t']);
        let begins =
            before.is_empty() || before.ends_with(['\n', ';', '{', '}', ')']) || before.ends_with("pub");
        if !begins {
            continue;
        }
        let declaration = text[position + 7..].split(['=', ';']).next().unwrap_or_default();
        if MUTABLE.iter().any(|word| declaration.contains(word)) {
            let name = declaration.trim_start_matches("mut ").split(':').next().unwrap_or_default();
            found.push((text[..position].lines().count().max(1), name.trim().to_owned()));
        }
    }
    found
}

/// The text with comments, strings and characters turned into blanks; lines stay where they are.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let length = match rest {
            [b'/', b'/', ..] => rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
            [b'/', b'*', ..] => end_of_block(rest),
            [b'"', ..] => end_of_string(rest),
            [b'r', b'"' | b'#', ..] if !at.checked_sub(1).is_some_and(|before| is_word(bytes[before])) => {
                end_of_raw_string(rest)
            }
            [b'\'', b'\\', ..] => {
                rest.iter().skip(3).position(|byte| *byte == b'\'').map_or(1, |end| end + 4)
            }
            [b'\'', _, b'\'', ..] => 3,
            _ => 0,
        };
        for byte in &mut out[at..at + length] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at += length.max(1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn end_of_block(bytes: &[u8]) -> usize {
    let mut depth = 0_usize;
    for (index, pair) in bytes.windows(2).enumerate() {
        match pair {
            b"/*" => depth += 1,
            b"*/" => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return index + 2;
        }
    }
    bytes.len()
}

fn end_of_string(bytes: &[u8]) -> usize {
    let mut escaped = false;
    for (index, byte) in bytes.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    bytes.len()
}

/// 0 if it is no raw string after all (`r#type`).
fn end_of_raw_string(bytes: &[u8]) -> usize {
    let marks = bytes.iter().skip(1).take_while(|byte| **byte == b'#').count();
    if bytes.get(1 + marks) != Some(&b'"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(marks));
    let body = &bytes[2 + marks..];
    let position = body.windows(end.len()).position(|window| window == end.as_bytes());
    position.map_or(bytes.len(), |position| 2 + marks + position + end.len())
}
