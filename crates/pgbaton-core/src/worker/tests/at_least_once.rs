//! Where the sink fences nobody: the checkpoint is the progress, and the lease is waited for and kept to.

use super::*;
use crate::{EventId, Found, Remains};

/// What a checkpoint of an earlier session says, read from etcd.
fn read_from_checkpoint() -> FenceRead {
    FenceRead { from: ReadFrom::Checkpoint, last_open: None, ..read_after_one_session() }
}

/// The same cluster after a fail-over: it left timeline 1 at 950.
fn forked() -> Box<Inspection> {
    let server = Server { history: History::new(vec![(Timeline(1), Lsn(950))], Timeline(2)), ..inspection().server };
    Box::new(Inspection { server, ..inspection() })
}

fn published(commit_lsn: u64) -> Input {
    let id =
        EventId { system_identifier: SYSTEM, timeline: Timeline(1), commit_lsn: Lsn(commit_lsn), change: 0, part: 0 };
    Input::ReadBack(Remains::new(vec![Found { topic: "orders.public.items".into(), key: None, id }]))
}

fn fence(bench: &mut Bench, inspection: Box<Inspection>, read: FenceRead) -> Vec<Effect> {
    bench.tell(Input::Inspected(inspection));
    bench.tell(Input::HolderRead(Some(true)));
    bench.tell(Input::SinkFenced(Box::new(read)))
}

#[test]
fn a_session_goes_on_from_the_checkpoint_in_the_next_term_and_leaves_no_witness_over_it() {
    let mut bench = Bench::unfenced();
    bench.win();
    bench.claim(read_from_checkpoint());
    let effects = bench.tell(Input::HolderRead(Some(true)));
    assert_eq!(claimed(&effects).journal.term(), Term(2));
    let effects = bench.tell(Input::Claimed);
    assert!(matches!(effects[..], [Effect::Start { .. }]), "{effects:?}");
}

#[test]
fn the_lease_is_waited_for_whatever_the_evidence() {
    let mut bench = Bench::unfenced();
    bench.observe(None, 900);
    bench.see(Some(("worker-2", 90)), None);
    bench.tell(Input::HolderHeard { revision: 90, saying: Saying::Streaming });
    bench.tell(Input::HolderUnheard { revision: 90 });
    assert_eq!(bench.observe(None, 900), []);
    assert_eq!(bench.wait(Duration::from_secs(4)), []);
    assert_eq!(bench.observe(None, 900), []);
    assert!(matches!(bench.see(None, None)[..], [Effect::Contend { replacing: None, .. }]));
}

#[test]
fn an_outage_of_etcd_ends_the_tenure_in_time() {
    let mut bench = Bench::unfenced();
    bench.win();
    bench.claim(read_from_checkpoint());
    bench.tell(Input::HolderRead(Some(true)));
    bench.tell(Input::Claimed);
    bench.tell(Input::Started);
    bench.observe(Some(MY_BACKEND), 900);
    bench.tell(Input::CoordinationLost("silent".into()));
    let effects = bench.wait(Duration::from_secs(6));
    assert!(matches!(effects[..], [Effect::EndSession { commit: true, .. }]), "{effects:?}");
    assert_eq!(bench.worker.state(), State::Drain);
}

#[test]
fn a_refused_guard_ends_the_tenure() {
    let mut bench = Bench::unfenced();
    bench.win();
    bench.claim(read_from_checkpoint());
    bench.tell(Input::HolderRead(Some(true)));
    let effects = bench.tell(Input::Broken(SessionEnd::NotHolder("the checkpoint was not taken".into())));
    assert!(matches!(effects[..], [Effect::EndSession { commit: false, .. }]), "{effects:?}");
    let effects = bench.tell(Input::SessionEnded);
    assert!(matches!(effects[..], [Effect::Release { handover: false, .. }]), "{effects:?}");
}

#[test]
fn phantoms_beyond_the_checkpoint_are_read_back_before_the_verdict_on_a_fork() {
    let mut bench = Bench::unfenced();
    bench.win();
    let effects = fence(&mut bench, forked(), read_from_checkpoint());
    assert!(matches!(effects[..], [Effect::ReadBack(_)]), "{effects:?}");
    bench.tell(published(970));
    let effects = bench.tell(Input::HolderRead(Some(true)));
    let plan = claimed(&effects);
    let mark = plan.records.markers[0].divergence.expect("what is beyond the fork is named");
    assert_eq!((mark.from_lsn, mark.to_lsn), (Lsn(950), Lsn(970)));
    assert!(plan.remains.is_none() && plan.records.progress.iter().all(|record| record.torn.is_none()));
}

#[test]
fn a_fork_above_all_that_was_published_needs_no_marker_and_no_fork_no_reading_back() {
    let mut bench = Bench::unfenced();
    bench.win();
    fence(&mut bench, forked(), read_from_checkpoint());
    bench.tell(published(920));
    let effects = bench.tell(Input::HolderRead(Some(true)));
    assert_eq!(claimed(&effects).records.markers, []);

    let mut bench = Bench::unfenced();
    bench.win();
    let effects = bench.claim(read_from_checkpoint());
    assert!(matches!(effects[..], [Effect::ReadHolder(_)]), "{effects:?}");
}

#[test]
fn a_checkpoint_of_another_kafka_cluster_is_no_progress_here() {
    let mut bench = Bench::unfenced();
    bench.win();
    let mut read = read_from_checkpoint();
    read.kafka_cluster = Some("here".into());
    if let Some((record, _)) = &mut read.position {
        record.kafka_cluster = Some("there".into());
    }
    bench.claim(read);
    bench.tell(Input::HolderRead(Some(true)));
    bench.tell(Input::SessionEnded);
    bench.tell(Input::Released);
    assert_eq!(bench.worker.gap().map(|gap| gap.code), Some(Code::ProgressMissing));
}

#[test]
fn progress_that_nobody_knows_to_be_the_newest_is_not_gone_on_from() {
    let mut bench = Bench::new();
    bench.win();
    let effects = bench.claim(FenceRead { from: ReadFrom::ProgressAlone, ..read_after_one_session() });
    assert!(matches!(effects[..], [Effect::EndSession { .. }]), "{effects:?}");
    assert_eq!(bench.worker.state(), State::Inspect, "the tenure goes on");
}
