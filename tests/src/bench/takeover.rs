//! `bench takeover`: how long consumers wait when the worker that streams dies, stands still or leaves, and when the
//! database's leader moves.
//!
//! From the fault to the first row committed in PostgreSQL *after* it that a read_committed consumer has. Of a switchover:
//! from the moment that the new leader took its first row, since no worker can be sooner than the database is. The same
//! load runs through all rounds, and the checker has the last word: a figure of a run that lost a row is worth nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use xtask::cluster::Cluster;

use crate::http;
use crate::stage::{RECOVERY, Stage};

/// What is dealt out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// SIGKILL of the worker that streams.
    Kill,
    /// SIGSTOP of the worker that streams.
    Freeze,
    /// It is asked to hand over.
    Handover,
    /// Another node becomes the database's leader, as planned.
    Switchover,
}

/// One measured fault: its name in the report, what it is and under how many transactions a second.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// As it stands in the report.
    pub name: &'static str,
    /// What is dealt out.
    pub round: Round,
    /// Transactions per second: 50 is nearly idle, and still often enough to be measured by.
    pub rate: u32,
}

/// The faults of the report, in the order they are measured.
pub const ALL: [Measured; 5] = [
    Measured { name: "kill-active", round: Round::Kill, rate: 50 },
    Measured { name: "kill-active-under-load", round: Round::Kill, rate: 400 },
    Measured { name: "freeze-active", round: Round::Freeze, rate: 50 },
    Measured { name: "handover", round: Round::Handover, rate: 50 },
    Measured { name: "switchover", round: Round::Switchover, rate: 50 },
];

/// A tenure younger than this is protected from all but the plainest evidence; and a cluster that was just disturbed is not
/// what is measured.
const CALM: Duration = Duration::from_secs(6);

/// Milliseconds over the rounds of one fault.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    /// Rounds.
    pub n: usize,
    /// Half of them took no longer.
    pub p50: u64,
    /// See `p50`.
    pub p90: u64,
    /// See `p50`.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

impl Percentiles {
    /// By the nearest rank; none without a round.
    pub fn of(mut rounds: Vec<u64>) -> Option<Self> {
        rounds.sort_unstable();
        let rank = |percent: usize| rounds.get((rounds.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Some(Percentiles { n: rounds.len(), p50: rank(50)?, p90: rank(90)?, p99: rank(99)?, max: *rounds.last()? })
    }
}

/// What came of all rounds of one fault.
pub struct Measurement {
    /// The figures.
    pub figures: Percentiles,
    /// Whether the checker found everything once.
    pub clean: bool,
    /// How often the owner changed though the fault was none of a worker's.
    pub owner_changes: usize,
    /// What the workers gave as the cause, and how often.
    pub causes: BTreeMap<String, usize>,
}

/// Deals the fault out `rounds` times and lets the checker judge.
pub async fn measure(
    cluster: &Cluster,
    measured: Measured,
    rounds: usize,
    told: impl Fn(usize, u64),
) -> Result<Measurement> {
    let stage = Stage::open(cluster, measured.rate).await?;
    let (mut taken, mut causes, mut owner_changes) = (Vec::new(), BTreeMap::new(), 0);
    for number in 0..rounds {
        tokio::time::sleep(CALM).await;
        let (ms, cause) =
            round(&stage, measured.round).await.with_context(|| format!("round {number} of {}", measured.name))?;
        match cause {
            Some(cause) => *causes.entry(cause).or_default() += 1,
            None if measured.round != Round::Switchover => anyhow::bail!("the owner stayed in round {number}"),
            None => {}
        }
        owner_changes += usize::from(measured.round == Round::Switchover && !causes.is_empty());
        told(number + 1, ms);
        taken.push(ms);
    }
    let outcome = stage.close(RECOVERY).await?;
    let figures = Percentiles::of(taken).context("no round was asked for")?;
    Ok(Measurement { figures, clean: outcome.is_clean(), owner_changes, causes })
}

/// One fault and its end. Answers with its time, and with the cause that the new owner gave if there is a new one.
async fn round(stage: &Stage, round: Round) -> Result<(u64, Option<String>)> {
    let from = stage.standing().await?;
    for (other, _) in stage.target().workers.iter().filter(|(name, _)| *name != from.worker) {
        stage.stands_by(other).await?;
    }
    let begun = Instant::now();
    if round != Round::Switchover {
        stage.strikes(&format!("{round:?}"), std::slice::from_ref(&from.worker));
    }
    match round {
        Round::Kill => on(stage, &from.worker, Cluster::kill).await?,
        Round::Freeze => on(stage, &from.worker, Cluster::stop).await?,
        Round::Handover => {
            let path = format!("api/v1/pipelines/{}/handover", stage.target().pipeline);
            let url = format!("{}/{path}", url(stage, &from.worker)?);
            let answer = http::request("POST", &url, "{}", RECOVERY).await.context("no answer to the hand-over")?;
            ensure!(answer.status == 202, "the hand-over was refused: {}", answer.body);
        }
        Round::Switchover => {
            let cluster = stage.cluster().clone();
            tokio::task::spawn_blocking(move || cluster.switchover(None)).await??;
        }
    }
    let struck = if round == Round::Switchover { begun } else { Instant::now() };
    let timeline = if round == Round::Switchover { u32::try_from(from.timeline)? } else { 0 };
    let first = stage.watcher().first(struck, timeline, RECOVERY).await;
    let first = first.with_context(|| format!("no row came through within {RECOVERY:?}"))?;
    let since = if round == Round::Switchover { first.sent } else { begun };
    let to = stage.standing().await?;
    match round {
        Round::Kill => on(stage, &from.worker, Cluster::start).await?,
        Round::Freeze => on(stage, &from.worker, Cluster::cont).await?,
        Round::Handover | Round::Switchover => {}
    }
    stage.heals(std::slice::from_ref(&from.worker));
    let cause = if to.worker == from.worker { None } else { Some(cause(stage, &to.worker).await?) };
    Ok((u64::try_from((first.seen - since).as_millis())?, cause))
}

async fn on(stage: &Stage, node: &str, act: fn(&Cluster, &str) -> Result<()>) -> Result<()> {
    let (cluster, node) = (stage.cluster().clone(), node.to_owned());
    tokio::task::spawn_blocking(move || act(&cluster, &node)).await?
}

fn url<'s>(stage: &'s Stage, worker: &str) -> Result<&'s str> {
    let found = stage.target().workers.iter().find(|(name, _)| name == worker);
    Ok(&found.with_context(|| format!("no worker is named {worker}"))?.1)
}

async fn cause(stage: &Stage, worker: &str) -> Result<String> {
    let answer = http::get(&format!("{}/status", url(stage, worker)?), RECOVERY).await.context("no status")?;
    let cause = &answer.json()["pipelines"][&stage.target().pipeline]["last_switch"]["cause"];
    Ok(cause.as_str().unwrap_or("unknown").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_go_by_the_nearest_rank() {
        let figures = Percentiles::of((1..=50).rev().collect()).unwrap();
        assert_eq!((figures.n, figures.p50, figures.p90, figures.p99, figures.max), (50, 25, 45, 50, 50));
        assert!(Percentiles::of(Vec::new()).is_none());
    }
}
