//! A stage for faults: a cluster under load, watched from the far end, with the checker at the end. The demo and the
//! end-to-end tests play on it.

mod fault;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use xtask::cluster::Cluster;

pub use fault::{Fault, Takeover};

use crate::check;
use crate::check::samples::Recorder;
use crate::check::staged::{self, Staged, now_ms};
use crate::check::verdict::Verdict;
use crate::load::{Counters, Load, Options};
use crate::sample::{Answers, Sampler, ask, lies};
use crate::target::Target;
use crate::watch::{Sight, Watcher};

/// How long a cluster may take to stream again after anything.
pub const RECOVERY: Duration = Duration::from_secs(60);
/// How long PostgreSQL's nodes may take to be all there again; one that was left behind by a fork is rewound first.
const WHOLE: Duration = Duration::from_secs(120);
/// Nothing announces a worker's role to us: it is asked this often.
const ASK: Duration = Duration::from_millis(100);

/// The worker that streams, under which term, from which timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The worker's name.
    pub worker: String,
    /// Its term.
    pub term: u64,
    /// The timeline of the server that it reads.
    pub timeline: u64,
}

/// A cluster under load.
pub struct Stage {
    cluster: Cluster,
    target: Target,
    load: Load,
    watcher: Watcher,
    sampler: Sampler,
    recorder: Recorder,
    staged: Mutex<Staged>,
}

/// How it ended.
#[derive(Debug)]
pub struct Outcome {
    /// The checker's verdict.
    pub verdict: Verdict,
    /// What the writers did.
    pub load: Counters,
    /// Where the workers did not tell the truth about themselves.
    pub lies: Vec<String>,
    /// How many times all of them were asked.
    pub samples: usize,
    /// When each row of the load came through.
    pub sights: Vec<Sight>,
}

impl Outcome {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.lies.is_empty()
    }
}

impl Stage {
    /// Waits until the cluster is whole, starts the load and everything that watches, and returns when the first row has
    /// come through.
    pub async fn open(cluster: &Cluster, rate: u32) -> Result<Self> {
        whole(cluster).await?;
        let target = target(cluster)?;
        let load = Load::start(&Options { rate, ..Options::new(&target.app) }).await.context("start the load")?;
        let watcher = Watcher::start(&target.bootstrap, &target.topic_prefix, load.journal());
        let sampler = Sampler::start(target.clone());
        let recorder = Recorder::start(&target).context("record what is seen")?;
        let standby_barrier = cluster.spec()?.standby_barrier;
        let staged = Mutex::new(Staged { since_ms: now_ms(), standby_barrier, ..Staged::default() });
        let stage = Stage { cluster: cluster.clone(), target, load, watcher, sampler, recorder, staged };
        let first = stage.watcher.first(Instant::now(), 0, RECOVERY).await;
        first.with_context(|| format!("no row came through within {RECOVERY:?}"))?;
        Ok(stage)
    }

    /// Where the cluster is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The writers.
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// The consumer at the far end.
    pub fn watcher(&self) -> &Watcher {
        &self.watcher
    }

    /// Adds what was done or measured, for the checker.
    pub fn note(&self, note: impl FnOnce(&mut Staged)) {
        note(&mut self.staged.lock().expect("nobody panics holding it"));
    }

    /// Notes a fault that is dealt out now.
    pub fn strikes(&self, what: &str, targets: &[String]) {
        let fault = staged::Fault { at_ms: now_ms(), until_ms: i64::MAX, what: what.into(), targets: targets.to_vec() };
        self.note(|staged| staged.faults.push(fault));
    }

    /// Notes that all faults of these targets are healed.
    pub fn heals(&self, targets: &[String]) {
        let now = now_ms();
        self.note(|staged| {
            let open = staged.faults.iter_mut().filter(|fault| fault.until_ms == i64::MAX);
            open.filter(|fault| fault.targets == targets).for_each(|fault| fault.until_ms = now);
        });
    }

    /// The worker that streams; waits for one.
    pub async fn standing(&self) -> Result<Standing> {
        standing(&self.target, RECOVERY).await
    }

