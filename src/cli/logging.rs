//! Where log lines go: to standard error, as text or JSON. Called once, by `run`, before anything is served.

use std::io::IsTerminal;

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt;

use crate::config::{Log, LogFormat};

const RUST_LOG: &str = "RUST_LOG";

/// Why logging could not begin.
#[derive(Debug, Error)]
pub enum LogError {
    /// The list of levels is not one.
    #[error("{source_name} = {levels:?} is no list of log levels: {error}; write for instance \"info\"")]
    Levels {
        /// The key or the environment variable.
        source_name: &'static str,
        /// What was written.
        levels: String,
        /// What is wrong with it.
        error: ParseError,
    },
    /// Logging has begun before in this process.
    #[error("logging was set up twice in this process")]
    Twice,
}

/// Begins to log as the configuration says; the environment variable `RUST_LOG`, if set and not empty,
/// replaces the level. Colours only where a person looks on.
pub fn init(log: &Log) -> Result<(), LogError> {
    let filter = filter(log, std::env::var(RUST_LOG).ok())?;
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            lines.with_ansi(colours).try_init()
        }
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(|_| LogError::Twice)
}

fn filter(log: &Log, rust_log: Option<String>) -> Result<EnvFilter, LogError> {
    let (source_name, levels) = match rust_log.filter(|levels| !levels.trim().is_empty()) {
        Some(levels) => (RUST_LOG, levels),
        None => ("log.level", log.level.clone()),
    };
    EnvFilter::try_new(&levels).map_err(|error| LogError::Levels { source_name, levels, error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check_text;

    #[test]
    fn the_environment_replaces_the_level() {
        let log = Log { level: "warn".to_owned(), format: LogFormat::Text };
        for (rust_log, level) in [
            (None, "warn"),
            (Some(""), "warn"),
            (Some("debug"), "debug"),
            (Some("fulmar=trace"), "fulmar=trace"),
        ] {
            let filter = filter(&log, rust_log.map(str::to_owned)).unwrap();
            assert_eq!(filter.to_string(), level, "{rust_log:?}");
        }
    }

    #[test]
    fn a_level_that_is_none_is_told_with_its_source() {
        let error = filter(&Log::default(), Some("fulmar=loud".to_owned())).unwrap_err().to_string();
        assert!(error.starts_with("RUST_LOG = \"fulmar=loud\" is no list of log levels"), "{error}");
    }

    /// What the configuration lets through, the filter takes.
    #[test]
    fn every_level_that_the_configuration_takes_is_one() {
        for level in ["info", "DEBUG", "off", "warn,fulmar::net=debug", "fulmar=trace, info"] {
            assert_eq!(check_text("log.level", level), Ok(()), "{level}");
            let log = Log { level: level.to_owned(), format: LogFormat::Text };
            assert!(filter(&log, None).is_ok(), "{level}");
        }
    }
}
