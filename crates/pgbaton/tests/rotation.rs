//! A worker that streams while every certificate and password it uses is changed, on real servers: it keeps the baton.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod pki;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use etcd_client::{Client, ConnectOptions};
use pki::Authority;
use serde_json::Value;
use tempfile::TempDir;
use xtask::single::{Etcd, Kafka, Postgres, PostgresOptions};
use xtask::wait::until;

/// Nothing depends on speed: what did not come by then does not come.
const BOUND: Duration = Duration::from_secs(120);

fn pgbaton() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgbaton"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PGBATON_") || name.starts_with("PG")) {
        command.env_remove(name);
    }
    command
}

/// A pipeline with one worker, every server of which asks for a password.
struct World {
    postgres: Postgres,
    etcd: Etcd,
    kafka: Kafka,
    folder: TempDir,
    authority: Authority,
    worker: Option<Child>,
    url: String,
}

/// What the worker says of its pipeline, as far as it must not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stream {
    /// Of the tenure: the holder key's.
    revision: u64,
    term: u64,
    changes: u64,
}

impl World {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "authority");
        authority.issue("first").put(folder.path(), "server");
        for name in ["postgres", "etcd", "kafka"] {
            fs::write(folder.path().join(name), "first").unwrap();
        }
        let postgres = Postgres::start(&PostgresOptions::default()).unwrap();
        for statement in [
            "CREATE ROLE pgbaton LOGIN REPLICATION PASSWORD 'first'",
            "GRANT pg_monitor TO pgbaton",
            "CREATE TABLE items (id int PRIMARY KEY)",
            "CREATE PUBLICATION orders FOR TABLE items",
            "SELECT pg_create_logical_replication_slot('orders', 'pgoutput')",
        ] {
            postgres.sql("postgres", statement).unwrap();
        }
        let etcd = Etcd::start().unwrap();
        let kafka = Kafka::start_with_user("pgbaton", "first").unwrap();
        let mut world = World { postgres, etcd, kafka, folder, authority, worker: None, url: String::new() };
        world.in_etcd(None, async |mut client| {
            client.user_add("root", "first", None).await.unwrap();
            client.user_grant_role("root", "root").await.unwrap();
            client.auth_enable().await.unwrap();
        });
        world.run();
        world
    }

    fn in_etcd(&self, password: Option<&str>, work: impl AsyncFnOnce(Client)) {
        let options = password.map(|password| ConnectOptions::new().with_user("root", password));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work(Client::connect([self.etcd.endpoint()], options).await.unwrap()).await });
    }

    fn run(&mut self) {
        let folder = self.folder.path().display();
        let config = format!(
            r#"
name = "worker-1"
[http]
listen = "127.0.0.1:0"
cert_file = "{folder}/server.crt"
key_file = "{folder}/server.key"
[coordination]
endpoints = ["{etcd}"]
username = "root"
password_file = "{folder}/etcd"
[pipelines.orders.postgres]
url = "postgresql://pgbaton@127.0.0.1:{port}/postgres?sslmode=disable"
password_file = "{folder}/postgres"
slot = "orders"
publication = "orders"
[pipelines.orders.kafka]
brokers = "{kafka}"
topic_prefix = "orders"
password_file = "{folder}/kafka"
[pipelines.orders.kafka.properties]
"security.protocol" = "SASL_PLAINTEXT"
"sasl.mechanism" = "SCRAM-SHA-512"
"sasl.username" = "pgbaton"
"#,
            etcd = self.etcd.endpoint(),
            port = self.postgres.port(),
            kafka = self.kafka.login().unwrap(),
        );
        let file = self.path("w.toml");
        fs::write(&file, config).unwrap();
        let log = fs::File::create(self.path("log")).unwrap();
        let mut worker = pgbaton();
        worker.args(["run", "-c"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.worker = Some(worker.spawn().unwrap());
        self.url = self.until("the worker to start", || {
            let log = fs::read_to_string(self.path("log")).ok()?;
            let (_, rest) = log.split_once("https://127.0.0.1:")?;
            let port = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
            Some(format!("https://127.0.0.1:{port}"))
        });
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn until<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
        until(what, BOUND, || Ok(found())).unwrap_or_else(|error| {
            panic!("{error:#}: {}", fs::read_to_string(self.path("log")).unwrap_or_default());
        })
    }

    fn status(&self, ca_file: &Path) -> Option<Value> {
        let asked = pgbaton().args(["status", &self.url, "--json", "--ca-file"]).arg(ca_file).output().unwrap();
        let answer: Value = serde_json::from_slice(&asked.stdout).ok()?;
        let worker = answer["workers"].get(0)?;
        (worker["reachable"] == true).then(|| worker["status"]["pipelines"]["orders"].clone())
    }

    /// Waits until it streams and is as wanted.
    fn stream(&self, what: &str, wanted: impl Fn(&Stream) -> bool) -> Stream {
        self.until(what, || {
            let status = self.status(&self.authority.file)?;
            if status["role"] != "active" {
                return None;
            }
            let stream = Stream {
                revision: status["lease"]["revision"].as_u64()?,
                term: status["term"].as_u64()?,
                changes: status["counters"]["changes"].as_u64()?,
            };
            Some(stream).filter(&wanted)
        })
    }

    /// Writes a row and waits until it is published.
    fn row_arrives(&self, id: u64, before: Stream) -> Stream {
        self.postgres.sql("postgres", &format!("INSERT INTO items VALUES ({id})")).unwrap();
        self.stream("a row to arrive", |now| now.changes > before.changes)
    }

    /// Replaces a file, as those do who do not want anybody to see half of it.
    fn replace(&self, name: &str, text: &str) {
        let new = self.path("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.path(name)).unwrap();
    }

    /// Waits until the worker says that it has read the files of this part of its configuration anew.
    fn read_anew(&self, key: &str) {
        self.until("the files to be read anew", || {
            let log = fs::read_to_string(self.path("log")).ok()?;
            let said = |line: &str| line.contains("files have changed") && line.contains(&format!("key=\"{key}\""));
            log.lines().any(said).then_some(())
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(worker) = &mut self.worker {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

#[test]
fn every_certificate_and_password_is_changed_under_a_stream_and_the_baton_stays() {
    let mut world = World::start();
    let first = world.stream("a stream", |_| true);
    let first = world.row_arrives(1, first);

    // The certificate of the HTTP port, by one of another authority and back.
    let other = Authority::new(world.folder.path(), "other");
    let second = other.issue("second");
    world.replace("server.key", &second.key);
    world.replace("server.crt", &second.chain);
    world.until("the new certificate to be shown", || world.status(&other.file));
    assert_eq!(world.status(&world.authority.file), None, "who comes now sees the new one only");
    let third = world.authority.issue("third");
    world.replace("server.key", &third.key);
    world.replace("server.crt", &third.chain);
    let now = world.stream("the stream to be seen again", |_| true);
    assert_eq!((now.revision, now.term), (first.revision, first.term));

    // PostgreSQL: the password, and then the walsender.
    world.postgres.sql("postgres", "ALTER ROLE pgbaton PASSWORD 'second'").unwrap();
    world.replace("postgres", "second");
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_replication";
    world.postgres.sql("postgres", kill).unwrap();
    let now = world.stream("a new session", |now| now.term > first.term);
    let now = world.row_arrives(2, now);
    assert_eq!(now.revision, first.revision, "the tenure is the same");

    // etcd: the password; then etcd is started again and has forgotten every token.
    world.in_etcd(Some("first"), async |mut client| {
        client.user_change_password("root", "second").await.unwrap();
    });
    world.replace("etcd", "second");
    world.read_anew("coordination");
    world.etcd.server().kill();
    world.etcd.start_again().unwrap();
    let now = world.row_arrives(3, now);
    assert_eq!(now.revision, first.revision);
    world.until("etcd to be reached with the new password", || {
        let asked = pgbaton().args(["status", &world.url, "--json", "--ca-file"]).arg(&world.authority.file).output();
        let answer: Value = serde_json::from_slice(&asked.ok()?.stdout).ok()?;
        let coordination = &answer["workers"][0]["status"]["coordination"];
        (coordination["reachable"] == true && coordination["degraded_since"].is_null()).then_some(())
    });

    // Kafka: the password of a producer that runs; it needs it when its connections are gone.
    world.kafka.set_password("pgbaton", "second").unwrap();
    world.replace("kafka", "second");
    world.read_anew("kafka");
    let now = world.row_arrives(4, now);
    world.kafka.server().kill();
    world.kafka.start_again().unwrap();
    let now = world.row_arrives(5, now);
    assert_eq!(now.revision, first.revision, "one tenure through all of it");
    assert!(world.status(&world.authority.file).unwrap()["reasons"].as_array().unwrap().is_empty());
    assert!(now.term > first.term);
}
