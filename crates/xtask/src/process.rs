//! Processes of the lab: found, named and signalled without ever hitting a stranger's.
//!
//! A pid alone says little, the kernel hands it out again. So a process is a pid *and* its start time, and signals go through a
//! pidfd. What a server starts itself (Patroni its PostgreSQL) is found by the mark that children inherit: the environment
//! variable [`MARK`]. PostgreSQL paints its command line over its environment, so it is known by its name and working directory.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
pub use rustix::process::Signal;
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};
use serde::{Deserialize, Serialize};

use crate::wait::{until, until_even_if_interrupted};

/// The environment variable that every process of an instance carries; its value is `INSTANCE_DIR#NODE`.
pub const MARK: &str = "XTASK_NODE";

/// One process, for good: the pid together with the moment it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// The number, valid only together with `started`.
    pub pid: i32,
    /// Clock ticks from the machine's start to the process's.
    pub started: u64,
}

impl ProcessId {
    /// The living process that has this pid now.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let (state, started) = stat(pid)?;
        (state != 'Z' && state != 'X').then_some(Self { pid, started })
    }

    /// Whether it still runs (stopped counts as running; dead and not yet collected does not).
    #[must_use]
    pub fn is_alive(self) -> bool {
        if let (Some(('Z', _)), Some(pid)) = (stat(self.pid), Pid::from_raw(self.pid)) {
            // Perhaps our own child, which nobody else can collect; if it is another's, this changes nothing.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        Self::of(self.pid) == Some(self)
    }

    /// Sends `signal`; false when the process is gone already.
    pub fn signal(self, signal: Signal) -> bool {
        self.open().is_some_and(|fd| pidfd_send_signal(&fd, signal).is_ok())
    }

    /// The descriptor is taken before the start time is compared, so that a pid recycled in between is never meant.
    fn open(self) -> Option<OwnedFd> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        self.is_alive().then_some(fd)
    }
}

/// State letter and start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything; fields are counted from its end.
    let mut fields = text.get(text.rfind(')')? + 2..)?.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Living processes whose mark satisfies `wanted`, and PostgreSQL processes whose data directory does.
fn all(marked: impl Fn(&str) -> bool, works_in: impl Fn(&Path) -> bool) -> Vec<ProcessId> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| mark_of(*pid).is_some_and(|mark| marked(&mark)) || is_postgres_in(*pid, &works_in))
        .filter_map(ProcessId::of)
        .collect()
}

fn mark_of(pid: i32) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = format!("{MARK}=");
    let mark = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(prefix.as_bytes()))?;
    Some(String::from_utf8_lossy(mark).into_owned())
}

fn is_postgres_in(pid: i32, works_in: &impl Fn(&Path) -> bool) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end() == "postgres" && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| works_in(&cwd))
}

/// Every living process of the instance in `dir`.
#[must_use]
pub fn of_instance(dir: &Path) -> Vec<ProcessId> {
    let prefix = format!("{}#", dir.display());
    all(|mark| mark.starts_with(&prefix), |cwd| cwd.starts_with(dir))
}

/// Every living process of every instance below `instances`.
#[must_use]
pub fn of_lab(instances: &Path) -> Vec<ProcessId> {
    let prefix = format!("{}/", instances.display());
    all(|mark| mark.starts_with(&prefix), |cwd| cwd.starts_with(instances))
}

/// Every living process of one node: what we started, what it started, and the PostgreSQL on its data directory.
#[must_use]
pub fn of_node(dir: &Path, node: &str, data: Option<&Path>) -> Vec<ProcessId> {
    let mark = mark(dir, node);
    all(|found| found == mark, |cwd| data == Some(cwd))
}

/// The value of [`MARK`] for a node.
#[must_use]
pub fn mark(dir: &Path, node: &str) -> String {
    format!("{}#{node}", dir.display())
}

/// Sends `signal` to all that `find` finds, again and again until a look finds nobody new: a process may fork meanwhile.
pub fn signal_all(find: impl Fn() -> Vec<ProcessId>, signal: Signal) -> Vec<ProcessId> {
    let mut reached: Vec<ProcessId> = Vec::new();
    loop {
        let new: Vec<_> = find().into_iter().filter(|process| !reached.contains(process)).collect();
        if new.is_empty() {
            return reached;
        }
        for process in &new {
            process.signal(signal);
        }
        reached.extend(new);
    }
}

/// SIGKILL to all that `find` finds, until none is left.
pub fn kill_all(find: impl Fn() -> Vec<ProcessId>) {
    let mut killed = Vec::new();
    let gone = until_even_if_interrupted("killed processes to be gone", Duration::from_secs(20), || {
        killed.extend(signal_all(&find, Signal::KILL));
        // Not only out of sight, but gone: PostgreSQL refuses to start while its predecessor's pid answers.
        killed.retain(|process| process.is_alive());
        Ok((killed.is_empty() && find().is_empty()).then_some(()))
    });
    // A process that survives SIGKILL sleeps in the kernel; there is nothing more that we could do to it.
    if let Err(error) = gone {
        eprintln!("{error:#}");
    }
}

/// Waits until a process that is ending is gone entirely, so that its successor does not see it.
pub(crate) fn wait_gone(process: ProcessId) -> Result<()> {
    until("a process to be gone", Duration::from_secs(20), || Ok((!process.is_alive()).then_some(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_with_another_start_time_is_never_signalled() {
        let me = ProcessId::of(std::process::id() as i32).unwrap();
        let stranger = ProcessId { started: me.started + 1, ..me };
        assert!(me.is_alive());
        assert!(!stranger.is_alive());
        assert!(!stranger.signal(Signal::KILL));
    }

    #[test]
    fn children_of_a_marked_process_are_found_and_killed_and_nobody_else_is() {
        let dir = Path::new("/nowhere/pgbaton-process-test");
        let mut marked = std::process::Command::new("sh")
            .args(["-c", "sleep 300 & sleep 300"])
            .env(MARK, mark(dir, "node"))
            .spawn()
            .unwrap();
        until("both to run", Duration::from_secs(5), || Ok((of_node(dir, "node", None).len() >= 3).then_some(())))
            .unwrap();
        assert!(of_node(dir, "other", None).is_empty());
        kill_all(|| of_instance(dir));
        assert!(of_instance(dir).is_empty());
        let _ = marked.wait();
    }
}
