//! The `fulmar` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    fulmar::cli::main(std::env::args_os(), |_config| Err("this build has no server".into()))
}
