//! The `source` block of an event, and all that follows the row images: where and when a change happened.

use pgbaton_core::Lsn;

use super::value::{escaped, integer};

/// What never changes for a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The topic prefix, which is also the source's name.
    pub name: String,
    /// The database that the slot belongs to.
    pub database: String,
    /// The version of pgbaton.
    pub version: String,
}

/// Where and when one change happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeContext {
    /// Its transaction, as PostgreSQL numbers it.
    pub xid: u32,
    /// Where its own WAL record starts: the start that its replication message names, not its commit's.
    pub lsn: Lsn,
    /// Where the transaction before it ended, in the stream; None for the first.
    pub last_commit_lsn: Option<Lsn>,
    /// When its transaction committed, in microseconds since 1970-01-01T00:00:00Z.
    pub commit_time_micros: i64,
    /// When it was processed here, in nanoseconds since 1970-01-01T00:00:00Z.
    pub now_nanos: i64,
}

/// What one kind of change may do to a row, by the letter that stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Update,
    Delete,
    Truncate,
}

impl Operation {
    fn letter(self) -> u8 {
        match self {
            Operation::Create => b'c',
            Operation::Update => b'u',
            Operation::Delete => b'd',
            Operation::Truncate => b't',
        }
    }
}

/// The end of an event as constant texts, rendered once per table, between which the numbers of a change go.
#[derive(Debug)]
pub(super) struct Trailer {
    /// Up to the time of the commit in milliseconds.
    to_commit_time: Vec<u8>,
    /// Up to the sequence.
    to_sequence: Vec<u8>,
    /// Up to the number of the transaction.
    to_xid: Vec<u8>,
}

impl Trailer {
    pub(super) fn new(source: &Source, schema: &str, table: &str) -> Self {
        let mut to_commit_time = b",\"source\":{\"version\":".to_vec();
        escaped(&source.version, &mut to_commit_time);
        to_commit_time.extend_from_slice(b",\"connector\":\"postgresql\",\"name\":");
        escaped(&source.name, &mut to_commit_time);
        to_commit_time.extend_from_slice(b",\"ts_ms\":");

        let mut to_sequence = b",\"snapshot\":\"false\",\"db\":".to_vec();
        escaped(&source.database, &mut to_sequence);
        to_sequence.extend_from_slice(b",\"sequence\":\"[");

        let mut to_xid = b",\"schema\":".to_vec();
        escaped(schema, &mut to_xid);
        to_xid.extend_from_slice(b",\"table\":");
        escaped(table, &mut to_xid);
        to_xid.extend_from_slice(b",\"txId\":");

        Trailer { to_commit_time, to_sequence, to_xid }
    }

    /// Everything behind `after`, the event's closing brace included.
    pub(super) fn write(&self, operation: Operation, context: &ChangeContext, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_commit_time);
        integer(context.commit_time_micros.div_euclid(1000), out);

        // The sequence is a JSON array of strings within a JSON string.
        out.extend_from_slice(&self.to_sequence);
        match context.last_commit_lsn {
            Some(Lsn(last)) => {
                out.extend_from_slice(b"\\\"");
                integer(last, out);
                out.extend_from_slice(b"\\\"");
            }
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\\\"");
        integer(context.lsn.0, out);
        out.extend_from_slice(b"\\\"]\",\"ts_us\":");
        integer(context.commit_time_micros, out);
        out.extend_from_slice(b",\"ts_ns\":");
        integer(i128::from(context.commit_time_micros) * 1000, out);

        out.extend_from_slice(&self.to_xid);
        integer(context.xid, out);
        out.extend_from_slice(b",\"lsn\":");
        integer(context.lsn.0, out);
        out.extend_from_slice(b",\"xmin\":null,\"origin\":null,\"origin_lsn\":null},\"transaction\":null,\"op\":\"");
        out.push(operation.letter());
        out.extend_from_slice(b"\",\"ts_ms\":");
        integer(context.now_nanos.div_euclid(1_000_000), out);
        out.extend_from_slice(b",\"ts_us\":");
        integer(context.now_nanos.div_euclid(1000), out);
        out.extend_from_slice(b",\"ts_ns\":");
        integer(context.now_nanos, out);
        out.push(b'}');
    }
}
