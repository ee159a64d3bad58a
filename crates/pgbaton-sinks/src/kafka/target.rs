//! Which Kafka, and with which settings: our own, the user's, and those that the user may not set.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use super::calls::Calls;
use super::fault::KafkaFault;
use super::wire::{TopicIdsError, topic_ids};

/// Where the records go.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaTarget {
    /// `host:port`, comma-separated.
    pub brokers: String,
    /// Unique per Kafka cluster: topics, progress and the transactional id are made from it.
    pub topic_prefix: String,
    /// Handed to librdkafka as they are, but for those that the protocol fixes.
    pub properties: BTreeMap<String, String>,
    /// How the worker names itself in the brokers' logs.
    pub client_id: String,
}

/// Values may be passwords: only the names are shown.
impl fmt::Debug for KafkaTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaTarget")
            .field("brokers", &self.brokers)
            .field("topic_prefix", &self.topic_prefix)
            .field("properties", &self.properties.keys())
            .field("client_id", &self.client_id)
            .finish()
    }
}

/// What the protocol stands on; a property that would change it is refused, not ignored.
const FIXED: &[&str] = &[
    "transactional.id",
    "enable.idempotence",
    "enable.gapless.guarantee",
    "acks",
    "request.required.acks",
    "isolation.level",
    "bootstrap.servers",
    "metadata.broker.list",
    "client.id",
    "client.rack",
    "group.id",
    "enable.partition.eof",
    "allow.auto.create.topics",
    "statistics.interval.ms",
    "reconnect.backoff.ms",
    "retry.backoff.ms",
    "partitioner",
];

/// How long a record is tried: the lease decides where nothing else keeps two workers apart.
const GIVES_UP: &[&str] = &["message.timeout.ms", "delivery.timeout.ms"];

/// Beginnings of the properties that concern the connection: the reader and the admin client need them too. The
/// others are the producer's.
const CONNECTION: &[&str] = &[
    "security.",
    "sasl.",
    "ssl.",
    "https.",
    "enable.sasl",
    "enable.ssl",
    "broker.",
    "client.",
    "socket.",
    "connections.",
    "api.version",
    "metadata.",
    "topic.metadata",
    "receive.message",
    "message.max",
    "resolve",
    "debug",
    "log",
];

/// `transaction.timeout.ms`, X of the protocol.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// `socket.timeout.ms`.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the library tells its statistics.
pub(super) const STATISTICS_INTERVAL: Duration = Duration::from_millis(100);

/// The two time-outs that other bounds are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timeouts {
    /// X: the coordinator aborts a transaction that is open for longer.
    pub transaction: Duration,
    /// A request without an answer for this long is given up and sent again.
    pub socket: Duration,
}

impl KafkaTarget {
    /// Looks for properties that cannot be used, without connecting.
    pub fn check(&self) -> Result<(), KafkaFault> {
        if let Some(name) = self.properties.keys().find(|name| FIXED.contains(&name.as_str())) {
            return Err(invalid(name, "it is set by pgbaton and cannot be changed"));
        }
        self.timeouts()?;
        self.producer(DEFAULT_MESSAGE_MAX_BYTES)?
            .create_native_config()
            .map(drop)
            .map_err(|error| KafkaFault::from_error(&error, "configure a producer"))
    }

    /// The same where the sink is not to be fenced, and a record is given up after `patience`.
    pub fn check_plain(&self, patience: Duration) -> Result<(), KafkaFault> {
        self.check()?;
        self.plain_producer(DEFAULT_MESSAGE_MAX_BYTES, patience)?
            .create_native_config()
            .map(drop)
            .map_err(|error| KafkaFault::from_error(&error, "configure a producer"))
    }

    /// The same for every worker, so that the newest session fences all others.
    pub fn transactional_id(&self) -> String {
        format!("pgbaton.{}", self.topic_prefix)
    }

    /// The ids that Kafka has given to those of the topics that exist, as its tools print them: a topic that was deleted and
    /// made again has another. Asked by a connection of its own, at most for `limit`.
    pub async fn topic_ids(&self, topics: &[&str], limit: Duration) -> Result<BTreeMap<String, String>, TopicIdsError> {
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let (target, deadline) = (self.clone(), Instant::now() + limit);
        Calls::start()?.run(move || topic_ids(&target, &topics, deadline)).await
    }

    pub(super) fn timeouts(&self) -> Result<Timeouts, KafkaFault> {
        let read = |name: &str, default: Duration| match self.properties.get(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map(Duration::from_millis)
                .map_err(|_| invalid(name, &format!("{text:?} is no number of milliseconds"))),
        };
        let timeouts = Timeouts {
            transaction: read("transaction.timeout.ms", TRANSACTION_TIMEOUT)?,
            socket: read("socket.timeout.ms", SOCKET_TIMEOUT)?,
        };
        if timeouts.transaction <= 2 * timeouts.socket {
            return Err(invalid(
                "transaction.timeout.ms",
                &format!(
                    "{} ms is not more than twice socket.timeout.ms ({} ms)",
                    timeouts.transaction.as_millis(),
                    timeouts.socket.as_millis()
                ),
            ));
        }
        Ok(timeouts)
    }

    /// The transactional producer.
    pub(super) fn producer(&self, message_max_bytes: u64) -> Result<ClientConfig, KafkaFault> {
        let timeouts = self.timeouts()?;
        let mut config = self.any_producer(timeouts, message_max_bytes);
        if !self.properties.contains_key("transaction.timeout.ms") {
            config.set("transaction.timeout.ms", timeouts.transaction.as_millis().to_string());
        }
        config.set("transactional.id", self.transactional_id());
        Ok(config)
    }

