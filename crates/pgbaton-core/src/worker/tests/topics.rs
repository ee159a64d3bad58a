//! The topics that were written to, and others of their names.

use super::*;

const TOPIC: &str = "orders.public.items";

/// What one session has left, when the topic that it wrote to is this one now.
fn read_with_topic(id: &str) -> FenceRead {
    let recorded = [(TOPIC.to_owned(), "one".to_owned())].into();
    let found = [(TOPIC.to_owned(), Some(id.to_owned()))].into();
    FenceRead { topic_ids: TopicIds { recorded, found }, ..read_after_one_session() }
}

#[test]
fn a_claim_says_which_topics_it_writes_to() {
    let mut bench = Bench::new();
    bench.win();
    bench.claim(read_with_topic("one"));
    let effects = bench.tell(Input::HolderRead(Some(true)));
    let claim = claimed(&effects).records.progress.last().unwrap().clone();
    assert_eq!(claim.topic_ids, Some([(TOPIC.to_owned(), "one".to_owned())].into()));
}

#[test]
fn a_topic_that_was_made_again_is_believed_after_ten_seconds_and_can_be_accepted() {
    let mut bench = Bench::new();
    bench.win();
    let began = bench.now;
    loop {
        let effects = bench.claim(read_with_topic("two"));
        assert!(matches!(effects[..], [Effect::ReadHolder(_)]), "{effects:?}");
        bench.tell(Input::HolderRead(Some(true)));
        bench.tell(Input::SessionEnded);
        bench.keep_alive();
        if !bench.wait(Duration::from_millis(700)).contains(&Effect::Inspect) {
            break;
        }
    }
    bench.tell(Input::Released);
    let gap = bench.worker.gap().cloned().expect("a gap");
    assert_eq!((gap.code, gap.from_lsn, gap.to_lsn), (Code::TopicRecreated, Lsn(0), Some(Lsn(900))));
    assert!(bench.now.since(began) >= Duration::from_secs(10));

    let verdict = VerdictSeen { code: gap.code, from_lsn: gap.from_lsn, to_lsn: gap.to_lsn, accepted: true };
    let view = HolderView { revision: 130, holder: None, successor: None, paused: false, verdict: Some(verdict) };
    bench.tell(Input::HolderSeen(view));
    assert_eq!(bench.worker.state(), State::Standby);
    let (asked_at, ttl) = (bench.now, Duration::from_secs(10));
    bench.observe(None, 900);
    bench.tell(Input::Won { lease_id: 2, revision: 140, ttl, asked_at, cluster_id: "e".into() });
    bench.claim(read_with_topic("two"));
    let effects = bench.tell(Input::HolderRead(Some(true)));
    let records = &claimed(&effects).records;
    let (marker, claim) = (&records.markers[0], records.progress.last().unwrap());
    assert_eq!(marker.accepted.map(|mark| mark.code), Some(Code::TopicRecreated));
    assert_eq!(marker.topics, [TOPIC]);
    assert_eq!(claim.topic_ids, Some([(TOPIC.to_owned(), "two".to_owned())].into()));
    assert_eq!(claim.position.map(|position| position.lsn), Some(Lsn(900)), "the stream goes on where it was");
}
