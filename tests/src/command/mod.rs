//! The commands of `lab`: arguments, screen and exit code around what the library does.

pub mod bench;
pub mod chaos;
pub mod check;
pub mod compose;
pub mod demo;
pub mod load;
pub mod scenario;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use pgbaton_tests::arena::Arena;
use pgbaton_tests::screen::Screen;
use pgbaton_tests::stage;
use pgbaton_tests::target::Target;
use xtask::cluster::{Cluster, MAIN, Spec};

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
    instance_or(MAIN)
}

/// The instance that is named, or this one: what strikes a cluster takes none that may be somebody's.
pub fn instance_or(default: &str) -> String {
    std::env::var("XTASK_INSTANCE").unwrap_or_else(|_| default.into())
}

/// Raises a proxied cluster, plays on it, and ends it in any case but `keep`. `None` when it was interrupted.
pub async fn perform<T>(
    spec: Spec,
    keep: bool,
    screen: &Screen,
    play: impl AsyncFnOnce(Arc<Arena>) -> Result<T>,
) -> Result<Option<T>> {
    let instance = spec.instance.clone();
    let mut raising = tokio::task::spawn_blocking(|| {
        xtask::setup::ensure_done()?;
        Arena::raise(spec)
    });
    let played = tokio::select! {
        played = async { play(Arc::new((&mut raising).await??)).await } => Some(played),
        _ = interrupted() => None,
    };
    if played.is_none() && !raising.is_finished() {
        // A start under way cleans up after itself.
        xtask::wait::interrupt();
        let _ = raising.await;
    }
    screen.end();
    if !keep {
        screen.step("the cluster goes down");
        tokio::task::spawn_blocking(move || Cluster::down(&instance)).await??;
    }
    played.transpose()
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
