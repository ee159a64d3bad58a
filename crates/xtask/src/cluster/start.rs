//! The start: plan all nodes and their ports, start them in an order in which each finds what it needs, wait for what each owes.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::state::{Kind, Node, State};
use super::{Cluster, Spec, links, nodes, worker};
use crate::http;
use crate::kafka::{self, Broker};
use crate::ports::Ports;
use crate::process;
use crate::progress::Step;
use crate::psql;
use crate::wait::{go_on, until};

/// Longer than anything took here by a factor of ten; on a slow machine waiting is better than failing.
const BOUND: Duration = Duration::from_secs(120);

pub(super) fn start(cluster: &Cluster, spec: &Spec) -> Result<()> {
    let started = Instant::now();
    // Before any server: a build takes long, and may fail.
    let binary = (spec.workers > 0).then(|| worker::binary(cluster)).transpose()?;
    let mut start = Start::plan(cluster, spec)?;
    start.etcd()?;
    start.launch(Kind::Postgres)?;
    start.launch(Kind::Haproxy)?;
    start.format_kafka()?;
    start.launch(Kind::Kafka)?;
    start.database()?;
    start.copies()?;
    start.kafka()?;
    if let Some(binary) = binary {
        start.workers(&binary)?;
    }
    start.state.ready = true;
    start.state.seconds = started.elapsed().as_secs_f64();
    start.state.save(&cluster.instance)
}

struct Start<'a> {
    cluster: &'a Cluster,
    state: State,
    brokers: Vec<Broker>,
}

impl<'a> Start<'a> {
    fn plan(cluster: &'a Cluster, spec: &Spec) -> Result<Self> {
        let (lab, instance) = (&cluster.lab, &cluster.instance);
        let postgres_bin = lab.postgres_bin(spec.pg)?;
        nodes::copy_configuration(lab, instance)?;
        let mut ports = Ports::default();
        let etcd = nodes::etcd(lab, instance, spec.etcd, &mut ports);
        let patroni = nodes::patroni(lab, instance, &postgres_bin, &etcd, &mut ports);
        let (haproxy, proxy) = nodes::haproxy(instance, &patroni, &mut ports)?;
        let mut brokers = nodes::brokers(spec.brokers, &mut ports);
        let links = links::plan(spec, &etcd, &proxy, &mut brokers, &mut ports);
        let kafka = brokers.iter().map(|broker| nodes::kafka(lab, instance, broker)).collect::<Result<Vec<_>>>()?;
        let state = State {
            spec: spec.clone(),
            ready: false,
            seconds: 0.0,
            versions: nodes::versions(lab, &postgres_bin),
            postgres_bin,
            haproxy,
            nodes: etcd.into_iter().chain(patroni).chain([proxy]).chain(kafka).collect(),
            links,
        };
        state.save(instance)?;
        Ok(Self { cluster, state, brokers })
    }

    fn names(&self, kind: Kind) -> Vec<String> {
        self.state.of_kind(kind).map(|(name, _)| name.to_owned()).collect()
    }

    fn launch(&mut self, kind: Kind) -> Result<()> {
        for name in self.names(kind) {
            launch(self.cluster, &mut self.state, &name)?;
        }
        Ok(())
    }

    /// Waits for `probe`. A node of `kind` that dies meanwhile ends the wait, and an error ends with what its log says.
    fn wait<T>(&self, kind: Kind, what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
        let waited = until(what, BOUND, || {
            if let Some(answer) = probe() {
                return Ok(Some(answer));
            }
            match self.state.of_kind(kind).find(|(_, node)| !node.is_alive()) {
                Some((name, _)) => bail!("{name} ended while we waited for {what}"),
                None => Ok(None),
            }
        });
        waited.with_context(|| {
            let tails: Vec<_> = self.state.of_kind(kind).map(|(name, node)| tail(name, node)).collect();
            format!("look at:\n{}\n", tails.join("\n"))
        })
    }

    fn etcd(&mut self) -> Result<()> {
        let step = Step::new("etcd");
        self.launch(Kind::Etcd)?;
        self.wait(Kind::Etcd, "etcd to be healthy", || {
            let healthy = |port| http::get(port, "/health").is_ok_and(|answer| answer.body.contains("\"true\""));
            self.state.of_kind(Kind::Etcd).all(|(_, node)| healthy(node.port)).then_some(())
        })?;
        step.done(&format!("{} members healthy", self.state.spec.etcd));
        Ok(())
    }

