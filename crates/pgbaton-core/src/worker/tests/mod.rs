//! The machine driven by hand: facts in, wishes out.

use super::*;
use crate::{
    History, LastTransaction, Lsn, Position, ProgressRecord, ReadFrom, ReaderName, RecordType, Server, SlotFacts,
    SlotState, SystemIdentifier, Timeline, TopicIds, Watermark,
};

const SYSTEM: SystemIdentifier = SystemIdentifier(7);
const MY_BACKEND: i32 = 4242;

const CONTEND: Effect = Effect::Contend { replacing: None, tenures: 1 };

struct Bench {
    worker: Worker,
    now: Moment,
}

impl Bench {
    fn new() -> Self {
        let identity = Identity {
            worker: "worker-1".into(),
            nonce: "n1".into(),
            pipeline_hash: "p".into(),
            worker_hash: "w".into(),
            database: "appdb".into(),
            config_hash: "c".into(),
        };
        let policy = Policy {
            leased: true,
            takeover_grace: Duration::from_secs(1),
            fenced: true,
            slot_guarded: true,
            accept_gaps: false,
            halt_on_shrink: false,
        };
        Bench { worker: Worker::new(identity, policy), now: Moment(Duration::from_secs(1000)) }
    }

    /// The sink refuses nobody, and the checkpoint is the progress.
    fn unfenced() -> Self {
        let mut bench = Bench::new();
        bench.worker.policy.fenced = false;
        bench
    }

    fn tell(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.worker.handle(self.now, input, &mut effects);
        effects
    }

    fn wait(&mut self, time: Duration) -> Vec<Effect> {
        self.now = self.now + time;
        self.tell(Input::Tick)
    }

    fn see(&mut self, holder: Option<(&str, i64)>, successor: Option<Successor>) -> Vec<Effect> {
        let holder = holder.map(|(worker, revision)| Holder {
            worker: worker.into(),
            nonce: "n".into(),
            url: "http://h".into(),
            revision,
            lease_id: if revision == 100 { 1 } else { 9 },
            fenced: true,
            tenures: 1,
        });
        let revision = holder.as_ref().map_or(50, |holder| holder.revision);
        self.tell(Input::HolderSeen(HolderView { revision, holder, successor, paused: false, verdict: None }))
    }

    fn observe(&mut self, reader: Option<i32>, confirmed: u64) -> Vec<Effect> {
        let observed = observation(reader, confirmed);
        self.tell(Input::Observed { asked_at: self.now, observation: observed, durable: None })
    }

    fn keep_alive(&mut self) {
        let asked_at = self.now;
        self.tell(Input::KeptAlive { asked_at, ttl: Duration::from_secs(10) });
    }

    /// Takes the lease at revision 100.
    fn win(&mut self) {
        self.see(None, None);
        assert_eq!(self.observe(None, 900), [CONTEND]);
        let asked_at = self.now;
        let effects = self.tell(Input::Won {
            lease_id: 1,
            revision: 100,
            ttl: Duration::from_secs(10),
            asked_at,
            cluster_id: "e".into(),
        });
        assert!(matches!(effects[..], [Effect::KeepAlive(_), Effect::Inspect]), "{effects:?}");
    }

    /// From Inspect to the claim.
    fn claim(&mut self, read: FenceRead) -> Vec<Effect> {
        let effects = self.tell(Input::Inspected(Box::new(inspection())));
        assert!(matches!(effects[..], [Effect::ReadHolder(_)]), "{effects:?}");
        assert_eq!(self.tell(Input::HolderRead(Some(true))), [Effect::Fence]);
        self.tell(Input::SinkFenced(Box::new(read)))
    }

    fn stream(&mut self) {
        self.win();
        self.claim(nothing_read());
        let effects = self.tell(Input::HolderRead(Some(true)));
        assert!(matches!(effects[..], [Effect::Claim(_)]), "{effects:?}");
        let effects = self.tell(Input::Claimed);
        assert!(matches!(effects[..], [Effect::WriteCheckpoint { .. }, Effect::Start { .. }]), "{effects:?}");
        assert_eq!(self.tell(Input::Started), [Effect::Observe]);
        assert_eq!(self.observe(Some(MY_BACKEND), 900), [Effect::Accept, Effect::ClearVerdict]);
        assert_eq!(self.worker.state(), State::Stream);
    }
}

