//! Where a running cluster is: the part of the report of `cargo xtask cluster up` that a client needs.

use serde_json::Value;

/// Addresses of one pipeline of a running cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The owner of the tables, through HAProxy to the leader.
    pub app: String,
    /// A superuser, through HAProxy to the leader.
    pub admin: String,
    /// Kafka's bootstrap servers.
    pub bootstrap: String,
    /// Topic prefix of the pipeline.
    pub topic_prefix: String,
    /// Name of the pipeline.
    pub pipeline: String,
    /// Its replication slot.
    pub slot: String,
    /// Workers of the pipeline, name and URL of each: those that came up with the cluster, `worker-N`. A test may have
    /// added others for pipelines of its own.
    pub workers: Vec<(String, String)>,
}

impl Target {
    /// Reads a report of `cluster up` or `cluster status`. The error names the key that is missing.
    pub fn from_report(report: &Value) -> Result<Self, String> {
        let text = |pointer: &str| {
            let value = report.pointer(pointer).and_then(Value::as_str);
            value.map(str::to_owned).ok_or_else(|| format!("the cluster's report has no {pointer}"))
        };
        let workers = report["workers"].as_object().into_iter().flatten();
        Ok(Target {
            app: text("/dsn/app")?,
            admin: text("/dsn/admin")?,
            bootstrap: text("/kafka/bootstrap")?,
            topic_prefix: text("/pipeline/topic_prefix")?,
            pipeline: text("/pipeline/name")?,
            slot: text("/pipeline/slot")?,
            workers: workers
                .filter(|(name, _)| name.starts_with("worker-"))
                .filter_map(|(name, worker)| Some((name.clone(), worker["url"].as_str()?.to_owned())))
                .collect(),
        })
    }
}
