//! `lab bench`: figures, with a peer in the same run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use super::{instance, interrupted};
use anyhow::{Context, Result, ensure};
use pgbaton_tests::bench::takeover::{self, Measurement};
use pgbaton_tests::bench::{Bench, Run, Workload};
use pgbaton_tests::report;
use pgbaton_tests::screen::Screen;
use serde_json::json;
use xtask::cluster::{Cluster, Spec};

/// What pgbaton must reach of the peer's rows per second.
const AIM: f64 = 0.6;
const MANY_ROWS: u64 = 1000;

/// What to measure.
#[derive(clap::Subcommand)]
pub enum Measure {
    /// A slot into Kafka, beside pg_recvlogical to /dev/null
    Drain(Arguments),
    /// From a fault to the first row after it at a consumer, over many rounds on a cluster of its own
    Takeover(Rounds),
}

/// How many rounds of what.
#[derive(clap::Args)]
pub struct Rounds {
    /// Rounds of each fault
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// Only this fault; may be repeated
    #[arg(long = "fault", value_name = "NAME")]
    faults: Vec<String>,
    /// Kafka brokers of the cluster
    #[arg(long, default_value_t = 1)]
    brokers: usize,
    /// Writes the figures as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// How much of it.
#[derive(clap::Args)]
pub struct Arguments {
    /// Rows of the one large transaction
    #[arg(long, default_value_t = 1_000_000)]
    rows_one: u64,
    /// Rows in transactions of 1000
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(MANY_ROWS..))]
    rows_many: u64,
    /// Writes the figures as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Measures; fails where a row is missing or the aim is missed.
pub async fn run(measure: Measure) -> Result<ExitCode> {
    match measure {
        Measure::Drain(arguments) => tokio::select! {
            done = drain(&arguments) => done,
            _ = interrupted() => Ok(ExitCode::from(130)),
        },
        Measure::Takeover(rounds) => takeovers(&rounds).await,
    }
}

