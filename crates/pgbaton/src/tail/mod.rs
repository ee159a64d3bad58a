//! Changes of any PostgreSQL as lines: a temporary slot, no etcd, no Kafka, and nothing left behind. Not for delivery:
//! what it shows is confirmed at once.

mod lines;
mod output;
mod publications;

use std::pin::Pin;
use std::time::Duration;

use pgbaton_core::Lsn;
use pgbaton_postgres::{ConnectError, Conninfo, Frame, QueryError, ReplicationConnection, StreamError};
use tokio::time::{Instant, sleep_until, timeout};

pub use lines::{Broken, Lines};
use output::Output;
use publications::{Publications, Unmade};

/// How often the server is told how far we are: far below any `wal_sender_timeout`.
const STATUS_PERIOD: Duration = Duration::from_secs(2);
/// What an end in order may take, step by step.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Which tables are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// Those of a publication that is there.
    Publication(String),
    /// These, named as in SQL.
    Tables(Vec<String>),
    /// All of the database.
    Everything,
}

/// What is to be shown.
#[derive(Debug, Clone)]
pub struct Request {
    /// The server and its database.
    pub conninfo: Conninfo,
    /// The tables.
    pub watched: Watched,
    /// JSON objects instead of lines for people.
    pub json: bool,
    /// Ends after so many changes.
    pub limit: Option<u64>,
}

/// Why there is nothing more to show.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// No server let us in.
    #[error("{0}{fix}", fix = connect_fix(.0))]
    Connect(#[from] ConnectError),
    /// The publication cannot be had.
    #[error(transparent)]
    Publication(#[from] Unmade),
    /// There is no temporary slot to be had.
    #[error("make a temporary slot: {0}{fix}", fix = slot_fix(.0))]
    Slot(#[source] QueryError),
    /// The server does not stream.
    #[error("start to stream: {0}")]
    Start(#[source] QueryError),
    /// The stream ended before anybody wanted it to.
    #[error("the stream ended: {0}")]
    Stream(#[from] StreamError),
    /// The server stops.
    #[error("the server ended the stream: it is stopping, or was told to end this session")]
    Ended,
    /// What came is not pgoutput.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// No random bytes or no thread.
    #[error("the operating system refuses: {0}")]
    System(#[from] std::io::Error),
    /// What was made could not be taken away again.
    #[error("{0}; what is left is named in: {1}")]
    Left(String, String),
}

fn connect_fix(error: &ConnectError) -> &'static str {
    match error.meaning() {
        pgbaton_postgres::Meaning::PermissionDenied => {
            "; an administrator can grant it: ALTER ROLE ... REPLICATION (on managed servers a role such as \
             rds_replication)"
        }
        _ => "",
    }
}

fn slot_fix(error: &QueryError) -> &'static str {
    match error.db_error().map(|error| error.code.as_str()) {
        Some("55000") => "; ALTER SYSTEM SET wal_level = 'logical', then restart the server",
        Some("53400") => "; raise max_replication_slots, or drop a slot that nobody needs",
        Some("42501") => "; the role needs REPLICATION: ALTER ROLE ... REPLICATION",
        _ => "",
    }
}

/// Shows changes until `stop` ends, the limit is reached, or nobody reads the output any more. `note` is told what people
/// should know beside the output. Whatever the outcome, nothing is left on the server but what the error names.
///
/// # Errors
/// See [`TailError`].
pub async fn tail(
    request: &Request,
    stop: impl Future<Output = ()>,
    note: &mut (dyn FnMut(String) + Send),
) -> Result<(), TailError> {
    let name = format!("pgbaton_tail_{}", random_hex()?);
    let mut publications = Publications::new(&name, &request.watched);
    tokio::pin!(stop);
    let prepared = tokio::select! {
        prepared = prepare(request, &name, &mut publications, note) => prepared.map(Some),
        () = &mut stop => Ok(None),
    };
    let outcome = match prepared {
        Ok(Some(mut connection)) => {
            note("watching; Ctrl-C ends it".to_owned());
            let shown = show(request, &mut connection, stop).await;
            connection.close().await;
            shown
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    // The slot goes with its session; a publication does not.
    match timeout(END_LIMIT, publications.drop(&request.conninfo)).await {
        Ok(Ok(())) => outcome,
        Ok(Err(reason)) => Err(TailError::Left(reason, publications.drop_statement())),
        Err(_) => {
            let reason = "the server did not answer in time".to_owned();
            Err(TailError::Left(reason, publications.drop_statement()))
        }
    }
}

/// Connects and starts the stream.
async fn prepare(
    request: &Request,
    name: &str,
    publications: &mut Publications,
    note: &mut (dyn FnMut(String) + Send),
) -> Result<ReplicationConnection, TailError> {
    let mut connection = ReplicationConnection::connect(&request.conninfo, name).await?;
    let watched = publications.make(&mut connection, note).await?;
    connection
        .query(&format!("CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT"))
        .await
        .map_err(TailError::Slot)?;
    let options = [("proto_version", "1"), ("publication_names", watched.as_str())];
    connection.start_replication(name, Lsn::INVALID, &options).await.map_err(TailError::Start)?;
    Ok(connection)
}

/// Reads, writes and confirms. Reading waits while the reader of our output does not take it; confirming does not.
async fn show(
    request: &Request,
    connection: &mut ReplicationConnection,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), TailError> {
    let output = Output::start()?;
    let mut lines = Lines::new(request.json);
    let (mut ready, mut shown, mut seen) = (String::new(), 0, Lsn::INVALID);
    let mut status_due = Instant::now() + STATUS_PERIOD;
    let full = |shown: u64| request.limit.is_some_and(|limit| shown >= limit);
    loop {
        tokio::select! {
            // Both take place at once or not at all, so nothing is lost in the arm that is dropped.
            room = output.room(), if !ready.is_empty() => match room {
                Some(room) => room.send(std::mem::take(&mut ready)),
                None => return Ok(()),
            },
            frame = connection.next_frame(), if ready.is_empty() => match frame? {
                Frame::XLogData { wal_start, data, .. } => {
                    for line in lines.of(wal_start, &data)? {
                        if !full(shown) {
                            ready.push_str(&line);
                            ready.push('\n');
                            shown += 1;
                        }
                    }
                    seen = lines.committed().max(seen);
                }
                Frame::Keepalive { wal_end, reply_requested, .. } => {
                    seen = wal_end.max(seen);
                    if reply_requested {
                        connection.send_status(seen, seen, seen, false)?;
                    }
                }
                Frame::End => return Err(TailError::Ended),
            },
            () = output.closed() => return Ok(()),
            () = &mut stop => return Ok(()),
            () = sleep_until(status_due) => {
                connection.send_status(seen, seen, seen, false)?;
                status_due = Instant::now() + STATUS_PERIOD;
            }
        }
        if full(shown) && ready.is_empty() {
            output.finish().await;
            return Ok(());
        }
    }
}

fn random_hex() -> std::io::Result<String> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
