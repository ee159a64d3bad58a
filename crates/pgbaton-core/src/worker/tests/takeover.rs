//! Taking over on evidence, going on without etcd, handing over, pausing, accepting: what is decided about a tenure from
//! outside its session.

use super::*;

/// A standby that has heard worker-2 stream at revision 90.
fn following() -> Bench {
    let mut bench = Bench::new();
    bench.see(Some(("worker-2", 90)), None);
    bench.tell(Input::HolderHeard { revision: 90, saying: Saying::Streaming });
    bench.observe(Some(77), 900);
    bench
}

#[test]
fn a_holder_that_is_gone_is_replaced_as_soon_as_the_slot_is_free() {
    let mut bench = following();
    assert_eq!(bench.tell(Input::HolderUnheard { revision: 90 }), [Effect::Observe], "the slot is still read");
    let replacing = Some(Replaced { revision: 90, lease_id: 9 });
    assert_eq!(bench.observe(None, 900), [Effect::Contend { replacing, tenures: 1 }]);
    let asked_at = bench.now;
    bench.tell(Input::Won {
        lease_id: 1,
        revision: 100,
        ttl: Duration::from_secs(10),
        asked_at,
        cluster_id: "e".into(),
    });
    assert_eq!(bench.worker.state(), State::Inspect);
}

#[test]
fn a_cooldown_is_cut_to_five_seconds_when_the_holder_is_gone() {
    let mut bench = Bench::new();
    bench.worker.short_tenures = 5;
    bench.stream();
    bench.see(Some(("worker-2", 120)), None);
    bench.tell(Input::SessionEnded);
    bench.tell(Input::Released);
    assert_eq!(bench.worker.state(), State::Cooldown);
    bench.tell(Input::HolderHeard { revision: 120, saying: Saying::Streaming });
    bench.tell(Input::HolderUnheard { revision: 120 });
    bench.now = bench.now + Duration::from_millis(4900);
    assert_eq!(bench.observe(None, 900), []);
    bench.now = bench.now + Duration::from_millis(200);
    let effects = bench.observe(None, 900);
    assert!(matches!(effects[..], [Effect::Contend { replacing: Some(_), .. }]), "{effects:?}");
}

#[test]
fn who_has_its_share_lets_the_others_go_first_and_takes_what_they_leave() {
    let full = Hand { others: 2, pipelines: 4 };
    let mut bench = Bench::new();
    bench.tell(Input::InHand(full));
    bench.observe(None, 900);
    assert_eq!(bench.see(None, None), [], "another worker may be starting, too");
    assert_eq!(bench.wait(Duration::from_secs(2)), [CONTEND]);

    let mut bench = Bench::new();
    bench.tell(Input::InHand(Hand { others: 1, pipelines: 4 }));
    bench.observe(None, 900);
    assert_eq!(bench.see(None, None), [CONTEND], "two of four are its share");

    let mut named = Bench::new();
    named.tell(Input::InHand(full));
    named.observe(None, 900);
    named.see(Some(("worker-2", 90)), None);
    let to_me = Successor { worker: Some("worker-1".into()), follows: 90 };
    assert_eq!(
        named.see(None, Some(to_me)),
        [Effect::Contend { replacing: None, tenures: 2 }],
        "it was asked to take this one"
    );
}

#[test]
fn a_dead_worker_has_no_share() {
    let mut bench = following();
    bench.tell(Input::InHand(Hand { others: 2, pipelines: 4 }));
    bench.tell(Input::HolderHeard { revision: 90, saying: Saying::Streaming });
    bench.tell(Input::HolderUnheard { revision: 90 });
    let effects = bench.observe(None, 900);
    assert!(matches!(effects[..], [Effect::Contend { replacing: Some(_), .. }]), "{effects:?}");
}

#[test]
fn nothing_is_taken_while_postgresql_is_out_of_sight() {
    let mut bench = following();
    let lost = Failure { code: Code::PostgresUnreachable, detail: "refused".into(), kind: FailureKind::Passing };
    bench.tell(Input::NotObserved(lost));
    assert_eq!(bench.tell(Input::HolderUnheard { revision: 90 }), []);
    assert_eq!(bench.wait(Duration::from_secs(30)), []);
}

/// etcd has been silent for so long that the lease may have ended.
fn without_etcd(bench: &mut Bench) -> Vec<Effect> {
    bench.tell(Input::CoordinationLost("no quorum".into()));
    for _ in 0..7 {
        bench.now = bench.now + Duration::from_secs(1);
        bench.observe(Some(MY_BACKEND), 900);
    }
    bench.tell(Input::Tick)
}

