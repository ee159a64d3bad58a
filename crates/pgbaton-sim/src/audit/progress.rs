//! Every committed Kafka transaction, looked at when its outcome is decided.

use std::collections::BTreeMap;
use std::rc::Rc;

use pgbaton_core::{Fork, Lsn, ProgressRecord, RecordType, hash_of};

use super::ownership::owner_of_end;
use super::{Audit, Claim, Mark};
use crate::kafka::{Body, DataRecord, Entry, MARKERS, PROGRESS, PartitionId, Payload, Stored};
use crate::process::ATOMIC_UP_TO;
use crate::time::Time;

impl Audit {
    /// 18: records arrive at Kafka only after PostgreSQL has shown that the slot is theirs.
    pub fn produced(&mut self, records: &[Payload], _now: Time) {
        let Some(Payload::Data(record)) = records.iter().find(|record| matches!(record, Payload::Data(_))) else {
            return;
        };
        let shown =
            self.by_term.get(&record.term).and_then(|connection| self.starts.get(connection)).is_some_and(|s| s.shown);
        if !shown {
            let term = record.term;
            self.violate(18, || format!("data of term {term} arrive before the slot was checked"));
        }
    }

    /// A transaction is committed.
    pub fn committed(&mut self, txn: u32, parts: &[(PartitionId, &[Entry])], now: Time) {
        let mut progress: Vec<Rc<Stored>> = Vec::new();
        let mut markers = 0;
        let mut data: Vec<DataRecord> = Vec::new();
        for (partition, entries) in parts {
            for entry in entries.iter().filter(|entry| entry.txn == txn) {
                match &entry.body {
                    Body::Record(Payload::Progress(_)) if *partition == MARKERS => markers += 1,
                    Body::Record(Payload::Progress(stored)) if *partition == PROGRESS => progress.push(stored.clone()),
                    Body::Record(Payload::Data(record)) => data.push(*record),
                    Body::Record(Payload::Progress(_)) | Body::Mark => {}
                }
            }
        }
        let torn = self.bracket(&progress, &data);
        let before = self.latest.clone();
        for stored in &progress {
            if stored.record.record_type == RecordType::Open {
                self.latest_open = Some(stored.clone());
                continue;
            }
            self.positioned(stored, txn, now);
        }
        let divergences: Vec<&ProgressRecord> =
            progress.iter().map(|stored| &stored.record).filter(|record| record.divergence.is_some()).collect();
        if markers != divergences.len() {
            self.violate(45, || format!("{markers} markers, {} divergences in one transaction", divergences.len()));
        }
        if let Some(claim) = progress.iter().find(|stored| stored.record.record_type == RecordType::Claim) {
            if let Some((session, number, greatest)) = self.torn.take() {
                let named = claim.record.torn.as_ref().is_some_and(|torn| {
                    (&torn.session, torn.number) == (&session, number) && torn.greatest_id >= greatest
                });
                if !named {
                    self.violate(13, || {
                        format!("transaction {number} of {session} is torn, and the claim does not say so")
                    });
                }
            }
            self.forked(before.as_deref(), &claim.record, &divergences);
        }
        let claims_torn = before.as_ref().is_some_and(|stored| stored.record.torn.is_some());
        let end = progress.last().map(|stored| &stored.record).filter(|_| !torn && !claims_torn);
        self.published(&data, before.as_deref(), end);
    }

    /// Everything of the transaction is there: its bracket is closed.
    pub fn is_whole(&self, txn: u32, parts: &[(PartitionId, &[Entry])]) -> bool {
        let progress = parts.iter().find(|(partition, _)| *partition == PROGRESS);
        let last = progress.and_then(|(_, entries)| entries.iter().rev().find(|entry| entry.txn == txn));
        last.is_some_and(|entry| match &entry.body {
            Body::Record(Payload::Progress(stored)) => stored.record.record_type != RecordType::Open,
            _ => false,
        })
    }

