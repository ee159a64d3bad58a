//! `lab load`: makes load for a while and shows its rate.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use pgbaton_tests::check::samples::Recorder;
use pgbaton_tests::load::{Load, Options, Weights};
use pgbaton_tests::report;

use super::{Where, interrupted};

/// What to load.
#[derive(clap::Args)]
pub struct Arguments {
    /// How long to write
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Transactions per second over all connections
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Draws what the transactions do
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many connections write
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// How often each kind of transaction comes; kinds that are not named keep their weight
    #[arg(long, value_name = "KIND=N,...", default_value_t = Weights::default())]
    weights: Weights,
    /// Writes the counters as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    place: Where,
}

/// Writes for the asked time, or until Ctrl-C.
pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let target = arguments.place.target()?;
    let recorder = Recorder::start(&target).context("record what is seen")?;
    let options = Options {
        dsn: target.app,
        rate: arguments.rate,
        seed: arguments.seed,
        connections: arguments.connections,
        weights: arguments.weights,
    };
    let load = Load::start(&options).await?;
    let bar = ProgressBar::new(arguments.seconds)
        .with_style(ProgressStyle::with_template("{bar:30.cyan/blue} {pos:>4}/{len} s  {msg}")?);
    let end = tokio::time::Instant::now() + Duration::from_secs(arguments.seconds);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let mut before = 0;
    let interrupted = loop {
        tokio::select! {
            _ = tokio::time::sleep_until(end) => break false,
            _ = interrupted() => break true,
            _ = ticks.tick() => {}
        }
        let done = load.counters();
        let rate = done.transactions - before;
        before = done.transactions;
        let line = format!(
            "{rate} tx/s, {} transactions, {} rows, {} rolled back, {} failed, {} unknown",
            done.transactions, done.rows, done.rolled_back, done.failed, done.unknown
        );
        let second = load.elapsed().as_secs();
        if !bar.is_hidden() {
            bar.set_position(second);
            bar.set_message(line);
        } else if second % 5 == 0 {
            eprintln!("load {second:>4} s: {line}");
        }
    };
    let took = load.elapsed();
    let complaint = load.complaint();
    let done = load.stop().await;
    recorder.stop().await;
    bar.finish_and_clear();
    println!(
        "{} transactions with {} rows in {:.1} s; {} rolled back, {} failed, {} unknown, {} connections made",
        done.transactions,
        done.rows,
        took.as_secs_f64(),
        done.rolled_back,
        done.failed,
        done.unknown,
        done.connects
    );
    if let Some(complaint) = complaint {
        println!("the last failure was: {complaint}");
    }
    if let Some(file) = arguments.report {
        report::write(&file, "load", !interrupted && done.transactions > 0, took, report::versions(), &done)?;
    }
    Ok(match (interrupted, done.transactions) {
        (true, _) => ExitCode::from(130),
        (false, 0) => ExitCode::FAILURE,
        (false, _) => ExitCode::SUCCESS,
    })
}
