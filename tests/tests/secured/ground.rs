//! A PostgreSQL, an etcd and a Kafka with authorization, the rights of docs/security.md given, and workers on them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pgbaton_tests::http;
use serde_json::Value;
use xtask::lab::Lab;
use xtask::ports::Ports;
use xtask::single::{Etcd, Kafka, Postgres, PostgresOptions};
use xtask::{build, wait};

use crate::acls::{self, Acl};

/// What may take long on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(90);

/// The passwords that everything is guarded by.
#[derive(Clone)]
pub struct Passwords {
    pub postgres: String,
    pub etcd: String,
    pub kafka: String,
}

/// Of etcd's own administrator.
const ROOT: &str = "root-lab";

pub struct Ground {
    pub lab: Lab,
    pub postgres: Postgres,
    pub etcd: Etcd,
    pub kafka: Kafka,
    /// Rights in Kafka as the page gives them.
    pub acls: Vec<Acl>,
    pub folder: PathBuf,
    passwords: Passwords,
}

impl Ground {
    /// Starts the servers, with these further users of Kafka, and does what the page says.
    pub fn start(name: &str, passwords: Passwords, others: &[(&str, &str)]) -> Result<Self> {
        let lab = Lab::open()?;
        let users = [&[("pgbaton", passwords.kafka.as_str())][..], others].concat();
        let ground = Ground {
            postgres: Postgres::start(&PostgresOptions::default())?,
            etcd: Etcd::start()?,
            kafka: Kafka::start_guarded(&users)?,
            acls: Vec::new(),
            folder: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("secured-{name}-{}", std::process::id())),
            passwords,
            lab,
        };
        fs::create_dir_all(&ground.folder)?;
        ground.give_rights()
    }

    fn give_rights(mut self) -> Result<Self> {
        let page = Page::read(&self.lab)?;
        self.postgres.sql("postgres", "CREATE ROLE owner LOGIN")?;
        self.postgres.sql("postgres", "CREATE DATABASE appdb OWNER owner")?;
        // What PUBLIC has by default is not the page's.
        self.postgres
            .sql("appdb", "REVOKE ALL ON DATABASE appdb FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC")?;
        let tables = "CREATE TABLE items (id int PRIMARY KEY, note text); CREATE TABLE ledger (id int PRIMARY KEY)";
        self.postgres.sql("appdb", &format!("GRANT ALL ON SCHEMA public TO owner; SET ROLE owner; {tables}"))?;
        let [administrator, owner] = page.blocks("## Rights in PostgreSQL", "sql")?;
        let password = format!("PASSWORD '{}'", self.passwords.postgres.replace('\'', "''"));
        ensure!(administrator.contains("PASSWORD '...'"));
        self.postgres.sql("appdb", &administrator.replace("PASSWORD '...'", &password))?;
        self.postgres.sql("appdb", &format!("SET ROLE owner; {owner}"))?;

        let [etcd] = page.blocks("## Rights in etcd", "sh")?;
        for command in commands(&etcd) {
            let words = command.strip_prefix("etcdctl ").with_context(|| command.clone())?;
            let words = words.split_whitespace().map(|word| match word {
                "'...'" => self.passwords.etcd.as_str(),
                word => word,
            });
            self.etcdctl(words, false)?;
        }
        for words in ["user add root --new-user-password root-lab", "user grant-role root root", "auth enable"] {
            self.etcdctl(words.split(' '), false)?;
        }

        let [kafka] = page.blocks("## Rights in Kafka", "sh")?;
        for command in commands(&kafka) {
            self.acls.extend(Acl::of_command(&command)?);
        }
        acls::add(&self.kafka.bootstrap(), &self.acls)?;
        Ok(self)
    }

    /// What `etcdctl` prints; as root, once authentication is on.
    pub fn etcdctl<'a>(&self, words: impl IntoIterator<Item = &'a str>, as_root: bool) -> Result<String> {
        let mut command = Command::new(self.lab.etcd().with_file_name("etcdctl"));
        command.arg(format!("--endpoints={}", self.etcd.endpoint()));
        if as_root {
            command.arg(format!("--user=root:{ROOT}"));
        }
        let output = command.args(words).output().context("run etcdctl")?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The configuration without a password of PostgreSQL's, as a value that a test may change.
    pub fn config(&self) -> Value {
        serde_json::json!({
            "name": "worker",
            "coordination": {
                "endpoints": [self.etcd.endpoint()], "username": "pgbaton", "password": self.passwords.etcd,
            },
            "pipelines": {"orders": {
                "postgres": {
                    "url": format!("postgresql://pgbaton@127.0.0.1:{}/appdb?sslmode=disable", self.postgres.port()),
                    "slot": "orders", "publication": "orders",
                },
                "kafka": {
                    "brokers": self.kafka.guarded(),
                    "topic_prefix": "orders",
                    "properties": {
                        "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-512",
                        "sasl.username": "pgbaton", "sasl.password": self.passwords.kafka,
                    },
                },
            }},
        })
    }

    /// The same with it.
    pub fn whole_config(&self) -> Value {
        let mut config = self.config();
        config["pipelines"]["orders"]["postgres"]["password"] = self.passwords.postgres.as_str().into();
        config
    }

    /// Writes a configuration (JSON is YAML, too).
    pub fn write(&self, name: &str, config: &Value) -> Result<PathBuf> {
        let file = self.folder.join(format!("{name}.yaml"));
        fs::write(&file, config.to_string())?;
        Ok(file)
    }

    /// The worker's program, with nothing of our environment that it would look at.
    pub fn program(&self) -> Result<Command> {
        let mut command = Command::new(build::worker(&self.lab)?);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG") || name.starts_with("RUST_")) {
            command.env_remove(name);
        }
        command.env("HOME", &self.folder).stdin(Stdio::null());
        Ok(command)
    }

    /// A command with a configuration.
    pub fn run(&self, arguments: &[&str], config: &Path) -> Result<Output> {
        self.program()?.args(arguments).arg("-c").arg(config).output().context("run the worker's program")
    }

    /// The slot, made by the worker's own role.
    pub fn make_slot(&self, config: &Path) -> Result<()> {
        let output = self.run(&["slot", "create"], config)?;
        ensure!(output.status.success(), "slot create: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// What doctor finds, by its level.
    pub fn doctor(&self, config: &Path) -> Result<BTreeMap<String, Vec<Value>>> {
        let output = self.run(&["doctor", "--json"], config)?;
        let said = String::from_utf8_lossy(&output.stdout);
        let found: Value = serde_json::from_str(&said).with_context(|| format!("{said}{output:?}"))?;
        let mut levels = BTreeMap::<String, Vec<Value>>::new();
        for finding in found["findings"].as_array().context("no findings")? {
            let level = finding["level"].as_str().unwrap_or_default().to_owned();
            levels.entry(level).or_default().push(finding.clone());
        }
        Ok(levels)
    }

    /// Starts a worker whose log goes to a file.
    pub fn worker(&self, name: &str, config: &Value, more: impl FnOnce(&mut Command)) -> Result<Worker> {
        let file = self.write(name, config)?;
        let log = self.folder.join(format!("{name}.log"));
        let port = Ports::default().free();
        let mut command = self.program()?;
        command.args(["run", "--name", name, "--listen", &format!("127.0.0.1:{port}"), "-c"]).arg(file);
        more(&mut command);
        let out = fs::File::create(&log)?;
        let process = command.stdout(out.try_clone()?).stderr(out).spawn().context("start a worker")?;
        Ok(Worker { process, log, url: format!("http://127.0.0.1:{port}") })
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

pub struct Worker {
    pub process: Child,
    pub log: PathBuf,
    pub url: String,
}

impl Worker {
    /// A page of its HTTP.
    pub fn get(&self, path: &str) -> Option<http::Answer> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        runtime.block_on(http::get(&format!("{}{path}", self.url), Duration::from_secs(5)))
    }

    /// Waits until the pipeline's status is as wanted.
    pub fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let waited = wait::until(what, LIMIT, || {
            ensure!(self.process.try_wait()?.is_none(), "the worker ended");
            let status = self.get("/status").map(|answer| answer.json()["pipelines"]["orders"].clone());
            Ok(status.filter(|status| wanted(status)))
        });
        waited.with_context(|| fs::read_to_string(&self.log).unwrap_or_default())
    }

    /// Waits until PostgreSQL has heard that all there was to tell is durable in Kafka.
    pub fn until_told(&mut self, ground: &Ground) -> Result<()> {
        let now = ground.postgres.sql("appdb", "SELECT pg_current_wal_flush_lsn()")?;
        let question = format!(
            "SELECT confirmed_flush_lsn >= '{}' FROM pg_replication_slots WHERE slot_name = 'orders'",
            now.trim()
        );
        wait::until("the worker to tell all", LIMIT, || {
            Ok((ground.postgres.sql("appdb", &question)?.trim() == "t").then_some(()))
        })
        .with_context(|| fs::read_to_string(&self.log).unwrap_or_default())
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A page of the docs, by its blocks of code.
struct Page(String);

impl Page {
    fn read(lab: &Lab) -> Result<Self> {
        Ok(Page(fs::read_to_string(lab.repo().join("docs/security.md"))?))
    }

    /// All blocks of a language below a heading: exactly as many as are expected.
    fn blocks<const N: usize>(&self, heading: &str, language: &str) -> Result<[String; N]> {
        let section = self.0.split(&format!("\n{heading}\n")).nth(1).with_context(|| format!("no {heading}"))?;
        let section = section.split("\n## ").next().unwrap_or_default();
        let fence = format!("```{language}\n");
        let blocks = section.split(fence.as_str()).skip(1);
        let blocks: Vec<String> = blocks.filter_map(|rest| Some(rest.split_once("\n```")?.0.to_owned())).collect();
        let count = blocks.len();
        blocks.try_into().ok().with_context(|| format!("{heading}: {count} blocks of {language}"))
    }
}

/// Each on one line.
fn commands(block: &str) -> Vec<String> {
    let whole = block.replace("\\\n", " ");
    whole.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}