fn observation(reader: Option<i32>, confirmed: u64) -> Observation {
    Observation {
        system_identifier: SYSTEM,
        timeline: Some(Timeline(1)),
        in_recovery: false,
        postmaster_started: "p".into(),
        write_position: Lsn(2000),
        slot: Some(SlotFacts {
            plugin: Some("pgoutput".into()),
            database: Some("appdb".into()),
            active_pid: reader,
            confirmed_flush_lsn: Some(Lsn(confirmed)),
            ..SlotFacts::default()
        }),
        reader_name: None,
        reader_waits: false,
        publication_oid: Some(16400),
        members: String::new(),
    }
}

fn inspection() -> Inspection {
    Inspection {
        server: Server {
            system_identifier: SYSTEM,
            history: History::new(vec![], Timeline(1)),
            write_position: Lsn(2000),
            publication_oid: Some(16400),
        },
        in_recovery: false,
        slot: SlotState::Usable { confirmed_flush_lsn: Lsn(900) },
        reader_pid: None,
        reader_name: None,
        postmaster_started: "p".into(),
        backend_pid: MY_BACKEND,
        tables_hash: "t".into(),
        members: String::new(),
        topics: vec!["orders.public.items".into()],
    }
}

fn nothing_read() -> FenceRead {
    FenceRead {
        session: "s2".into(),
        position: None,
        from: ReadFrom::Progress,
        last_open: None,
        witness: None,
        remains: None,
        kafka_cluster: None,
        topic_ids: TopicIds::default(),
    }
}

/// What an earlier session of this worker has left.
fn read_after_one_session() -> FenceRead {
    let mut bench = Bench::new();
    bench.win();
    let effects = bench.claim(FenceRead { session: "s1".into(), ..nothing_read() });
    assert!(matches!(effects[..], [Effect::ReadHolder(_)]));
    let [Effect::Claim(plan)] = &bench.tell(Input::HolderRead(Some(true)))[..] else { panic!("no claim") };
    let claim = plan.records.progress.last().unwrap().clone();
    let open = crate::first_open("s1", "worker-1");
    FenceRead { position: Some((claim, "hash".into())), last_open: Some(open), ..nothing_read() }
}

fn claimed(effects: &[Effect]) -> &ClaimPlan {
    match effects {
        [Effect::Claim(plan)] => plan,
        other => panic!("no claim but {other:?}"),
    }
}

#[test]
fn a_worker_contends_only_when_nobody_holds_the_key_and_the_leader_is_in_sight() {
    let mut bench = Bench::new();
    assert_eq!(bench.observe(None, 900), [], "etcd has shown nothing yet");
    assert_eq!(bench.see(Some(("worker-2", 90)), None), []);
    assert_eq!(bench.see(None, None), [Effect::Contend { replacing: None, tenures: 2 }]);

    let mut bench = Bench::new();
    bench.see(None, None);
    let mut standby = observation(None, 900);
    standby.in_recovery = true;
    let asked_at = bench.now;
    assert_eq!(bench.tell(Input::Observed { asked_at, observation: standby, durable: None }), []);
    assert_eq!(bench.worker.reasons()[0].0, Code::InRecovery);
}

#[test]
fn a_named_successor_goes_first_for_one_second() {
    let mut bench = Bench::new();
    bench.observe(None, 900);
    bench.see(Some(("worker-2", 90)), None);
    let successor = Successor { worker: Some("worker-3".into()), follows: 90 };
    assert_eq!(bench.see(None, Some(successor.clone())), []);
    assert_eq!(bench.wait(Duration::from_secs(1)), [Effect::Contend { replacing: None, tenures: 2 }]);

    let mut named = Bench::new();
    named.observe(None, 900);
    named.see(Some(("worker-2", 90)), None);
    let successor = Successor { worker: Some("worker-1".into()), ..successor };
    assert_eq!(named.see(None, Some(successor)), [Effect::Contend { replacing: None, tenures: 2 }]);
}

