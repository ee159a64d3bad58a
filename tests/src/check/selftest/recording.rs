//! All that a checker reads of one pipeline, kept as it was read, so that it can be judged again and mutilated before.

use serde::{Deserialize, Serialize};

use crate::check::Evidence;
use crate::check::batches::{Batch, Batches};
use crate::check::history::{History, Record};
use crate::check::ownership::Ownership;
use crate::check::samples::Sample;
use crate::check::staged::Staged;
use crate::check::table::Database;
use crate::check::tenures::Terminated;

/// A recording of one pipeline.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Recording {
    /// Prefix of its topics.
    pub topic_prefix: String,
    /// Committed records, those of one partition in the order of their offsets.
    pub records: Vec<Record>,
    /// The tables at the end.
    pub database: Database,
    /// What lies in the partitions.
    pub batches: Vec<Partition>,
    /// What was seen while it ran.
    pub samples: Vec<Sample>,
    /// What etcd remembers.
    pub ownership: Ownership,
    /// The workers' logs.
    pub logs: Vec<(String, String)>,
    /// Backends of PostgreSQL that were told to end.
    #[serde(default)]
    pub terminated: Vec<Terminated>,
    /// What was done to the cluster, if that is known.
    #[serde(default)]
    pub staged: Option<Staged>,
    /// Passwords.
    pub secrets: Vec<String>,
}

/// The batches of a partition.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Partition {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub number: i32,
    /// Its batches in the order of their offsets.
    pub batches: Vec<Batch>,
}

impl Recording {
    /// What was read, with the records themselves.
    pub fn of(topic_prefix: &str, records: Vec<Record>, evidence: Evidence) -> Self {
        let partition = |((topic, number), batches)| Partition { topic, number, batches };
        Recording {
            topic_prefix: topic_prefix.into(),
            records,
            database: evidence.database,
            batches: evidence.batches.into_iter().map(partition).collect(),
            samples: evidence.samples,
            ownership: evidence.ownership.unwrap_or_default(),
            logs: evidence.logs,
            terminated: evidence.terminated,
            staged: evidence.staged,
            secrets: evidence.secrets,
        }
    }

    /// As the checker reads it.
    pub fn evidence(&self) -> Evidence {
        let mut history = History::new(&self.topic_prefix);
        for record in &self.records {
            history.take(record);
        }
        let batches: Batches = self
            .batches
            .iter()
            .map(|partition| ((partition.topic.clone(), partition.number), partition.batches.clone()))
            .collect();
        Evidence {
            history,
            database: self.database.clone(),
            batches,
            samples: self.samples.clone(),
            ownership: Some(self.ownership.clone()),
            logs: self.logs.clone(),
            terminated: self.terminated.clone(),
            staged: self.staged.clone(),
            secrets: self.secrets.clone(),
            settled: None,
        }
    }
}
