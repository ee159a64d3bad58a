//! `pgbaton`.

use std::process::ExitCode;

use pgbaton::cli::{self, Start};
use pgbaton::driver;

fn main() -> ExitCode {
    cli::main(std::env::args_os(), |start: Start| {
        driver::run(start.config, start.board, start.url, start.commands, start.shutdown, start.tls, start.renewal)
    })
}
