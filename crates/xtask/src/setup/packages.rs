//! The machine's packages: what is missing, judged by the thing itself and not by a package's name, and how it is installed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::{TOOLS, checkers, etcd, run_quietly};
use crate::lab::{Lab, default_pg, machine_program};
use crate::progress::Step;

/// Something missing, and the packages that bring it: the first one that the machine's sources have.
pub(super) struct Need {
    pub what: &'static str,
    pub packages: &'static [&'static str],
}

const fn need(what: &'static str, packages: &'static [&'static str]) -> Need {
    Need { what, packages }
}

/// Needed only to put another PostgreSQL beside the machine's own.
pub(super) const PATCHELF: Need = need("patchelf", &["patchelf"]);

/// All that is not here yet.
pub(super) fn missing(lab: &Lab) -> Vec<Need> {
    let program = |name| machine_program(name).is_some();
    let file = |path: &str| Path::new(path).exists();
    let tool = |name| TOOLS.iter().chain(&checkers::TOOLS).any(|tool| tool.name == name && tool.is_there(lab));
    let needs = [
        (
            default_pg().is_some(),
            need("PostgreSQL 15 or newer", &["postgresql-15", "postgresql-16", "postgresql-17", "postgresql-18"]),
        ),
        (program("haproxy"), need("haproxy", &["haproxy"])),
        (program("cc") && program("c++") && program("make"), need("a C and C++ toolchain", &["build-essential"])),
        (program("pkg-config"), need("pkg-config", &["pkg-config"])),
        (program("curl"), need("curl", &["curl"])),
        (program("jq"), need("jq", &["jq"])),
        (program("openssl"), need("openssl", &["openssl"])),
        (file("/usr/include/openssl/ssl.h"), need("OpenSSL's headers", &["libssl-dev"])),
        (file("/usr/include/zlib.h"), need("zlib's headers", &["zlib1g-dev"])),
        (program("protoc"), need("protobuf's compiler", &["protobuf-compiler"])),
        (file("/usr/include/google/protobuf/empty.proto"), need("protobuf's files", &["libprotobuf-dev"])),
        (python_has_venv(), need("Python's venv", &["python3-venv"])),
        (
            java_is_new_enough(),
            need(
                "Java 17 or newer",
                &["openjdk-17-jre-headless", "openjdk-21-jre-headless", "openjdk-25-jre-headless"],
            ),
        ),
        (tool("etcd") || program("go") || !etcd::needs_go(), need("Go, to build etcd", &["golang-go"])),
        (tool("kafka") && tool("kafka-tools") || program("mvn"), need("Maven, to fetch Kafka", &["maven"])),
    ];
    needs.into_iter().filter(|(there, _)| !there).map(|(_, need)| need).collect()
}

/// Debian's Python and no other: what PATH finds first may lie in a home that the servers' user cannot enter.
fn python_has_venv() -> bool {
    succeeds(Command::new("/usr/bin/python3").args(["-c", "import ensurepip, venv"]))
}

fn java_is_new_enough() -> bool {
    let Some(java) = machine_program("java") else { return false };
    let Ok(output) = Command::new(java).arg("-version").output() else { return false };
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let major = text.split('"').nth(1).and_then(|version| version.split(['.', '-', '+']).next()?.parse::<u32>().ok());
    major.is_some_and(|major| major >= 17)
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Installs them, if we may.
pub(super) fn install(needs: &[Need]) -> Result<()> {
    let Some(apt) = Apt::usable() else { return by_hand(needs) };
    let step = Step::new("apt-get update");
    apt.get(&["update", "-qq"])?;
    step.done("done");
    let packages = needs.iter().map(|need| choose(need)).collect::<Result<Vec<_>>>()?;
    if packages.iter().any(|package| package.starts_with("postgresql-")) {
        keep_postgres_from_starting(&apt)?;
    }
    for (need, package) in needs.iter().zip(&packages) {
        eprintln!("    {}: package {package}", need.what);
    }
    let step = Step::new("apt-get install");
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(packages);
    apt.get(&args)?;
    step.done(&format!("{} packages asked for", needs.len()));
    Ok(())
}

/// apt-get with the rights to install.
struct Apt {
    sudo: bool,
}

impl Apt {
    /// As root, or by a sudo that asks for no password.
    fn usable() -> Option<Self> {
        machine_program("apt-get")?;
        if rustix::process::geteuid().is_root() {
            return Some(Self { sudo: false });
        }
        succeeds(Command::new("sudo").args(["-n", "apt-get", "--version"])).then_some(Self { sudo: true })
    }

    fn command(&self, program: &str) -> Command {
        if !self.sudo {
            return Command::new(program);
        }
        let mut command = Command::new("sudo");
        command.args(["-n", "DEBIAN_FRONTEND=noninteractive", program]);
        command
    }

    fn get(&self, args: &[&str]) -> Result<()> {
        run_quietly(self.command("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(args).stdin(Stdio::null()))?;
        Ok(())
    }
}

/// The first of the need's packages that apt could install.
fn choose(need: &Need) -> Result<&'static str> {
    let available = |package: &&&str| {
        let policy = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output();
        policy.is_ok_and(|output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.contains("Candidate:") && !text.contains("Candidate: (none)")
        })
    };
    let chosen = need.packages.iter().find(available);
    chosen
        .copied()
        .with_context(|| format!("apt has none of {}: install {} by hand", need.packages.join(", "), need.what))
}

/// Debian creates and starts a cluster `main` with the package; the lab wants none, and a user might not either.
fn keep_postgres_from_starting(apt: &Apt) -> Result<()> {
    const FILE: &str = "/etc/postgresql-common/createcluster.conf";
    apt.get(&["install", "-y", "-qq", "--no-install-recommends", "postgresql-common"])?;
    let text = fs::read_to_string(FILE).context("read createcluster.conf")?;
    if text.lines().any(|line| line.trim_start().starts_with("create_main_cluster")) {
        return Ok(());
    }
    eprintln!("    {FILE}: create_main_cluster = false, so that no server starts by itself");
    run_quietly(apt.command("sed").args(["-i", "$a create_main_cluster = false", FILE]))?;
    let text = fs::read_to_string(FILE).context("read createcluster.conf")?;
    ensure!(text.contains("create_main_cluster = false"), "{FILE} could not be changed");
    Ok(())
}

fn by_hand(needs: &[Need]) -> Result<()> {
    eprintln!("Not root, and sudo asks for a password (or there is no apt-get). Please install by hand:");
    for need in needs {
        eprintln!("    {} (Debian: {})", need.what, need.packages.join(" or "));
    }
    eprintln!(
        "On Debian, before PostgreSQL: package postgresql-common, and `create_main_cluster = false` in /etc/postgresql-common/createcluster.conf."
    );
    bail!("packages are missing")
}
