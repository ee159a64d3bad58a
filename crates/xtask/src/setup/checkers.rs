//! What only tests need: promtool and a validator that carries Kubernetes' schemas, for the files below `deploy/`; Kafka's command
//! line, for what the pages show of it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Tool, kafka, patroni, run_quietly, suite};
use crate::lab::{Lab, remove};

pub(super) const TOOLS: [Tool; 3] = [
    kafka::COMMANDS,
    Tool { name: "promtool", version: "any", install: promtool },
    Tool { name: "kubernetes-validate", version: "1.37.0", install: kubernetes_validate },
];

/// From the package `prometheus`, which is not installed: it would start a server.
fn promtool(_: &Lab, dir: &Path) -> Result<()> {
    let work = dir.join("work");
    fs::create_dir_all(&work).context("make a work folder")?;
    run_quietly(Command::new("apt-get").args(["download", "-qq", "prometheus"]).current_dir(&work))?;
    suite::unpack(&work, &work.join("root"))?;
    fs::copy(work.join("root/usr/bin/promtool"), dir.join("promtool")).context("copy promtool")?;
    remove(&work)
}

fn kubernetes_validate(lab: &Lab, dir: &Path) -> Result<()> {
    patroni::venv(dir)?;
    patroni::pip(dir, &[], &lab.repo().join("deploy/kubernetes/requirements.txt"))
}
