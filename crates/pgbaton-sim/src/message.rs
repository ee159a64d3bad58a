//! What travels through the world: requests and replies, frames of the replication stream, timers.

use std::rc::Rc;
use std::time::Duration;

use pgbaton_core::{
    EventId, Failure, Flushed, HolderView, Inspection, Known, Lsn, Observation, ProgressRecord, ReaderName, Replaced,
    Saying, Timeline,
};

use crate::kafka::{PartitionId, Payload, Refusal};
use crate::postgres::{ConnectionId, NodeId, Txn};

/// One life of one worker process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Caller {
    pub worker: usize,
    pub boot: u32,
}

/// Whom a worker talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    Etcd,
    Postgres,
    Kafka,
}

#[derive(Debug)]
pub(crate) enum Event {
    Request {
        from: Caller,
        call: u64,
        body: Request,
    },
    Reply {
        to: Caller,
        call: u64,
        body: Reply,
    },
    /// `due` is of the worker's monotonic clock.
    Timer {
        of: Caller,
        timer: Timer,
        due: u64,
    },
    /// Something on a replication connection, in its order.
    ToClient {
        connection: ConnectionId,
        to: Caller,
        frames: Vec<Frame>,
    },
    ToServer {
        connection: ConnectionId,
        message: FromClient,
    },
    /// The holder key changed: those who watch it are told.
    HolderChanged {
        to: Caller,
    },
    /// A beat on the stream that every worker has to every other.
    Beat {
        to: Caller,
        from: Caller,
        name: String,
        tenure: Option<i64>,
        saying: Saying,
    },
    /// That stream has ended.
    Unlinked {
        to: Caller,
        from: Caller,
    },
    Etcd(crate::etcd::Tick),
    Postgres(crate::postgres::Tick),
    Kafka(crate::kafka::Tick),
    World(crate::world::Tick),
}

#[derive(Debug, Clone)]
pub(crate) enum Timer {
    Wake,
    Poll,
    Watch,
    KeepAlive(u64),
    Probe,
    Status,
    /// Says to the others how it is, and listens whether they do.
    Beat,
    /// No reply came in time.
    GiveUp(u64),
    /// Something of a session is tried again, or is over.
    Session(u64, SessionTimer),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum SessionTimer {
    Init,
    Readable,
    Produce(PartitionId),
    EndTxn,
    /// The session is closed.
    Ended,
    /// It must be.
    MustEnd,
    /// The kernel has given the connection up.
    ConnectionDead,
    /// The standbys are looked at again.
    Standbys,
}

#[derive(Debug, Clone)]
pub(crate) enum Request {
    Etcd(EtcdRequest),
    Postgres(PostgresRequest),
    Kafka(KafkaRequest),
}

impl Request {
    pub fn service(&self) -> Service {
        match self {
            Request::Etcd(_) => Service::Etcd,
            Request::Postgres(_) => Service::Postgres,
            Request::Kafka(_) => Service::Kafka,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum EtcdRequest {
    View,
    Grant {
        ttl: Duration,
    },
    /// Put the holder key, guarded.
    Take {
        lease: i64,
        holder: HolderValue,
        replacing: Option<Replaced>,
    },
    /// Put the own status key and read all.
    Status(StatusValue),
    KeepAlive {
        lease: i64,
    },
    Release {
        revision: i64,
        lease: i64,
        successor: Option<Option<String>>,
    },
    Revoke {
        lease: i64,
    },
    Checkpoint {
        revision: i64,
    },
    HasCheckpoint,
    WriteVerdict(pgbaton_core::Gap),
    ClearVerdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HolderValue {
    pub worker: usize,
    pub name: String,
    pub nonce: String,
    pub tenures: u32,
}

/// A status key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StatusValue {
    pub name: String,
    pub nonce: String,
    pub standby: bool,
    pub postgres: bool,
    pub kafka: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum PostgresRequest {
    /// A look over the ordinary connection, to a node in one of its lives; none: a new connection by the route.
    Look {
        over: Option<(NodeId, u32)>,
    },
    /// How far the standbys of the leader are, by the route.
    Standbys,
    /// A new replication connection, and Inspect's questions on it.
    Connect,
    Start {
        connection: ConnectionId,
        name: ReaderName,
        at: Lsn,
    },
    Terminate {
        pid: i32,
        revision: i64,
        nonce: String,
        own_pid: i32,
        pipeline: String,
        compare: bool,
    },
}

#[derive(Debug, Clone)]
pub(crate) enum KafkaRequest {
    Init {
        id: u32,
    },
    Produce {
        id: u32,
        instance: u64,
        epoch: u32,
        partition: PartitionId,
        sequence: u64,
        add: bool,
        records: Rc<[Payload]>,
    },
    EndTxn {
        id: u32,
        instance: u64,
        epoch: u32,
        commit: bool,
    },
    Readable,
    /// All that is committed in the progress topic below an offset.
    Read {
        below: usize,
    },
    /// What the data topic holds beyond what progress knows of.
    ReadData(Known),
    Probe,
}

#[derive(Debug)]
pub(crate) enum Reply {
    // etcd
    View(HolderView),
    Granted { lease: i64, ttl: Duration },
    Taken { revision: i64, cluster_id: String },
    NotTaken,
    KeptAlive { ttl: Duration },
    Done,
    Statuses(Vec<(StatusValue, i64)>),
    Checkpoint(bool),
    // PostgreSQL
    Looked { over: (NodeId, u32), observation: Box<Observation> },
    Standbys(Timeline, Flushed),
    Connected { connection: ConnectionId, inspection: Box<Inspection> },
    Started,
    Refused(Failure),
    // Kafka
    Initialised { epoch: u32 },
    Produced { offset: usize },
    Ended,
    Readable { last_stable: usize },
    Read(Box<ReadBack>),
    DataRead(Vec<(u32, EventId)>),
    KafkaRefused(Refusal),
}

/// What a fence finds in the progress topic.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReadBack {
    pub position: Option<(ProgressRecord, String)>,
    pub last_open: Option<ProgressRecord>,
    pub witness: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Frame {
    Begin(Rc<Txn>, Lsn),
    Change(Rc<Txn>, usize),
    Commit(Lsn),
    KeepAlive {
        wal_end: Lsn,
        asked: bool,
    },
    End,
    /// The connection is gone without a word.
    Reset,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum FromClient {
    Status { write: Lsn, flush: Lsn, asks: bool },
    Closed,
}
