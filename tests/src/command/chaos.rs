//! `lab chaos`: random faults on a cluster of its own, and the checker's verdict.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pgbaton_tests::arena::Arena;
use pgbaton_tests::chaos::story::{self, Takeover};
use pgbaton_tests::chaos::{self, Options, Run, page};
use pgbaton_tests::report;
use pgbaton_tests::screen::Screen;
use serde_json::{Value, json};
use xtask::cluster::Spec;

use super::{demo, perform};

/// How long, and which faults.
#[derive(clap::Args)]
pub struct Arguments {
    /// Minutes of faults
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Draws the faults [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Workers
    #[arg(long, default_value_t = 3)]
    workers: usize,
    /// Writes the result as JSON, and beside it the page as .html
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Leaves the cluster running
    #[arg(long)]
    keep: bool,
}

/// Runs it; fails unless all is clean.
pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let (began, screen) = (Instant::now(), Screen::new());
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let options = Options { lasts: Duration::from_secs_f64(arguments.minutes * 60.0), seed };
    screen.step(&format!(
        "seed {seed}; 3 etcd, 3 Patroni nodes, HAProxy, 3 brokers and {} workers come up",
        arguments.workers
    ));
    let spec =
        Spec { instance: super::instance_or("chaos"), workers: arguments.workers, brokers: 3, ..Spec::default() };
    let logs = xtask::instance::Instance::open(&xtask::lab::Lab::open()?, &spec.instance)?.logs();
    let show = screen.clone();
    let play = async move |arena: Arc<Arena>| {
        let versions = arena.cluster.report("chaos")?["versions"].clone();
        Ok((chaos::run(&arena, options, &show).await?, versions))
    };
    let Some((run, versions)) = perform(spec, arguments.keep, &screen, play).await? else {
        return Ok(ExitCode::from(130));
    };
    let takeovers = story::takeovers(&run.struck, &run.seen, &run.outcome.sights);
    let file = arguments.report.unwrap_or_else(|| logs.join("chaos.json"));
    write(&file, &run, &takeovers, began.elapsed(), versions)?;
    print!("{}", run.outcome.verdict);
    println!("  {} faults, {} new terms", run.struck.len(), takeovers.len());
    for trouble in run.troubles.iter().chain(&run.outcome.lies) {
        println!("  TROUBLE {trouble}");
    }
    println!("  {}, logs in {}", file.with_extension("html").display(), logs.display());
    Ok(if run.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(file: &Path, run: &Run, takeovers: &[Takeover], took: Duration, versions: Value) -> Result<()> {
    let mut content = demo::content(takeovers, &run.outcome)?;
    content["seed"] = json!(run.options.seed);
    content["faults"] = json!(run.struck);
    // Spans without a row that came through, longer than a second.
    content["silences"] = json!(story::silences(run.start, &run.outcome.sights));
    content["troubles"] = json!(run.troubles);
    content["recovered_seconds"] = json!(run.recovered_seconds);
    report::write(file, "chaos", run.is_clean(), took, versions, &content)
        .with_context(|| format!("write {}", file.display()))?;
    let html = file.with_extension("html");
    std::fs::write(&html, page::render(run, takeovers)).with_context(|| format!("write {}", html.display()))
}
