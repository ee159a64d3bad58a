//! The progress topic: brackets, chain, terms, positions.

use super::{Fault, Looked, Place, Published, Rule};
use crate::{
    Code, DivergenceMark, EventId, Fork, Lsn, Position, ProgressRecord, RecordType, SystemIdentifier, Term, Timeline,
    hash_of,
};

/// A transaction of the progress topic that was begun.
#[derive(Debug, Clone)]
struct Opened {
    session: String,
    number: u64,
    offset: i64,
}

#[derive(Debug)]
pub(super) struct Ledger {
    topic: String,
    last: Option<(ProgressRecord, String)>,
    /// Compaction leaves one record of each key at the beginning, so only from the second one on everything has to fit. Nothing
    /// was compacted where the first one is the genesis.
    whole: bool,
    open: Option<Opened>,
    /// Had no end; the next claim has to name it.
    unclosed: Option<Opened>,
    claim: Option<(String, Term)>,
    greatest_term: Option<Term>,
    /// Of the transaction being read.
    divergence: Option<DivergenceMark>,
    began_anew: bool,
    /// All marked forks.
    marks: Vec<DivergenceMark>,
    /// Terms at which the pipeline was begun anew.
    beginnings: Vec<Term>,
    torn_to: Option<EventId>,
    /// Up to here a topic has lost what was published to it, and somebody has accepted that.
    lost_to: Option<EventId>,
    told_torn: Option<i64>,
    looked: Looked,
}

impl Ledger {
    pub fn new(topic: &str) -> Self {
        Ledger {
            topic: topic.to_owned(),
            last: None,
            whole: false,
            open: None,
            unclosed: None,
            claim: None,
            greatest_term: None,
            divergence: None,
            began_anew: false,
            marks: Vec::new(),
            beginnings: Vec::new(),
            torn_to: None,
            lost_to: None,
            told_torn: None,
            looked: Looked::default(),
        }
    }

    pub fn looked(&self) -> Looked {
        self.looked
    }

    /// A position that was kept elsewhere. It does not follow from what was kept here.
    pub fn keep(&mut self, record: ProgressRecord) {
        self.greatest_term = self.greatest_term.max(record.term);
        self.last = Some((record, String::new()));
    }

    /// Whether nothing is known of any progress.
    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    pub fn marks(&self) -> &[DivergenceMark] {
        &self.marks
    }

    /// The greatest id that was visible of a torn transaction that a claim names.
    pub fn torn_to(&self) -> Option<EventId> {
        self.torn_to
    }

    pub fn greatest_term(&self) -> Option<Term> {
        self.greatest_term
    }

    pub fn system(&self) -> Option<SystemIdentifier> {
        Some(self.last.as_ref()?.0.position?.system_identifier)
    }

    /// Where `timeline` was left: `None` when it is the server's own, [`Lsn::INVALID`] where the history does not have it.
    pub fn left_at(&self, timeline: Timeline) -> Option<Lsn> {
        let history = self.last.as_ref()?.0.history()?;
        if history.current() == timeline {
            return None;
        }
        let left = history.left().iter().find(|(left, _)| *left == timeline);
        Some(left.map_or(Lsn::INVALID, |(_, at)| *at))
    }

    /// How many times the pipeline was begun anew up to this term.
    pub fn beginning(&self, term: Term) -> usize {
        self.beginnings.iter().filter(|beginning| **beginning <= term).count()
    }

    pub fn is_recorded(&self, published: &Published) -> bool {
        if self.beginning(published.term) < self.beginnings.len() {
            return true;
        }
        let Some((last, _)) = &self.last else { return false };
        let Some(position) = last.position else { return false };
        let id = &published.id;
        let of_partial = last.partial.as_ref().is_some_and(|partial| {
            let owner = last.history().map(|history| history.owner_of(partial.final_lsn));
            partial.final_lsn == id.commit_lsn && owner == Some(id.timeline) && id.change < partial.changes_done
        });
        (id.timeline, id.commit_lsn) < (position.timeline, position.lsn) || of_partial
    }

    /// What the markers topic says: it keeps what compaction takes away from the progress.
    pub fn marked(&mut self, offset: i64, topic: &str, value: &[u8], faults: &mut Vec<Fault>) {
        match ProgressRecord::from_bytes(value) {
            Ok(record) => {
                self.keep_mark(&record);
                self.keep_beginning(&record);
            }
            Err(error) => {
                let place = Place { topic: topic.to_owned(), partition: 0, offset };
                faults.push(Fault { rule: Rule::Undecodable, place, text: error.to_string() });
            }
        }
    }

    fn keep_mark(&mut self, record: &ProgressRecord) {
        let known = |mark: &DivergenceMark| self.marks.contains(mark);
        if let Some(mark) = record.divergence.filter(|mark| !known(mark)) {
            self.marks.push(mark);
        }
    }

    /// Up to where a topic has lost what was published to it.
    pub fn lost_to(&self) -> Option<EventId> {
        self.lost_to
    }

