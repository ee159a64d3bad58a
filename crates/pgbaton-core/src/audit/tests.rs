//! One history for each rule. Every good one passes; each bad one is a good one with one thing wrong.

use super::*;
use crate::{
    DivergenceMark, History, Journal, LastTransaction, Lsn, Marks, PartialTransaction, Position, ProgressRecord,
    PublicationMark, Reached, Resume, SessionFacts, SystemIdentifier, Timeline, Torn, Watermark, first_open,
};

const PROGRESS: &str = "__pgbaton.orders.progress";

fn position(timeline: u32, lsn: u64) -> Position {
    Position { system_identifier: SystemIdentifier(7), timeline: Timeline(timeline), lsn: Lsn(lsn) }
}

fn reached(timeline: u32, lsn: u64) -> Reached {
    let last = LastTransaction { xid: 1, final_lsn: Lsn(lsn - 5), lsn: Lsn(lsn), committed_at: String::new() };
    Reached {
        position: position(timeline, lsn),
        watermark: Watermark { timeline: Timeline(timeline), lsn: Lsn(lsn) },
        last: Some(last),
        partial: None,
    }
}

/// A pipeline that writes what it should.
struct Writer {
    records: Vec<ProgressRecord>,
    journal: Option<Journal>,
    session: u32,
    history: History,
}

impl Writer {
    fn new() -> Self {
        Writer { records: Vec::new(), journal: None, session: 0, history: History::new(vec![], Timeline(1)) }
    }

    /// A claim at this position.
    fn claim(&mut self, at: Reached, divergence: Option<DivergenceMark>) -> &mut Self {
        self.session += 1;
        let session = format!("s{}", self.session);
        self.records.push(first_open(&session, "w"));
        let facts = SessionFacts {
            session,
            worker: "w".into(),
            history: self.history.clone(),
            publication: PublicationMark { oid: 1, tables_hash: String::new() },
            config_hash: String::new(),
            kafka_cluster: None,
            lease: None,
        };
        let before = self.records.iter().rev().find(|record| record.position.is_some());
        let hash = before.map(|record| crate::hash_of(&record.to_bytes()));
        let first = before.is_none();
        let mut journal = Journal::new(facts, Term(u64::from(self.session)), hash);
        let resume = Resume {
            position: at.position,
            watermark: at.watermark,
            start_at: at.position.lsn,
            continuity: None,
            last: at.last,
            partial: at.partial,
        };
        self.records.extend(journal.claim(&resume, first, Marks { divergence, accepted: vec![] }, vec![]).progress);
        self.journal = Some(journal);
        self
    }

    fn close(&mut self, at: Reached) -> &mut Self {
        let journal = self.journal.as_mut().unwrap();
        let open = journal.open(vec![]);
        let close = journal.close(&at);
        self.records.extend([open, close]);
        self
    }

    /// The chain over what was changed by a test on purpose, from there on.
    fn rechain(&mut self) {
        let mut before: Option<String> = None;
        for record in self.records.iter_mut().filter(|record| record.position.is_some()) {
            record.previous_hash = before.take();
            before = Some(crate::hash_of(&record.to_bytes()));
        }
    }

    fn audit(&self) -> Audit {
        let mut audit = Audit::new(PROGRESS, Delivery::ExactlyOnce, true);
        for (offset, record) in self.records.iter().enumerate() {
            audit.progress(offset as i64, &record.to_bytes());
        }
        audit.progress_is_whole();
        audit
    }

    fn rules(&self) -> Vec<Rule> {
        rules(&mut self.audit())
    }
}

fn rules(audit: &mut Audit) -> Vec<Rule> {
    audit.take_faults().iter().map(|fault| fault.rule).collect()
}

fn two_sessions() -> Writer {
    let mut writer = Writer::new();
    writer.claim(reached(1, 100), None).close(reached(1, 200)).close(reached(1, 300));
    writer.claim(reached(1, 300), None).close(reached(1, 400));
    writer
}