#[test]
fn the_first_session_takes_term_1_with_a_genesis_and_streams_after_the_slot_names_it() {
    let mut bench = Bench::new();
    bench.stream();
    assert_eq!(bench.worker.term(), Some(Term(1)));
    assert!(bench.worker.active_until().is_some());
    assert_eq!(bench.worker.last_switch().map(|switch| switch.cause), Some(Cause::Start));
}

#[test]
fn a_later_session_goes_on_in_the_next_term() {
    let mut bench = Bench::new();
    bench.win();
    bench.claim(read_after_one_session());
    let effects = bench.tell(Input::HolderRead(Some(true)));
    let plan = claimed(&effects);
    assert_eq!(plan.journal.term(), Term(2));
    let types: Vec<_> = plan.records.progress.iter().map(|record| record.record_type).collect();
    assert_eq!(types, [RecordType::Claim], "a genesis is written once");
    assert_eq!(plan.records.progress[0].previous_hash.as_deref(), Some("hash"));
}

#[test]
fn a_slot_that_moved_past_the_proof_between_inspect_and_start_is_looked_at_again() {
    let mut read = read_after_one_session();
    let (record, _) = read.position.as_mut().unwrap();
    let at = |lsn| Position { system_identifier: SYSTEM, timeline: Timeline(1), lsn: Lsn(lsn) };
    record.position = Some(at(1150));
    record.watermark = Some(Watermark { timeline: Timeline(1), lsn: Lsn(1150) });
    record.last = Some(LastTransaction { xid: 7, final_lsn: Lsn(1100), lsn: Lsn(1150), committed_at: "t".into() });
    for (confirmed, accepted) in [(1100, true), (1150, false)] {
        let mut bench = Bench::new();
        bench.win();
        bench.claim(read.clone());
        let effects = bench.tell(Input::HolderRead(Some(true)));
        assert!(claimed(&effects).resume.continuity.is_some());
        bench.tell(Input::Claimed);
        bench.tell(Input::Started);
        let effects = bench.observe(Some(MY_BACKEND), confirmed);
        assert_eq!(effects.first() == Some(&Effect::Accept), accepted, "{effects:?}");
        assert_eq!(bench.worker.state() == State::Stream, accepted);
    }
}

#[test]
fn another_reader_on_the_slot_after_start_is_not_us() {
    let mut bench = Bench::new();
    bench.win();
    bench.claim(nothing_read());
    bench.tell(Input::HolderRead(Some(true)));
    bench.tell(Input::Claimed);
    bench.tell(Input::Started);
    assert_eq!(bench.observe(Some(1), 900), []);
    assert_eq!(bench.worker.state(), State::Recover);
    assert!(bench.worker.active_until().is_none());
}

#[test]
fn a_tenure_whose_time_may_be_up_is_over_whatever_comes_in() {
    let mut bench = Bench::new();
    bench.stream();
    bench.now = bench.now + Duration::from_secs(6);
    let effects = bench.observe(Some(MY_BACKEND), 900);
    assert!(matches!(effects[..], [Effect::EndSession { commit: true, .. }]), "{effects:?}");
    assert_eq!(bench.worker.state(), State::Drain);
    assert!(bench.worker.active_until().is_none());
    let effects = bench.tell(Input::SessionEnded);
    assert!(matches!(effects[..], [Effect::Release { handover: false, .. }]), "{effects:?}");
}

#[test]
fn a_worker_that_wakes_after_its_lease_may_have_ended_does_not_commit() {
    let mut bench = Bench::new();
    bench.stream();
    let effects = bench.wait(Duration::from_secs(20));
    assert!(matches!(effects[..], [Effect::EndSession { commit: false, .. }]), "{effects:?}");
}

