//! A broker that stops answering: nothing blocks, nothing is believed, and it goes on or ends with a reason.

use std::time::{Duration, Instant};

use pgbaton_sinks::kafka::{KafkaFault, KafkaProbe, SinkEvent};

use crate::broker::Broker;
use crate::world::{LIMIT, claimed, close, committed_values, open, outcome, target, with, write};

#[tokio::test(flavor = "current_thread")]
async fn a_frozen_broker_stalls_the_session_without_blocking_and_everything_is_whole_when_it_goes_on() {
    let broker = Broker::start("frozen");
    let topic = "frozen.public.items";
    let properties = [("socket.timeout.ms", "1000"), ("transaction.timeout.ms", "30000")];
    let target = with(target(&broker, "frozen"), &properties);
    let mut session = claimed(&target, "a", 1).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("a", 1, 1)).unwrap();
    write(&mut session, topic, "1", "before").await;
    while session.in_flight() > 0 {
        assert_eq!(session.event().await, SinkEvent::Delivered);
    }

    broker.stop();
    let began = Instant::now();
    write(&mut session, topic, "1", "while frozen").await;
    session.commit(&close("a", 1, 1), LIMIT);
    assert!(began.elapsed() < Duration::from_millis(100), "a call blocked");
    let silence = tokio::time::timeout(Duration::from_millis(1500), session.event()).await;
    assert!(silence.is_err(), "a frozen broker was heard: {silence:?}");
    let probe = KafkaProbe::new(&target).unwrap();
    let fault = probe.check(Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(fault, KafkaFault::Unreachable { .. }), "{fault}");

    broker.cont();
    probe.check(LIMIT).await.unwrap();
    let event = outcome(&mut session, LIMIT).await;
    assert!(matches!(event, SinkEvent::Committed(_)), "{event:?}");
    assert_eq!(committed_values(&broker, topic), ["before", "while frozen"]);
}
