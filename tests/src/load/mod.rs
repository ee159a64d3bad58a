//! The load: connections through HAProxy that write transactions at a rate and know their own outcomes.
//!
//! Every transaction that commits inserts a ledger row last, with what it changed, as PostgreSQL itself noted it
//! (`schema.sql`). Where a connection dies during COMMIT the outcome is unknown here and settled by that row: the
//! surviving database is the truth. A writer reconnects at once on any error and goes on; how a failover felt from here is
//! in the counters.

mod plan;
mod weights;
mod writer;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinHandle;

use crate::database::{Connection, DatabaseError};

pub use plan::NEVER_SEEN;
pub use weights::Weights;

/// What load to make.
#[derive(Debug, Clone)]
pub struct Options {
    /// The database, through HAProxy's leader port.
    pub dsn: String,
    /// Transactions per second over all connections.
    pub rate: u32,
    /// Draws the transactions.
    pub seed: u64,
    /// How many connections write.
    pub connections: u32,
    /// How often each kind of transaction comes.
    pub weights: Weights,
}

impl Options {
    /// The usual load against a database.
    pub fn new(dsn: &str) -> Self {
        Options { dsn: dsn.into(), rate: 100, seed: 1, connections: 32, weights: Weights::default() }
    }
}

/// What the writers did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Transactions that PostgreSQL confirmed.
    pub transactions: u64,
    /// Row changes in them, ledger rows included.
    pub rows: u64,
    /// Transactions begun.
    pub attempted: u64,
    /// Rolled back on purpose.
    pub rolled_back: u64,
    /// Lost before their COMMIT was sent.
    pub failed: u64,
    /// Lost after it was sent: the ledger says which of them survived.
    pub unknown: u64,
    /// Connections made.
    pub connects: u64,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    transactions: AtomicU64,
    rows: AtomicU64,
    attempted: AtomicU64,
    rolled_back: AtomicU64,
    failed: AtomicU64,
    unknown: AtomicU64,
    connects: AtomicU64,
    /// When the COMMIT of a ledger row was sent: a row cannot have been committed before.
    sent: Mutex<HashMap<String, Instant>>,
    /// Why the last transaction failed, for the screen.
    complaint: Mutex<Option<String>>,
}

/// A running load. Dropping it stops it without waiting.
pub struct Load {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
    started: Instant,
}

impl Load {
    /// Makes what the load needs in the database, where it is not there yet, and starts the writers.
    pub async fn start(options: &Options) -> Result<Self, DatabaseError> {
        let connection = Connection::open(&options.dsn, Duration::from_secs(5)).await?;
        connection.batch_execute("select pg_advisory_lock(7400)").await?;
        connection
            .batch_execute(&format!("begin; set local lock_timeout = '30s'; {} commit", include_str!("schema.sql")))
            .await?;
        connection.batch_execute("select pg_advisory_unlock(7400)").await?;
        let last_id: i64 = connection.query_one("select lab.last_id()", &[]).await?.get(0);
        let shared = Arc::new(Shared::default());
        let period = Duration::from_secs_f64(f64::from(options.connections) / f64::from(options.rate.max(1)));
        let started = Instant::now();
        let clients = options.connections;
        let writers = (0..clients)
            .map(|client| {
                let first_id = last_id.unsigned_abs().next_multiple_of(u64::from(clients));
                let planner = plan::Planner::new(options.seed, options.weights, client, clients, first_id);
                let writer = writer::Writer::new(options.dsn.clone(), client, planner, Arc::clone(&shared));
                tokio::spawn(writer.run(started + period * client / clients, period))
            })
            .collect();
        Ok(Load { shared, writers, started })
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let shared = &self.shared;
        Counters {
            transactions: get(&shared.transactions),
            rows: get(&shared.rows),
            attempted: get(&shared.attempted),
            rolled_back: get(&shared.rolled_back),
            failed: get(&shared.failed),
            unknown: get(&shared.unknown),
            connects: get(&shared.connects),
        }
    }

    /// When the COMMIT that brought this ledger row was sent; `None` for a row that is not of this load.
    pub fn sent_at(&self, ledger_id: &str) -> Option<Instant> {
        self.shared.sent.lock().expect("no writer panics holding it").get(ledger_id).copied()
    }

    /// Asks the same question later and from another thread.
    pub fn journal(&self) -> Journal {
        Journal(Arc::clone(&self.shared))
    }

    /// Why the last failed transaction failed.
    pub fn complaint(&self) -> Option<String> {
        self.shared.complaint.lock().expect("no writer panics holding it").clone()
    }

    /// How long it has been running.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Lets every writer end its transaction, and returns what was done.
    pub async fn stop(mut self) -> Counters {
        self.shared.stop.store(true, Ordering::Relaxed);
        for writer in std::mem::take(&mut self.writers) {
            // A writer that panicked is seen by its missing transactions.
            let _ = writer.await;
        }
        self.counters()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for writer in &self.writers {
            writer.abort();
        }
    }
}

/// Knows when each ledger row's COMMIT was sent.
#[derive(Clone)]
pub struct Journal(Arc<Shared>);

impl Journal {
    /// As [`Load::sent_at`].
    pub fn sent_at(&self, ledger_id: &str) -> Option<Instant> {
        self.0.sent.lock().expect("no writer panics holding it").get(ledger_id).copied()
    }
}
