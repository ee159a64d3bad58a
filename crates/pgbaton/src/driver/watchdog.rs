//! A thread that aborts the process when a tenure is over and the driver has not noticed. It counts its own ticks: a
//! process that was stopped and continued, whose watchdog stood still too, is not killed for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pgbaton_core::Moment;
use tracing::error;

use crate::clock::boottime;

const TICK: Duration = Duration::from_millis(100);
/// Ticks past the end of the tenure without a turn of the driver: 2 s.
const PATIENCE: u32 = 20;

/// The driver's side.
#[derive(Clone, Default)]
pub struct Watchdog(Arc<Watched>);

#[derive(Default)]
struct Watched {
    /// When everything must be closed, in milliseconds since boot; 0: no tenure.
    closed_by: AtomicU64,
    turns: AtomicU64,
}

impl Watchdog {
    /// Starts the thread. It ends with the process.
    pub fn start(pipeline: &str) -> std::io::Result<Watchdog> {
        let watchdog = Watchdog::default();
        let watched = watchdog.0.clone();
        std::thread::Builder::new().name(format!("watchdog-{pipeline}")).spawn(move || watch(&watched))?;
        Ok(watchdog)
    }

    /// The driver has turned; its tenure has to be closed by then.
    pub fn turned(&self, closed_by: Option<Moment>) {
        let ms = closed_by.map_or(0, |moment| u64::try_from(moment.0.as_millis()).unwrap_or(u64::MAX));
        self.0.closed_by.store(ms, Ordering::Relaxed);
        self.0.turns.fetch_add(1, Ordering::Relaxed);
    }
}

fn watch(watched: &Watched) {
    let (mut seen, mut late) = (0, 0);
    loop {
        std::thread::sleep(TICK);
        let turns = watched.turns.load(Ordering::Relaxed);
        let closed_by = watched.closed_by.load(Ordering::Relaxed);
        let over = closed_by != 0 && boottime().0.as_millis() > u128::from(closed_by);
        late = if over && turns == seen { late + 1 } else { 0 };
        seen = turns;
        if late >= PATIENCE {
            error!("the driver stands still although its tenure is over: aborting");
            std::process::abort();
        }
    }
}
