//! A publication that is altered.

use super::*;

/// Published before were items and orders; the publication has only items now.
fn read_before_a_table_was_removed() -> FenceRead {
    let mut read = read_after_one_session();
    let (record, _) = read.position.as_mut().unwrap();
    record.publication.as_mut().unwrap().tables_hash = "before".into();
    let id = |name: &str| (format!("orders.public.{name}"), "id".to_owned());
    read.topic_ids.recorded = [id("items"), id("orders")].into();
    read
}

#[test]
fn tables_that_are_not_published_any_more_are_named_by_a_marker_once_and_by_the_status() {
    let mut bench = Bench::new();
    bench.win();
    bench.claim(read_before_a_table_was_removed());
    let effects = bench.tell(Input::HolderRead(Some(true)));
    let plan = claimed(&effects);
    let [marker] = &plan.records.markers[..] else { panic!("{:?}", plan.records.markers) };
    assert_eq!(marker.accepted.map(|mark| (mark.code, mark.to_lsn)), Some((Code::PublicationShrunk, None)));
    assert_eq!(marker.topics, ["orders.public.orders"]);
    assert_eq!(plan.journal.topic_ids().keys().collect::<Vec<_>>(), ["orders.public.items"], "not named again");
    assert_eq!(bench.worker.reasons()[0].0, Code::PublicationShrunk);

    let mut grown = Bench::new();
    grown.win();
    let mut read = read_before_a_table_was_removed();
    read.topic_ids.recorded.remove("orders.public.orders");
    grown.claim(read);
    let effects = grown.tell(Input::HolderRead(Some(true)));
    assert_eq!(claimed(&effects).records.markers, [], "tables were only added");
}

#[test]
fn where_an_operator_wants_it_tables_that_are_not_published_any_more_stop_the_stream_until_that_is_accepted() {
    let mut bench = Bench::new();
    bench.worker.policy.halt_on_shrink = true;
    bench.win();
    bench.claim(read_before_a_table_was_removed());
    bench.tell(Input::HolderRead(Some(true)));
    bench.tell(Input::SessionEnded);
    bench.tell(Input::Released);
    let gap = bench.worker.gap().expect("it stops").clone();
    assert_eq!((gap.code, gap.from_lsn, gap.to_lsn), (Code::PublicationShrunk, Lsn(900), None));
    assert!(gap.text.contains("orders.public.orders"), "{}", gap.text);
    let verdict = VerdictSeen { code: gap.code, from_lsn: gap.from_lsn, to_lsn: None, accepted: true };
    let view = HolderView { revision: 130, holder: None, successor: None, paused: false, verdict: Some(verdict) };
    bench.tell(Input::HolderSeen(view));
    assert_eq!(bench.worker.state(), State::Standby);
}

#[test]
fn a_publication_that_is_altered_ends_the_session_and_the_next_one_claims_what_it_has() {
    let mut bench = Bench::new();
    bench.stream();
    let altered = Observation { members: "another".into(), ..observation(Some(MY_BACKEND), 900) };
    let effects = bench.tell(Input::Observed { asked_at: bench.now, observation: altered, durable: None });
    assert!(matches!(effects[..], [Effect::EndSession { .. }]), "{effects:?}");
}
