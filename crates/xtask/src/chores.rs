//! Chores that hand over: the tools of the lab, built and run in our place.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build::{self, Profile, XTASK_WORKER_BIN};
use crate::instance;
use crate::lab::{Lab, remove};
use crate::setup;

/// Sets up, builds, and becomes `lab CHORE ARGS`: signals and the exit code are its own. Returns only on failure.
///
/// Benchmarks measure what people would run, so they are built for release.
pub fn run_tool(chore: &str, args: &[String]) -> Result<()> {
    setup::ensure_done()?;
    let lab = Lab::open()?;
    let profile = if chore == "bench" { Profile::Release } else { Profile::Dev };
    let tools = build::tools(&lab, profile)?;
    let mut command = Command::new(&tools);
    command.arg(chore).args(args);
    if std::env::var_os(XTASK_WORKER_BIN).is_none() {
        command.env(XTASK_WORKER_BIN, build::pgbaton(&lab, profile)?);
    }
    Err(command.exec()).with_context(|| format!("run {}", tools.display()))
}

/// Builds the simulator and becomes it. It needs no lab. Returns only on failure.
pub fn simulate(args: &[String]) -> Result<()> {
    let simulator = build::simulator(&Lab::open()?)?;
    Err(Command::new(&simulator).args(args).exec()).with_context(|| format!("run {}", simulator.display()))
}

/// Ends every server of the lab and removes the lab's folder. Packages of the machine stay.
pub fn clean() -> Result<()> {
    let lab = Lab::open()?;
    instance::kill_everything(&lab);
    remove(lab.root())
}
