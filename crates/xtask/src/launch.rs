//! How a server is started, kept as data so that it can be started again exactly so.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::owner::Owner;
use crate::process::{MARK, ProcessId};

/// A server's command line and surroundings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// The working directory.
    pub dir: PathBuf,
    /// Standard output and error are appended here.
    pub log: PathBuf,
}

impl Launch {
    /// Starts it as `owner`, in its own session, without input and with a clean environment that carries `mark`.
    pub fn spawn(&self, owner: &Owner, mark: &str) -> Result<ProcessId> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("open {}", self.log.display()))?;
        let child = owner
            .daemon(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(surroundings())
            .envs(&self.env)
            .env(MARK, mark)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share a log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        ProcessId::of(child.id() as i32)
            .with_context(|| format!("{} ended at once, see {}", self.program.display(), self.log.display()))
    }
}

/// What a server may know of the caller: nothing that differs between machines. A root's PATH names folders that the
/// servers' user cannot enter.
fn surroundings() -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HOME".to_owned(), "/tmp".to_owned()),
        ("LC_ALL".to_owned(), "C.UTF-8".to_owned()),
    ]);
    for name in ["RUST_LOG", "RUST_BACKTRACE"] {
        if let Ok(value) = std::env::var(name) {
            env.insert(name.to_owned(), value);
        }
    }
    env
}
