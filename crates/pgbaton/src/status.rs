//! What a worker says of itself: the JSON of `GET /status`, and the board on which the driver publishes it. Nothing is
//! decided by it here.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use pgbaton_core::{Code, Lsn, Moment, Position, SystemIdentifier, Term, Timeline, Watermark};
use serde::{Serialize, Serializer};
use tokio::sync::watch;

use crate::clock::{Timestamp, boottime};

/// A driver loop that has not turned for this long is not alive.
pub const STILL_AFTER: Duration = Duration::from_secs(10);

/// Where a pipeline stands in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineState {
    /// Starting.
    Boot,
    /// Waiting with a hand out.
    Standby,
    /// Trying to take the holder key.
    Contend,
    /// Looking at the server.
    Inspect,
    /// Fencing the sink and reading progress.
    Fence,
    /// The claim is committed; opening the stream.
    Recover,
    /// Publishing.
    Stream,
    /// The sink accepts nothing; the stream is closed on purpose, the lease is kept.
    SinkStalled,
    /// Ending what is in flight.
    Drain,
    /// Waiting before it tries again.
    Cooldown,
    /// Stopped on purpose until a person decides.
    Quarantine,
}

impl PipelineState {
    /// The state as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            PipelineState::Boot => "boot",
            PipelineState::Standby => "standby",
            PipelineState::Contend => "contend",
            PipelineState::Inspect => "inspect",
            PipelineState::Fence => "fence",
            PipelineState::Recover => "recover",
            PipelineState::Stream => "stream",
            PipelineState::SinkStalled => "sink_stalled",
            PipelineState::Drain => "drain",
            PipelineState::Cooldown => "cooldown",
            PipelineState::Quarantine => "quarantine",
        }
    }
}

/// What a worker is for a pipeline, as others care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It streams: PostgreSQL itself names it as the slot's reader.
    Active,
    /// It does not.
    Standby,
    /// It has stopped on purpose.
    Quarantined,
    /// It does not know yet.
    Starting,
}

impl Role {
    /// Every role.
    pub const ALL: &[Role] = &[Role::Active, Role::Standby, Role::Quarantined, Role::Starting];

    /// The role as it stands in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Active => "active",
            Role::Standby => "standby",
            Role::Quarantined => "quarantined",
            Role::Starting => "starting",
        }
    }
}

/// Why the streaming worker changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nobody had streamed before.
    Start,
    /// The holder was gone.
    HolderGone,
    /// The holder did not stream.
    HolderIdle,
    /// The holder said nothing.
    HolderSilent,
    /// The holder's lease ended.
    LeaseExpired,
    /// It was handed over.
    Handover,
}

impl Cause {
    /// The cause as it stands in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Start => "start",
            Cause::HolderGone => "holder_gone",
            Cause::HolderIdle => "holder_idle",
            Cause::HolderSilent => "holder_silent",
            Cause::LeaseExpired => "lease_expired",
            Cause::Handover => "handover",
        }
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// What.
    pub code: Code,
    /// Since when.
    pub since: Timestamp,
    /// What exactly, for a person; no secret, no row value.
    pub detail: String,
}

/// The store in which workers agree on who tries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Coordination {
    /// `etcd`.
    pub backend: &'static str,
    /// Whether it answers.
    pub reachable: bool,
    /// Since when we go on without it.
    pub degraded_since: Option<Timestamp>,
}

/// The lease of the holder, if that is us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// The mod revision of the holder key.
    pub revision: i64,
    /// The TTL granted.
    pub ttl_ms: u64,
    /// When it ends by our own clock; shown as what remains when the question is answered.
    #[serde(rename = "remaining_ms", serialize_with = "remaining_ms")]
    pub ends_at: Moment,
}

fn remaining_ms<S: Serializer>(ends_at: &Moment, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(remaining(*ends_at).as_millis() as u64)
}

/// How long it is until `moment`; zero if it has passed.
pub(crate) fn remaining(moment: Moment) -> Duration {
    moment.0.saturating_sub(boottime().0)
}

/// The slot, as last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Whether somebody reads it.
    pub active: bool,
    /// Who.
    pub active_pid: Option<i32>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Oldest WAL it needs.
    pub restart_lsn: Option<Lsn>,
    /// What is confirmed.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// WAL kept for it.
    pub retained_bytes: Option<u64>,
    /// WAL that may still be written before it can be lost; null where there is no limit.
    pub safe_wal_bytes: Option<i64>,
    /// A native failover slot.
    pub failover: bool,
}

