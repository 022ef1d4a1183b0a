//! The real binary: what it prints, where, and with which exit code it ends.
#![expect(clippy::unwrap_used, reason = "what prepares a test may end it")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a finished process left behind.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

#[test]
fn help_and_version_are_answers() {
    let help = fulmar(&["--help"], &[]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{help:?}");
    for word in ["run", "check", "--config <FILE>", "--port <N>", "--durability <MODE>", "127.0.0.1:1883"] {
        assert!(help.stdout.contains(word), "{word} is not in {}", help.stdout);
    }
    let version = fulmar(&["--version"], &[]);
    assert_eq!(version.code, Some(0));
    assert_eq!(version.stdout, concat!("fulmar ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_wrong_command_line_is_told_and_ends_with_2() {
    for (arguments, told) in [
        (&["--port", "70000"][..], "70000"),
        (&["run", "--ws-port", "many"], "invalid digit"),
        (&["--durability", "maybe"], "expected \"sync\", \"os\" or \"none\""),
        (&["run", "--log-level", "loud"], "expected \"error\", \"warn\", \"info\""),
        (&["--data-dir", ""], "expected the path of a folder"),
        (&["fly"], "unrecognized subcommand"),
        (&["check", "--port", "1"], "unexpected argument"),
    ] {
        let outcome = fulmar(arguments, &[]);
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {outcome:?}");
        assert_eq!(outcome.stdout, "", "{arguments:?}");
        assert!(outcome.stderr.contains(told), "{arguments:?}: {}", outcome.stderr);
    }
}

#[test]
fn a_good_configuration_is_told_what_it_would_do() {
    let defaults = fulmar(&["check"], &[]);
    assert_eq!((defaults.code, defaults.stderr.as_str()), (Some(0), ""), "{defaults:?}");
    assert_eq!(
        defaults.stdout,
        "the default configuration is good; it would listen as mqtt on 127.0.0.1:1883 (tcp), websocket on \
         127.0.0.1:8083 (ws)\n"
    );

    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/fulmar.toml");
    let outcome = check(&example, &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");

    let file = TemporaryFile::new(
        "[[listeners]]\nname = \"inside\"\naddress = \"[::1]:2883\"\n\
         [[listeners]]\naddress = \"0.0.0.0:2884\"\nallow_anonymous = true\n",
    );
    let outcome = check(&file.path, &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome.stdout.ends_with("inside on [::1]:2883 (tcp), listener-2 on 0.0.0.0:2884 (tcp)\n"),
        "{outcome:?}"
    );
}

#[test]
fn everything_wrong_is_told_at_once() {
    let file = TemporaryFile::new(
        "[limits]\nmax_packet_size = \"huge\"\nmax_conections = 1\n\n\
         [[listeners]]\naddress = \"0.0.0.0:1883\"\nmax_connections = -1\n\n[queue]\noverflow = \"drop\"\n",
    );
    let name = file.path.display();
    let expected = [
        format!("{name}:2: limits.max_packet_size = \"huge\": expected a size from "),
        format!(
            "{name}:3: limits.max_conections: there is no such key; did you mean limits.max_connections?"
        ),
        format!("{name}:5: listeners[0].allow_anonymous is missing: "),
        format!("{name}:7: listeners[0].max_connections = -1: expected a number from 1 to "),
        format!(
            "{name}:10: queue.overflow = \"drop\": expected \"drop-oldest\", \"drop-newest\" or \"reject\""
        ),
        "FULMAR__LOG__LEVEL: log.level = \"loud\": expected ".to_owned(),
        "fulmar: 6 problems in the configuration".to_owned(),
    ];
    let path = file.path.to_str().unwrap();
    // A run refuses what a check refuses.
    for arguments in [&["check", "-c", path][..], &["run", "-c", path], &["-c", path, "--port", "0"]] {
        let outcome = fulmar(arguments, &[("FULMAR__LOG__LEVEL", "loud")]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:?}");
        let told: Vec<_> = outcome.stderr.lines().collect();
        assert_eq!(told.len(), expected.len(), "{}", outcome.stderr);
        for (line, start) in told.iter().zip(&expected) {
            assert!(line.starts_with(start), "expected {start}\nfound    {line}");
        }
    }
}

#[test]
fn a_file_that_is_no_toml_or_not_there_is_told() {
    let file = TemporaryFile::new("[limits\n");
    let outcome = check(&file.path, &[]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("TOML parse error at line 1"), "{outcome:?}");

    let outcome = check(Path::new("no/such/file.toml"), &[]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.starts_with("no/such/file.toml: the file cannot be read: "), "{outcome:?}");
}

#[test]
fn the_environment_overrides_the_file() {
    let file = TemporaryFile::new("limits.outbox_soft = \"64KiB\"\n");
    assert_eq!(check(&file.path, &[("FULMAR__LIMITS__OUTBOX_HARD", "1MiB")]).code, Some(0));
    // Only with the file's value below it is this one too small.
    let outcome = check(&file.path, &[("FULMAR__LIMITS__OUTBOX_HARD", "2KiB")]);
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stderr.contains("limits.outbox_soft must be less than limits.outbox_hard"),
        "{outcome:?}"
    );
    // And over the file's value it counts.
    let outcome = check(&file.path, &[("FULMAR__LIMITS__OUTBOX_SOFT", "9MiB")]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.starts_with("FULMAR__LIMITS__OUTBOX_SOFT: "), "{outcome:?}");
}

#[test]
fn certificates_are_made_and_not_replaced_unasked() {
    let folder = TemporaryFolder::new();
    let directory = folder.path.join("new/certs");
    let names = ["ca.crt", "client.crt", "client.key", "server.crt", "server.key"];
    let certs =
        |arguments: &[&str]| fulmar(&[&["certs", directory.to_str().unwrap()], arguments].concat(), &[]);
    let contents = || names.map(|name| std::fs::read_to_string(directory.join(name)).unwrap());

    let made = certs(&["localhost", "192.0.2.7"]);
    assert_eq!((made.code, made.stderr.as_str()), (Some(0), ""), "{made:?}");
    for words in
        ["For localhost, 192.0.2.7, these were written:", "key = ", "mosquitto_sub -h localhost -p 8883"]
    {
        assert!(made.stdout.contains(words), "no {words:?} in {}", made.stdout);
    }
    let mut found: Vec<_> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, names, "the authority's key is not among them");
    for name in names {
        assert!(made.stdout.contains(&directory.join(name).display().to_string()), "{name} is not told");
        let mode = std::fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
        if name.ends_with(".key") {
            assert_eq!(mode, 0o600, "{name}");
        } else {
            assert_eq!(mode & 0o600, 0o600, "{name}");
        }
    }

    // What is there stays, be it only one of them.
    let first = contents();
    let refused = certs(&["localhost"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
    for words in ["client.crt are there already; nothing was written", "--force"] {
        assert!(refused.stderr.contains(words), "no {words:?} in {}", refused.stderr);
    }
    assert_eq!(contents(), first);
    for name in &names[1..] {
        std::fs::remove_file(directory.join(name)).unwrap();
    }
    let refused = certs(&["localhost"]);
    assert!(refused.stderr.contains("ca.crt is there already; nothing was written"), "{refused:?}");
    assert!(!directory.join("server.crt").exists());

    // Asked for, all is new; a link is replaced, and what it leads to is left alone.
    let precious = folder.path.join("precious");
    std::fs::write(&precious, "precious").unwrap();
    std::os::unix::fs::symlink(&precious, directory.join("server.key")).unwrap();
    assert_eq!(certs(&["--force", "localhost"]).code, Some(0));
    assert!(contents().iter().zip(&first).all(|(new, old)| new != old));
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");

    for arguments in [&[][..], &["localhost:8883"], &["https://localhost"], &["*.org"]] {
        let misused = certs(arguments);
        assert_eq!((misused.code, misused.stdout.as_str()), (Some(2), ""), "{arguments:?}: {misused:?}");
    }
}

fn check(path: &Path, environment: &[(&str, &str)]) -> Outcome {
    fulmar(&["check", "-c", path.to_str().unwrap()], environment)
}

/// Runs the binary to its end, with none of the settings that the environment of the tests may hold.
fn fulmar(arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fulmar"));
    for (name, _) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_uppercase();
        if upper.starts_with("FULMAR__") || upper == "RUST_LOG" {
            command.env_remove(&name);
        }
    }
    let output = command.args(arguments).envs(environment.iter().copied()).output().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A file of this test's own, gone when dropped.
struct TemporaryFile {
    path: PathBuf,
}

impl TemporaryFile {
    fn new(text: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fulmar-cli-{}-{number}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self { path }
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A folder of this test's own, gone when dropped.
struct TemporaryFolder {
    path: PathBuf,
}

impl TemporaryFolder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("fulmar-cli-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self { path }
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
