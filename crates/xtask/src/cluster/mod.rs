//! The local cluster: 3 etcd, 3 Patroni nodes, HAProxy, Kafka and workers, all plain processes on loopback, handled by name.
//!
//! The state lies in a file beside the servers' data and is written after every step, so any number of commands, one after
//! the other, work on the same cluster, and the next `up` finds what a crashed one left.
//!
//! What the cluster does under faults is judged elsewhere; here they are only dealt out.

mod handles;
mod links;
mod nodes;
mod report;
mod start;
mod state;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub use handles::Guard;
pub use links::Link;
pub use worker::{Pipeline, Worker};

use crate::instance::Instance;
use crate::lab::Lab;
use crate::ports::Ports;
use crate::{http, psql, setup};
use state::{Kind, State};

/// What is wanted of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Clusters of different instances run side by side. The person's own is [`MAIN`].
    pub instance: String,
    /// PostgreSQL's major version; `None`: 15, or the lowest newer one that is installed.
    pub pg: Option<u16>,
    /// How many workers of the pipeline `orders`.
    pub workers: usize,
    /// Kafka brokers: 1, or 3 with everything kept three times.
    pub brokers: usize,
    /// etcd members.
    pub etcd: usize,
    /// Whether each worker's way to each server, and the others' to it, has a port of its own, on which the caller has to
    /// stand: see [`Cluster::links`].
    pub proxied: bool,
    /// Whether the workers deliver at least once, without transactions.
    #[serde(default)]
    pub at_least_once: bool,
    /// Whether the workers publish only what all standbys have flushed.
    #[serde(default)]
    pub standby_barrier: bool,
}

/// The instance that is meant when none is named.
pub const MAIN: &str = "main";

impl Default for Spec {
    fn default() -> Self {
        Self {
            instance: MAIN.to_owned(),
            pg: None,
            workers: 2,
            brokers: 1,
            etcd: 3,
            proxied: false,
            at_least_once: false,
            standby_barrier: false,
        }
    }
}

impl Spec {
    fn check(&self) -> Result<()> {
        ensure!(matches!(self.brokers, 1 | 3), "a cluster has 1 or 3 brokers, not {}", self.brokers);
        ensure!(matches!(self.etcd, 1 | 3 | 5), "a cluster has 1, 3 or 5 etcd members, not {}", self.etcd);
        Ok(())
    }
}

/// A handle to a cluster. Dropping it changes nothing: the servers run on.
#[derive(Clone, Debug)]
pub struct Cluster {
    lab: Lab,
    instance: Instance,
}

impl Cluster {
    /// Starts the cluster and returns when all of it works: database writable through HAProxy, replicas streaming, the slot's
    /// copies safe, Kafka answering, one worker active and the others standing by. The workers of a proxied one are not
    /// started yet: they would find nobody on their ways.
    ///
    /// A running cluster of the same kind is left as it is. Whatever a crashed start left is ended and removed first; if this
    /// start fails, its processes are ended and the logs stay.
    pub fn up(spec: &Spec) -> Result<Self> {
        let lab = Lab::open()?;
        let instance = Instance::open(&lab, &spec.instance)?;
        Self { lab, instance }.bring_up(spec)
    }

    /// As [`Cluster::up`], for tests: the cluster ends when the guard is dropped, or with the next test run if this process dies.
    pub fn up_for_test(spec: &Spec) -> Result<Guard> {
        let lab = Lab::open()?;
        let instance = Instance::temporary(&lab, &spec.instance)?;
        Ok(Guard::new(Self { lab, instance }.bring_up(spec)?))
    }

    fn bring_up(self, spec: &Spec) -> Result<Self> {
        spec.check()?;
        let _lock = self.instance.try_lock()?;
        if let Some(state) = State::load(&self.instance)?
            && state.ready
            && state.any_alive()
        {
            ensure!(
                state.spec == *spec,
                "another kind of cluster is up ({:?}): end it with `cargo xtask cluster down`",
                state.spec
            );
            return Ok(self);
        }
        if let Some(major) = spec.pg {
            setup::ensure_postgres(major)?;
        }
        self.instance.clear(&self.lab, true)?;
        if let Err(error) = start::start(&self, spec) {
            self.instance.clear(&self.lab, false)?;
            State::remove(&self.instance)?;
            return Err(error.context(format!("bring the cluster up (logs: {})", self.instance.logs().display())));
        }
        Ok(self)
    }

    /// The running cluster of that instance.
    pub fn attach(instance: &str) -> Result<Self> {
        let lab = Lab::open()?;
        let instance = Instance::open(&lab, instance)?;
        match State::load(&instance)? {
            Some(state) if state.ready => Ok(Self { lab, instance }),
            Some(_) => bail!("the cluster did not come up to the end: `cargo xtask cluster up` starts it anew"),
            None => bail!("no cluster is up: start one with `cargo xtask cluster up`"),
        }
    }

