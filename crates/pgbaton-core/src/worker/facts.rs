//! What a worker is told and what it asks for: the inputs and effects of the machine, as plain data.

use std::time::Duration;

use super::Hand;
use crate::{
    ClaimRecords, Code, Gap, History, Journal, Known, Lsn, Moment, ProgressRecord, ReadFrom, ReaderName, Remains,
    Resume, Server, SlotFacts, SlotState, SystemIdentifier, Tenure, Term, Timeline, TopicIds,
};

/// The holder key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The worker's name.
    pub worker: String,
    /// Its boot nonce.
    pub nonce: String,
    /// Where it answers.
    pub url: String,
    /// Mod revision of the key.
    pub revision: i64,
    /// The lease that the key hangs on.
    pub lease_id: i64,
    /// Its sink is fenced: a wrong guess about its death costs one aborted transaction, and no change.
    pub fenced: bool,
    /// Tenures since somebody streamed, this one included.
    pub tenures: u32,
}

impl Holder {
    /// Is it the key of this tenure? By the lease, too: an etcd that was restored gives revisions out once more.
    pub fn is_of(&self, tenure: &Tenure) -> bool {
        (self.revision, self.lease_id) == (tenure.revision, tenure.lease_id)
    }
}

/// What replaces the holder key before its lease has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// Mod revision of the key that is replaced; another one is left alone.
    pub revision: i64,
    /// Its lease: revoked at once, else the loser's keepalives go on succeeding.
    pub lease_id: i64,
}

/// What a holder says of the tenure that it is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saying {
    /// It streams.
    Streaming,
    /// It does what it can to stream.
    Trying,
    /// It does not hold that tenure, or is giving it back.
    NotTrying,
}

/// What another worker's status key says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSeen {
    /// The worker's name.
    pub worker: String,
    /// Its boot nonce.
    pub nonce: String,
    /// When its key was first seen at its present revision.
    pub moved_at: Moment,
    /// It stands by.
    pub standby: bool,
    /// It reaches a writable leader with a sound slot.
    pub postgres: bool,
    /// It reaches Kafka.
    pub kafka: bool,
}

/// The `verdict` key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictSeen {
    /// The code of the gap.
    pub code: Code,
    /// Where it begins.
    pub from_lsn: Lsn,
    /// Where it ends.
    pub to_lsn: Option<Lsn>,
    /// Somebody has accepted exactly this one.
    pub accepted: bool,
}

/// The `successor` key: written in the same transaction that deletes the holder key of a planned hand-over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Successor {
    /// Who shall follow; anybody, where none is named.
    pub worker: Option<String>,
    /// The lease revision that it follows.
    pub follows: i64,
}

/// What etcd shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderView {
    /// etcd's revision at the time of the view.
    pub revision: i64,
    /// The holder key, if there is one.
    pub holder: Option<Holder>,
    /// The successor key, if there is one.
    pub successor: Option<Successor>,
    /// Somebody has paused the pipeline.
    pub paused: bool,
    /// The verdict that stopped the pipeline, if one does.
    pub verdict: Option<VerdictSeen>,
}

/// One look at the server over the ordinary connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// The server's timeline, as far as the ordinary connection can tell.
    pub timeline: Option<Timeline>,
    /// The server is a standby.
    pub in_recovery: bool,
    /// When its postmaster started, as text to compare.
    pub postmaster_started: String,
    /// Where its WAL ends.
    pub write_position: Lsn,
    /// The slot's row.
    pub slot: Option<SlotFacts>,
    /// `application_name` of the slot's reader.
    pub reader_name: Option<String>,
    /// The slot's reader waits for WAL or for its client: it has answered all that it was asked.
    pub reader_waits: bool,
    /// The publication's OID.
    pub publication_oid: Option<u32>,
    /// Which tables and schemas it names, as text to compare.
    pub members: String,
}

/// What Inspect found, asked on the replication connection itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Cluster, history, write position, publication.
    pub server: Server,
    /// The server is a standby.
    pub in_recovery: bool,
    /// Whether the slot can serve us.
    pub slot: SlotState,
    /// The slot's reader.
    pub reader_pid: Option<i32>,
    /// Its `application_name`.
    pub reader_name: Option<String>,
    /// When the postmaster started, as text to compare.
    pub postmaster_started: String,
    /// Our own backend on this connection.
    pub backend_pid: i32,
    /// Hash of the publication's tables.
    pub tables_hash: String,
    /// Which tables and schemas the publication names, as text to compare.
    pub members: String,
    /// Topics of the publication's tables, in order of their names.
    pub topics: Vec<String>,
}

