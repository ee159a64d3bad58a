//! One connection of the load: connects, writes, notes the outcome, and begins anew after any error.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::SimpleQueryMessage;

use super::Shared;
use super::plan::{End, Planner, Step};
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
                match Connection::open(&self.dsn, CONNECT_LIMIT).await {
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

async fn transaction(
    planner: &mut Planner,
    client: u32,
    number: u64,
    shared: &Shared,
    connection: &Connection,
) -> Result<(), DatabaseError> {
    let plan = planner.draw();
    add(&shared.attempted, 1);
    let changed = match work(connection, &plan.steps).await {
        Ok(changed) => changed,
        Err(error) => {
            add(&shared.failed, 1);
            return Err(error);
        }
    };
    if plan.end == End::Rollback {
        add(&shared.rolled_back, 1);
        limited(connection.batch_execute("rollback")).await?;
        return Ok(());
    }
    let id = uuid();
    let ledger =
        format!("insert into ledger (id, client, number, rows) values ('{id}', {client}, {number}, {changed}); commit");
    shared.sent.lock().expect("no writer panics holding it").insert(id, Instant::now());
    match limited(connection.batch_execute(&ledger)).await {
        Ok(()) => {
            add(&shared.transactions, 1);
            add(&shared.rows, changed + 1);
            Ok(())
        }
        Err(error) => {
            add(&shared.unknown, 1);
            Err(error)
        }
    }
}

/// Begins the transaction and runs its steps in one message; returns how many row changes will be told.
async fn work(connection: &Connection, steps: &[Step]) -> Result<u64, DatabaseError> {
    let sql: Vec<&str> = std::iter::once("begin").chain(steps.iter().map(|step| step.sql.as_str())).collect();
    let answers = limited(connection.simple_query(&sql.join(";\n"))).await?;
    let rows = answers.iter().filter_map(|answer| match answer {
        SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
        _ => None,
    });
    Ok(rows.skip(1).zip(steps).filter(|(_, step)| step.counts).map(|(rows, _)| rows).sum())
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