    /// What was wanted of it.
    pub fn spec(&self) -> Result<Spec> {
        Ok(self.state()?.spec)
    }

    /// Ends every process of the instance, whether its start came to an end or not: workers, then Patroni (which stops its
    /// PostgreSQL), then HAProxy and Kafka, then etcd. Data is removed, logs stay. Nothing else on the machine is touched.
    pub fn down(instance: &str) -> Result<()> {
        let lab = Lab::open()?;
        let cluster = Self { instance: Instance::open(&lab, instance)?, lab };
        let _lock = cluster.instance.try_lock()?;
        cluster.end()
    }

    fn end(&self) -> Result<()> {
        if let Some(state) = State::load(&self.instance)? {
            let bound = Duration::from_secs(15);
            for kinds in [&[Kind::Worker][..], &[Kind::Postgres], &[Kind::Haproxy, Kind::Kafka], &[Kind::Etcd]] {
                let names =
                    state.nodes.iter().filter(|(_, node)| kinds.contains(&node.kind)).map(|(name, _)| name.as_str());
                handles::end_together(&self.instance, &state, &names.collect::<Vec<_>>(), bound);
            }
        }
        self.instance.clear(&self.lab, false)?;
        State::remove(&self.instance)
    }

    /// The lab it belongs to.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Its folders.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The log of a node.
    #[must_use]
    pub fn log(&self, node: &str) -> PathBuf {
        self.instance.log(node)
    }

    fn state(&self) -> Result<State> {
        State::load(&self.instance)?.context("no cluster is up")
    }

    /// The names of all nodes, workers included.
    pub fn nodes(&self) -> Result<Vec<String>> {
        Ok(self.state()?.nodes.into_keys().collect())
    }

    /// The port on which a node serves its clients (HAProxy: the leader's).
    pub fn port(&self, node: &str) -> Result<u16> {
        Ok(self.state()?.node(node)?.port)
    }

    /// The Patroni node that leads now, as Patroni itself says: `pg-2`.
    pub fn leader(&self) -> Result<String> {
        let state = self.state()?;
        let leads = |rest| http::get(rest, "/primary").is_ok_and(|answer| answer.status == 200);
        let leader = state.nodes.iter().find(|(_, node)| node.rest.is_some_and(leads));
        Ok(leader.context("no node says that it leads")?.0.clone())
    }

    /// PostgreSQL through HAProxy as `app`, the owner of the tables.
    pub fn dsn_app(&self) -> Result<String> {
        Ok(nodes::dsn("app", self.state()?.haproxy.leader))
    }

    /// PostgreSQL through HAProxy as `pgbaton`, the role of the workers.
    pub fn dsn_worker(&self) -> Result<String> {
        Ok(nodes::dsn("pgbaton", self.state()?.haproxy.leader))
    }

    /// PostgreSQL through HAProxy as the superuser.
    pub fn dsn_admin(&self) -> Result<String> {
        Ok(nodes::dsn("postgres", self.state()?.haproxy.leader))
    }

    /// One Patroni node directly, whatever its role, as the superuser.
    pub fn node_dsn(&self, node: &str) -> Result<String> {
        let state = self.state()?;
        let found = state.node(node)?;
        ensure!(found.kind == Kind::Postgres, "{node} is no PostgreSQL");
        Ok(nodes::dsn("postgres", found.port))
    }

    /// Runs SQL as the superuser, through HAProxy or on one node, and returns what `psql -At` prints.
    pub fn sql(&self, node: Option<&str>, sql: &str) -> Result<String> {
        let dsn = match node {
            Some(node) => self.node_dsn(node)?,
            None => self.dsn_admin()?,
        };
        psql::run(&self.state()?.postgres_bin, &dsn, sql)
    }

    /// `psql`, ready for arguments of the caller's.
    pub fn psql(&self, node: Option<&str>) -> Result<std::process::Command> {
        let dsn = node.map_or_else(|| self.dsn_admin(), |node| self.node_dsn(node))?;
        let mut command = std::process::Command::new(self.state()?.postgres_bin.join("psql"));
        command.arg("-d").arg(dsn);
        Ok(command)
    }

    /// `127.0.0.1:PORT,...` of all brokers.
    pub fn kafka_bootstrap(&self) -> Result<String> {
        Ok(self.state()?.kafka_bootstrap())
    }

    /// `http://127.0.0.1:PORT` of each etcd member.
    pub fn etcd_endpoints(&self) -> Result<Vec<String>> {
        Ok(self.state()?.etcd_endpoints())
    }

    fn ports(state: &State) -> Ports {
        let nodes = state.nodes.values().flat_map(|node| [Some(node.port), node.rest]).flatten();
        Ports::without(nodes.chain(state.links.values().flat_map(|link| [link.port, link.to])))
    }
}
