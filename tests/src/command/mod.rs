//! The commands of `lab`: arguments, screen and exit code around what the library does.

pub mod bench;
pub mod check;
pub mod demo;
pub mod load;

use std::path::PathBuf;

use anyhow::{Context, Result};
use pgbaton_tests::stage;
use pgbaton_tests::target::Target;
use xtask::cluster::{Cluster, MAIN};

/// Which cluster a command is about.
#[derive(clap::Args)]
pub struct Where {
    /// Report of `cluster up`, where it is not the running cluster
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
}

impl Where {
    /// The cluster's addresses.
    pub fn target(&self) -> Result<Target> {
        let Some(file) = &self.cluster else { return stage::target(&Cluster::attach(&instance())?) };
        let report = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        Target::from_report(&serde_json::from_str(&report)?).map_err(anyhow::Error::msg)
    }
}

/// Which cluster is meant, as `cargo xtask cluster` understands it.
pub fn instance() -> String {
    std::env::var("XTASK_INSTANCE").unwrap_or_else(|_| MAIN.into())
}

/// Returns on Ctrl-C or SIGTERM.
pub async fn interrupted() {
    let mut terminated = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(terminated) => terminated,
        Err(_) => return std::future::pending().await,
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
}
