//! Transactions that became visible in part.

use super::*;
use crate::{EventId, Found, Phantoms, Reached, Remains, Standing};

#[test]
fn a_torn_transaction_is_read_back_before_the_verdict_and_named_by_the_claim() {
    let mut bench = Bench::new();
    bench.win();
    let mut read = read_after_one_session();
    read.last_open = Some(ProgressRecord { number: 4, ..crate::first_open("s1", "worker-1") });
    let effects = bench.claim(read);
    let [Effect::ReadBack(known)] = &effects[..] else { panic!("not read back: {effects:?}") };
    let left: EventId = "7/1/0/400/0".parse().unwrap();
    assert_eq!(known.standing(&left, None), Standing::Beyond);
    let found = Found { topic: "orders.public.items".into(), key: None, id: left };
    let effects = bench.tell(Input::ReadBack(Remains::new(vec![found])));
    assert!(matches!(effects[..], [Effect::ReadHolder(_)]), "{effects:?}");
    let effects = bench.tell(Input::HolderRead(Some(true)));
    let plan = claimed(&effects);
    let torn = plan.records.progress[0].torn.as_ref().expect("the claim names it");
    assert_eq!((torn.number, torn.count, torn.greatest_id), (4, 1, Some(left)));
    assert!(plan.remains.as_ref().is_some_and(|remains| remains.hold("orders.public.items", None, &left)));
    assert_eq!(bench.worker.reasons()[0].0, Code::TornTransaction);
}

/// Two standbys were promoted to timeline 2, one after the other, and a transaction of the first is torn.
#[test]
fn what_a_torn_transaction_has_left_on_a_branch_that_is_gone_keeps_nothing_back_now_or_later() {
    let mut read = read_after_one_session();
    let (record, _) = read.position.as_mut().unwrap();
    record.history = Some(vec![(Timeline(1), Lsn(1500))]);
    record.server_timeline = Some(Timeline(2));
    read.last_open = Some(ProgressRecord { number: 4, ..crate::first_open("s1", "worker-1") });
    let mut inspection = inspection();
    inspection.server.history = History::new(vec![(Timeline(1), Lsn(1000))], Timeline(2));
    let id =
        |lsn| EventId { system_identifier: SYSTEM, timeline: Timeline(2), commit_lsn: Lsn(lsn), change: 0, part: 0 };
    let found = Found { topic: "orders.public.items".into(), key: None, id: id(1600) };

    let mut bench = Bench::new();
    bench.win();
    bench.tell(Input::Inspected(Box::new(inspection)));
    bench.tell(Input::HolderRead(Some(true)));
    bench.tell(Input::SinkFenced(Box::new(read)));
    bench.tell(Input::ReadBack(Remains::new(vec![found])));
    let effects = bench.tell(Input::HolderRead(Some(true)));
    let plan = claimed(&effects);
    let mark = plan.records.markers[0].divergence.expect("what the torn transaction has left is named");
    assert_eq!((mark.from_lsn, mark.to_lsn), (Lsn(1000), Lsn(1600)));
    let remains = plan.remains.as_ref().unwrap();
    assert!(!remains.hold("orders.public.items", None, &id(1550)), "it is a transaction of the branch that goes on");

    let phantoms = vec![Phantoms { term: Term(2), from_lsn: Lsn(1000), to_lsn: Lsn(1600) }];
    let mut journal = plan.journal.clone();
    let mut close = |lsn| {
        let mut reached = Reached::from(&plan.resume);
        reached.position.lsn = Lsn(lsn);
        journal.close(&reached).phantoms
    };
    assert_eq!(plan.records.progress.last().unwrap().phantoms, phantoms);
    assert_eq!(close(1600), phantoms);
    assert_eq!(close(1601), phantoms, "the position that passes them is not known before");
    assert_eq!(close(1602), []);
}
