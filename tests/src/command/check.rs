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
    let verdict = check::run::run(&arguments.place.target()?, arguments.settle).await?;
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
