//! `lab check`: the checker's verdict over the running cluster.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use pgbaton_tests::{check, report};

use super::Where;

/// What to check.
#[derive(clap::Args)]
pub struct Arguments {
    /// How long to wait for the topics to catch up, such as 60s
    #[arg(long, default_value = "60s", value_parser = seconds)]
    settle: Duration,
    /// Writes the verdict as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Prints the verdict as JSON
    #[arg(long)]
    json: bool,
    /// Mutilates good histories instead, and sees that each mutilation is noticed; needs no cluster
    #[arg(long)]
    self_test: bool,
    /// How many mutilations the self-test makes
    #[arg(long, default_value_t = 1_000, value_name = "N", requires = "self_test")]
    mutilations: usize,
    /// Draws the mutilations
    #[arg(long, default_value_t = 1, value_name = "S", requires = "self_test")]
    seed: u64,
    /// Keeps all that was read, for a self-test to come
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    #[command(flatten)]
    place: Where,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    number.parse().map(Duration::from_secs).map_err(|_| format!("{text:?} is no number of seconds such as 60s"))
}

/// Prints the verdict; fails unless it is clean.
pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let started = Instant::now();
    if arguments.self_test {
        return self_test(&arguments, started);
    }
    let target = arguments.place.target()?;
    let verdict = match &arguments.record {
        None => check::run::run(&target, arguments.settle, None).await?,
        Some(file) => {
            let recording = check::run::record(&target, arguments.settle).await?;
            std::fs::write(file, serde_json::to_vec(&recording)?)?;
            check::judge(&recording.evidence())
        }
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&verdict)?);
    } else {
        print!("{verdict}");
    }
    let ok = verdict.is_clean();
    if let Some(file) = arguments.report {
        report::write(&file, "check", ok, started.elapsed(), report::versions(), &verdict)?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn self_test(arguments: &Arguments, started: Instant) -> Result<ExitCode> {
    let outcome = check::selftest::run(arguments.mutilations, arguments.seed);
    for words in &outcome.wrong {
        println!("{words}");
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        println!("{} of {} mutilations caught", outcome.caught, outcome.mutilations);
    }
    let ok = outcome.is_clean();
    if let Some(file) = &arguments.report {
        report::write(file, "check-self-test", ok, started.elapsed(), report::versions(), &outcome)?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
