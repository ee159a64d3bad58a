//! Asks both workers five times a second what they are, and PostgreSQL who reads the slot, and finds where they did not
//! tell the truth.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, JoinSet};

use crate::database::Connection;
use crate::http;
use crate::target::Target;

const PERIOD: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_millis(150);
/// One keepalive period: how long two workers may both answer that they are active.
const BOTH: Duration = Duration::from_secs(2);
/// Answers are not taken at one instant; what differs for longer is a lie.
const SKEW: Duration = Duration::from_secs(1);

/// What a worker said; `None` where it did not answer in time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// Its name.
    pub worker: String,
    /// Status of `/active`.
    pub active: Option<u16>,
    /// Status of `/health`.
    pub health: Option<u16>,
    /// `role` of the pipeline in `/status`.
    pub role: Option<String>,
    /// `term` of the pipeline in `/status`.
    pub term: Option<u64>,
    /// `server.timeline` of the pipeline in `/status`.
    pub timeline: Option<u64>,
}

/// Who reads the slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reader {
    /// The leader did not answer.
    Unknown,
    /// Nobody.
    Nobody,
    /// A walsender, by its application name.
    Name(String),
}

impl Reader {
    /// The term in the name that a worker gives its connection.
    fn term(&self) -> Option<u64> {
        let Reader::Name(name) = self else { return None };
        name.split('/').find_map(|part| part.strip_prefix("t=")).and_then(|term| term.parse().ok())
    }
}

/// All answers of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// The workers' answers.
    pub workers: Vec<Answers>,
    /// The leader's answer.
    pub reader: Reader,
}

/// Asks one worker for all it says about a pipeline.
pub async fn ask(name: &str, url: &str, pipeline: &str, limit: Duration) -> Answers {
    let url = url.trim_end_matches('/');
    let (active, health, status) = (format!("{url}/active"), format!("{url}/health"), format!("{url}/status"));
    let (active, health, status) =
        tokio::join!(http::get(&active, limit), http::get(&health, limit), http::get(&status, limit));
    let status = status.map(|answer| answer.json()["pipelines"][pipeline].clone()).unwrap_or_default();
    Answers {
        worker: name.into(),
        active: active.map(|answer| answer.status),
        health: health.map(|answer| answer.status),
        role: status["role"].as_str().map(str::to_owned),
        term: status["term"].as_u64(),
        timeline: status["server"]["timeline"].as_u64(),
    }
}

/// Samples in the background until it is stopped.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<Sample>>,
}

impl Sampler {
    /// Begins to sample.
    pub fn start(target: Target) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(sample(target, Arc::clone(&stop)));
        Sampler { stop, task }
    }

    /// Ends it and returns all samples.
    pub async fn stop(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap_or_default()
    }
}

async fn sample(target: Target, stop: Arc<AtomicBool>) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut ticks = tokio::time::interval(PERIOD);
    let mut leader = None;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let at = Instant::now();
        let mut asked = JoinSet::new();
        for (name, url) in &target.workers {
            let (name, url, pipeline) = (name.clone(), url.clone(), target.pipeline.clone());
            asked.spawn(async move { ask(&name, &url, &pipeline, LIMIT).await });
        }
        let reader = reader(&target, &mut leader).await;
        let mut workers = asked.join_all().await;
        workers.sort_by(|a, b| a.worker.cmp(&b.worker));
        samples.push(Sample { at, workers, reader });
    }
    samples
}

/// Asks the leader over a connection that stays open while it answers.
async fn reader(target: &Target, leader: &mut Option<Connection>) -> Reader {
    if leader.is_none() {
        *leader = Connection::open(&target.admin, LIMIT).await.ok();
    }
    let Some(connection) = leader else { return Reader::Unknown };
    let sql = "select r.application_name from pg_replication_slots s left join pg_stat_replication r on r.pid = s.active_pid \
               where s.slot_name = $1::text and not pg_is_in_recovery()";
    match tokio::time::timeout(LIMIT, connection.query_opt(sql, &[&target.slot])).await {
        Ok(Ok(row)) => match row.and_then(|row| row.get::<_, Option<String>>(0)) {
            Some(name) => Reader::Name(name),
            None => Reader::Nobody,
        },
        _ => {
            *leader = None;
            Reader::Unknown
        }
    }
}

/// A condition that must not last.
struct Lasting {
    limit: Duration,
    since: Option<Instant>,
}