    /// Whether the pipeline begins anew with this record.
    fn keep_beginning(&mut self, record: &ProgressRecord) -> bool {
        if let Some((mark, position)) = record.accepted.zip(record.position)
            && mark.code == Code::TopicRecreated
        {
            let Position { system_identifier, timeline, lsn: commit_lsn } = position;
            let last = EventId { system_identifier, timeline, commit_lsn, change: u64::MAX, part: u16::MAX };
            self.lost_to = self.lost_to.max(Some(last));
        }
        let anew = record.accepted.is_some_and(|mark| begins_anew(mark.code));
        if let Some(term) = record.term.filter(|term| anew && !self.beginnings.contains(term)) {
            self.beginnings.push(term);
        }
        anew
    }

    /// The greatest id that the progress knows of, a transaction that is published in part counted whole. `None` before the
    /// first position.
    pub fn reached(&self) -> Option<EventId> {
        let (last, _) = self.last.as_ref()?;
        let Position { system_identifier, timeline, lsn } = last.position?;
        let partial = last.partial.as_ref().zip(last.history());
        let (timeline, commit_lsn) = partial
            .map(|(partial, history)| (history.owner_of(partial.final_lsn), partial.final_lsn))
            .unwrap_or((timeline, lsn));
        Some(EventId { system_identifier, timeline, commit_lsn, change: u64::MAX, part: u16::MAX })
    }

    pub fn take(&mut self, offset: i64, value: &[u8], faults: &mut Vec<Fault>) {
        self.looked.progress += 1;
        let record = match ProgressRecord::from_bytes(value) {
            Ok(record) => record,
            Err(error) => return faults.push(self.fault(Rule::Undecodable, offset, error.to_string())),
        };
        match record.record_type {
            RecordType::Open => self.opened(offset, &record, faults),
            _ => self.positioned(offset, record, hash_of(value), faults),
        }
    }

    /// An `open` that nothing follows is torn: its transaction is committed, or it would not be seen.
    pub fn whole(&mut self, faults: &mut Vec<Fault>) {
        let Some(open) = self.unclosed.clone().or_else(|| self.open.clone()) else { return };
        if self.whole && self.told_torn != Some(open.offset) {
            self.told_torn = Some(open.offset);
            let Opened { session, number, offset } = open;
            let text = format!("transaction {number} of session {session} is committed without its end");
            faults.push(self.fault(Rule::Torn, offset, text));
        }
    }

    fn opened(&mut self, offset: i64, record: &ProgressRecord, faults: &mut Vec<Fault>) {
        if let Some(open) = self.open.take() {
            self.unclosed = Some(open);
        }
        if self.whole
            && let Some((session, _)) = &self.claim
        {
            let last_number = self.last.as_ref().map_or(0, |(last, _)| last.number);
            let expected = if *session == record.session { last_number + 1 } else { 0 };
            if record.number != expected {
                let text =
                    format!("session {} opens transaction {}, {expected} was due", record.session, record.number);
                faults.push(self.fault(Rule::Brackets, offset, text));
            }
        }
        self.open = Some(Opened { session: record.session.clone(), number: record.number, offset });
    }

    fn positioned(&mut self, offset: i64, record: ProgressRecord, hash: String, faults: &mut Vec<Fault>) {
        self.whole |= self.last.is_none() && record.record_type == RecordType::Genesis;
        if let Some((_, last_hash)) = self.last.as_ref().filter(|_| self.whole)
            && record.previous_hash.as_ref() != Some(last_hash)
        {
            let text = format!("the {} does not name the hash of the record before it", name(record.record_type));
            faults.push(self.fault(Rule::Chain, offset, text));
        }
        match record.record_type {
            RecordType::Genesis => {
                if let (Some(_), Some(term)) = (&self.last, record.term) {
                    self.began_anew = true;
                    self.beginnings.push(term);
                }
            }
            RecordType::Divergence => {
                self.divergence = record.divergence;
                self.keep_mark(&record);
                self.looked.divergences += 1;
            }
            RecordType::Claim => self.claimed(offset, &record, faults),
            RecordType::Close => self.closed(offset, &record, faults),
            RecordType::Accept => self.began_anew |= self.keep_beginning(&record),
            RecordType::Open => {}
        }
        self.moved(offset, &record, faults);
        if matches!(record.record_type, RecordType::Claim | RecordType::Close) {
            self.divergence = None;
            self.began_anew = false;
        }
        self.whole |= self.last.is_some();
        self.last = Some((record, hash));
    }

