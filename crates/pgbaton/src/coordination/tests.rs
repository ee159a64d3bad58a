//! The adapter on a real etcd: what it tells when the lease, the key or the history behind a watch is taken away.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, CompactionOptions, ConnectOptions, PutOptions};
use pgbaton_core::{HolderView, Input, Moment, Tenure};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use xtask::single::{self, EtcdTls};

use super::{Checkpointed, Etcd, HolderValue, etcd_options, keep_alive, watch_holder};
use crate::config::{Backend, Certificate, CoordinationConfig, EtcdUser, OnLoss};
use crate::renewal::{Renewal, Scope};
use crate::secret::Secret;
use crate::status::Board;
use pki::Authority;

#[path = "../../tests/pki/mod.rs"]
mod pki;

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

/// A configuration that names one server.
fn config(server: &single::Etcd) -> CoordinationConfig {
    CoordinationConfig {
        backend: Backend::Etcd,
        endpoints: vec![server.endpoint()],
        ca_file: None,
        certificate: None,
        user: None,
        prefix: "/pgbaton".to_owned(),
        lease_ttl: TTL,
        on_loss: OnLoss::Strict,
    }
}

impl World {
    async fn start() -> Self {
        Self::with(1).await
    }

    async fn with(members: usize) -> Self {
        let members = single::Etcd::start_members(members).unwrap();
        let endpoints: Vec<_> = members.iter().map(single::Etcd::endpoint).collect();
        let config = CoordinationConfig { endpoints: endpoints.clone(), ..config(&members[0]) };
        let etcd = Arc::new(Etcd::new(&config, "/pgbaton/orders".to_owned()).unwrap());
        let by_hand = Client::connect(&endpoints, None).await.unwrap();
        World { members, etcd, by_hand }
    }

    /// With a user, whose password stands in a file; and how the worker reads it again.
    async fn start_with_user(file: &Path) -> (Self, CoordinationConfig) {
        let server = single::Etcd::start().unwrap();
        let password = Secret::read(file).unwrap();
        let mut by_hand = Client::connect([server.endpoint()], None).await.unwrap();
        by_hand.user_add("root", password.expose(), None).await.unwrap();
        by_hand.user_grant_role("root", "root").await.unwrap();
        by_hand.auth_enable().await.unwrap();
        let options = ConnectOptions::new().with_user("root", password.expose()).with_auto_token_refresh(true);
        let by_hand = Client::connect([server.endpoint()], Some(options)).await.unwrap();
        let user = EtcdUser { username: "root".to_owned(), password, password_file: Some(file.to_owned()) };
        let config = CoordinationConfig { user: Some(user), ..config(&server) };
        let etcd = Arc::new(Etcd::new(&config, "/pgbaton/orders".to_owned()).unwrap());
        (World { members: vec![server], etcd, by_hand }, config)
    }

    async fn take(&self) -> Tenure {
        take(&self.etcd).await
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
        told(|tell| keep_alive(Arc::clone(&self.etcd), tenure, tell))
    }

    fn watch(&self) -> Told {
        told(|tell| watch_holder(Arc::clone(&self.etcd), tell))
    }
}

async fn take(etcd: &Etcd) -> Tenure {
    let lease = etcd.grant(TTL).await.unwrap();
    let value = HolderValue {
        worker: "worker-1".to_owned(),
        nonce: "n".to_owned(),
        url: "http://127.0.0.1:1".to_owned(),
        delivery: "exactly-once".to_owned(),
        tenures: 1,
    };
    let (revision, _) = etcd.take_holder(lease.id, &value, None).await.unwrap().expect("nobody has it");
    Tenure::new(lease.id, revision, lease.ttl, Moment::default())
}

/// Starts a task of the adapter.
fn told<F: Future<Output = ()> + Send + 'static>(task: impl FnOnce(Tell) -> F) -> Told {
    let (tell, inputs) = unbounded_channel();
    let task = tokio::spawn(task(Box::new(move |input| tell.send(input).is_ok())));
    Told { inputs, task }
}

