//! Tells what the holder key says: at once when it changes, and every second in any case.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{WatchOptions, WatchStream};
use pgbaton_core::Input;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::etcd::{CALL_TIMEOUT, Etcd};

/// A watch on a frozen member says nothing: what it should have said is read this often.
const PERIOD: Duration = Duration::from_secs(1);

/// Tells `HolderSeen` for every change and `CoordinationLost` while etcd does not answer, until `tell` answers false.
///
/// An event only says that it is time to read: what is told is always a linearizable read of both keys at one revision,
/// so compaction, lost events and an event that overtakes our own write cannot mislead.
pub async fn watch_holder(etcd: Arc<Etcd>, tell: impl Fn(Input) -> bool) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut events: Option<WatchStream> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            alive = changed(&mut events) => if !alive { events = None },
        }
        let told = match etcd.view().await {
            Ok(view) => {
                if events.is_none() {
                    events = open(&etcd, view.revision + 1).await;
                }
                tell(Input::HolderSeen(view))
            }
            Err(error) => {
                events = None;
                tell(Input::CoordinationLost(error.to_string()))
            }
        };
        if !told {
            return;
        }
    }
}

async fn open(etcd: &Etcd, revision: i64) -> Option<WatchStream> {
    let mut client = etcd.client().await.1.ok()?;
    // From `holder` to before `workers/`: `paused`, `successor` and `verdict` lie between, and nothing that moves all the
    // time does.
    let options = WatchOptions::new().with_start_revision(revision).with_range(etcd.key("workers/"));
    timeout(CALL_TIMEOUT, client.watch(etcd.key("holder"), Some(options))).await.ok()?.ok()
}

/// Waits for an event; false when the watch has ended. Without a watch it waits for ever: the timer goes on.
async fn changed(events: &mut Option<WatchStream>) -> bool {
    let Some(stream) = events else { return std::future::pending().await };
    loop {
        match stream.message().await {
            Ok(Some(message)) if message.canceled() => return false,
            Ok(Some(message)) if message.events().is_empty() => {}
            Ok(Some(_)) => return true,
            Ok(None) | Err(_) => return false,
        }
    }
}