#[test]
fn a_worker_that_lost_its_lease_stands_by_healthy_again() {
    let mut bench = Bench::new();
    bench.stream();
    bench.wait(Duration::from_secs(20));
    assert_eq!(bench.worker.reasons()[0].0, Code::EtcdUnreachable);
    bench.tell(Input::SessionEnded);
    bench.tell(Input::Released);
    bench.see(Some(("worker-2", 101)), None);
    bench.now = bench.now + Duration::from_secs(60);
    bench.observe(Some(1), 900);
    assert_eq!((bench.worker.state(), bench.worker.reasons()), (State::Standby, vec![]));
    assert!(bench.worker.can_take_over(bench.now));
}

#[test]
fn keepalives_extend_the_tenure_and_the_loss_of_the_lease_ends_it_at_once() {
    let mut bench = Bench::new();
    bench.stream();
    for _ in 0..10 {
        bench.now = bench.now + Duration::from_secs(2);
        bench.keep_alive();
        bench.observe(Some(MY_BACKEND), 900);
    }
    assert_eq!(bench.worker.state(), State::Stream);
    let effects = bench.tell(Input::LeaseLost("revoked".into()));
    assert!(matches!(effects[..], [Effect::EndSession { commit: false, .. }]), "{effects:?}");
}

#[test]
fn a_holder_key_taken_by_somebody_else_ends_the_tenure_and_an_old_view_does_not() {
    let mut bench = Bench::new();
    bench.stream();
    assert_eq!(bench.see(Some(("worker-0", 80)), None), [], "a view from before our own write");
    assert_eq!(bench.worker.state(), State::Stream);
    let effects = bench.see(Some(("worker-2", 101)), None);
    assert!(matches!(effects[..], [Effect::EndSession { commit: false, .. }]), "{effects:?}");
}

#[test]
fn a_lost_stream_ends_the_session_and_keeps_the_lease() {
    let mut bench = Bench::new();
    bench.stream();
    let lost = Failure { code: Code::PostgresUnreachable, detail: "eof".into(), kind: FailureKind::Passing };
    let effects = bench.tell(Input::Broken(SessionEnd::Stream(lost)));
    assert!(matches!(effects[..], [Effect::EndSession { commit: false, .. }]), "{effects:?}");
    assert_eq!(bench.tell(Input::SessionEnded), []);
    assert_eq!(bench.wait(Duration::from_millis(100)), [Effect::Inspect]);
    assert!(bench.worker.tenure().is_some());
}

#[test]
fn a_topic_that_came_up_inside_a_transaction_is_named_by_the_next_claim() {
    let mut bench = Bench::new();
    bench.stream();
    bench.tell(Input::Broken(SessionEnd::TopicAdded("orders.public.new".into())));
    bench.tell(Input::SessionEnded);
    assert_eq!(bench.wait(Duration::from_millis(100)), [Effect::Inspect]);
    bench.claim(read_after_one_session());
    let effects = bench.tell(Input::HolderRead(Some(true)));
    assert_eq!(claimed(&effects).topics(), ["orders.public.items", "orders.public.new"]);
}

#[test]
fn a_stopping_leader_is_left_after_two_seconds_whatever_is_pending() {
    let mut bench = Bench::new();
    bench.stream();
    let stopping = Failure {
        code: Code::PostgresUnreachable,
        detail: "the database system is shutting down".into(),
        kind: FailureKind::ShuttingDown,
    };
    assert_eq!(bench.tell(Input::NotObserved(stopping)), []);
    assert_eq!(bench.wait(Duration::from_millis(1900)), []);
    let effects = bench.wait(Duration::from_millis(100));
    assert!(matches!(effects[..], [Effect::EndSession { commit: false, .. }]), "{effects:?}");
}

