//! The cluster of `docker-compose.patroni.yml`, brought up beside whatever else runs on this machine and handled by name, as
//! [`cluster`](crate::cluster) handles the one in processes. What it does under faults is judged elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::build;
use crate::cluster::Pipeline;
use crate::lab::Lab;
use crate::ports::Ports;
use crate::progress::Step;
use crate::setup::docker::{self, Docker};
use crate::wait::{go_on, until};

const NODES: [&str; 3] = ["pg-1", "pg-2", "pg-3"];
const WORKERS: [&str; 2] = ["worker-1", "worker-2"];
/// Not the file's own project: whoever runs that one keeps it.
const PROJECT: &str = "pgbaton-test";
/// One that was left behind by a fork is rewound first; PostgreSQL looks for slots to copy every 30 s at most.
const WHOLE: Duration = Duration::from_secs(300);

/// How the slot survives a fail-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// Patroni's permanent slot, copied by Patroni.
    Permanent,
    /// PostgreSQL 17's failover slot, copied by the standbys.
    Native,
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SlotKind::Permanent => "permanent",
            SlotKind::Native => "native",
        })
    }
}

/// The cluster in containers. Dropped, it goes down with its volumes, and the engine ends if it was started for this.
#[derive(Debug)]
pub struct Compose {
    docker: Docker,
    repo: PathBuf,
    slot: SlotKind,
    /// What the compose file takes from the environment.
    variables: BTreeMap<&'static str, String>,
    kept: bool,
}

impl Compose {
    /// Makes sure of an engine, Compose, a base image and the worker's binary, and chooses free ports. Starts no container.
    ///
    /// The worker is built on this machine, unless `PGBATON_FROM` says otherwise, and builds trust what this machine trusts,
    /// unless `EXTRA_CA` does.
    pub fn open() -> Result<Self> {
        const TRUSTED: &str = "/etc/ssl/certs/ca-certificates.crt";
        let lab = Lab::open()?;
        let docker = docker::ensure(&lab)?;
        let mut ports = Ports::default();
        let names = ["LEADER_PORT", "REPLICAS_PORT", "STATS_PORT", "KAFKA_PORT", "WORKER_1_PORT", "WORKER_2_PORT"];
        let mut variables: BTreeMap<_, _> = names.into_iter().map(|name| (name, ports.free().to_string())).collect();
        variables.extend(docker.base.map(|base| ("BASE_IMAGE", base.to_owned())));
        if std::env::var_os("EXTRA_CA").is_none() && Path::new(TRUSTED).exists() {
            variables.insert("EXTRA_CA", TRUSTED.to_owned());
        }
        if std::env::var_os("PGBATON_FROM").is_none() {
            prebuild(&lab)?;
            variables.insert("PGBATON_FROM", "prebuilt".to_owned());
        }
        Ok(Self { docker, repo: lab.repo().to_owned(), slot: SlotKind::Permanent, variables, kept: false })
    }

    /// Builds the images and starts the cluster from nothing; returns when all of it is healthy and any node may become the
    /// leader. With a native slot that needs a consumer that has moved the slot: see [`Compose::whole`].
    pub fn up(&mut self, slot: SlotKind) -> Result<()> {
        self.slot = slot;
        let step = Step::new(format!("images and containers, with a {slot} slot"));
        self.down()?;
        go_on()?;
        self.run(&["up", "--detach", "--build", "--wait"])?;
        step.done("all healthy");
        if slot == SlotKind::Permanent {
            let step = Step::new("the slot's copies on the standbys");
            self.copies_safe()?;
            step.done("safe after a fail-over");
        }
        Ok(())
    }

    /// Ends the containers and removes their volumes. Images stay.
    pub fn down(&self) -> Result<()> {
        self.run(&["down", "--volumes", "--remove-orphans", "--timeout", "10"]).map(drop)
    }

    /// Leaves containers and engine as they are when this is dropped; returns the beginning of every command on them.
    pub fn keep(&mut self) -> String {
        self.kept = true;
        self.docker.keep();
        format!("docker compose -p {PROJECT} {}", self.files().join(" "))
    }

    /// SIGKILL to a container; returns when it is dead. It is not restarted by itself.
    pub fn kill(&self, name: &str) -> Result<()> {
        // On a busy machine the engine stops waiting before the end that it has brought about.
        let killed = self.run(&["kill", name]);
        let dead = until(&format!("{name} to be dead"), Duration::from_secs(60), || {
            let running = self.run(&["ps", "--services", "--status", "running"])?;
            Ok((!running.lines().any(|service| service == name)).then_some(()))
        });
        dead.or_else(|error| killed.map(drop).and(Err(error)))
    }

    /// Starts a killed container again, with its volume.
    pub fn start(&self, name: &str) -> Result<()> {
        self.run(&["start", name]).map(drop)
    }

    /// The node that leads now, as Patroni itself says.
    pub fn leader(&self) -> Result<String> {
        let leads = |node: &&&str| self.run(&["exec", "-T", node, "http-ok", "8008", "/primary"]).is_ok();
        let leader = NODES.iter().find(leads).context("no node says that it leads")?;
        Ok((*leader).to_owned())
    }

