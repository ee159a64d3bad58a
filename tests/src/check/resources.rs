//! What a worker's process uses, as the system tells it, against what its configuration bounds.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::samples::{Sample, Shows};
use super::verdict::{Invariant, Verdict};

/// 32 MiB of frames, 64 MiB in the queues of a session's producer and of the next one's, 256 MiB of keys while a torn transaction
/// is read back; and the program itself.
const MEMORY_KIB: u64 = 512 << 10;
/// The HTTP port takes an eighth of the files that may be open, 1,024 at most, and as many again while they are being closed.
const CONNECTIONS: u64 = 1024;
/// Everything else: PostgreSQL, Kafka, etcd, peers, threads' own.
const OTHER_FILES: u64 = 256;

/// What a worker's process uses at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Resident memory.
    pub memory_kib: u64,
    /// Open files, sockets included.
    pub files: u64,
    /// How many it may have open.
    pub most_files: u64,
    /// Files on a disk that it has open for writing, but for where its log goes.
    pub spools: Vec<String>,
}

/// The process of the worker that was started with this configuration.
#[must_use]
pub fn find(config: &Path) -> Option<u32> {
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid| is_worker(*pid, config))
}

/// Whether a process is the worker with this configuration.
#[must_use]
pub fn is_worker(pid: u32, config: &Path) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut arguments = line.split(|byte| *byte == 0);
    arguments.next().is_some_and(|program| program.ends_with(b"pgbaton"))
        && arguments.any(|argument| argument == config.as_os_str().as_encoded_bytes())
}

/// What the process uses now; `None` once it is gone.
#[must_use]
pub fn look(pid: u32) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let number = |text: &str, name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let (mut files, mut spools) = (0, Vec::new());
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
        files += 1;
        let number = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()).unwrap_or_default();
        let Ok(path) = fs::read_link(entry.path()) else { continue };
        let on_a_disk = path.is_absolute() && !path.starts_with("/dev") && !path.starts_with("/proc");
        if number > 2 && on_a_disk && is_written(pid, number) {
            spools.push(path.display().to_string());
        }
    }
    Some(Process {
        memory_kib: number(&status, "VmRSS:")?,
        files,
        most_files: number(&limits, "Max open files").unwrap_or(u64::MAX),
        spools,
    })
}

fn is_written(pid: u32, file: u32) -> bool {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{file}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & 3 != 0)
}

/// Every worker stays within its bounds at every look, and keeps nothing on a disk.
pub fn judge(samples: &[Sample], verdict: &mut Verdict) {
    let mut rule = Invariant::new(39, "memory and files within bounds, nothing spooled");
    for sample in samples {
        let Shows::Process(process) = &sample.shows else { continue };
        let Process { memory_kib, files, most_files, spools } = process;
        let place = || format!("{} at {}", sample.node, sample.at_ms);
        rule.look(*memory_kib <= MEMORY_KIB, || format!("{} has {memory_kib} KiB in memory", place()));
        let bound = 2 * (most_files / 8).clamp(8, CONNECTIONS) + OTHER_FILES;
        rule.look(*files <= bound, || format!("{} has {files} files open, {most_files} are allowed", place()));
        rule.look(spools.is_empty(), || format!("{} writes to {}", place(), spools.join(", ")));
    }
    verdict.invariants.push(rule);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_seen_with_its_memory_and_the_files_that_it_writes() {
        let path = std::env::temp_dir().join(format!("spool-{}", std::process::id()));
        let file = fs::File::create(&path).expect("a file can be made");
        let seen = look(std::process::id()).expect("this process is there");
        assert!(seen.memory_kib > 100 && seen.files > 3 && seen.most_files > 3, "{seen:?}");
        assert!(seen.spools.contains(&path.display().to_string()), "{seen:?}");
        drop(file);
        fs::remove_file(&path).expect("the file is there");
        assert_eq!(look(u32::MAX), None);
    }
}
