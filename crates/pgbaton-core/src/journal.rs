//! Writes the progress records of one session: what stays the same in all of them stands here once, and the chain of
//! hashes is carried on.

use crate::{
    AcceptMark, DivergenceMark, Gap, History, Ids, LastTransaction, LeaseMark, PROGRESS_VERSION, PartialTransaction,
    Phantoms, Position, ProgressRecord, PublicationMark, RecordType, Resume, Term, Torn, Watermark, hash_of,
};

/// What every position-carrying record of a session repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFacts {
    /// Random id of the session.
    pub session: String,
    /// The worker.
    pub worker: String,
    /// The server's history.
    pub history: History,
    /// The publication in force.
    pub publication: PublicationMark,
    /// Hash of what in the configuration changes routing or the set of rows.
    pub config_hash: String,
    /// Kafka's cluster id.
    pub kafka_cluster: Option<String>,
    /// The lease, where there is etcd.
    pub lease: Option<LeaseMark>,
}

/// How far the stream has come, as a `close` records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// What is published.
    pub position: Position,
    /// What may be acknowledged.
    pub watermark: Watermark,
    /// The last transaction published whole.
    pub last: Option<LastTransaction>,
    /// The transaction published in part.
    pub partial: Option<PartialTransaction>,
}

impl From<&Resume> for Reached {
    fn from(resume: &Resume) -> Self {
        Reached {
            position: resume.position,
            watermark: resume.watermark,
            last: resume.last.clone(),
            partial: resume.partial.clone(),
        }
    }
}

/// The `open` that begins a session: written before anything is read, so it knows neither term nor position.
pub fn first_open(session: &str, worker: &str) -> ProgressRecord {
    blank(RecordType::Open, session, worker, 0)
}

fn blank(record_type: RecordType, session: &str, worker: &str, number: u64) -> ProgressRecord {
    ProgressRecord {
        v: PROGRESS_VERSION,
        record_type,
        term: None,
        session: session.to_owned(),
        number,
        worker: worker.to_owned(),
        position: None,
        watermark: None,
        history: None,
        server_timeline: None,
        last: None,
        partial: None,
        torn: None,
        divergence: None,
        phantoms: Vec::new(),
        accepted: None,
        publication: None,
        config_hash: None,
        kafka_cluster: None,
        lease: None,
        topics: Vec::new(),
        topic_ids: None,
        previous_hash: None,
    }
}

/// So many closes later the ids of the topics are told again: whoever reads the last thousand records of the progress topic
/// finds them there.
const IDS_AGAIN: u32 = 200;

/// The records of one session, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    facts: SessionFacts,
    term: Term,
    number: u64,
    previous_hash: Option<String>,
    /// Repeated until the position has passed it: a session that starts meanwhile has to read it back again.
    torn: Option<Torn>,
    /// Repeated in the same way.
    phantoms: Vec<Phantoms>,
    topic_ids: Ids,
    /// Closes since the ids were told.
    ids_told: u32,
}

/// What a claim tells consumers beside the new position.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks {
    /// Published events that the server never had.
    pub divergence: Option<DivergenceMark>,
    /// Changes that are missing, and that somebody has accepted.
    pub accepted: Vec<Accepted>,
}

/// An accepted gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Which.
    pub mark: AcceptMark,
    /// The topics that it concerns; none where it concerns all.
    pub topics: Vec<String>,
}

impl From<&Gap> for Accepted {
    fn from(gap: &Gap) -> Self {
        Accepted { mark: AcceptMark::from(gap), topics: Vec::new() }
    }
}

/// What the claim transaction writes behind its `open`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRecords {
    /// To the progress topic, in order; the last one is the claim.
    pub progress: Vec<ProgressRecord>,
    /// To the markers topic, for consumers.
    pub markers: Vec<ProgressRecord>,
}

impl Journal {
    /// The journal of a session that takes `term`, after a record with this hash (none: there was no record).
    pub fn new(facts: SessionFacts, term: Term, previous_hash: Option<String>) -> Self {
        Journal {
            facts,
            term,
            number: 0,
            previous_hash,
            torn: None,
            phantoms: Vec::new(),
            topic_ids: Ids::new(),
            ids_told: 0,
        }
    }

