//! End to end, on one real cluster: what happens to the stream when something fails, and what consumers have at the end.
//!
//! One cluster serves all tests of this program; it ends with the last of them.

mod chunks;
mod gap;
mod outage;
mod own;
mod refusal;
mod takeover;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Result;
use pgbaton_tests::check::verdict::Verdict;
use pgbaton_tests::stage::{Outcome, Stage};
use tokio::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use xtask::cluster::{Cluster, Guard, Spec};

const RATE: u32 = 80;
const SETTLE: Duration = Duration::from_secs(60);

/// Faults strike the whole cluster: whoever deals them out has it alone.
static PEACE: RwLock<()> = RwLock::const_new(());

/// The cluster, as long as some test holds it.
static CLUSTER: Mutex<Weak<Guard>> = Mutex::const_new(Weak::new());

/// How many were started: one, where tests run at least in pairs.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// Tells the ends of the workers' logs when a test ends before it said that it ended well: the cluster goes on with the next test,
/// and its logs go with it.
struct LastWords {
    cluster: Arc<Guard>,
    wanted: bool,
}

impl LastWords {
    fn of(cluster: &Arc<Guard>) -> Self {
        LastWords { cluster: Arc::clone(cluster), wanted: true }
    }

    fn forget(&mut self) {
        self.wanted = false;
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        let workers = if self.wanted { self.cluster.workers().unwrap_or_default() } else { Vec::new() };
        for worker in workers.iter().filter(|worker| worker.pid.is_some()) {
            let log = std::fs::read_to_string(&worker.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the end of {}'s log", worker.name);
            eprintln!("{}", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
    }
}

/// A cluster that this test shares with others that harm nobody.
struct Shared {
    cluster: Arc<Guard>,
    _peace: RwLockReadGuard<'static, ()>,
}

/// A cluster under load that this test has alone.
struct Alone {
    stage: Stage,
    words: LastWords,
    // Dropped last: the lock goes after everything that uses the cluster.
    cluster: Arc<Guard>,
    _peace: RwLockWriteGuard<'static, ()>,
}

async fn cluster() -> Result<Arc<Guard>> {
    let mut held = CLUSTER.lock().await;
    if let Some(cluster) = held.upgrade() {
        return Ok(cluster);
    }
    // A name of its own: the one before may be on its way down still.
    let instance = format!("e2e-{}", STARTED.fetch_add(1, Ordering::Relaxed));
    let up = || {
        xtask::setup::ensure_done()?;
        Cluster::up_for_test(&Spec { instance, ..Spec::default() })
    };
    let cluster = Arc::new(tokio::task::spawn_blocking(up).await??);
    own::relax_patroni(&cluster).await?;
    *held = Arc::downgrade(&cluster);
    Ok(cluster)
}

async fn shared() -> Result<Shared> {
    let cluster = cluster().await?;
    Ok(Shared { cluster, _peace: PEACE.read().await })
}

impl Alone {
    async fn open() -> Result<Self> {
        // The cluster first: whoever waits for peace keeps it up for the next test.
        let cluster = cluster().await?;
        let peace = PEACE.write().await;
        let words = LastWords::of(&cluster);
        let stage = Stage::open(&cluster, RATE).await?;
        Ok(Alone { stage, words, cluster, _peace: peace })
    }

    /// Does something to the cluster that takes a while.
    async fn act<T: Send + 'static>(&self, act: impl FnOnce(&Cluster) -> Result<T> + Send + 'static) -> Result<T> {
        act_on(&self.cluster, act).await
    }

    /// Rows flow; the load ends, and nothing is lost, doubled or invented, and nobody lied.
    async fn ends_well(self) -> Result<Verdict> {
        let Alone { stage, mut words, .. } = self;
        stage.flows().await?;
        let Outcome { verdict, lies, load, samples, .. } = stage.close(SETTLE).await?;
        assert!(verdict.is_clean(), "{verdict}\n{load:?}");
        assert!(verdict.written > 0 && samples > 0);
        assert_eq!(lies, Vec::<String>::new());
        words.forget();
        Ok(verdict)
    }
}

async fn act_on<T: Send + 'static>(
    cluster: &Arc<Guard>,
    act: impl FnOnce(&Cluster) -> Result<T> + Send + 'static,
) -> Result<T> {
    let cluster = Arc::clone(cluster);
    tokio::task::spawn_blocking(move || act(&cluster)).await?
}