    fn claimed(&mut self, offset: i64, record: &ProgressRecord, faults: &mut Vec<Fault>) {
        self.looked.claims += 1;
        let term = record.term.unwrap_or(Term(0));
        if let Some(greatest) = self.greatest_term.filter(|greatest| *greatest >= term) {
            faults.push(self.fault(Rule::TermFalls, offset, format!("term {term} is claimed after term {greatest}")));
        }
        self.greatest_term = self.greatest_term.max(Some(term));
        self.end(offset, record, faults);
        if let Some(unclosed) = self.unclosed.take() {
            let named =
                record.torn.as_ref().is_some_and(|t| t.session == unclosed.session && t.number == unclosed.number);
            if named {
                self.looked.torn += 1;
            } else if self.whole {
                let Opened { session, number, .. } = &unclosed;
                let text =
                    format!("transaction {number} of session {session} is torn, and the next claim does not say so");
                faults.push(self.fault(Rule::Torn, unclosed.offset, text));
            }
        }
        self.torn_to = self.torn_to.max(record.torn.as_ref().and_then(|torn| torn.greatest_id));
        self.claim = Some((record.session.clone(), term));
    }

    fn closed(&mut self, offset: i64, record: &ProgressRecord, faults: &mut Vec<Fault>) {
        self.end(offset, record, faults);
        if let Some((session, term)) = &self.claim
            && (*session != record.session || Some(*term) != record.term)
        {
            let text = format!("session {} commits after session {session} has claimed term {term}", record.session);
            faults.push(self.fault(Rule::TermFalls, offset, text));
        }
        if let (None, Some(term)) = (&self.claim, record.term) {
            // Compaction has taken the claim away.
            self.greatest_term = self.greatest_term.max(Some(term));
            self.claim = Some((record.session.clone(), term));
        }
    }

    /// A `close` or `claim` ends what the last `open` began.
    fn end(&mut self, offset: i64, record: &ProgressRecord, faults: &mut Vec<Fault>) {
        let fits = |open: &Opened| open.session == record.session && open.number == record.number;
        let open = self.open.take();
        if self.whole && !open.as_ref().is_some_and(fits) {
            let ProgressRecord { session, number, record_type, .. } = record;
            let found = match open {
                Some(Opened { session, number, .. }) => format!("transaction {number} of session {session}"),
                None => "nothing".to_owned(),
            };
            let text =
                format!("a {} ends transaction {number} of session {session}; open is {found}", name(*record_type));
            faults.push(self.fault(Rule::Brackets, offset, text));
        }
    }

    /// The position may only go forward, but for a fork that is marked.
    fn moved(&mut self, offset: i64, record: &ProgressRecord, faults: &mut Vec<Fault>) {
        let (Some(position), Some(history)) = (record.position, record.history()) else {
            let text = format!("a {} without position or history", name(record.record_type));
            return faults.push(self.fault(Rule::Undecodable, offset, text));
        };
        if record.watermark.is_some_and(|watermark| watermark.lsn < position.lsn) {
            let text = format!("the watermark is below the position {}", position.lsn);
            faults.push(self.fault(Rule::PositionFalls, offset, text));
        }
        let Some((last, _)) = self.last.as_ref().filter(|_| !self.began_anew) else { return };
        let (Some(before), Some(old)) = (last.position, last.history()) else { return };
        if before.system_identifier != position.system_identifier {
            let text = format!("cluster {} after {}", position.system_identifier, before.system_identifier);
            return faults.push(self.fault(Rule::System, offset, text));
        }
        let least = match old.fork_with(&history) {
            Fork::None => before.lsn,
            Fork::At(fork) => {
                let partial = last.partial.as_ref().is_some_and(|partial| partial.final_lsn >= fork);
                let marked = self.divergence.is_some_and(|mark| mark.from_lsn == fork);
                if (before.lsn > fork || partial) && !marked {
                    let text =
                        format!("the database forked at {fork}, {} was published, and no marker says so", before.lsn);
                    return faults.push(self.fault(Rule::Unmarked, offset, text));
                }
                before.lsn.min(fork)
            }
            Fork::Unrelated => {
                let text = "the history has nothing in common with the one before".to_owned();
                return faults.push(self.fault(Rule::PositionFalls, offset, text));
            }
        };
        if position.lsn < least {
            let text = format!("position {} after {least}", position.lsn);
            faults.push(self.fault(Rule::PositionFalls, offset, text));
        }
    }

    fn fault(&self, rule: Rule, offset: i64, text: String) -> Fault {
        Fault { rule, place: Place { topic: self.topic.clone(), partition: 0, offset }, text }
    }
}

/// After some of what a person can accept, ids and positions may be lower than before, or come once more.
fn begins_anew(code: Code) -> bool {
    use Code::{EtcdReset, PublicationChanged, PublicationShrunk, SlotAhead, TopicRecreated};
    !matches!(code, SlotAhead | PublicationChanged | PublicationShrunk | TopicRecreated | EtcdReset)
}

fn name(record_type: RecordType) -> &'static str {
    match record_type {
        RecordType::Genesis => "genesis",
        RecordType::Claim => "claim",
        RecordType::Open => "open",
        RecordType::Close => "close",
        RecordType::Divergence => "divergence",
        RecordType::Accept => "accept",
    }
}
