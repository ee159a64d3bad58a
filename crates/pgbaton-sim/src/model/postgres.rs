//! A PostgreSQL that never fails: one timeline, a few transactions, a slot. What the walsender would send, in order.

use pgbaton_core::{EventId, History, Lsn, Position, Server, SystemIdentifier, Timeline, Watermark};

/// The cluster.
pub(super) const SYSTEM: SystemIdentifier = SystemIdentifier(7);
/// OID of the publication.
pub(super) const PUBLICATION: u32 = 16400;
/// What the slot has confirmed at first.
pub(super) const SLOT_BEGINS: Lsn = Lsn(0x10);

/// Transaction `n`, from 0, has its commit record from here ...
pub(super) fn final_lsn(n: usize) -> Lsn {
    Lsn(0x100 * (n as u64 + 1))
}

/// ... to here.
pub(super) fn end_lsn(n: usize) -> Lsn {
    Lsn(final_lsn(n).0 + 0x10)
}

/// How many of the transactions commit up to this position.
pub(super) fn transactions_up_to(lsn: Lsn) -> usize {
    (lsn.0.saturating_sub(0x10) / 0x100) as usize
}

/// One row change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub transaction: usize,
    pub change: usize,
    pub key: char,
    pub partition: usize,
}

/// A message of the walsender.
#[derive(Debug, Clone, Copy)]
pub(super) enum Message {
    Begin(usize),
    /// The row's number among all rows.
    Row(u16),
    Commit(usize),
}

/// The log, and the rows of all its transactions numbered in order.
#[derive(Debug)]
pub(super) struct Postgres {
    pub rows: Vec<Row>,
    transactions: usize,
}

impl Postgres {
    pub fn new(log: &[&[char]]) -> Self {
        let rows = log.iter().enumerate().flat_map(|(transaction, keys)| {
            keys.iter().enumerate().map(move |(change, key)| Row {
                transaction,
                change,
                key: *key,
                partition: if *key == 'a' { 1 } else { 2 },
            })
        });
        Postgres { rows: rows.collect(), transactions: log.len() }
    }

    /// What START_REPLICATION sends: every transaction whose commit record starts there or later.
    pub fn messages_from(&self, lsn: Lsn) -> Vec<Message> {
        let mut messages = Vec::new();
        for transaction in (0..self.transactions).filter(|n| final_lsn(*n) >= lsn) {
            messages.push(Message::Begin(transaction));
            let rows = self.rows.iter().enumerate().filter(|(_, row)| row.transaction == transaction);
            messages.extend(rows.map(|(number, _)| Message::Row(number as u16)));
            messages.push(Message::Commit(transaction));
        }
        messages
    }

    /// The row with this id.
    pub fn number_of(&self, id: &EventId) -> u16 {
        let of = |row: &Row| (final_lsn(row.transaction), row.change as u64) == (id.commit_lsn, id.change);
        self.rows.iter().position(of).expect("only rows of the log are published") as u16
    }

    /// The id of a row.
    pub fn id_of(&self, number: u16) -> EventId {
        let row = &self.rows[usize::from(number)];
        EventId {
            system_identifier: SYSTEM,
            timeline: Timeline(1),
            commit_lsn: final_lsn(row.transaction),
            change: row.change as u64,
            part: 0,
        }
    }

    /// What the server says of itself.
    pub fn server(&self) -> Server {
        Server {
            system_identifier: SYSTEM,
            history: history(),
            write_position: end_lsn(self.transactions),
            publication_oid: Some(PUBLICATION),
        }
    }
}

/// The only timeline.
pub(super) fn history() -> History {
    History::new(Vec::new(), Timeline(1))
}

/// The position, as it stands in stories.
pub(super) fn name_of(position: &Position) -> String {
    match transactions_up_to(position.lsn) {
        0 => "P=start".to_owned(),
        n => format!("P=T{n}"),
    }
}

/// The watermark's LSN as a number for states.
pub(super) fn confirmed(watermark: &Watermark) -> u16 {
    watermark.lsn.0 as u16
}