    /// The producer that fences nobody: a record that is not acknowledged within `patience` is given up and never sent
    /// again, and none that was handed over behind it is sent either.
    pub(super) fn plain_producer(
        &self,
        message_max_bytes: u64,
        patience: Duration,
    ) -> Result<ClientConfig, KafkaFault> {
        if let Some(name) = self.properties.keys().find(|name| GIVES_UP.contains(&name.as_str())) {
            return Err(invalid(name, "it follows from coordination.lease_ttl where delivery is at-least-once"));
        }
        let mut config = self.any_producer(self.timeouts()?, message_max_bytes);
        config.remove("transaction.timeout.ms");
        config.set("message.timeout.ms", patience.as_millis().to_string()).set("enable.gapless.guarantee", "true");
        Ok(config)
    }

    /// A batch must fit the limit, or the broker refuses records that are each small enough.
    fn any_producer(&self, timeouts: Timeouts, message_max_bytes: u64) -> ClientConfig {
        let mut config = self.common();
        config
            .set("socket.timeout.ms", timeouts.socket.as_millis().to_string())
            .set("message.max.bytes", message_max_bytes.to_string())
            .set("batch.size", message_max_bytes.min(LARGEST_BATCH).to_string())
            // A transaction waits for it three times: before `open`, before the data's end, before `close`.
            .set("linger.ms", "2")
            .set("compression.type", "lz4")
            .set("queue.buffering.max.messages", "200000")
            .set("queue.buffering.max.kbytes", "65536");
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("statistics.interval.ms", STATISTICS_INTERVAL.as_millis().to_string());
        config
    }

    /// A read_committed reader of single partitions. It joins no group: the id is only asked for by the library.
    pub(super) fn reader(&self) -> ClientConfig {
        let mut config = self.connection();
        config
            .set("group.id", self.transactional_id())
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("allow.auto.create.topics", "false")
            .set("fetch.wait.max.ms", "1")
            .set("fetch.error.backoff.ms", "50");
        config
    }

    /// The admin client. Its log is silenced: the library gives us no way to read it, and it would pile up.
    pub(super) fn admin(&self) -> ClientConfig {
        let mut config = self.connection();
        config.set_log_level(RDKafkaLogLevel::Emerg);
        config
    }

    fn connection(&self) -> ClientConfig {
        let mut config = self.common();
        config.set("socket.timeout.ms", SOCKET_TIMEOUT.as_millis().to_string());
        for (name, value) in &self.properties {
            if CONNECTION.iter().any(|beginning| name.starts_with(beginning)) {
                config.set(name, value);
            }
        }
        config
    }

    fn common(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            .set("socket.nagle.disable", "true")
            // After an outage we want to be back in a second, not in ten.
            .set("reconnect.backoff.max.ms", "1000")
            .set_log_level(RDKafkaLogLevel::Info);
        config
    }
}

/// A broker's `message.max.bytes` where we may not read it.
pub(super) const DEFAULT_MESSAGE_MAX_BYTES: u64 = 1_048_588;
/// The library's own default of `batch.size`.
const LARGEST_BATCH: u64 = 1_000_000;

fn invalid(name: &str, reason: &str) -> KafkaFault {
    KafkaFault::ConfigInvalid { name: name.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(properties: &[(&str, &str)]) -> KafkaTarget {
        KafkaTarget {
            brokers: "127.0.0.1:9092".to_owned(),
            topic_prefix: "orders".to_owned(),
            properties: properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            client_id: "worker-1".to_owned(),
        }
    }

    #[test]
    fn a_property_that_the_protocol_fixes_is_refused() {
        for name in ["acks", "transactional.id", "isolation.level", "client.rack"] {
            let fault = target(&[(name, "0")]).check().unwrap_err();
            assert!(matches!(&fault, KafkaFault::ConfigInvalid { name: found, .. } if found == name), "{fault}");
        }
    }

    #[test]
    fn how_long_a_record_is_tried_is_not_the_users_choice_without_transactions() {
        let patience = Duration::from_millis(2750);
        assert!(target(&[("transaction.timeout.ms", "30000")]).check_plain(patience).is_ok());
        let fault = target(&[("delivery.timeout.ms", "60000")]).check_plain(patience).unwrap_err();
        assert!(matches!(&fault, KafkaFault::ConfigInvalid { name, .. } if name == "delivery.timeout.ms"), "{fault}");
        let config = target(&[]).plain_producer(DEFAULT_MESSAGE_MAX_BYTES, patience).unwrap();
        assert_eq!((config.get("transactional.id"), config.get("message.timeout.ms")), (None, Some("2750")));
    }

    #[test]
    fn a_transaction_must_outlive_two_socket_timeouts() {
        assert!(target(&[]).check().is_ok());
        assert!(target(&[("transaction.timeout.ms", "20000")]).check().is_err());
        assert!(target(&[("transaction.timeout.ms", "20000"), ("socket.timeout.ms", "3000")]).check().is_ok());
    }

    #[test]
    fn producer_properties_do_not_reach_the_reader() {
        let target = target(&[("linger.ms", "5"), ("sasl.username", "lab")]);
        assert_eq!(target.reader().get("linger.ms"), None);
        assert_eq!(target.reader().get("sasl.username"), Some("lab"));
        assert_eq!(target.producer(DEFAULT_MESSAGE_MAX_BYTES).unwrap().get("linger.ms"), Some("5"));
    }

    #[test]
    fn passwords_are_not_shown() {
        assert!(!format!("{:?}", target(&[("sasl.password", "hunter2")])).contains("hunter2"));
    }
}