#[test]
fn a_stalled_sink_closes_the_stream_keeps_the_lease_and_is_probed() {
    let mut bench = Bench::new();
    bench.stream();
    bench.tell(Input::Broken(SessionEnd::Stalled("nothing moved for 5 s".into())));
    bench.tell(Input::SessionEnded);
    assert_eq!(bench.worker.state(), State::SinkStalled);
    assert_eq!(bench.wait(Duration::from_secs(1)), [Effect::ProbeSink]);
    assert_eq!(bench.tell(Input::SinkProbed(Err("refused".into()))), []);
    bench.keep_alive();
    assert_eq!(bench.wait(Duration::from_secs(2)), [Effect::ProbeSink]);
    assert_eq!(bench.tell(Input::SinkProbed(Ok(()))), [Effect::Inspect]);
}

#[test]
fn a_handover_commits_closes_and_names_the_successor() {
    let mut bench = Bench::new();
    bench.stream();
    let effects = bench.tell(Input::Handover(Some("worker-2".into())));
    assert!(matches!(effects[..], [Effect::EndSession { commit: true, .. }]), "{effects:?}");
    let effects = bench.tell(Input::SessionEnded);
    assert!(
        matches!(&effects[..], [Effect::Release { handover: true, to: Some(to), .. }] if to == "worker-2"),
        "{effects:?}"
    );
    bench.tell(Input::Released);
    bench.see(None, None);
    assert_eq!(bench.observe(None, 900), [], "the one who handed over does not take it back at once");
}

#[test]
fn a_stopping_worker_drains_releases_and_is_gone() {
    let mut bench = Bench::new();
    bench.stream();
    bench.tell(Input::Shutdown);
    bench.tell(Input::SessionEnded);
    assert!(!bench.worker.is_gone());
    bench.tell(Input::Released);
    assert!(bench.worker.is_gone());

    let mut standby = Bench::new();
    standby.see(Some(("worker-2", 90)), None);
    standby.tell(Input::Shutdown);
    assert!(standby.worker.is_gone());
}

#[test]
fn a_missing_slot_is_judged_after_progress_was_read_and_quarantines() {
    let mut bench = Bench::new();
    bench.win();
    let mut found = inspection();
    found.slot = SlotState::Missing;
    bench.tell(Input::Inspected(Box::new(found)));
    bench.tell(Input::HolderRead(Some(true)));
    let effects = bench.tell(Input::SinkFenced(Box::new(read_after_one_session())));
    assert!(matches!(effects[..], [Effect::ReadHolder(_)]), "only the holder speaks a verdict: {effects:?}");
    let effects = bench.tell(Input::HolderRead(Some(true)));
    assert!(matches!(effects[..], [Effect::EndSession { commit: false, .. }]), "{effects:?}");
    let effects = bench.tell(Input::SessionEnded);
    assert!(matches!(effects[..], [Effect::WriteVerdict(_), Effect::Release { handover: false, .. }]), "{effects:?}");
    bench.tell(Input::Released);
    assert_eq!(bench.worker.gap().map(|gap| gap.code), Some(Code::SlotMissing));

    let effects = bench.observe(None, 1500);
    assert!(matches!(&effects[..], [Effect::WriteVerdict(gap)] if gap.code == Code::SlotAhead), "{effects:?}");
    bench.now = bench.now + Duration::from_secs(10);
    bench.see(None, None);
    bench.observe(None, 900);
    assert_eq!(bench.worker.state(), State::Standby, "the slot is behind the watermark again");
}

#[test]
fn a_slot_that_moves_past_what_is_durable_while_streaming_is_a_gap_if_the_next_session_finds_nothing_newer() {
    let mut bench = Bench::new();
    bench.stream();
    let effects = bench.observe(Some(MY_BACKEND), 901);
    assert!(matches!(effects[..], [Effect::EndSession { commit: false, .. }]), "{effects:?}");
    bench.tell(Input::SessionEnded);
    assert_eq!(bench.worker.gap(), None, "another session may have claimed and moved it");
    bench.now = bench.now + Duration::from_millis(100);
    assert_eq!(bench.tell(Input::Tick), [Effect::Inspect]);
    let mut found = inspection();
    found.slot = SlotState::Usable { confirmed_flush_lsn: Lsn(901) };
    bench.tell(Input::Inspected(Box::new(found)));
    bench.tell(Input::HolderRead(Some(true)));
    bench.tell(Input::SinkFenced(Box::new(read_after_one_session())));
    bench.tell(Input::HolderRead(Some(true)));
    bench.tell(Input::SessionEnded);
    bench.tell(Input::Released);
    let gap = bench.worker.gap().unwrap();
    assert_eq!((gap.code, gap.from_lsn, gap.to_lsn), (Code::SlotAhead, Lsn(900), Some(Lsn(901))));
}