    /// Waits until the worker stands by, able to take over.
    pub async fn stands_by(&self, worker: &str) -> Result<()> {
        wait_for(&self.target, worker, RECOVERY, |answers| {
            answers.role.as_deref() == Some("standby") && answers.health == Some(200)
        })
        .await
        .with_context(|| format!("{worker} does not stand by"))
    }

    /// Waits for a row that is committed from now on to come through.
    pub async fn flows(&self) -> Result<Duration> {
        let now = Instant::now();
        let sight = self.watcher.first(now, 0, RECOVERY).await;
        Ok(sight.with_context(|| format!("no row came through within {RECOVERY:?}"))?.seen - now)
    }

    /// Stops the load, waits until everything came through, and judges.
    pub async fn close(self, settle: Duration) -> Result<Outcome> {
        let load = self.load.stop().await;
        self.recorder.stop().await;
        let (sights, now) = (self.watcher.sights(), (Instant::now(), now_ms()));
        let mut staged = self.staged.into_inner().expect("nobody panics holding it");
        staged.rows =
            sights.iter().map(|sight| (staged::at_ms(sight.sent, now), staged::at_ms(sight.seen, now))).collect();
        let verdict = check::run::run(&self.target, settle, Some(staged)).await?;
        let samples = self.sampler.stop().await;
        Ok(Outcome { verdict, load, lies: lies(&samples), samples: samples.len(), sights: self.watcher.sights() })
    }
}

/// Where a cluster of the chores is.
pub fn target(cluster: &Cluster) -> Result<Target> {
    Target::from_report(&cluster.report("lab")?).map_err(anyhow::Error::msg)
}

/// Waits until every PostgreSQL streams and has the slot: only then may any of them become the leader. An earlier fault may
/// have left one behind.
pub async fn whole(cluster: &Cluster) -> Result<()> {
    let cluster = cluster.clone();
    let look = move || {
        let end = Instant::now() + WHOLE;
        while !is_whole(&cluster)? {
            anyhow::ensure!(Instant::now() < end, "the database's nodes were not all there within {WHOLE:?}");
            std::thread::sleep(ASK);
        }
        Ok(())
    };
    tokio::task::spawn_blocking(look).await?
}

/// Whether every PostgreSQL streams and has the slot now. Blocks.
pub fn is_whole(cluster: &Cluster) -> Result<bool> {
    let nodes: Vec<String> = cluster.nodes()?.into_iter().filter(|node| node.starts_with("pg-")).collect();
    let slot = "select count(*) from pg_replication_slots where slot_name = 'orders' and restart_lsn is not null";
    let replicas =
        "select count(*) from pg_stat_replication where state = 'streaming' and application_name like 'pg-%'";
    let is =
        |node: Option<&str>, sql, count: usize| cluster.sql(node, sql).is_ok_and(|answer| answer == count.to_string());
    Ok(is(None, replicas, nodes.len() - 1) && nodes.iter().all(|node| is(Some(node), slot, 1)))
}

/// The worker that streams; waits for one.
pub async fn standing(target: &Target, limit: Duration) -> Result<Standing> {
    let end = Instant::now() + limit;
    loop {
        for (name, url) in &target.workers {
            let answers = ask(name, url, &target.pipeline, Duration::from_millis(500)).await;
            if let Answers { active: Some(200), term: Some(term), timeline: Some(timeline), .. } = answers {
                return Ok(Standing { worker: answers.worker, term, timeline });
            }
        }
        anyhow::ensure!(Instant::now() < end, "no worker streamed within {limit:?}");
        tokio::time::sleep(ASK).await;
    }
}

/// Waits until a worker's answers are as wanted.
pub async fn wait_for(target: &Target, worker: &str, limit: Duration, wanted: impl Fn(&Answers) -> bool) -> Result<()> {
    let url = &target.workers.iter().find(|(name, _)| name == worker).context("no such worker")?.1;
    let end = Instant::now() + limit;
    loop {
        let answers = ask(worker, url, &target.pipeline, Duration::from_millis(500)).await;
        if wanted(&answers) {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < end, "not within {limit:?}, it last said {answers:?}");
        tokio::time::sleep(ASK).await;
    }
}