/// The PostgreSQL server, as last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Server {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// Its current timeline.
    pub timeline: Timeline,
    /// `server_version_num`.
    pub version: u32,
    /// Whether it is a standby.
    pub in_recovery: bool,
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Published {
    /// The timeline that owns the LSN.
    pub timeline: Timeline,
    /// The end of the last published commit.
    pub lsn: Lsn,
    /// Changes of the transaction after it that are published already.
    pub events_done: u64,
}

impl From<Position> for Published {
    fn from(position: Position) -> Self {
        Published { timeline: position.timeline, lsn: position.lsn, events_done: 0 }
    }
}

/// How far behind the server we are; null where it cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Lag {
    /// In WAL.
    pub bytes: Option<u64>,
    /// In time.
    pub seconds: Option<f64>,
}

/// The sink.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sink {
    /// `kafka`.
    pub kind: &'static str,
    /// What a consumer may rely on.
    pub delivery: &'static str,
    /// Records handed over and not durable.
    pub in_flight: u64,
    /// How long the last commit took.
    pub last_commit_ms: Option<f64>,
}

/// What was done since this process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counters {
    /// PostgreSQL transactions published.
    pub transactions: u64,
    /// Changes published.
    pub changes: u64,
    /// Bytes of the records published.
    pub bytes: u64,
}

/// The last change of the streaming worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Switch {
    /// When the new one streamed.
    pub at: Timestamp,
    /// Who streamed before, if anybody.
    pub from: Option<String>,
    /// Who streams now.
    pub to: String,
    /// Why.
    pub cause: Cause,
    /// From the first sign to the stream.
    pub took_ms: u64,
}

/// Changes that are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// What happened.
    pub code: Code,
    /// The timeline of the range.
    pub timeline: Timeline,
    /// From here.
    pub from_lsn: Lsn,
    /// Up to here, if that is known.
    pub to_lsn: Option<Lsn>,
    /// When it was found.
    pub since: Timestamp,
    /// The whole story for a person.
    pub text: String,
}

/// Published changes that the surviving server never had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Divergence {
    /// When it was marked.
    pub at: Timestamp,
    /// Where they were made.
    pub old_timeline: Timeline,
    /// Where the stream goes on.
    pub new_timeline: Timeline,
    /// The fork.
    pub from_lsn: Lsn,
    /// The last of them.
    pub to_lsn: Lsn,
}

/// Another worker of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Its name.
    pub worker: String,
    /// Where it answers.
    pub url: String,
    /// Its role, as last heard.
    pub role: Role,
    /// Whether it was heard of lately.
    pub reachable: bool,
}

/// All that is said of one pipeline. Every key is always there, null where there is nothing to say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PipelineStatus {
    /// Where it stands in the protocol.
    pub state: PipelineState,
    /// What this worker is for it.
    pub role: Role,
    /// Whether this worker can do its role's job now.
    pub healthy: bool,
    /// What is not as it should be.
    pub reasons: Vec<Reason>,
    /// The term of our session, or the last one known.
    pub term: Option<Term>,
    /// Who holds the key.
    pub holder: Option<String>,
    /// The lease, if we hold it.
    pub lease: Option<Lease>,
    /// The slot, as last seen.
    pub slot: Option<Slot>,
    /// The server, as last seen.
    pub server: Option<Server>,
    /// What was published.
    pub position: Option<Published>,
    /// What may be acknowledged.
    pub watermark: Option<Watermark>,
    /// The end of what was received.
    pub received_lsn: Option<Lsn>,
    /// How far behind.
    pub lag: Lag,
    /// The sink.
    pub sink: Sink,
    /// What was done.
    pub counters: Counters,
    /// The last change of the streaming worker.
    pub last_switch: Option<Switch>,
    /// Changes that are gone.
    pub gap: Option<Gap>,
    /// Marked divergences.
    pub divergences: Vec<Divergence>,
    /// The other workers.
    pub peers: Vec<Peer>,

    /// Until when `Active` may be believed without looking again: no longer than the tenure. A process that was
    /// stopped and continued is not active until its driver has looked.
    #[serde(skip)]
    pub active_until: Option<Moment>,
    /// Whether it could take over now: PostgreSQL, sink and coordination reachable, the slot sound.
    #[serde(skip)]
    pub able_to_take_over: bool,
}

