//! `lab`: the load, the checker, the demo and the benchmark, run by `cargo xtask`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod command;

/// Proves on a real cluster that nothing is lost, doubled or invented.
#[derive(Parser)]
#[command(name = "lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes transactions through HAProxy at a rate
    Load(command::load::Arguments),
    /// Compares the tables with the topics, progress and markers
    Check(command::check::Arguments),
    /// Shows a kill, a freeze and a switchover, and that nothing is lost
    Demo(command::demo::Arguments),
    /// Strikes a cluster with random faults, and checks
    Chaos(command::chaos::Arguments),
    /// Plays one scripted failure, and checks
    Scenario(command::scenario::Arguments),
    /// The compose file, brought up and failed over
    ComposeTest(command::compose::Arguments),
    /// Figures, with a peer in the same run
    #[command(subcommand)]
    Bench(command::bench::Measure),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Load(arguments) => command::load::run(arguments).await,
        Command::Check(arguments) => command::check::run(arguments).await,
        Command::Demo(arguments) => command::demo::run(arguments).await,
        Command::Chaos(arguments) => command::chaos::run(arguments).await,
        Command::Scenario(arguments) => command::scenario::run(arguments).await,
        Command::ComposeTest(arguments) => command::compose::run(arguments).await,
        Command::Bench(measure) => command::bench::run(measure).await,
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
