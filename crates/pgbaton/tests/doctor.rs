//! `pgbaton doctor` against real servers: silent where all is well, and exact where it is not.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{fs, path::Path, process::Command};

use serde_json::Value;
use tempfile::TempDir;
use xtask::single::{Etcd, Kafka, Postgres, PostgresOptions};

struct World {
    postgres: Postgres,
    etcd: Etcd,
    kafka: Kafka,
    folder: TempDir,
}

impl World {
    fn start() -> Self {
        let postgres = Postgres::start(&PostgresOptions::default()).unwrap();
        postgres
            .sql("postgres", "CREATE ROLE worker LOGIN REPLICATION PASSWORD 'w'; GRANT pg_monitor TO worker")
            .unwrap();
        postgres.sql("postgres", "CREATE ROLE poor LOGIN PASSWORD 'p'").unwrap();
        postgres.sql("postgres", "CREATE DATABASE app").unwrap();
        for statement in [
            "CREATE TABLE items (id int PRIMARY KEY); CREATE TABLE notes (text text)",
            "CREATE PUBLICATION good FOR TABLE items; CREATE PUBLICATION bad FOR TABLE notes",
            "SELECT pg_create_logical_replication_slot('good', 'pgoutput')",
            "SELECT pg_create_logical_replication_slot('bad', 'test_decoding')",
        ] {
            postgres.sql("app", statement).unwrap();
        }
        World {
            postgres,
            etcd: Etcd::start().unwrap(),
            kafka: Kafka::start().unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Findings and exit code for a configuration.
    fn doctor(&self, config: &str) -> (Option<i32>, Vec<Value>) {
        let file = self.folder.path().join("worker.toml");
        fs::write(&file, config).unwrap();
        let (code, text) = run(&file, &["--json"]);
        let findings: Value = serde_json::from_str(&text).unwrap();
        (code, findings["findings"].as_array().unwrap().clone())
    }

    fn config(&self, user: &str, port: u16, name: &str, etcd: &str, brokers: &str) -> String {
        format!(
            r#"
name = "worker-1"
[coordination]
endpoints = ["{etcd}"]
[pipelines.orders.postgres]
url = "postgresql://{user}@127.0.0.1:{port}/app?sslmode=disable"
slot = "{name}"
publication = "{name}"
[pipelines.orders.kafka]
brokers = "{brokers}"
topic_prefix = "orders"
"#
        )
    }
}

fn run(file: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pgbaton"))
        .args(["doctor", "-c"])
        .arg(file)
        .args(arguments)
        .env_remove("PGPASSWORD")
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn errors(findings: &[Value]) -> Vec<&str> {
    findings
        .iter()
        .filter(|finding| finding["level"] == "error")
        .map(|finding| finding["id"].as_str().unwrap())
        .collect()
}

#[test]
fn what_works_has_no_errors_and_what_is_broken_is_named_with_what_mends_it() {
    let world = World::start();
    let (port, etcd, brokers) = (world.postgres.port(), world.etcd.endpoint(), world.kafka.bootstrap());

    let well = world.config("worker:w", port, "good", &etcd, &brokers);
    let (code, findings) = world.doctor(&well);
    assert_eq!((code, errors(&findings)), (Some(0), vec![]), "{findings:#?}");
    for id in
        ["replication_connect", "wal_level", "publication", "slot", "etcd_lease", "kafka_create", "kafka_settings"]
    {
        assert!(findings.iter().any(|finding| finding["id"] == id && finding["level"] == "ok"), "{id}: {findings:#?}");
    }
    assert_eq!(world.postgres.sql("app", "SELECT count(*) FROM pg_replication_slots").unwrap(), "2");
    let (code, text) = run(&world.folder.path().join("worker.toml"), &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("orders: slot good is sound") && text.contains("0 errors, "), "{text}");

    // Nothing listens on port 1.
    let broken = world.config("poor:p", port, "bad", "http://127.0.0.1:1", "127.0.0.1:1");
    let (code, findings) = world.doctor(&broken);
    assert_eq!(code, Some(3));
    assert_eq!(
        errors(&findings),
        ["etcd_lease", "replication_connect", "replica_identity", "slot_kind", "kafka_connect"],
        "{findings:#?}"
    );

    let nothing = world.config("worker:w", port, "none", &etcd, &brokers);
    let (_, findings) = world.doctor(&nothing);
    assert_eq!(errors(&findings), ["publication", "slot"], "{findings:#?}");

    let wrong_password = world.config("worker:x", port, "good", &etcd, &brokers);
    let (_, findings) = world.doctor(&wrong_password);
    assert_eq!(errors(&findings), ["postgres_connect"], "{findings:#?}");

    let replica =
        PostgresOptions { settings: vec![("wal_level".into(), "replica".into())], ..PostgresOptions::default() };
    let replica = Postgres::start(&replica).unwrap();
    replica.sql("postgres", "CREATE DATABASE app").unwrap();
    let user = format!("{}:{}", Postgres::USER, Postgres::PASSWORD);
    let (_, findings) = world.doctor(&world.config(&user, replica.port(), "good", &etcd, &brokers));
    assert_eq!(errors(&findings), ["wal_level", "publication", "slot"], "{findings:#?}");

    let (code, _) = {
        let file = world.folder.path().join("wrong.toml");
        fs::write(&file, "name = 3").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_pgbaton")).args(["doctor", "-c"]).arg(&file).output().unwrap();
        (output.status.code(), output)
    };
    assert_eq!(code, Some(2));
}
