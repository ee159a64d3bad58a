//! Three brokers of which one dies: what was reported is what can be read, and a new session goes on.

use std::time::Duration;

use pgbaton_sinks::kafka::{Fenced, KafkaSession, KafkaTarget, SessionError, SinkEvent};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::broker::Broker;
use crate::world::{LIMIT, claim, claimed, close, committed, committed_values, open, outcome, target, with, write};

/// How long a cluster of the tests may take to replace a dead broker.
const REPLACED: Duration = Duration::from_secs(60);

fn target_of(brokers: &[Broker; 3], prefix: &str) -> KafkaTarget {
    let properties = [("socket.timeout.ms", "2000"), ("transaction.timeout.ms", "60000")];
    let mut target = with(target(&brokers[0], prefix), &properties);
    target.brokers = brokers.each_ref().map(|broker| broker.bootstrap.as_str()).join(",");
    target
}

/// The index of the broker that coordinates the transactions of `id`, by Kafka's rule.
fn coordinator(brokers: &[Broker; 3], id: &str) -> usize {
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &brokers[0].bootstrap).create().unwrap();
    let metadata = client.fetch_metadata(Some("__transaction_state"), LIMIT).unwrap();
    let partitions = metadata.topics()[0].partitions();
    let hash = id.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    let partition = (hash & i32::MAX) % partitions.len() as i32;
    let leader = partitions.iter().find(|found| found.id() == partition).unwrap().leader();
    brokers.iter().position(|broker| broker.id == leader).unwrap()
}

/// A session on a cluster that replaces a dead broker meanwhile.
async fn claimed_at_last(target: &KafkaTarget, session: &str, term: u64) -> KafkaSession {
    let attempts = async {
        loop {
            let Ok(Fenced { session: mut kafka, .. }) = KafkaSession::fence(target, &open(session, 0, term)).await
            else {
                continue;
            };
            if kafka.claim(&[claim(session, term)], &[], LIMIT).await.is_ok() {
                return kafka;
            }
        }
    };
    tokio::time::timeout(REPLACED, attempts).await.expect("a cluster of two claims in the end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_the_coordinator_loses_nothing_and_doubles_nothing() {
    let mut brokers = Broker::start_three("coordinator");
    let (target, topic) = (target_of(&brokers, "moved"), "moved.public.items");
    let mut session = claimed(&target, "a", 1).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("a", 1, 1)).unwrap();
    write(&mut session, topic, "1", "first").await;
    while session.in_flight() > 0 {
        assert_eq!(session.event().await, SinkEvent::Delivered);
    }

    let dead = coordinator(&brokers, &target.transactional_id());
    brokers[dead].kill();
    session.commit(&close("a", 1, 1), REPLACED);
    let event = outcome(&mut session, REPLACED).await;
    let mut expected = match event {
        SinkEvent::Committed(_) => vec!["first"],
        SinkEvent::Failed(SessionError::NotCommitted { .. } | SessionError::Fenced) => vec![],
        event => panic!("{event:?}"),
    };
    assert!(session.begin(&open("a", 2, 1)).is_err(), "the coordinator may have been asked twice to end a transaction");
    drop(session);

    let mut session = claimed_at_last(&target, "b", 2).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("b", 1, 2)).unwrap();
    write(&mut session, topic, "1", "second").await;
    session.commit(&close("b", 1, 2), LIMIT);
    committed(&mut session).await;
    expected.push("second");

    brokers[dead].start_again();
    brokers[dead].wait_until_known(3);
    assert_eq!(committed_values(&brokers[dead], topic), expected);
}
