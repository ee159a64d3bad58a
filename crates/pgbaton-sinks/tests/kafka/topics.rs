//! Topics are made as the protocol needs them, and refused where they are not so.

use std::time::Duration;

use pgbaton_sinks::kafka::{
    FenceError, KafkaFault, KafkaSession, KafkaStandby, SessionError, TopicError, TopicInvalid,
};
use pgbaton_sinks::{markers_topic, progress_topic};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::broker::Broker;
use crate::world::{claimed, open, target, with};

fn admin(broker: &Broker) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &broker.bootstrap).create().unwrap()
}

async fn create(broker: &Broker, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for (name, value) in settings {
        new = new.set(name, value);
    }
    let options = AdminOptions::new();
    admin(broker).create_topics(&[new], &options).await.unwrap()[0].as_ref().unwrap();
}

async fn setting(broker: &Broker, topic: &str, name: &str) -> String {
    let options = AdminOptions::new();
    let described = admin(broker).describe_configs(&[ResourceSpecifier::Topic(topic)], &options).await.unwrap();
    let entries = described[0].as_ref().unwrap().entry_map();
    entries[name].value.clone().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_topics_of_the_protocol_get_their_settings() {
    let broker = Broker::shared();
    drop(claimed(&target(broker, "settings"), "a", 1).await);
    let (progress, markers) = (progress_topic("settings"), markers_topic("settings"));
    for (topic, name, value) in [
        (&progress, "cleanup.policy", "compact"),
        (&progress, "min.compaction.lag.ms", "86400000"),
        (&progress, "segment.bytes", "16777216"),
        (&markers, "cleanup.policy", "delete"),
        (&markers, "retention.ms", "-1"),
        (&markers, "retention.bytes", "-1"),
    ] {
        assert_eq!(setting(broker, topic, name).await, value, "{topic} {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_progress_topic_with_wrong_settings_is_refused_by_name() {
    let broker = Broker::shared();
    let lag = ("min.compaction.lag.ms", "86400000");
    let compact = ("cleanup.policy", "compact");
    for (prefix, partitions, settings, setting) in [
        ("deleted", 1, vec![lag], "cleanup.policy"),
        ("both", 1, vec![("cleanup.policy", "compact,delete"), lag], "cleanup.policy"),
        ("hasty", 1, vec![compact], "min.compaction.lag.ms"),
        ("split", 2, vec![compact, lag], "partitions"),
    ] {
        create(broker, &progress_topic(prefix), partitions, &settings).await;
        let error = KafkaSession::fence(&target(broker, prefix), &open("a", 0, 1)).await.unwrap_err();
        let FenceError::TopicInvalid(invalid) = &error else { panic!("{error}") };
        assert_eq!((invalid.topic.as_str(), invalid.setting.as_str()), (&*progress_topic(prefix), setting));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_markers_topic_that_forgets_is_refused() {
    let broker = Broker::shared();
    create(broker, &markers_topic("forgetful"), 1, &[]).await;
    let error = KafkaSession::fence(&target(broker, "forgetful"), &open("a", 0, 1)).await.unwrap_err();
    let wrong = TopicInvalid {
        topic: markers_topic("forgetful"),
        setting: "retention.ms".to_owned(),
        found: "604800000".to_owned(),
        wanted: "-1".to_owned(),
    };
    assert_eq!(error, FenceError::TopicInvalid(wrong));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_takes_smaller_batches_than_we_make_is_refused() {
    let broker = Broker::shared();
    create(broker, "narrow.public.items", 1, &[("max.message.bytes", "100000")]).await;
    let mut session = claimed(&target(broker, "narrow"), "a", 1).await;
    let error = session.prepare_topics(&["narrow.public.items"]).await.unwrap_err();
    assert!(matches!(&error, TopicError::Invalid(invalid) if invalid.setting == "max.message.bytes"), "{error}");

    let smaller = with(target(broker, "narrow"), &[("batch.size", "100000")]);
    let mut session = claimed(&smaller, "b", 2).await;
    session.prepare_topics(&["narrow.public.items"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_timeout_above_the_brokers_is_a_setting_to_change() {
    let target = with(target(Broker::shared(), "long"), &[("transaction.timeout.ms", "3600000")]);
    let error = KafkaSession::fence(&target, &open("a", 0, 1)).await.unwrap_err();
    let FenceError::Session(SessionError::Kafka(KafkaFault::ConfigInvalid { name, .. })) = &error else {
        panic!("{error}")
    };
    assert_eq!(name, "transaction.timeout.ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_answers_for_a_topic_that_is_not_there_and_does_not_make_it() {
    let broker = Broker::shared();
    let probe = KafkaStandby::new(&target(broker, "probed")).unwrap();
    probe.check(Duration::from_secs(5)).await.unwrap();
    probe.check(Duration::from_secs(5)).await.unwrap();
    // The broker makes topics that are merely asked for by a producer.
    create(broker, &progress_topic("probed"), 1, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_at_the_address_is_unreachable_within_the_limit() {
    let mut nowhere = target(Broker::shared(), "nowhere");
    nowhere.brokers = "127.0.0.1:1".to_owned();
    let fault = KafkaStandby::new(&nowhere).unwrap().check(Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(&fault, KafkaFault::Unreachable { reason } if reason.contains("refused")), "{fault}");
}