/// What Fence read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceRead {
    /// The random id that the session was given.
    pub session: String,
    /// The last committed position record, with the hash of its value.
    pub position: Option<(ProgressRecord, String)>,
    /// Where it was read.
    pub from: ReadFrom,
    /// The last committed `open`.
    pub last_open: Option<ProgressRecord>,
    /// Something may have been published before: the progress topic's beginning is gone, a checkpoint is in etcd, or a
    /// table topic ends in a record of ours. Says which.
    pub witness: Option<String>,
    /// What a torn transaction has left, if it was asked for.
    pub remains: Option<Remains>,
    /// Kafka's cluster id.
    pub kafka_cluster: Option<String>,
    /// The topics of the tables that are published.
    pub topic_ids: TopicIds,
}

/// Why something of PostgreSQL's failed, as far as a decision depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason to show.
    pub code: Code,
    /// The text to show.
    pub detail: String,
    /// What it means to us.
    pub kind: FailureKind,
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Try again.
    Passing,
    /// The server is going down on purpose.
    ShuttingDown,
    /// Another walsender has the slot (55006).
    SlotInUse,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEnd {
    /// The stream ended or was lost.
    Stream(Failure),
    /// The sink refused or lost the session; a new one will read what came of it.
    Sink {
        /// The reason to show.
        code: Code,
        /// The text to show.
        detail: String,
    },
    /// The producer may not go on (its last outcome is unknown, or it met an error that forbids it): a new one reads what
    /// came of it.
    ProducerSpent(String),
    /// What the lease guards was refused: the holder key is not ours any more.
    NotHolder(String),
    /// A table came up whose topic neither the claim nor the open transaction has named: the next claim names it.
    TopicAdded(String),
    /// A table came up whose key Inspect has not read, and whose changes do not tell it: the next Inspect reads it.
    KeyUnknown {
        /// The table's OID.
        oid: u32,
        /// The table's name.
        table: String,
    },
    /// The sink moved nothing for too long.
    Stalled(String),
    /// An atomic transaction was open for too long: publish in chunks from now on.
    OpenTooLong,
    /// The stream contradicts what was published.
    Contradiction(Gap),
}

/// What a worker is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Nothing but time.
    Tick,
    /// etcd shows this.
    HolderSeen(HolderView),
    /// The holder of the tenure `revision` was heard, on this worker's own connection to it.
    HolderHeard {
        /// The tenure that was asked about.
        revision: i64,
        /// What it says of it.
        saying: Saying,
    },
    /// That connection has ended, and the holder did not answer a new one within 250 ms.
    HolderUnheard {
        /// The tenure that was asked about.
        revision: i64,
    },
    /// This worker's own status key was written, and the others' read.
    PeersSeen {
        /// The other workers.
        peers: Vec<PeerSeen>,
        /// Another process writes the status key of this worker's name: says which.
        namesake: Option<String>,
    },
    /// etcd does not answer, or the watch is broken: what was seen is not to be believed any more.
    CoordinationLost(String),
    /// The holder key is ours.
    Won {
        /// The lease's id.
        lease_id: i64,
        /// Mod revision of the key.
        revision: i64,
        /// The granted TTL.
        ttl: Duration,
        /// When the lease was asked for.
        asked_at: Moment,
        /// etcd's cluster id.
        cluster_id: String,
    },
    /// Somebody else has it, or etcd did not answer.
    NotWon,
    /// A good keepalive round.
    KeptAlive {
        /// When it was asked for.
        asked_at: Moment,
        /// The TTL in the reply.
        ttl: Duration,
    },
    /// The lease is gone, or the holder key is not the one we wrote.
    LeaseLost(String),
    /// A linearizable read of the holder key. None: etcd did not answer.
    HolderRead(Option<bool>),
    /// Holder key deleted and lease revoked, or given up on.
    Released,
    /// A look at the slot.
    Observed {
        /// When it was asked for.
        asked_at: Moment,
        /// What it showed.
        observation: Observation,
        /// The watermark that this worker's stream has made durable.
        durable: Option<Lsn>,
    },
    /// A look that failed.
    NotObserved(Failure),
    /// Nothing has come from the stream since then, though it was read and its server asked to answer.
    StreamSilent {
        /// When something came last.
        since: Moment,
    },
    /// The replication connection is open.
    Inspected(Box<Inspection>),
    /// Fence is done: the producer is fenced and progress read.
    SinkFenced(Box<FenceRead>),
    /// What stands in the data topics beyond what progress knows of.
    ReadBack(Remains),
    /// The claim is committed.
    Claimed,
    /// START_REPLICATION was accepted.
    Started,
    /// START_REPLICATION was refused; the connection can be used again.
    NotStarted(Failure),
    /// The session cannot go on (in any step).
    Broken(SessionEnd),
    /// The session is closed.
    SessionEnded,
    /// The sink answers a probe, or not.
    SinkProbed(Result<(), String>),
    /// What the worker has in hand of its other pipelines has changed.
    InHand(Hand),
    /// Somebody accepts the verdict that this worker is in quarantine for, where there is no etcd to write it to.
    GapAccepted,
    /// Stop for good.
    Shutdown,
    /// Hand over, to this worker if one is named.
    Handover(Option<String>),
}