#[test]
fn a_slow_worker_that_is_no_holder_any_more_speaks_no_verdict() {
    let mut bench = Bench::new();
    bench.win();
    bench.claim(FenceRead { witness: Some("a newer holder has published".into()), ..nothing_read() });
    let effects = bench.tell(Input::HolderRead(Some(false)));
    assert!(matches!(effects[..], [Effect::EndSession { .. }]), "{effects:?}");
    let effects = bench.tell(Input::SessionEnded);
    assert!(matches!(effects[..], [Effect::Release { .. }]), "{effects:?}");
}

#[test]
fn progress_that_should_be_there_is_not_started_anew() {
    let mut bench = Bench::new();
    bench.win();
    bench.claim(FenceRead { witness: Some("etcd holds a checkpoint".into()), ..nothing_read() });
    bench.tell(Input::HolderRead(Some(true)));
    bench.tell(Input::SessionEnded);
    bench.tell(Input::Released);
    assert_eq!(bench.worker.gap().map(|gap| gap.code), Some(Code::ProgressMissing));
}

fn read_after_a_newer_lease() -> FenceRead {
    let mut read = read_after_one_session();
    if let Some((record, _)) = &mut read.position {
        record.worker = "worker-2".into();
        record.lease.as_mut().unwrap().revision = 101;
    }
    read
}

#[test]
fn a_claim_under_a_newer_lease_makes_us_step_back() {
    let mut bench = Bench::new();
    bench.win();
    bench.claim(read_after_a_newer_lease());
    let effects = bench.tell(Input::HolderRead(Some(false)));
    assert!(matches!(effects[..], [Effect::EndSession { commit: false, .. }]), "{effects:?}");
    let effects = bench.tell(Input::SessionEnded);
    assert!(matches!(effects[..], [Effect::Release { .. }]), "{effects:?}");
    assert!(bench.worker.gap().is_none());
}

#[test]
fn a_claim_under_a_greater_revision_of_an_etcd_that_counts_anew_is_gone_beyond_and_noted() {
    let mut bench = Bench::new();
    bench.win();
    bench.claim(read_after_a_newer_lease());
    let effects = bench.tell(Input::HolderRead(Some(true)));
    assert_eq!(claimed(&effects).journal.term(), Term(2));
    assert_eq!(bench.worker.reasons()[0].0, Code::EtcdReset);
}

#[test]
fn the_third_reset_of_etcd_in_ten_minutes_quarantines() {
    let mut bench = Bench::new();
    for reset in 1..=3 {
        bench.see(None, None);
        bench.win();
        bench.claim(read_after_a_newer_lease());
        let effects = bench.tell(Input::HolderRead(Some(true)));
        assert_eq!(matches!(effects[..], [Effect::Claim(_)]), reset < 3, "{effects:?}");
        bench.tell(Input::LeaseLost("revoked".into()));
        bench.tell(Input::SessionEnded);
        bench.tell(Input::Released);
        bench.wait(Duration::from_secs(70));
    }
    assert_eq!(bench.worker.gap().map(|gap| gap.code), Some(Code::EtcdReset));
}

#[test]
fn a_publication_made_anew_while_streaming_ends_the_session_for_a_verdict() {
    let mut bench = Bench::new();
    bench.stream();
    let asked_at = bench.now;
    let mut other = observation(Some(MY_BACKEND), 900);
    other.publication_oid = Some(16401);
    let effects = bench.tell(Input::Observed { asked_at, observation: other, durable: None });
    assert!(matches!(effects[..], [Effect::EndSession { commit: false, .. }]), "{effects:?}");
}

