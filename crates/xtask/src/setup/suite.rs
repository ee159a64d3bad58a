//! Packages of another Debian suite than the machine's own, downloaded and unpacked beside it.
//!
//! apt does it, with lists and sources of its own below a work folder, so the machine's settings stay as they are and the
//! packages are verified as ever. Nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{run_quietly, sources};

/// apt, looking at one suite only.
pub(super) struct Suite {
    work: PathBuf,
}

impl Suite {
    /// Reads the suite's lists, from the archive that the machine's own sources name.
    pub fn open(suite: &str, work: &Path) -> Result<Self> {
        ensure!(this_is_debian(), "this is not Debian");
        let uri = sources::main_archive(&codename());
        let uri = uri.context("find Debian's archive in apt's sources")?;
        let keys = ["gpg", "pgp"].map(|end| format!("/usr/share/keyrings/debian-archive-keyring.{end}"));
        let key = keys.iter().find(|key| Path::new(key).exists()).context("find Debian's keyring")?;
        for folder in ["none", "lists/partial", "archives/partial"] {
            fs::create_dir_all(work.join(folder)).context("make apt's folders")?;
        }
        // An empty status: as if nothing were installed, so that every library counts as needed.
        fs::write(work.join("status"), "").context("write apt's status")?;
        fs::write(work.join("list"), format!("deb [signed-by={key}] {uri} {suite} main\n"))
            .context("write apt's source")?;
        let suite = Self { work: work.to_owned() };
        suite.apt(&["update"])?;
        Ok(suite)
    }

    /// Puts the packages' files into the work folder.
    pub fn download(&self, packages: &[&str]) -> Result<()> {
        let args: Vec<_> = ["download"].iter().chain(packages).copied().collect();
        self.apt(&args)?;
        Ok(())
    }

    /// All packages that an installation of `package` on an empty machine would bring.
    pub fn needed_by(&self, package: &str) -> Result<Vec<String>> {
        let plan = self.apt(&["--simulate", "install", package])?;
        Ok(plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next().map(str::to_owned)).collect())
    }

    fn apt(&self, args: &[&str]) -> Result<String> {
        let at = |name: &str| self.work.join(name).display().to_string();
        let options = [
            ("Dir::Etc::SourceList", at("list")),
            ("Dir::Etc::SourceParts", at("none")),
            ("Dir::Etc::PreferencesParts", at("none")),
            ("Dir::State::Lists", at("lists")),
            ("Dir::State::Status", at("status")),
            ("Dir::Cache", at("")),
            ("APT::Sandbox::User", "root".to_owned()),
            ("APT::Install-Recommends", "0".to_owned()),
            // The lists of a suite in the making expire within a week, on a mirror that lags too soon. Signatures count all the same.
            ("Acquire::Check-Valid-Until", "false".to_owned()),
        ];
        let mut command = Command::new("apt-get");
        command.arg("-qq").args(options.iter().flat_map(|(key, value)| ["-o".to_owned(), format!("{key}={value}")]));
        run_quietly(command.args(args).current_dir(&self.work))
    }
}

/// Unpacks every package in `from` below `to`.
pub(super) fn unpack(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).context("list packages")?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "deb") {
            run_quietly(Command::new("dpkg-deb").arg("-x").arg(entry.path()).arg(to))?;
        }
    }
    Ok(())
}

pub(super) fn this_is_debian() -> bool {
    os_release("ID").is_some_and(|id| id == "debian")
}

/// This machine's suite.
pub(super) fn codename() -> String {
    os_release("VERSION_CODENAME").unwrap_or_default()
}

fn os_release(key: &str) -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_owned())
}
