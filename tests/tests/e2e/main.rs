//! End to end, on one real cluster: what happens to the stream when something fails, and what consumers have at the end.
//!
//! One cluster serves all tests of this program; it ends with the last of them.

mod operator;
mod pages;
mod refusal;
mod scenarios;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use anyhow::Result;
use pgbaton_tests::arena::Arena;
use pgbaton_tests::own::{Own, relax_patroni};
use tokio::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use xtask::cluster::{Cluster, Guard, Spec};

/// Faults strike the whole cluster: whoever deals them out has it alone.
static PEACE: RwLock<()> = RwLock::const_new(());

/// The cluster, as long as some test holds it.
static GROUND: Mutex<Weak<Ground>> = Mutex::const_new(Weak::new());

/// How many were started: one, where tests run at least in pairs.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// The cluster and its ways.
struct Ground {
    arena: Arc<Arena>,
    _guard: Guard,
}

/// Tells the ends of the workers' logs when a test ends before it said that it ended well: the cluster goes on with the next test,
/// and its logs go with it.
struct LastWords {
    ground: Arc<Ground>,
    wanted: bool,
}

impl LastWords {
    fn of(ground: &Arc<Ground>) -> Self {
        LastWords { ground: Arc::clone(ground), wanted: true }
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        let workers = if self.wanted { self.ground.arena.cluster.workers().unwrap_or_default() } else { Vec::new() };
        for worker in workers {
            let log = std::fs::read_to_string(&worker.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let dead = if worker.pid.is_none() { ", which does not run" } else { "" };
            eprintln!("--- the end of the log of {}{dead}", worker.name);
            eprintln!("{}", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
    }
}

/// A cluster that this test shares with others that harm nobody.
struct Shared {
    words: LastWords,
    // Dropped last: the lock goes after everything that uses the cluster.
    ground: Arc<Ground>,
    _peace: RwLockReadGuard<'static, ()>,
}

/// A cluster that this test has alone.
struct Alone {
    words: LastWords,
    ground: Arc<Ground>,
    _peace: RwLockWriteGuard<'static, ()>,
}

async fn ground() -> Result<Arc<Ground>> {
    let mut held = GROUND.lock().await;
    if let Some(ground) = held.upgrade() {
        return Ok(ground);
    }
    // A name of its own: the one before may be on its way down still.
    let instance = format!("e2e-{}", STARTED.fetch_add(1, Ordering::Relaxed));
    let up = || -> Result<Ground> {
        xtask::setup::ensure_done()?;
        let guard = Cluster::up_for_test(&Spec { instance, proxied: true, ..Spec::default() })?;
        Ok(Ground { arena: Arc::new(Arena::stand_in(guard.clone())?), _guard: guard })
    };
    let ground = Arc::new(tokio::task::spawn_blocking(up).await??);
    relax_patroni(&ground.arena.cluster).await?;
    *held = Arc::downgrade(&ground);
    Ok(ground)
}

impl Shared {
    async fn open() -> Result<Self> {
        let ground = ground().await?;
        Ok(Shared { words: LastWords::of(&ground), ground, _peace: PEACE.read().await })
    }

    /// A pipeline of its own.
    async fn pipeline(&self, name: &'static str) -> Result<Own> {
        Own::new(&self.ground.arena.cluster, name).await
    }

    /// The test came to its end, and its pipeline goes.
    async fn ends_well(mut self, own: Own) -> Result<()> {
        self.words.wanted = false;
        own.end().await
    }
}

impl Alone {
    async fn open() -> Result<Self> {
        // The cluster first: whoever waits for peace keeps it up for the next test.
        let ground = ground().await?;
        let peace = PEACE.write().await;
        Ok(Alone { words: LastWords::of(&ground), ground, _peace: peace })
    }
}