type Tell = Box<dyn Fn(Input) -> bool + Send + Sync>;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_lives_on_while_the_password_changes_and_new_requests_use_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "first").unwrap();
    let (mut world, config) = World::start_with_user(&file).await;
    let mut renewal = Renewal::new().unwrap();
    let of = config.clone();
    let options = renewal.keep("coordination", Scope(None), [file.clone()], move || etcd_options(&of)).unwrap();
    world.etcd = Arc::new(Etcd::renewed(&config, options.clone(), "/pgbaton/orders".to_owned()));
    let looking = tokio::spawn(renewal.run(Board::new("worker-1", "etcd", ["orders"])));
    let tenure = world.take().await;
    let mut kept = world.keep_alive(tenure);
    kept.until(is_alive).await;

    // The file first: what etcd does not take yet is not used yet.
    let before = options.get();
    std::fs::write(&file, "second").unwrap();
    while Arc::ptr_eq(&before, &options.get()) {
        assert!(world.etcd.view().await.is_ok());
    }
    for _ in 0..2 {
        assert!(world.etcd.view().await.is_ok(), "the old password is still in use");
        kept.until(is_alive).await;
    }
    // etcd forgets the tokens of a user whose password changes.
    world.by_hand.user_change_password("root", "second").await.unwrap();
    let taken = async {
        while world.etcd.view().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(BOUND, taken).await.expect("the new password is used");
    let renewed = |input: &Input| is_alive(input) || is_lost(input);
    for _ in 0..3 {
        assert!(is_alive(&kept.until(renewed).await), "the lease went on");
    }

    // And the other way round.
    let options = ConnectOptions::new().with_user("root", "second");
    let mut by_hand = Client::connect([world.members[0].endpoint()], Some(options)).await.unwrap();
    by_hand.user_change_password("root", "third").await.unwrap();
    assert!(world.etcd.view().await.is_err());
    std::fs::write(&file, "third").unwrap();
    timeout(BOUND, async {
        while world.etcd.view().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the new password is used");
    for _ in 0..3 {
        assert!(is_alive(&kept.until(renewed).await), "the lease went on");
    }
    looking.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_lives_on_while_the_certificates_of_both_sides_change() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| Authority::new(folder.path(), name));
    let shown = first.issue("etcd");
    let tls = EtcdTls { certificate: shown.chain, key: shown.key, client_authorities: first.pem() + &second.pem() };
    let mut server = single::Etcd::start_with_tls(&tls).unwrap();
    let [cert_file, key_file] = first.issue("worker").put(folder.path(), "own");
    let ca_file = folder.path().join("ca");
    std::fs::write(&ca_file, first.pem()).unwrap();
    let config = CoordinationConfig {
        ca_file: Some(ca_file.clone()),
        certificate: Some(Certificate { cert_file: cert_file.clone(), key_file: key_file.clone() }),
        ..config(&server)
    };
    let mut renewal = Renewal::new().unwrap();
    let (of, files) = (config.clone(), [ca_file.clone(), cert_file, key_file]);
    let options = renewal.keep("coordination", Scope(None), files, move || etcd_options(&of)).unwrap();
    let etcd = Arc::new(Etcd::renewed(&config, options.clone(), "/pgbaton/orders".to_owned()));
    let looking = tokio::spawn(renewal.run(Board::new("worker-1", "etcd", ["orders"])));
    let tenure = take(&etcd).await;
    let mut kept = told(|tell| keep_alive(Arc::clone(&etcd), tenure, tell));
    kept.until(is_alive).await;

    // Ours, and whom we trust beside the first.
    let before = options.get();
    second.issue("worker").put(folder.path(), "own");
    std::fs::write(&ca_file, first.pem() + &second.pem()).unwrap();
    while Arc::ptr_eq(&before, &options.get()) {
        etcd.view().await.expect("what was read before is in use");
    }
    // Theirs; and a start after which nothing that was connected before is left, nor trusted.
    let shown = second.issue("etcd");
    let tls = EtcdTls { certificate: shown.chain, key: shown.key, client_authorities: second.pem() };
    server.set_tls(&tls).unwrap();
    server.server().kill();
    server.start_again().unwrap();
    let told = kept.until(|input| is_alive(input) || is_lost(input)).await;
    assert!(is_alive(&told), "{told:?}");
    etcd.view().await.unwrap();
    looking.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_etcd_has_forgotten_is_had_anew_and_the_lease_lives_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "first").unwrap();
    let (mut world, _) = World::start_with_user(&file).await;
    let tenure = world.take().await;
    let mut kept = world.keep_alive(tenure);
    kept.until(is_alive).await;
    // Its tokens are in its memory only.
    world.members[0].server().kill();
    world.members[0].start_again().unwrap();
    assert!(matches!(kept.until(|input| is_alive(input) || is_lost(input)).await, Input::KeptAlive { .. }));
    assert!(world.etcd.view().await.is_ok());
}
