//! The driver: joins the core's machine to PostgreSQL, Kafka and etcd. One loop for each pipeline; it decides nothing.

mod access;
mod auditing;
mod batons;
mod eager;
mod failures;
mod inspecting;
mod looking;
mod pipeline;
mod poller;
mod publishing;
mod reporting;
mod session;
mod sink;
mod standbys;
mod watchdog;

use access::Access;
pub(crate) use failures::rfc3339_micros;
pub(crate) use inspecting::{LAST_LIMIT, Wanted, conninfo, inspect};

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::http::Command;
use crate::renewal::{Renewal, Renewed};
use crate::status::Board;
use crate::tls::HttpTls;

/// The driver could not start, or a pipeline's loop has died.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A connection string that cannot be used.
    #[error("pipeline {pipeline}: postgres.url: {reason}")]
    Conninfo {
        /// The pipeline.
        pipeline: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Kafka settings that cannot be used.
    #[error("pipeline {pipeline}: kafka: {reason}")]
    Kafka {
        /// The pipeline.
        pipeline: String,
        /// What is wrong with them.
        reason: String,
    },
    /// A file with a certificate, key or password cannot be used.
    #[error("{0}")]
    Files(String),
    /// The operating system refused a thread or random bytes.
    #[error("start: {0}")]
    Start(#[from] std::io::Error),
    /// A task ended by a panic.
    #[error("a pipeline's loop died: {0}")]
    Died(#[from] tokio::task::JoinError),
}

/// Runs every pipeline until `shutdown` turns true and all of them have handed over. Everything that can be refused is
/// refused before anything is started.
pub async fn run(
    config: Arc<Config>,
    board: Board,
    advertised_url: String,
    mut commands: BTreeMap<String, mpsc::Receiver<Command>>,
    shutdown: watch::Receiver<bool>,
    http_tls: Renewed<HttpTls>,
    mut renewal: Renewal,
) -> Result<(), Error> {
    let shared = access::Shared::new(&config, http_tls, &mut renewal)?;
    let mut pipelines = Vec::new();
    for name in config.pipelines.keys() {
        let Some((orders, publisher)) = commands.remove(name).zip(board.publisher(name)) else { continue };
        let access = Access::new(&config, name, &shared, &mut renewal)?;
        pipelines.push(pipeline::Pipeline::new(&config, name, &board, publisher, &advertised_url, orders, access)?);
    }
    let looking = tokio::spawn(renewal.run(board));
    let mut running = JoinSet::new();
    for pipeline in pipelines {
        running.spawn(pipeline.run(shutdown.clone()));
    }
    while let Some(ended) = running.join_next().await {
        ended?;
    }
    looking.abort();
    Ok(())
}
