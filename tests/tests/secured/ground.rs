//! A PostgreSQL, an etcd and a Kafka with authorization, the rights of the pages given, and workers on them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pgbaton_tests::http;
use pgbaton_tests::pages::{self, Block, Tried};
use serde_json::Value;
use xtask::lab::Lab;
use xtask::ports::Ports;
use xtask::single::{Etcd, Kafka, Postgres, PostgresOptions};
use xtask::{build, wait};

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

/// What differs between one ground and another.
#[derive(Clone, Copy, Default)]
pub struct Kind {
    /// PostgreSQL's major version; `None`: the lab's default.
    pub postgres: Option<u16>,
    /// The role that gives the rights in PostgreSQL is no superuser. Before 16 only those could.
    pub plain_administrator: bool,
    /// The rights in Kafka are those that docs/codes.md shows, and not docs/security.md.
    pub kafka_of_codes: bool,
}

pub struct Ground {
    pub lab: Lab,
    pub postgres: Postgres,
    pub etcd: Etcd,
    pub kafka: Kafka,
    /// Rights in Kafka, as the page gives them.
    kafka_rights: String,
    pub folder: PathBuf,
    passwords: Passwords,
}

/// All that somebody needs to give the rights of the page who is no superuser, from PostgreSQL 16 on.
const PLAIN_ADMINISTRATOR: &str = "
    CREATE ROLE administrator CREATEROLE REPLICATION;
    GRANT pg_read_all_stats TO administrator WITH ADMIN OPTION;
    GRANT CONNECT ON DATABASE appdb TO administrator WITH GRANT OPTION;
    SET ROLE administrator;
";

impl Ground {
    /// Starts the servers, with these further users of Kafka, and does what the pages say.
    pub fn start(name: &str, kind: Kind, passwords: Passwords, others: &[(&str, &str)]) -> Result<Self> {
        let lab = Lab::open()?;
        ensure!(lab.kafka_commands().exists(), "run `cargo xtask setup`");
        let users = [&[("pgbaton", passwords.kafka.as_str())][..], others].concat();
        let mut ground = Ground {
            postgres: Postgres::start(&PostgresOptions { major: kind.postgres, ..PostgresOptions::default() })?,
            etcd: Etcd::start()?,
            kafka: Kafka::start_guarded(&users)?,
            kafka_rights: String::new(),
            folder: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("secured-{name}-{}", std::process::id())),
            passwords,
            lab,
        };
        fs::create_dir_all(&ground.folder)?;
        ground.give_rights(kind)?;
        Ok(ground)
    }

    fn give_rights(&mut self, kind: Kind) -> Result<()> {
        let rights = pages::of(&self.lab, Tried::Rights)?;
        let [codes, administrator, owner, kafka, etcd] = rights.as_slice() else { bail!("other rights: {rights:#?}") };
        ensure!((codes.page.as_str(), codes.language.as_str()) == ("docs/codes.md", "sh"), "{codes:?}");
        self.make_database()?;
        self.give_in_postgres(kind, administrator, owner)?;
        self.give_in_etcd(&etcd.text)?;
        self.kafka_rights.clone_from(if kind.kafka_of_codes { &codes.text } else { &kafka.text });
        self.kafka_acls(&self.kafka_rights)
    }

    /// Two tables, and nothing that PUBLIC has by default.
    fn make_database(&self) -> Result<()> {
        self.postgres.sql("postgres", "CREATE ROLE owner LOGIN")?;
        self.postgres.sql("postgres", "CREATE DATABASE appdb OWNER owner")?;
        self.postgres
            .sql("appdb", "REVOKE ALL ON DATABASE appdb FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC")?;
        let tables = "CREATE TABLE items (id int PRIMARY KEY, note text); CREATE TABLE ledger (id int PRIMARY KEY)";
        self.postgres.sql("appdb", &format!("GRANT ALL ON SCHEMA public TO owner; SET ROLE owner; {tables}"))?;
        for Block { text, .. } in pages::of(&self.lab, Tried::Afresh)? {
            self.postgres.sql("appdb", &format!("BEGIN;\n{text}ROLLBACK;"))?;
        }
        Ok(())
    }

    fn give_in_postgres(&self, kind: Kind, administrator: &Block, owner: &Block) -> Result<()> {
        let password = format!("PASSWORD '{}'", self.passwords.postgres.replace('\'', "''"));
        ensure!(administrator.text.contains("PASSWORD '...'"), "{administrator:?}");
        let administrator = administrator.text.replace("PASSWORD '...'", &password);
        let become_him = if kind.plain_administrator { PLAIN_ADMINISTRATOR } else { "" };
        self.postgres.sql("appdb", &format!("{become_him}{administrator}"))?;
        self.postgres.sql("appdb", &format!("SET ROLE owner;\n{}", owner.text))?;
        Ok(())
    }

    fn give_in_etcd(&self, etcd: &str) -> Result<()> {
        for command in etcd.lines() {
            let words = command.strip_prefix("etcdctl ").with_context(|| command.to_owned())?;
            let words = words.split_whitespace().map(|word| match word {
                "'...'" => self.passwords.etcd.as_str(),
                word => word,
            });
            self.etcdctl(words, false)?;
        }
        for words in ["user add root --new-user-password root-lab", "user grant-role root root", "auth enable"] {
            self.etcdctl(words.split(' '), false)?;
        }
        Ok(())
    }

    /// The rights of the page for another user, each command as `change` makes it.
    pub fn give_in_kafka(&self, user: &str, change: impl Fn(&str) -> Option<String>) -> Result<()> {
        let commands = self.kafka_rights.replace("\\\n", " ").replace("User:pgbaton", &format!("User:{user}"));
        self.kafka_acls(&commands.lines().filter_map(change).collect::<Vec<_>>().join("\n"))
    }

    /// Runs what a page shows of `kafka-acls.sh`, as somebody who may do everything.
    fn kafka_acls(&self, commands: &str) -> Result<()> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command.args(["-euc", &commands.replace("kafka-1:9092", &self.kafka.bootstrap())]);
        command.env("PATH", format!("{}:{path}", self.lab.kafka_commands().display()));
        let output = command.output().context("run kafka-acls.sh")?;
        ensure!(output.status.success(), "{commands}: {output:?}");
        Ok(())
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
