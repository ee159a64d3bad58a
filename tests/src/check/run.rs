//! Runs the checker: waits until the topics have caught up with the database, then judges.

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;

use super::history::Record;
use super::read::Reader;
use super::selftest::recording::Recording;
use super::staged::Staged;
use super::verdict::Verdict;
use super::{Evidence, batches, judge, ownership, samples, stored, tenures};
use crate::database::{Connection, DatabaseError};
use crate::target::Target;

/// Nothing came for this long: what a Kafka transaction makes visible arrives within milliseconds.
const QUIET: Duration = Duration::from_millis(700);
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The topics could not be read.
    #[error("read the topics: {0}")]
    Kafka(#[from] KafkaError),
    /// The tables could not be read.
    #[error("read the tables: {0}")]
    Database(#[from] DatabaseError),
    /// etcd could not be read.
    #[error("read etcd: {0}")]
    Etcd(#[from] etcd_client::Error),
    /// The topics could not be read as they lie.
    #[error("read record batches: {0}")]
    Batches(io::Error),
    /// A log or the recording could not be read.
    #[error("read what was recorded: {0}")]
    File(io::Error),
}

/// Waits up to `settle` until every ledger row of the database was told and nothing more comes, then judges all that
/// was read, and what was done meanwhile, if somebody knows that. The writers must have stopped.
pub async fn run(target: &Target, settle: Duration, staged: Option<Staged>) -> Result<Verdict, CheckError> {
    let reader = Reader::new(&target.bootstrap, &target.topic_prefix);
    let (evidence, _) = collect(target, reader, settle).await?;
    Ok(judge(&Evidence { staged, ..evidence }))
}

/// Reads all that [`run`] judges, to be kept.
pub async fn record(target: &Target, settle: Duration) -> Result<Recording, CheckError> {
    let reader = Reader::new(&target.bootstrap, &target.topic_prefix).keeping();
    let (evidence, records) = collect(target, reader, settle).await?;
    Ok(Recording::of(&target.topic_prefix, records, evidence))
}

async fn collect(target: &Target, mut reader: Reader, settle: Duration) -> Result<(Evidence, Vec<Record>), CheckError> {
    let mut deadline = Instant::now() + settle;
    let mut told = 0;
    let settled = loop {
        let limit = deadline.max(Instant::now() + QUIET * 3);
        let (back, met) = drained(reader, limit).await;
        reader = back;
        let met = met?;
        // Of any topic: what is read last may be long.
        let read = reader.history().events.len();
        if read > told {
            told = read;
            deadline = Instant::now() + settle;
        }
        let settled = met && ledger_ids(&target.app).await?.is_subset(reader.ledger_ids());
        if settled || Instant::now() >= deadline {
            // What an accepted gap names never comes.
            break Some(settled || met && !reader.history().accepted_gaps().is_empty());
        }
    };
    let database = stored::database(&target.app, &target.publication).await?;
    // What they tell is in etcd by then.
    let mut logs = Vec::new();
    for (worker, file) in &target.logs {
        let bytes = std::fs::read(file).map_err(CheckError::File)?;
        logs.push((worker.clone(), String::from_utf8_lossy(&bytes).into_owned()));
    }
    let ownership = match target.etcd.as_slice() {
        [] => None,
        endpoints => Some(ownership::read(endpoints, &target.etcd_prefix, &target.pipeline).await?),
    };
    let (bootstrap, partitions) = (target.bootstrap.clone(), reader.partitions());
    let reading = tokio::task::spawn_blocking(move || batches::read(&bootstrap, &partitions));
    let batches = reading.await.expect("the reader returns its errors").map_err(CheckError::Batches)?;
    let samples = target.recording.as_ref().map_or(Ok(Vec::new()), |file| samples::read(file));
    let samples = samples.map_err(CheckError::File)?;
    let mut terminated = Vec::new();
    for (node, file) in &target.server_logs {
        // Of a cluster in containers there are none here.
        let log = std::fs::read(file).unwrap_or_default();
        terminated.extend(tenures::terminated(node, &String::from_utf8_lossy(&log)));
    }
    let secrets = target.secrets.clone();
    let (history, records) = reader.into_parts();
    let evidence =
        Evidence { history, database, batches, samples, ownership, logs, terminated, staged: None, secrets, settled };
    Ok((evidence, records))
}

/// Reads on a thread where it may block.
async fn drained(mut reader: Reader, limit: Instant) -> (Reader, Result<bool, KafkaError>) {
    let reading = tokio::task::spawn_blocking(move || {
        let met = reader.drain(QUIET, limit);
        (reader, met)
    });
    reading.await.expect("the reader returns its errors")
}

async fn ledger_ids(dsn: &str) -> Result<HashSet<String>, DatabaseError> {
    let connection = Connection::open(dsn, CONNECT_LIMIT).await?;
    let rows = connection.query("select id::text from ledger", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
