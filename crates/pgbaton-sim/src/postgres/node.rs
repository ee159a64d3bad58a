//! One server: its WAL, its way through the timelines, its slot.

use std::rc::Rc;

use pgbaton_core::{History, Lsn, Timeline};

use super::{ConnectionId, NodeId};
use crate::time::Time;

/// A committed transaction.
#[derive(Debug)]
pub(crate) struct Txn {
    pub xid: u32,
    /// Start of its commit record.
    pub final_lsn: Lsn,
    pub end: Lsn,
    pub committed_at: String,
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub key: u32,
    pub value: u32,
}

impl Txn {
    /// A change as its raw message.
    pub fn message(&self, change: usize) -> [u8; 12] {
        let row = self.rows[change];
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.xid.to_le_bytes());
        bytes[4..8].copy_from_slice(&row.key.to_le_bytes());
        bytes[8..].copy_from_slice(&row.value.to_le_bytes());
        bytes
    }
}

/// A stretch of WAL; with a transaction if it is the commit record of one.
#[derive(Debug)]
pub(crate) struct Record {
    pub start: Lsn,
    pub end: Lsn,
    pub txn: Option<Rc<Txn>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Slot {
    /// Counts how often it was made.
    pub generation: u32,
    pub confirmed: Lsn,
    /// What survives a crash.
    pub saved: Lsn,
    pub reader: Option<ConnectionId>,
}

impl Slot {
    pub fn at(confirmed: Lsn) -> Self {
        Slot { generation: 0, confirmed, saved: confirmed, reader: None }
    }
}

pub(crate) struct Node {
    id: NodeId,
    pub up: bool,
    /// Counts its starts.
    pub boot: u32,
    pub in_recovery: bool,
    pub stopping: bool,
    pub stops_since: Time,
    /// Receives nothing from the leader.
    pub held: bool,
    pub left: Vec<(Timeline, Lsn)>,
    pub timeline: Timeline,
    pub wal: Vec<Rc<Record>>,
    pub slot: Option<Slot>,
}

impl Node {
    pub const BEGINNING: Lsn = Lsn(0x1000);

    pub fn new(id: NodeId, in_recovery: bool) -> Self {
        Node {
            id,
            up: true,
            boot: 1,
            in_recovery,
            stopping: false,
            stops_since: Time::default(),
            held: false,
            left: Vec::new(),
            timeline: Timeline(1),
            wal: Vec::new(),
            slot: None,
        }
    }

    pub fn name(&self) -> String {
        format!("pg{}", self.id + 1)
    }

    pub fn end(&self) -> Lsn {
        self.wal.last().map_or(Node::BEGINNING, |record| record.end)
    }

    /// Where the WAL ends that it has in common with another one.
    pub fn has_of(&self, other: &Node) -> Lsn {
        let both = self.wal.iter().zip(&other.wal);
        let common = both.rev().find(|(own, others)| Rc::ptr_eq(own, others));
        common.map_or(Node::BEGINNING, |(own, _)| own.end)
    }

    pub fn history(&self) -> History {
        History::new(self.left.clone(), self.timeline)
    }

    pub fn takes_writes(&self) -> bool {
        self.up && !self.in_recovery && !self.stopping
    }

    /// The postmaster's start, as text to compare.
    pub fn started(&self) -> String {
        format!("{}-{}", self.name(), self.boot)
    }
}
