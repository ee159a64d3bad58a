//! The adapter on a real etcd: what it tells when the lease, the key or the history behind a watch is taken away.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, CompactionOptions, PutOptions};
use pgbaton_core::{HolderView, Input, Moment, Tenure};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use xtask::single;

use super::{Checkpointed, Etcd, HolderValue, keep_alive, watch_holder};
use crate::config::{Backend, CoordinationConfig, OnLoss};

const TTL: Duration = Duration::from_secs(10);
/// Nothing here depends on speed: what did not come by then does not come.
const BOUND: Duration = Duration::from_secs(60);

/// etcd, the adapter under test, and a client for what others do.
struct World {
    members: Vec<single::Etcd>,
    etcd: Arc<Etcd>,
    by_hand: Client,
}

/// What a task tells.
struct Told {
    inputs: UnboundedReceiver<Input>,
    task: JoinHandle<()>,
}

impl World {
    async fn start() -> Self {
        Self::with(1).await
    }

    async fn with(members: usize) -> Self {
        let members = single::Etcd::start_members(members).unwrap();
        let endpoints: Vec<_> = members.iter().map(single::Etcd::endpoint).collect();
        let config = CoordinationConfig {
            backend: Backend::Etcd,
            endpoints: endpoints.clone(),
            ca_file: None,
            certificate: None,
            user: None,
            prefix: "/pgbaton".to_owned(),
            lease_ttl: TTL,
            on_loss: OnLoss::Strict,
        };
        let etcd = Arc::new(Etcd::new(&config, "/pgbaton/orders".to_owned()).unwrap());
        let by_hand = Client::connect(&endpoints, None).await.unwrap();
        World { members, etcd, by_hand }
    }

    async fn take(&self) -> Tenure {
        let lease = self.etcd.grant(TTL).await.unwrap();
        let value = HolderValue {
            worker: "worker-1".to_owned(),
            nonce: "n".to_owned(),
            url: "http://127.0.0.1:1".to_owned(),
            delivery: "exactly-once".to_owned(),
            tenures: 1,
        };
        let (revision, _) = self.etcd.take_holder(lease.id, &value, None).await.unwrap().expect("nobody has it");
        Tenure::new(lease.id, revision, lease.ttl, Moment::default())
    }

    /// Which member leads.
    async fn leader(&self) -> usize {
        for (number, member) in self.members.iter().enumerate() {
            let mut client = Client::connect([member.endpoint()], None).await.unwrap();
            let status = client.status().await.unwrap();
            if status.header().is_some_and(|header| header.member_id() == status.leader()) {
                return number;
            }
        }
        panic!("healthy members have a leader")
    }

    fn keep_alive(&self, tenure: Tenure) -> Told {
        let (tell, inputs) = unbounded_channel();
        let task = tokio::spawn(keep_alive(Arc::clone(&self.etcd), tenure, move |input| tell.send(input).is_ok()));
        Told { inputs, task }
    }

    fn watch(&self) -> Told {
        let (tell, inputs) = unbounded_channel();
        let task = tokio::spawn(watch_holder(Arc::clone(&self.etcd), move |input| tell.send(input).is_ok()));
        Told { inputs, task }
    }
}

impl Told {
    /// The first input that is as asked.
    async fn until(&mut self, is_it: impl Fn(&Input) -> bool) -> Input {
        let awaited = async {
            loop {
                let input = self.inputs.recv().await.expect("the task goes on");
                if is_it(&input) {
                    return input;
                }
            }
        };
        timeout(BOUND, awaited).await.expect("it is told in time")
    }

