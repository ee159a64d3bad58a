//! A container engine, Compose and a base image, as far as this machine lacks them. Where all is there, nothing is done.
//!
//! On Debian as root everything can be had from apt alone: the engine is a package, Compose one of a newer suite, and the base
//! image is bootstrapped where no registry can be reached. Nowhere else is anything installed: an engine is a person's choice.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::packages::{self, Need};
use super::suite::{self, Suite};
use super::{Tool, run_quietly, sources};
use crate::lab::{Lab, machine_program};
use crate::process::{ProcessId, Signal};
use crate::progress::Step;
use crate::wait::{until, until_even_if_interrupted};

/// What [`ensure`] found or made.
#[derive(Debug)]
pub(crate) struct Docker {
    /// `docker compose`, or Compose's program by itself.
    compose: Vec<PathBuf>,
    /// The image that ours are built on; `None`: as the Dockerfile says.
    pub base: Option<&'static str>,
    engine: Option<ProcessId>,
}

impl Docker {
    /// The command `docker compose`, without arguments.
    pub fn compose(&self) -> Command {
        let mut words = self.compose.iter();
        let mut command = Command::new(words.next().map_or(Path::new("docker"), PathBuf::as_path));
        command.args(words);
        command
    }

    /// Ends the engine, if it was started for this. One that ran before is left alone.
    pub fn end(&mut self) {
        let Some(engine) = self.engine.take() else { return };
        engine.signal(Signal::TERM);
        let gone = until_even_if_interrupted("the container engine to end", Duration::from_secs(30), || {
            Ok((!engine.is_alive()).then_some(()))
        });
        if let Err(error) = gone {
            eprintln!("{error:#}");
        }
    }

    /// Leaves the engine running when this is dropped.
    pub fn keep(&mut self) {
        self.engine = None;
    }

    /// The engine's version.
    pub fn version(&self) -> Option<String> {
        let output = Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.end();
    }
}

/// Makes sure of an engine that answers, Compose 2 and the base image.
pub(crate) fn ensure(lab: &Lab) -> Result<Docker> {
    let engine = if answers() { None } else { start(lab)? };
    // From here on the engine ends with the value.
    let mut docker = Docker { compose: Vec::new(), base: None, engine };
    docker.compose = compose(lab)?;
    docker.base = base(lab)?;
    Ok(docker)
}

fn quietly(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|it| it.success())
}

fn answers() -> bool {
    quietly(Command::new("docker").arg("info"))
}

/// Whether anything may be installed: on other machines it is a person's choice how containers are run.
fn ensure_ours(what: &str) -> Result<()> {
    let ours = suite::this_is_debian() && rustix::process::geteuid().is_root();
    ensure!(ours, "{what}; it is installed by itself only on Debian and as root");
    Ok(())
}

/// Returns the engine's process if it is one of ours.
fn start(lab: &Lab) -> Result<Option<ProcessId>> {
    ensure_ours("no container engine answers `docker info`")?;
    let needs = [
        ("dockerd", Need { what: "a container engine", packages: &["docker.io"] }),
        ("iptables", Need { what: "the engine's packet filter", packages: &["iptables"] }),
    ];
    let missing: Vec<_> = needs.into_iter().filter(|(program, _)| machine_program(program).is_none()).collect();
    if !missing.is_empty() {
        packages::install(&missing.into_iter().map(|(_, need)| need).collect::<Vec<_>>())?;
    }
    // The package may have started it; then it is the machine's.
    if answers() {
        return Ok(None);
    }
    let step = Step::new("the container engine");
    let log = lab.root().join("dockerd.log");
    let file = File::create(&log).with_context(|| format!("make {}", log.display()))?;
    let child = Command::new("setsid")
        .arg(machine_program("dockerd").context("find dockerd")?)
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("share a log")?)
        .stderr(file)
        .spawn()
        .context("start dockerd")?;
    let engine = ProcessId::of(child.id() as i32).context("find the engine that was just started")?;
    let up = until("the container engine to answer", Duration::from_secs(60), || {
        ensure!(engine.is_alive(), "dockerd ended, see {}", log.display());
        Ok(answers().then_some(()))
    });
    if let Err(error) = up {
        engine.signal(Signal::TERM);
        return Err(error);
    }
    step.done("started for this; ends with it");
    Ok(Some(engine))
}

/// Compose from a newer Debian: bookworm's own is the old one, in Python. Needs nothing but libc.
const COMPOSE: Tool = Tool { name: "docker-compose", version: "trixie", install: install_compose };

fn compose(lab: &Lab) -> Result<Vec<PathBuf>> {
    if quietly(Command::new("docker").args(["compose", "version"])) {
        return Ok(vec!["docker".into(), "compose".into()]);
    }
    ensure_ours("`docker compose` (Compose 2) is missing")?;
    COMPOSE.ensure(lab)?;
    Ok(vec![COMPOSE.dir(lab).join("docker-compose")])
}

fn install_compose(_: &Lab, dir: &Path) -> Result<()> {
    let work = dir.join("work");
    fs::create_dir_all(&work).context("make a work folder")?;
    Suite::open("trixie", &work)?.download(&["docker-compose"])?;
    suite::unpack(&work, &work.join("root"))?;
    let plugin = work.join("root/usr/libexec/docker/cli-plugins/docker-compose");
    fs::copy(&plugin, dir.join("docker-compose")).context("copy Compose")?;
    crate::lab::remove(&work)
}

/// The Dockerfile's own base, and the one that takes its place where no registry can be reached.
const BASE: &str = "debian:trixie-slim";
const OWN_BASE: &str = "pgbaton-lab/base";

fn base(lab: &Lab) -> Result<Option<&'static str>> {
    let is_here = |image| quietly(Command::new("docker").args(["image", "inspect", image]));
    if is_here(BASE) {
        return Ok(None);
    }
    if is_here(OWN_BASE) {
        return Ok(Some(OWN_BASE));
    }
    if quietly(Command::new("docker").args(["pull", "--quiet", BASE])) {
        return Ok(None);
    }
    ensure_ours(&format!("image {BASE} cannot be pulled"))?;
    let step = Step::new(format!("{BASE} cannot be pulled: a base image of Debian's packages"));
    if machine_program("mmdebstrap").is_none() {
        packages::install(&[Need { what: "a bootstrapper", packages: &["mmdebstrap"] }])?;
    }
    let tar = lab.root().join("base.tar");
    let archive = sources::main_archive(&suite::codename()).context("find Debian's archive in apt's sources")?;
    let slim = ["doc", "locale", "man"].map(|folder| format!("--dpkgopt=path-exclude=/usr/share/{folder}/*"));
    run_quietly(
        Command::new("mmdebstrap")
            .args([
                "--quiet",
                "--variant=minbase",
                "--aptopt=Dir::Cache::pkgcache \"\"",
                "--aptopt=Dir::Cache::srcpkgcache \"\"",
            ])
            .args(slim)
            .args(["trixie".as_ref(), tar.as_os_str(), archive.as_ref()]),
    )?;
    run_quietly(Command::new("docker").args(["import", "--change", "CMD [\"bash\"]"]).arg(&tar).arg(OWN_BASE))?;
    fs::remove_file(&tar).context("remove the bootstrapped files")?;
    step.done(OWN_BASE);
    Ok(Some(OWN_BASE))
}