#[test]
fn wal_removed_under_a_valid_slot_is_a_gap() {
    let mut bench = Bench::new();
    bench.stream();
    let removed = Failure { code: Code::WalRemoved, detail: "removed".into(), kind: FailureKind::Passing };
    bench.tell(Input::Broken(SessionEnd::Stream(removed)));
    bench.tell(Input::SessionEnded);
    bench.tell(Input::Released);
    let gap = bench.worker.gap().unwrap();
    assert_eq!((gap.code, gap.from_lsn, gap.timeline), (Code::WalRemoved, Lsn(900), Timeline(1)));
}

#[test]
fn an_identity_verdict_needs_ten_seconds_and_two_connections() {
    let mut bench = Bench::new();
    bench.win();
    let wrong = || {
        let mut found = inspection();
        found.server.system_identifier = SystemIdentifier(8);
        Input::Inspected(Box::new(found))
    };
    for attempt in 0..30 {
        bench.tell(wrong());
        bench.tell(Input::HolderRead(Some(true)));
        bench.tell(Input::SinkFenced(Box::new(read_after_one_session())));
        bench.tell(Input::HolderRead(Some(true)));
        let effects = bench.tell(Input::SessionEnded);
        if matches!(effects[..], [Effect::WriteVerdict(_), ..]) {
            assert!(attempt >= 10, "after {attempt} seconds");
            return;
        }
        bench.now = bench.now + Duration::from_secs(1);
        bench.keep_alive();
        bench.tell(Input::Tick);
    }
    panic!("never quarantined");
}

/// It shows only after the claim, so a claim is no reason to forget the suspicion.
#[test]
fn a_stream_that_contradicts_what_was_published_again_and_again_quarantines() {
    let mut bench = Bench::new();
    bench.stream();
    for second in 0..30 {
        bench.tell(Input::Broken(SessionEnd::Contradiction(Gap {
            code: Code::Diverged,
            timeline: Timeline(0),
            from_lsn: Lsn(900),
            to_lsn: None,
            text: "another transaction came in its place".into(),
        })));
        let effects = bench.tell(Input::SessionEnded);
        if matches!(effects[..], [Effect::WriteVerdict(_), ..]) {
            assert!(second >= 10, "after {second} seconds");
            return;
        }
        bench.now = bench.now + Duration::from_secs(1);
        bench.keep_alive();
        bench.tell(Input::Tick);
        bench.claim(read_after_one_session());
        bench.tell(Input::HolderRead(Some(true)));
        bench.tell(Input::Claimed);
        bench.tell(Input::Started);
        bench.observe(Some(MY_BACKEND), 900);
        assert_eq!(bench.worker.state(), State::Stream);
    }
    panic!("never quarantined");
}

#[test]
fn an_older_session_of_ours_is_asked_to_go_and_a_foreign_consumer_is_not() {
    let named = |name: &str| {
        let mut found = inspection();
        found.reader_pid = Some(99);
        found.reader_name = Some(name.to_owned());
        Input::Inspected(Box::new(found))
    };
    let ours = ReaderName { pipeline: "p".into(), worker: "x".into(), nonce: "y".into(), term: 3, revision: 90 };
    let mut bench = Bench::new();
    bench.win();
    assert_eq!(bench.tell(named(&ours.to_string())), [Effect::FreeSlot { pid: 99, revision: 100 }]);

    let mut bench = Bench::new();
    bench.win();
    let effects = bench.tell(named("pg_recvlogical"));
    assert!(matches!(effects[..], [Effect::EndSession { .. }]), "{effects:?}");
    assert_eq!(bench.worker.reasons()[0].0, Code::SlotForeignHolder);

    let mut bench = Bench::new();
    bench.win();
    bench.tell(named(&ReaderName { revision: 101, ..ours }.to_string()));
    let effects = bench.tell(Input::SessionEnded);
    assert!(matches!(effects[..], [Effect::Release { .. }]), "{effects:?}");
}

mod at_least_once;
mod lease_free;
mod publication;
mod resets;
mod takeover;
mod topics;
mod torn;
