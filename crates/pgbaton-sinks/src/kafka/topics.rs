//! Topics: they exist before the first record, and those of the protocol are set as it needs them.
//!
//! All calls block; they belong on the thread of `calls`.

use std::collections::BTreeMap;
use std::time::Instant;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigEntry, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::RDKafkaErrorCode as Code;
use tokio::runtime::Handle;

use super::calls::Cancelled;
use super::fault::KafkaFault;
use super::reader::{ADMIN_LIMIT, ASK_AGAIN, Reader};
use super::target::{DEFAULT_MESSAGE_MAX_BYTES, KafkaTarget};
use super::told::Told;

/// A setting of a topic that would make the protocol unsafe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("topic {topic}: {setting} is {found}, it has to be {wanted}")]
pub struct TopicInvalid {
    /// The topic.
    pub topic: String,
    /// The setting, as Kafka names it, or `partitions`.
    pub setting: String,
    /// Its value.
    pub found: String,
    /// What it has to be.
    pub wanted: String,
}

/// A topic cannot be written to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// It is not as it has to be.
    #[error(transparent)]
    Invalid(#[from] TopicInvalid),
    /// Kafka cannot be asked, or refuses.
    #[error(transparent)]
    Kafka(#[from] KafkaFault),
}

/// What a topic of the protocol has to be.
pub(super) struct Required {
    pub topic: String,
    /// Given when we create it.
    created_with: &'static [(&'static str, &'static str)],
    /// Looked at every time: (setting, what it has to be, whether the value is).
    checked: &'static [Check],
}

type Check = (&'static str, &'static str, fn(&str) -> bool);

impl Required {
    pub fn progress(topic: String) -> Self {
        Required {
            topic,
            created_with: &[
                ("cleanup.policy", "compact"),
                ("min.compaction.lag.ms", "86400000"),
                ("segment.bytes", "16777216"),
            ],
            checked: &[
                ("cleanup.policy", "compact", |value| value == "compact"),
                ("min.compaction.lag.ms", "86400000 or more", |value| {
                    value.parse().is_ok_and(|lag: i64| lag >= 86_400_000)
                }),
            ],
        }
    }

    pub fn markers(topic: String) -> Self {
        Required {
            topic,
            created_with: &[("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")],
            checked: &[
                ("cleanup.policy", "delete", |value| value == "delete"),
                ("retention.ms", "-1", |value| value == "-1"),
                ("retention.bytes", "-1", |value| value == "-1"),
            ],
        }
    }
}

impl Required {
    /// What of an existing topic is not as it has to be. Settings that may not be read are not judged.
    pub fn invalid(&self, partitions: usize, settings: &BTreeMap<String, String>) -> Vec<TopicInvalid> {
        let mut invalid = Vec::new();
        let mut note = |setting: &str, found: &str, wanted: &str| {
            invalid.push(TopicInvalid {
                topic: self.topic.clone(),
                setting: setting.to_owned(),
                found: found.to_owned(),
                wanted: wanted.to_owned(),
            });
        };
        if partitions != 1 {
            note("partitions", &partitions.to_string(), "1");
        }
        for (setting, wanted, is_right) in self.checked {
            if let Some(found) = settings.get(*setting).filter(|found| !is_right(found)) {
                note(setting, found, wanted);
            }
        }
        invalid
    }
}

/// What is known of a data topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TopicShape {
    pub partitions: i32,
    /// The largest batch that it takes; `None` where we may not read it.
    pub max_message_bytes: Option<u64>,
}

/// The topics of the protocol are there.
pub(super) struct Prepared {
    /// The cluster's limit for a record.
    pub message_max_bytes: u64,
    /// The first of them was made just now.
    pub first_was_created: bool,
}

/// The clients that topics are asked for and made with.
pub(super) struct Topics {
    admin: AdminClient<Told>,
    reader: Reader,
    runtime: Handle,
    cancelled: Cancelled,
}

