//! A warm standby: ready, and harmless until it is told to fence.

use pgbaton_sinks::kafka::{Fenced, KafkaStandby, SessionError, SinkEvent};

use crate::broker::Broker;
use crate::world::{LIMIT, claim, claimed, close, committed, open, outcome, target};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_fences_nobody_until_it_is_told_to_and_then_reads_all_that_was_committed_meanwhile() {
    let target = target(Broker::shared(), "warm");
    let mut active = claimed(&target, "a", 1).await;
    let standby = KafkaStandby::new(&target).unwrap();
    for number in 1..=3 {
        standby.check(LIMIT).await.unwrap();
        active.begin(&open("a", number, 1)).unwrap();
        active.commit(&close("a", number, 1), LIMIT);
        committed(&mut active).await;
    }

    active.begin(&open("a", 4, 1)).unwrap();
    let Fenced { mut session, read } = standby.fence(&open("b", 0, 2)).await.unwrap();
    assert_eq!(read.position.unwrap().record, close("a", 3, 1));
    assert_eq!(read.last_open, Some(open("a", 3, 1)));
    assert!(!read.topic_was_created && read.log_starts_at_zero);
    session.claim(&[claim("b", 2)], &[], LIMIT).await.unwrap();
    active.commit(&close("a", 4, 1), LIMIT);
    assert_eq!(outcome(&mut active, LIMIT).await, SinkEvent::Failed(SessionError::Fenced));

    // What was warm is used up; the next session is made all the same.
    let Fenced { read, .. } = standby.fence(&open("c", 0, 3)).await.unwrap();
    assert_eq!(read.position.unwrap().record, claim("b", 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_of_a_pipeline_that_never_ran_is_no_hindrance_to_its_first_fence() {
    let target = target(Broker::shared(), "unborn");
    let standby = KafkaStandby::new(&target).unwrap();
    standby.check(LIMIT).await.unwrap();
    let Fenced { read, .. } = standby.fence(&open("a", 0, 1)).await.unwrap();
    assert!(read.topic_was_created && read.position.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_was_warm_before_the_broker_died_fences_when_it_is_back() {
    let mut broker = Broker::start("bounced");
    let target = target(&broker, "bounced");
    drop(claimed(&target, "a", 1).await);
    let standby = KafkaStandby::new(&target).unwrap();
    standby.check(LIMIT).await.unwrap();
    broker.kill();
    broker.start_again();
    broker.wait_until_known(1);
    let Fenced { mut session, read } = standby.fence(&open("b", 0, 2)).await.unwrap();
    assert_eq!(read.position.unwrap().record, claim("a", 1));
    session.claim(&[claim("b", 2)], &[], LIMIT).await.unwrap();
}
