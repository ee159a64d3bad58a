//! What is known of a cluster between two commands: a JSON file, replaced as a whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Link, Spec};
use crate::instance::Instance;
use crate::launch::Launch;
use crate::process::ProcessId;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub spec: Spec,
    /// The start came to its end.
    pub ready: bool,
    /// How long the start took.
    pub seconds: f64,
    pub versions: BTreeMap<String, String>,
    pub postgres_bin: PathBuf,
    pub haproxy: HaproxyPorts,
    pub nodes: BTreeMap<String, Node>,
    /// The ways that have a port of their own, by `FROM/TO`.
    pub links: BTreeMap<String, Link>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct HaproxyPorts {
    pub leader: u16,
    pub replicas: u16,
    pub stats: u16,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Node {
    pub kind: Kind,
    /// Where it serves its clients.
    pub port: u16,
    /// Patroni's REST interface.
    pub rest: Option<u16>,
    /// PostgreSQL's data directory, by which its processes are known.
    pub data: Option<PathBuf>,
    pub launch: Launch,
    /// What was started last; may be dead by now.
    pub process: Option<ProcessId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Etcd,
    Postgres,
    Haproxy,
    Kafka,
    Worker,
}

impl State {
    fn file(instance: &Instance) -> PathBuf {
        instance.dir().join("cluster.json")
    }

    pub fn load(instance: &Instance) -> Result<Option<Self>> {
        let text = match fs::read_to_string(Self::file(instance)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.context("read the cluster's state")?,
        };
        // A file of another version of this tool says nothing; its processes are found without it.
        Ok(serde_json::from_str(&text).ok())
    }

    pub fn save(&self, instance: &Instance) -> Result<()> {
        let (file, new) = (Self::file(instance), instance.dir().join("cluster.json.new"));
        fs::write(&new, serde_json::to_string_pretty(self)?).context("write the cluster's state")?;
        fs::rename(new, file).context("replace the cluster's state")
    }

    pub fn remove(instance: &Instance) -> Result<()> {
        match fs::remove_file(Self::file(instance)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("remove the cluster's state")
            }
            _ => Ok(()),
        }
    }

    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.get(name).with_context(|| {
            let names: Vec<_> = self.nodes.keys().map(String::as_str).collect();
            format!("no node {name}: there are {}", names.join(" "))
        })
    }

    pub fn any_alive(&self) -> bool {
        self.nodes.values().any(Node::is_alive)
    }

    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().filter(move |(_, node)| node.kind == kind).map(|(name, node)| (name.as_str(), node))
    }

    /// The port at which `from` reaches the node `to`: that of their link, or the node's own.
    pub fn way(&self, from: &str, to: &str) -> u16 {
        let own = || self.nodes.get(to).map_or(0, |node| node.port);
        self.links.get(&Link::name(from, to)).map_or_else(own, |link| link.port)
    }

    pub fn kafka_bootstrap(&self) -> String {
        self.of_kind(Kind::Kafka).map(|(_, node)| format!("127.0.0.1:{}", node.port)).collect::<Vec<_>>().join(",")
    }

    pub fn etcd_endpoints(&self) -> Vec<String> {
        self.of_kind(Kind::Etcd).map(|(_, node)| format!("http://127.0.0.1:{}", node.port)).collect()
    }
}

impl Node {
    pub fn is_alive(&self) -> bool {
        self.process.is_some_and(ProcessId::is_alive)
    }
}