impl PipelineStatus {
    /// A pipeline whose driver has not said anything yet.
    pub fn starting() -> Self {
        PipelineStatus {
            state: PipelineState::Boot,
            role: Role::Starting,
            healthy: false,
            reasons: Vec::new(),
            term: None,
            holder: None,
            lease: None,
            slot: None,
            server: None,
            position: None,
            watermark: None,
            received_lsn: None,
            lag: Lag::default(),
            sink: Sink { kind: "kafka", delivery: "exactly-once", in_flight: 0, last_commit_ms: None },
            counters: Counters::default(),
            last_switch: None,
            gap: None,
            divergences: Vec::new(),
            peers: Vec::new(),
            active_until: None,
            able_to_take_over: false,
        }
    }

    /// The same as it is true at `now`: without the role of `Active` once its time is up.
    fn at(mut self, now: Moment) -> Self {
        if self.role == Role::Active && !self.active_until.is_some_and(|until| now < until) {
            self.role = Role::Standby;
            self.healthy = false;
            self.able_to_take_over = false;
        }
        self
    }

    /// Whether it stands by able to take over.
    pub fn stands_by(&self) -> bool {
        self.role == Role::Standby && self.able_to_take_over
    }
}

/// The document of `GET /status`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerStatus {
    /// Its name.
    pub worker: String,
    /// The version of the program.
    pub version: &'static str,
    /// When the process started.
    pub started_at: Timestamp,
    /// The store in which workers agree.
    pub coordination: Coordination,
    /// One entry per pipeline.
    pub pipelines: BTreeMap<String, PipelineStatus>,
}

/// Where every driver publishes and every question is answered from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Board(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    worker: String,
    started_at: Timestamp,
    coordination: watch::Sender<Coordination>,
    pipelines: BTreeMap<String, Pipeline>,
    /// Moves with every publication, whoever's.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Pipeline {
    status: watch::Sender<PipelineStatus>,
    /// When its driver loop turned last.
    turned: watch::Sender<Moment>,
    /// Whether the driver has published at all.
    configured: watch::Sender<bool>,
}

impl Board {
    /// A board for the pipelines of one worker, none of which has said anything.
    pub fn new<'p>(worker: &str, backend: &'static str, pipelines: impl IntoIterator<Item = &'p str>) -> Self {
        let pipeline = |name: &str| {
            let pipeline = Pipeline {
                status: watch::Sender::new(PipelineStatus::starting()),
                turned: watch::Sender::new(boottime()),
                configured: watch::Sender::new(false),
            };
            (name.to_owned(), pipeline)
        };
        Board(Arc::new(Inner {
            worker: worker.to_owned(),
            started_at: Timestamp::now(),
            coordination: watch::Sender::new(Coordination { backend, reachable: false, degraded_since: None }),
            pipelines: pipelines.into_iter().map(pipeline).collect(),
            changes: watch::Sender::new(0),
        }))
    }

    /// The driver's side of one pipeline; none if there is no such pipeline.
    pub fn publisher(&self, pipeline: &str) -> Option<Publisher> {
        let (name, _) = self.0.pipelines.get_key_value(pipeline)?;
        Some(Publisher { board: self.clone(), pipeline: name.clone() })
    }

    /// Says whether the store answers, and since when we go on without it.
    pub fn coordination(&self, reachable: bool, degraded_since: Option<Timestamp>) {
        let changed = self.0.coordination.send_if_modified(|coordination| {
            let now = Coordination { backend: coordination.backend, reachable, degraded_since };
            let changed = *coordination != now;
            *coordination = now;
            changed
        });
        if changed {
            self.changed();
        }
    }

    /// The worker's name.
    pub fn worker(&self) -> &str {
        &self.0.worker
    }

    /// The names of all pipelines.
    pub fn pipelines(&self) -> impl Iterator<Item = &str> {
        self.0.pipelines.keys().map(String::as_str)
    }

    /// One pipeline as it is now.
    pub fn pipeline(&self, name: &str) -> Option<PipelineStatus> {
        self.0.pipelines.get(name).map(|pipeline| pipeline.status.borrow().clone().at(boottime()))
    }

    /// Everything as it is now.
    pub fn status(&self) -> WorkerStatus {
        let pipelines = self.0.pipelines.keys().filter_map(|name| Some((name.clone(), self.pipeline(name)?)));
        WorkerStatus {
            worker: self.0.worker.clone(),
            version: env!("CARGO_PKG_VERSION"),
            started_at: self.0.started_at,
            coordination: self.0.coordination.borrow().clone(),
            pipelines: pipelines.collect(),
        }
    }

    /// Tells of every publication from now on.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// The pipelines whose driver loop stands still. A process that was stopped and continued finds all of them so;
    /// they get `patience` to turn once before they are named.
    pub async fn still(&self, patience: Duration) -> Vec<String> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut still = Vec::new();
        for (name, pipeline) in &self.0.pipelines {
            let mut turned = pipeline.turned.subscribe();
            let turns = turned.wait_for(|moment| boottime().since(*moment) <= STILL_AFTER);
            if tokio::time::timeout_at(deadline, turns).await.is_err() {
                still.push(name.clone());
            }
        }
        still
    }

    /// The pipelines whose driver has not published yet.
    pub fn unconfigured(&self) -> Vec<String> {
        let pipelines = self.0.pipelines.iter().filter(|(_, pipeline)| !*pipeline.configured.borrow());
        pipelines.map(|(name, _)| name.clone()).collect()
    }

    fn changed(&self) {
        self.0.changes.send_modify(|number| *number = number.wrapping_add(1));
    }
}

