//! What was seen while it ran: the slot and its reader on every node ten times a second, what the workers said and used, and the
//! holder key. Recorded into a file beside the cluster's logs, so that it can be judged later and by another process.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use super::ownership;
use super::resources::{self, Process};
use super::row::hex;
use crate::database::Connection;
use crate::http;
use crate::target::Target;

const PERIOD: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_millis(500);
/// What stays as it was is written down this often.
const SAME: Duration = Duration::from_secs(1);

/// What one node showed at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When its answer was there, in milliseconds since 1970.
    pub at_ms: i64,
    /// The node.
    pub node: String,
    /// What it showed.
    #[serde(flatten)]
    pub shows: Shows,
}

/// What a node shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shows {
    /// A PostgreSQL node.
    Server(Server),
    /// A worker.
    Worker(Worker),
    /// What a worker uses.
    Process(Process),
    /// etcd: who holds the lease.
    Holder(Holder),
}

/// The pipeline as a PostgreSQL node shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Whether it is a standby.
    pub recovering: bool,
    /// Its timeline; of a standby the one that it receives, if it does.
    pub timeline: Option<u32>,
    /// `confirmed_flush_lsn` of the slot, if it is there.
    pub confirmed: Option<String>,
    /// The backend that reads the slot.
    pub active_pid: Option<i32>,
    /// Our walsenders.
    pub readers: Vec<Reading>,
}

/// A walsender of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Its backend.
    pub pid: i32,
    /// What it is called.
    pub name: String,
    /// The flush position that the worker sent last.
    pub flush: Option<String>,
}

/// The pipeline as a worker shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// `state` of its status.
    pub state: String,
    /// `term` of its status.
    pub term: Option<u64>,
    /// Whether `/active` answered 200.
    pub active: bool,
    /// `healthy` of its status.
    #[serde(default)]
    pub healthy: bool,
    /// The codes of `reasons` of its status.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// Whether it goes on without a lease that counts.
    #[serde(default)]
    pub degraded: bool,
}

/// The holder key of the pipeline, as it was heard of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The revision of its write; 0 while nobody holds the lease.
    pub revision: i64,
}

const QUERY: &str = "
    select pg_is_in_recovery() recovering,
           case when pg_is_in_recovery() then (select received_tli from pg_stat_wal_receiver)
                else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end timeline,
           s.confirmed_flush_lsn::text confirmed, s.active_pid,
           coalesce((select json_agg(json_build_object('pid', pid, 'name', application_name, 'flush', flush_lsn::text))
                     from pg_stat_replication where application_name like '{readers}/%/t=%'), '[]') readers
    from (select) one left join pg_replication_slots s on slot_name = '{slot}'";

/// The question, about the slot and the walsenders of one pipeline: others have theirs beside it.
fn query(target: &Target) -> String {
    let pipeline = Sha256::digest(format!("{}/{}", target.etcd_prefix, target.pipeline));
    let readers = format!("pgbaton/{}", &hex(&pipeline)[..8]);
    let asked = QUERY.replace("{readers}", &readers).replace("{slot}", &target.slot.replace('\'', "''"));
    format!("select to_json(t)::text from ({asked}) t")
}

/// Samples in the background until it is dropped.
pub struct Recorder {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Recorder {
    /// Begins to write what every node shows to the target's recording, behind what is there; does nothing if none is kept.
    pub fn start(target: &Target) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        let Some(recording) = &target.recording else { return Ok(Recorder { stop, tasks }) };
        let file = OpenOptions::new().create(true).append(true).open(recording)?;
        for (node, dsn) in &target.servers {
            let (node, dsn) = (node.clone(), dsn.clone());
            let out = Out { file: file.try_clone()?, node, last: None };
            tasks.push(tokio::spawn(servers(dsn, query(target), out, Arc::clone(&stop))));
        }
        let out = |node: &str| io::Result::Ok(Out { file: file.try_clone()?, node: node.into(), last: None });
        for (node, url) in &target.workers {
            tasks.push(tokio::spawn(workers(url.clone(), target.pipeline.clone(), out(node)?, Arc::clone(&stop))));
        }
        for (node, config) in &target.configs {
            tasks.push(tokio::spawn(processes(config.clone(), out(node)?, Arc::clone(&stop))));
        }
        if !target.etcd.is_empty() {
            let key = format!("{}/{}/holder", target.etcd_prefix, target.pipeline);
            tasks.push(tokio::spawn(holders(target.etcd.clone(), key, out("etcd")?, Arc::clone(&stop))));
        }
        Ok(Recorder { stop, tasks })
    }

