//! Figures. `bench takeover` is in [`takeover`]; `bench drain` is here: how fast a slot is drained into Kafka, beside `pg_recvlogical` to /dev/null over a copy of the same slot.
//!
//! One PostgreSQL, one etcd, one Kafka broker, all here, so the figures are this machine's. Both are timed from the
//! moment that their walsender has the slot: the peer until it has read the last transaction, the worker until the last
//! transaction's close is committed in Kafka. Only then are the rows in Kafka counted: a reader beside would take the
//! processor from what is measured.

mod drain;
pub mod takeover;
mod usage;

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio_postgres::Client;
use xtask::single::{Etcd, Kafka, Postgres, PostgresOptions};

use crate::database::Connection;
use crate::screen::Screen;

/// What a workload is, and how many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Its name in the report.
    pub name: &'static str,
    /// Rows in all.
    pub rows: u64,
    /// Rows of one transaction.
    pub per_transaction: u64,
}

/// One tool over one workload.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// The workload.
    pub workload: &'static str,
    /// `pgbaton` or `pg_recvlogical`.
    pub tool: &'static str,
    /// Rows of the workload.
    pub rows: u64,
    /// From the slot's being taken to the last row's being through.
    pub seconds: f64,
    /// Rows by seconds.
    pub rows_per_second: f64,
    /// Processor time of the tool.
    pub cpu_seconds: f64,
    /// Peak of the tool's resident memory.
    pub peak_rss_bytes: u64,
    /// Whether all rows arrived, each once; of the peer, whether it read to the end.
    pub parity: bool,
    /// Throughput has none.
    pub percentiles_ms: Option<()>,
}

/// The servers and the program under measurement.
pub struct Bench {
    postgres: Postgres,
    etcd: Etcd,
    kafka: Kafka,
    pgbaton: PathBuf,
}

const DATABASE: &str = "bench";

impl Bench {
    /// Starts the servers. `pgbaton` is the program to measure.
    pub fn open(pgbaton: PathBuf) -> Result<Self> {
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let settings = vec![
            setting("shared_buffers", "512MB"),
            setting("max_wal_size", "8GB"),
            setting("autovacuum", "off"),
            setting("synchronous_commit", "off"),
        ];
        let bench = Bench {
            postgres: Postgres::start(&PostgresOptions { settings, ..PostgresOptions::default() })?,
            etcd: Etcd::start()?,
            kafka: Kafka::start()?,
            pgbaton,
        };
        bench.postgres.sql("postgres", &format!("create database {DATABASE}"))?;
        Ok(bench)
    }

    /// Writes the workload and drains it with both tools, the peer first.
    pub async fn drain(&self, workload: Workload, screen: &Screen) -> Result<[Run; 2]> {
        let dsn = self.postgres.dsn(DATABASE);
        let client = Connection::open(&dsn, drain::ANSWER).await?;
        screen.step(&format!("{}: {} rows are written", workload.name, workload.rows));
        let end = write(&client, workload).await?;
        screen.step(&format!("{}: pg_recvlogical to /dev/null", workload.name));
        let peer = drain::peer(self, &client, workload, &end).await.context("drain by pg_recvlogical")?;
        screen.step(&format!("{}: pgbaton to Kafka", workload.name));
        let ours = drain::pgbaton(self, &client, workload, &end).await.context("drain by pgbaton")?;
        Ok([peer, ours])
    }
}

/// Makes table, publication and slots, and writes; returns an LSN before which all rows were committed and after which one
/// more transaction was.
async fn write(client: &Client, workload: Workload) -> Result<String> {
    let Workload { name, rows, per_transaction } = workload;
    client
        .batch_execute(&format!(
            "create table {name} (id bigint primary key, value int not null);
             create table {name}_end (id int primary key);
             create publication {name} for table {name}, {name}_end"
        ))
        .await?;
    client.execute("select pg_create_logical_replication_slot($1::text::name, 'pgoutput')", &[&name]).await?;
    client
        .batch_execute(&format!(
            "do $$ begin
               for part in 0..{} loop
                 insert into {name} select part * {per_transaction} + n, n from generate_series(1, {per_transaction}) n;
                 commit;
               end loop;
             end $$",
            rows / per_transaction - 1
        ))
        .await
        .context("write the rows")?;
    let end: String = client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
    client.batch_execute(&format!("insert into {name}_end values (1)")).await?;
    let copy = "select pg_copy_logical_replication_slot($1::text::name, ($1::text || '_peer')::name)";
    client.execute(copy, &[&name]).await?;
    Ok(end)
}
