//! SQL whose answers come as text, over either kind of connection.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::SimpleQueryMessage;

use crate::error::{DbError, Meaning};
use crate::malformed::{Malformed, Problem, Reader};
use crate::wire::WireError;

/// Runs SQL in the simple protocol: on the replication connection before START_REPLICATION, or on an ordinary one. What is
/// asked in [`crate::catalog`] works on both.
pub trait Sql: Send {
    /// The rows that `sql` (one or more statements) returns.
    ///
    /// # Errors
    /// See [`QueryError`].
    fn rows(&mut self, sql: &str) -> impl Future<Output = Result<Vec<SimpleRow>, QueryError>> + Send;
}

/// A row whose values are text.
#[derive(Clone, PartialEq, Eq)]
pub struct SimpleRow {
    names: Arc<[String]>,
    values: Vec<Option<String>>,
}

impl SimpleRow {
    /// The value of a column; `None` for NULL and for a column that is not there.
    pub fn get(&self, column: &str) -> Option<&str> {
        let index = self.names.iter().position(|name| name == column)?;
        self.at(index)
    }

    /// The value of a column by its place, from 0; `None` for NULL and for a column that is not there.
    pub fn at(&self, index: usize) -> Option<&str> {
        self.values.get(index)?.as_deref()
    }

    /// The names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn new(names: Arc<[String]>, values: Vec<Option<String>>) -> Self {
        SimpleRow { names, values }
    }
}

/// Shows the names of the columns only: values never reach a log.
impl std::fmt::Debug for SimpleRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimpleRow({})", self.names.join(", "))
    }
}

/// Why SQL has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The server refused it. The connection can be used further, unless the severity is FATAL.
    #[error("{0}")]
    Server(DbError),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The connection broke.
    #[error("connection lost: {0}")]
    Io(#[source] io::Error),
    /// The answer is not what was asked for.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The replication connection streams, has ended, or an earlier query on it was dropped before its answer came.
    #[error("the connection is not ready for a query")]
    NotReady,
}

impl QueryError {
    /// What this failure means to pgbaton.
    pub fn meaning(&self) -> Meaning {
        match self {
            QueryError::Server(error) => error.meaning(),
            QueryError::Closed | QueryError::Io(_) | QueryError::NotReady => Meaning::Retry,
            QueryError::Malformed(_) => Meaning::Unexpected,
        }
    }

    /// The error of the server, where that is what it is.
    pub fn db_error(&self) -> Option<&DbError> {
        match self {
            QueryError::Server(error) => Some(error),
            _ => None,
        }
    }
}

impl From<WireError> for QueryError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Closed => QueryError::Closed,
            WireError::Io(error) => QueryError::Io(error),
            WireError::Malformed(malformed) => QueryError::Malformed(malformed),
        }
    }
}

impl From<&tokio_postgres::Error> for QueryError {
    fn from(error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(error) => QueryError::Server(error.into()),
            None if error.is_closed() => QueryError::Closed,
            None => QueryError::Io(io::Error::other(error.to_string())),
        }
    }
}

impl Sql for &tokio_postgres::Client {
    async fn rows(&mut self, sql: &str) -> Result<Vec<SimpleRow>, QueryError> {
        let messages = self.simple_query(sql).await.map_err(|error| QueryError::from(&error))?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows
            .map(|row| {
                let names = row.columns().iter().map(|column| column.name().to_owned()).collect();
                SimpleRow::new(names, (0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
            })
            .collect())
    }
}

impl Sql for tokio_postgres::Client {
    async fn rows(&mut self, sql: &str) -> Result<Vec<SimpleRow>, QueryError> {
        (&*self).rows(sql).await
    }
}

/// The names in a RowDescription.
pub(crate) fn read_names(body: &[u8]) -> Result<Arc<[String]>, Malformed> {
    /// Bytes of a field's description behind its name: table, column, type, size, modifier, format.
    const FIELD: usize = 4 + 2 + 4 + 2 + 4 + 2;
    let mut reader = Reader::new("RowDescription", body);
    let mut names = Vec::new();
    for _ in 0..reader.count16()? {
        names.push(reader.text()?.to_owned());
        reader.take(FIELD)?;
    }
    reader.end()?;
    Ok(names.into())
}

/// The values in a DataRow, as many as there are names.
pub(crate) fn read_values(body: &Bytes, names: usize) -> Result<Vec<Option<Bytes>>, Malformed> {
    let mut reader = Reader::new("DataRow", body);
    if reader.count16()? != names {
        return Err(reader.problem(Problem::Value));
    }
    let mut values = Vec::with_capacity(names);
    for _ in 0..names {
        values.push(match reader.i32()? {
            -1 => None,
            length => {
                let length = usize::try_from(length).map_err(|_| reader.problem(Problem::Count(length.into())))?;
                Some(body.slice_ref(reader.take(length)?))
            }
        });
    }
    reader.end()?;
    Ok(values)
}
