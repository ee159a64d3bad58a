//! The lease as etcd remembers it: which worker wrote the holder key when, and which claims name which of those writes.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::history::{History, Progress};
use super::samples::{Sample, Shows};
use super::told::milliseconds;
use super::verdict::{Invariant, Verdict};

/// Nothing more came for this long: what is there already is sent at once.
const QUIET: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(5);

/// One change of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Revision of the change.
    pub revision: i64,
    /// The lease that it was put under; 0 where there is none.
    #[serde(default)]
    pub lease: i64,
    /// The value; null where the key was deleted or its lease ended.
    pub value: Option<Value>,
}

/// What etcd remembers of a pipeline.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// etcd's cluster id, in hexadecimal digits.
    pub cluster_id: String,
    /// From which revision on it remembers.
    pub since: i64,
    /// Changes of the holder key.
    pub holder: Vec<Write>,
    /// Changes of the verdict key.
    pub verdicts: Vec<Write>,
    /// Changes of the checkpoint key.
    #[serde(default)]
    pub checkpoints: Vec<Write>,
}

impl Ownership {
    /// The progress of a pipeline that is delivered at least once: its checkpoints, one in the place of the other. None where the
    /// last one is a mere witness beside a progress topic.
    pub fn kept(&self) -> Option<Vec<Progress>> {
        let kept: Vec<(i64, &Value)> =
            self.checkpoints.iter().filter_map(|write| Some((write.revision, write.value.as_ref()?))).collect();
        kept.last().filter(|(_, last)| last["type"].is_string())?;
        let read = |&(revision, value): &(i64, &Value)| {
            Some(Progress {
                offset: revision,
                at_ms: milliseconds(value["at"].as_str()?)?,
                key: "position".into(),
                value: value.to_string().into_bytes(),
                says: serde_json::from_value(value.clone()).ok()?,
            })
        };
        Some(kept.iter().filter_map(read).collect())
    }
}

/// Reads the history of the pipeline's keys from the oldest revision that etcd still has.
pub async fn read(endpoints: &[String], prefix: &str, pipeline: &str) -> Result<Ownership, etcd_client::Error> {
    let mut client = Client::connect(endpoints, None).await?;
    let head = client.get(format!("{prefix}/{pipeline}/holder"), None).await?;
    let cluster_id = head.header().map_or(0, |header| header.cluster_id());
    let mut ownership = Ownership { cluster_id: format!("{cluster_id:016x}"), since: 1, ..Ownership::default() };
    for name in ["holder", "verdict", "checkpoint"] {
        let writes = changes(&mut client, &format!("{prefix}/{pipeline}/{name}"), &mut ownership.since).await?;
        match name {
            "holder" => ownership.holder = writes,
            "verdict" => ownership.verdicts = writes,
            _ => ownership.checkpoints = writes,
        }
    }
    Ok(ownership)
}

async fn changes(client: &mut Client, key: &str, since: &mut i64) -> Result<Vec<Write>, etcd_client::Error> {
    let mut found = Vec::new();
    let mut stream = client.watch(key, Some(WatchOptions::new().with_start_revision(*since))).await?;
    let mut limit = LIMIT;
    while let Ok(answer) = tokio::time::timeout(limit, stream.message()).await {
        let Some(answer) = answer? else { break };
        if answer.compact_revision() > 0 {
            *since = answer.compact_revision();
            return Box::pin(changes(client, key, since)).await;
        }
        // The first answer says only that the watch stands.
        limit = QUIET;
        for event in answer.events() {
            let Some(pair) = event.kv() else { continue };
            let value = match event.event_type() {
                EventType::Put => Some(serde_json::from_slice(pair.value()).unwrap_or_default()),
                EventType::Delete => None,
            };
            found.push(Write { revision: pair.mod_revision(), lease: pair.lease(), value });
        }
    }
    Ok(found)
}

