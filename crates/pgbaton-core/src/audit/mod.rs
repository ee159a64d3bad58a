//! Judges what stands in the topics of a pipeline, with no database to compare it with: a witness that did not write it.
//!
//! Progress records come in offset order; data records in the order of their rank over all partitions, and only those that
//! the progress given before knows ([`Audit::is_recorded`]). So the state is one position for the progress, one id for each
//! partition and one for all together, whatever the topics hold. Only forks of the database and new beginnings add to it.
//!
//! At least once the progress is the checkpoint, which whoever reads it hands on, and records stand there again: first
//! occurrences are judged as ever, repeats by what was told before ([`Audit::repeats`]), of which the last are remembered.
//!
//! What it cannot see: changes missing at the end of a transaction, rows that are not the database's, records that Kafka's
//! retention removed.

mod data;
mod ledger;
mod repeats;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use crate::{EventId, ProgressRecord, Term};

use data::Sequence;
use ledger::Ledger;
use repeats::Repeats;

pub use repeats::Content;

/// What the pipeline promises its consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Each change once.
    ExactlyOnce,
    /// Each change, and some again.
    AtLeastOnce,
}

/// Where a record stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} partition {} offset {}", self.topic, self.partition, self.offset)
    }
}

/// What a data record says of itself in its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// `pgbaton.id`
    pub id: EventId,
    /// `pgbaton.term`
    pub term: Term,
    /// `pgbaton.chunk`
    pub chunk: Option<Chunk>,
}

/// A part of a large transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Which part, from 0.
    pub number: u64,
    /// The transaction ends with this row.
    pub last: bool,
}

impl Published {
    /// Reads the headers; `None` where they are not ours.
    pub fn read(id: Option<&[u8]>, term: Option<&[u8]>, chunk: Option<&[u8]>) -> Option<Self> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let chunk = match chunk {
            None => None,
            Some(bytes) => {
                let text = text(bytes)?;
                let number = text.strip_suffix("/last");
                Some(Chunk { number: number.unwrap_or(&text).parse().ok()?, last: number.is_some() })
            }
        };
        Some(Published { id: text(id?)?.parse().ok()?, term: Term(text(term?)?.parse().ok()?), chunk })
    }
}

/// The order in which data records are judged: a pipeline that was begun anew begins anew here, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    beginning: usize,
    id: EventId,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A value or headers that are not ours.
    Undecodable,
    /// An id that stands twice.
    Duplicate,
    /// A record that stands again, with another content.
    Altered,
    /// Ids that fall within a partition.
    OutOfOrder,
    /// A change that is missing within a transaction.
    Hole,
    /// Chunks out of order, or a large transaction without its last one.
    Chunks,
    /// A record of an older term behind one of a newer.
    TermFalls,
    /// A record of a term that nobody has claimed.
    TermUnknown,
    /// A record that no committed progress knows.
    Unrecorded,
    /// A record of another database cluster.
    System,
    /// A progress record that does not follow from the one before it.
    Chain,
    /// `open` and its end do not fit together.
    Brackets,
    /// A committed `open` without its end, that no claim names.
    Torn,
    /// A position that falls.
    PositionFalls,
    /// The database forked below what was published, and no marker says so.
    Unmarked,
}

