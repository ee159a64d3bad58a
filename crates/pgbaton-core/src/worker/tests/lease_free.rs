//! Without etcd: slot and claim are all that workers have in common.

use super::*;

fn lease_free(nonce: &str) -> Bench {
    let mut bench = Bench::new();
    let identity = Identity { nonce: nonce.into(), ..bench.worker.identity().clone() };
    let policy = Policy {
        leased: false,
        takeover_grace: Duration::from_secs(1),
        fenced: true,
        slot_guarded: true,
        accept_gaps: false,
        halt_on_shrink: false,
    };
    bench.worker = Worker::new(identity, policy);
    bench
}

/// A look every half second that shows nobody on the slot, until the worker begins. Answers how long that took.
fn until_it_begins(bench: &mut Bench) -> Duration {
    let began = bench.now;
    for _ in 0..100 {
        if bench.observe(None, 900) == [Effect::Inspect] {
            return bench.now.since(began);
        }
        bench.now = bench.now + Duration::from_millis(500);
    }
    panic!("it never begins")
}

fn reader(nonce: &str) -> ReaderName {
    ReaderName { pipeline: "p".into(), worker: "v".into(), nonce: nonce.into(), term: 1, revision: 0 }
}

fn read_by(bench: &Bench, name: Option<String>) -> Input {
    let observation = Observation { reader_name: name, ..observation(Some(77), 900) };
    Input::Observed { asked_at: bench.now, observation, durable: None }
}

/// Progress of a session that `position init` has begun.
fn begun() -> FenceRead {
    let mut read = read_after_one_session();
    let (record, _) = read.position.as_mut().unwrap();
    record.lease = None;
    read
}

/// The same after another session has claimed.
fn claimed_by(session: &str) -> FenceRead {
    let mut read = begun();
    read.position.as_mut().unwrap().0.session = session.into();
    read.last_open.as_mut().unwrap().session = session.into();
    read
}

fn inspected(bench: &mut Bench) -> Vec<Effect> {
    bench.tell(Input::Inspected(Box::new(inspection())))
}

fn stream(bench: &mut Bench) {
    until_it_begins(bench);
    assert_eq!(inspected(bench), [Effect::Fence]);
    let effects = bench.tell(Input::SinkFenced(Box::new(begun())));
    assert_eq!(claimed(&effects).records.progress.last().unwrap().lease, None);
    bench.tell(Input::Claimed);
    assert_eq!(bench.tell(Input::Started), [Effect::Observe]);
    assert_eq!(bench.observe(Some(MY_BACKEND), 900), [Effect::Accept, Effect::ClearVerdict]);
    assert_eq!(bench.worker.state(), State::Stream);
}

/// The tenure ends in a verdict: at the second look, at which nobody else has claimed.
fn stopped(bench: &mut Bench, seen: &Inspection, read: &FenceRead) {
    until_it_begins(bench);
    for _ in 0..2 {
        assert_eq!(bench.worker.gap(), None);
        assert_eq!(bench.tell(Input::Inspected(Box::new(seen.clone()))), [Effect::Fence]);
        let effects = bench.tell(Input::SinkFenced(Box::new(read.clone())));
        assert!(matches!(effects[..], [Effect::EndSession { .. }]), "{effects:?}");
        bench.tell(Input::SessionEnded);
        bench.wait(Duration::from_millis(100));
    }
    assert_eq!(bench.worker.state(), State::Quarantine);
}

fn fenced() -> Input {
    Input::Broken(SessionEnd::Sink { code: Code::Fenced, detail: "a newer producer".into() })
}

#[test]
fn a_slot_has_to_be_free_in_looks_that_lie_a_grace_apart() {
    let mut bench = lease_free("n1");
    let took = until_it_begins(&mut bench);
    assert!(took >= Duration::from_secs(1) && took <= Duration::from_millis(2500), "{took:?}");

    let mut bench = lease_free("n1");
    for _ in 0..20 {
        assert_eq!(bench.observe(None, 900), []);
        bench.now = bench.now + Duration::from_millis(900);
        let seen = read_by(&bench, Some(reader("n2").to_string()));
        assert_eq!(bench.tell(seen), [], "somebody reads it in between");
    }
    bench.observe(None, 900);
    bench.now = bench.now + Duration::from_secs(10);
    let kind = FailureKind::Passing;
    let unseen = Failure { code: Code::PostgresUnreachable, detail: String::new(), kind };
    assert_eq!(bench.tell(Input::NotObserved(unseen)), []);
    assert_eq!(bench.observe(None, 900), [], "the leader was out of sight");
}

