//! One connection of the load: connects, writes, notes the outcome, and begins anew after any error.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::SinkExt;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::Shared;
use super::plan::{CopyIn, End, Planner, Transaction};
use crate::database::{Connection, DatabaseError};

/// Covers the whole handshake: behind HAProxy a connect may hang after TCP accepted it.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A statement that takes longer has lost its server.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);
/// Pause between attempts to connect while there is no leader.
const RETRY: Duration = Duration::from_millis(100);

pub(super) struct Writer {
    dsn: String,
    client: u32,
    number: u64,
    planner: Planner,
    shared: Arc<Shared>,
}

impl Writer {
    pub(super) fn new(dsn: String, client: u32, planner: Planner, shared: Arc<Shared>) -> Self {
        Writer { dsn, client, number: 0, planner, shared }
    }

    /// Writes a transaction every `period` from `first` on until it is stopped. What an outage kept it from is not made up for.
    pub(super) async fn run(mut self, first: Instant, period: Duration) {
        let mut ticks = tokio::time::interval_at(first.into(), period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut connection = None;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let Some(open) = &connection else {
                match open(&self.dsn, self.client).await {
                    Ok(open) => {
                        add(&self.shared.connects, 1);
                        connection = Some(open);
                    }
                    Err(error) => {
                        self.complain(&error);
                        tokio::time::sleep(RETRY).await;
                    }
                }
                continue;
            };
            ticks.tick().await;
            if let Err(error) = transaction(&mut self.planner, self.client, self.number, &self.shared, open).await {
                self.complain(&error);
                connection = None;
            }
            self.number += 1;
        }
    }

    fn complain(&self, error: &DatabaseError) {
        *self.shared.complaint.lock().expect("no writer panics holding it") = Some(error.to_string());
    }
}

/// A session whose changes are noted; jsonb prints times in the session's zone.
async fn open(dsn: &str, client: u32) -> Result<Connection, DatabaseError> {
    let connection = Connection::open(dsn, CONNECT_LIMIT).await?;
    limited(connection.batch_execute(&format!("set timezone = 'UTC'; set lab.client = '{client}'"))).await?;
    Ok(connection)
}

async fn transaction(
    planner: &mut Planner,
    client: u32,
    number: u64,
    shared: &Shared,
    connection: &Connection,
) -> Result<(), DatabaseError> {
    let plan = planner.draw();
    add(&shared.attempted, 1);
    if let Err(error) = work(connection, &plan).await {
        add(&shared.failed, 1);
        return Err(error);
    }
    if plan.end == End::Rollback {
        add(&shared.rolled_back, 1);
        return limited(connection.batch_execute("rollback")).await;
    }
    let id = uuid();
    // The notes end with the transaction, so they are read inside it.
    let ledger = format!(
        "insert into ledger (id, client, number, rows, digest, changes) \
         select '{id}', {client}, {number}, n, digest, case when n between 1 and 200 then lines end \
         from (select coalesce(nullif(current_setting('lab.count', true), ''), '0')::int n, \
         nullif(current_setting('lab.digest', true), '') digest, current_setting('lab.lines', true) lines) noted \
         returning rows; commit"
    );
    shared.sent.lock().expect("no writer panics holding it").insert(id, Instant::now());
    match limited(connection.simple_query(&ledger)).await {
        Ok(answers) => {
            let changed = answers.iter().find_map(|answer| match answer {
                SimpleQueryMessage::Row(row) => row.get(0)?.parse::<u64>().ok(),
                _ => None,
            });
            add(&shared.transactions, 1);
            add(&shared.rows, changed.unwrap_or(0) + 1);
            Ok(())
        }
        Err(error) => {
            add(&shared.unknown, 1);
            Err(error)
        }
    }
}

/// Begins the transaction and does all of it but the end.
async fn work(connection: &Connection, plan: &Transaction) -> Result<(), DatabaseError> {
    let sql: Vec<&str> = std::iter::once("begin").chain(plan.steps.iter().map(String::as_str)).collect();
    limited(connection.batch_execute(&sql.join(";\n"))).await?;
    match &plan.copy {
        Some(copy) => limited(copy_in(connection, copy)).await,
        None => Ok(()),
    }
}

async fn copy_in(connection: &Client, copy: &CopyIn) -> Result<(), tokio_postgres::Error> {
    let sink = connection.copy_in(&copy.sql).await?;
    let mut sink = std::pin::pin!(sink);
    sink.send(std::io::Cursor::new(copy.data.clone().into_bytes())).await?;
    sink.finish().await?;
    Ok(())
}

async fn limited<T>(query: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, DatabaseError> {
    let answer =
        tokio::time::timeout(STATEMENT_LIMIT, query).await.map_err(|_| DatabaseError::Silent(STATEMENT_LIMIT))?;
    Ok(answer?)
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// A random version 4 UUID. Not from the seed: the same seed may be loaded into one database twice.
fn uuid() -> String {
    let bits = (fastrand::u128(..) & !(0xF << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
