//! `cargo xtask test`: all that is checked, here and in CI. Prints one line for each check and test as it goes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::build::{self, XTASK_WORKER_BIN, cargo};
use crate::lab::Lab;
use crate::setup;
use crate::wait::go_on;

/// Runs everything, or with a filter only the tests whose name contains it. False when something failed.
pub fn run(filter: Option<&str>) -> Result<bool> {
    setup::run(false)?;
    let lab = Lab::open()?;
    let mut tally = Tally::default();
    if filter.is_none() {
        tally.check("format", cargo(&lab).args(["fmt", "--all", "--check"]))?;
        tally.check("lints", cargo(&lab).args(["clippy", "--quiet", "--workspace", "--all-targets"]))?;
        deny(&lab, &mut tally)?;
    }
    let worker = build::worker(&lab)?;
    for Group { what, arguments, newest } in GROUPS {
        go_on()?;
        eprintln!("--- {what}");
        let mut command = cargo(&lab);
        command.args(["test", "--no-fail-fast"]).args(*arguments).args(filter).env(XTASK_WORKER_BIN, &worker);
        if *newest {
            command.env(XTASK_POSTGRES_BIN, lab.postgres_bin(Some(setup::ensure_newest_postgres()?))?);
        }
        tally.tests(what, &mut command)?;
    }
    if let Some(filter) = filter.filter(|_| tally.passed == 0 && tally.failed.is_empty()) {
        tally.failed.push(format!("no test has {filter:?} in its name"));
    }
    tally.close(&lab);
    Ok(tally.failed.is_empty())
}

/// In this order, so that what is quick to fail fails first. Tests of whole clusters share one and take their turns by
/// themselves.
const GROUPS: &[Group] = &[
    Group {
        what: "unit tests, and tests on single servers",
        arguments: &["--workspace", "--exclude", "pgbaton-tests"],
        newest: false,
    },
    Group {
        what: "PostgreSQL's protocol and catalogue on its newest version",
        arguments: &["--workspace", "--exclude", "pgbaton-tests", "--test", "real"],
        newest: true,
    },
    Group { what: "the whole: real clusters", arguments: &["--package", "pgbaton-tests"], newest: false },
];

struct Group {
    what: &'static str,
    arguments: &'static [&'static str],
    /// On the newest PostgreSQL that this machine can have, not on one that is installed.
    newest: bool,
}

/// Where the tests of pgbaton-postgres find `initdb`, if not where Debian puts it.
const XTASK_POSTGRES_BIN: &str = "XTASK_POSTGRES_BIN";

fn deny(lab: &Lab, tally: &mut Tally) -> Result<()> {
    let installed = cargo(lab).args(["deny", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if installed.is_ok_and(|status| status.success()) {
        return tally.check("licences and advisories", cargo(lab).args(["deny", "--log-level", "error", "check"]));
    }
    println!("check licences and advisories ... skipped, cargo-deny is not installed (cargo install cargo-deny)");
    Ok(())
}

/// What passed and what failed, tests and checks alike.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
}

impl Tally {
    /// A command that has nothing to say unless it fails.
    fn check(&mut self, what: &str, command: &mut Command) -> Result<()> {
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
        if output.status.success() {
            println!("check {what} ... ok");
            self.passed += 1;
        } else {
            println!("check {what} ... FAILED");
            print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            self.failed.push(format!("{what}: {command:?}"));
        }
        Ok(())
    }

    /// Test binaries: every line is passed on as it comes, the lines of libtest are counted.
    fn tests(&mut self, what: &str, command: &mut Command) -> Result<()> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("run cargo test")?;
        let before = self.failed.len();
        for line in BufReader::new(child.stdout.take().context("read cargo test")?).lines() {
            let line = line.context("read cargo test")?;
            self.count(&line);
            if !is_noise(&line) {
                println!("{line}");
            }
        }
        let status = child.wait().context("wait for cargo test")?;
        if !status.success() && self.failed.len() == before {
            // Not built, or ended without a verdict.
            self.failed.push(format!("{what} ({status})"));
        }
        Ok(())
    }

    fn count(&mut self, line: &str) {
        let Some(test) = line.strip_prefix("test ") else { return };
        if test.ends_with("... ok") {
            self.passed += 1;
        } else if let Some(name) = test.strip_suffix(" ... FAILED") {
            self.failed.push(name.to_owned());
        }
    }

    fn close(&self, lab: &Lab) {
        if !self.failed.is_empty() {
            println!("\nfailed:");
            for name in &self.failed {
                println!("    {name}");
            }
            println!(
                "What each said is above, under its name; servers' logs are in {}/*/log.",
                lab.instances().display()
            );
            println!("One alone: cargo xtask test NAME");
        }
        println!("\n{} passed, {} failed", self.passed, self.failed.len());
    }
}

/// What libtest prints between tests and says nothing.
fn is_noise(line: &str) -> bool {
    line.is_empty() || line.starts_with("running ") || line.starts_with("test result: ok")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_verdicts_are_counted() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test b ... FAILED",
            "test c ... ignored",
            "test result: FAILED. 1 passed",
            "    test x",
        ] {
            tally.count(line);
        }
        assert_eq!((tally.passed, tally.failed), (1, vec!["b".to_owned()]));
    }
}
