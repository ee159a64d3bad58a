//! The output of the pgoutput plugin, protocol version 1: what a walsender sends inside `XLogData`.
//!
//! Decoding borrows: the bytes of columns, prefixes and contents stay where they were received. Messages of later
//! protocol versions (streaming of unfinished transactions, two-phase commit) are not asked for and are refused.

mod decode;
mod tuple;

#[cfg(test)]
mod tests;

pub use decode::decode;
pub use tuple::{Columns, Tuple};

use pgbaton_core::{Lsn, Relation};

/// One message of pgoutput. Times are microseconds since 2000-01-01 00:00 UTC by the server's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction begins. With streaming off it has been committed already.
    Begin {
        /// Start of its commit record: known from the first change on, so ids are made of it.
        final_lsn: Lsn,
        /// When it was committed.
        commit_time: i64,
        /// Its transaction id, 32 bits that come again.
        xid: u32,
    },
    /// The transaction ends.
    Commit {
        /// Unused by PostgreSQL so far.
        flags: u8,
        /// Start of the commit record: `final_lsn` of the Begin.
        commit_lsn: Lsn,
        /// End of the commit record: the position after this transaction.
        end_lsn: Lsn,
        /// When it was committed.
        commit_time: i64,
    },
    /// The transaction came to this server from another one by logical replication.
    Origin {
        /// Its commit position there.
        lsn: Lsn,
        /// Name of the replication origin.
        name: &'a str,
    },
    /// What a table looks like from here on.
    Relation(Relation),
    /// A type that is not built in, used by the relation that follows.
    Type {
        /// `pg_type.oid`.
        oid: u32,
        /// Schema name, unquoted.
        schema: &'a str,
        /// Type name, unquoted.
        name: &'a str,
    },
    /// A row was inserted.
    Insert {
        /// `oid` of the [`Relation`].
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A row was changed.
    Update {
        /// `oid` of the [`Relation`].
        relation: u32,
        /// The row before: present when its identity changed, or with REPLICA IDENTITY FULL.
        old: Option<OldImage<'a>>,
        /// The row after.
        new: Tuple<'a>,
    },
    /// A row was deleted.
    Delete {
        /// `oid` of the [`Relation`].
        relation: u32,
        /// The row before.
        old: OldImage<'a>,
    },
    /// Tables were emptied by one command.
    Truncate {
        /// `oid`s of their [`Relation`]s.
        relations: Vec<u32>,
        /// TRUNCATE ... CASCADE.
        cascade: bool,
        /// TRUNCATE ... RESTART IDENTITY.
        restart_identity: bool,
    },
    /// A logical decoding message (`pg_logical_emit_message`).
    Message {
        /// Belongs to the transaction around it; else it stands alone at its own LSN.
        transactional: bool,
        /// Where its record starts.
        lsn: Lsn,
        /// The prefix that its sender gave.
        prefix: &'a str,
        /// Any bytes.
        content: &'a [u8],
    },
}

/// A row as it was before an update or a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OldImage<'a> {
    /// What of it was sent.
    pub kind: OldKind,
    /// As many columns as the table has, whatever the kind.
    pub tuple: Tuple<'a>,
}

/// How much of an old row was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldKind {
    /// The columns of the replica identity; the others read as NULL.
    Key,
    /// All columns (REPLICA IDENTITY FULL).
    Full,
}
