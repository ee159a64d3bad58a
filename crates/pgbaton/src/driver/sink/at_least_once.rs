//! A session whose progress is the checkpoint in etcd.
//!
//! ```text
//! records -> acknowledged by Kafka -> checkpoint, if the holder key is still ours -> PostgreSQL hears of it
//! ```
//!
//! A checkpoint replaces the one before it and no other: what comes late, from this session or another, is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgbaton_core::{
    Checkpoint, ClaimPlan, Code, FenceRead, Ids, ProgressRecord, ReadFrom, SessionEnd, Tenure, TopicIds, first_open,
    newer,
};
use pgbaton_sinks::kafka::{Begun, Fenced, KafkaSession, PlainSession, ProgressRead, SinkEvent};
use tokio::task::JoinSet;

use super::{COMMIT_LIMIT, Delivering, Sink, Told, ends_in_ours, in_time, lost};
use crate::clock::Timestamp;
use crate::coordination::{Checkpointed, Etcd, EtcdError};

/// Records under way at a time. Each has only the time that the lease leaves, from the moment it is handed over: a slow Kafka
/// that is handed more than it manages in that time would have every session end the same way.
const IN_FLIGHT: u64 = 2_000;
/// Between two tries of a checkpoint that etcd did not answer. The tenure ends in time if it never does.
const AGAIN: Duration = Duration::from_millis(100);

/// See the module.
pub struct AtLeastOnce {
    pub(super) session: PlainSession,
    /// The pipeline was delivered exactly once until now. A claim beside its progress keeps its older sessions from going on.
    before: Option<KafkaSession>,
    keeper: Keeper,
    closing: Option<Closing>,
}

/// Where checkpoints are kept.
#[derive(Clone)]
struct Keeper {
    etcd: Arc<Etcd>,
    tenure: Tenure,
    pipeline: String,
    topic_prefix: String,
    /// Mod revision of the last checkpoint.
    revision: i64,
    /// As they were told last: whoever reads the last record has no other.
    topic_ids: Option<Ids>,
}

struct Closing {
    since: Instant,
    record: ProgressRecord,
    /// From the moment on when all is acknowledged. Ends with the session: nobody goes on trying for one that is over.
    putting: JoinSet<Result<i64, SessionEnd>>,
}

/// Reads the checkpoint, and what stands in Kafka. Older sessions of this kind are kept away by the lease; those of the other
/// kind, which may go on without one, are fenced if theirs is the newest progress.
pub(super) async fn fence(
    from: &Delivering,
    worker: &str,
    session: String,
    tenure: Tenure,
) -> Result<(Sink, FenceRead), SessionEnd> {
    let Some(etcd) = from.etcd.clone() else {
        let detail = "delivery at least once keeps its progress in etcd, and there is none".to_owned();
        return Err(SessionEnd::Sink { code: Code::ConfigInvalid, detail });
    };
    let checkpoint = from.kept().await?;
    let look_for_witness = checkpoint.record.is_none();
    let Begun { session: sink, progress, witness, kafka_cluster } =
        in_time(PlainSession::begin(&from.kafka.target(), from.patience, look_for_witness)).await?;
    let stored = |read: &ProgressRead| read.position.clone().map(|stored| (stored.record, stored.hash));
    let (mut position, found_in) = newer(checkpoint.record.as_ref(), progress.as_ref().and_then(stored));
    let mut witness = checkpoint.witness().or_else(|| witness.as_deref().map(ends_in_ours));
    let (mut before, mut last_open) = (None, None);
    let mut topic_ids = checkpoint.record.as_ref().and_then(|record| record.topic_ids.clone());
    if progress.is_some() && found_in == ReadFrom::Progress {
        let Fenced { session: fenced, read } = in_time(from.kafka.fence(&first_open(&session, worker))).await?;
        position = stored(&read);
        if !read.log_starts_at_zero {
            witness = Some("the beginning of the progress topic is gone".to_owned());
        }
        witness = witness.or_else(|| read.witness.as_deref().map(ends_in_ours));
        (last_open, topic_ids) = (read.last_open, read.topic_ids);
        before = Some(fenced);
    }
    let read = FenceRead {
        session,
        witness: witness.filter(|_| position.is_none()),
        position,
        from: found_in,
        last_open,
        remains: None,
        kafka_cluster,
        topic_ids: TopicIds { recorded: topic_ids.clone().unwrap_or_default(), found: BTreeMap::new() },
    };
    let keeper = Keeper {
        etcd,
        tenure,
        pipeline: from.pipeline.clone(),
        topic_prefix: from.kafka.target().topic_prefix.clone(),
        revision: checkpoint.revision,
        topic_ids,
    };
    Ok((Sink::AtLeastOnce(Box::new(AtLeastOnce { session: sink, before, keeper, closing: None })), read))
}

