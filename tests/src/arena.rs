//! A cluster whose every way can be disturbed: proxies on all of them, workers behind the proxies.

use std::sync::Arc;

use anyhow::{Context, Result};
use xtask::cluster::{Cluster, Guard, Spec};

use crate::proxy::Links;

/// A proxied cluster with its proxies. The proxies end with this, the cluster does not.
#[derive(Debug)]
pub struct Arena {
    /// The cluster.
    pub cluster: Cluster,
    /// The proxies.
    pub links: Links,
}

impl Arena {
    /// Brings a cluster up, stands on its ways and starts its workers. Blocks.
    pub fn raise(spec: Spec) -> Result<Self> {
        Self::stand_in(Cluster::up(&Spec { proxied: true, ..spec })?)
    }

    /// The same for a test, with all that it needs installed before: the cluster ends with the guard.
    pub async fn for_test(spec: Spec) -> Result<(Arc<Self>, Guard)> {
        let raise = move || {
            xtask::setup::ensure_done()?;
            let guard = Cluster::up_for_test(&Spec { proxied: true, ..spec })?;
            Ok((Arc::new(Self::stand_in(guard.clone())?), guard))
        };
        tokio::task::spawn_blocking(raise).await?
    }

    /// Stands on the ways of a proxied cluster, and starts those of its workers that do not run. Blocks.
    pub fn stand_in(cluster: Cluster) -> Result<Self> {
        let links = Links::stand_on(&cluster)?;
        for worker in cluster.workers()?.iter().filter(|worker| worker.pid.is_none()) {
            cluster.start(&worker.name)?;
        }
        Ok(Arena { cluster, links })
    }

    /// Does something to the cluster that takes a while.
    pub async fn act<T: Send + 'static>(&self, act: impl FnOnce(&Cluster) -> Result<T> + Send + 'static) -> Result<T> {
        let cluster = self.cluster.clone();
        tokio::task::spawn_blocking(move || act(&cluster)).await.context("act on the cluster")?
    }

    /// Starts every node that is dead, wakes all others, and clears every way. Returns which ones were dead. Blocks.
    pub fn mend(&self) -> Result<Vec<String>> {
        self.links.set_all("", crate::proxy::Trouble::None);
        let mut dead = Vec::new();
        for name in self.cluster.nodes()? {
            if self.cluster.pids(&name)?.is_empty() {
                self.cluster.start(&name)?;
                dead.push(name);
            } else {
                self.cluster.cont(&name)?;
            }
        }
        Ok(dead)
    }
}