impl Rule {
    /// As it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Rule::Undecodable => "undecodable",
            Rule::Duplicate => "duplicate",
            Rule::Altered => "altered",
            Rule::OutOfOrder => "out_of_order",
            Rule::Hole => "hole",
            Rule::Chunks => "chunks",
            Rule::TermFalls => "term_falls",
            Rule::TermUnknown => "term_unknown",
            Rule::Unrecorded => "unrecorded",
            Rule::System => "system",
            Rule::Chain => "chain",
            Rule::Brackets => "brackets",
            Rule::Torn => "torn",
            Rule::PositionFalls => "position_falls",
            Rule::Unmarked => "unmarked",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which rule is broken.
    pub rule: Rule,
    /// Where.
    pub place: Place,
    /// What stands there, and what should.
    pub text: String,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Looked {
    /// Data records, each counted once.
    pub records: u64,
    /// Data records that were told again.
    pub repeated: u64,
    /// Transactions that they belong to.
    pub transactions: u64,
    /// Progress records.
    pub progress: u64,
    /// Claims among them.
    pub claims: u64,
    /// Torn transactions that a claim names.
    pub torn: u64,
    /// Forks that are marked.
    pub divergences: u64,
}

/// The witness.
#[derive(Debug)]
pub struct Audit {
    delivery: Delivery,
    ledger: Ledger,
    sequence: Sequence,
    repeats: Repeats,
    /// The record that each partition waits at, as told.
    told_unrecorded: BTreeMap<(String, i32), i64>,
    faults: Vec<Fault>,
}

impl Audit {
    /// Begins before the first record. `dense`: no change may be missing within a transaction, as compaction of a data topic
    /// makes them.
    pub fn new(progress_topic: &str, delivery: Delivery, dense: bool) -> Self {
        Audit {
            delivery,
            ledger: Ledger::new(progress_topic),
            sequence: Sequence::new(delivery, dense),
            repeats: Repeats::default(),
            told_unrecorded: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    /// The next record of the markers topic, to be given before the progress: markers are never compacted, the progress is.
    pub fn marker(&mut self, topic: &str, offset: i64, value: &[u8]) {
        self.ledger.marked(offset, topic, value, &mut self.faults);
        self.cut_where_lost();
    }

    /// The next record of the progress topic.
    pub fn progress(&mut self, offset: i64, value: &[u8]) {
        self.ledger.take(offset, value, &mut self.faults);
        self.cut_where_lost();
    }

    /// The checkpoint as it is now, to be given before the data: at least once it is the progress.
    pub fn checkpoint(&mut self, record: ProgressRecord) {
        self.ledger.keep(record);
    }

    /// A topic that was made again has nothing of what was before.
    fn cut_where_lost(&mut self) {
        if let Some(id) = self.ledger.lost_to() {
            self.sequence.cut_at(Rank { beginning: self.ledger.beginning(Term(u64::MAX)), id });
        }
    }

    /// Everything that is committed of the progress was given: what is open now stays open.
    pub fn progress_is_whole(&mut self) {
        self.ledger.whole(&mut self.faults);
        self.sequence.forks(&self.ledger, &mut self.faults);
    }

    /// Whether the progress knows this record. Only then it may be given to [`Audit::data`]. Who is given no checkpoint takes all
    /// that stands there for whole.
    pub fn is_recorded(&self, published: &Published) -> bool {
        self.delivery == Delivery::AtLeastOnce && self.ledger.is_empty() || self.ledger.is_recorded(published)
    }

    /// At least once: whether this record tells again what its partition has told before, which is judged here. If not, it is
    /// given to [`Audit::data`] once it is recorded.
    pub fn repeats(&mut self, place: &Place, published: &Published, content: Content) -> bool {
        let rank = self.rank(published);
        let is_again = self.sequence.is_behind(place, rank);
        if is_again && let Err((rule, text)) = self.repeats.judge(place, published, rank, content, self.sequence.cut())
        {
            self.faults.push(Fault { rule, place: place.clone(), text });
        }
        is_again
    }

    /// Where this record comes in the order.
    pub fn rank(&self, published: &Published) -> Rank {
        Rank { beginning: self.ledger.beginning(published.term), id: published.id }
    }

    /// Kafka has removed what was before this record in one of the partitions: holes before it are none of ours.
    pub fn cut_at(&mut self, rank: Rank) {
        self.sequence.cut_at(rank);
    }

    /// Holes are looked for from here on only: in what is published after the progress that was given so far.
    pub fn cut_here(&mut self) {
        if let Some(id) = self.ledger.reached() {
            self.sequence.cut_at(Rank { beginning: self.ledger.beginning(Term(u64::MAX)), id });
        }
    }

    /// The next data record. With its content it may stand there again, see [`Audit::repeats`].
    pub fn data(&mut self, place: &Place, published: &Published, content: Option<Content>) {
        let rank = self.rank(published);
        self.sequence.take(place, published, rank, &self.ledger, &mut self.faults);
        if let Some(content) = content {
            self.repeats.remember(place, published, rank, content);
        }
    }

    /// A record that stands there without our headers.
    pub fn foreign(&mut self, place: &Place) {
        let text = "a record without pgbaton's headers".to_owned();
        self.faults.push(Fault { rule: Rule::Undecodable, place: place.clone(), text });
    }

    /// A committed record that was there before the progress was read to its end, and that is still not recorded. Told once. At
    /// least once this is nothing: records are there before the checkpoint says so.
    pub fn unrecorded(&mut self, place: &Place, published: &Published) {
        if self.delivery == Delivery::AtLeastOnce {
            return;
        }
        if self.told_unrecorded.insert((place.topic.clone(), place.partition), place.offset) == Some(place.offset) {
            return;
        }
        // A torn transaction that a claim names is published again but for what was found of it.
        if self.ledger.torn_to().is_none_or(|torn| published.id > torn) {
            let text = format!("{} is not covered by any committed progress record", published.id);
            self.faults.push(Fault { rule: Rule::Unrecorded, place: place.clone(), text });
        }
    }

    /// What was found wrong since the last call.
    pub fn take_faults(&mut self) -> Vec<Fault> {
        std::mem::take(&mut self.faults)
    }

    /// What was looked at so far.
    pub fn looked(&self) -> Looked {
        Looked {
            records: self.sequence.records(),
            repeated: self.repeats.count(),
            transactions: self.sequence.transactions(),
            ..self.ledger.looked()
        }
    }
}