    /// 13: `open` first, its end last.
    fn bracket(&mut self, progress: &[Rc<Stored>], data: &[DataRecord]) -> bool {
        let (Some(first), Some(last)) = (progress.first(), progress.last()) else {
            // What is written behind a late end is a transaction of its own; another late end can commit that, too. The
            // `open` that was left alone before tells of both.
            if let Some((_, _, greatest)) = &mut self.torn {
                *greatest = (*greatest).max(data.iter().map(|record| record.id).max());
                return true;
            }
            self.violate(13, || format!("a transaction with {} records and no progress", data.len()));
            return false;
        };
        if let [open] = progress
            && open.record.record_type == RecordType::Open
        {
            // Torn: the next claim has to name it.
            let greatest = data.iter().map(|record| record.id).max();
            self.torn = Some((open.record.session.clone(), open.record.number, greatest));
            return true;
        }
        let (first, last) = (&first.record, &last.record);
        let ends = matches!(last.record_type, RecordType::Close | RecordType::Claim);
        let same = (&first.session, first.number) == (&last.session, last.number);
        if first.record_type != RecordType::Open || !ends || !same {
            let torn = last.record_type == RecordType::Open;
            self.violate(13, || {
                format!(
                    "a transaction begins with {:?} of {} and ends with {:?}{}",
                    first.record_type,
                    first.session,
                    last.record_type,
                    if torn { ": torn" } else { "" }
                )
            });
        }
        false
    }

    /// 12, 14, 19, 20, 21, 44: a record that carries a position.
    fn positioned(&mut self, stored: &Rc<Stored>, txn: u32, now: Time) {
        let record = &stored.record;
        let term = record.term.unwrap_or(pgbaton_core::Term(0));
        let latest = self.latest_term();
        match record.record_type {
            RecordType::Claim if term <= latest => {
                self.violate(19, || format!("term {term} is claimed after {latest}"))
            }
            RecordType::Close if term < latest => {
                self.violate(21, || format!("term {term} commits after {latest} was claimed"))
            }
            _ => {}
        }
        let before = self.latest.as_ref().map(|stored| stored.hash.clone());
        if record.previous_hash != before {
            self.violate(14, || format!("a record of term {term} does not name the hash of the one before it"));
        }
        let (Some(position), Some(watermark), Some(history)) = (record.position, record.watermark, record.history())
        else {
            return self.violate(12, || format!("a record of term {term} has no position"));
        };
        for (what, timeline, lsn) in
            [("watermark", watermark.timeline, watermark.lsn), ("position", position.timeline, position.lsn)]
        {
            if owner_of_end(&history, lsn) != timeline {
                self.violate(44, || format!("the {what} {lsn} does not belong to timeline {timeline}"));
            }
        }
        if let Some(before) = self.latest.as_ref().map(|stored| &stored.record)
            && let (Some(was), Some(past)) = (before.position, before.history())
        {
            let least = match past.fork_with(&history) {
                Fork::At(fork) => was.lsn.min(fork),
                Fork::None | Fork::Unrelated => was.lsn,
            };
            if position.lsn < least {
                self.violate(12, || format!("the position falls from {} to {}", was.lsn, position.lsn));
            }
        }
        if watermark.lsn < position.lsn {
            self.violate(12, || format!("the watermark {} is below the position {}", watermark.lsn, position.lsn));
        }
        if record.record_type == RecordType::Claim {
            if !self.branches.contains(&history) {
                self.violate(31, || format!("term {term} claims with a history that no server has"));
            }
            self.named_by_a_lease(record);
            self.claims.push(Claim { term, worker: record.worker.clone(), history: history.clone() });
            self.claimed_at.push(now);
        }
        if let Some(mark) = record.divergence.filter(|_| record.record_type == RecordType::Divergence) {
            self.marks.push(Mark { mark, txn });
        }
        let durable = self.watermarks.entry(watermark.timeline).or_insert(Lsn::INVALID);
        *durable = (*durable).max(watermark.lsn);
        for (timeline, switch) in history.left() {
            // What lies below a switch point is durable on the older timeline, too.
            if watermark.lsn >= *switch {
                let older = self.watermarks.entry(*timeline).or_insert(Lsn::INVALID);
                *older = (*older).max(*switch);
            }
        }
        debug_assert_eq!(hash_of(&record.to_bytes()), stored.hash);
        self.latest = Some(stored.clone());
    }

    /// 22: the claim names a write of the holder key, by the claimant.
    fn named_by_a_lease(&mut self, record: &ProgressRecord) {
        let Some(lease) = &record.lease else {
            if self.lease_free {
                return;
            }
            return self.violate(22, || "a claim without a lease".to_owned());
        };
        let cluster = lease.cluster_id.parse().unwrap_or(0);
        if self.written.get(&(cluster, lease.revision)).is_none_or(|(worker, _)| *worker != record.worker) {
            self.violate(22, || {
                format!("{} claims under revision {}, which it did not write", record.worker, lease.revision)
            });
        }
    }

