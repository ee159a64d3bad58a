//! The end of a transaction that is delayed on its way: the reason for the instance rule.

use pgbaton_sinks::kafka::{BeginError, KafkaTarget, SessionError, SinkEvent, Taint};

use crate::broker::{Broker, free_ports};
use crate::proxy::Proxy;
use crate::world::{LIMIT, claimed, close, committed, committed_values, open, outcome, target, with, write};

/// A broker that every client reaches through a proxy only.
fn behind_proxy(name: &str) -> (Broker, Proxy, KafkaTarget) {
    let [advertised] = free_ports();
    let mut proxy = None;
    let broker = Broker::start_with(name, |port, _| {
        proxy = Some(Proxy::start(advertised, port));
        format!("advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}\n")
    });
    let properties = [("socket.timeout.ms", "1000"), ("transaction.timeout.ms", "30000")];
    let target = with(target(&broker, name), &properties);
    (broker, proxy.unwrap(), target)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_end_that_had_to_be_sent_twice_only_a_new_instance_begins_and_the_late_one_harms_nothing() {
    let (broker, proxy, target) = behind_proxy("late");
    let topic = "late.public.items";
    let mut session = claimed(&target, "a", 1).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("a", 1, 1)).unwrap();
    write(&mut session, topic, "1", "first").await;
    proxy.arm();
    session.commit(&close("a", 1, 1), LIMIT);
    committed(&mut session).await;
    let late = proxy.held();
    let refused = session.begin(&open("a", 2, 1));
    assert!(matches!(refused, Err(BeginError::Tainted(_))), "{refused:?}");
    drop(session);

    let mut session = claimed(&target, "b", 2).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("b", 1, 2)).unwrap();
    write(&mut session, topic, "1", "second").await;
    while session.in_flight() > 0 {
        assert_eq!(session.event().await, SinkEvent::Delivered);
    }
    late.release();
    assert_eq!(committed_values(&broker, topic), ["first"]);
    write(&mut session, topic, "1", "third").await;
    session.commit(&close("b", 1, 2), LIMIT);
    committed(&mut session).await;
    assert_eq!(committed_values(&broker, topic), ["first", "second", "third"]);
    assert_eq!(session.tainted(), None::<Taint>);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_an_answer_in_time_has_an_unknown_outcome() {
    let (_broker, proxy, target) = behind_proxy("unknown");
    let mut session = claimed(&target, "a", 1).await;
    session.begin(&open("a", 1, 1)).unwrap();
    proxy.arm();
    session.commit(&close("a", 1, 1), std::time::Duration::from_millis(300));
    let event = outcome(&mut session, LIMIT).await;
    assert!(matches!(event, SinkEvent::Failed(SessionError::OutcomeUnknown { .. })), "{event:?}");
    assert!(matches!(session.begin(&open("a", 2, 1)), Err(BeginError::Session(_))));
}
