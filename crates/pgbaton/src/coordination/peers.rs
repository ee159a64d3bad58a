//! What the workers of a pipeline tell each other through etcd: `workers/ID`, rewritten about once a second under a lease of
//! its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_core::{Input, Moment, PeerSeen};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::etcd::{Etcd, EtcdError, Stored};
use crate::clock::boottime;

/// The keys are read this often, and our own is written every second time.
const PERIOD: Duration = Duration::from_millis(500);
const TTL: Duration = Duration::from_secs(10);
/// A key that has not moved for this long belongs to a worker that does not answer.
const STILL: Duration = Duration::from_secs(3);

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
    /// It reaches a leader with a sound slot.
    #[serde(default)]
    pub postgres: bool,
    /// It reaches Kafka.
    #[serde(default)]
    pub kafka: bool,
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

/// Writes what `own` holds and reads what the others wrote, until `tell` answers false.
///
/// A newcomer looks at its own name's key before it writes it: one that moves, or moves on against our own writing, belongs
/// to another process of the same name.
pub async fn exchange(
    etcd: Arc<Etcd>,
    own: watch::Receiver<WorkerValue>,
    peers: watch::Sender<Peers>,
    tell: impl Fn(Input) -> bool,
) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut lease = None;
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let mut namesake = Namesake::Unknown { since: boottime() };
    let mut written = false;
    for turn in 0_u64.. {
        ticks.tick().await;
        let value = own.borrow().clone();
        let Ok(stored) = etcd.get("workers/", true).await else { continue };
        let now = boottime();
        known = stored.iter().filter_map(|item| Known::of(item, &known, now)).collect();
        let ours = known.get(&value.worker);
        // Read before it is written: what another process has written there since is seen.
        namesake = namesake.next(now, &value.nonce, ours);
        if namesake == Namesake::None && (turn % 2 == 0 || !written) {
            written = write(&etcd, &value, &mut lease).await.is_ok();
            if !written {
                lease = None;
            }
        }
        let others = || known.values().filter(|known| known.value.worker != value.worker);
        peers.send_replace(
            others().map(|known| Peer { value: known.value.clone(), reachable: known.moves(now) }).collect(),
        );
        let namesake = namesake.told(&value.worker, ours);
        // That our own writes succeed is a part of what is told.
        if (written || namesake.is_some())
            && !tell(Input::PeersSeen { peers: others().map(Known::seen).collect(), namesake })
        {
            return;
        }
    }
}

struct Known {
    value: WorkerValue,
    revision: i64,
    moved_at: Moment,
    /// It was seen at two revisions.
    moved: bool,
}

impl Known {
    fn of(item: &Stored, before: &BTreeMap<String, Known>, now: Moment) -> Option<(String, Known)> {
        let value: WorkerValue = serde_json::from_slice(&item.value).ok()?;
        let before = before.get(&value.worker).filter(|before| before.value.nonce == value.nonce);
        let moved_at = before.filter(|before| before.revision == item.revision).map_or(now, |before| before.moved_at);
        let moved = before.is_some_and(|before| before.moved || before.revision != item.revision);
        Some((value.worker.clone(), Known { value, revision: item.revision, moved_at, moved }))
    }

    fn moves(&self, now: Moment) -> bool {
        now.since(self.moved_at) < STILL
    }

    fn seen(&self) -> PeerSeen {
        let value = &self.value;
        PeerSeen {
            worker: value.worker.clone(),
            nonce: value.nonce.clone(),
            moved_at: self.moved_at,
            standby: value.role == "standby" && value.state == "standby",
            postgres: value.postgres,
            kafka: value.kafka,
        }
    }
}

/// Whether another process lives under our name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namesake {
    /// There is a key of our name that is not ours: it may be what a process before us has left.
    Unknown {
        since: Moment,
    },
    None,
    /// It writes: we do not.
    Lives,
}

impl Namesake {
    fn next(self, now: Moment, nonce: &str, key: Option<&Known>) -> Namesake {
        let Some(key) = key.filter(|key| key.value.nonce != nonce) else { return Namesake::None };
        match self {
            // Both have written: one of two that came at the same time yields, and both know which.
            Namesake::None if key.value.nonce.as_str() < nonce => Namesake::Lives,
            Namesake::None => Namesake::None,
            Namesake::Unknown { .. } if key.moved => Namesake::Lives,
            Namesake::Unknown { since } if now.since(since) < STILL => self,
            Namesake::Lives if key.moves(now) => Namesake::Lives,
            Namesake::Unknown { .. } | Namesake::Lives => Namesake::None,
        }
    }

    fn told(self, worker: &str, key: Option<&Known>) -> Option<String> {
        let key = key.filter(|_| self == Namesake::Lives)?;
        Some(format!(
            "another process at {} has the name {worker}; give every worker a name of its own, and restart this one",
            key.value.url
        ))
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(Duration::from_secs(100));

    fn key(nonce: &str, moved: bool, moved_at: Moment) -> Known {
        let value = WorkerValue {
            worker: "w".into(),
            nonce: nonce.into(),
            url: "http://w".into(),
            role: "standby".into(),
            state: "standby".into(),
            postgres: true,
            kafka: true,
        };
        Known { value, revision: 1, moved_at, moved }
    }

    #[test]
    fn a_newcomer_yields_to_a_living_process_of_its_name_and_not_to_what_a_dead_one_left() {
        let new = Namesake::Unknown { since: NOW };
        assert_eq!(new.next(NOW, "b", None), Namesake::None);
        assert_eq!(new.next(NOW, "b", Some(&key("a", false, NOW))), new, "it has to be watched first");
        assert_eq!(new.next(NOW, "b", Some(&key("a", true, NOW))), Namesake::Lives);
        assert_eq!(new.next(NOW + STILL, "b", Some(&key("a", false, NOW))), Namesake::None);
        let later = NOW + STILL;
        assert_eq!(Namesake::Lives.next(later, "b", Some(&key("a", true, NOW))), Namesake::None, "it has died");
    }

    #[test]
    fn of_two_that_came_at_the_same_time_exactly_one_yields() {
        assert_eq!(Namesake::None.next(NOW, "b", Some(&key("a", true, NOW))), Namesake::Lives);
        assert_eq!(Namesake::None.next(NOW, "a", Some(&key("b", true, NOW))), Namesake::None);
    }
}
