//! One running set of servers: its folder, its lock, and the certainty that nothing of it is left behind.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::{Lab, open_folder, remove};
use crate::process::{self, ProcessId};

/// The folder of one instance. Any number of them may run side by side.
#[derive(Clone, Debug)]
pub struct Instance {
    name: String,
    dir: PathBuf,
}

/// Keeps others from changing the instance; released when dropped, also by a crash.
pub(crate) struct InstanceLock(#[expect(dead_code, reason = "the lock lives as long as the open file")] File);

impl Instance {
    /// The instance of that name, with its folders made. Starts nothing.
    pub fn open(lab: &Lab, name: &str) -> Result<Self> {
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        ensure!(plain, "an instance's name has letters, digits, - and _ only: {name:?}");
        let dir = lab.instances().join(name);
        open_folder(&dir)?;
        let instance =
            Self { name: name.to_owned(), dir: fs::canonicalize(&dir).context("find an instance's folder")? };
        instance.make_folders(lab)?;
        Ok(instance)
    }

    /// An instance that ends with this process at the latest: whatever an earlier crashed process left is cleared first.
    pub fn temporary(lab: &Lab, name: &str) -> Result<Self> {
        clear_orphans(lab)?;
        let instance = Self::open(lab, name)?;
        let me = ProcessId::of(std::process::id() as i32).context("find our own process")?;
        // Moved into place as a whole: half a name would look like nobody's.
        let new = instance.dir.join("user.json.new");
        fs::write(&new, serde_json::to_string(&me)?).context("write an instance's user")?;
        fs::rename(new, instance.dir.join(USER)).context("name an instance's user")?;
        Ok(instance)
    }

    fn make_folders(&self, lab: &Lab) -> Result<()> {
        open_folder(&self.data())?;
        lab.owner().give(&self.data())?;
        open_folder(&self.logs())?;
        open_folder(&self.conf())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where servers keep what they store; theirs to write.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Configuration files, written by us.
    #[must_use]
    pub fn conf(&self) -> PathBuf {
        self.dir.join("conf")
    }

    /// One file for each server. They stay after the end, until the next start.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The log of one server.
    #[must_use]
    pub fn log(&self, node: &str) -> PathBuf {
        self.logs().join(format!("{node}.log"))
    }

    /// Waits for whoever changes the instance now, then keeps others out.
    pub(crate) fn lock(&self) -> Result<InstanceLock> {
        let file = self.lock_file()?;
        file.lock().context("lock the instance")?;
        Ok(InstanceLock(file))
    }

    /// Keeps others out, or fails at once when another command is at work.
    pub(crate) fn try_lock(&self) -> Result<InstanceLock> {
        let file = self.lock_file()?;
        match file.try_lock() {
            Ok(()) => Ok(InstanceLock(file)),
            Err(TryLockError::WouldBlock) => bail!("another command is at work on the lab's instance {:?}", self.name),
            Err(TryLockError::Error(error)) => Err(error).context("lock the instance"),
        }
    }

    fn lock_file(&self) -> Result<File> {
        let path = self.dir.join("lock");
        File::options().create(true).write(true).truncate(false).open(&path).context("open the instance's lock")
    }

    /// Ends every process of the instance with SIGKILL. Afterwards none is left.
    pub fn kill_processes(&self) {
        process::kill_all(|| process::of_instance(&self.dir));
    }

    /// Ends all its processes and removes all it stored; the logs only if `logs` says so.
    pub(crate) fn clear(&self, lab: &Lab, logs: bool) -> Result<()> {
        self.kill_processes();
        remove(&self.data())?;
        remove(&self.conf())?;
        if logs {
            remove(&self.logs())?;
        }
        self.make_folders(lab)
    }

    /// Ends all its processes and removes its folder.
    pub fn destroy(&self) -> Result<()> {
        self.kill_processes();
        remove(&self.dir)
    }
}

/// Names the process that a temporary instance belongs to.
const USER: &str = "user.json";

/// Destroys temporary instances whose user is gone.
fn clear_orphans(lab: &Lab) -> Result<()> {
    for entry in fs::read_dir(lab.instances()).context("list instances")?.flatten() {
        let Ok(text) = fs::read_to_string(entry.path().join(USER)) else { continue };
        let user: Option<ProcessId> = serde_json::from_str(&text).ok();
        if user.is_none_or(|user| !user.is_alive()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            Instance { name, dir: entry.path() }.destroy()?;
        }
    }
    Ok(())
}

/// Ends every process of every instance of the lab.
pub fn kill_everything(lab: &Lab) {
    process::kill_all(|| process::of_lab(&lab.instances()));
}