#[test]
fn workers_that_start_together_do_not_all_begin_at_the_same_time() {
    let all: std::collections::BTreeSet<u64> = (0..8)
        .map(|number| {
            let mut bench = lease_free(&format!("{number:08x}"));
            let began = bench.now;
            while bench.observe(None, 900) != [Effect::Inspect] {
                bench.now = bench.now + Duration::from_millis(10);
            }
            bench.now.since(began).as_millis() as u64
        })
        .collect();
    assert!(all.len() >= 6, "{all:?}");
}

#[test]
fn a_stream_without_a_lease_does_not_end_by_time() {
    let mut bench = lease_free("n1");
    stream(&mut bench);
    for _ in 0..100 {
        bench.now = bench.now + Duration::from_secs(3600);
        bench.observe(Some(MY_BACKEND), 900);
    }
    assert_eq!(bench.worker.state(), State::Stream);
    assert!(bench.worker.active_until().is_some() && bench.worker.coordination_answers());
    assert_eq!(bench.worker.guarded_since(), None);
}

#[test]
fn whoever_finds_a_reader_on_the_slot_stands_by_and_ends_nobody() {
    for name in [Some(reader("n2").to_string()), Some("pg_recvlogical".to_owned()), None] {
        let mut bench = lease_free("n1");
        until_it_begins(&mut bench);
        let found = Inspection { reader_pid: Some(77), reader_name: name, ..inspection() };
        let effects = bench.tell(Input::Inspected(Box::new(found)));
        assert!(matches!(effects[..], [Effect::EndSession { commit: false, .. }]), "{effects:?}");
        assert_eq!(bench.tell(Input::SessionEnded), []);
        assert_eq!(bench.worker.state(), State::Cooldown);
    }
    let mut bench = lease_free("n1");
    until_it_begins(&mut bench);
    let own = Inspection { reader_pid: Some(77), reader_name: Some(reader("n1").to_string()), ..inspection() };
    assert_eq!(bench.tell(Input::Inspected(Box::new(own))), [], "our own session of before goes by itself");
    assert_eq!(bench.worker.state(), State::Inspect);
}

#[test]
fn a_slot_that_is_taken_after_the_claim_is_left_to_who_has_it() {
    let mut bench = lease_free("n1");
    until_it_begins(&mut bench);
    inspected(&mut bench);
    bench.tell(Input::SinkFenced(Box::new(begun())));
    bench.tell(Input::Claimed);
    let in_use = Failure { code: Code::SlotForeignHolder, detail: "55006".into(), kind: FailureKind::SlotInUse };
    let effects = bench.tell(Input::NotStarted(in_use));
    assert!(matches!(effects[..], [Effect::EndSession { commit: false, .. }]), "{effects:?}");
    bench.tell(Input::SessionEnded);
    assert_eq!(bench.worker.state(), State::Cooldown);
}

#[test]
fn a_fenced_worker_goes_on_only_where_nobody_else_has_claimed() {
    let mut bench = lease_free("n1");
    stream(&mut bench);
    bench.tell(fenced());
    bench.tell(Input::SessionEnded);
    assert_eq!(bench.wait(Duration::from_millis(100)), [Effect::Inspect]);
    inspected(&mut bench);
    let effects = bench.tell(Input::SinkFenced(Box::new(claimed_by("s2"))));
    assert!(matches!(effects[..], [Effect::Claim(_)]), "its own claim is the last one: {effects:?}");

    let mut bench = lease_free("n1");
    stream(&mut bench);
    bench.tell(fenced());
    bench.tell(Input::SessionEnded);
    bench.wait(Duration::from_millis(100));
    inspected(&mut bench);
    let effects = bench.tell(Input::SinkFenced(Box::new(claimed_by("theirs"))));
    assert!(matches!(effects[..], [Effect::EndSession { .. }]), "another one has claimed: {effects:?}");
    bench.tell(Input::SessionEnded);
    assert_eq!(bench.worker.state(), State::Cooldown);
}

