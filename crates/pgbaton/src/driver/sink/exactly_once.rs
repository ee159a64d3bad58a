//! Fencing where progress is kept in the progress topic.

use std::collections::BTreeMap;

use pgbaton_core::{Code, FenceRead, ReadFrom, SessionEnd, TopicIds, first_open, newer};
use pgbaton_sinks::kafka::Fenced;
use tokio::time::timeout;

use super::{Delivering, Sink, ends_in_ours, in_time};
use crate::coordination::CALL_TIMEOUT;

/// Fences all older sessions and reads what they have committed; where that is nothing, looks for witnesses that there once
/// was something. A pipeline that was delivered at least once before has its newest position in etcd.
pub(super) async fn fence(from: &Delivering, worker: &str, session: String) -> Result<(Sink, FenceRead), SessionEnd> {
    let open = first_open(&session, worker);
    // Older sessions are over for etcd as soon as the holder key is ours: this may be read before they are for Kafka.
    let (fenced, checkpoint) = tokio::join!(in_time(from.kafka.fence(&open)), timeout(CALL_TIMEOUT, from.kept()));
    let Fenced { session: sink, read } = fenced?;
    let checkpoint = checkpoint.unwrap_or_else(|_| {
        let detail = "whether there is a newer checkpoint could not be asked in time".to_owned();
        Err(SessionEnd::Sink { code: Code::EtcdUnreachable, detail })
    });
    let progress = read.position.map(|stored| (stored.record, stored.hash));
    let (position, found_in, witness) = match checkpoint {
        Ok(checkpoint) => {
            let (position, found_in) = newer(checkpoint.record.as_ref(), progress);
            let cut = || "the beginning of the progress topic is gone".to_owned();
            let witness = checkpoint.witness().or_else(|| read.witness.as_deref().map(ends_in_ours));
            let witness = if read.log_starts_at_zero { witness } else { Some(cut()) };
            let witness = witness.filter(|_| position.is_none());
            (position, found_in, witness)
        }
        // A stream outlives etcd: whoever claimed last may go on from what it claimed.
        Err(SessionEnd::Sink { code: Code::EtcdUnreachable, .. }) if progress.is_some() => {
            (progress, ReadFrom::ProgressAlone, None)
        }
        Err(end) => {
            sink.abort().await;
            return Err(end);
        }
    };
    let kept = position.as_ref().filter(|_| found_in == ReadFrom::Checkpoint);
    let recorded = kept.map_or(read.topic_ids, |(record, _)| record.topic_ids.clone()).unwrap_or_default();
    let read = FenceRead {
        session,
        position,
        from: found_in,
        last_open: read.last_open,
        witness,
        remains: None,
        kafka_cluster: read.kafka_cluster,
        topic_ids: TopicIds { recorded, found: BTreeMap::new() },
    };
    Ok((Sink::ExactlyOnce(Box::new(sink)), read))
}