#[test]
fn a_stream_goes_on_through_an_outage_of_etcd_while_postgresql_names_it() {
    let mut bench = Bench::new();
    bench.stream();
    assert_eq!(without_etcd(&mut bench), []);
    assert!(bench.worker.active_until().is_some() && bench.worker.guarded_since().is_some());
    bench.keep_alive();
    assert_eq!((bench.worker.state(), bench.worker.guarded_since()), (State::Stream, None));

    let mut alone = Bench::new();
    alone.stream();
    without_etcd(&mut alone);
    let effects = alone.wait(Duration::from_secs(8));
    assert!(matches!(effects[..], [Effect::EndSession { .. }]), "PostgreSQL does not name it any more: {effects:?}");
}

#[test]
fn without_etcd_a_new_session_is_made_only_by_whoever_claimed_last() {
    for (session, goes_on) in [("s2", true), ("somebody else's", false)] {
        let mut bench = Bench::new();
        bench.stream();
        without_etcd(&mut bench);
        let lost = Failure { code: Code::PostgresUnreachable, detail: "eof".into(), kind: FailureKind::Passing };
        bench.tell(Input::Broken(SessionEnd::Stream(lost)));
        bench.tell(Input::SessionEnded);
        assert_eq!(bench.wait(Duration::from_millis(100)), [Effect::Inspect]);
        bench.tell(Input::Inspected(Box::new(inspection())));
        assert_eq!(bench.tell(Input::HolderRead(None)), [Effect::Fence]);
        let mut read = read_after_one_session();
        read.session = "s3".into();
        if let Some((record, _)) = &mut read.position {
            record.session = session.into();
        }
        if let Some(open) = &mut read.last_open {
            open.session = session.into();
        }
        let effects = bench.tell(Input::SinkFenced(Box::new(read)));
        if goes_on {
            assert!(matches!(effects[..], [Effect::ReadHolder(_)]), "{effects:?}");
            assert!(matches!(bench.tell(Input::HolderRead(None))[..], [Effect::Claim(_)]));
        } else {
            assert!(matches!(effects[..], [Effect::EndSession { .. }]), "{effects:?}");
            assert_eq!(bench.worker.state(), State::Drain);
        }
    }
}

#[test]
fn a_strict_worker_stops_in_time_when_etcd_is_silent() {
    let mut bench = Bench::new();
    bench.worker.policy.slot_guarded = false;
    bench.stream();
    bench.tell(Input::CoordinationLost("no quorum".into()));
    let effects = bench.wait(Duration::from_secs(6));
    assert!(matches!(effects[..], [Effect::EndSession { commit: true, .. }]), "{effects:?}");
}

fn peer(bench: &Bench, postgres: bool, kafka: bool) -> Input {
    let seen =
        PeerSeen { worker: "worker-2".into(), nonce: "n2".into(), moved_at: bench.now, standby: true, postgres, kafka };
    Input::PeersSeen { peers: vec![seen], namesake: None }
}

#[test]
fn a_holder_that_alone_has_lost_postgresql_hands_over_after_five_seconds() {
    let mut bench = Bench::new();
    bench.stream();
    let lost = || Failure { code: Code::PostgresUnreachable, detail: "eof".into(), kind: FailureKind::Passing };
    bench.tell(Input::Broken(SessionEnd::Stream(lost())));
    bench.tell(Input::SessionEnded);
    bench.wait(Duration::from_millis(100));
    for second in 0..6 {
        assert_ne!(bench.worker.state(), State::Drain, "too early, after {second} s");
        bench.now = bench.now + Duration::from_secs(1);
        bench.keep_alive();
        bench.tell(Input::NotObserved(lost()));
        bench.tell(peer(&bench, true, true));
    }
    assert_eq!(bench.worker.state(), State::Drain);
    let effects = bench.tell(Input::SessionEnded);
    let to = Some("worker-2".to_owned());
    assert!(matches!(&effects[..], [Effect::Release { handover: true, to: named, .. }] if *named == to), "{effects:?}");
}

#[test]
fn a_holder_whose_postgresql_is_down_for_everybody_keeps_the_lease() {
    let mut bench = Bench::new();
    bench.stream();
    let lost = || Failure { code: Code::PostgresUnreachable, detail: "eof".into(), kind: FailureKind::Passing };
    bench.tell(Input::Broken(SessionEnd::Stream(lost())));
    bench.tell(Input::SessionEnded);
    for _ in 0..30 {
        bench.now = bench.now + Duration::from_secs(1);
        bench.keep_alive();
        bench.tell(Input::NotObserved(lost()));
        bench.tell(peer(&bench, false, true));
    }
    assert!(bench.worker.tenure().is_some());
}

