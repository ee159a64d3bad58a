//! Every decision of pgbaton as plain data and plain functions: no clock, no socket, no task.

mod acceptance;
pub mod audit;
mod barrier;
mod checkpoint;
mod code;
mod journal;
mod lease;
mod lsn;
mod position;
mod progress;
mod resume;
mod row;
mod slot;
mod stream;
mod timeline;
mod topics;
mod torn;
mod verdict;
mod worker;

pub use acceptance::{AcceptMark, accept, accepts, can_be_accepted, without_contradiction};
pub use barrier::{Barrier, Flushed};
pub use checkpoint::{Checkpoint, ReadFrom, newer};
pub use code::Code;
pub use journal::{Accepted, ClaimRecords, Journal, Marks, Reached, SessionFacts, first_open};
pub use lease::{KEEPALIVE_PERIOD, KEEPALIVE_TIMEOUT, Moment, Tenure, delivery_patience};
pub use lsn::{InvalidLsn, Lsn};
pub use position::{EventId, InvalidEventId, Position, SystemIdentifier, Watermark};
pub use progress::{
    DivergenceMark, InvalidRecord, LastTransaction, LeaseMark, PROGRESS_VERSION, PartialTransaction, Phantoms,
    ProgressRecord, PublicationMark, RecordType, Term, Torn, hash_of,
};
pub use resume::{ChangesHash, Discontinuity};
pub use row::{Column, Datum, Relation, ReplicaIdentity, Row};
pub use slot::{Reader, ReaderName, SlotFacts, SlotState};
pub use stream::{Cutting, Publish, Status, Stream, StreamBreak};
pub use timeline::{Fork, History, MalformedHistory, Timeline};
pub use topics::{Ids, TopicIds};
pub use torn::{Found, Known, Remains, Standing};
pub use verdict::{Gap, Recorded, Resume, Server, Verdict, judge, judge_first_start};
pub use worker::{
    Cause, ClaimPlan, Effect, Failure, FailureKind, FenceRead, Hand, Holder, HolderView, Identity, Input, Inspection,
    Observation, PeerSeen, Policy, Replaced, Saying, SessionEnd, State, Successor, Switch, VerdictSeen, Worker,
};