    fn format_kafka(&self) -> Result<()> {
        let Cluster { lab, instance } = self.cluster;
        let id = kafka::cluster_id();
        thread::scope(|scope| {
            let (all, id) = (&self.brokers, &id);
            let formats: Vec<_> =
                all.iter().map(|broker| scope.spawn(|| broker.format(lab, instance, all, id))).collect();
            formats.into_iter().try_for_each(|format| format.join().unwrap_or_else(|_| bail!("formatting panicked")))
        })
    }

    fn database(&self) -> Result<()> {
        let step = Step::new("PostgreSQL");
        let dsn = nodes::dsn("postgres", self.state.haproxy.leader);
        let ask = |sql: &str| psql::run(&self.state.postgres_bin, &dsn, sql).ok();
        step.note("a leader, writable through HAProxy");
        self.wait(Kind::Postgres, "a leader that is writable through HAProxy", || {
            ask("SELECT pg_is_in_recovery()").filter(|answer| answer == "f")
        })?;
        step.note("replicas streaming");
        let replicas = (nodes::PATRONI_NODES - 1).to_string();
        self.wait(Kind::Postgres, "both replicas to stream", || {
            ask("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").filter(|count| *count >= replicas)
        })?;
        step.done("leader writable through HAProxy, 2 replicas streaming");
        Ok(())
    }

    /// Until a standby's copy of the slot is safe, a fail-over would lose the slot or jump. Patroni says so in its log only.
    fn copies(&self) -> Result<()> {
        const SAFE: &str = "Logical slot orders is safe to be used after a failover";
        let step = Step::new("the slot and its copies");
        let safe = |node: &Node| fs::read_to_string(&node.launch.log).is_ok_and(|log| log.contains(SAFE));
        self.wait(Kind::Postgres, "Patroni to call the slot's copies safe", || {
            let copies = self.state.of_kind(Kind::Postgres).filter(|(_, node)| safe(node)).count();
            (copies >= nodes::PATRONI_NODES - 1).then_some(())
        })?;
        let has_slot = "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'orders' AND restart_lsn IS NOT NULL";
        self.wait(Kind::Postgres, "the slot on all nodes", || {
            let here = |node: &Node| psql::run(&self.state.postgres_bin, &nodes::dsn("postgres", node.port), has_slot);
            self.state
                .of_kind(Kind::Postgres)
                .all(|(_, node)| here(node).is_ok_and(|answer| answer == "1"))
                .then_some(())
        })?;
        step.done("on all nodes, safe after a fail-over");
        Ok(())
    }

    fn kafka(&self) -> Result<()> {
        let step = Step::new("Kafka");
        self.wait(Kind::Kafka, "Kafka to answer", || {
            let complete =
                |broker: &Broker| kafka::known_brokers(broker.port).is_ok_and(|known| known == self.brokers.len());
            self.brokers.iter().all(complete).then_some(())
        })?;
        step.done(&format!("{} answering", self.state.kafka_bootstrap()));
        Ok(())
    }

    fn workers(&mut self, binary: &std::path::Path) -> Result<()> {
        for i in 1..=self.state.spec.workers {
            let (name, pipeline) = (links::worker(i), worker::Pipeline::default());
            worker::plan(self.cluster, &mut self.state, binary, &name, |state, name, port| {
                links::lead_to(state, name, port);
                worker::config(self.cluster, state, name, port, &pipeline)
            })?;
        }
        if self.state.spec.proxied {
            return Ok(());
        }
        let step = Step::new("workers");
        self.launch(Kind::Worker)?;
        let says = |path: &str| {
            let count = |node: &Node| http::get(node.port, path).is_ok_and(|answer| answer.status == 200);
            self.state.of_kind(Kind::Worker).filter(|(_, node)| count(node)).count()
        };
        let others = self.state.spec.workers - 1;
        self.wait(Kind::Worker, "one worker active and the others standing by", || {
            (says("/active") == 1 && says("/standby") == others).then_some(())
        })?;
        step.done(&format!("1 active, {others} standing by"));
        Ok(())
    }
}

/// Starts a node, and writes down that it runs before anything else happens.
pub(super) fn launch(cluster: &Cluster, state: &mut State, name: &str) -> Result<()> {
    go_on()?;
    let launch = state.node(name)?.launch.clone();
    let process = launch.spawn(cluster.lab.owner(), &process::mark(cluster.instance.dir(), name))?;
    if let Some(node) = state.nodes.get_mut(name) {
        node.process = Some(process);
    }
    state.save(&cluster.instance)
}

fn tail(name: &str, node: &Node) -> String {
    const LINES: usize = 8;
    let text = fs::read(&node.launch.log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join("\n    ");
    format!("  {name}: {}\n    {last}", node.launch.log.display())
}