    /// The same, writing to topics of these ids.
    pub fn writing_to(self, topic_ids: Ids) -> Self {
        Journal { topic_ids, ..self }
    }

    /// What is known of the topics' ids.
    pub fn topic_ids(&self) -> &Ids {
        &self.topic_ids
    }

    /// Topics that have become known: the next `close` tells them.
    pub fn learn(&mut self, topic_ids: Ids) {
        if !topic_ids.is_empty() {
            self.topic_ids.extend(topic_ids);
            self.ids_told = IDS_AGAIN;
        }
    }

    /// The same after a torn transaction and phantoms, which the records name until their position has passed them.
    pub fn after(self, torn: Option<Torn>, phantoms: Vec<Phantoms>) -> Self {
        Journal { torn, phantoms, ..self }
    }

    /// The term of the session.
    pub fn term(&self) -> Term {
        self.term
    }

    /// What ends the session's first transaction: a genesis where there was no progress, the markers, and the
    /// claim with the new position.
    pub fn claim(&mut self, resume: &Resume, first_start: bool, marks: Marks, topics: Vec<String>) -> ClaimRecords {
        let reached = Reached::from(resume);
        let mut progress = Vec::new();
        if first_start {
            progress.push(self.positioned(RecordType::Genesis, &reached, Vec::new()));
        }
        let marked = |mark: DivergenceMark| Phantoms { term: self.term, from_lsn: mark.from_lsn, to_lsn: mark.to_lsn };
        self.phantoms.extend(marks.divergence.map(marked));
        let divergence = marks.divergence.map(|mark| ProgressRecord {
            divergence: Some(mark),
            ..self.unchained(RecordType::Divergence, &reached, Vec::new())
        });
        let accepted = marks.accepted.into_iter().map(|Accepted { mark, topics }| ProgressRecord {
            accepted: Some(mark),
            ..self.unchained(RecordType::Accept, &reached, topics)
        });
        let mut markers = Vec::new();
        for marker in divergence.into_iter().chain(accepted).collect::<Vec<_>>() {
            let marker = self.chained(marker);
            markers.push(marker.clone());
            progress.push(marker);
        }
        progress.push(self.positioned(RecordType::Claim, &reached, topics));
        ClaimRecords { progress, markers }
    }

    /// Begins the next transaction; `topics` are those that the claim did not name.
    pub fn open(&mut self, topics: Vec<String>) -> ProgressRecord {
        self.number += 1;
        ProgressRecord {
            term: Some(self.term),
            topics,
            previous_hash: self.previous_hash.clone(),
            ..blank(RecordType::Open, &self.facts.session, &self.facts.worker, self.number)
        }
    }

    /// Ends the transaction that [`Journal::open`] began.
    pub fn close(&mut self, reached: &Reached) -> ProgressRecord {
        self.positioned(RecordType::Close, reached, Vec::new())
    }

    fn positioned(&mut self, record_type: RecordType, reached: &Reached, topics: Vec<String>) -> ProgressRecord {
        let mut record = self.unchained(record_type, reached, topics);
        let tells = match record_type {
            RecordType::Claim => true,
            RecordType::Close => self.ids_told >= IDS_AGAIN,
            _ => false,
        };
        self.ids_told = if tells { 0 } else { self.ids_told + u32::from(record_type == RecordType::Close) };
        record.topic_ids = tells.then(|| self.topic_ids.clone());
        let passed = |torn: &Torn| torn.greatest_id.is_none_or(|id| reached.position.lsn > id.commit_lsn);
        if record_type == RecordType::Close {
            self.torn = self.torn.take().filter(|torn| !passed(torn));
            self.phantoms.retain(|phantoms| reached.position.lsn <= phantoms.to_lsn);
        }
        self.chained(record)
    }