impl Topics {
    pub fn connect(target: &KafkaTarget, runtime: Handle, cancelled: Cancelled) -> Result<Self, KafkaFault> {
        let admin = target
            .admin()
            .create_with_context(Told::default())
            .map_err(|error| KafkaFault::from_error(&error, "create an admin client"))?;
        Ok(Topics { admin, reader: Reader::connect(target, cancelled.clone())?, runtime, cancelled })
    }

    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Makes sure that the topics of the protocol exist and are as they have to be.
    pub fn ensure_required(&self, required: &[Required]) -> Result<Prepared, TopicError> {
        let mut broker = None;
        let mut created = Vec::new();
        for topic in required {
            let found = self.reader.metadata(&topic.topic)?;
            broker = Some(found.any_broker);
            created.push(found.partitions.is_none());
            let partitions = match found.partitions {
                Some(partitions) => partitions,
                None => {
                    let mut new = NewTopic::new(&topic.topic, 1, TopicReplication::Fixed(found.replication()));
                    for (name, value) in topic.created_with {
                        new = new.set(name, value);
                    }
                    self.create(vec![new])?;
                    self.wait_for(&topic.topic)?
                }
            };
            if partitions != 1 {
                return Err(invalid(&topic.topic, "partitions", &partitions.to_string(), "1"));
            }
        }
        let mut resources: Vec<_> = required.iter().map(|topic| ResourceSpecifier::Topic(&topic.topic)).collect();
        resources.extend(broker.map(ResourceSpecifier::Broker));
        let mut described = self.describe(&resources)?.into_iter();
        for topic in required {
            let entries = described.next().unwrap_or(Err(Code::Unknown)).map_err(|code| {
                KafkaFault::from_code(code, "", &format!("describe the settings of topic {}", topic.topic))
            })?;
            for (setting, wanted, is_right) in topic.checked {
                let found = value(&entries, setting).unwrap_or_default();
                if !is_right(found) {
                    return Err(invalid(&topic.topic, setting, found, wanted));
                }
            }
        }
        // The right to describe the cluster is not asked of the operator: Kafka's default serves where it is missing.
        let limit = described
            .next()
            .and_then(Result::ok)
            .and_then(|entries| value(&entries, "message.max.bytes").and_then(|limit| limit.parse().ok()));
        Ok(Prepared {
            message_max_bytes: limit.unwrap_or(DEFAULT_MESSAGE_MAX_BYTES),
            first_was_created: created.first() == Some(&true),
        })
    }

    /// Makes sure that data topics exist and take our batches. In the order asked for.
    pub fn ensure_data(&self, topics: &[String], largest_batch: u64) -> Result<Vec<TopicShape>, TopicError> {
        let mut found = Vec::with_capacity(topics.len());
        for topic in topics {
            found.push(self.reader.metadata(topic)?);
        }
        let missing: Vec<_> = topics
            .iter()
            .zip(&found)
            .filter(|(_, found)| found.partitions.is_none())
            .map(|(topic, found)| NewTopic::new(topic, BROKER_DEFAULT, TopicReplication::Fixed(found.replication())))
            .collect();
        self.create(missing)?;
        let mut shapes = Vec::with_capacity(topics.len());
        for (topic, found) in topics.iter().zip(found) {
            let partitions = match found.partitions {
                Some(partitions) => partitions,
                None => self.wait_for(topic)?,
            };
            shapes.push(TopicShape { partitions, max_message_bytes: None });
        }
        let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        for ((shape, topic), described) in shapes.iter_mut().zip(topics).zip(self.describe(&resources)?) {
            shape.max_message_bytes =
                described.ok().and_then(|entries| value(&entries, "max.message.bytes")?.parse().ok());
            // The broker would refuse a batch whose records are each small enough, and the library cannot split it.
            if let Some(limit) = shape.max_message_bytes.filter(|limit| *limit < largest_batch) {
                let wanted = format!("{largest_batch} or more, or batch.size in our kafka properties that small");
                return Err(invalid(topic, "max.message.bytes", &limit.to_string(), &wanted));
            }
        }
        Ok(shapes)
    }

