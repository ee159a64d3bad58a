//! The proxies on all ways of a cluster, by the ways' names.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};
use xtask::cluster::Cluster;

use super::{Proxy, Server, Trouble};

/// One proxy on each way of a proxied cluster. They run on a thread of their own, so they outlive the runtime of a single test.
#[derive(Debug)]
pub struct Links {
    proxies: BTreeMap<String, Proxy>,
    runtime: Option<Runtime>,
}

impl Links {
    /// Puts a proxy on every way.
    pub fn stand_on(cluster: &Cluster) -> Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).enable_all().build().context("start the proxies")?;
        let proxy = |(name, link): (String, xtask::cluster::Link)| {
            let to = if name.contains("/kafka-") { Server::Kafka(link.to) } else { Server::Any(link.to) };
            let proxy = Proxy::start(runtime.handle(), link.port, to).with_context(|| format!("stand on {name}"))?;
            Ok((name, proxy))
        };
        let proxies = cluster.links()?.into_iter().map(proxy).collect::<Result<_>>()?;
        Ok(Links { proxies, runtime: Some(runtime) })
    }

    /// The names of all ways: `worker-1/haproxy`, `worker-1/etcd-2`, `worker-2/kafka-1`, `peers/worker-1`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.proxies.keys().map(String::as_str)
    }

    /// The proxy on one way.
    pub fn on(&self, name: &str) -> Result<&Proxy> {
        self.proxies.get(name).with_context(|| format!("no proxy stands on {name}"))
    }

    /// Troubles all ways whose names begin so.
    pub fn set_all(&self, beginning: &str, trouble: Trouble) {
        self.beginning(beginning).for_each(|proxy| proxy.set(trouble));
    }

    /// Resets all connections on all ways whose names begin so.
    pub fn reset_all(&self, beginning: &str) {
        self.beginning(beginning).for_each(Proxy::reset);
    }

    fn beginning(&self, beginning: &str) -> impl Iterator<Item = &Proxy> {
        self.proxies.iter().filter(move |(name, _)| name.starts_with(beginning)).map(|(_, proxy)| proxy)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime must not wait for its threads inside another one.
            runtime.shutdown_background();
        }
    }
}
