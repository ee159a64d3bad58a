//! `cargo xtask setup`: what the machine lacks. Idempotent; says one line for each thing, and what to install by hand where we may not.
//!
//! Packages come from the machine's package manager, everything else goes below the lab's `tools` folder. No registry is named
//! here: apt, pip, mvn and go know theirs.

mod checkers;
pub(crate) mod docker;
mod etcd;
mod kafka;
mod packages;
mod patroni;
mod postgres;
mod sources;
mod suite;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::{Lab, newest_pg, open_folder, remove};
use crate::progress::Step;

/// Something that set-up can bring into the lab's tools.
struct Tool {
    name: &'static str,
    /// What must be there; another version is fetched anew. For etcd, where apt decides, it is the recipe's number.
    version: &'static str,
    install: fn(&Lab, &Path) -> Result<()>,
}

/// What the cluster consists of; the rest is for tests only.
const TOOLS: [Tool; 3] = [etcd::TOOL, patroni::TOOL, kafka::TOOL];

/// The version of Kafka that the lab runs.
pub(crate) fn kafka_version() -> &'static str {
    kafka::TOOL.version
}

/// Installs all that is missing, or with `check` only says what is.
pub fn run(check: bool) -> Result<()> {
    let lab = Lab::open()?;
    let missing = packages::missing(&lab);
    if check {
        return report(&lab, &missing);
    }
    if missing.is_empty() {
        eprintln!("ok  packages: all there");
    } else {
        packages::install(&missing)?;
    }
    // The packages bring user postgres; whether he may enter the checkout decides where the lab lies.
    let lab = Lab::open()?;
    let _lock = lock(&lab)?;
    for tool in TOOLS.iter().chain(&checkers::TOOLS) {
        tool.ensure(&lab)?;
    }
    Ok(())
}

/// As [`run`], but silent where nothing is missing: other chores begin with it.
pub fn ensure_done() -> Result<()> {
    let lab = Lab::open()?;
    if packages::missing(&lab).is_empty() && TOOLS.iter().all(|tool| tool.is_there(&lab)) {
        return Ok(());
    }
    run(false)
}

/// Makes sure of a PostgreSQL of that major version: the machine's, or one fetched beside it (17 and 18, on Debian).
pub fn ensure_postgres(major: u16) -> Result<()> {
    let lab = Lab::open()?;
    let _lock = lock(&lab)?;
    postgres::ensure(&lab, major)
}

/// As [`ensure_postgres`], of the newest version that this machine can have; says which that is.
pub fn ensure_newest_postgres() -> Result<u16> {
    let newest = match suite::this_is_debian() {
        true => postgres::NEWEST,
        false => newest_pg().context("no PostgreSQL is installed: run `cargo xtask setup`")?,
    };
    ensure_postgres(newest)?;
    Ok(newest)
}

/// Two set-ups at once would remove each other's work.
fn lock(lab: &Lab) -> Result<File> {
    let file = File::options().create(true).write(true).truncate(false).open(lab.tools().join("lock"));
    let file = file.context("open set-up's lock")?;
    file.lock().context("lock set-up")?;
    Ok(file)
}

fn report(lab: &Lab, packages: &[packages::Need]) -> Result<()> {
    for need in packages {
        eprintln!("missing  {} (package {})", need.what, need.packages.join(" or "));
    }
    let tools: Vec<_> = TOOLS.iter().chain(&checkers::TOOLS).filter(|tool| !tool.is_there(lab)).collect();
    for tool in &tools {
        eprintln!("missing  {} {}", tool.name, tool.version);
    }
    ensure!(packages.is_empty() && tools.is_empty(), "something is missing: run `cargo xtask setup`");
    eprintln!("ok  nothing is missing; tools are in {}", lab.tools().display());
    Ok(())
}

impl Tool {
    fn dir(&self, lab: &Lab) -> PathBuf {
        lab.tools().join(self.name)
    }

    fn mark(&self, lab: &Lab) -> PathBuf {
        self.dir(lab).join(".complete")
    }

    fn is_there(&self, lab: &Lab) -> bool {
        fs::read_to_string(self.mark(lab)).is_ok_and(|version| version == self.version)
    }

    fn ensure(&self, lab: &Lab) -> Result<()> {
        if self.is_there(lab) {
            eprintln!("ok  {} {}: there", self.name, self.version);
            return Ok(());
        }
        let step = Step::new(format!("{} {}", self.name, self.version));
        remove(&self.dir(lab))?;
        open_folder(&self.dir(lab))?;
        (self.install)(lab, &self.dir(lab)).with_context(|| format!("install {} {}", self.name, self.version))?;
        run_quietly(Command::new("chmod").args(["-R", "a+rX"]).arg(self.dir(lab)))?;
        // Written last: a tool whose installation was cut short is installed anew.
        fs::write(self.mark(lab), self.version).context("mark a tool as complete")?;
        step.done(&format!("in {}", self.dir(lab).display()));
        Ok(())
    }
}

/// Runs a command to its end; its output appears only if it fails.
fn run_quietly(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    if !output.status.success() {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{command:?} failed ({}):\n{out}{err}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
