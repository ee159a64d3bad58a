//! The data records, in the order of their rank: ids, terms, changes, chunks.

use std::collections::BTreeMap;

use super::ledger::Ledger;
use super::{Delivery, Fault, Place, Published, Rank, Rule};
use crate::{DivergenceMark, EventId, Lsn, Term, Timeline};

#[derive(Debug)]
pub(super) struct Sequence {
    delivery: Delivery,
    dense: bool,
    /// Holes up to here are Kafka's.
    cut: Option<Rank>,
    /// The last record of each partition.
    partitions: BTreeMap<(String, i32), (Rank, Term)>,
    /// The last record of all.
    last: Option<(Rank, Published, Place)>,
    /// The greatest commit of each timeline, since the pipeline was begun.
    timelines: BTreeMap<Timeline, (Lsn, Place)>,
    beginning: usize,
    told_unmarked: Vec<Timeline>,
    records: u64,
    transactions: u64,
}

impl Sequence {
    pub fn new(delivery: Delivery, dense: bool) -> Self {
        Sequence {
            delivery,
            dense,
            cut: None,
            partitions: BTreeMap::new(),
            last: None,
            timelines: BTreeMap::new(),
            beginning: 0,
            told_unmarked: Vec::new(),
            records: 0,
            transactions: 0,
        }
    }

    pub fn records(&self) -> u64 {
        self.records
    }

    pub fn transactions(&self) -> u64 {
        self.transactions
    }

    pub fn cut(&self) -> Option<Rank> {
        self.cut
    }

    /// Whether the partition has told something as great already.
    pub fn is_behind(&self, place: &Place, rank: Rank) -> bool {
        let told = self.partitions.get(&(place.topic.clone(), place.partition));
        told.is_some_and(|(greatest, _)| rank <= *greatest)
    }

    pub fn cut_at(&mut self, rank: Rank) {
        self.cut = self.cut.max(Some(rank));
    }

    pub fn take(&mut self, place: &Place, published: &Published, rank: Rank, ledger: &Ledger, faults: &mut Vec<Fault>) {
        self.records += 1;
        let Published { id, term, .. } = *published;
        let mut found = |rule: Rule, text: String| faults.push(Fault { rule, place: place.clone(), text });
        // What a torn transaction left visible is of an older term than what was published again around it.
        let reconciled = ledger.torn_to().is_some_and(|torn| id <= torn);

        let key = (place.topic.clone(), place.partition);
        if let Some((before, older)) = self.partitions.get(&key) {
            if rank <= *before {
                return match rank == *before {
                    true => found(Rule::Duplicate, format!("{id} stands here a second time")),
                    false => found(Rule::OutOfOrder, format!("{id} stands behind {}", before.id)),
                };
            }
            // What is late of an older session may be the first to stand there, where nothing fences it.
            if term < *older && !reconciled && self.delivery == Delivery::ExactlyOnce {
                found(Rule::TermFalls, format!("{id} is of term {term}, behind one of term {older}"));
            }
        }
        self.partitions.insert(key, (rank, term));

        let current = rank.beginning >= ledger.beginning(Term(u64::MAX));
        if current && ledger.system().is_some_and(|system| system != id.system_identifier) {
            found(Rule::System, format!("{id} is of another cluster than the progress"));
        }
        if ledger.greatest_term().is_some_and(|greatest| term > greatest) {
            found(Rule::TermUnknown, format!("{id} is of term {term}, which nobody has claimed"));
        }
        if rank.beginning > self.beginning {
            self.beginning = rank.beginning;
            self.timelines.clear();
        }
        let greatest = self.timelines.entry(id.timeline).or_insert_with(|| (id.commit_lsn, place.clone()));
        if id.commit_lsn > greatest.0 {
            *greatest = (id.commit_lsn, place.clone());
        }

        match self.last.take() {
            Some((before, _, other)) if rank == before => {
                found(Rule::Duplicate, format!("{id} stands at {other}, too"));
            }
            Some((before, last, _)) if same_transaction(before, rank) => {
                self.goes_on(&last, published, rank, &mut found)
            }
            last => {
                self.transactions += 1;
                let first = EventId { change: 0, part: 0, ..id };
                if id != first && self.judges(rank) {
                    found(Rule::Hole, format!("the transaction begins with {id}: what is before is missing"));
                }
                if let Some((_, last, other)) = last.filter(|(before, ..)| self.judges(*before)) {
                    unfinished(&last, &other, ledger, faults);
                }
            }
        }
        self.last = Some((rank, *published, place.clone()));
    }

    fn judges(&self, rank: Rank) -> bool {
        self.dense && self.cut.is_none_or(|cut| rank > cut)
    }

    /// The next record of the same transaction.
    fn goes_on(&self, last: &Published, next: &Published, rank: Rank, found: &mut impl FnMut(Rule, String)) {
        let (from, to) = (last.id, next.id);
        let follows =
            to.change == from.change && to.part == from.part + 1 || to.change == from.change + 1 && to.part == 0;
        if !follows && self.judges(rank) {
            found(Rule::Hole, format!("{to} follows {from}: what is between is missing"));
        }
        let number = |published: &Published| published.chunk.map_or(0, |chunk| chunk.number);
        // Sessions that were not fenced from one another cut a transaction each in its own way.
        let falls = number(next) < number(last) || last.chunk.is_some() && next.chunk.is_none();
        if falls && self.delivery == Delivery::ExactlyOnce {
            found(Rule::Chunks, format!("{to} is of an earlier chunk than {from}"));
        }
        if last.chunk.is_some_and(|chunk| chunk.last) && to.change != from.change {
            found(Rule::Chunks, format!("{to} follows the end of its transaction, {from}"));
        }
    }

    /// Records beyond a fork are phantoms, and have to be named.
    pub fn forks(&mut self, ledger: &Ledger, faults: &mut Vec<Fault>) {
        for (timeline, (greatest, place)) in &self.timelines {
            let Some(left) = ledger.left_at(*timeline).filter(|left| greatest >= left) else { continue };
            if is_marked(*timeline, *greatest, ledger) || self.told_unmarked.contains(timeline) {
                continue;
            }
            self.told_unmarked.push(*timeline);
            let text = format!(
                "timeline {timeline} was left at {left}, {greatest} on it was published, and no marker says so"
            );
            faults.push(Fault { rule: Rule::Unmarked, place: place.clone(), text });
        }
    }
}

fn same_transaction(one: Rank, other: Rank) -> bool {
    let name = |rank: Rank| (rank.beginning, rank.id.system_identifier, rank.id.timeline, rank.id.commit_lsn);
    name(one) == name(other)
}

fn is_marked(timeline: Timeline, commit_lsn: Lsn, ledger: &Ledger) -> bool {
    let names = |mark: &DivergenceMark| mark.old_timeline <= timeline && timeline <= mark.old_timeline_last;
    ledger.marks().iter().any(|mark| names(mark) && mark.from_lsn <= commit_lsn)
}

/// A large transaction ends with its last chunk, or beyond a fork.
fn unfinished(last: &Published, place: &Place, ledger: &Ledger, faults: &mut Vec<Fault>) {
    let chunk = last.chunk.filter(|chunk| !chunk.last);
    if chunk.is_some() && !is_marked(last.id.timeline, last.id.commit_lsn, ledger) {
        let text = format!("the transaction of {} ends without its last chunk", last.id);
        faults.push(Fault { rule: Rule::Chunks, place: place.clone(), text });
    }
}
