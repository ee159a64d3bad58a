//! Apache Kafka's jars: fetched by Maven as a `pom.xml` below `deploy/kafka` says, compared with the `jars.sha256` beside it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Tool, run_quietly};
use crate::lab::{Lab, machine_program, remove};

pub(super) const TOOL: Tool = Tool { name: "kafka", version: "4.3.1", install };

/// The command line, which only tests need.
pub(super) const COMMANDS: Tool = Tool { name: "kafka-tools", version: "4.3.1", install: install_commands };

/// As a distribution of Kafka names them, and the class behind each.
const SCRIPTS: [(&str, &str); 5] = [
    ("kafka-acls.sh", "org.apache.kafka.tools.AclCommand"),
    ("kafka-broker-api-versions.sh", "org.apache.kafka.tools.BrokerApiVersionsCommand"),
    ("kafka-configs.sh", "kafka.admin.ConfigCommand"),
    ("kafka-console-consumer.sh", "org.apache.kafka.tools.consumer.ConsoleConsumer"),
    ("kafka-transactions.sh", "org.apache.kafka.tools.TransactionsCommand"),
];

fn install(lab: &Lab, dir: &Path) -> Result<()> {
    fetch(&lab.repo().join("deploy/kafka"), dir)
}

fn install_commands(lab: &Lab, dir: &Path) -> Result<()> {
    fetch(&lab.repo().join("deploy/kafka/tools"), dir)?;
    let java = machine_program("java").context("find java")?;
    let path = format!("{}/*:{}/*", lab.kafka_jars().display(), dir.join("libs").display());
    fs::create_dir(dir.join("bin")).context("make a folder")?;
    for (name, class) in SCRIPTS {
        let script = dir.join("bin").join(name);
        let text = format!("#!/bin/sh\nexec {} -XX:TieredStopAtLevel=1 -cp '{path}' {class} \"$@\"\n", java.display());
        fs::write(&script, text).context("write a script")?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("make a script a program")?;
    }
    Ok(())
}

/// The jars that the recipe names, and no others, into `libs`.
fn fetch(recipe: &Path, dir: &Path) -> Result<()> {
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