/// `(partition, id without cluster, term)`, given in the order of their rank.
fn data(writer: &Writer, records: &[(i32, &str, u64)]) -> Vec<Rule> {
    let mut audit = writer.audit();
    for (offset, (partition, id, term)) in records.iter().enumerate() {
        let (id, chunk) = id.split_once(' ').map_or((*id, None), |(id, chunk)| (id, Some(chunk.as_bytes())));
        let id = format!("7/{id}");
        let published = Published::read(Some(id.as_bytes()), Some(term.to_string().as_bytes()), chunk).unwrap();
        let place = Place { topic: "orders.public.items".into(), partition: *partition, offset: offset as i64 };
        if audit.is_recorded(&published) {
            audit.data(&place, &published, None);
        } else {
            audit.unrecorded(&place, &published);
        }
    }
    audit.progress_is_whole();
    rules(&mut audit)
}

#[test]
fn a_good_history_has_no_fault() {
    let writer = two_sessions();
    let sound = [(0, "1/0/90/0", 1), (1, "1/0/90/1", 1), (0, "1/0/90/1.1", 1), (0, "1/0/A0/0", 1), (1, "1/0/170/0", 2)];
    assert_eq!(data(&writer, &sound), []);
    let looked = writer.audit().looked();
    assert_eq!((looked.progress, looked.claims), (11, 2));
}

#[test]
fn an_id_that_stands_twice_is_found_in_one_partition_and_in_two() {
    assert_eq!(data(&two_sessions(), &[(0, "1/0/90/0", 1), (0, "1/0/90/0", 1)]), [Rule::Duplicate]);
    assert_eq!(data(&two_sessions(), &[(0, "1/0/90/0", 1), (1, "1/0/90/0", 1)]), [Rule::Duplicate]);
}

#[test]
fn ids_and_terms_that_fall_are_found() {
    assert_eq!(data(&two_sessions(), &[(0, "1/0/A0/0", 1), (0, "1/0/90/0", 1)]), [Rule::OutOfOrder]);
    assert_eq!(data(&two_sessions(), &[(0, "1/0/90/0", 2), (0, "1/0/A0/0", 1)]), [Rule::TermFalls]);
    assert_eq!(data(&two_sessions(), &[(0, "1/0/90/0", 3)]), [Rule::TermUnknown]);
}

#[test]
fn a_change_that_is_missing_within_a_transaction_is_found_but_not_before_what_kafka_has_removed() {
    assert_eq!(data(&two_sessions(), &[(0, "1/0/90/0", 1), (1, "1/0/90/2", 1)]), [Rule::Hole]);
    assert_eq!(data(&two_sessions(), &[(0, "1/0/90/0", 1), (1, "1/0/90/0.2", 1)]), [Rule::Hole]);
    assert_eq!(data(&two_sessions(), &[(0, "1/0/90/1", 1)]), [Rule::Hole]);
    let mut audit = two_sessions().audit();
    let published = |id: &[u8]| Published::read(Some(id), Some(b"1"), None).unwrap();
    let place = Place { topic: "t".into(), partition: 0, offset: 0 };
    let first = published(b"7/1/0/90/3");
    audit.cut_at(audit.rank(&first));
    audit.data(&place, &first, None);
    audit.data(&Place { offset: 1, ..place.clone() }, &published(b"7/1/0/A0/0"), None);
    assert_eq!(rules(&mut audit), []);
}

#[test]
fn a_record_that_no_progress_knows_is_found() {
    assert_eq!(data(&two_sessions(), &[(0, "1/0/190/0", 2)]), [Rule::Unrecorded]);
    assert!(Published::read(Some(b"x"), Some(b"1"), None).is_none());
    assert_eq!(data_of_other_cluster(), [Rule::System]);
}

fn data_of_other_cluster() -> Vec<Rule> {
    let mut audit = two_sessions().audit();
    let published = Published::read(Some(b"8/1/0/90/0"), Some(b"1"), None).unwrap();
    audit.data(&Place { topic: "t".into(), partition: 0, offset: 0 }, &published, None);
    rules(&mut audit)
}