    /// `patronictl switchover`, to a node of Patroni's choice; returns the new leader.
    pub fn switchover(&self) -> Result<String> {
        let leader = self.leader()?;
        self.run(&["exec", "-T", &leader, "patronictl", "switchover", "lab", "--leader", &leader, "--force"])?;
        until("the new leader to answer", Duration::from_secs(30), || {
            Ok(self.leader().ok().filter(|new| *new != leader))
        })
    }

    /// Waits until every node runs and has the slot in a state that survives a fail-over. A native slot becomes so only while a
    /// consumer moves it.
    pub fn whole(&self) -> Result<()> {
        const REPLICAS: &str =
            "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name LIKE 'pg-%'";
        const SLOT: &str =
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'orders' AND restart_lsn IS NOT NULL
            AND invalidation_reason IS NULL AND (NOT failover OR NOT pg_is_in_recovery() OR synced AND NOT temporary)";
        let says = |node: &str, sql: &str, count: &str| self.sql(node, sql).is_ok_and(|answer| answer == count);
        until("every node of the database to be able to lead", WHOLE, || {
            let Ok(leader) = self.leader() else { return Ok(None) };
            let whole = says(&leader, REPLICAS, "2") && NODES.iter().all(|node| says(node, SLOT, "1"));
            Ok(whole.then_some(()))
        })
    }

    /// SQL on one node as the superuser; returns what `psql -At` prints.
    pub fn sql(&self, node: &str, sql: &str) -> Result<String> {
        let server = format!("{}@localhost:5432/appdb", login("postgres"));
        self.run(&["exec", "-T", node, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, "-d", &server])
    }

    /// Where everything is, with the keys of `cargo xtask cluster up --report` that a client needs.
    #[must_use]
    pub fn report(&self) -> Value {
        let port = |name| self.variables.get(name).cloned().unwrap_or_default();
        let dsn = |role| format!("{}@127.0.0.1:{}/appdb", login(role), port("LEADER_PORT"));
        let worker = |(name, variable)| (name, json!({"url": format!("http://127.0.0.1:{}", port(variable))}));
        let workers = WORKERS.into_iter().zip(["WORKER_1_PORT", "WORKER_2_PORT"]).map(worker);
        let Pipeline { name, slot, publication, topic_prefix, .. } = Pipeline::default();
        json!({
            "dsn": {"app": dsn("app"), "worker": dsn("pgbaton"), "admin": dsn("postgres")},
            "kafka": {"bootstrap": format!("127.0.0.1:{}", port("KAFKA_PORT"))},
            "workers": workers.collect::<BTreeMap<_, _>>(),
            "pipeline": {"name": name, "slot": slot, "publication": publication, "topic_prefix": topic_prefix},
        })
    }

    /// Versions of what runs in the containers.
    #[must_use]
    pub fn versions(&self) -> Value {
        let version = |node: &str, program: &str| {
            let text = self.run(&["exec", "-T", node, program, "--version"]).ok()?;
            let word = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
            Some(word.to_owned())
        };
        json!({
            "docker": self.docker.version(),
            "etcd": version("etcd-1", "etcd"),
            "patroni": version("pg-1", "patroni"),
            "postgresql": version("pg-1", "postgres"),
            "kafka": crate::setup::kafka_version(),
            "pgbaton": version("worker-1", "pgbaton"),
        })
    }

    /// Until a copy is safe, a fail-over would lose the slot or jump. Patroni says so in its log only.
    fn copies_safe(&self) -> Result<()> {
        const SAFE: &str = "Logical slot orders is safe to be used after a failover";
        until("Patroni to call the slot's copies safe", WHOLE, || {
            let logs = NODES.map(|node| self.run(&["logs", "--no-color", node]).unwrap_or_default());
            Ok((logs.iter().filter(|log| log.contains(SAFE)).count() >= NODES.len() - 1).then_some(()))
        })
    }

    fn files(&self) -> Vec<&'static str> {
        let mut files = vec!["-f", "docker-compose.patroni.yml"];
        if self.slot == SlotKind::Native {
            files.extend(["-f", "deploy/docker-compose.native-slot.yml"]);
        }
        files
    }

    /// Runs a command of Compose to its end; what it printed is in the error if it fails.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command: Command = self.docker.compose();
        command.args(["-p", PROJECT]).args(self.files()).args(arguments);
        command.current_dir(&self.repo).envs(&self.variables).stdin(Stdio::null());
        let output = command.output().context("run docker compose")?;
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "docker compose {} ({}):\n{out}{error}", arguments.join(" "), output.status);
        Ok(out.trim_end().to_owned())
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.down()
        {
            eprintln!("{error:#}");
        }
    }
}

/// The lab's roles and their passwords, as in `patroni/`.
fn login(role: &str) -> String {
    format!("postgresql://{role}:{role}-lab")
}

/// The binary where the Dockerfile's stage `prebuilt` looks for it.
fn prebuild(lab: &Lab) -> Result<()> {
    let built = build::worker(lab)?;
    let folder = lab.repo().join("target/prebuilt");
    fs::create_dir_all(&folder).context("make the folder of the prebuilt binary")?;
    fs::copy(&built, folder.join("pgbaton")).with_context(|| format!("copy {}", built.display()))?;
    Ok(())
}
