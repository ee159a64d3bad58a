//! Patroni in a virtual environment of Debian's Python, every file by its hash.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Tool, run_quietly};
use crate::lab::Lab;

pub(super) const TOOL: Tool = Tool { name: "patroni", version: "4.1.5", install };

fn install(lab: &Lab, dir: &Path) -> Result<()> {
    let recipe = lab.repo().join("deploy/patroni");
    venv(dir)?;
    pip(dir, &[], &recipe.join("build-requirements.txt"))?;
    pip(dir, &["--no-build-isolation"], &recipe.join("requirements.txt"))?;
    run_quietly(Command::new(dir.join("bin/patroni")).arg("--version"))?;
    Ok(())
}

/// A virtual environment in `dir`.
pub(super) fn venv(dir: &Path) -> Result<()> {
    run_quietly(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(dir)).map(drop)
}

/// Installs into the virtual environment what the file names, every file by its hash.
pub(super) fn pip(dir: &Path, arguments: &[&str], requirements: &Path) -> Result<()> {
    let mut command = Command::new(dir.join("bin/pip"));
    command.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-cache-dir",
        "--require-hashes",
    ]);
    run_quietly(command.args(arguments).arg("-r").arg(requirements)).map(drop)
}
