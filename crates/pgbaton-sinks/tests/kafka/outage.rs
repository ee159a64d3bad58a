//! A broker that stops answering: nothing blocks, nothing is believed, and it goes on or ends with a reason.

use std::time::{Duration, Instant};

use pgbaton_sinks::kafka::{KafkaFault, KafkaStandby, SessionError, SinkEvent};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::broker::Broker;
use crate::world::{LIMIT, claimed, close, committed, committed_values, open, outcome, target, with, write};

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
    let probe = KafkaStandby::new(&target).unwrap();
    let fault = probe.check(Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(fault, KafkaFault::Unreachable { .. }), "{fault}");

    broker.cont();
    probe.check(LIMIT).await.unwrap();
    let event = outcome(&mut session, LIMIT).await;
    assert!(matches!(event, SinkEvent::Committed(_)), "{event:?}");
    assert_eq!(committed_values(&broker, topic), ["before", "while frozen"]);
}

/// Kafka makes no difference between the two, and so nobody may conclude from it that another worker took over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_was_open_for_too_long_ends_the_session_like_a_fence() {
    let broker = Broker::start_with("overdue", |_, _| {
        "transaction.abort.timed.out.transaction.cleanup.interval.ms=200\n".to_owned()
    });
    let topic = "overdue.public.items";
    let properties = [("socket.timeout.ms", "1000"), ("transaction.timeout.ms", "2500")];
    let target = with(target(&broker, "overdue"), &properties);
    let mut session = claimed(&target, "a", 1).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("a", 1, 1)).unwrap();
    write(&mut session, topic, "1", "too late").await;
    while session.in_flight() > 0 {
        assert_eq!(session.event().await, SinkEvent::Delivered);
    }

    // The end of what is readable goes past the record once its transaction is over.
    let reader: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &broker.bootstrap).create().unwrap();
    let deadline = Instant::now() + LIMIT;
    let ended = || (0..3).any(|partition| reader.fetch_watermarks(topic, partition, LIMIT).unwrap().1 > 0);
    while !ended() {
        assert!(Instant::now() < deadline, "kafka does not end the transaction");
    }
    session.commit(&close("a", 1, 1), LIMIT);
    assert_eq!(outcome(&mut session, LIMIT).await, SinkEvent::Failed(SessionError::Fenced));

    let mut session = claimed(&target, "b", 2).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("b", 1, 2)).unwrap();
    write(&mut session, topic, "1", "in time").await;
    session.commit(&close("b", 1, 2), LIMIT);
    committed(&mut session).await;
    assert_eq!(committed_values(&broker, topic), ["in time"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_within_a_transaction_and_comes_back_shows_what_was_reported() {
    let mut broker = Broker::start("dying");
    let topic = "dying.public.items";
    let properties = [("socket.timeout.ms", "2000"), ("transaction.timeout.ms", "60000")];
    let target = with(target(&broker, "dying"), &properties);
    let mut session = claimed(&target, "a", 1).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("a", 1, 1)).unwrap();
    write(&mut session, topic, "1", "before").await;
    broker.kill();
    write(&mut session, topic, "1", "while dead").await;
    session.commit(&close("a", 1, 1), 3 * LIMIT);
    broker.start_again();
    let mut expected = match outcome(&mut session, 3 * LIMIT).await {
        SinkEvent::Committed(_) => vec!["before", "while dead"],
        SinkEvent::Failed(SessionError::OutcomeUnknown { .. }) => panic!("the broker came back and was not asked"),
        SinkEvent::Failed(_) => vec![],
        event @ SinkEvent::Delivered => panic!("{event:?}"),
    };
    drop(session);

    let mut session = claimed(&target, "b", 2).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("b", 1, 2)).unwrap();
    write(&mut session, topic, "1", "after").await;
    session.commit(&close("b", 1, 2), LIMIT);
    committed(&mut session).await;
    expected.push("after");
    assert_eq!(committed_values(&broker, topic), expected);
}