#[test]
fn a_large_transaction_is_recorded_chunk_by_chunk_and_has_to_end() {
    let mut writer = Writer::new();
    let partial = |changes_done, chunks| {
        let hash = String::new();
        Some(PartialTransaction { xid: 9, final_lsn: Lsn(0x90), changes_done, hash, chunks })
    };
    writer.claim(reached(1, 100), None).close(Reached { partial: partial(2, 1), ..reached(1, 100) });
    assert_eq!(data(&writer, &[(0, "1/0/90/0", 1), (0, "1/0/90/1", 1)]), []);
    assert_eq!(data(&writer, &[(0, "1/0/90/0", 1), (0, "1/0/90/1", 1), (0, "1/0/90/2 1", 1)]), [Rule::Unrecorded]);
    writer.close(reached(1, 0x98)).close(reached(1, 0x200));
    let chunked = [(0, "1/0/90/0", 1), (0, "1/0/90/1 1", 1), (0, "1/0/90/2 2/last", 1), (0, "1/0/A0/0", 1)];
    assert_eq!(data(&writer, &chunked), []);
    assert_eq!(data(&writer, &[chunked[0], chunked[1], (0, "1/0/A0/0", 1)]), [Rule::Chunks]);
    assert_eq!(data(&writer, &[chunked[0], (0, "1/0/90/1 2", 1), (0, "1/0/90/2 1/last", 1)]), [Rule::Chunks]);
    assert_eq!(data(&writer, &[chunked[0], chunked[1], chunked[2], (0, "1/0/90/3 3", 1)]), [Rule::Chunks]);
}

#[test]
fn a_broken_chain_is_found_but_not_where_compaction_broke_it() {
    let mut writer = two_sessions();
    writer.records[4].worker = "somebody".into();
    assert_eq!(writer.rules(), [Rule::Chain]);
    // What compaction leaves at the beginning: one position, one open.
    let mut writer = two_sessions();
    writer.records.drain(1..5);
    assert_eq!(writer.rules(), []);
}

#[test]
fn what_compaction_took_from_the_progress_is_known_from_the_markers() {
    let mark = DivergenceMark {
        old_timeline: Timeline(1),
        old_timeline_last: Timeline(1),
        new_timeline: Timeline(2),
        from_lsn: Lsn(200),
        to_lsn: Lsn(300),
    };
    let mut writer = Writer::new();
    writer.claim(reached(1, 100), None).close(reached(1, 300));
    writer.history = History::new(vec![(Timeline(1), Lsn(200))], Timeline(2));
    writer.claim(reached(1, 200), Some(mark)).close(reached(2, 400)).close(reached(2, 500));
    let is_divergence = |record: &&ProgressRecord| record.record_type == crate::RecordType::Divergence;
    let marker = writer.records.iter().find(is_divergence).unwrap().to_bytes();
    // One position and one open are left of all that was before the last transaction.
    let last = writer.records.len() - 2;
    writer.records.drain(..last - 1);
    let phantoms = |marked: bool| {
        let mut audit = Audit::new(PROGRESS, Delivery::ExactlyOnce, true);
        if marked {
            audit.marker("__pgbaton.orders.markers", 0, &marker);
        }
        for (offset, record) in writer.records.iter().enumerate() {
            audit.progress(offset as i64, &record.to_bytes());
        }
        let published = Published::read(Some(b"7/1/0/D0/0"), Some(b"1"), None).unwrap();
        audit.data(&Place { topic: "t".into(), partition: 0, offset: 0 }, &published, None);
        audit.progress_is_whole();
        rules(&mut audit)
    };
    assert_eq!(phantoms(true), []);
    assert_eq!(phantoms(false), [Rule::Unmarked]);
}

#[test]
fn a_commit_of_a_session_that_was_replaced_is_found_where_the_claim_was_compacted_away() {
    let mut writer = two_sessions();
    let old: Vec<_> = writer.records[5..7].to_vec();
    writer.records.extend(old);
    writer.rechain();
    let close_of_second = writer.records.len() - 4;
    writer.records.drain(..close_of_second);
    assert!(writer.rules().contains(&Rule::TermFalls), "{:?}", writer.rules());
}

