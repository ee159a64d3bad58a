//! The end of a transaction that is delayed on its way: the reason for the instance rule and for the brackets.
//!
//! The last tests go past our rules with a producer of their own, to see what the rules are for.

use pgbaton_core::{Lsn, ProgressRecord, Standing};
use pgbaton_sinks::kafka::{BeginError, Fenced, KafkaSession, KafkaTarget, SessionError, SinkEvent, Taint};
use pgbaton_sinks::progress_topic;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::broker::{Broker, free_ports};
use crate::proxy::{Held, Proxy};
use crate::world::{
    LIMIT, claimed, close, committed, committed_values, open, outcome, raw_producer_of, target, with, write,
};

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
    delivered(&mut session).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_that_comes_late_does_not_touch_the_next_session() {
    let (broker, proxy, target) = behind_proxy("late-abort");
    let topic = "late-abort.public.items";
    let mut session = claimed(&target, "a", 1).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("a", 1, 1)).unwrap();
    write(&mut session, topic, "1", "first").await;
    delivered(&mut session).await;
    proxy.arm();
    session.abort().await;
    let late = proxy.held();

    let mut session = claimed(&target, "b", 2).await;
    session.prepare_topics(&[topic]).await.unwrap();
    session.begin(&open("b", 1, 2)).unwrap();
    write(&mut session, topic, "1", "second").await;
    delivered(&mut session).await;
    late.release();
    session.commit(&close("b", 1, 2), LIMIT);
    committed(&mut session).await;
    assert_eq!(committed_values(&broker, topic), ["second"]);
}

/// One end of a transaction that had to be sent twice, and the same instance in its next transaction.
struct PastTheRules {
    broker: Broker,
    target: KafkaTarget,
    topic: String,
    producer: BaseProducer,
    late: Option<Held>,
}

impl PastTheRules {
    /// A claimed pipeline whose producer has ended a transaction, and begun the next.
    async fn begin(name: &str, end: impl FnOnce(&BaseProducer)) -> PastTheRules {
        let (broker, proxy, target) = behind_proxy(name);
        let topic = format!("{name}.public.items");
        let mut session = claimed(&target, "a", 1).await;
        session.prepare_topics(&[&topic]).await.unwrap();
        drop(session);
        let producer = raw_producer_of(&target);
        producer.begin_transaction().unwrap();
        data(&producer, &topic, 0, 1, "before");
        producer.flush(LIMIT).unwrap();
        proxy.arm();
        end(&producer);
        let late = Some(proxy.held());
        producer.begin_transaction().unwrap();
        PastTheRules { broker, target, topic, producer, late }
    }

    /// Writes a record to the progress topic. Whether it got there is for the commit to tell.
    fn progress(&self, record: &ProgressRecord) {
        let (topic, value) = (progress_topic(&self.target.topic_prefix), record.to_bytes());
        let out = BaseRecord::to(&topic).partition(0).key(record.record_type.key()).payload(&value);
        self.producer.send(out).map_err(|(error, _)| error).unwrap();
        self.producer.flush(LIMIT).unwrap();
    }

    /// Lets the broker see the late end.
    fn release(&mut self) {
        self.late.take().unwrap().release();
    }
}

fn data(producer: &BaseProducer, topic: &str, partition: i32, commit: u64, value: &str) {
    let id = format!("7300000000000000000/1/{}/0", Lsn(commit));
    let headers = OwnedHeaders::new().insert(Header { key: "pgbaton.id", value: Some(&id) });
    let record = BaseRecord::to(topic).partition(partition).key("key").payload(value).headers(headers);
    producer.send(record).map_err(|(error, _)| error).unwrap();
}

async fn delivered(session: &mut KafkaSession) {
    while session.in_flight() > 0 {
        assert_eq!(session.event().await, SinkEvent::Delivered);
    }
}

fn commit(producer: &BaseProducer) {
    producer.commit_transaction(LIMIT).unwrap();
}

fn abort(producer: &BaseProducer) {
    producer.abort_transaction(LIMIT).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_commit_between_close_and_commit_commits_the_whole_transaction() {
    let mut past = PastTheRules::begin("close-commit", commit).await;
    past.progress(&open("a", 2, 1));
    data(&past.producer, &past.topic, 0, 2, "whole");
    past.progress(&close("a", 2, 1));
    past.release();
    let PastTheRules { broker, target, topic, producer, .. } = past;
    let ended = producer.commit_transaction(LIMIT);
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(committed_values(&broker, &topic), ["before", "whole"]);
    let Fenced { read, .. } = KafkaSession::fence(&target, &open("b", 0, 2)).await.unwrap();
    assert_eq!((read.last_open, read.position.unwrap().record), (Some(open("a", 2, 1)), close("a", 2, 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_abort_between_close_and_commit_refuses_the_commit_and_shows_nothing() {
    let mut past = PastTheRules::begin("close-abort", abort).await;
    past.progress(&open("a", 2, 1));
    data(&past.producer, &past.topic, 0, 2, "gone");
    past.progress(&close("a", 2, 1));
    past.release();
    let PastTheRules { broker, target, topic, producer, .. } = past;
    assert!(producer.commit_transaction(LIMIT).is_err(), "data was lost and the commit reported success");
    assert_eq!(committed_values(&broker, &topic), Vec::<String>::new());
    let Fenced { read, .. } = KafkaSession::fence(&target, &open("b", 0, 2)).await.unwrap();
    assert_eq!(read.last_open, Some(open("a", 0, 1)));
}

/// The one way in which a transaction becomes half visible; the unclosed `open` tells of it, and the half is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_commit_before_the_close_tears_the_transaction_which_shows_and_is_read_back() {
    let mut past = PastTheRules::begin("torn-late", commit).await;
    past.progress(&open("a", 2, 1));
    data(&past.producer, &past.topic, 0, 2, "first half");
    past.producer.flush(LIMIT).unwrap();
    past.release();
    // This partition is new to the transaction, which the coordinator takes for one more: only the close is refused, and
    // that only if it is sent after all else has been acknowledged. Sent together with this it would still be in time for
    // the late commit, and tell of more than was committed.
    data(&past.producer, &past.topic, 2, 2, "second half");
    past.producer.flush(LIMIT).unwrap();
    past.progress(&close("a", 2, 1));
    let PastTheRules { broker, target, topic, producer, .. } = past;
    assert!(producer.commit_transaction(LIMIT).is_err(), "a torn transaction was reported as committed");
    assert_eq!(committed_values(&broker, &topic), ["before", "first half"]);

    let Fenced { session, read } = KafkaSession::fence(&target, &open("b", 0, 2)).await.unwrap();
    assert_eq!(read.last_open, Some(open("a", 2, 1)));
    assert_ne!(read.position.unwrap().record.number, 2, "the torn transaction has a close");
    let found = session
        .read_back(&[&topic], |id, _| if id.commit_lsn >= Lsn(2) { Standing::Beyond } else { Standing::Told }, LIMIT)
        .await
        .unwrap();
    assert_eq!(found.iter().map(|record| (record.partition, record.id.commit_lsn)).collect::<Vec<_>>(), [(0, Lsn(2))]);
}
