//! What a person wants to know of a Kafka cluster before it is relied upon. Changes nothing, fences nobody.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{ConfigEntry, ResourceSpecifier};
use rdkafka::consumer::Consumer;
use tokio::runtime::Handle;

use super::calls::Calls;
use super::fault::KafkaFault;
use super::progress::{ProgressRead, read_as_it_is};
use super::reader::{ADMIN_LIMIT, Reader};
use super::target::KafkaTarget;
use super::topics::{Required, TopicInvalid, Topics};
use super::wire::{KafkaRights, rights};
use crate::topic::{markers_topic, progress_topic};

/// What the cluster says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KafkaFacts {
    /// Brokers that are known.
    pub brokers: usize,
    /// The settings of the broker that answered; `None` where we may not read them.
    pub settings: Option<BTreeMap<String, String>>,
    /// The topics of the protocol and those asked for, as far as they exist.
    pub topics: Vec<TopicFacts>,
    /// Whether we may make topics, by asking without doing it; the refusal in Kafka's words.
    pub may_create: Option<Result<(), String>>,
    /// Which rights are missing; `None` where that cannot be asked.
    pub rights: Option<KafkaRights>,
    /// How long a transaction of ours may be open.
    pub transaction_timeout: Duration,
}

/// A topic that exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicFacts {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: usize,
    /// Copies of the partition that has the fewest.
    pub replicas: usize,
    /// Copies in sync of the partition that has the fewest.
    pub in_sync: usize,
    /// Its settings; empty where we may not read them.
    pub settings: BTreeMap<String, String>,
    /// What the protocol needs to be otherwise.
    pub invalid: Vec<TopicInvalid>,
}

/// What the progress topic holds now: `None` where there is no such topic. Fences nobody, so more may be committed meanwhile.
///
/// # Errors
/// Kafka cannot be read, or the topic holds what this version does not understand.
pub async fn read_progress(target: &KafkaTarget) -> Result<Option<ProgressRead>, KafkaFault> {
    target.check()?;
    let calls = Calls::start()?;
    let (target, cancelled) = (target.clone(), calls.cancelled().clone());
    calls.run(move || read_as_it_is(&Reader::connect(&target, cancelled)?, &progress_topic(&target.topic_prefix))).await
}

/// Looks at the cluster, `limit` for its first answer.
///
/// # Errors
/// Nobody answers, or we are refused altogether.
pub async fn examine(
    target: &KafkaTarget,
    data_topics: Vec<String>,
    limit: Duration,
) -> Result<KafkaFacts, KafkaFault> {
    target.check()?;
    let calls = Calls::start()?;
    let (target, runtime, cancelled) = (target.clone(), Handle::current(), calls.cancelled().clone());
    calls.run(move || look(&Topics::connect(&target, runtime, cancelled)?, &target, &data_topics, limit)).await
}

fn look(
    topics: &Topics,
    target: &KafkaTarget,
    data_topics: &[String],
    limit: Duration,
) -> Result<KafkaFacts, KafkaFault> {
    let required = [
        Required::progress(progress_topic(&target.topic_prefix)),
        Required::markers(markers_topic(&target.topic_prefix)),
    ];
    let found = topics.reader().metadata_within(&required[0].topic, limit)?;
    let metadata = topics
        .reader()
        .consumer()
        .fetch_metadata(None, ADMIN_LIMIT)
        .map_err(|error| KafkaFault::from_error(&error, "list the topics"))?;
    let wanted: Vec<&str> =
        required.iter().map(|required| required.topic.as_str()).chain(data_topics.iter().map(String::as_str)).collect();
    let mut known: Vec<TopicFacts> = Vec::new();
    for topic in metadata.topics().iter().filter(|topic| wanted.contains(&topic.name())) {
        let least = |count: fn(&rdkafka::metadata::MetadataPartition) -> usize| {
            topic.partitions().iter().map(count).min().unwrap_or(0)
        };
        known.push(TopicFacts {
            name: topic.name().to_owned(),
            partitions: topic.partitions().len(),
            replicas: least(|partition| partition.replicas().len()),
            in_sync: least(|partition| partition.isr().len()),
            settings: BTreeMap::new(),
            invalid: Vec::new(),
        });
    }
    let resources: Vec<_> = known
        .iter()
        .map(|topic| ResourceSpecifier::Topic(&topic.name))
        .chain([ResourceSpecifier::Broker(found.any_broker)])
        .collect();
    let mut described = topics.describe(&resources)?;
    let broker = described.pop().and_then(Result::ok).map(|entries| settings(&entries));
    // Where we may not read them, none are told.
    let broker = broker.filter(|settings| !settings.is_empty());
    for (topic, described) in known.iter_mut().zip(described) {
        topic.settings = described.map(|entries| settings(&entries)).unwrap_or_default();
        if let Some(required) = required.iter().find(|required| required.topic == topic.name) {
            topic.invalid = required.invalid(topic.partitions, &topic.settings);
        }
    }
    let known_names: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    Ok(KafkaFacts {
        brokers: metadata.brokers().len(),
        settings: broker,
        topics: known,
        may_create: Some(topics.may_create(&required[0].topic, found.replication())),
        rights: rights(target, &known_names, Instant::now() + limit).ok(),
        transaction_timeout: target.timeouts()?.transaction,
    })
}

fn settings(entries: &[ConfigEntry]) -> BTreeMap<String, String> {
    entries.iter().filter_map(|entry| Some((entry.name.clone(), entry.value.clone()?))).collect()
}
