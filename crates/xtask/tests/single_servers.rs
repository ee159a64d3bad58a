//! The lab's single servers, started for real. Needs `cargo xtask setup`.

use std::time::Duration;

use xtask::process::Signal;
use xtask::single::{Etcd, Kafka, Postgres, PostgresOptions};

#[test]
fn a_postgres_with_tls_serves_verified_connections_and_comes_back_after_a_kill() {
    let options = PostgresOptions { tls: true, ..PostgresOptions::default() };
    let mut postgres = Postgres::start(&options).unwrap();
    assert_eq!(postgres.sql("postgres", "SHOW wal_level").unwrap(), "logical");
    let verified = format!(
        "{}?sslmode=verify-full&sslrootcert={}",
        postgres.dsn("postgres"),
        postgres.ca_file().unwrap().display()
    );
    let ssl = std::process::Command::new(postgres.bin().join("psql"))
        .args(["-XAtc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &verified])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&ssl.stdout).trim(), "t", "{}", String::from_utf8_lossy(&ssl.stderr));
    postgres.server().kill();
    assert!(postgres.sql("postgres", "SELECT 1").is_err());
    postgres.start_again().unwrap();
    postgres.server().signal(Signal::INT);
    postgres.server().wait_gone(Duration::from_secs(20)).unwrap();
}

#[test]
fn an_etcd_and_a_kafka_come_back_after_a_kill_with_their_ports() {
    let mut etcd = Etcd::start().unwrap();
    let mut kafka = Kafka::start().unwrap();
    let before = (etcd.endpoint(), kafka.bootstrap());
    etcd.server().kill();
    kafka.server().kill();
    etcd.start_again().unwrap();
    kafka.start_again().unwrap();
    assert_eq!((etcd.endpoint(), kafka.bootstrap()), before);
}