    fn unchained(&self, record_type: RecordType, reached: &Reached, topics: Vec<String>) -> ProgressRecord {
        let facts = &self.facts;
        ProgressRecord {
            term: Some(self.term),
            position: Some(reached.position),
            watermark: Some(reached.watermark),
            history: Some(facts.history.left().to_vec()),
            server_timeline: Some(facts.history.current()),
            last: reached.last.clone(),
            partial: reached.partial.clone(),
            torn: self.torn.clone(),
            phantoms: self.phantoms.clone(),
            publication: Some(facts.publication.clone()),
            config_hash: Some(facts.config_hash.clone()),
            kafka_cluster: facts.kafka_cluster.clone(),
            lease: facts.lease.clone(),
            topics,
            ..blank(record_type, &facts.session, &facts.worker, self.number)
        }
    }

    /// The chain goes over the bytes that are written, so a record is complete before it comes here.
    fn chained(&mut self, mut record: ProgressRecord) -> ProgressRecord {
        record.previous_hash = self.previous_hash.take();
        self.previous_hash = Some(hash_of(&record.to_bytes()));
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lsn, SystemIdentifier, Timeline};

    fn resume() -> Resume {
        Resume {
            position: Position { system_identifier: SystemIdentifier(7), timeline: Timeline(1), lsn: Lsn(100) },
            watermark: Watermark { timeline: Timeline(1), lsn: Lsn(100) },
            start_at: Lsn(100),
            continuity: None,
            last: None,
            partial: None,
        }
    }

    fn journal(previous_hash: Option<String>) -> Journal {
        let facts = SessionFacts {
            session: "s".into(),
            worker: "w".into(),
            history: History::new(vec![], Timeline(1)),
            publication: PublicationMark { oid: 1, tables_hash: "t".into() },
            config_hash: "c".into(),
            kafka_cluster: None,
            lease: Some(LeaseMark { cluster_id: "e".into(), revision: 3, left: vec![] }),
        };
        Journal::new(facts, Term(5), previous_hash)
    }

    #[test]
    fn every_position_record_names_the_hash_of_the_one_before_it() {
        let mut journal = journal(Some("before".into()));
        let divergence = DivergenceMark {
            old_timeline: Timeline(1),
            old_timeline_last: Timeline(1),
            new_timeline: Timeline(2),
            from_lsn: Lsn(90),
            to_lsn: Lsn(100),
        };
        let mut records =
            journal.claim(&resume(), true, Marks { divergence: Some(divergence), accepted: vec![] }, vec![]).progress;
        let types: Vec<_> = records.iter().map(|record| record.record_type).collect();
        assert_eq!(types, [RecordType::Genesis, RecordType::Divergence, RecordType::Claim]);
        assert_eq!(records[0].previous_hash.as_deref(), Some("before"));
        let open = journal.open(vec![]);
        records.push(journal.close(&Reached::from(&resume())));
        for pair in records.windows(2) {
            assert_eq!(pair[1].previous_hash, Some(hash_of(&pair[0].to_bytes())));
        }
        assert_eq!((open.number, records[3].number), (1, 1));
        assert_eq!((records[2].number, records[2].term), (0, Some(Term(5))));
    }

    #[test]
    fn the_ids_of_the_topics_are_told_by_the_claim_when_they_become_more_and_now_and_then() {
        let ids = |ids: &[(&str, &str)]| ids.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Ids>();
        let mut journal = journal(None).writing_to(ids(&[("a", "1")]));
        let claim = journal.claim(&resume(), false, Marks::default(), vec![]).progress.pop().unwrap();
        assert_eq!(claim.topic_ids, Some(ids(&[("a", "1")])));
        let mut close = || {
            journal.open(vec![]);
            journal.close(&Reached::from(&resume())).topic_ids
        };
        assert_eq!(close(), None);
        assert_eq!((2..1000).filter(|_| close().is_some()).count(), 4);
        journal.learn(ids(&[("b", "2")]));
        assert_eq!(journal.close(&Reached::from(&resume())).topic_ids, Some(ids(&[("a", "1"), ("b", "2")])));
        assert_eq!(journal.close(&Reached::from(&resume())).topic_ids, None);
    }

    #[test]
    fn the_first_open_of_a_session_knows_neither_term_nor_position() {
        let open = first_open("s", "w");
        assert_eq!((open.term, open.position, open.number), (None, None, 0));
    }
}
