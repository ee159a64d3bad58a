//! Who the servers run as: `postgres` (or `nobody`) when we are root, else ourselves.
//!
//! PostgreSQL and Patroni refuse to run as root, and nothing of the lab needs it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The account under which every server and worker of the lab runs.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The account to change to; `None` when we are not root and stay who we are.
    account: Option<Account>,
}

#[derive(Clone, Debug)]
struct Account {
    name: &'static str,
    uid: u32,
    gid: u32,
}

impl Owner {
    /// The caller, or for root the first account there is of `postgres` and `nobody`.
    pub fn of_this_machine() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self { account: None });
        }
        for name in ["postgres", "nobody"] {
            if let (Some(uid), Some(gid)) = (id("-u", name), id("-g", name)) {
                return Ok(Self { account: Some(Account { name, uid, gid }) });
            }
        }
        bail!("neither user postgres nor nobody exists: servers of the lab do not run as root")
    }

    /// A command that runs `program` as the owner. The process that is started is `program` itself, so its pid is the server's.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.command_line();
        command.arg(program.as_ref());
        command
    }

    /// The same, in a session of its own: a terminal's Ctrl-C does not reach it, and it outlives us.
    pub(crate) fn daemon(&self, program: impl AsRef<Path>) -> Command {
        let inner = self.command(program);
        let mut command = Command::new("setsid");
        command.arg(inner.get_program()).args(inner.get_args());
        command
    }

    fn command_line(&self) -> Command {
        let Some(account) = &self.account else { return Command::new("env") };
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={}", account.uid)).arg(format!("--regid={}", account.gid)).arg("--init-groups");
        command
    }

    /// Makes `path` the owner's. Nothing to do when that is the caller.
    pub fn give(&self, path: &Path) -> Result<()> {
        let Some(account) = &self.account else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid))
            .with_context(|| format!("give {} to user {}", path.display(), account.name))
    }

    /// Writes a file that the owner alone may read, whatever our umask is.
    pub fn write(&self, path: &Path, text: &str) -> Result<()> {
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        self.keep(path)
    }

    /// Makes a file the owner's alone.
    pub fn keep(&self, path: &Path) -> Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).context("close a file to others")?;
        self.give(path)
    }

    /// Whether the owner may pass through and read `path`.
    pub fn can_enter(&self, path: &Path) -> Result<bool> {
        let status = self.command("test").args(["-x"]).arg(path).status().context("run test")?;
        Ok(status.success())
    }

    /// Runs `command` (made by [`Owner::command`]) to its end; what it printed is in the error if it fails.
    pub fn run(command: &mut Command) -> Result<String> {
        let output = command.output().with_context(|| format!("run {command:?}"))?;
        ensure!(
            output.status.success(),
            "{command:?} failed ({}): {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn id(which: &str, name: &str) -> Option<u32> {
    let output = Command::new("id").args([which, name]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
