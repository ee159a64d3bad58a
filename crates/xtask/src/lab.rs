//! Where the lab lives on this machine: one folder, with the tools that set-up fetched and the instances that run.
//!
//! ```text
//! LAB/tools/etcd patroni kafka     downloads, shared by all instances
//! LAB/instances/NAME/data conf log  one running cluster or server
//! ```

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::owner::Owner;

/// Another lab folder than the default, for people who want it elsewhere.
pub const LAB_DIR: &str = "XTASK_LAB_DIR";

/// The lab's folder and the account that its servers run as.
#[derive(Clone, Debug)]
pub struct Lab {
    root: PathBuf,
    repo: PathBuf,
    owner: Owner,
}

impl Lab {
    /// Finds the lab of this checkout and makes its folders. Installs nothing.
    pub fn open() -> Result<Self> {
        let owner = Owner::of_this_machine()?;
        let repo = repo()?;
        let root = root(&repo, &owner)?;
        let lab = Self { root, repo, owner };
        open_folder(&lab.root)?;
        let entered = lab.owner.can_enter(&lab.root)?;
        anyhow::ensure!(
            entered,
            "the servers' user cannot enter {}: name another folder by {LAB_DIR}",
            lab.root.display()
        );
        open_folder(&lab.tools())?;
        open_folder(&lab.instances())?;
        Ok(lab)
    }

    /// The lab's own folder: everything that chores make lives below it.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The checkout.
    #[must_use]
    pub fn repo(&self) -> &Path {
        &self.repo
    }

    /// Who the servers run as.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// What set-up fetched.
    #[must_use]
    pub fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }

    /// One folder for each running (or crashed) instance.
    #[must_use]
    pub fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }

    /// Folder of PostgreSQL's programs, of this major version if one is asked for, else of [`Lab::default_pg`].
    pub fn postgres_bin(&self, major: Option<u16>) -> Result<PathBuf> {
        let major = match major {
            Some(major) => major,
            None => default_pg().context("no PostgreSQL 15 or newer is installed: run `cargo xtask setup`")?,
        };
        let bin = format!("usr/lib/postgresql/{major}/bin");
        let places = [Path::new("/").join(&bin), self.postgres_beside(major).join(&bin)];
        let found = places.into_iter().find(|bin| bin.join("initdb").exists());
        found.with_context(|| format!("PostgreSQL {major} is not installed"))
    }

    /// Where set-up puts a PostgreSQL of a version that the machine does not have.
    pub(crate) fn postgres_beside(&self, major: u16) -> PathBuf {
        self.tools().join(format!("postgresql-{major}"))
    }

    /// The program `etcd`.
    #[must_use]
    pub fn etcd(&self) -> PathBuf {
        self.tools().join("etcd/bin/etcd")
    }

    /// The program `patroni`.
    #[must_use]
    pub fn patroni(&self) -> PathBuf {
        self.tools().join("patroni/bin/patroni")
    }

    /// The program `promtool`.
    #[must_use]
    pub fn promtool(&self) -> PathBuf {
        self.tools().join("promtool/promtool")
    }

    /// The program `kubernetes-validate`.
    #[must_use]
    pub fn kubernetes_validate(&self) -> PathBuf {
        self.tools().join("kubernetes-validate/bin/kubernetes-validate")
    }

    /// Folder of Kafka's command line: `kafka-acls.sh` and others.
    #[must_use]
    pub fn kafka_commands(&self) -> PathBuf {
        self.tools().join("kafka-tools/bin")
    }

    /// Folder of Kafka's jars.
    #[must_use]
    pub fn kafka_jars(&self) -> PathBuf {
        self.tools().join("kafka/libs")
    }
}

/// The major version that is used when none is named: 15 where it is installed, else the lowest newer one.
#[must_use]
pub fn default_pg() -> Option<u16> {
    installed_pg().min()
}

/// The newest major version that the machine has by itself.
pub(crate) fn newest_pg() -> Option<u16> {
    installed_pg().max()
}

fn installed_pg() -> impl Iterator<Item = u16> {
    let entries = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let majors = entries.filter_map(|entry| {
        let major: u16 = entry.file_name().to_str()?.parse().ok()?;
        entry.path().join("bin/initdb").exists().then_some(major)
    });
    majors.filter(|major| *major >= 15)
}

/// A program of the machine: Debian's own places first, because another one found by PATH may lie where the servers'
/// user cannot go.
#[must_use]
pub fn machine_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places =
        ["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from).into_iter().chain(std::env::split_paths(&path));
    places.map(|place| place.join(name)).find(|program| program.is_file())
}

/// Makes a folder (and those above it) that everybody may enter, whatever our umask is.
pub(crate) fn open_folder(path: &Path) -> Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|ancestor| !ancestor.exists()).map(Path::to_owned).collect();
    for folder in missing.iter().rev() {
        fs::create_dir(folder).with_context(|| format!("make {}", folder.display()))?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).context("open a folder")?;
    }
    Ok(())
}

fn repo() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::canonicalize(&here).with_context(|| format!("find the checkout ({} is gone)", here.display()))
}

/// Where cargo builds to.
pub(crate) fn target(repo: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo.join("target"), |dir| repo.join(dir))
}

fn root(repo: &Path, owner: &Owner) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(LAB_DIR) {
        let dir = std::path::absolute(dir).context("make the lab's path absolute")?;
        open_folder(&dir)?;
        return fs::canonicalize(dir).context("find the lab's folder");
    }
    let target = target(repo);
    open_folder(&target)?;
    let target = fs::canonicalize(target).context("find the target folder")?;
    if owner.can_enter(&target)? {
        return Ok(target.join("lab"));
    }
    // Only root's checkouts get here: whoever runs servers as himself may enter his own.
    Ok(PathBuf::from("/var/cache/pgbaton-lab"))
}

/// Removes a folder with everything in it; a folder that is not there is removed already.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
