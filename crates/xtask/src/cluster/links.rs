//! The ways between workers and servers as ports of their own, so that somebody can stand on each and disturb it.
//!
//! Who stands there is not decided here: the ports are planned and told, nobody listens on them yet.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::state::{Node, State};
use super::{Cluster, Spec};
use crate::kafka::{Broker, SideDoor};
use crate::ports::Ports;

/// Whose ways lead to a worker: the others all read one address of it.
const PEERS: &str = "peers";

/// A way from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Where the one that connects finds it.
    pub port: u16,
    /// Where the one that is meant listens.
    pub to: u16,
}

impl Link {
    /// `worker-1/haproxy`, `worker-2/etcd-3`, `worker-1/kafka-1`, `peers/worker-2`.
    pub(super) fn name(from: &str, to: &str) -> String {
        format!("{from}/{to}")
    }
}

impl Cluster {
    /// Every way of a proxied cluster by its name: from each worker to HAProxy, etcd and Kafka (`worker-1/haproxy`,
    /// `worker-1/etcd-2`, `worker-1/kafka-1`), and from all others to a worker (`peers/worker-1`). Nothing goes by a way unless
    /// the caller listens on its port. Empty where a cluster is not proxied.
    pub fn links(&self) -> Result<BTreeMap<String, Link>> {
        Ok(self.state()?.links)
    }
}

pub(super) fn worker(number: usize) -> String {
    format!("worker-{number}")
}

/// The ways of all workers to the servers. Each broker gets a door for each worker, because a broker tells its clients where it
/// is to be found.
pub(super) fn plan(
    spec: &Spec,
    etcd: &[(String, Node)],
    haproxy: &(String, Node),
    brokers: &mut [Broker],
    ports: &mut Ports,
) -> BTreeMap<String, Link> {
    let mut links = BTreeMap::new();
    for worker in (1..=spec.workers).filter(|_| spec.proxied).map(worker) {
        for (name, node) in etcd.iter().chain([haproxy]) {
            links.insert(Link::name(&worker, name), Link { port: ports.free(), to: node.port });
        }
        for broker in &mut *brokers {
            let link = Link { port: ports.free(), to: ports.free() };
            broker.side_doors.push(SideDoor { port: link.to, advertised: link.port });
            links.insert(Link::name(&worker, &broker.name()), link);
        }
    }
    links
}

/// The way of all others to a worker of a proxied cluster that listens on `to`.
pub(super) fn lead_to(state: &mut State, worker: &str, to: u16) {
    if state.spec.proxied {
        let mut ports = Cluster::ports(state);
        ports.keep(to);
        state.links.insert(Link::name(PEERS, worker), Link { port: ports.free(), to });
    }
}

/// The port at which others find the worker, if it is not its own.
pub(super) fn advertised(state: &State, worker: &str) -> Option<u16> {
    state.links.get(&Link::name(PEERS, worker)).map(|link| link.port)
}