#[test]
fn a_worker_that_is_fenced_before_its_claim_lets_the_later_one_go_first() {
    let mut bench = lease_free("n1");
    until_it_begins(&mut bench);
    inspected(&mut bench);
    bench.tell(fenced());
    bench.tell(Input::SessionEnded);
    assert_eq!(bench.worker.state(), State::Cooldown);
}

#[test]
fn a_handover_leaves_the_others_the_time_to_see_it() {
    let mut bench = lease_free("n1");
    stream(&mut bench);
    let effects = bench.tell(Input::Handover(None));
    assert!(matches!(effects[..], [Effect::EndSession { commit: true, .. }]), "{effects:?}");
    assert_eq!(bench.tell(Input::SessionEnded), [], "there is no lease to give back");
    let since = bench.now;
    let mut other = lease_free("n2");
    other.now = since;
    let others = until_it_begins(&mut other);
    while bench.observe(None, 900).is_empty() {
        bench.now = bench.now + Duration::from_millis(500);
    }
    assert!(bench.now.since(since) > others + Duration::from_secs(1), "{others:?}");
}

#[test]
fn without_etcd_there_is_no_genesis_but_by_a_persons_hand() {
    let mut bench = lease_free("n1");
    stopped(&mut bench, &inspection(), &nothing_read());
    assert_eq!(bench.worker.gap().map(|gap| gap.code), Some(Code::ProgressMissing));
    assert!(bench.worker.gap().unwrap().text.contains("position init --from-slot"));
    bench.now = bench.now + Duration::from_secs(60);
    assert_eq!(bench.observe(None, 900), []);
    let seen = read_by(&bench, Some(reader("n2").to_string()));
    bench.tell(seen);
    assert_eq!(bench.worker.state(), State::Standby, "another one was told where to begin, and streams");
}

#[test]
fn a_verdict_of_who_was_slow_is_not_spoken_where_another_one_has_claimed() {
    let mut bench = lease_free("n1");
    until_it_begins(&mut bench);
    let ahead = Inspection { slot: SlotState::Usable { confirmed_flush_lsn: Lsn(1500) }, ..inspection() };
    bench.tell(Input::Inspected(Box::new(ahead.clone())));
    bench.tell(Input::SinkFenced(Box::new(begun())));
    bench.tell(Input::SessionEnded);
    bench.wait(Duration::from_millis(100));
    bench.tell(Input::Inspected(Box::new(ahead)));
    bench.tell(Input::SinkFenced(Box::new(claimed_by("theirs"))));
    bench.tell(Input::SessionEnded);
    assert_eq!(bench.worker.state(), State::Cooldown);
}

#[test]
fn a_gap_is_accepted_by_the_worker_that_is_asked() {
    let mut bench = lease_free("n1");
    let ahead = Inspection { slot: SlotState::Usable { confirmed_flush_lsn: Lsn(1500) }, ..inspection() };
    stopped(&mut bench, &ahead, &begun());
    assert_eq!(bench.worker.gap().map(|gap| gap.code), Some(Code::SlotAhead));
    bench.tell(Input::GapAccepted);
    assert_eq!(bench.worker.state(), State::Standby);
    until_it_begins(&mut bench);
    bench.tell(Input::Inspected(Box::new(ahead)));
    let effects = bench.tell(Input::SinkFenced(Box::new(begun())));
    assert_eq!(claimed(&effects).records.markers.len(), 1, "the marker names what is missing");
}

#[test]
fn a_foreign_consumer_is_told_by_who_stands_by() {
    let mut bench = lease_free("n1");
    for _ in 0..2 {
        let seen = read_by(&bench, Some("pg_recvlogical".to_owned()));
        assert_eq!(bench.tell(seen), []);
    }
    assert_eq!(bench.worker.reasons()[0].0, Code::SlotForeignHolder);
    let seen = read_by(&bench, Some(reader("n2").to_string()));
    bench.tell(seen);
    assert_eq!(bench.worker.reasons(), []);
}