/// The driver's side of one pipeline.
#[derive(Debug, Clone)]
pub struct Publisher {
    board: Board,
    pipeline: String,
}

impl Publisher {
    /// Changes what is said of the pipeline. Also counts as a turn of the loop.
    pub fn publish(&self, change: impl FnOnce(&mut PipelineStatus)) {
        let pipeline = self.pipeline();
        pipeline.status.send_modify(change);
        pipeline.configured.send_replace(true);
        self.turned();
        self.board.changed();
    }

    /// The driver loop turns. To be called at least every few seconds; cheap enough for every turn.
    pub fn turned(&self) {
        self.pipeline().turned.send_replace(boottime());
    }

    /// What is said of the pipeline, as last published.
    pub fn status(&self) -> PipelineStatus {
        self.pipeline().status.borrow().clone()
    }

    fn pipeline(&self) -> &Pipeline {
        self.board.0.pipelines.get(&self.pipeline).expect("a publisher is only made for a pipeline of its board")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_active_worker_whose_time_is_up_is_not_active_before_its_driver_looked() {
        let board = Board::new("w", "etcd", ["orders"]);
        let publisher = board.publisher("orders").unwrap();
        let now = boottime();
        publisher.publish(|status| {
            status.role = Role::Active;
            status.healthy = true;
            status.active_until = Some(now + Duration::from_secs(60));
        });
        assert_eq!(board.pipeline("orders").unwrap().role, Role::Active);
        publisher.publish(|status| status.active_until = Some(now));
        let status = board.pipeline("orders").unwrap();
        assert_eq!((status.role, status.healthy, status.stands_by()), (Role::Standby, false, false));
        publisher.publish(|status| status.active_until = None);
        assert_eq!(board.pipeline("orders").unwrap().role, Role::Standby);
    }

    #[test]
    fn the_status_document_has_every_key_of_the_interface() {
        let board = Board::new("worker-1", "etcd", ["orders"]);
        let json = serde_json::to_value(board.status()).unwrap();
        let keys = |value: &serde_json::Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
        assert_eq!(keys(&json), ["coordination", "pipelines", "started_at", "version", "worker"]);
        assert_eq!(keys(&json["coordination"]), ["backend", "degraded_since", "reachable"]);
        let orders = &json["pipelines"]["orders"];
        let mut expected = [
            "state", "role", "healthy", "reasons", "term", "holder", "lease", "slot", "server", "position", "watermark",
            "received_lsn", "lag", "sink", "counters", "last_switch", "gap", "divergences", "peers",
        ];
        expected.sort_unstable();
        assert_eq!(keys(orders), expected);
        assert_eq!(orders["state"], "boot");
        assert_eq!(orders["role"], "starting");
        assert_eq!(keys(&orders["lag"]), ["bytes", "seconds"]);
        assert_eq!(keys(&orders["sink"]), ["delivery", "in_flight", "kind", "last_commit_ms"]);
        assert_eq!(keys(&orders["counters"]), ["bytes", "changes", "transactions"]);
    }

    #[test]
    fn every_filled_part_of_the_status_has_the_shape_of_the_interface() {
        let board = Board::new("worker-1", "etcd", ["orders"]);
        let at = Timestamp::from(std::time::UNIX_EPOCH);
        let lsn = Lsn(0x16B_3748);
        board.publisher("orders").unwrap().publish(|status| {
            status.state = PipelineState::SinkStalled;
            status.reasons = vec![Reason { code: Code::SinkStalled, since: at, detail: "no answer".to_owned() }];
            status.term = Some(Term(12));
            status.lease = Some(Lease { revision: 4711, ttl_ms: 10_000, ends_at: Moment(Duration::ZERO) });
            status.slot = Some(Slot {
                name: "orders".to_owned(),
                active: true,
                active_pid: Some(4242),
                wal_status: Some("reserved".to_owned()),
                restart_lsn: Some(Lsn(0x150_0000)),
                confirmed_flush_lsn: Some(lsn),
                retained_bytes: Some(12_345),
                safe_wal_bytes: None,
                failover: false,
            });
            status.server = Some(Server {
                system_identifier: SystemIdentifier(7_300_000_000_000_000_000),
                timeline: Timeline(3),
                version: 150_018,
                in_recovery: false,
            });
            status.position = Some(Published { timeline: Timeline(3), lsn, events_done: 0 });
            status.watermark = Some(Watermark { timeline: Timeline(3), lsn });
            status.last_switch = Some(Switch {
                at,
                from: Some("worker-2".to_owned()),
                to: "worker-1".to_owned(),
                cause: Cause::HolderGone,
                took_ms: 412,
            });
            status.gap = Some(Gap {
                code: Code::SlotAhead,
                timeline: Timeline(3),
                from_lsn: lsn,
                to_lsn: Some(lsn),
                since: at,
                text: "gone".to_owned(),
            });
            status.divergences = vec![Divergence {
                at,
                old_timeline: Timeline(1),
                new_timeline: Timeline(2),
                from_lsn: lsn,
                to_lsn: lsn,
            }];
            let peer = Peer { worker: "worker-2".to_owned(), url: "http://b".to_owned(), role: Role::Standby, reachable: true };
            status.peers = vec![peer];
        });
        let json = serde_json::to_value(board.status()).unwrap();
        let epoch = "1970-01-01T00:00:00.000Z";
        let orders = &json["pipelines"]["orders"];
        assert_eq!(orders["state"], "sink_stalled");
        assert_eq!(orders["reasons"], serde_json::json!([{"code": "sink_stalled", "since": epoch, "detail": "no answer"}]));
        assert_eq!(orders["term"], 12);
        assert_eq!(orders["lease"], serde_json::json!({"revision": 4711, "ttl_ms": 10000, "remaining_ms": 0}));
        assert_eq!(
            orders["slot"],
            serde_json::json!({"name": "orders", "active": true, "active_pid": 4242, "wal_status": "reserved",
                "restart_lsn": "0/1500000", "confirmed_flush_lsn": "0/16B3748", "retained_bytes": 12345,
                "safe_wal_bytes": null, "failover": false})
        );
        assert_eq!(
            orders["server"],
            serde_json::json!({"system_identifier": "7300000000000000000", "timeline": 3, "version": 150018,
                "in_recovery": false})
        );
        assert_eq!(orders["position"], serde_json::json!({"timeline": 3, "lsn": "0/16B3748", "events_done": 0}));
        assert_eq!(orders["watermark"], serde_json::json!({"timeline": 3, "lsn": "0/16B3748"}));
        assert_eq!(
            orders["last_switch"],
            serde_json::json!({"at": epoch, "from": "worker-2", "to": "worker-1", "cause": "holder_gone", "took_ms": 412})
        );
        assert_eq!(
            orders["gap"],
            serde_json::json!({"code": "slot_ahead", "timeline": 3, "from_lsn": "0/16B3748", "to_lsn": "0/16B3748",
                "since": epoch, "text": "gone"})
        );
        assert_eq!(
            orders["divergences"],
            serde_json::json!([{"at": epoch, "old_timeline": 1, "new_timeline": 2, "from_lsn": "0/16B3748",
                "to_lsn": "0/16B3748"}])
        );
        assert_eq!(
            orders["peers"],
            serde_json::json!([{"worker": "worker-2", "url": "http://b", "role": "standby", "reachable": true}])
        );
    }
}
