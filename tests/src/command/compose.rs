//! `lab compose-test`: the cluster of `docker-compose.patroni.yml` under load, hurt by its containers; with Patroni's permanent
//! slot and with PostgreSQL's native one, the database failed over twice with each, and the checker at the end.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pgbaton_tests::check::verdict::Verdict;
use pgbaton_tests::load::{Counters, Load, Options};
use pgbaton_tests::sample::{Sampler, lies};
use pgbaton_tests::screen::Screen;
use pgbaton_tests::stage::{RECOVERY, Standing, standing, wait_for};
use pgbaton_tests::target::Target;
use pgbaton_tests::watch::Watcher;
use pgbaton_tests::{check, report};
use serde::Serialize;
use serde_json::{Value, json};
use xtask::compose::{Compose, SlotKind};

use super::interrupted;

const SETTLE: Duration = Duration::from_secs(60);

/// How to test.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only this kind of slot [default: both, one after the other]
    #[arg(long, value_parser = slot_kind)]
    slot: Option<SlotKind>,
    /// Leave the last cluster running and print how to reach it
    #[arg(long)]
    keep: bool,
    /// Transactions per second
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Writes the result as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn slot_kind(text: &str) -> Result<SlotKind, String> {
    match text {
        "permanent" => Ok(SlotKind::Permanent),
        "native" => Ok(SlotKind::Native),
        _ => Err("permanent or native".into()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Fault {
    KillActive,
    Switchover,
    LeaderKill,
}

#[derive(Debug, Serialize)]
struct Takeover {
    slot: String,
    fault: Fault,
    target: String,
    ms: u64,
    owner_changed: bool,
    from: Standing,
    to: Standing,
}

struct Outcome {
    slot: SlotKind,
    takeovers: Vec<Takeover>,
    verdict: Verdict,
    load: Counters,
    lies: Vec<String>,
}

/// Runs it; containers are ended in any case but `--keep`.
pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let started = Instant::now();
    let screen = Screen::new();
    tokio::spawn(async {
        interrupted().await;
        // Ends what waits in another thread, so that it is cleaned up there.
        xtask::wait::interrupt();
    });
    let mut compose = blocking(Compose::open).await?;
    let kinds = arguments.slot.map_or(vec![SlotKind::Permanent, SlotKind::Native], |slot| vec![slot]);
    let mut outcomes = Vec::new();
    let mut versions = json!({});
    for slot in kinds {
        screen.step(&format!("the containers come up, with a {slot} slot"));
        compose = blocking(move || compose.up(slot).map(|()| compose)).await?;
        versions = compose.versions();
        let shared = Arc::new(compose);
        let outcome = tokio::select! {
            outcome = play(&shared, slot, arguments.rate, &screen) => outcome,
            _ = interrupted() => return Ok(ExitCode::from(130)),
        };
        compose = Arc::into_inner(shared).context("the cluster is still in use")?;
        match outcome {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => {
                if arguments.keep {
                    eprintln!("{} ps", compose.keep());
                }
                return Err(error);
            }
        }
    }
    screen.end();
    let mut ok = true;
    let mut content = json!({"takeovers": []});
    for Outcome { slot, takeovers, verdict, load, lies } in &outcomes {
        println!("\n{slot} slot");
        for it in takeovers {
            let owner = if it.owner_changed { "changed" } else { "stayed" };
            let fault = json!(it.fault);
            println!("  {:<12} {:<10} {:>6} ms  owner {owner}", fault.as_str().unwrap_or_default(), it.target, it.ms);
        }
        print!("{verdict}");
        lies.iter().for_each(|lie| println!("  LIE {lie}"));
        ok &= verdict.is_clean() && lies.is_empty();
        let mut part = serde_json::to_value(verdict)?;
        part["takeovers"] = json!(takeovers);
        part["load"] = json!(load);
        part["lies"] = json!(lies);
        add(&mut content, &part);
        content["slots"][slot.to_string()] = part;
    }
    if let Some(file) = &arguments.report {
        report::write(file, "compose-test", ok, started.elapsed(), versions, &content)
            .with_context(|| format!("write {}", file.display()))?;
    }
    if arguments.keep {
        println!("\n{} ps", compose.keep());
    } else {
        blocking(move || {
            drop(compose);
            Ok(())
        })
        .await?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn play(compose: &Arc<Compose>, slot: SlotKind, rate: u32, screen: &Screen) -> Result<Outcome> {
    let target = Target::from_report(&compose.report()).map_err(anyhow::Error::msg)?;
    let load = Load::start(&Options { rate, ..Options::new(&target.app) }).await.context("start the load")?;
    let watcher = Watcher::start(&target.bootstrap, &target.topic_prefix, load.journal());
    let sampler = Sampler::start(target.clone());
    let first = watcher.first(Instant::now(), 0, RECOVERY).await;
    first.with_context(|| format!("no row came through within {RECOVERY:?}"))?;
    let mut takeovers = Vec::new();
    for fault in [Fault::KillActive, Fault::Switchover, Fault::LeaderKill] {
        screen.step("every node of the database is to be able to lead");
        on(compose, Compose::whole).await?;
        let takeover = strike(compose, &target, &watcher, slot, fault, screen).await?;
        screen.step(&format!("{} streams, rows flowed again after {} ms", takeover.to.worker, takeover.ms));
        if fault != Fault::Switchover {
            let node = takeover.target.clone();
            on(compose, move |compose| compose.start(&node)).await?;
        }
        if takeover.owner_changed {
            wait_for(&target, &takeover.from.worker, RECOVERY, |answers| {
                answers.role.as_deref() == Some("standby") && answers.health == Some(200)
            })
            .await
            .with_context(|| format!("{} does not stand by", takeover.from.worker))?;
        }
        takeovers.push(takeover);
    }
    screen.step("the nodes come together, the load stops, tables are compared with topics");
    on(compose, Compose::whole).await?;
    let load = load.stop().await;
    let verdict = check::run::run(&target, SETTLE, None).await?;
    Ok(Outcome { slot, takeovers, verdict, load, lies: lies(&sampler.stop().await) })
}

/// Deals out a fault and waits for the first row to come through again: of one at the database, a row of the new timeline.
async fn strike(
    compose: &Arc<Compose>,
    target: &Target,
    watcher: &Watcher,
    slot: SlotKind,
    fault: Fault,
    screen: &Screen,
) -> Result<Takeover> {
    let from = standing(target, RECOVERY).await?;
    let node = match fault {
        Fault::KillActive => from.worker.clone(),
        Fault::Switchover | Fault::LeaderKill => on(compose, Compose::leader).await?,
    };
    screen.step(&match fault {
        Fault::KillActive => format!("the container of the active worker, {node}, is killed"),
        Fault::Switchover => format!("the leader, {node}, is switched over"),
        Fault::LeaderKill => format!("the leader's container, {node}, is killed"),
    });
    let begun = Instant::now();
    match fault {
        Fault::KillActive | Fault::LeaderKill => {
            let node = node.clone();
            on(compose, move |compose| compose.kill(&node)).await?;
        }
        Fault::Switchover => {
            on(compose, Compose::switchover).await?;
        }
    }
    // A row sent before a worker was dead may still have gone the old way; the timeline tells the rest apart.
    let (after, timeline) = match fault {
        Fault::KillActive => (Instant::now(), 0),
        Fault::Switchover | Fault::LeaderKill => (begun, u32::try_from(from.timeline)?),
    };
    let first = watcher.first(after, timeline, RECOVERY).await;
    let first = first.with_context(|| format!("no row came through within {RECOVERY:?} of {fault:?}"))?;
    let to = standing(target, RECOVERY).await?;
    let ms = u64::try_from((first.seen - begun).as_millis())?;
    let owner_changed = from.worker != to.worker;
    Ok(Takeover { slot: slot.to_string(), fault, target: node, ms, owner_changed, from, to })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

async fn on<T: Send + 'static>(
    compose: &Arc<Compose>,
    work: impl FnOnce(&Compose) -> Result<T> + Send + 'static,
) -> Result<T> {
    let compose = Arc::clone(compose);
    blocking(move || {
        let done = work(&compose);
        drop(compose);
        done
    })
    .await
}

/// The sum of two verdicts: numbers are added, lists joined, the keys of one table taken one by one.
fn add(sum: &mut Value, part: &Value) {
    match (sum, part) {
        (Value::Object(sum), Value::Object(part)) => {
            for (key, value) in part {
                add(sum.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(sum), Value::Array(part)) => sum.extend(part.iter().cloned()),
        (sum, part) => match (sum.as_u64(), part.as_u64()) {
            (Some(a), Some(b)) => *sum = json!(a + b),
            _ => *sum = part.clone(),
        },
    }
}
