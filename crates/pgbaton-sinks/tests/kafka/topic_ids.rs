//! The id of a topic tells a topic that was made again from the one that was written to.

use pgbaton_sinks::kafka::TopicIdsError;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::broker::Broker;
use crate::security::{as_user, over_tls};
use crate::world::{LIMIT, claimed, target, with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_deleted_and_made_again_has_another_id() {
    let broker = Broker::shared();
    let target = target(broker, "again");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &broker.bootstrap).create().unwrap();
    let (topic, options) = ("again.public.items", AdminOptions::new().operation_timeout(Some(LIMIT)));
    let new = NewTopic::new(topic, 2, TopicReplication::Fixed(1));
    // A change of the cluster reaches the broker that is asked a little later.
    let id = async || target.topic_ids(&[topic], LIMIT).await.unwrap().remove(topic);
    let id_of_new = async || {
        admin.create_topics([&new], &options).await.unwrap()[0].clone().unwrap();
        loop {
            if let Some(id) = id().await {
                return id;
            }
        }
    };
    let first = id_of_new().await;
    assert_eq!(id().await, Some(first.clone()));

    admin.delete_topics(&[topic], &options).await.unwrap()[0].clone().unwrap();
    while id().await.is_some() {}
    assert_ne!(id_of_new().await, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_known_through_every_listener_that_is_spoken() {
    for target in [
        target(Broker::shared(), "plain-id"),
        as_user("sasl-id", "admin", "adm1n-secret"),
        over_tls("scram-id", "s3cret"),
    ] {
        drop(claimed(&target, "a", 1).await);
        let topic = format!("__pgbaton.{}.progress", target.topic_prefix);
        let ids = target.topic_ids(&[&topic, "absent"], LIMIT).await.unwrap();
        assert_eq!(ids.keys().collect::<Vec<_>>(), [&topic]);
        assert_eq!(ids[&topic].len(), 22, "{ids:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_why_and_no_password() {
    let refused = [(as_user("a", "admin", "wr0ng"), "credentials"), (over_tls("a", "wr0ng"), "credentials")];
    let untrusted = with(over_tls("a", "s3cret"), &[("ssl.ca.pem", &other_authority())]);
    for (target, expected) in refused.into_iter().chain([(untrusted, "certificate")]) {
        let error = target.topic_ids(&["a"], LIMIT).await.unwrap_err();
        assert!(matches!(error, TopicIdsError::Kafka(_)) && error.to_string().contains(expected), "{error}");
        assert!(!error.to_string().contains("wr0ng"), "{error}");
    }
}

fn other_authority() -> String {
    rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem()
}
