//! Runs the checker: waits until the topics have caught up with the database, then judges.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use tokio_postgres::SimpleQueryMessage;

use super::judge;
use super::read::Reader;
use super::table::{Cell, Content, Row, Table};
use super::verdict::Verdict;
use crate::database::{Connection, DatabaseError};
use crate::target::Target;

/// Nothing came for this long: what a Kafka transaction makes visible arrives within milliseconds.
const QUIET: Duration = Duration::from_millis(700);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The topics could not be read.
    #[error("read the topics: {0}")]
    Kafka(#[from] KafkaError),
    /// The tables could not be read.
    #[error("read the tables: {0}")]
    Database(#[from] DatabaseError),
}

/// Waits up to `settle` until every ledger row of the database was told and nothing more comes, then judges all that
/// was read. The writers must have stopped.
pub async fn run(target: &Target, settle: Duration) -> Result<Verdict, CheckError> {
    let mut reader = Reader::new(&target.bootstrap, &target.topic_prefix);
    let mut deadline = Instant::now() + settle;
    let mut told = 0;
    loop {
        let limit = deadline.max(Instant::now() + QUIET * 3);
        let (back, met) = drained(reader, limit).await;
        reader = back;
        let met = met?;
        if reader.ledger_ids().len() > told {
            told = reader.ledger_ids().len();
            deadline = Instant::now() + settle;
        }
        let settled = met && ledger_ids(&target.app).await?.is_subset(reader.ledger_ids());
        if settled || Instant::now() >= deadline {
            break;
        }
    }
    let content = content(&target.app).await?;
    Ok(judge(reader.history(), &content))
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

/// The tables' content, all of one snapshot.
pub async fn content(dsn: &str) -> Result<Content, DatabaseError> {
    let connection = Connection::open(dsn, CONNECT_LIMIT).await?;
    connection.batch_execute("begin isolation level repeatable read read only").await?;
    let mut content = Content::new();
    for table in Table::ALL {
        let mut rows = BTreeMap::new();
        for answer in connection.simple_query(&table.query()).await? {
            let SimpleQueryMessage::Row(row) = answer else { continue };
            let cells: Row = (0..row.len())
                .map(|column| row.get(column).map_or(Cell::Null, |text| Cell::Text(text.into())))
                .collect();
            rows.insert(row.get(0).unwrap_or_default().to_owned(), cells);
        }
        content.insert(table, rows);
    }
    Ok(content)
}
