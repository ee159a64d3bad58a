//! One server alone, for tests that need no cluster: a PostgreSQL, an etcd, a Kafka broker.
//!
//! Each lives in a folder of its own, runs as the lab's unprivileged user on a free port, and is gone with its data when the
//! value is dropped. Installs nothing: `cargo xtask setup` has to have run.

mod etcd;
mod kafka;
mod postgres;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use etcd::{Etcd, EtcdTls};
pub use kafka::Kafka;
pub use postgres::{Postgres, PostgresOptions};

use crate::instance::Instance;
use crate::lab::Lab;
use crate::launch::Launch;
use crate::process::{self, ProcessId, Signal};
use crate::wait::until;

const BOUND: Duration = Duration::from_secs(60);

/// A process of the lab under a test's control.
#[derive(Debug)]
pub struct Server {
    lab: Lab,
    instance: Instance,
    launch: Launch,
    /// PostgreSQL's data directory, by which its processes are known.
    data: Option<PathBuf>,
    process: ProcessId,
}

impl Server {
    fn start(lab: Lab, instance: Instance, launch: Launch, data: Option<PathBuf>) -> Result<Self> {
        let process = launch.spawn(lab.owner(), &process::mark(instance.dir(), NODE))?;
        Ok(Self { lab, instance, launch, data, process })
    }

    /// SIGKILL to the server and all its children; returns when they are gone.
    pub fn kill(&self) {
        process::kill_all(|| self.processes());
    }

    /// Sends a signal to the server's first process: SIGTERM, SIGINT (PostgreSQL's fast stop), SIGQUIT.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// SIGSTOP to all its processes.
    pub fn freeze(&self) {
        process::signal_all(|| self.processes(), Signal::STOP);
    }

    /// SIGCONT to all its processes.
    pub fn thaw(&self) {
        process::signal_all(|| self.processes(), Signal::CONT);
    }

    /// Waits until all its processes have ended.
    pub fn wait_gone(&self, bound: Duration) -> Result<()> {
        until("the server to end", bound, || Ok(self.processes().is_empty().then_some(())))
    }

    fn restart(&mut self) -> Result<()> {
        ensure!(self.processes().is_empty(), "the server still runs");
        process::wait_gone(self.process)?;
        self.process = self.launch.spawn(self.lab.owner(), &process::mark(self.instance.dir(), NODE))?;
        Ok(())
    }

    fn processes(&self) -> Vec<ProcessId> {
        process::of_node(self.instance.dir(), NODE, self.data.as_deref())
    }

    /// Waits until `probe` says yes; a server that ends meanwhile is an error with its last words.
    fn wait(&self, what: &str, probe: impl Fn() -> bool) -> Result<()> {
        let waited = until(what, BOUND, || {
            ensure!(self.process.is_alive(), "it ended at once");
            Ok(probe().then_some(()))
        });
        waited.with_context(|| fs::read_to_string(&self.launch.log).unwrap_or_default())
    }

    /// What the server wrote to standard output and error.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.launch.log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.instance.destroy() {
            eprintln!("end a test's server: {error:#}");
        }
    }
}

const NODE: &str = "server";

/// A folder for one server of this process.
fn instance(lab: &Lab, kind: &str) -> Result<Instance> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    Instance::temporary(lab, &format!("{kind}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)))
}
