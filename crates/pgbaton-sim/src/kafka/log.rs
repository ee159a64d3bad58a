//! One partition: its log, whose transactions are open in it, and which requests it has already seen.

use std::collections::BTreeMap;

use super::Payload;

#[derive(Debug, Clone)]
pub(crate) enum Body {
    Record(Payload),
    /// The mark that ends a transaction. It takes an offset.
    Mark,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub body: Body,
    pub txn: u32,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    txn: u32,
    id: u32,
    epoch: u32,
    first: usize,
}

#[derive(Default)]
pub(crate) struct Partition {
    pub entries: Vec<Entry>,
    open: Vec<Open>,
    /// By transactional id: epoch, next sequence, and the offset that the last one got.
    sequences: BTreeMap<u32, (u32, u64, usize)>,
}

impl Partition {
    /// Where an open transaction holds read_committed.
    pub fn last_stable(&self) -> usize {
        self.open.iter().map(|open| open.first).min().unwrap_or(self.entries.len())
    }

    pub fn begin(&mut self, txn: u32, id: u32, epoch: u32) {
        self.open.push(Open { txn, id, epoch, first: self.entries.len() });
    }

    /// The request was carried out before: what it was answered then.
    pub fn seen(&self, id: u32, epoch: u32, sequence: u64) -> Option<usize> {
        let (last_epoch, next, offset) = self.sequences.get(&id)?;
        (*last_epoch == epoch && sequence < *next).then_some(*offset)
    }

    /// Appends to the producer's open transaction; none where it has none.
    pub fn append(&mut self, id: u32, epoch: u32, sequence: u64, records: &[Payload]) -> Option<usize> {
        let open = self.open.iter().find(|open| open.id == id && open.epoch == epoch)?;
        let (offset, txn) = (self.entries.len(), open.txn);
        self.entries.extend(records.iter().map(|payload| Entry { body: Body::Record(payload.clone()), txn }));
        self.sequences.insert(id, (epoch, sequence + 1, offset));
        Some(offset)
    }

    pub fn mark(&mut self, txn: u32, _commit: bool) {
        self.open.retain(|open| open.txn != txn);
        self.entries.push(Entry { body: Body::Mark, txn });
    }

    /// The stretch that holds the records of a transaction that is open here.
    pub fn of(&self, txn: u32) -> &[Entry] {
        let first = self.open.iter().find(|open| open.txn == txn).map_or(self.entries.len(), |open| open.first);
        &self.entries[first..]
    }
}
