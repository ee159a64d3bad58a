//! The cluster as `--report` writes it and as `cluster status` shows it.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::state::{Kind, State};
use super::worker::{ETCD_PREFIX, Pipeline};
use super::{Cluster, handles, nodes};

impl Cluster {
    /// The report of `cluster up` and `cluster status`. `ok` says whether every node runs and a leader is known.
    pub fn report(&self, kind: &str) -> Result<Value> {
        let state = self.state()?;
        let leader = self.leader().ok();
        let pipeline = Pipeline::default();
        let workers =
            self.workers()?.into_iter().map(|worker| Ok((worker.name.clone(), serde_json::to_value(worker)?)));
        Ok(json!({
            "kind": kind,
            "ok": leader.is_some() && state.nodes.values().all(super::state::Node::is_alive),
            "seconds": (state.seconds * 1000.0).round() / 1000.0,
            "versions": state.versions,
            "leader": leader,
            "dsn": {
                "app": nodes::dsn("app", state.haproxy.leader),
                "worker": nodes::dsn("pgbaton", state.haproxy.leader),
                "admin": nodes::dsn("postgres", state.haproxy.leader),
            },
            "haproxy": {"leader": state.haproxy.leader, "replicas": state.haproxy.replicas, "stats": state.haproxy.stats},
            "kafka": {"bootstrap": state.kafka_bootstrap()},
            "etcd": {"endpoints": state.etcd_endpoints(), "prefix": ETCD_PREFIX},
            "nodes": nodes_of(&state),
            "workers": workers.collect::<Result<Map<_, _>>>()?,
            "pipeline": {
                "name": pipeline.name, "slot": pipeline.slot, "publication": pipeline.publication, "topic_prefix": pipeline.topic_prefix,
            },
        }))
    }

    /// The same for people.
    pub fn describe(&self) -> Result<String> {
        let state = self.state()?;
        let leader = self.leader().unwrap_or_else(|_| "none".to_owned());
        let mut lines = vec![
            format!("leader     {leader}"),
            format!("app        {}", nodes::dsn("app", state.haproxy.leader)),
            format!("admin      {}", nodes::dsn("postgres", state.haproxy.leader)),
            format!("haproxy    http://127.0.0.1:{}/", state.haproxy.stats),
            format!("kafka      {}", state.kafka_bootstrap()),
            format!("etcd       {}", state.etcd_endpoints().join(",")),
            format!("logs       {}", self.instance.logs().display()),
            String::new(),
        ];
        for (name, node) in &state.nodes {
            let pids = handles::pids(&state, name);
            let runs = if pids.is_empty() { "down".to_owned() } else { format!("pid {pids:?}") };
            let address = match node.kind {
                Kind::Worker => format!("http://127.0.0.1:{}", node.port),
                Kind::Etcd | Kind::Postgres | Kind::Haproxy | Kind::Kafka => format!("127.0.0.1:{}", node.port),
            };
            lines.push(format!("{name:10} {address:24} {runs}"));
        }
        Ok(lines.join("\n"))
    }
}

fn nodes_of(state: &State) -> Map<String, Value> {
    let node = |name: &String, node: &super::state::Node| json!({"port": node.port, "rest": node.rest, "pids": handles::pids(state, name)});
    state.nodes.iter().map(|(name, found)| (name.clone(), node(name, found))).collect()
}
