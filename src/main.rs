//! The `fulmar` binary: hands its arguments to `cli`, which calls back when it is time to serve.

use std::process::ExitCode;

fn main() -> ExitCode {
    fulmar::cli::main(std::env::args_os(), |config, sources, salvage| {
        fulmar::server::run(config, sources, salvage).map_err(Into::into)
    })
}
