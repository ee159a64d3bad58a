//! The faults of the demo and how long each takeover took.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use xtask::cluster::Cluster;

use super::{RECOVERY, Stage, Standing};
use crate::check::staged::{self, now_ms};

/// How long a worker stays frozen: two lease times.
const FROZEN: Duration = Duration::from_secs(20);

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL of the worker that streams.
    KillActive,
    /// SIGSTOP of the worker that streams, for 20 s.
    FreezeActive,
    /// SIGTERM of the worker that streams: it hands over.
    TermActive,
    /// Another node becomes the database's leader, as planned.
    Switchover,
    /// SIGKILL of the database's leader: another one follows when Patroni's key has run out.
    #[serde(rename = "leader-kill")]
    KillLeader,
}

impl Fault {
    /// Whether rows flow on the old timeline until the fault has struck, and on a new one afterwards.
    fn changes_timeline(self) -> bool {
        matches!(self, Fault::Switchover | Fault::KillLeader)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::KillActive => "kill-active",
            Fault::FreezeActive => "freeze-active",
            Fault::TermActive => "term-active",
            Fault::Switchover => "switchover",
            Fault::KillLeader => "leader-kill",
        })
    }
}

/// What came of a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Takeover {
    /// The fault.
    pub fault: Fault,
    /// The node that it struck.
    pub target: String,
    /// From the fault to the first row committed after it that a read_committed consumer had; of a switchover to the first
    /// row of the new timeline, since rows flow until the old leader stops.
    pub ms: u64,
    /// Whether another worker streams now.
    pub owner_changed: bool,
    /// Before.
    pub from: Standing,
    /// After.
    pub to: Standing,
}

impl Stage {
    /// [`Stage::strike`], then [`Stage::mend`].
    pub async fn suffer(&self, fault: Fault) -> Result<Takeover> {
        let (takeover, struck) = self.strike(fault).await?;
        self.mend(&takeover, struck).await?;
        Ok(takeover)
    }

    /// Deals out a fault and waits for the first row to come through again. Also tells when the fault had struck.
    pub async fn strike(&self, fault: Fault) -> Result<(Takeover, Instant)> {
        let from = self.standing().await?;
        let (begun, at_ms) = (Instant::now(), now_ms());
        let target = match fault {
            Fault::KillActive => self.on(&from.worker, Cluster::kill).await?,
            Fault::FreezeActive => self.on(&from.worker, Cluster::stop).await?,
            Fault::TermActive => self.on(&from.worker, Cluster::term).await?,
            Fault::Switchover => self.switchover().await?,
            Fault::KillLeader => {
                let cluster = self.cluster.clone();
                let leader = tokio::task::spawn_blocking(move || cluster.leader()).await??;
                self.on(&leader, Cluster::kill).await?
            }
        };
        let (until_ms, targets) = match fault {
            Fault::Switchover => (now_ms(), vec!["database".into()]),
            _ => (i64::MAX, vec![target.clone()]),
        };
        self.note(|staged| staged.faults.push(staged::Fault { at_ms, until_ms, what: fault.to_string(), targets }));
        // A row sent before the fault had struck may still have gone the old way.
        let struck = if fault.changes_timeline() { begun } else { Instant::now() };
        let timeline = if fault.changes_timeline() { u32::try_from(from.timeline)? } else { 0 };
        let first = self.watcher.first(struck, timeline, RECOVERY).await;
        let first = first.with_context(|| format!("no row came through within {RECOVERY:?} of {fault}"))?;
        let to = self.standing().await?;
        let ms = u64::try_from((first.seen - begun).as_millis())?;
        Ok((Takeover { fault, target, ms, owner_changed: from.worker != to.worker, from, to }, struck))
    }

    /// Undoes the fault; the struck worker stands by again when this returns.
    pub async fn mend(&self, takeover: &Takeover, struck: Instant) -> Result<()> {
        let target = &takeover.target;
        match takeover.fault {
            Fault::KillActive | Fault::TermActive | Fault::KillLeader => {
                self.on(target, Cluster::start).await?;
            }
            Fault::FreezeActive => {
                tokio::time::sleep_until((struck + FROZEN).into()).await;
                self.on(target, Cluster::cont).await?;
            }
            Fault::Switchover => {}
        }
        self.heals(std::slice::from_ref(target));
        if takeover.fault.changes_timeline() {
            return Ok(());
        }
        if takeover.owner_changed { self.stands_by(target).await } else { Ok(()) }
    }

    async fn on(&self, node: &str, act: fn(&Cluster, &str) -> Result<()>) -> Result<String> {
        let (cluster, node) = (self.cluster.clone(), node.to_owned());
        tokio::task::spawn_blocking(move || act(&cluster, &node).map(|()| node)).await?
    }

    /// Returns the node that led before.
    async fn switchover(&self) -> Result<String> {
        let cluster = self.cluster.clone();
        tokio::task::spawn_blocking(move || {
            let leader = cluster.leader()?;
            cluster.switchover(None)?;
            Ok(leader)
        })
        .await?
    }
}
