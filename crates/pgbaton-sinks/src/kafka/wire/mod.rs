//! The questions that the library has no call for. Which id has Kafka given to a topic: one that was deleted and made again has
//! the same name and another id, and what was written to it is gone. And which rights do we have.
//!
//! This is a client of its own, as small as can be: one connection, one request. It speaks PLAINTEXT and TLS, without
//! SASL and with PLAIN and SCRAM; where the settings ask for more, the ids stay unknown. Not for anything that the
//! library can do.
//!
//! All calls block.

mod connection;
mod frame;
mod rights;
mod scram;
mod security;

use std::collections::BTreeMap;
use std::time::Instant;

use self::connection::Connection;
use self::frame::{Malformed, Reply, Request};
pub use self::rights::KafkaRights;
pub(super) use self::rights::rights;
use self::security::Security;
use super::fault::KafkaFault;
use super::target::KafkaTarget;

/// Why topic ids are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicIdsError {
    /// The connection needs something that this client does not speak.
    #[error("topic ids are not known: {0} is not spoken for this question")]
    NotSpoken(String),
    /// Kafka cannot be asked, or not in time.
    #[error(transparent)]
    Kafka(#[from] KafkaFault),
}

/// The ids of those of the topics that exist, as Kafka's own tools print them.
pub(super) fn topic_ids(
    target: &KafkaTarget,
    topics: &[String],
    deadline: Instant,
) -> Result<BTreeMap<String, String>, TopicIdsError> {
    // Of a topic that is being made or has lost a leader, the id is as good as ever.
    const LEADER_NOT_AVAILABLE: i16 = 5;
    const UNKNOWN_TOPIC: i16 = 3;
    if topics.is_empty() {
        return Ok(BTreeMap::new());
    }
    let with_rights = false;
    let mut ids = BTreeMap::new();
    for TopicRead { name, id, error, is_denied, .. } in
        ask(target, &metadata(topics, with_rights), deadline, read_topics)?
    {
        match error {
            0 | LEADER_NOT_AVAILABLE => drop(ids.insert(name, id)),
            UNKNOWN_TOPIC => {}
            _ if is_denied => {
                return Err(KafkaFault::PermissionDenied { what: format!("describe topic {name}") }.into());
            }
            code => {
                let doing = format!("ask for the id of topic {name}");
                return Err(KafkaFault::Failed { doing, reason: format!("the broker answers error {code}") }.into());
            }
        }
    }
    Ok(ids)
}

/// Asks whichever broker answers, over a connection of its own.
fn ask<T>(
    target: &KafkaTarget,
    request: &Request,
    deadline: Instant,
    read: impl Fn(&[u8]) -> Result<T, Malformed>,
) -> Result<T, TopicIdsError> {
    let security = Security::of(&target.properties)?;
    let mut reason = "no broker is named".to_owned();
    for broker in target.brokers.split(',').map(str::trim).filter(|broker| !broker.is_empty()) {
        let answer = Connection::open(broker, &security, &target.client_id, deadline)
            .and_then(|mut connection| connection.ask(request))
            .and_then(|body| read(&body).map_err(|Malformed| "the answer makes no sense".to_owned()));
        match answer {
            Ok(answer) => return Ok(answer),
            Err(failure) => reason = format!("{broker}: {failure}"),
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    Err(KafkaFault::Unreachable { reason }.into())
}

/// Metadata, version 12: by name, creating nothing.
fn metadata(topics: &[String], with_rights: bool) -> Request {
    let mut request = Request::flexible(3, 12);
    request.count(topics.len());
    for topic in topics {
        request.raw(&[0; 16]).compact_text(topic).no_tags();
    }
    let may_create = false;
    request.raw(&[u8::from(may_create), u8::from(with_rights)]).no_tags();
    request
}

/// What a broker says of a topic.
struct TopicRead {
    name: String,
    id: String,
    /// Kafka's number; 0 is none.
    error: i16,
    /// We may not even know whether it exists.
    is_denied: bool,
    /// A bit for each operation that we may do, where that was asked.
    rights: i32,
}

fn read_topics(body: &[u8]) -> Result<Vec<TopicRead>, Malformed> {
    const DENIED: i16 = 29;
    let mut reply = Reply(body);
    reply.tags()?;
    let _throttled = reply.i32()?;
    for _broker in 0..reply.count()? {
        let _id = reply.i32()?;
        let _host = reply.compact_text()?;
        let _port = reply.i32()?;
        let _rack = reply.compact_text()?;
        reply.tags()?;
    }
    let _cluster = reply.compact_text()?;
    let _controller = reply.i32()?;
    let mut topics = Vec::new();
    for _topic in 0..reply.count()? {
        let error = reply.i16()?;
        let name = reply.compact_text()?.unwrap_or_default();
        let id = reply.uuid()?;
        let _internal = reply.take(1)?;
        for _partition in 0..reply.count()? {
            // Error, index, leader, leader's epoch.
            let _ = reply.take(2 + 3 * 4)?;
            for _replicas_in_sync_offline in 0..3 {
                let nodes = reply.count()?;
                let _ = reply.take(4 * nodes)?;
            }
            reply.tags()?;
        }
        let rights = reply.i32()?;
        reply.tags()?;
        topics.push(TopicRead { name, id, error, is_denied: error == DENIED, rights });
    }
    Ok(topics)
}
