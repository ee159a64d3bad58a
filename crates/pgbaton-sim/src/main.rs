//! `pgbaton-sim`: runs schedules, mutants, or one script. `cargo xtask simulate` calls it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use pgbaton_sim::model::{Bounds, Model, explore};
use pgbaton_sim::{model_of, mutants, script, shrink, sweep, tell};
use serde_json::json;

/// More than the larger model has.
const MOST_STATES: usize = 20_000_000;

/// Workers, etcd, PostgreSQL and Kafka in a world of virtual time in which things go wrong
#[derive(Parser)]
#[command(name = "cargo xtask simulate", bin_name = "cargo xtask simulate")]
struct Cli {
    /// How many schedules
    #[arg(long, default_value_t = 20_000)]
    seeds: u64,
    /// The first seed; alone, this one's story is told
    #[arg(long)]
    seed: Option<u64>,
    /// Without this guard
    #[arg(long)]
    mutant: Option<String>,
    /// Every mutant: is each caught?
    #[arg(long)]
    mutants: bool,
    /// The exhaustive model at bounds that take minutes and gigabytes, instead of schedules
    #[arg(long)]
    model: bool,
    /// Tell the story of a script
    #[arg(long)]
    script: Option<PathBuf>,
    /// Print the smallest script that still shows the violation of --seed or --script
    #[arg(long)]
    shrink: bool,
    /// Write a report
    #[arg(long)]
    report: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let began = Instant::now();
    if let Some(name) = cli.mutant.as_deref().filter(|name| !mutants().any(|known| known == *name)) {
        return Err(anyhow!("no mutant is called {name}; there are: {}", mutants().collect::<Vec<_>>().join(", ")));
    }
    let one = cli.script.is_some() || cli.seed.is_some() && !std::env::args().any(|arg| arg.starts_with("--seeds"));
    let (ok, mut report) = match &cli {
        cli if one => return story(cli),
        cli if cli.mutants => all_mutants(cli),
        cli if cli.model => whole_model(),
        cli => schedules(cli),
    };
    report["kind"] = json!("simulate");
    report["ok"] = json!(ok);
    report["seconds"] = json!(began.elapsed().as_secs_f64());
    report["versions"] = json!({ "pgbaton": env!("CARGO_PKG_VERSION") });
    if let Some(path) = &cli.report {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    eprintln!("{:.1} s", began.elapsed().as_secs_f64());
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn story(cli: &Cli) -> Result<ExitCode> {
    let mutant = cli.mutant.as_deref();
    let mut text = match (&cli.script, cli.seed) {
        (Some(path), _) => std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?,
        (None, seed) => script(seed.unwrap_or_default()),
    };
    let wrong = |line: String| anyhow!("a script has no line like: {line}");
    if cli.shrink {
        text = shrink(&text, mutant).map_err(wrong)?;
    }
    let told = tell(&text, mutant).map_err(wrong)?;
    print!("{text}\n{}", told.story);
    println!("trace hash {:016x}", told.hash);
    Ok(if told.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn schedules(cli: &Cli) -> (bool, serde_json::Value) {
    let mutant = cli.mutant.as_deref();
    let tally = sweep(cli.seed.unwrap_or_default(), cli.seeds, mutant, false);
    println!("{} schedules, {} violations", tally.schedules, tally.found.len());
    for found in tally.found.iter().take(20) {
        println!("seed {}: invariant {}: {}", found.seed, found.invariant, found.text);
    }
    let violations: Vec<_> = tally
        .found
        .iter()
        .take(20)
        .map(|found| {
            let trace = tell(&script(found.seed), mutant).map(|told| told.story).unwrap_or_default();
            json!({ "seed": found.seed, "invariant": found.invariant, "trace": trace })
        })
        .collect();
    (tally.found.is_empty(), json!({ "schedules": tally.schedules, "violations": violations }))
}

fn whole_model() -> (bool, serde_json::Value) {
    let bounds = Bounds { lease_losses: 2, breaks: 2, time_outs: 1, acknowledges: true, ..Bounds::QUIET };
    let model = Model::new(bounds, &[]);
    let explored = explore(&model, MOST_STATES);
    let story = explored.counter_example.map(|found| model.story(&found));
    println!("{} states{}", explored.states, if story.is_none() { ", every law holds" } else { "" });
    if let Some(story) = &story {
        println!("{story}");
    }
    (story.is_none(), json!({ "states": explored.states, "story": story }))
}

fn all_mutants(cli: &Cli) -> (bool, serde_json::Value) {
    let mut rows = Vec::new();
    let mut ok = true;
    for name in mutants() {
        if let Some(model) = model_of(name) {
            let explored = explore(&model, MOST_STATES);
            let caught = explored.counter_example.is_some();
            ok &= caught;
            println!("{name}: {}caught by the model in {} states", if caught { "" } else { "NOT " }, explored.states);
            let by = caught.then_some("model");
            rows.push(json!({ "name": name, "caught": caught, "by": by, "schedules": 0, "states": explored.states }));
            continue;
        }
        let tally = sweep(cli.seed.unwrap_or_default(), cli.seeds, Some(name), true);
        let by = tally.found.first();
        ok &= by.is_some();
        match by {
            Some(found) => println!(
                "{name}: caught after {} schedules by invariant {} (seed {}): {}",
                tally.schedules, found.invariant, found.seed, found.text
            ),
            None => println!("{name}: NOT CAUGHT in {} schedules", tally.schedules),
        }
        rows.push(json!({
            "name": name, "caught": by.is_some(), "by": by.map(|_| "simulator"),
            "invariant": by.map(|found| found.invariant), "schedules": tally.schedules,
        }));
    }
    (ok, json!({ "mutants": rows }))
}
