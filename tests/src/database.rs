//! A connection to PostgreSQL for the lab: plain SQL, a time-out over the whole handshake.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

/// Why the database could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The handshake took longer than the time-out: behind HAProxy a connect may hang after TCP accepted it.
    #[error("no answer from PostgreSQL within {0:?}")]
    Silent(Duration),
    /// PostgreSQL or the connection refused.
    #[error("{}", words(.0))]
    Postgres(#[from] tokio_postgres::Error),
}

fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} {}", error.code().code(), error.message()),
        None => error.to_string(),
    }
}

/// An open connection; dropping it closes it.
pub struct Connection {
    client: Client,
    driver: JoinHandle<()>,
}

impl Connection {
    /// Connects; the whole handshake must be done within `limit`.
    pub async fn open(dsn: &str, limit: Duration) -> Result<Self, DatabaseError> {
        let connect = tokio_postgres::connect(dsn, NoTls);
        let (client, connection) =
            tokio::time::timeout(limit, connect).await.map_err(|_| DatabaseError::Silent(limit))??;
        let driver = tokio::spawn(async move {
            // The client's next call reports what ended the connection.
            let _ = connection.await;
        });
        Ok(Connection { client, driver })
    }
}

impl std::ops::Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
