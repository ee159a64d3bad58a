//! `lab scenario`: one scripted failure, and the checker's verdict.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::ValueEnum;
use pgbaton_tests::arena::Arena;
use pgbaton_tests::report;
use pgbaton_tests::scenario::{self, Scenario};
use pgbaton_tests::screen::Screen;
use serde_json::Value;

use super::{demo, perform};

/// Which one.
#[derive(clap::Args)]
pub struct Arguments {
    /// Its name
    #[arg(required_unless_present = "list", hide_possible_values = true)]
    name: Option<Scenario>,
    /// Names them all
    #[arg(long)]
    list: bool,
    /// Writes the result as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Leaves the cluster running
    #[arg(long)]
    keep: bool,
}

/// Plays it; fails unless all came as it must.
pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let Some(scenario) = arguments.name.filter(|_| !arguments.list) else {
        for scenario in Scenario::value_variants() {
            println!("{:<26} {}", scenario.name(), scenario.says());
        }
        return Ok(ExitCode::SUCCESS);
    };
    let (began, screen) = (Instant::now(), Screen::new());
    let show = screen.clone();
    let play = async move |arena: Arc<Arena>| {
        let versions = arena.cluster.report("scenario")?["versions"].clone();
        Ok((scenario::perform(&arena, scenario, &show).await?, versions))
    };
    let spec = scenario.spec(super::instance_or("scenario"));
    let Some((played, versions)) = perform(spec, arguments.keep, &screen, play).await? else {
        return Ok(ExitCode::from(130));
    };
    print!("{}", played.outcome.verdict);
    for lie in &played.outcome.lies {
        println!("  LIE {lie}");
    }
    if let Some(failure) = &played.failure {
        println!("  FAILED {failure}");
    }
    let ok = played.is_clean();
    if let Some(file) = &arguments.report {
        let mut content = demo::content(&played.takeovers, &played.outcome)?;
        content["name"] = scenario.name().into();
        content["facts"] = Value::Object(played.facts);
        content["failure"] = played.failure.into();
        report::write(file, "scenario", ok, began.elapsed(), versions, &content)
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
