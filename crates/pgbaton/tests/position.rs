//! The commands that a person uses on a pipeline's slot and position, on real servers, from before its first start.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use xtask::single::{Etcd, Kafka, Postgres, PostgresOptions};

struct World {
    postgres: Postgres,
    etcd: Etcd,
    _kafka: Kafka,
    folder: TempDir,
}

impl World {
    fn start() -> Self {
        let postgres = Postgres::start(&PostgresOptions::default()).unwrap();
        postgres.sql("postgres", "CREATE DATABASE app").unwrap();
        postgres
            .sql("app", "CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION orders FOR TABLE items")
            .unwrap();
        let (etcd, kafka) = (Etcd::start().unwrap(), Kafka::start().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            r#"
name = "worker-1"
[coordination]
endpoints = ["{}"]
[pipelines.orders.postgres]
url = "{}?sslmode=disable"
slot = "orders"
publication = "orders"
[pipelines.orders.kafka]
brokers = "{}"
topic_prefix = "orders"
"#,
            etcd.endpoint(),
            postgres.dsn("app"),
            kafka.bootstrap()
        );
        fs::write(folder.path().join("worker.toml"), config).unwrap();
        World { postgres, etcd, _kafka: kafka, folder }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("worker.toml")
    }

    /// Exit code, output, complaint.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgbaton"));
        let output = command.args(arguments).arg("-c").arg(self.config()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// One that has to work.
    fn does(&self, arguments: &[&str], part: &str) {
        let (code, out, errors) = self.run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {out}{errors}");
        assert!(out.contains(part), "{arguments:?}: {out}");
    }

    /// One that has to be refused.
    fn refuses(&self, arguments: &[&str], code: i32, part: &str) {
        let (found, out, errors) = self.run(arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {out}{errors}");
        assert!(errors.contains(part), "{arguments:?}: {errors}");
    }

    fn json(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let (code, out, errors) = self.run(arguments);
        (code, serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{errors}")))
    }
}

#[test]
fn a_slot_is_made_looked_into_given_up_and_begun_anew_and_nothing_of_it_happens_by_accident() {
    let world = World::start();

    // Before the first start.
    assert_eq!(world.run(&["slot", "show"]).0, Some(3));
    world.does(&["slot", "create"], "made slot orders");
    world.refuses(&["slot", "create", "--force"], 1, "is there already");
    world.does(&["slot", "show"], "read by          nobody");
    world.does(&["position", "show"], "none: the pipeline has never run");

    // What waits is seen and stays.
    world.postgres.sql("app", "INSERT INTO items SELECT generate_series(1, 3)").unwrap();
    for _ in 0..2 {
        world.does(&["peek", "--limit", "2"], "INSERT public.items id=2");
        let (_, out, _) = world.run(&["peek", "--limit", "2", "--json"]);
        assert_eq!(out.lines().count(), 2, "{out}");
    }

    // Somebody has to say it, and nobody may be at it.
    world.refuses(&["position", "init"], 2, "--from-slot");
    world.put("/pgbaton/orders/holder", r#"{"worker": "worker-2"}"#);
    world.refuses(&["position", "init", "--from-slot"], 1, "holds the baton");
    world.refuses(&["slot", "drop", "--yes", "orders"], 1, "holds the baton");
    world.delete("/pgbaton/orders/holder");
    world.does(&["position", "init", "--from-slot"], "term 1 begins behind timeline 1");
    let (code, shown) = world.json(&["position", "show", "--json"]);
    assert_eq!((code, &shown["progress"]["term"], &shown["verdict"]["goes_on"]), (Some(0), &1.into(), &true.into()));

    // A slot that is made anew is a gap, and says so.
    world.refuses(&["slot", "drop"], 2, "--yes orders");
    world.does(&["slot", "drop", "--yes", "orders"], "dropped slot orders");
    let (code, shown) = world.json(&["position", "show", "--json"]);
    assert_eq!((code, &shown["verdict"]["code"]), (Some(3), &"slot_missing".into()));
    world.refuses(&["slot", "create"], 1, "a new slot does not have the changes since");
    world.does(&["slot", "create", "--force"], "missing: what committed in (");
    let (code, shown) = world.json(&["position", "show", "--json"]);
    assert_eq!((code, &shown["verdict"]["code"]), (Some(3), &"slot_ahead".into()));
    world.does(&["position", "init", "--from-slot"], "term 2 begins behind timeline 1");
    world.does(&["position", "show"], "verdict          goes on behind timeline 1");

    // And what stands in Kafka after all that is sound.
    let (code, verdict) = world.json(&["verify", "--json"]);
    assert_eq!((code, &verdict["sound"], &verdict["claims"]), (Some(0), &true.into(), &2.into()), "{verdict}");
}

/// A worker that ends with the test.
struct Worker(Child);

impl Worker {
    /// Waits until its log has a line with all of these.
    fn says(&mut self, parts: &[&str]) {
        let log = BufReader::new(self.0.stderr.as_mut().unwrap());
        let found = log.lines().map_while(Result::ok).find(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found.is_some(), "it ended and never said {parts:?}");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn without_etcd_a_person_says_once_where_to_begin_and_not_while_the_slot_is_read() {
    let world = World::start();
    let with = fs::read_to_string(world.config()).unwrap();
    let endpoints = format!("endpoints = [\"{}\"]", world.etcd.endpoint());
    let without = with.replace(&endpoints, "backend = \"none\"\n[http]\nlisten = \"127.0.0.1:0\"");
    assert_ne!(with, without);
    fs::write(world.config(), without).unwrap();
    world.does(&["slot", "create"], "made slot orders");

    let mut early = world.worker();
    early.says(&["quarantine", "progress_missing", "position init --from-slot"]);
    drop(early);
    world.does(&["position", "init", "--from-slot"], "term 1 begins behind timeline 1");
    let mut worker = world.worker();
    worker.says(&["state changed", "to=\"stream\""]);
    world.refuses(&["position", "init", "--from-slot"], 1, "reads slot orders");
    drop(worker);
    let (code, verdict) = world.json(&["verify", "--json"]);
    assert_eq!((code, &verdict["sound"], &verdict["claims"]), (Some(0), &true.into(), &2.into()), "{verdict}");
}

impl World {
    fn worker(&self) -> Worker {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgbaton"));
        command.arg("run").arg("-c").arg(self.config()).env("RUST_LOG", "info").stderr(Stdio::piped());
        Worker(command.spawn().unwrap())
    }

    fn put(&self, key: &str, value: &str) {
        self.etcdctl(&["put", key, value]);
    }

    fn delete(&self, key: &str) {
        self.etcdctl(&["del", key]);
    }

    fn etcdctl(&self, arguments: &[&str]) {
        let etcd = xtask::lab::Lab::open().unwrap().etcd();
        let mut command = Command::new(etcd.with_file_name("etcdctl"));
        let status = command.arg("--endpoints").arg(self.etcd.endpoint()).args(arguments).status().unwrap();
        assert!(status.success());
    }
}
