//! What the pages show does what they say: their blocks of code are typed beside the cluster, as they stand. Names and addresses of
//! the README's example are the cluster's there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pgbaton_tests::pages::{self, Block, Tried};
use serde_json::Value;
use xtask::cluster::{Cluster, Worker};
use xtask::wait::until;

use crate::Alone;

const STREAMS: Duration = Duration::from_secs(120);
/// A block that takes longer hangs.
const HANGS: &str = "180";

/// Alone: what is typed hands over, pauses, and switches the database over.
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_pages_do_what_the_pages_say() -> Result<()> {
    let mut alone = Alone::open().await?;
    alone.ground.arena.act(type_all).await?;
    alone.words.wanted = false;
    Ok(())
}

fn type_all(cluster: &Cluster) -> Result<()> {
    let reader = Reader::of(cluster, "worker-1", "orders")?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| application(cluster, &done));
        let mut paused = false;
        let typed: Result<()> = pages::of(cluster.lab(), Tried::Cluster)?.iter().try_for_each(|block| {
            reader.waits_for_calm(paused)?;
            reader.types(block)?;
            // What the workers say a moment later may be of before.
            paused = block.text.lines().fold(paused, |paused, line| match line {
                line if line.starts_with("pgbaton pause") => true,
                line if line.contains("resume") => false,
                _ => paused,
            });
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        typed
    })?;
    reader.waits_for_calm(false)
}

/// Writes: some of what is shown waits for a change. What it does not get through while the database changes its leader is nobody's.
fn application(cluster: &Cluster, done: &AtomicBool) {
    let write = "insert into items (id, owner, name, amount) values (-1, 1, 'of the pages', 1)
                 on conflict (id) do update set amount = items.amount + 1";
    while !done.load(Ordering::Relaxed) {
        let _ = cluster.sql(None, write);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Somebody in a folder of his own, with all programs at hand, who types what a page shows.
pub struct Reader {
    cluster: Cluster,
    worker: Worker,
    pipeline: String,
    folder: PathBuf,
    environment: Vec<(&'static str, String)>,
    /// What he types in the place of what the page says.
    names: Vec<(&'static str, String)>,
}

impl Reader {
    /// Of this worker's pipeline.
    pub fn of(cluster: &Cluster, worker: &str, pipeline: &str) -> Result<Self> {
        let (lab, conf) = (cluster.lab(), cluster.instance().conf());
        let mut workers = cluster.workers()?.into_iter();
        let worker = workers.find(|found| found.name == worker).with_context(|| format!("{worker} is not there"))?;
        let folder = conf.join(format!("pages-{pipeline}"));
        fs::create_dir_all(&folder)?;
        fs::copy(&worker.config, folder.join("worker-1.toml"))?;
        for (name, to) in [("pgbaton", &conf.join("pgbaton")), ("worker.log", &worker.log)] {
            let link = folder.join(name);
            if !link.exists() {
                symlink(to, link)?;
            }
        }
        let programs = [lab.etcd(), lab.patroni()].map(|program| program.with_file_name("").display().to_string());
        let path = [folder.display().to_string(), lab.kafka_commands().display().to_string()];
        let own = std::env::var("PATH").unwrap_or_default();
        let endpoints = cluster.etcd_endpoints()?.join(",");
        let environment = vec![
            ("PATH", [&path[..], &programs, &[own]].concat().join(":")),
            ("PATRONICTL_CONFIG_FILE", conf.join("patroni/patroni.yml").display().to_string()),
            ("PATRONI_ETCD3_HOSTS", endpoints.replace("http://", "")),
            ("ETCDCTL_ENDPOINTS", endpoints),
            ("PGPASSWORD", fs::read_to_string(conf.join("pgbaton.password"))?),
        ];
        let names = vec![
            ("http://10.0.0.5:8080", worker.url.clone()),
            ("kafka-1:9092", cluster.kafka_bootstrap()?),
            ("haproxy:5000", format!("127.0.0.1:{}", cluster.port("haproxy")?)),
            ("sslmode=verify-full", "sslmode=disable".to_owned()),
            ("orders", pipeline.to_owned()),
        ];
        Ok(Reader { cluster: cluster.clone(), worker, pipeline: pipeline.to_owned(), folder, environment, names })
    }

    /// Until a worker streams, or, if it is `paused`, until nobody does and all say why.
    fn waits_for_calm(&self, paused: bool) -> Result<()> {
        until("a worker to stream, or a pause", STREAMS, || {
            let mut command = Command::new(self.folder.join("pgbaton"));
            let status = command.args(["status", "--json", &self.worker.url]).output()?;
            let says: Value = serde_json::from_slice(&status.stdout)?;
            let workers = says["workers"].as_array().into_iter().flatten();
            let of_pipeline = |worker: &Value| worker["status"]["pipelines"][&self.pipeline].clone();
            let is_paused = |status: &Value| {
                let mut reasons = status["reasons"].as_array().into_iter().flatten();
                status["holder"].is_null() && reasons.any(|reason| reason["code"] == "paused")
            };
            let statuses: Vec<Value> = workers.map(of_pipeline).collect();
            let streams = statuses.iter().any(|status| status["role"] == "active");
            Ok((streams || paused && statuses.iter().all(is_paused)).then_some(()))
        })
    }

    /// Types a block. Each command has to end well, or as the page says.
    pub fn types(&self, block: &Block) -> Result<()> {
        let text = self.names.iter().fold(block.text.clone(), |text, (name, own)| text.replace(name, own));
        let mut command = Command::new("timeout");
        command.arg(HANGS);
        match block.language.as_str() {
            "sh" => drop(command.args(["bash", "-euxo", "pipefail", "-c", &script(&text)])),
            _ => {
                let psql = self.cluster.psql(None)?;
                command.arg(psql.get_program()).args(psql.get_args()).args([
                    "-X",
                    "-v",
                    "ON_ERROR_STOP=1",
                    "-f",
                    "page.sql",
                ]);
                fs::write(self.folder.join("page.sql"), text)?;
            }
        }
        command.current_dir(&self.folder).envs(self.environment.iter().map(|(name, value)| (name, value)));
        let output = command.stdin(Stdio::null()).output().context("run a block")?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "{} ({}):\n{}", block.place(), output.status, String::from_utf8_lossy(&said));
        Ok(())
    }
}

/// A line that says `exit code N` in its comment has to end so; all others with 0.
fn script(text: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once("exit code ") {
        Some((before, code)) if before.contains(" # ") => {
            let code: String = code.chars().take_while(char::is_ascii_digit).collect();
            format!("ended=0; {{ {line}\n}} || ended=$?; test $ended -eq {code}\n")
        }
        _ => format!("{line}\n"),
    });
    lines.collect()
}
