//! The command line: `fulmar run`, `check`, `passwd`, `acl`, `certs`, `pub`, `sub` and `bench`, what they take and how they
//! end.
//!
//! Called by `main.rs` alone, which hands over the one thing that this floor does not do: serve. Exit codes:
//! 0 done, 1 refused or failed, 2 the command line itself is wrong. Everything but what was asked for goes to
//! standard error. A flag that sets a key is checked by that key's row in the table of the configuration.

mod acl;
mod bench;
mod certs;
mod client;
mod logging;
mod passwd;
mod publish;
mod subscribe;

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::acl::AclCommand;
use self::bench::BenchCommand;
use self::certs::CertsArguments;
use self::passwd::PasswdCommand;
use self::publish::PubArguments;
use self::subscribe::SubArguments;
use crate::auth::Policy;
use crate::config::{Config, Flag, Listener, Problems, Sources, WEBSOCKET, check_text, load};
use crate::server;

pub use logging::{LogError, init as init_logging};

const FAILED: u8 = 1;
const MISUSED: u8 = 2;

/// An MQTT broker for 3.1, 3.1.1 and 5.0.
///
/// Without a command it runs, listening on 127.0.0.1:1883, and on port 8083 for WebSocket.
#[derive(Debug, Parser)]
#[command(name = "fulmar", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker in the foreground until it is told to stop (the same as no command)
    Run(RunArguments),
    /// Check a configuration, tell everything that is wrong with it, and run nothing
    Check(CheckArguments),
    /// Add, remove or check the users of a password file; the password is asked for, or read from standard input
    #[command(subcommand)]
    Passwd(PasswdCommand),
    /// Ask the rules about what clients may do
    #[command(subcommand)]
    Acl(AclCommand),
    /// Publish messages
    Pub(PubArguments),
    /// Subscribe, and print the messages that come
    Sub(SubArguments),
    /// Measure how fast a broker is, this one or any other
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Make certificates for trying TLS: an authority, the server's for these hosts, and a client's
    Certs(CertsArguments),
}

#[derive(Debug, Default, Args)]
struct RunArguments {
    /// The configuration; without it no file is read and the defaults hold
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen on this port of 127.0.0.1 and on no address of the configuration; 0 takes a free port
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// The same for WebSocket, at /mqtt; with --port or in place of it
    #[arg(long, value_name = "N")]
    ws_port: Option<u16>,
    /// The folder of the store on disk
    #[arg(long, value_name = "DIR", value_parser = key("store.directory"))]
    data_dir: Option<String>,
    /// What an acknowledged message survives: sync, os or none
    #[arg(long, value_name = "MODE", value_parser = key("store.durability"))]
    durability: Option<String>,
    /// Set what is damaged of the store aside, start with what is sound, and say what was lost
    #[arg(long)]
    salvage: bool,
    /// How much is logged: error, warn, info, debug, trace, off
    #[arg(long, value_name = "LEVEL", value_parser = key("log.level"))]
    log_level: Option<String>,
}

#[derive(Debug, Args)]
struct CheckArguments {
    /// The configuration; without it the defaults and the environment are checked
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Does what the arguments ask for. `serve` runs the broker; it is called with a valid configuration, where that came from, and
/// whether a damaged store is to be salvaged, after logging has begun, and returns when the broker has ended.
pub fn main<S>(arguments: impl IntoIterator<Item = OsString>, serve: S) -> ExitCode
where
    S: FnOnce(Config, Sources, bool) -> Result<(), Box<dyn Error>>,
{
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(answer) => {
            // Help and version are answers too; they go to standard output and are no failure. If the
            // stream is closed there is nobody left to tell.
            let _ = answer.print();
            return if answer.use_stderr() { ExitCode::from(MISUSED) } else { ExitCode::SUCCESS };
        }
    };
    let done = match arguments.command {
        Some(Command::Run(run_arguments)) => run(run_arguments, serve),
        Some(Command::Check(check_arguments)) => check(check_arguments),
        Some(Command::Acl(command)) => acl::acl(command),
        Some(Command::Bench(command)) => bench::bench(command),
        Some(Command::Pub(arguments)) => publish::publish(&arguments),
        Some(Command::Sub(arguments)) => subscribe::subscribe(&arguments),
        Some(Command::Certs(certs_arguments)) => certs::certs(certs_arguments),
        Some(Command::Passwd(command)) => passwd::passwd(command),
        None => run(arguments.run, serve),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stream leaves nobody to tell; the exit code still does.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::from(FAILED)
        }
    }
}

