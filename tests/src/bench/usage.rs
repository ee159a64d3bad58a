//! What a process has used, as Linux tells it.

use std::time::Duration;

/// Linux counts processor time for user space in hundredths of a second, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;
/// The peak of memory is gone with the process, so it is read while it lives.
const LOOK: Duration = Duration::from_millis(50);

/// What a process used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Processor time of the process and its ended children, user and system.
    pub cpu_seconds: f64,
    /// Peak of resident memory.
    pub peak_rss_bytes: u64,
}

impl Usage {
    /// Reads it; `None` where the process is gone.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name of the program is in parentheses and may hold anything; the times are fields 14 to 17.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: f64 = fields.get(11..15)?.iter().filter_map(|field| field.parse::<f64>().ok()).sum();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = peak.and_then(|peak| peak.split_whitespace().next()?.parse::<u64>().ok());
        Some(Usage { cpu_seconds: ticks / TICKS_PER_SECOND, peak_rss_bytes: kibibytes.unwrap_or(0) * 1024 })
    }

    /// Looks again and again while something runs; returns what that returned and the last look.
    pub async fn while_running<T>(pid: u32, running: impl Future<Output = T>) -> (T, Usage) {
        let mut running = std::pin::pin!(running);
        let mut usage = Usage::default();
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                done = &mut running => {
                    return (done, usage.join(Usage::of(pid)));
                }
                _ = ticks.tick() => usage = usage.join(Usage::of(pid)),
            }
        }
    }

    /// Both only rise; a process that has ended but was not waited for has no memory any more.
    fn join(self, later: Option<Usage>) -> Usage {
        let later = later.unwrap_or_default();
        Usage {
            cpu_seconds: self.cpu_seconds.max(later.cpu_seconds),
            peak_rss_bytes: self.peak_rss_bytes.max(later.peak_rss_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_uses_memory() {
        assert!(Usage::of(std::process::id()).unwrap().peak_rss_bytes > 100_000);
        assert_eq!(Usage::of(u32::MAX), None);
    }
}
