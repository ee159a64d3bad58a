//! Where a running cluster is: the part of the report of `cargo xtask cluster up` that a client needs.

use std::path::PathBuf;

use serde_json::Value;

use crate::check::samples::beside;

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
    /// Its publication.
    pub publication: String,
    /// A superuser on each PostgreSQL node itself, by the node's name.
    pub servers: Vec<(String, String)>,
    /// etcd's endpoints; none where it cannot be reached from here.
    pub etcd: Vec<String>,
    /// Where the workers' keys are in etcd.
    pub etcd_prefix: String,
    /// Where each worker logs to, as far as that is known.
    pub logs: Vec<(String, PathBuf)>,
    /// Where each PostgreSQL node logs to, if it logs beside the workers.
    pub server_logs: Vec<(String, PathBuf)>,
    /// The configuration file that each worker was started with, as far as that is known.
    pub configs: Vec<(String, PathBuf)>,
    /// Where what is seen while the cluster runs is written to, if that is kept.
    pub recording: Option<PathBuf>,
    /// Passwords, which must be nowhere.
    pub secrets: Vec<String>,
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
        let workers = || report["workers"].as_object().into_iter().flatten();
        let admin = text("/dsn/admin")?;
        let nodes = report["nodes"].as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("pg-"));
        let servers = nodes.filter_map(|(name, node)| Some((name.clone(), through(&admin, node["port"].as_u64()?)?)));
        let servers: Vec<(String, String)> = servers.collect();
        let endpoints = report.pointer("/etcd/endpoints").and_then(Value::as_array).into_iter().flatten();
        let files = |of: &str| -> Vec<(String, PathBuf)> {
            workers()
                .filter(|(name, _)| name.starts_with("worker-"))
                .filter_map(|(name, worker)| Some((name.clone(), worker[of].as_str()?.into())))
                .collect()
        };
        let logs = files("log");
        let dsns = report["dsn"].as_object().into_iter().flatten();
        Ok(Target {
            app: text("/dsn/app")?,
            server_logs: beside_the_workers(&servers, &logs),
            servers,
            admin,
            bootstrap: text("/kafka/bootstrap")?,
            topic_prefix: text("/pipeline/topic_prefix")?,
            pipeline: text("/pipeline/name")?,
            slot: text("/pipeline/slot")?,
            publication: text("/pipeline/publication")?,
            etcd: endpoints.filter_map(|endpoint| endpoint.as_str().map(str::to_owned)).collect(),
            etcd_prefix: text("/etcd/prefix").unwrap_or_default(),
            recording: logs.first().map(|(_, log)| beside(log)),
            logs,
            configs: files("config"),
            secrets: dsns.filter_map(|(_, dsn)| password(dsn.as_str()?).map(str::to_owned)).collect(),
            workers: workers()
                .filter(|(name, _)| name.starts_with("worker-"))
                .filter_map(|(name, worker)| Some((name.clone(), worker["url"].as_str()?.to_owned())))
                .collect(),
        })
    }
}

fn beside_the_workers(servers: &[(String, String)], logs: &[(String, PathBuf)]) -> Vec<(String, PathBuf)> {
    let beside =
        |(name, _): &(String, String)| Some((name.clone(), logs.first()?.1.with_file_name(format!("{name}.log"))));
    servers.iter().filter_map(beside).collect()
}

/// The same, but for the port.
fn through(dsn: &str, port: u64) -> Option<String> {
    let (front, rest) = dsn.rsplit_once(':')?;
    let (_, database) = rest.split_once('/')?;
    Some(format!("{front}:{port}/{database}"))
}

fn password(dsn: &str) -> Option<&str> {
    let (_, rest) = dsn.split_once("://")?;
    let (user, _) = rest.split_once('@')?;
    user.split_once(':').map(|(_, password)| password)
}
