//! What the workers of a pipeline tell each other through etcd: `workers/ID`, rewritten about once a second under a lease of
//! its own.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::etcd::{Etcd, EtcdError};

const PERIOD: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(10);
/// A key that has not moved for this many rounds belongs to a worker that does not answer.
const STILL_ROUNDS: u32 = 3;

/// The value of `workers/ID`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerValue {
    /// The worker's name.
    pub worker: String,
    /// Its boot nonce.
    pub nonce: String,
    /// Where it answers.
    pub url: String,
    /// `active`, `standby`, `quarantined` or `starting`.
    pub role: String,
    /// Its state.
    pub state: String,
}

/// Another worker of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What it said last.
    pub value: WorkerValue,
    /// It still says something.
    pub reachable: bool,
}

/// The other workers, as last read.
pub type Peers = Vec<Peer>;

/// Writes what `own` holds and reads what the others wrote, until its receivers are gone.
pub async fn exchange(etcd: Arc<Etcd>, own: watch::Receiver<WorkerValue>, peers: watch::Sender<Peers>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut lease = None;
    let mut seen: Vec<(String, i64, u32)> = Vec::new();
    while !peers.is_closed() {
        ticks.tick().await;
        let value = own.borrow().clone();
        if write(&etcd, &value, &mut lease).await.is_err() {
            lease = None;
        }
        let Ok(stored) = etcd.get("workers/", true).await else { continue };
        let mut now = Vec::new();
        for item in &stored {
            let still = seen
                .iter()
                .find(|(key, revision, _)| (key, *revision) == (&item.key, item.revision))
                .map_or(0, |(_, _, still)| still + 1);
            now.push((item.key.clone(), item.revision, still));
        }
        seen = now;
        let others = stored.iter().zip(&seen).filter_map(|(item, (_, _, still))| {
            let value: WorkerValue = serde_json::from_slice(&item.value).ok()?;
            Some(Peer { value, reachable: *still < STILL_ROUNDS })
        });
        peers.send_replace(others.filter(|peer| peer.value.worker != value.worker).collect());
    }
}

async fn write(etcd: &Etcd, value: &WorkerValue, lease: &mut Option<i64>) -> Result<(), EtcdError> {
    let id = match *lease {
        Some(id) => {
            // The lease is renewed by the put's own round; one that has ended is refused by the put below.
            etcd.anywhere(|mut client| async move { client.lease_keep_alive(id).await.map(drop) }).await?;
            id
        }
        None => *lease.insert(etcd.grant(TTL).await?.id),
    };
    let bytes = serde_json::to_vec(value).expect("strings always serialise");
    etcd.put(&format!("workers/{}", value.worker), bytes, Some(id)).await
}
