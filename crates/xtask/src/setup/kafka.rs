//! Apache Kafka's jars: fetched by Maven as `deploy/kafka/pom.xml` says, compared with `deploy/kafka/jars.sha256`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Tool, run_quietly};
use crate::lab::{Lab, machine_program, remove};

pub(super) const TOOL: Tool = Tool { name: "kafka", version: "4.3.1", install };

fn install(lab: &Lab, dir: &Path) -> Result<()> {
    let recipe = lab.repo().join("deploy/kafka");
    let (libs, maven) = (dir.join("libs"), dir.join("maven"));
    run_quietly(
        Command::new(machine_program("mvn").context("find mvn")?)
            .args(["--quiet", "--batch-mode", "dependency:copy-dependencies", "-DincludeScope=runtime", "-f"])
            .arg(recipe.join("pom.xml"))
            .arg(format!("-DoutputDirectory={}", libs.display()))
            .arg(format!("-Dmaven.repo.local={}", maven.display())),
    )?;
    remove(&maven)?;
    let sums = recipe.join("jars.sha256");
    run_quietly(Command::new("sha256sum").args(["--check", "--strict", "--quiet"]).arg(&sums).current_dir(&libs))?;
    let (listed, found) = (fs::read_to_string(&sums)?.lines().count(), fs::read_dir(&libs)?.count());
    ensure!(listed == found, "{found} jars came, {listed} are listed in {}", sums.display());
    Ok(())
}
