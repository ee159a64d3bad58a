//! Building other packages of the workspace. Cargo shows its own progress.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::lab::{Lab, target};

/// How it is built: quickly, or to run fast.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// A `cargo` command in the checkout.
pub(crate) fn cargo(lab: &Lab) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(lab.repo());
    command
}

/// Names another `pgbaton` than the one that the checkout builds.
pub const XTASK_WORKER_BIN: &str = "XTASK_WORKER_BIN";

/// The worker that tests and the local cluster run: the one that [`XTASK_WORKER_BIN`] names, else built now for development.
pub fn worker(lab: &Lab) -> Result<PathBuf> {
    std::env::var_os(XTASK_WORKER_BIN).map_or_else(|| pgbaton(lab, Profile::Dev), |path| Ok(PathBuf::from(path)))
}

/// Builds the worker and returns its path.
pub(crate) fn pgbaton(lab: &Lab, profile: Profile) -> Result<PathBuf> {
    binary(lab, profile, "pgbaton", "pgbaton")
}

/// Builds the tools of the lab (load, check, demo, benchmarks) and returns their path.
pub(crate) fn tools(lab: &Lab, profile: Profile) -> Result<PathBuf> {
    binary(lab, profile, "pgbaton-tests", "lab")
}

/// Builds the simulator and returns its path. The dev profile optimises it.
pub(crate) fn simulator(lab: &Lab) -> Result<PathBuf> {
    binary(lab, Profile::Dev, "pgbaton-sim", "pgbaton-sim")
}

fn binary(lab: &Lab, profile: Profile, package: &str, name: &str) -> Result<PathBuf> {
    let mut command = cargo(lab);
    command.args(["build", "--package", package, "--bin", name]);
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            command.arg("--release");
            "release"
        }
    };
    let status = command.status().context("run cargo")?;
    ensure!(status.success(), "{package} does not build");
    Ok(target(lab.repo()).join(folder).join(name))
}
