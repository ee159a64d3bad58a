//! What a session owns while the core walks it through its steps, and the effects that make and close it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use pgbaton_core::{
    ClaimPlan, Code, Failure, FenceRead, Input, Inspection, Known, Lsn, Moment, ReaderName, Remains, SessionEnd, Tenure,
};
use pgbaton_postgres::{Conninfo, ReplicationConnection};
use pgbaton_sinks::kafka::KafkaTarget;
use tokio::time::timeout;
use tracing::debug;

use super::publishing::Publishing;
use super::sink::{Delivering, Sink};
use super::{failures, inspecting};
use crate::coordination::Etcd;

/// The walsender is cut off when it hears nothing for this long (W_t).
const WAL_SENDER_TIMEOUT: Duration = Duration::from_secs(3);
/// Setting up and starting the stream.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Asking which topics stand behind the names. Without an answer the session goes on: it asks again while it streams.
const TOPIC_IDS_LIMIT: Duration = Duration::from_secs(2);

/// What a session has so far.
#[derive(Default)]
pub struct Session {
    /// Open from Inspect on; taken by the step that uses it.
    pub connection: Option<ReplicationConnection>,
    /// Open from Fence on.
    pub sink: Option<Sink>,
    /// The topics of the tables that are published, from Inspect on.
    pub topics: Vec<String>,
    /// From the claim on.
    pub plan: Option<Box<ClaimPlan>>,
    /// Primary keys of tables whose changes do not tell them (REPLICA IDENTITY FULL, NOTHING); empty where there is none.
    pub keys: HashMap<u32, Vec<String>>,
    /// From the start of the stream on.
    pub publishing: Option<Box<Publishing>>,
    /// The sink is what failed: it is not asked to abort.
    pub sink_failed: bool,
}

/// What the steps of a session lead to.
pub enum Step {
    /// Connected and looked.
    Inspected(ReplicationConnection, Box<Inspection>, HashMap<u32, Vec<String>>),
    /// The holder key is ours, or not; none: etcd did not answer.
    HolderRead(Option<bool>),
    /// Fenced and read.
    Fenced(Sink, Box<FenceRead>),
    /// What a torn transaction has left.
    ReadBack(Sink, Remains),
    /// The claim is committed.
    Claimed(Sink),
    /// The server streams.
    Started(ReplicationConnection),
    /// It refused.
    NotStarted(ReplicationConnection, Failure),
    /// The step failed; what it had taken is closed.
    Broken(SessionEnd),
    /// Everything is closed.
    Ended,
}

/// Connects and looks.
pub async fn inspect(conninfo: Arc<Conninfo>, wanted: Arc<inspecting::Wanted>, limit: Duration) -> Step {
    match inspecting::inspect(&conninfo, &wanted, limit).await {
        Ok((connection, inspection, keys)) => Step::Inspected(connection, Box::new(inspection), keys),
        Err(failure) => Step::Broken(SessionEnd::Stream(failure)),
    }
}

/// Reads the holder key, linearizable. A step of the session: an answer from before it began says nothing.
pub async fn read_holder(etcd: Arc<Etcd>, tenure: Tenure) -> Step {
    let view = etcd.view().await;
    Step::HolderRead(view.ok().map(|view| view.holder.is_some_and(|holder| holder.is_of(&tenure))))
}

/// Fences the sink, reads progress and asks which topics stand behind the names; where there is no progress, looks for
/// witnesses that there once was.
pub async fn fence(
    delivering: Arc<Delivering>,
    worker: String,
    session: String,
    tenure: Tenure,
    topics: Vec<String>,
) -> Step {
    let target = delivering.kafka.target();
    let (fenced, found) = tokio::join!(delivering.fence(&worker, session, tenure), topic_ids(&target, &topics));
    match fenced {
        Ok((sink, mut read)) => {
            read.topic_ids.found = found;
            Step::Fenced(sink, Box::new(read))
        }
        Err(end) => Step::Broken(end),
    }
}

/// Which topics stand behind the names now; empty where Kafka does not say.
pub async fn topic_ids(target: &KafkaTarget, topics: &[String]) -> BTreeMap<String, Option<String>> {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    match target.topic_ids(&names, TOPIC_IDS_LIMIT).await {
        Ok(mut ids) => topics.iter().map(|topic| (topic.clone(), ids.remove(topic))).collect(),
        Err(error) => {
            debug!(%error, "the ids of the topics could not be asked for");
            BTreeMap::new()
        }
    }
}

/// Reads back what stands in the topics of the pipeline's tables beyond what progress knows of.
pub async fn read_back(sink: Sink, prefix: String, known: Known) -> Step {
    match sink.read_back(&prefix, known).await {
        Ok(remains) => Step::ReadBack(sink, remains),
        Err((code, detail)) => {
            sink.close(true).await;
            Step::Broken(SessionEnd::Sink { code, detail })
        }
    }
}

/// Makes the claim durable.
pub async fn claim(sink: Sink, plan: Box<ClaimPlan>) -> Step {
    match sink.claim(&plan).await {
        Ok(sink) => Step::Claimed(sink),
        Err(end) => Step::Broken(end),
    }
}

/// Names the walsender, sets its time-outs and starts the stream.
pub async fn start(
    mut connection: ReplicationConnection,
    slot: String,
    publication: String,
    name: ReaderName,
    at: Lsn,
) -> Step {
    let starting = async {
        let set =
            format!("SET application_name = '{name}'; SET wal_sender_timeout = '{}ms'", WAL_SENDER_TIMEOUT.as_millis());
        connection.query(&set).await?;
        let _ = connection.set_tcp_user_timeout(WAL_SENDER_TIMEOUT * 2);
        let publications = format!("\"{}\"", publication.replace('"', "\"\""));
        let options = [("proto_version", "1"), ("publication_names", publications.as_str())];
        connection.start_replication(&slot, at, &options).await
    };
    match timeout(START_LIMIT, starting).await {
        Ok(Ok(())) => Step::Started(connection),
        Ok(Err(error)) if error.db_error().is_some() => {
            let failure = failures::query(&error);
            Step::NotStarted(connection, failure)
        }
        Ok(Err(error)) => Step::Broken(SessionEnd::Stream(failures::query(&error))),
        Err(_) => {
            let detail = format!("START_REPLICATION was not answered within {} s", START_LIMIT.as_secs());
            Step::Broken(SessionEnd::Stream(failures::passing(Code::PostgresUnreachable, detail)))
        }
    }
}

impl Session {
    /// Closes everything, by then at the latest.
    pub async fn end(self, commit: bool, by: Moment) -> Step {
        let Session { connection, sink, publishing, sink_failed, .. } = self;
        if let Some(publishing) = publishing {
            publishing.finish(commit, by, sink_failed).await;
        }
        if let Some(connection) = connection {
            let _ = timeout(Duration::from_millis(500), connection.close()).await;
        }
        if let Some(sink) = sink.filter(|_| !sink_failed) {
            let _ = timeout(by.since(crate::clock::boottime()), sink.close(true)).await;
        }
        Step::Ended
    }
}

/// Gives the lease back: the holder key first, guarded, then the lease itself. What etcd does not take in time ends with
/// the lease.
pub async fn release(etcd: Arc<Etcd>, tenure: Tenure, successor: Option<Option<String>>) -> Input {
    let limit = Duration::from_secs(4);
    let _ = timeout(limit, async {
        let _ = etcd.release_holder(&tenure, successor).await;
        let _ = etcd.revoke(tenure.lease_id).await;
    })
    .await;
    Input::Released
}
