//! A folder like the repository's root as a user has it: `examples/` as they are, `certs/` as `fulmar certs` makes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::broker::Broker;
use super::certificates::Folder;

/// See the module. Gone when dropped.
pub struct Site {
    folder: Folder,
}

impl Site {
    /// Certificates are for localhost.
    #[track_caller]
    pub fn new() -> Self {
        let site = Self { folder: Folder::new() };
        std::os::unix::fs::symlink(repository().join("examples"), site.path().join("examples")).unwrap();
        let made = site.fulmar(&["certs", "certs", "localhost"]);
        assert!(made.status.success(), "{made:?}");
        site
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file of it, for a command line.
    pub fn file(&self, name: &str) -> String {
        self.path().join(name).display().to_string()
    }

    /// Runs the binary here, to its end.
    pub fn fulmar(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_fulmar"))
            .args(arguments)
            .current_dir(self.path())
            .output()
            .expect("the binary is there")
    }

    /// An example's text, in which free ports stand for the conventional ones: as `{PORT}` for the first, any for the
    /// others. Before that, `fulmar check` must find it good as it stands.
    #[track_caller]
    pub fn example(&self, name: &str, ports: &[u16]) -> String {
        let checked = self.fulmar(&["check", "-c", &format!("examples/{name}")]);
        assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stderr));
        let text = fs::read_to_string(self.path().join("examples").join(name)).unwrap();
        let mut ports = ports.iter();
        let mut replacement = ":{PORT}\"";
        let mut free = String::new();
        for line in text.lines() {
            if line.starts_with("address = ") {
                let port = ports.next().unwrap_or_else(|| panic!("{name} listens elsewhere, too: {line}"));
                let end = format!(":{port}\"");
                assert!(line.ends_with(&end), "{name} does not listen on {port}: {line}");
                free.push_str(&line.replace(&end, replacement));
                replacement = ":0\"";
            } else {
                free.push_str(line);
            }
            free.push('\n');
        }
        assert_eq!(ports.next(), None, "{name} listens nowhere else");
        free
    }

    /// A broker with an example, in this folder; see [`Site::example`].
    #[track_caller]
    pub fn broker(&self, name: &str, ports: &[u16]) -> Broker {
        Broker::with_config_in(self.path(), &self.example(name, ports))
    }
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
