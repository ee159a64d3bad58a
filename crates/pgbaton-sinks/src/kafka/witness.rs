//! Was anything published before? Asked where the progress topic says nothing, which must not be taken for a first start.
//!
//! The calls block; they belong on the thread of `calls`.

use std::time::Instant;

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Headers;
use rdkafka::{Message, Offset, TopicPartitionList};

use super::fault::KafkaFault;
use super::reader::{ADMIN_LIMIT, Reader, SLICE, passing};

/// On every data record of ours.
pub(super) const ID_HEADER: &str = "pgbaton.id";
/// And this, the term it was published under.
pub(super) const TERM_HEADER: &str = "pgbaton.term";
/// How many offsets of a partition's end are looked at: its last record, and markers of transactions after it.
const TAIL: i64 = 100;

/// The first topic below `prefix` that ends in a record of ours.
pub(super) fn find_record_of_ours(
    reader: &Reader,
    prefix: &str,
    deadline: Instant,
) -> Result<Option<String>, KafkaFault> {
    let doing = "look for records that were published before";
    let failed = |error: KafkaError| KafkaFault::from_error(&error, doing);
    let consumer = reader.consumer();
    let mut tails = TopicPartitionList::new();
    for (topic, partitions) in table_topics(reader, prefix)? {
        for partition in 0..partitions {
            tails.add_partition_offset(&topic, partition, Offset::OffsetTail(TAIL)).map_err(failed)?;
        }
    }
    if tails.count() == 0 {
        return Ok(None);
    }
    consumer.assign(&tails).map_err(failed)?;
    let found = scan(reader, tails.count(), deadline, doing);
    // Nothing is fetched any more from here on; a failure leaves an idle assignment behind.
    let _ = consumer.unassign();
    found
}

/// Every topic of a table below `prefix`, with its number of partitions.
pub(super) fn table_topics(reader: &Reader, prefix: &str) -> Result<Vec<(String, i32)>, KafkaFault> {
    let metadata = reader
        .consumer()
        .fetch_metadata(None, ADMIN_LIMIT)
        .map_err(|error| KafkaFault::from_error(&error, "list the topics of the tables"))?;
    let topics = metadata.topics().iter().filter(|topic| is_table_topic(topic.name(), prefix));
    Ok(topics.map(|topic| (topic.name().to_owned(), i32::try_from(topic.partitions().len()).unwrap_or(0))).collect())
}

/// `PREFIX.SCHEMA.TABLE`, and not a topic of another pipeline whose prefix begins with ours and a dot.
pub(super) fn is_table_topic(topic: &str, prefix: &str) -> bool {
    let rest = topic.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
    rest.is_some_and(|rest| rest.split('.').count() == 2)
}

/// Reads until every partition has ended or a record of ours is found.
fn scan(reader: &Reader, partitions: usize, deadline: Instant, doing: &str) -> Result<Option<String>, KafkaFault> {
    let mut ended = 0;
    while ended < partitions {
        match reader.consumer().poll(SLICE) {
            Some(Ok(message)) => {
                let is_ours = |headers: &_| Headers::iter(headers).any(|header| header.key == ID_HEADER);
                if message.headers().is_some_and(is_ours) {
                    return Ok(Some(message.topic().to_owned()));
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => drop(passing(&error, doing)?),
            None => {}
        }
        if reader.is_cancelled() || Instant::now() >= deadline {
            let reason = format!("{doing}: no end in time");
            return Err(KafkaFault::Unreachable { reason });
        }
    }
    Ok(None)
}