#[test]
fn who_begins_in_the_middle_looks_for_holes_from_there_on() {
    let writer = two_sessions();
    let mut audit = writer.audit();
    audit.cut_here();
    let take = |audit: &mut Audit, offset: i64, id: &[u8]| {
        let published = Published::read(Some(id), Some(b"2"), None).unwrap();
        audit.data(&Place { topic: "t".into(), partition: 0, offset }, &published, None);
    };
    take(&mut audit, 0, b"7/1/0/90/3");
    take(&mut audit, 1, b"7/1/0/90/5");
    assert_eq!(rules(&mut audit), []);
    take(&mut audit, 2, b"7/1/0/200/1");
    assert_eq!(rules(&mut audit), [Rule::Hole]);
    // What stands twice is found all the same.
    take(&mut audit, 3, b"7/1/0/90/3");
    assert_eq!(rules(&mut audit), [Rule::OutOfOrder]);
}

#[test]
fn brackets_that_do_not_fit_are_found() {
    // A close whose open is gone.
    let mut writer = two_sessions();
    writer.records.remove(5);
    assert_eq!(writer.rules(), [Rule::Brackets]);
    // A transaction that nobody has counted.
    let mut writer = two_sessions();
    writer.records.drain(3..5);
    writer.rechain();
    assert_eq!(writer.rules(), [Rule::Brackets]);
}

#[test]
fn a_torn_transaction_is_found_at_the_end_and_where_the_next_claim_does_not_name_it() {
    let mut writer = two_sessions();
    writer.records.pop();
    assert_eq!(writer.rules(), [Rule::Torn]);

    let torn = |named: bool| {
        let mut writer = Writer::new();
        writer.claim(reached(1, 100), None).close(reached(1, 0x90));
        // The close of this one was lost: its open is committed.
        let open = writer.journal.as_mut().unwrap().open(vec![]);
        writer.records.push(open);
        writer.claim(reached(1, 0x90), None).close(reached(1, 0x200));
        if named {
            let greatest_id = "7/1/0/A0/1".parse().ok();
            let torn = Some(Torn { session: "s1".into(), number: 2, greatest_id, count: 1 });
            let claim = writer.records.iter().rposition(|record| record.record_type == crate::RecordType::Claim);
            writer.records[claim.unwrap()].torn = torn;
            writer.rechain();
        }
        writer
    };
    assert_eq!(torn(false).rules(), [Rule::Torn]);
    assert_eq!(torn(true).rules(), []);
    // The part that was visible is of the old term; what was published again around it, of the new one.
    let reconciled = [(0, "1/0/A0/0", 2), (1, "1/0/A0/1", 1), (0, "1/0/B0/0", 2)];
    assert_eq!(data(&torn(true), &reconciled), []);
}

#[test]
fn a_term_that_falls_and_a_commit_of_a_session_that_was_replaced_are_found() {
    let mut writer = two_sessions();
    let claim = writer.records.iter().rposition(|record| record.record_type == crate::RecordType::Claim).unwrap();
    writer.records[claim].term = Some(Term(1));
    writer.rechain();
    assert_eq!(writer.rules(), [Rule::TermFalls, Rule::TermFalls]);

    let mut writer = two_sessions();
    let old: Vec<_> = writer.records[5..7].to_vec();
    writer.records.extend(old);
    writer.rechain();
    assert!(writer.rules().contains(&Rule::TermFalls));
}

#[test]
fn a_position_that_falls_is_found() {
    let mut writer = Writer::new();
    writer.claim(reached(1, 300), None).close(reached(1, 200));
    assert_eq!(writer.rules(), [Rule::PositionFalls]);
}

