//! An etcd that is another one than before.

use super::*;
use crate::LeaseMark;

/// What another worker claimed with another etcd, after this one's was left behind.
fn read_after_etcd_was_left_behind() -> FenceRead {
    let mut read = read_after_one_session();
    let (claim, _) = read.position.as_mut().unwrap();
    claim.lease = Some(LeaseMark { cluster_id: "f".into(), revision: 50, left: vec!["e".into()] });
    read
}

#[test]
fn an_etcd_that_was_left_behind_and_answers_again_is_not_returned_to() {
    let mut bench = Bench::new();
    bench.win();
    bench.claim(read_after_etcd_was_left_behind());
    bench.tell(Input::HolderRead(Some(true)));
    bench.tell(Input::SessionEnded);
    bench.tell(Input::Released);
    assert_eq!(bench.worker.gap().map(|gap| gap.code), Some(Code::EtcdReset));
}

#[test]
fn a_tenure_that_stood_still_while_the_others_left_its_etcd_is_over_and_is_no_gap() {
    let mut bench = Bench::new();
    bench.stream();
    bench.observe(Some(MY_BACKEND), 901);
    bench.tell(Input::SessionEnded);
    bench.now = bench.now + Duration::from_millis(100);
    assert_eq!(bench.tell(Input::Tick), [Effect::Inspect]);
    let effects = bench.claim(read_after_etcd_was_left_behind());
    assert!(matches!(effects[..], [Effect::EndSession { commit: false, .. }]), "{effects:?}");
    let effects = bench.tell(Input::SessionEnded);
    assert!(matches!(effects[..], [Effect::Release { .. }]), "{effects:?}");
    assert_eq!(bench.worker.gap(), None);
}
