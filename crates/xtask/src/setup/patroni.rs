//! Patroni in a virtual environment of Debian's Python, every file by its hash.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Tool, run_quietly};
use crate::lab::Lab;

pub(super) const TOOL: Tool = Tool { name: "patroni", version: "4.1.5", install };

fn install(lab: &Lab, dir: &Path) -> Result<()> {
    run_quietly(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(dir))?;
    let pip = |arguments: &[&str], file: &str| {
        let mut command = Command::new(dir.join("bin/pip"));
        command.args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            "--no-cache-dir",
            "--require-hashes",
        ]);
        run_quietly(command.args(arguments).arg("-r").arg(lab.repo().join("deploy/patroni").join(file)))
    };
    pip(&[], "build-requirements.txt")?;
    pip(&["--no-build-isolation"], "requirements.txt")?;
    run_quietly(Command::new(dir.join("bin/patroni")).arg("--version"))?;
    Ok(())
}