fn run<S>(arguments: RunArguments, serve: S) -> Result<(), Box<dyn Error>>
where
    S: FnOnce(Config, Sources, bool) -> Result<(), Box<dyn Error>>,
{
    let salvage = arguments.salvage;
    let sources = arguments.into_sources();
    let config = load(&sources).map_err(refusal)?;
    // The server reads them again; here they are told like everything else that is wrong.
    Policy::load(&config).map_err(refusal)?;
    init_logging(&config.log).map_err(|error| format!("fulmar: {error}"))?;
    serve(config, sources, salvage).map_err(|error| format!("fulmar: {error}").into())
}

fn check(arguments: CheckArguments) -> Result<(), Box<dyn Error>> {
    let file = arguments.config;
    let what =
        file.as_ref().map_or("the default configuration".to_owned(), |path| path.display().to_string());
    let config = load(&Sources { file, ..Sources::default() }).map_err(refusal)?;
    let faults = server::check(&config);
    if !faults.is_empty() {
        let faults: Vec<_> = faults.iter().map(|fault| format!("{what}: {fault}")).collect();
        return Err(faults.join("\n").into());
    }
    Policy::load(&config).map_err(refusal)?;
    let listeners: Vec<_> = config
        .listeners
        .iter()
        .map(|listener| format!("{} on {} ({})", listener.name, listener.place(), listener.kind))
        .collect();
    writeln!(std::io::stdout(), "{what} is good; it would listen as {}", listeners.join(", "))?;
    Ok(())
}

fn refusal(problems: Problems) -> String {
    let count = match problems.0.len() {
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    format!("{problems}\nfulmar: {count} in the configuration; nothing was started")
}

impl RunArguments {
    fn into_sources(self) -> Sources {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let plain = self.port.map(|port| Listener::tcp(&Listener::default().name, loopback(port)));
        let websocket = self.ws_port.map(|port| Listener::websocket(WEBSOCKET, loopback(port)));
        let flags = [
            ("--data-dir", "store.directory", self.data_dir),
            ("--durability", "store.durability", self.durability),
            ("--log-level", "log.level", self.log_level),
        ];
        Sources {
            file: self.config,
            environment: None,
            listeners: plain.into_iter().chain(websocket).collect(),
            flags: flags
                .into_iter()
                .filter_map(|(name, key, value)| Some(Flag { name, key, value: value? }))
                .collect(),
        }
    }
}

/// The parser of a flag that sets `key`.
fn key(key: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + 'static {
    move |text| check_text(key, text).map(|()| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn run_takes_the_same_flags_with_and_without_the_word() {
        let flags = [
            "--port",
            "2883",
            "--ws-port",
            "2884",
            "--data-dir",
            "data",
            "--durability",
            "os",
            "--log-level",
            "debug",
            "-c",
            "f.toml",
        ];
        let bare = Arguments::try_parse_from(["fulmar"].into_iter().chain(flags)).unwrap();
        assert!(bare.command.is_none());
        let Some(Command::Run(run)) =
            Arguments::try_parse_from(["fulmar", "run"].into_iter().chain(flags)).unwrap().command
        else {
            panic!("the word run was not taken for the command");
        };
        for arguments in [bare.run, run] {
            let sources = arguments.into_sources();
            assert_eq!(sources.file, Some(PathBuf::from("f.toml")));
            let plain = Listener::tcp("mqtt", "127.0.0.1:2883".parse().unwrap());
            let websocket = Listener::websocket("websocket", "127.0.0.1:2884".parse().unwrap());
            assert_eq!(sources.listeners, [plain, websocket]);
            let flags: Vec<_> = sources.flags.iter().map(|flag| (flag.key, flag.value.as_str())).collect();
            assert_eq!(
                flags,
                [("store.directory", "data"), ("store.durability", "os"), ("log.level", "debug")]
            );
        }
    }

    #[test]
    fn nothing_given_is_nothing_set() {
        let sources = RunArguments::default().into_sources();
        assert!(sources.file.is_none() && sources.listeners.is_empty() && sources.flags.is_empty());
    }
}