async fn takeovers(rounds: &Rounds) -> Result<ExitCode> {
    let unknown = rounds.faults.iter().find(|name| !takeover::ALL.iter().any(|fault| fault.name == **name));
    if let Some(name) = unknown {
        let known: Vec<&str> = takeover::ALL.iter().map(|fault| fault.name).collect();
        eprintln!("lab: --fault {name}: there is none of that name; name one of {}", known.join(", "));
        return Ok(ExitCode::from(2));
    }
    let (started, screen) = (Instant::now(), Screen::new());
    screen.step("a cluster comes up");
    let spec = Spec { instance: format!("{}-bench", instance()), brokers: rounds.brokers, ..Spec::default() };
    let name = spec.instance.clone();
    let cluster = tokio::task::spawn_blocking(move || {
        xtask::setup::ensure_done()?;
        Cluster::up(&spec)
    })
    .await??;
    let measured = tokio::select! {
        measured = measure_all(&cluster, rounds, &screen) => Some(measured),
        _ = interrupted() => None,
    };
    let versions = cluster.report("bench")?["versions"].clone();
    tokio::task::spawn_blocking(move || Cluster::down(&name)).await??;
    screen.end();
    let Some(measured) = measured else { return Ok(ExitCode::from(130)) };
    let measured = measured?;
    println!("\n  {:<24} {:>4} {:>8} {:>8} {:>8} {:>8}  ms; causes", "fault", "n", "p50", "p90", "p99", "max");
    for (name, measurement) in &measured {
        let Measurement { figures, clean, causes, .. } = measurement;
        let wrong = if *clean { "" } else { "  THE CHECKER FOUND SOMETHING" };
        println!(
            "  {name:<24} {:>4} {:>8} {:>8} {:>8} {:>8}  {causes:?}{wrong}",
            figures.n, figures.p50, figures.p90, figures.p99, figures.max
        );
    }
    let ok = measured.iter().all(|(_, measurement)| measurement.clean && measurement.owner_changes == 0);
    if let Some(file) = &rounds.report {
        let by_fault: serde_json::Map<String, serde_json::Value> =
            measured.iter().map(|(name, measurement)| ((*name).to_owned(), json!(measurement.figures))).collect();
        report::write(file, "bench-takeover", ok, started.elapsed(), versions, &json!({"by_fault": by_fault}))
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure_all(cluster: &Cluster, rounds: &Rounds, screen: &Screen) -> Result<Vec<(&'static str, Measurement)>> {
    let mut measured = Vec::new();
    for fault in takeover::ALL {
        if !rounds.faults.is_empty() && !rounds.faults.iter().any(|name| name == fault.name) {
            continue;
        }
        screen.step(&format!("{}: {} rounds", fault.name, rounds.rounds));
        let told = |number, ms| screen.live(format!("{}: round {number} took {ms} ms", fault.name));
        measured.push((fault.name, takeover::measure(cluster, fault, rounds.rounds, told).await?));
    }
    Ok(measured)
}

async fn drain(arguments: &Arguments) -> Result<ExitCode> {
    let (started, screen) = (Instant::now(), Screen::new());
    xtask::setup::ensure_done()?;
    let program = program(&screen)?;
    screen.step("one PostgreSQL, one etcd, one Kafka come up");
    let bench = Bench::open(program)?;
    let workloads = [
        Workload { name: "one_transaction", rows: arguments.rows_one, per_transaction: arguments.rows_one },
        Workload {
            name: "many_transactions",
            rows: arguments.rows_many / MANY_ROWS * MANY_ROWS,
            per_transaction: MANY_ROWS,
        },
    ];
    let (mut runs, mut ratios) = (Vec::new(), Vec::new());
    for workload in workloads {
        let [peer, ours] = bench.drain(workload, &screen).await?;
        ratios.push((workload.name, ours.rows_per_second / peer.rows_per_second));
        runs.extend([peer, ours]);
    }
    screen.end();
    print!("{}", table(&runs));
    for (workload, ratio) in &ratios {
        println!("  {workload}: {ratio:.2} of pg_recvlogical's rows per second (aim: {AIM})");
    }
    let ok = runs.iter().all(|run| run.parity) && ratios.iter().all(|(_, ratio)| *ratio >= AIM);
    if let Some(file) = &arguments.report {
        let ratios: serde_json::Map<String, serde_json::Value> =
            ratios.iter().map(|(workload, ratio)| ((*workload).to_owned(), json!(ratio))).collect();
        let content = json!({"runs": runs, "ratios": ratios});
        report::write(file, "bench-drain", ok, started.elapsed(), report::versions(), &content)
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The release build of this checkout, or what `XTASK_WORKER_BIN` names.
fn program(screen: &Screen) -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("XTASK_WORKER_BIN") {
        return Ok(program.into());
    }
    screen.step("cargo build --release -p pgbaton");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let checkout = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let built = std::process::Command::new(cargo)
        .args(["build", "--release", "--quiet", "-p", "pgbaton"])
        .current_dir(checkout)
        .status()
        .context("run cargo")?;
    ensure!(built.success(), "pgbaton does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    Ok(PathBuf::from(checkout).join(target).join("release/pgbaton"))
}

fn table(runs: &[Run]) -> String {
    let mut text = format!(
        "\n  {:<18} {:<15} {:>9} {:>8} {:>10} {:>8} {:>8}  parity\n",
        "workload", "tool", "rows", "seconds", "rows/s", "CPU s", "RSS MB"
    );
    for run in runs {
        text += &format!(
            "  {:<18} {:<15} {:>9} {:>8.2} {:>10.0} {:>8.2} {:>8.1}  {}\n",
            run.workload,
            run.tool,
            run.rows,
            run.seconds,
            run.rows_per_second,
            run.cpu_seconds,
            run.peak_rss_bytes as f64 / 1e6,
            if run.parity { "yes" } else { "NO" }
        );
    }
    text
}