    async fn view_until(&mut self, is_it: impl Fn(&HolderView) -> bool) {
        self.until(|input| matches!(input, Input::HolderSeen(view) if is_it(view))).await;
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn is_alive(input: &Input) -> bool {
    matches!(input, Input::KeptAlive { .. })
}

fn is_lost(input: &Input) -> bool {
    matches!(input, Input::LeaseLost(_))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_somebody_revokes_is_told_as_lost() {
    let mut world = World::start().await;
    let tenure = world.take().await;
    let mut told = world.keep_alive(tenure);
    told.until(is_alive).await;
    world.by_hand.lease_revoke(tenure.lease_id).await.unwrap();
    told.until(is_lost).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_overwritten_by_hand_ends_the_tenure_and_is_left_alone() {
    let mut world = World::start().await;
    let tenure = world.take().await;
    let (mut kept, mut watched) = (world.keep_alive(tenure), world.watch());
    kept.until(is_alive).await;
    watched.view_until(|view| view.holder.is_some()).await;

    // Under the same lease, which goes on living: only the key tells.
    let options = PutOptions::new().with_lease(tenure.lease_id);
    world.by_hand.put("/pgbaton/orders/holder", "mine now", Some(options)).await.unwrap();
    let other = |view: &HolderView| view.holder.as_ref().is_some_and(|holder| holder.revision > tenure.revision);
    watched.view_until(other).await;
    kept.until(is_lost).await;

    world.etcd.release_holder(&tenure, None).await.unwrap();
    assert!(other(&world.etcd.view().await.unwrap()), "what somebody else wrote is not deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_replaces_the_one_before_it_while_the_holder_key_is_ours_and_nothing_else() {
    let mut world = World::start().await;
    let tenure = world.take().await;
    let put = async |value: &str, tenure: &Tenure, before| {
        world.etcd.put_checkpoint(value.as_bytes().to_vec(), Some(tenure), before).await.unwrap()
    };
    let Checkpointed::Put(first) = put("1", &tenure, 0).await else { panic!("there was none") };
    let Checkpointed::Put(second) = put("2", &tenure, first).await else { panic!("it follows the first") };
    assert_eq!(put("2", &tenure, first).await, Checkpointed::Put(second), "the same one, whose answer was lost");
    assert_eq!(put("1", &tenure, 0).await, Checkpointed::Overtaken, "one that comes late");

    let restored = Tenure::new(tenure.lease_id + 1, tenure.revision, TTL, Moment::default());
    assert_eq!(put("3", &restored, second).await, Checkpointed::NotHolder);
    let by_nobody = async || world.etcd.put_checkpoint(b"3".to_vec(), None, second).await.unwrap();
    assert_eq!(by_nobody().await, Checkpointed::NotHolder, "somebody holds the key");
    world.by_hand.lease_revoke(tenure.lease_id).await.unwrap();
    assert_eq!(put("3", &tenure, second).await, Checkpointed::NotHolder);
    let stored = world.etcd.get("checkpoint", false).await.unwrap();
    assert_eq!((stored[0].value.as_slice(), stored[0].revision), (b"2".as_slice(), second));
    assert!(matches!(by_nobody().await, Checkpointed::Put(third) if third > second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_behind_a_compaction() {
    let mut world = World::start().await;
    let mut watched = world.watch();
    watched.view_until(|view| view.holder.is_none()).await;

    world.members[0].server().freeze();
    watched.until(|input| matches!(input, Input::CoordinationLost(_))).await;
    world.members[0].server().thaw();
    let tenure = world.take().await;
    let physical = CompactionOptions::new().with_physical();
    world.by_hand.compact(tenure.revision, Some(physical)).await.unwrap();
    watched.view_until(|view| view.holder.as_ref().is_some_and(|holder| holder.revision == tenure.revision)).await;
    world.etcd.release_holder(&tenure, None).await.unwrap();
    watched.view_until(|view| view.holder.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_etcd_is_told_as_lost_and_a_lease_that_outlives_it_goes_on() {
    let world = World::start().await;
    let tenure = world.take().await;
    let (mut kept, mut watched) = (world.keep_alive(tenure), world.watch());
    kept.until(is_alive).await;
    watched.view_until(|view| view.holder.is_some()).await;
    world.members[0].server().freeze();
    watched.until(|input| matches!(input, Input::CoordinationLost(_))).await;
    world.members[0].server().thaw();
    // etcd's own clock of the lease stood still, too: what is told is the truth of the key, whichever it is.
    kept.until(|input| is_alive(input) || is_lost(input)).await;
    watched.until(|input| matches!(input, Input::HolderSeen(_))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_the_leading_member_ends_no_tenure() {
    let world = World::with(3).await;
    let tenure = world.take().await;
    let (mut kept, mut watched) = (world.keep_alive(tenure), world.watch());
    kept.until(is_alive).await;
    watched.view_until(|view| view.holder.is_some()).await;

    world.members[world.leader().await].server().kill();
    // More than a lease's time has to be covered by what is renewed from now on.
    for _ in 0..6 {
        let input = kept.until(|input| is_alive(input) || is_lost(input)).await;
        assert!(is_alive(&input), "{input:?}");
    }
    world.etcd.release_holder(&tenure, None).await.unwrap();
    watched.view_until(|view| view.holder.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_renewed_and_nobody_is_told_to_be_gone() {
    let mut world = World::with(3).await;
    let tenure = world.take().await;
    let (mut kept, mut watched) = (world.keep_alive(tenure), world.watch());
    kept.until(is_alive).await;
    watched.view_until(|view| view.holder.is_some()).await;

    world.members[0].server().kill();
    world.members[1].server().kill();
    let lost = |input: &Input| matches!(input, Input::CoordinationLost(_));
    watched.until(lost).await;
    assert!(world.etcd.grant(TTL).await.is_err(), "nobody can have a lease");
    while let Ok(told) = kept.inputs.try_recv() {
        assert!(!is_lost(&told), "silence is no loss of the lease: {told:?}");
    }

    world.members[0].start_again().unwrap();
    watched.until(|input| matches!(input, Input::HolderSeen(_))).await;
    kept.until(|input| is_alive(input) || is_lost(input)).await;
}
