//! The durable resume point: the records of the progress topic. Their field names and meaning are for ever.
//!
//! Every Kafka transaction is bracketed: its first record is an `open`, its last a `close` (or, in the first transaction
//! of a session, a `claim`) with the same session and number. A committed `open` without its end is a torn transaction.
//! Every record that carries a position is self-contained: whoever reads the last one knows all that is needed to go on.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{AcceptMark, EventId, History, Ids, Lsn, Position, Timeline, Watermark};

/// The fencing number: the last recorded term + 1, committed by the claim of a session. It only rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub u64);

impl std::fmt::Display for Term {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a record of the progress topic says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordType {
    /// The first position of a pipeline, taken from its slot.
    Genesis,
    /// A session took the term; ends the session's first transaction.
    Claim,
    /// A transaction begins. Carries no position.
    Open,
    /// A transaction ends: everything before it in the transaction is published up to its position.
    Close,
    /// The database forked below what was published; names the phantoms.
    Divergence,
    /// An operator accepted a gap.
    Accept,
}

impl RecordType {
    /// The record's key: opens are compacted apart from everything that carries a position.
    pub fn key(self) -> &'static str {
        match self {
            RecordType::Open => "open",
            RecordType::Genesis
            | RecordType::Claim
            | RecordType::Close
            | RecordType::Divergence
            | RecordType::Accept => "position",
        }
    }
}

/// The last transaction that was published whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastTransaction {
    /// Its 32-bit transaction id. No identity by itself: it wraps.
    pub xid: u32,
    /// Start of its commit record.
    pub final_lsn: Lsn,
    /// End of its commit record.
    pub lsn: Lsn,
    /// Its commit time as PostgreSQL tells it, RFC 3339 UTC with microseconds.
    pub committed_at: String,
}

/// A large transaction of which a part is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialTransaction {
    /// Its transaction id.
    pub xid: u32,
    /// Start of its commit record.
    pub final_lsn: Lsn,
    /// How many of its changes are published, counted as PostgreSQL sends them.
    pub changes_done: u64,
    /// Hash over the raw messages of those changes, before any filter: what a replay must reproduce.
    pub hash: String,
    /// How many chunks they were published in.
    pub chunks: u64,
}

/// A Kafka transaction of which a part became visible and the rest did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Torn {
    /// The session that wrote it.
    pub session: String,
    /// Its number within the session.
    pub number: u64,
    /// The greatest id that was found of it.
    pub greatest_id: Option<EventId>,
    /// How many of its records were found.
    pub count: u64,
}

/// The publication that a position was reached under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicationMark {
    /// `pg_publication.oid`.
    pub oid: u32,
    /// Hash of its tables.
    pub tables_hash: String,
}

/// The lease under which a session claimed its term.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseMark {
    /// etcd's cluster id, as text: it does not fit a double.
    pub cluster_id: String,
    /// Mod revision of the one write of the holder key.
    pub revision: i64,
    /// Cluster ids that were left behind.
    pub left: Vec<String>,
}

/// The phantoms that a `divergence` names: published events with ids of `old_timeline` (or of a later one up to
/// `old_timeline_last`, where more than one was left behind) and a commit LSN of `from_lsn` or more, up to `to_lsn`, which
/// the surviving history does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DivergenceMark {
    /// The timeline of the phantoms.
    pub old_timeline: Timeline,
    /// The last timeline of the phantoms: that of `to_lsn` in the history that was left.
    pub old_timeline_last: Timeline,
    /// The timeline that goes on.
    pub new_timeline: Timeline,
    /// The fork.
    pub from_lsn: Lsn,
    /// The end of what was published.
    pub to_lsn: Lsn,
}

/// What a `divergence` has named, for sessions that read back later: records of terms before `term` with a commit LSN of
/// `from_lsn` or more, up to `to_lsn`. Their ids do not tell, where two branches have one timeline number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phantoms {
    /// The term whose claim marked them.
    pub term: Term,
    /// The fork.
    pub from_lsn: Lsn,
    /// The end of what was published.
    pub to_lsn: Lsn,
}