/// What a worker asks for. Each is answered by inputs, whose names follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Grant a lease and put the holder key, where there is none or in the place of one: Won, NotWon.
    Contend {
        /// The key that is replaced on evidence that its holder is gone.
        replacing: Option<Replaced>,
        /// Tenures since somebody streamed, to be written into the key.
        tenures: u32,
    },
    /// Keep this tenure alive until it is released: KeptAlive, LeaseLost.
    KeepAlive(Tenure),
    /// Read the holder key, linearizable, and compare its revision: HolderRead.
    ReadHolder(Tenure),
    /// Delete the holder key if it is still ours, leave the successor's name, revoke the lease: Released.
    Release {
        /// Ours.
        tenure: Tenure,
        /// Leave a `successor` key.
        handover: bool,
        /// The successor's name in it.
        to: Option<String>,
    },
    /// Connect and look: Inspected, Broken.
    Inspect,
    /// Ask an older session's walsender to go. No answer: looking again tells.
    FreeSlot {
        /// Its pid.
        pid: i32,
        /// Ours: only smaller revisions, or our own leftovers, are terminated.
        revision: i64,
    },
    /// New producer, `open`, read progress: SinkFenced, Broken.
    Fence,
    /// Read back every data topic of the pipeline from its end to the first record that progress knows of: ReadBack, Broken.
    ReadBack(Known),
    /// Write and commit: Claimed, Broken.
    Claim(Box<ClaimPlan>),
    /// Name the walsender, set its time-outs and start: Started, NotStarted, Broken.
    Start {
        /// The walsender's name.
        name: ReaderName,
        /// Where to start.
        at: Lsn,
    },
    /// Look at the slot at once: Observed, NotObserved.
    Observe,
    /// Open the gate: data is accepted from now on.
    Accept,
    /// Close the session; finish what can be finished if `commit`, by this moment at the latest: SessionEnded.
    EndSession {
        /// The right to commit still holds.
        commit: bool,
        /// When everything must be closed.
        by: Moment,
    },
    /// Ask whether the sink answers: SinkProbed.
    ProbeSink,
    /// Put the verdict key. No answer.
    WriteVerdict(Gap),
    /// Delete the verdict key. No answer.
    ClearVerdict,
    /// Put the checkpoint key, with what is durable, under the guard of the holder key: a witness that there is progress.
    /// Asked for only where the sink keeps the progress. No answer.
    WriteCheckpoint {
        /// The guard.
        revision: i64,
        /// The term.
        term: Term,
    },
}

/// A session that may be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPlan {
    /// What ends its first transaction.
    pub records: ClaimRecords,
    /// Writes its later records.
    pub journal: Journal,
    /// Where it goes on.
    pub resume: Resume,
    /// The server's history.
    pub history: History,
    /// Publish the first transaction in chunks from its first row.
    pub in_chunks: bool,
    /// Not to be published once more.
    pub remains: Option<Remains>,
    /// Backend of its replication connection.
    pub backend_pid: i32,
}

impl ClaimPlan {
    /// The topics that the claim says may be written.
    pub fn topics(&self) -> &[String] {
        self.records.progress.last().map_or(&[], |claim| &claim.topics)
    }
}
