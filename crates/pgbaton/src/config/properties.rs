//! Settings that are handed to librdkafka: which may be set, and which are secrets.

use std::collections::BTreeMap;

use pgbaton_sinks::kafka::{KafkaFault, KafkaTarget};

use super::mistake::{Checked, Wrong, quoted};
use crate::secret::{HIDDEN, Secret};

/// What a password file stands for.
pub(crate) const PASSWORD_PROPERTY: &str = "sasl.password";

/// Settings of librdkafka that the protocol depends on, and why they cannot be chosen.
const OWNED_PROPERTIES: &[(&str, &str)] = &[
    ("bootstrap.servers", "it is made from brokers"),
    ("metadata.broker.list", "it is made from brokers"),
    ("transactional.id", "it is made from topic_prefix, so that every worker fences the one before it"),
    ("transaction.timeout.ms", "the bound on a dead worker's transaction depends on it"),
    ("socket.timeout.ms", "what counts as a doubtful commit depends on it"),
    ("statistics.interval.ms", "doubtful producers are recognised by the statistics"),
    ("enable.idempotence", "transactions need it"),
    ("enable.gapless.guarantee", "transactions imply it"),
    ("acks", "transactions need all"),
    ("request.required.acks", "transactions need all"),
    ("max.in.flight", "order depends on it"),
    ("max.in.flight.requests.per.connection", "order depends on it"),
    ("retries", "transactions need them"),
    ("message.send.max.retries", "transactions need them"),
    ("message.timeout.ms", "it follows from the transaction's time-out"),
    ("delivery.timeout.ms", "it follows from the transaction's time-out"),
    ("partitioner", "the partition of a record must never change"),
    ("isolation.level", "progress is read committed"),
    ("client.id", "the worker names itself by it"),
    ("client.rack", "what is read has to come from the leaders"),
    ("reconnect.backoff.ms", "how soon a broker is tried again decides how long a takeover takes"),
    ("retry.backoff.ms", "how soon a request is tried again decides how long a takeover takes"),
    ("group.id", "no consumer group is used"),
    ("enable.auto.commit", "no consumer group is used"),
    ("enable.auto.offset.store", "no consumer group is used"),
    ("auto.offset.reset", "progress is read from offsets of our own"),
    ("enable.partition.eof", "the end of the progress topic is recognised by it"),
    ("allow.auto.create.topics", "topics are made with settings that the protocol needs"),
];

/// The settings that are refused, and why.
pub(super) fn owned() -> impl Iterator<Item = (&'static str, &'static str)> {
    OWNED_PROPERTIES.iter().copied()
}

/// Settings for librdkafka, as they are; it is asked whether it knows the name and takes the value.
pub(super) fn property(name: &str, text: &str) -> Checked<Secret> {
    if let Some((_, why)) = OWNED_PROPERTIES.iter().find(|(owned, _)| *owned == name) {
        return Err(Wrong { remark: "cannot be set here: ".into(), allowed: (*why).to_owned() });
    }
    let with_this_alone = KafkaTarget {
        brokers: "127.0.0.1:9092".to_owned(),
        topic_prefix: "check".to_owned(),
        properties: BTreeMap::from([(name.to_owned(), text.to_owned())]),
        client_id: "check".to_owned(),
    };
    with_this_alone.check().map(|()| Secret::new(text)).map_err(|fault| {
        let shown = shown_property(name, text);
        match &fault {
            // The library repeats the value.
            _ if shown == HIDDEN => Wrong { remark: "librdkafka refuses the value".into(), allowed: String::new() },
            // Of a name that nobody knows nobody knows either whether its value is a secret: it may be one that is mistyped.
            KafkaFault::ConfigInvalid { reason, .. } if reason.contains("No such configuration property") => {
                Wrong { remark: "".into(), allowed: reason.replace('\n', " ") }
            }
            KafkaFault::ConfigInvalid { reason, .. } => {
                Wrong { remark: format!("found {}: ", quoted(&shown)).into(), allowed: reason.replace('\n', " ") }
            }
            fault => Wrong { remark: "librdkafka refuses it: ".into(), allowed: fault.to_string().replace('\n', " ") },
        }
    })
}

/// A property's value as it may be shown. Names decide, on the safe side: librdkafka's secrets are passwords, keys and
/// what OAUTHBEARER is configured with.
pub(super) fn shown_property(name: &str, text: &str) -> String {
    const SECRET: &[&str] = &["password", "secret", "token", "oauthbearer", "pem", "jaas", "credential"];
    let name = name.to_lowercase();
    if SECRET.iter().any(|word| name.contains(word)) { HIDDEN.to_owned() } else { text.to_owned() }
}
