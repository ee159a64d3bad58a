//! `lab demo`: the promise, shown. A cluster under load; the active worker is killed, then frozen, then the database's
//! leader is switched over; at the end the checker says what was written and what was received.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{instance, interrupted};
use anyhow::{Context, Result};
use pgbaton_tests::report;
use pgbaton_tests::screen::Screen;
use pgbaton_tests::stage::{Fault, Outcome, Stage, Takeover, standing};
use serde_json::{Value, json};
use xtask::cluster::{Cluster, Spec};

const SETTLE: Duration = Duration::from_secs(60);

/// How to show it.
#[derive(clap::Args)]
pub struct Arguments {
    /// Leave the cluster running and print where it is
    #[arg(long)]
    keep: bool,
    /// Calm seconds before each fault
    #[arg(long, default_value_t = 5)]
    calm: u64,
    /// Transactions per second
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Writes the result as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Runs it; the cluster is ended in any case but `--keep`, and unless it ran before.
pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let started = Instant::now();
    let screen = Screen::new();
    let kept = arguments.keep || Cluster::attach(&instance()).is_ok();
    screen.step("3 etcd, 3 Patroni nodes, HAProxy, Kafka and 2 workers come up");
    let mut coming = tokio::task::spawn_blocking(|| {
        xtask::setup::ensure_done()?;
        Cluster::up(&Spec { instance: instance(), ..Spec::default() })
    });
    let (cluster, stopped) = tokio::select! {
        cluster = &mut coming => (cluster??, false),
        // What has begun to come up has to be known before it can be ended.
        _ = interrupted() => (coming.await??, true),
    };
    let played = if stopped {
        None
    } else {
        tokio::select! {
            played = play(&cluster, &arguments, &screen) => Some(played),
            _ = interrupted() => None,
        }
    };
    screen.end();
    let versions = cluster.report("demo")?["versions"].clone();
    if kept {
        eprint!("\n{}", cluster.describe()?);
        eprintln!("\n`cargo xtask cluster down` ends it.");
    } else {
        screen.step("the cluster goes down");
        tokio::task::spawn_blocking(|| Cluster::down(&instance())).await??;
    }
    let Some(played) = played else { return Ok(ExitCode::from(130)) };
    let (takeovers, outcome) = played?;
    print!("{}", table(&takeovers));
    print!("\n{}", outcome.verdict);
    println!("  the workers told the truth about themselves in {} samples", outcome.samples);
    for lie in &outcome.lies {
        println!("  LIE {lie}");
    }
    let ok = outcome.is_clean();
    if let Some(file) = &arguments.report {
        report::write(file, "demo", ok, started.elapsed(), versions, &content(&takeovers, &outcome)?)
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn play(cluster: &Cluster, arguments: &Arguments, screen: &Screen) -> Result<(Vec<Takeover>, Outcome)> {
    let stage = Stage::open(cluster, arguments.rate).await?;
    let first = stage.standing().await?;
    screen
        .step(&format!("{} streams with term {}; {} transactions a second", first.worker, first.term, arguments.rate));
    let mut takeovers = Vec::new();
    for fault in [Fault::KillActive, Fault::FreezeActive, Fault::Switchover] {
        showing(&stage, screen, tokio::time::sleep(Duration::from_secs(arguments.calm))).await;
        screen.step(match fault {
            Fault::KillActive => "kill -9 of the active worker",
            Fault::FreezeActive => "the active worker is frozen for 20 s",
            Fault::TermActive => "SIGTERM of the active worker",
            Fault::Switchover => "the database's leader is switched over",
            Fault::KillLeader => "kill -9 of the database's leader",
        });
        let (takeover, struck) = showing(&stage, screen, stage.strike(fault)).await?;
        let owner = if takeover.owner_changed { "took over" } else { "went on" };
        screen.step(&format!("{} {owner}, rows flowed again after {} ms", takeover.to.worker, takeover.ms));
        showing(&stage, screen, stage.mend(&takeover, struck)).await?;
        if takeover.owner_changed {
            screen.step(&format!("{} is back and stands by", takeover.target));
        }
        takeovers.push(takeover);
    }
    showing(&stage, screen, tokio::time::sleep(Duration::from_secs(arguments.calm))).await;
    screen.step("the load stops; tables are compared with topics");
    screen.live("waiting for the last rows".into());
    let outcome = stage.close(SETTLE).await?;
    Ok((takeovers, outcome))
}

/// Shows what goes on while something runs.
async fn showing<T>(stage: &Stage, screen: &Screen, running: impl Future<Output = T>) -> T {
    let mut running = std::pin::pin!(running);
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            done = &mut running => return done,
            _ = ticks.tick() => {}
        }
        let active = standing(stage.target(), Duration::ZERO).await.map_or_else(
            |_| "nobody streams".into(),
            |now| format!("{} streams, term {}, timeline {}", now.worker, now.term, now.timeline),
        );
        let written = stage.load().counters();
        screen.live(format!(
            "{active} | {} transactions written, {} received, {} lost their connection",
            written.transactions + written.unknown,
            stage.watcher().count(),
            written.failed + written.unknown
        ));
    }
}

fn table(takeovers: &[Takeover]) -> String {
    let mut text =
        format!("\n  {:<14} {:<10} {:>8}  {:<8} {:<28} {}\n", "fault", "target", "ms", "owner", "from", "to");
    for takeover in takeovers {
        let side = |side: &pgbaton_tests::stage::Standing| {
            format!("{} term {} timeline {}", side.worker, side.term, side.timeline)
        };
        let owner = if takeover.owner_changed { "changed" } else { "stayed" };
        text += &format!(
            "  {:<14} {:<10} {:>8}  {owner:<8} {:<28} {}\n",
            takeover.fault.to_string(),
            takeover.target,
            takeover.ms,
            side(&takeover.from),
            side(&takeover.to)
        );
    }
    text
}

/// The keys of the report.
pub fn content(takeovers: &[impl serde::Serialize], outcome: &Outcome) -> Result<Value> {
    let mut content = serde_json::to_value(&outcome.verdict)?;
    content["takeovers"] = json!(takeovers);
    content["load"] = json!(outcome.load);
    content["samples"] = json!(outcome.samples);
    content["lies"] = json!(outcome.lies);
    Ok(content)
}