#[test]
fn a_fork_below_what_was_published_needs_its_marker() {
    let forked = |mark: Option<DivergenceMark>| {
        let mut writer = Writer::new();
        writer.claim(reached(1, 100), None).close(reached(1, 300));
        writer.history = History::new(vec![(Timeline(1), Lsn(200))], Timeline(2));
        writer.claim(reached(1, 200), mark).close(reached(2, 400));
        writer
    };
    let mark = DivergenceMark {
        old_timeline: Timeline(1),
        old_timeline_last: Timeline(1),
        new_timeline: Timeline(2),
        from_lsn: Lsn(200),
        to_lsn: Lsn(300),
    };
    let phantom = [(0, "1/0/90/0", 1), (0, "1/0/D0/0", 1), (0, "2/0/E0/0", 2)];
    assert_eq!(forked(Some(mark)).rules(), []);
    assert_eq!(data(&forked(Some(mark)), &phantom), []);
    assert_eq!(forked(None).rules(), [Rule::Unmarked]);
    assert!(data(&forked(None), &phantom).contains(&Rule::Unmarked));
    // A fork above everything that was published needs none.
    let mut writer = Writer::new();
    writer.claim(reached(1, 100), None).close(reached(1, 300));
    writer.history = History::new(vec![(Timeline(1), Lsn(300))], Timeline(2));
    writer.claim(reached(1, 300), None).close(reached(2, 400));
    assert_eq!(writer.rules(), []);
}

#[test]
fn a_pipeline_that_was_begun_anew_begins_anew() {
    let mut writer = two_sessions();
    let genesis = {
        let mut other = Writer::new();
        other.session = writer.session;
        other.claim(reached(1, 50), None).close(reached(1, 150));
        other.records
    };
    writer.records.extend(genesis);
    writer.rechain();
    assert_eq!(writer.rules(), []);
    assert_eq!(data(&writer, &[(0, "1/0/170/0", 2), (0, "1/0/60/0", 3)]), []);
}

#[test]
fn a_value_that_is_no_progress_record_is_found() {
    let mut audit = two_sessions().audit();
    audit.progress(99, b"{}");
    assert_eq!(rules(&mut audit), [Rule::Undecodable]);
    audit.foreign(&Place { topic: "t".into(), partition: 0, offset: 3 });
    assert_eq!(rules(&mut audit), [Rule::Undecodable]);
}

/// `(partition, id without cluster, term, what is in it)`, in the order of each partition, as a pipeline leaves it that delivers at
/// least once; the checkpoint is the last position of the writer.
fn told(records: &[(i32, &str, u64, &str)]) -> (Vec<Rule>, Looked) {
    let mut audit = Audit::new(PROGRESS, Delivery::AtLeastOnce, true);
    audit.checkpoint(two_sessions().records.pop().unwrap());
    // Merged as the reader of the topics does it: what a partition tells again goes past.
    let mut partitions: BTreeMap<i32, Vec<_>> = BTreeMap::new();
    for (offset, (partition, id, term, value)) in records.iter().enumerate() {
        let (id, term) = (format!("7/{id}"), term.to_string());
        let published = Published::read(Some(id.as_bytes()), Some(term.as_bytes()), None).unwrap();
        let place = Place { topic: "orders.public.items".into(), partition: *partition, offset: offset as i64 };
        let content = Content::of(&[Some(value.as_bytes())]);
        partitions.entry(*partition).or_default().push((place, published, content));
    }
    let mut partitions: Vec<_> = partitions.into_values().map(|records| records.into_iter().peekable()).collect();
    loop {
        for partition in &mut partitions {
            while partition.next_if(|(place, published, content)| audit.repeats(place, published, *content)).is_some() {
            }
        }
        let heads = partitions.iter_mut().enumerate().filter_map(|(at, partition)| Some((partition.peek()?.1.id, at)));
        let Some((_, least)) = heads.min() else { break };
        let (place, published, content) = partitions[least].next().unwrap();
        match audit.is_recorded(&published) {
            true => audit.data(&place, &published, Some(content)),
            false => audit.unrecorded(&place, &published),
        }
    }
    audit.progress_is_whole();
    (rules(&mut audit), audit.looked())
}