impl Lasting {
    fn new(limit: Duration) -> Self {
        Lasting { limit, since: None }
    }

    /// How long it has lasted, told once, when it passes the limit.
    fn passes(&mut self, holds: bool, at: Instant) -> Option<Duration> {
        if !holds {
            self.since = None;
            return None;
        }
        let lasted = at - *self.since.get_or_insert(at);
        if lasted <= self.limit {
            return None;
        }
        self.since = Some(at);
        Some(lasted)
    }
}

/// What the workers said that was not so, in words; seconds count from the first sample.
pub fn lies(samples: &[Sample]) -> Vec<String> {
    let Some(first) = samples.first() else { return vec!["nothing was sampled".into()] };
    let mut found = Vec::new();
    let mut both = Lasting::new(BOTH);
    let mut per_worker: Vec<[Lasting; 3]> =
        first.workers.iter().map(|_| [(); 3].map(|()| Lasting::new(SKEW))).collect();
    for sample in samples {
        let second = (sample.at - first.at).as_secs_f64();
        let active: Vec<&Answers> = sample.workers.iter().filter(|worker| worker.active == Some(200)).collect();
        if both.passes(active.len() > 1, sample.at).is_some() {
            found.push(format!("at {second:.1} s two workers had answered 200 on /active for more than {BOTH:?}"));
        }
        for (worker, [stranger, role, health]) in sample.workers.iter().zip(&mut per_worker) {
            let says_active = worker.active == Some(200);
            let other = says_active && sample.reader != Reader::Unknown && sample.reader.term() != worker.term;
            if stranger.passes(other, sample.at).is_some() {
                found.push(format!(
                    "at {second:.1} s {} had answered 200 on /active with term {:?} while the slot's reader was {:?}",
                    worker.worker, worker.term, sample.reader
                ));
            }
            let differs = worker.active.is_some()
                && worker.role.is_some()
                && says_active
                && worker.role.as_deref() != Some("active");
            if role.passes(differs, sample.at).is_some() {
                found.push(format!(
                    "at {second:.1} s {} said 200 on /active and {:?} in /status",
                    worker.worker, worker.role
                ));
            }
            let idle =
                worker.health == Some(200) && worker.role.as_deref() == Some("active") && worker.active == Some(503);
            if health.passes(idle, sample.at).is_some() {
                found.push(format!(
                    "at {second:.1} s {} said 200 on /health as active while /active said 503",
                    worker.worker
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str, active: u16, term: u64) -> Answers {
        let role = if active == 200 { "active" } else { "standby" };
        Answers {
            worker: name.into(),
            active: Some(active),
            health: Some(200),
            role: Some(role.into()),
            term: Some(term),
            timeline: Some(1),
        }
    }

    /// Samples 200 ms apart with the same answers.
    fn lasting(count: u32, workers: [Answers; 2], reader: &str) -> Vec<Sample> {
        let start = Instant::now();
        let reader = if reader.is_empty() { Reader::Nobody } else { Reader::Name(reader.into()) };
        (0..count)
            .map(|n| Sample { at: start + PERIOD * n, workers: workers.to_vec(), reader: reader.clone() })
            .collect()
    }

    #[test]
    fn one_active_worker_that_reads_the_slot_tells_the_truth() {
        let samples = lasting(50, [worker("a", 200, 4), worker("b", 503, 4)], "pgbaton/x/y/z/t=4/r=9");
        assert_eq!(lies(&samples), Vec::<String>::new());
    }

    #[test]
    fn two_active_workers_are_found_after_one_keepalive_period() {
        let both = [worker("a", 200, 4), worker("b", 200, 4)];
        assert!(lies(&lasting(11, both.clone(), "pgbaton/x/y/z/t=4/r=9")).is_empty());
        assert_eq!(lies(&lasting(13, both, "pgbaton/x/y/z/t=4/r=9")).len(), 1);
    }

    #[test]
    fn an_active_worker_is_found_out_when_another_or_nobody_reads_the_slot() {
        let workers = [worker("a", 200, 4), worker("b", 503, 4)];
        assert!(lies(&lasting(6, workers.clone(), "")).is_empty());
        assert_eq!(lies(&lasting(8, workers.clone(), "")).len(), 1);
        assert_eq!(lies(&lasting(8, workers, "pgbaton/x/y/z/t=5/r=9")).len(), 1);
    }
}