impl AtLeastOnce {
    /// Markers first: what they tell has happened, whether this claim comes to stand or the next.
    pub async fn claim(&mut self, plan: &ClaimPlan) -> Result<(), SessionEnd> {
        let records = &plan.records;
        match self.before.take() {
            Some(mut before) => {
                let claimed = before.claim(&records.progress, &records.markers, COMMIT_LIMIT).await;
                claimed.map(drop).map_err(|error| lost(&error))?;
            }
            None => self.session.mark(&records.markers).await.map_err(|error| lost(&error))?,
        }
        for record in &records.progress {
            let record = self.keeper.complete(record.clone());
            self.keeper.revision = self.keeper.clone().put(record).await?;
        }
        Ok(())
    }

    /// Kafka may be given more.
    pub fn has_room(&self) -> bool {
        self.session.in_flight() < IN_FLIGHT
    }

    pub fn commit(&mut self, record: ProgressRecord) {
        let record = self.keeper.complete(record);
        self.closing = Some(Closing { since: Instant::now(), record, putting: JoinSet::new() });
    }

    /// Cancel-safe: what is being put stays in `closing`.
    pub async fn event(&mut self) -> Told {
        let Some(closing) = &mut self.closing else { return told(self.session.event().await) };
        if closing.putting.is_empty() {
            match self.session.settled() {
                Ok(true) => drop(closing.putting.spawn(self.keeper.clone().put(closing.record.clone()))),
                Ok(false) => return told(self.session.event().await),
                Err(error) => return Told::Failed(lost(&error)),
            }
        }
        let put = tokio::select! {
            Some(put) = closing.putting.join_next() => put,
            event = self.session.event() => return told(event),
        };
        let took = closing.since.elapsed();
        self.closing = None;
        match put {
            Ok(Ok(revision)) => {
                self.keeper.revision = revision;
                Told::Committed(took)
            }
            Ok(Err(end)) => Told::Failed(end),
            Err(died) => Told::Failed(SessionEnd::ProducerSpent(format!("the checkpoint was not put: {died}"))),
        }
    }

    pub async fn close(self) {
        if let Some(before) = self.before {
            before.abort().await;
        }
        self.session.end().await;
    }
}

fn told(event: SinkEvent) -> Told {
    match event {
        SinkEvent::Failed(error) => Told::Failed(lost(&error)),
        SinkEvent::Committed(_) | SinkEvent::Delivered => Told::Delivered,
    }
}

impl Keeper {
    /// The record with what those before it have told and it does not repeat.
    fn complete(&mut self, mut record: ProgressRecord) -> ProgressRecord {
        match &record.topic_ids {
            Some(told) => self.topic_ids = Some(told.clone()),
            None => record.topic_ids.clone_from(&self.topic_ids),
        }
        record
    }

    /// Puts it in the place of the last one; answers with its mod revision.
    async fn put(self, record: ProgressRecord) -> Result<i64, SessionEnd> {
        let Keeper { etcd, tenure, pipeline, topic_prefix, revision, .. } = self;
        let at = Timestamp::now().to_string();
        let value = Checkpoint { pipeline, topic_prefix, at, record }.to_bytes();
        loop {
            let detail = match etcd.put_checkpoint(value.clone(), Some(&tenure), revision).await {
                Ok(Checkpointed::Put(revision)) => return Ok(revision),
                Ok(Checkpointed::NotHolder) => {
                    let detail = "the checkpoint was refused: the holder key was taken away or overwritten";
                    return Err(SessionEnd::NotHolder(detail.to_owned()));
                }
                Ok(Checkpointed::Overtaken) => {
                    return Err(SessionEnd::ProducerSpent("another session has moved the checkpoint".to_owned()));
                }
                Err(EtcdError::Unreachable(_)) => {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                Err(error) => error.to_string(),
            };
            return Err(SessionEnd::Sink { code: Code::EtcdUnreachable, detail });
        }
    }
}
