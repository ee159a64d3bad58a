//! A fault as data, dealt out and healed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Serialize, Serializer};
use xtask::cluster::Cluster;

use crate::arena::Arena;
use crate::proxy::Trouble;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL, and started again.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Freeze,
    /// SIGTERM, and started again.
    Terminate,
    /// A planned change of the database's leader.
    Switchover,
    /// The proxies on ways disturb what passes, and let it pass again.
    Trouble(Trouble),
    /// The proxies on ways reset every connection.
    Reset,
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blow::Kill => f.write_str("kill"),
            Blow::Freeze => f.write_str("freeze"),
            Blow::Terminate => f.write_str("terminate"),
            Blow::Switchover => f.write_str("switchover"),
            Blow::Trouble(trouble) => trouble.fmt(f),
            Blow::Reset => f.write_str("reset"),
        }
    }
}

impl Serialize for Blow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What is done.
    pub fault: Blow,
    /// To whom: nodes (`worker-1`, `pg-2`, `database` for a switchover), or ways by the beginning of their names (`worker-1/kafka-`).
    pub targets: Vec<String>,
    /// How long until it is healed.
    pub lasts_ms: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.fault, self.targets.join(" "))?;
        if self.lasts_ms > 0 { write!(f, " for {:.1} s", self.lasts().as_secs_f64()) } else { Ok(()) }
    }
}

impl Fault {
    /// How long until it is healed.
    #[must_use]
    pub fn lasts(&self) -> Duration {
        Duration::from_millis(self.lasts_ms)
    }

    /// Deals it out.
    pub async fn strike(&self, arena: &Arc<Arena>) -> Result<()> {
        match self.fault {
            Blow::Kill => self.each(arena, Cluster::kill).await,
            Blow::Freeze => self.each(arena, Cluster::stop).await,
            Blow::Terminate => self.each(arena, Cluster::term).await,
            Blow::Switchover => arena.act(|cluster| cluster.switchover(None)).await.map(drop),
            Blow::Trouble(trouble) => {
                self.targets.iter().for_each(|ways| arena.links.set_all(ways, trouble));
                Ok(())
            }
            Blow::Reset => {
                self.targets.iter().for_each(|ways| arena.links.reset_all(ways));
                Ok(())
            }
        }
    }

    /// Undoes it.
    pub async fn heal(&self, arena: &Arc<Arena>) -> Result<()> {
        match self.fault {
            Blow::Kill | Blow::Terminate => self.each(arena, Cluster::start).await,
            Blow::Freeze => self.each(arena, Cluster::cont).await,
            Blow::Trouble(_) => {
                self.targets.iter().for_each(|ways| arena.links.set_all(ways, Trouble::None));
                Ok(())
            }
            Blow::Switchover | Blow::Reset => Ok(()),
        }
    }

    /// All of them, whatever comes of the first.
    async fn each(&self, arena: &Arc<Arena>, act: fn(&Cluster, &str) -> Result<()>) -> Result<()> {
        let targets = self.targets.clone();
        let acts = move |cluster: &Cluster| {
            let done: Vec<Result<()>> = targets.iter().map(|name| act(cluster, name).context(name.clone())).collect();
            done.into_iter().collect()
        };
        arena.act(acts).await
    }
}