/// Two sessions; the second begins at a checkpoint behind `1/0/90`, and tells two transactions again. The last record is not
/// covered by the checkpoint yet.
const REPEATED: [(i32, &str, u64, &str); 10] = [
    (0, "1/0/90/0", 1, "a"),
    (0, "1/0/A0/0", 1, "b"),
    (1, "1/0/A0/1", 1, "c"),
    (0, "1/0/B0/0", 1, "d"),
    (0, "1/0/A0/0", 2, "b"),
    (1, "1/0/A0/1", 2, "c"),
    (0, "1/0/B0/0", 2, "d"),
    (1, "1/0/B0/1", 2, "e"),
    (0, "1/0/C0/0", 2, "f"),
    (0, "1/0/190/0", 2, "g"),
];

#[test]
fn at_least_once_what_a_session_tells_again_is_no_fault() {
    let (rules, looked) = told(&REPEATED);
    assert_eq!((rules, looked.records, looked.repeated, looked.transactions), (vec![], 6, 3, 4));
    // Whatever of an older session comes late was told by the newer one.
    let late = [&REPEATED[..9], &[(1, "1/0/B0/1", 1, "e")]].concat();
    assert_eq!(told(&late).0, []);
}

#[test]
fn at_least_once_what_is_no_honest_repeat_is_found() {
    let with = |at: usize, record| {
        let mut records = REPEATED.to_vec();
        records.insert(at, record);
        told(&records).0
    };
    let without = |left_out: &[usize]| {
        let kept = REPEATED.iter().enumerate().filter(|(at, _)| !left_out.contains(at)).map(|(_, record)| *record);
        told(&kept.collect::<Vec<_>>()).0
    };
    // Told again otherwise.
    let mut altered = REPEATED;
    altered[4].3 = "x";
    assert_eq!(told(&altered).0, [Rule::Altered]);
    // Told again by the session that had told it, and in another partition.
    assert_eq!(with(7, (0, "1/0/B0/0", 2, "d")), [Rule::Duplicate]);
    assert_eq!(with(9, (1, "1/0/C0/0", 1, "f")), [Rule::Duplicate]);
    // Told by nobody, among what is told again and among what is told first.
    assert_eq!(with(5, (0, "1/0/A8/0", 2, "x")), [Rule::OutOfOrder]);
    assert_eq!(with(9, (1, "1/0/C0/2", 2, "x")), [Rule::Hole]);
    assert_eq!(with(9, (0, "1/0/C8/0", 3, "x")), [Rule::TermUnknown]);
    // First occurrences that have changed places.
    let mut swapped = REPEATED;
    swapped.swap(0, 1);
    assert_eq!(told(&swapped).0, [Rule::OutOfOrder]);
    // A change that neither session has told, and one that only the second has.
    assert_eq!(without(&[1, 4]), [Rule::Hole]);
    assert_eq!(without(&[1]), [Rule::Hole, Rule::OutOfOrder]);
}

#[test]
fn at_least_once_who_begins_in_the_middle_does_not_judge_what_he_has_not_seen() {
    let mut audit = Audit::new(PROGRESS, Delivery::AtLeastOnce, true);
    let mut checkpoint = two_sessions().records.pop().unwrap();
    checkpoint.position = Some(position(1, 0xA8));
    audit.checkpoint(checkpoint);
    audit.cut_here();
    let mut take = |offset: i64, id: &[u8]| {
        let published = Published::read(Some(id), Some(b"2"), None).unwrap();
        let place = Place { topic: "t".into(), partition: 0, offset };
        let content = Content::of(&[Some(id)]);
        if !audit.repeats(&place, &published, content) {
            audit.data(&place, &published, Some(content));
        }
        rules(&mut audit)
    };
    assert_eq!(take(0, b"7/1/0/A0/3"), []);
    // Told before there.
    assert_eq!(take(1, b"7/1/0/90/0"), []);
    assert_eq!(take(2, b"7/1/0/B8/0"), []);
    assert_eq!(take(3, b"7/1/0/B0/0"), [Rule::OutOfOrder]);
}
