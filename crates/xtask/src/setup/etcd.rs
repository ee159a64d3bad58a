//! etcd 3.5.28 or newer. Older ones lose leases and answer reads from the past; a violation found with them would be theirs.
//!
//! From a package where apt has one that is new enough, unpacked beside the machine's own; on Debian also from a newer suite,
//! which runs unchanged (it needs nothing but libc). Elsewhere it is built by Go, from the module pinned in `deploy/etcd`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::suite::{self, Suite};
use super::{Tool, run_quietly};
use crate::lab::{Lab, machine_program, remove};

const OLDEST: &str = "3.5.28";

pub(super) const TOOL: Tool = Tool { name: "etcd", version: ">= 3.5.28", install };

fn install(lab: &Lab, dir: &Path) -> Result<()> {
    let work = dir.join("work");
    let mut failures = Vec::new();
    for (how, attempt) in [("own apt", own_apt as Attempt), ("newer Debian suite", newer_debian), ("go", go)] {
        remove(&work)?;
        fs::create_dir_all(&work).context("make a work folder")?;
        match attempt(lab, &work).and_then(|programs| take(&programs, dir)) {
            Ok(()) => return remove(&work),
            Err(error) => failures.push(format!("{how}: {error:#}")),
        }
    }
    remove(&work)?;
    bail!(
        "no etcd {OLDEST} or newer could be had:\n  {}\ninstall one by hand as {}",
        failures.join("\n  "),
        lab.etcd().display()
    )
}

/// Returns a folder with the program `etcd` (and perhaps `etcdctl`).
type Attempt = fn(&Lab, &Path) -> Result<PathBuf>;

/// Accepts what an attempt brought, if it is new enough and runs here.
fn take(programs: &Path, dir: &Path) -> Result<()> {
    let text = run_quietly(Command::new(programs.join("etcd")).arg("--version"))?;
    let version = text.split_whitespace().nth(2).context("read etcd's version")?.to_owned();
    ensure!(is_new_enough(&version), "its version is {version}, {OLDEST} is needed");
    fs::create_dir_all(dir.join("bin")).context("make etcd's folder")?;
    for name in ["etcd", "etcdctl"] {
        if programs.join(name).exists() {
            fs::copy(programs.join(name), dir.join("bin").join(name)).context("copy etcd")?;
        }
    }
    Ok(())
}

fn is_new_enough(version: &str) -> bool {
    let numbers =
        |text: &str| text.split(['.', '-', '+', '~']).map_while(|part| part.parse().ok()).collect::<Vec<u32>>();
    numbers(version) >= numbers(OLDEST)
}

/// Whether etcd will have to be built here.
pub(super) fn needs_go() -> bool {
    !suite::this_is_debian() && !is_new_enough(&own_candidate().unwrap_or_default())
}

fn own_candidate() -> Result<String> {
    let policy = run_quietly(Command::new("apt-cache").args(["policy", "etcd-server"]).env("LC_ALL", "C"))?;
    Ok(policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: ")).unwrap_or("(none)").to_owned())
}

fn own_apt(_: &Lab, work: &Path) -> Result<PathBuf> {
    let candidate = own_candidate()?;
    ensure!(is_new_enough(&candidate), "etcd-server there is {candidate}");
    run_quietly(Command::new("apt-get").args(["download", "-qq", "etcd-server", "etcd-client"]).current_dir(work))?;
    unpack(work)
}

/// The first suite whose etcd is new enough.
const NEWER_SUITE: &str = "forky";

fn newer_debian(_: &Lab, work: &Path) -> Result<PathBuf> {
    Suite::open(NEWER_SUITE, work)?.download(&["etcd-server", "etcd-client"])?;
    unpack(work)
}

fn unpack(work: &Path) -> Result<PathBuf> {
    suite::unpack(work, &work.join("root"))?;
    Ok(work.join("root/usr/bin"))
}

/// Needs a Go that is new enough or knows how to fetch one (1.21 and later do).
fn go(lab: &Lab, work: &Path) -> Result<PathBuf> {
    let go = machine_program("go").context("find go (package golang-go), needed to build etcd here")?;
    let (bin, cache) = (work.join("bin"), work.join("go"));
    let mut command = Command::new(go);
    command.args(["build", "-mod=readonly", "-trimpath", "-o"]).arg(format!("{}/", bin.display()));
    command
        .args(["go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/etcdctl/v3"])
        .current_dir(lab.repo().join("deploy/etcd"));
    // -modcacherw: so that the cache can be removed afterwards.
    command
        .env("GOPATH", &cache)
        .env("GOCACHE", work.join("build"))
        .env("GOFLAGS", "-modcacherw")
        .env("CGO_ENABLED", "0");
    run_quietly(&mut command)?;
    fs::rename(bin.join("server"), bin.join("etcd")).context("name etcd")?;
    Ok(bin)
}

#[cfg(test)]
mod tests {
    use super::is_new_enough;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(is_new_enough("3.5.28") && is_new_enough("3.5.30-2") && is_new_enough("3.6.0"));
        assert!(!is_new_enough("3.5.9") && !is_new_enough("3.4.23-4+b4") && !is_new_enough("(none)"));
    }
}
