//! Workers: the binary, its configuration, and further ones that a test adds.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::state::{Kind, Node, State};
use super::{Cluster, links, nodes, start};
use crate::build;
use crate::launch::Launch;

/// What a pipeline of a worker is about. The default is the cluster's own.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Its name in the configuration and in etcd.
    pub name: String,
    /// The database.
    pub database: String,
    /// The logical slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// Begins the names of its topics.
    pub topic_prefix: String,
}

impl Default for Pipeline {
    fn default() -> Self {
        let orders = || "orders".to_owned();
        Self {
            name: orders(),
            database: "appdb".to_owned(),
            slot: orders(),
            publication: orders(),
            topic_prefix: orders(),
        }
    }
}

/// A worker of the cluster.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Worker {
    /// `worker-1`, or what it was added as.
    pub name: String,
    /// Where it answers: `http://127.0.0.1:PORT`.
    pub url: String,
    /// Its process now; `None` while it is dead.
    pub pid: Option<i32>,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its log.
    pub log: PathBuf,
}

impl Cluster {
    /// All workers, dead ones included.
    pub fn workers(&self) -> Result<Vec<Worker>> {
        Ok(self.state()?.of_kind(Kind::Worker).map(|(name, node)| describe(name, node)).collect())
    }

    /// The binary that its workers run.
    pub fn worker_binary(&self) -> Result<PathBuf> {
        binary(self)
    }

    /// The configuration that the cluster would give a worker of that name for `pipeline`, to be used as it is or changed.
    pub fn worker_config(&self, name: &str, port: u16, pipeline: &Pipeline) -> Result<String> {
        config(self, &self.state()?, name, port, pipeline)
    }

    /// Starts one more worker and returns at once. `config` gets the port on which the worker is to listen and returns the
    /// text of its configuration (TOML).
    pub fn add_worker(&self, name: &str, config: impl FnOnce(u16) -> Result<String>) -> Result<Worker> {
        let binary = binary(self)?;
        let _lock = self.instance.lock()?;
        let mut state = self.state()?;
        ensure!(!state.nodes.contains_key(name), "there is a node {name} already");
        plan(self, &mut state, &binary, name, |_, _, port| config(port))?;
        start::launch(self, &mut state, name)?;
        Ok(describe(name, state.node(name)?))
    }
}

fn describe(name: &str, node: &Node) -> Worker {
    Worker {
        name: name.to_owned(),
        url: format!("http://127.0.0.1:{}", node.port),
        pid: node.process.filter(|process| process.is_alive()).map(|process| process.pid),
        config: node.launch.args.last().map(PathBuf::from).unwrap_or_default(),
        log: node.launch.log.clone(),
    }
}

/// Adds a worker to the plan: port, configuration file, command line.
pub(super) fn plan(
    cluster: &Cluster,
    state: &mut State,
    binary: &Path,
    name: &str,
    config: impl FnOnce(&mut State, &str, u16) -> Result<String>,
) -> Result<()> {
    let port = Cluster::ports(state).free();
    let file = cluster.instance.conf().join(format!("{name}.toml"));
    cluster.lab.owner().write(&file, &config(state, name, port)?)?;
    let launch = Launch {
        program: binary.to_owned(),
        args: vec!["run".to_owned(), "-c".to_owned(), file.display().to_string()],
        env: BTreeMap::new(),
        dir: cluster.instance.data(),
        log: cluster.instance.log(name),
    };
    state
        .nodes
        .insert(name.to_owned(), Node { kind: Kind::Worker, port, rest: None, data: None, launch, process: None });
    Ok(())
}

pub(super) fn config(cluster: &Cluster, state: &State, name: &str, port: u16, pipeline: &Pipeline) -> Result<String> {
    let password_file = cluster.instance.conf().join("pgbaton.password");
    cluster.lab.owner().write(&password_file, &nodes::worker_password())?;
    let Pipeline { name: pipeline, database, slot, publication, topic_prefix } = pipeline;
    let waits = match state.spec.standby_barrier {
        true => format!("[pipelines.{pipeline}]\nstandby_barrier = \"all\"\n\n"),
        false => String::new(),
    };
    let ways = |kind| state.of_kind(kind).map(|(node, _)| format!("127.0.0.1:{}", state.way(name, node)));
    Ok(format!(
        r#"name = "{name}"

[http]
listen = "127.0.0.1:{port}"
advertise = "http://127.0.0.1:{advertised}"

[coordination]
backend = "etcd"
endpoints = {endpoints:?}
prefix = "{prefix}"

{waits}[pipelines.{pipeline}.postgres]
url = "postgresql://pgbaton@127.0.0.1:{haproxy}/{database}?sslmode=disable"
password_file = "{password_file}"
slot = "{slot}"
publication = "{publication}"

[pipelines.{pipeline}.kafka]
delivery = "{delivery}"
brokers = "{brokers}"
topic_prefix = "{topic_prefix}"
"#,
        advertised = links::advertised(state, name).unwrap_or(port),
        endpoints = ways(Kind::Etcd).map(|way| format!("http://{way}")).collect::<Vec<_>>(),
        prefix = ETCD_PREFIX,
        delivery = if state.spec.at_least_once { "at-least-once" } else { "exactly-once" },
        haproxy = state.way(name, "haproxy"),
        password_file = password_file.display(),
        brokers = ways(Kind::Kafka).collect::<Vec<_>>().join(","),
    ))
}

/// Below this the workers keep their keys.
pub(super) const ETCD_PREFIX: &str = "/pgbaton";

/// A copy of the binary inside the instance: the workers' user may not be able to enter the checkout, and a later build does
/// not change what runs. Built first, unless [`build::XTASK_WORKER_BIN`] names one; once for each instance.
pub(super) fn binary(cluster: &Cluster) -> Result<PathBuf> {
    let copy = cluster.instance.conf().join("pgbaton");
    if copy.exists() {
        return Ok(copy);
    }
    let built = build::worker(&cluster.lab)?;
    fs::copy(&built, &copy).with_context(|| format!("copy {}", built.display()))?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).context("open a file to others")?;
    Ok(copy)
}
