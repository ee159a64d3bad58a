//! The parts of a pipeline's status, each null in the document as a whole where there is nothing to say.

use std::time::Duration;

use pgbaton_core::{Code, Lsn, Moment, Position, SystemIdentifier, Timeline};
use serde::{Serialize, Serializer};

use super::{Cause, Role};
use crate::clock::{Timestamp, boottime};

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
    /// Where delivery is at least once: this session began here, and may have told what commits behind it once more.
    pub repeats_from: Option<RepeatsFrom>,
}

/// From where on records may stand twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RepeatsFrom {
    /// The timeline of the LSN.
    pub timeline: Timeline,
    /// The end of the last commit that the checkpoint told of.
    pub lsn: Lsn,
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

/// What this worker has found in the topics while it stood by.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Audit {
    /// What was written by then is judged; null before the first round.
    pub judged_until: Option<Timestamp>,
    /// The next offset of the progress topic.
    pub progress_offset: i64,
    /// Data records that were looked at since this worker began to stand by.
    pub records: u64,
    /// Everything that was found wrong since this process started.
    pub violations: u64,
    /// The first of it.
    pub first: Option<String>,
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