    /// Ends it; what was seen is in the file.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            // One that failed has left its samples in the file.
            let _ = task.await;
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Out {
    file: File,
    node: String,
    last: Option<(Shows, Instant)>,
}

impl Out {
    fn write(&mut self, shows: Shows) {
        if self.last.as_ref().is_some_and(|(last, at)| *last == shows && at.elapsed() < SAME) {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let sample = Sample { at_ms, node: self.node.clone(), shows: shows.clone() };
        if let Ok(mut line) = serde_json::to_vec(&sample) {
            line.push(b'\n');
            // One call for a line: several writers append to the file.
            let _ = self.file.write_all(&line);
        }
        self.last = Some((shows, Instant::now()));
    }
}

async fn servers(dsn: String, sql: String, mut out: Out, stop: Arc<AtomicBool>) {
    let mut connection: Option<Connection> = None;
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let Some(open) = &connection else {
            connection = Connection::open(&dsn, LIMIT).await.ok();
            continue;
        };
        let answer = tokio::time::timeout(LIMIT, open.query_one(&sql, &[])).await;
        match answer.ok().and_then(Result::ok).map(|row| serde_json::from_str(row.get(0))) {
            Some(Ok(server)) => out.write(Shows::Server(server)),
            _ => connection = None,
        }
    }
}

async fn workers(url: String, pipeline: String, mut out: Out, stop: Arc<AtomicBool>) {
    let url = url.trim_end_matches('/');
    let (active, status) = (format!("{url}/active/{pipeline}"), format!("{url}/status"));
    let mut ticks = tokio::time::interval(PERIOD * 2);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let (active, status) = tokio::join!(http::get(&active, LIMIT), http::get(&status, LIMIT));
        let (Some(active), Some(status)) = (active, status) else { continue };
        let document = status.json();
        let (status, degraded) = (&document["pipelines"][&pipeline], &document["coordination"]["degraded_since"]);
        let Some(state) = status["state"].as_str() else { continue };
        out.write(Shows::Worker(Worker {
            state: state.into(),
            term: status["term"].as_u64(),
            active: active.status == 200,
            healthy: status["healthy"] == true,
            reasons: codes(&status["reasons"]),
            degraded: degraded.is_string(),
        }));
    }
}

fn codes(reasons: &serde_json::Value) -> Vec<String> {
    let reasons = reasons.as_array().into_iter().flatten();
    reasons.filter_map(|reason| reason["code"].as_str().map(str::to_owned)).collect()
}

async fn processes(config: PathBuf, mut out: Out, stop: Arc<AtomicBool>) {
    let mut pid = None;
    let mut ticks = tokio::time::interval(SAME);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        pid = pid.filter(|pid| resources::is_worker(*pid, &config)).or_else(|| resources::find(&config));
        if let Some(process) = pid.and_then(resources::look) {
            out.write(Shows::Process(process));
        }
    }
}

/// Writes each change of the holder key when it is heard of, which is never before it is made.
async fn holders(endpoints: Vec<String>, key: String, mut out: Out, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let told = |revision| out.write(Shows::Holder(Holder { revision }));
        // It ends when its member does; the next one is asked from the state that it has.
        let _ = ownership::follow(&endpoints, &key, &stop, told).await;
        tokio::time::sleep(PERIOD * 2).await;
    }
}

/// Reads a recording; nothing where there is none. A line that was cut is left out.
pub fn read(file: &Path) -> io::Result<Vec<Sample>> {
    let file = match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    let mut samples: Vec<Sample> = lines.filter_map(|line| serde_json::from_str(&line).ok()).collect();
    samples.sort_by_key(|sample| sample.at_ms);
    Ok(samples)
}

/// Whether for some time in between a node was not seen, or nobody looked at any, as where a machine is too busy for all that runs
/// on it: then what took long says nothing about who was to be quick.
#[must_use]
pub fn stood_still(samples: &[Sample], node: &str, from_ms: i64, to_ms: i64) -> bool {
    let span = |of: &dyn Fn(&Sample) -> bool, most: i64| {
        let (mut last, mut still) = (from_ms, false);
        for sample in samples[samples.partition_point(|sample| sample.at_ms < from_ms)..].iter().filter(|it| of(it)) {
            still |= sample.at_ms.min(to_ms) - last > most;
            last = sample.at_ms;
            if last >= to_ms {
                return still;
            }
        }
        still || to_ms - last > most
    };
    let looks = |sample: &Sample| matches!(sample.shows, Shows::Server(_) | Shows::Worker(_));
    let same = i64::try_from(SAME.as_millis()).unwrap_or(i64::MAX);
    span(&looks, same * 3 / 2) || !node.is_empty() && span(&|sample| looks(sample) && sample.node == node, 2 * same)
}

/// Where the recording of a cluster lies whose workers log to `log`.
pub fn beside(log: &Path) -> PathBuf {
    log.with_file_name("samples.jsonl")
}