/// Tells the revision of a key's write, 0 where it is not there: as it is now, and at each change, until the watch ends or it is
/// no longer wanted.
pub async fn follow(
    endpoints: &[String],
    key: &str,
    stop: &AtomicBool,
    mut told: impl FnMut(i64),
) -> Result<(), etcd_client::Error> {
    let mut client = Client::connect(endpoints, None).await?;
    let Ok(now) = tokio::time::timeout(LIMIT, client.get(key, None)).await else { return Ok(()) };
    let now = now?;
    let next = now.header().map_or(0, |header| header.revision()) + 1;
    told(now.kvs().first().map_or(0, etcd_client::KeyValue::mod_revision));
    let watching = client.watch(key, Some(WatchOptions::new().with_start_revision(next)));
    let Ok(stream) = tokio::time::timeout(LIMIT, watching).await else { return Ok(()) };
    let mut stream = stream?;
    while !stop.load(Ordering::Relaxed) {
        let Ok(answer) = tokio::time::timeout(QUIET, stream.message()).await else { continue };
        let Some(answer) = answer? else { break };
        for event in answer.events() {
            let Some(pair) = event.kv() else { continue };
            told(if event.event_type() == EventType::Put { pair.mod_revision() } else { 0 });
        }
    }
    Ok(())
}

/// The lease revisions that walsenders of each term were seen with; 0 is none.
fn walsenders_leases(samples: &[Sample]) -> HashMap<u64, BTreeSet<i64>> {
    let mut found: HashMap<u64, BTreeSet<i64>> = HashMap::new();
    for sample in samples {
        let Shows::Server(server) = &sample.shows else { continue };
        for reading in &server.readers {
            let field = |prefix| reading.name.split('/').find_map(|field| field.strip_prefix(prefix));
            let term = field("t=").and_then(|term| term.parse().ok());
            let revision = field("r=").and_then(|revision| revision.parse().ok());
            if let (Some(term), Some(revision)) = (term, revision) {
                found.entry(term).or_default().insert(revision);
            }
        }
    }
    found
}

/// Each claim names the one write of the holder key in its tenure, by the claimant.
pub fn judge(history: &History, ownership: &Ownership, samples: &[Sample], verdict: &mut Verdict) {
    let mut rule = Invariant::new(22, "each claim names one write of the holder key, its own");
    let writes: HashMap<i64, &Value> =
        ownership.holder.iter().filter_map(|write| Some((write.revision, write.value.as_ref()?))).collect();
    let leases = walsenders_leases(samples);
    let went_without = leases.values().flatten().any(|revision| *revision == 0);
    let mut last: Option<(i64, &Progress)> = None;
    for claim in history.progress.iter().filter(|record| record.says.kind == "claim") {
        let words = || format!("the claim of {} with term {:?}", claim.says.worker, claim.says.term);
        let Some(lease) = &claim.says.lease else {
            // A worker without etcd: then there were some, and its walsender named none either.
            let named =
                claim.says.term.and_then(|term| leases.get(&term)).into_iter().flatten().any(|named| *named != 0);
            rule.look(went_without && !named, || format!("{} names no lease", words()));
            continue;
        };
        // Another cluster id: an etcd that is gone.
        if lease.cluster_id != ownership.cluster_id || lease.revision < ownership.since {
            continue;
        }
        let writer = writes.get(&lease.revision).map(|value| value["worker"].as_str().unwrap_or_default());
        rule.look(writer == Some(&claim.says.worker), || {
            format!("{} names revision {}, which was written by {writer:?}", words(), lease.revision)
        });
        if let Some((revision, before)) = last.replace((lease.revision, claim)) {
            rule.look(lease.revision >= revision, || {
                format!("{} names revision {}, the claim before it {revision}", words(), lease.revision)
            });
            rule.look(lease.revision != revision || before.says.worker == claim.says.worker, || {
                format!("{} names the tenure of {}", words(), before.says.worker)
            });
        }
    }
    for (before, write) in ownership.holder.iter().zip(ownership.holder.iter().skip(1)) {
        if let (Some(_), Some(value)) = (&before.value, &write.value) {
            // A tenure is a lease. A worker whose key outlived its tenure, since etcd was away, may replace itself.
            rule.look(before.lease != write.lease, || {
                format!("{} wrote the holder key again at revision {}", value["worker"], write.revision)
            });
        }
    }
    verdict.invariants.push(rule);
    for write in &ownership.verdicts {
        if let Some(value) = &write.value {
            verdict.gaps.push(value.clone());
        }
    }
}