/// A record of the progress topic, `"v": 1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressRecord {
    /// Version of the format: 1.
    pub v: u32,
    /// What the record says.
    #[serde(rename = "type")]
    pub record_type: RecordType,
    /// The term it was written under; null in a claim's `open`, where it is not known yet.
    pub term: Option<Term>,
    /// Random id of the session.
    pub session: String,
    /// Counts the Kafka transactions of the session from 0.
    pub number: u64,
    /// The worker that wrote it.
    pub worker: String,
    /// What is published; null in an `open`.
    pub position: Option<Position>,
    /// What may be acknowledged; null in an `open`.
    pub watermark: Option<Watermark>,
    /// The timelines left behind on the way to the server's timeline, each with its switch point.
    pub history: Option<Vec<(Timeline, Lsn)>>,
    /// The server's timeline at that time: the end of `history`.
    pub server_timeline: Option<Timeline>,
    /// The last transaction published whole.
    pub last: Option<LastTransaction>,
    /// The transaction published in part.
    pub partial: Option<PartialTransaction>,
    /// A torn transaction that later sessions must still know of.
    pub torn: Option<Torn>,
    /// The phantoms, in a `divergence`.
    pub divergence: Option<DivergenceMark>,
    /// Phantoms that the position has not passed yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phantoms: Vec<Phantoms>,
    /// The gap that an `accept` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<AcceptMark>,
    /// The publication in force.
    pub publication: Option<PublicationMark>,
    /// Hash of what in the configuration changes routing or the set of rows.
    pub config_hash: Option<String>,
    /// Kafka's cluster id.
    pub kafka_cluster: Option<String>,
    /// The lease; null where there is none.
    pub lease: Option<LeaseMark>,
    /// Topics that a claim says may be written, that an `open` adds, or that were lost, where an `accept` takes that.
    pub topics: Vec<String>,
    /// Kafka's ids of the topics that are written: in a claim, and again in a `close` now and then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_ids: Option<Ids>,
    /// Hash of the position-carrying record before it, hexadecimal SHA-256 of its value; null in the first one.
    pub previous_hash: Option<String>,
}

/// The version of the record format that this program writes and understands.
pub const PROGRESS_VERSION: u32 = 1;

impl ProgressRecord {
    /// The value as it is written.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record of strings and numbers always serialises")
    }

    /// Reads a value. A newer version is refused: what it means is not known.
    pub fn from_bytes(value: &[u8]) -> Result<Self, InvalidRecord> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        let Version { v } =
            serde_json::from_slice(value).map_err(|error| InvalidRecord::Malformed(error.to_string()))?;
        if v != PROGRESS_VERSION {
            return Err(InvalidRecord::Version(v));
        }
        serde_json::from_slice(value).map_err(|error| InvalidRecord::Malformed(error.to_string()))
    }

    /// The history that the record was written under.
    pub fn history(&self) -> Option<History> {
        Some(History::new(self.history.clone()?, self.server_timeline?))
    }
}

/// The hash that the next record carries as `previous_hash`.
pub fn hash_of(value: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = Sha256::digest(value);
    let digits = digits.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// A value in the progress topic that this program cannot go on from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRecord {
    /// Written by a newer version.
    #[error("the progress record has version {0}; this program understands version 1: run the newer version")]
    Version(u32),
    /// Not a progress record.
    #[error("the progress topic holds a value that is no progress record: {0}")]
    Malformed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_record_reads_and_writes_every_field() {
        let text = r#"{"v":1,"type":"close","term":12,"session":"8f3c","number":345,"worker":"worker-1","position":{"system_identifier":"7300000000000000000","timeline":3,"lsn":"0/16B3748"},"watermark":{"timeline":3,"lsn":"0/16B3748"},"history":[[1,"0/5000000"],[2,"0/9000000"]],"server_timeline":3,"last":{"xid":76,"final_lsn":"0/16B3700","lsn":"0/16B3748","committed_at":"2026-11-21T02:00:00.000001Z"},"partial":{"xid":77,"final_lsn":"0/16C0000","changes_done":5000,"hash":"ab","chunks":1},"torn":{"session":"1b70","number":9,"greatest_id":"7300000000000000000/3/0/16B3700/12.2","count":40},"divergence":{"old_timeline":2,"old_timeline_last":2,"new_timeline":3,"from_lsn":"0/9000000","to_lsn":"0/9000100"},"publication":{"oid":16400,"tables_hash":"cd"},"config_hash":"ef","kafka_cluster":"k","lease":{"cluster_id":"17","revision":4711,"left":[]},"topics":["orders.public.items"],"previous_hash":"00"}"#;
        let record = ProgressRecord::from_bytes(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(record.to_bytes()).unwrap(), text);
    }

    #[test]
    fn a_record_of_a_newer_version_is_refused_by_its_version_whatever_else_it_holds() {
        assert_eq!(ProgressRecord::from_bytes(br#"{"v":2,"new":true}"#), Err(InvalidRecord::Version(2)));
        assert!(matches!(ProgressRecord::from_bytes(b"{}"), Err(InvalidRecord::Malformed(_))));
    }
}