#[test]
fn a_paused_pipeline_is_given_back_and_not_taken() {
    let mut bench = Bench::new();
    bench.stream();
    let holder = Holder {
        worker: "worker-1".into(),
        nonce: "n1".into(),
        url: "http://h".into(),
        revision: 100,
        lease_id: 1,
        fenced: true,
        tenures: 1,
    };
    let view = HolderView { revision: 120, holder: Some(holder), successor: None, paused: true, verdict: None };
    let effects = bench.tell(Input::HolderSeen(view.clone()));
    assert!(matches!(effects[..], [Effect::EndSession { commit: true, .. }]), "{effects:?}");
    bench.tell(Input::SessionEnded);
    bench.tell(Input::Released);
    bench.tell(Input::HolderSeen(HolderView { holder: None, ..view.clone() }));
    bench.now = bench.now + Duration::from_secs(60);
    assert_eq!(bench.observe(None, 900), []);
    assert_eq!(bench.worker.reasons()[0].0, Code::Paused);
    let resumed = HolderView { holder: None, paused: false, ..view };
    assert!(matches!(bench.tell(Input::HolderSeen(resumed))[..], [Effect::Contend { .. }]));
}

#[test]
fn an_accepted_gap_is_left_with_a_marker_and_another_gap_is_not() {
    let mut bench = Bench::new();
    bench.win();
    let mut inspection = inspection();
    inspection.slot = SlotState::Usable { confirmed_flush_lsn: Lsn(1500) };
    bench.tell(Input::Inspected(Box::new(inspection.clone())));
    bench.tell(Input::HolderRead(Some(true)));
    bench.tell(Input::SinkFenced(Box::new(read_after_one_session())));
    bench.tell(Input::HolderRead(Some(true)));
    bench.tell(Input::SessionEnded);
    bench.tell(Input::Released);
    assert_eq!(bench.worker.gap().map(|gap| gap.code), Some(Code::SlotAhead));
    let verdict = |to| VerdictSeen { code: Code::SlotAhead, from_lsn: Lsn(900), to_lsn: Some(Lsn(to)), accepted: true };
    let view =
        |to| HolderView { revision: 130, holder: None, successor: None, paused: false, verdict: Some(verdict(to)) };
    bench.tell(Input::HolderSeen(view(1400)));
    assert_eq!(bench.worker.state(), State::Quarantine, "that is another range");
    bench.tell(Input::HolderSeen(view(1500)));
    assert_eq!(bench.worker.state(), State::Standby);
    let asked_at = bench.now;
    bench.observe(None, 1500);
    let ttl = Duration::from_secs(10);
    bench.tell(Input::Won { lease_id: 2, revision: 140, ttl, asked_at, cluster_id: "e".into() });
    bench.tell(Input::Inspected(Box::new(inspection)));
    bench.tell(Input::HolderRead(Some(true)));
    bench.tell(Input::SinkFenced(Box::new(read_after_one_session())));
    let effects = bench.tell(Input::HolderRead(Some(true)));
    let plan = claimed(&effects);
    assert_eq!(plan.records.markers[0].accepted.map(|mark| mark.to_lsn), Some(Some(Lsn(1500))));
    assert_eq!(plan.resume.position.lsn, Lsn(1500));
}

#[test]
fn a_silent_stream_is_left_when_its_walsender_waits_and_not_while_it_works() {
    for (waits, leaves) in [(true, true), (false, false)] {
        let mut bench = Bench::new();
        bench.stream();
        let since = bench.now;
        for _ in 0..15 {
            bench.now = bench.now + Duration::from_secs(1);
            bench.keep_alive();
            let looked = Observation { reader_waits: waits, ..observation(Some(MY_BACKEND), 900) };
            bench.tell(Input::Observed { asked_at: bench.now, observation: looked, durable: None });
            bench.tell(Input::StreamSilent { since });
        }
        assert_eq!(bench.worker.state() != State::Stream, leaves);
    }
}

#[test]
fn without_etcd_a_session_that_was_ended_from_outside_has_no_successor() {
    let mut bench = Bench::new();
    bench.stream();
    without_etcd(&mut bench);
    let terminated =
        Failure { code: Code::PostgresUnreachable, detail: "57P01".into(), kind: FailureKind::ShuttingDown };
    bench.tell(Input::Broken(SessionEnd::Stream(terminated)));
    bench.tell(Input::Tick);
    assert_eq!(bench.worker.state(), State::Drain, "a newer holder may have ended it");
}
