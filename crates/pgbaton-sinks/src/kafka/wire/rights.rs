//! Which rights a principal has, asked without using them: the library cannot ask. Where no authorizer runs, all are had.

use std::collections::BTreeMap;
use std::time::Instant;

use super::frame::{Malformed, Reply, Request};
use super::{TopicIdsError, TopicRead, ask, metadata, read_topics};
use crate::kafka::target::KafkaTarget;

/// What may be done with a topic, and is needed. Numbers as Kafka counts its operations.
const NEEDED: [(i32, &str); 4] = [(3, "Read"), (4, "Write"), (8, "Describe"), (10, "DescribeConfigs")];

/// What is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KafkaRights {
    /// We may not write under the transactional id.
    pub transactional_id_denied: bool,
    /// Topics that exist, and the operations on them that we may not do.
    pub topics_denied: BTreeMap<String, Vec<&'static str>>,
}

/// Asks for the rights on the target's transactional id and on these topics.
pub(in crate::kafka) fn rights(
    target: &KafkaTarget,
    topics: &[String],
    deadline: Instant,
) -> Result<KafkaRights, TopicIdsError> {
    let with_rights = true;
    let read = ask(target, &metadata(topics, with_rights), deadline, read_topics)?;
    let mut rights = KafkaRights::default();
    for topic in read {
        let denied = match topic {
            TopicRead { is_denied: true, .. } => vec!["Describe"],
            TopicRead { error: 0, rights, .. } => {
                NEEDED.iter().filter(|(bit, _)| rights & (1 << bit) == 0).map(|(_, name)| *name).collect()
            }
            // It does not exist, or is being made.
            TopicRead { .. } => Vec::new(),
        };
        if !denied.is_empty() {
            rights.topics_denied.insert(topic.name, denied);
        }
    }
    rights.transactional_id_denied = ask(target, &end_nothing(&target.transactional_id()), deadline, read_denied)?;
    Ok(rights)
}

/// The end of a transaction of a producer that cannot be (EndTxn, version 1): the broker looks at the right first, then finds
/// nothing to end.
fn end_nothing(transactional_id: &str) -> Request {
    let (producer, epoch, commit) = (-1_i64, -1_i16, 0_u8);
    let mut request = Request::plain(26, 1);
    request.text(transactional_id).raw(&producer.to_be_bytes()).raw(&epoch.to_be_bytes()).raw(&[commit]);
    request
}

fn read_denied(body: &[u8]) -> Result<bool, Malformed> {
    const DENIED: i16 = 53;
    let mut reply = Reply(body);
    let _throttled = reply.i32()?;
    Ok(reply.i16()? == DENIED)
}