    fn create(&self, topics: Vec<NewTopic<'_>>) -> Result<(), TopicError> {
        if topics.is_empty() {
            return Ok(());
        }
        let options = AdminOptions::new().request_timeout(Some(ADMIN_LIMIT)).operation_timeout(Some(ADMIN_LIMIT));
        let results = self
            .runtime
            .block_on(self.admin.create_topics(&topics, &options))
            .map_err(|error| KafkaFault::from_error(&error, "create topics"))?;
        for result in results {
            match result {
                // Another worker may have been quicker.
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                Err((topic, code)) => {
                    return Err(KafkaFault::from_code(code, "", &format!("create topic {topic}")).into());
                }
            }
        }
        Ok(())
    }

    /// Whether a topic might be made: asked, not done. The refusal in Kafka's words.
    pub fn may_create(&self, topic: &str, replication: i32) -> Result<(), String> {
        let new = NewTopic::new(topic, 1, TopicReplication::Fixed(replication));
        let options = AdminOptions::new().request_timeout(Some(ADMIN_LIMIT)).validate_only(true);
        let results = self.runtime.block_on(self.admin.create_topics([&new], &options));
        let refusals = results.map_err(|error| error.to_string())?.into_iter().filter_map(Result::err);
        // The right is looked at before the topic's existence.
        refusals.filter(|(_, code)| *code != Code::TopicAlreadyExists).try_for_each(|(_, code)| Err(code.to_string()))
    }

    /// Waits until a topic that was just made has leaders, and tells its partitions.
    fn wait_for(&self, topic: &str) -> Result<i32, TopicError> {
        let deadline = Instant::now() + ADMIN_LIMIT;
        loop {
            if let Some(partitions) = self.reader.metadata(topic)?.partitions {
                return Ok(partitions);
            }
            if self.cancelled.is_set() || Instant::now() >= deadline {
                let reason = format!("topic {topic} was created and does not appear");
                return Err(KafkaFault::Unreachable { reason }.into());
            }
            std::thread::sleep(ASK_AGAIN);
        }
    }

    /// Settings of topics that are there, and of brokers. The broker that is asked may not have heard yet of a topic that
    /// was just made.
    pub fn describe(&self, resources: &[ResourceSpecifier<'_>]) -> Result<Vec<Described>, KafkaFault> {
        if resources.is_empty() {
            return Ok(Vec::new());
        }
        let options = AdminOptions::new().request_timeout(Some(ADMIN_LIMIT));
        let deadline = Instant::now() + ADMIN_LIMIT;
        loop {
            let results = self
                .runtime
                .block_on(self.admin.describe_configs(resources, &options))
                .map_err(|error| KafkaFault::from_error(&error, "describe topic settings"))?;
            let described: Vec<Described> =
                results.into_iter().map(|result| result.map(|resource| resource.entries)).collect();
            let is_unknown = |described: &Described| match described {
                Ok(entries) => entries.is_empty(),
                Err(code) => *code == Code::UnknownTopicOrPartition,
            };
            // A broker that tells nothing is one whose settings we may not read: it will not tell more.
            let is_topic = |resource: &ResourceSpecifier<'_>| matches!(resource, ResourceSpecifier::Topic(_));
            let mut pairs = resources.iter().zip(&described);
            let is_heard_of = !pairs.any(|(resource, described)| is_topic(resource) && is_unknown(described));
            if is_heard_of || self.cancelled.is_set() || Instant::now() >= deadline {
                return Ok(described);
            }
            std::thread::sleep(ASK_AGAIN);
        }
    }
}

pub(super) type Described = Result<Vec<ConfigEntry>, Code>;

/// The broker decides how many partitions a topic gets.
const BROKER_DEFAULT: i32 = -1;

fn value<'a>(entries: &'a [ConfigEntry], setting: &str) -> Option<&'a str> {
    entries.iter().find(|entry| entry.name == setting)?.value.as_deref()
}

fn invalid(topic: &str, setting: &str, found: &str, wanted: &str) -> TopicError {
    TopicInvalid {
        topic: topic.to_owned(),
        setting: setting.to_owned(),
        found: if found.is_empty() { "not told" } else { found }.to_owned(),
        wanted: wanted.to_owned(),
    }
    .into()
}