    /// 29: phantoms are named once, where there are some. 30: behind a barrier there are none.
    fn forked(&mut self, before: Option<&Stored>, claim: &ProgressRecord, divergences: &[&ProgressRecord]) {
        let Some(before) = before.map(|stored| &stored.record) else { return };
        let (Some(past), Some(history)) = (before.history(), claim.history()) else { return };
        let Some(fork) = parted(&past, &history) else {
            if !divergences.is_empty() {
                self.violate(29, || "a divergence is marked, and the history is the same".to_owned());
            }
            return;
        };
        let beyond = before.position.is_some_and(|position| position.lsn > fork)
            || before.partial.as_ref().is_some_and(|partial| partial.final_lsn >= fork)
            || claim.torn.as_ref().and_then(|torn| torn.greatest_id).is_some_and(|id| id.commit_lsn >= fork);
        if beyond && self.standby_barrier {
            self.violate(30, || {
                format!("the database forked at {fork}, and what was published behind a barrier is beyond")
            });
        }
        if beyond != (divergences.len() == 1) {
            self.violate(29, || {
                format!(
                    "the database forked at {fork}; published {} beyond; {} divergences marked",
                    if beyond { "was" } else { "nothing was" },
                    divergences.len()
                )
            });
        }
    }

    /// 3, 7, 20: the data.
    fn published(&mut self, data: &[DataRecord], before: Option<&Stored>, end: Option<&ProgressRecord>) {
        // Without an end to judge by, what is in it was torn or goes on from what was torn: only ids and terms are judged.
        let judged = end.is_some();
        let latest = self.latest_term().0;
        let mut whole: BTreeMap<_, (u64, bool)> = BTreeMap::new();
        for record in data {
            if record.term != latest {
                self.violate(20, || {
                    format!("{} carries term {}, the latest claim is {latest}", record.id, record.term)
                });
            }
            if !self.ids.insert(record.id) && !self.collides(record) {
                self.violate(3, || format!("{} is published twice", record.id));
            }
            let entry = whole.entry((record.id.timeline, record.id.commit_lsn)).or_default();
            entry.0 += 1;
            entry.1 |= record.in_chunks;
        }
        let begun = before.and_then(|stored| stored.record.partial.as_ref()).map(|partial| partial.final_lsn);
        for (key, (count, in_chunks)) in whole.into_iter().filter(|_| judged) {
            // Where two branches had the same number, the id does not say whose transaction it is.
            let Some([txn]) = self.ledger.get(&key).map(|txns| txns.as_slice()) else { continue };
            let txn = txn.clone();
            let (rows, lsn) = (txn.rows.len() as u64, txn.final_lsn);
            if rows < ATOMIC_UP_TO && count != rows && !in_chunks && begun != Some(lsn) {
                self.violate(7, || {
                    format!("{count} of the {rows} rows of the transaction at {lsn} in one transaction")
                });
            }
            let named = end.is_some_and(|end| {
                end.position.is_some_and(|position| position.lsn >= txn.end)
                    || end.partial.as_ref().is_some_and(|partial| partial.final_lsn == lsn)
            });
            if !named {
                self.violate(7, || {
                    format!("progress does not name the transaction at {lsn} that is published with it")
                });
            }
        }
    }

    /// Two branches had the same number and the same LSN: then an id cannot tell them apart, and the marker says which
    /// of them did not survive.
    fn collides(&self, record: &DataRecord) -> bool {
        self.ledger.get(&(record.id.timeline, record.id.commit_lsn)).is_some_and(|txns| txns.len() > 1)
    }
}

/// Where two histories part, found without the core.
pub(super) fn parted(a: &pgbaton_core::History, b: &pgbaton_core::History) -> Option<Lsn> {
    let steps = |history: &pgbaton_core::History| {
        let mut steps = history.left().to_vec();
        steps.push((history.current(), Lsn::MAX));
        steps
    };
    let (a, b) = (steps(a), steps(b));
    let mut reached = Lsn::INVALID;
    for (a, b) in a.iter().zip(&b) {
        if a == b {
            reached = a.1;
        } else {
            return Some(if a.0 == b.0 { a.1.min(b.1) } else { reached });
        }
    }
    None
}
