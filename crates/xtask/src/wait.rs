//! Waiting for something outside to become true, with a bound, and not beyond an interrupt.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

/// Other processes tell us nothing when they change, so they are asked this often.
const INTERVAL: Duration = Duration::from_millis(100);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ends every start and wait under way with an error, so that what is half done is cleaned up where it was begun. For good:
/// a process that was interrupted starts nothing new.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Whether [`interrupt`] was called.
#[must_use]
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// An error once [`interrupt`] was called.
pub(crate) fn go_on() -> Result<()> {
    ensure!(!is_interrupted(), "interrupted");
    Ok(())
}

/// Asks `probe` until it answers, for at most `bound`. An error of the probe ends the wait at once, and so does an interrupt.
pub fn until<T>(what: &str, bound: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_even_if_interrupted(what, bound, || {
        go_on()?;
        probe()
    })
}

/// The same for cleaning up, which an interrupt must not keep from its end.
pub(crate) fn until_even_if_interrupted<T>(
    what: &str,
    bound: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + bound;
    loop {
        if let Some(answer) = probe()? {
            return Ok(answer);
        }
        if Instant::now() >= end {
            bail!("waited {} s for {what}, in vain", bound.as_secs());
        }
        thread::sleep(INTERVAL);
    }
}
