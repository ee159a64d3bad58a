//! Chaos: a cluster under load, struck every 3 to 15 s by a fault drawn from a seed, and judged at the end.

pub mod fault;
pub mod observe;
pub mod page;
pub mod plan;
pub mod story;

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;

use crate::arena::Arena;
use crate::check::staged::{self, now_ms};
use crate::screen::Screen;
use crate::stage::{Outcome, RECOVERY, Stage, is_whole, whole};
use fault::Fault;
use observe::{Observation, Observer};
use plan::{Nodes, Planner, is_bearable, needs_whole_database};

/// Transactions per second.
const RATE: u32 = 100;
/// How long the checker waits for rows while none come.
const SETTLE: Duration = Duration::from_secs(60);
/// A quarantine that lasts so long will not end by itself, and there is nothing left to strike.
const HALTED: Duration = Duration::from_secs(60);
/// How long a Patroni that found no quorum may be found dead afterwards: it tries for some seconds, and faults are that far apart.
const PATRONI_GIVES_UP: Duration = Duration::from_secs(30);

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// For how long faults are dealt out.
    pub lasts: Duration,
    /// Draws the faults.
    pub seed: u64,
}

/// A fault that was dealt out.
#[derive(Clone, Debug, Serialize)]
pub struct Struck {
    /// When.
    #[serde(skip)]
    pub at: Instant,
    /// The same in seconds of the run.
    pub at_seconds: f64,
    /// Which.
    #[serde(flatten)]
    pub fault: Fault,
    /// When it was healed, in seconds of the run.
    pub healed_seconds: f64,
    /// What did not go as it was meant to.
    pub error: Option<String>,
}

impl Struck {
    /// As the checker wants it.
    fn told(&self, start: Instant, now: (Instant, i64)) -> staged::Fault {
        let healed = start + Duration::from_secs_f64(self.healed_seconds);
        staged::Fault {
            at_ms: staged::at_ms(self.at, now),
            until_ms: staged::at_ms(healed, now),
            what: self.fault.fault.to_string(),
            targets: self.fault.targets.clone(),
        }
    }
}

/// A run and what became of it.
#[derive(Debug)]
pub struct Run {
    /// What was asked for.
    pub options: Options,
    /// When faults began.
    pub start: Instant,
    /// All faults in order.
    pub struck: Vec<Struck>,
    /// What the workers said.
    pub seen: Vec<Observation>,
    /// From the last heal until a new row came through, in seconds; `None` if none did in time.
    pub recovered_seconds: Option<f64>,
    /// What must not be: quarantines, processes that ended by themselves, no recovery.
    pub troubles: Vec<String>,
    /// The checker's part.
    pub outcome: Outcome,
}

impl Run {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.outcome.is_clean() && self.troubles.is_empty()
    }
}

/// Strikes, heals, and judges. The cluster is whole again afterwards, unless it cannot be.
pub async fn run(arena: &Arc<Arena>, options: Options, screen: &Screen) -> Result<Run> {
    let stage = Stage::open(&arena.cluster, RATE).await?;
    let journal = Journal::open(arena, screen)?;
    let observer = Observer::start(stage.target().clone());
    let (troubles, start) = (Vec::new(), Instant::now());
    let mut run = Dealing { arena, journal, observer, troubles, halted: None, etcd_was_sick: None, start };
    let struck = run.deal(options).await?;
    let recovered_seconds = run.recover(&stage).await?;
    let Dealing { observer, troubles, start, .. } = run;
    let now = (Instant::now(), now_ms());
    stage.note(|staged| staged.faults = struck.iter().map(|struck| struck.told(start, now)).collect());
    screen.step("the load stops; tables are compared with topics");
    let outcome = stage.close(SETTLE).await?;
    Ok(Run { options, start, struck, seen: observer.seen(), recovered_seconds, troubles, outcome })
}

struct Dealing<'a> {
    arena: &'a Arc<Arena>,
    journal: Journal,
    observer: Observer,
    troubles: Vec<String>,
    halted: Option<Instant>,
    /// When a member of etcd was seen struck last.
    etcd_was_sick: Option<Instant>,
    start: Instant,
}

impl Dealing<'_> {
    fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    async fn deal(&mut self, options: Options) -> Result<Vec<Struck>> {
        let nodes = Nodes::among(&self.arena.cluster.nodes()?);
        let mut planner = Planner::new(options.seed, nodes.clone());
        let (mut sick, mut healing): (Vec<Fault>, JoinSet<Struck>) = (Vec::new(), JoinSet::new());
        let mut struck = Vec::new();
        while self.start.elapsed() < options.lasts && !self.is_halted() {
            let pause = tokio::time::sleep(planner.pause());
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    Some(healed) = healing.join_next() => self.healed(healed?, &mut sick, &mut struck)?,
                }
            }
            self.look_after_the_dead(&sick).await?;
            let fault = self.choose(&mut planner, &sick, &nodes).await?;
            self.journal.write(self.seconds(), "struck", &fault, None)?;
            sick.push(fault.clone());
            healing.spawn(suffer(Arc::clone(self.arena), fault, self.start));
        }
        while let Some(healed) = healing.join_next().await {
            self.healed(healed?, &mut sick, &mut struck)?;
        }
        struck.sort_by_key(|struck| struck.at);
        Ok(struck)
    }

    fn healed(&self, healed: Struck, sick: &mut Vec<Fault>, struck: &mut Vec<Struck>) -> Result<()> {
        sick.retain(|fault| *fault != healed.fault);
        self.journal.write(healed.healed_seconds, "healed", &healed.fault, healed.error.as_deref())?;
        struck.push(healed);
        Ok(())
    }

    async fn choose(&self, planner: &mut Planner, sick: &[Fault], nodes: &Nodes) -> Result<Fault> {
        loop {
            let fault = planner.draw();
            let bearable = is_bearable(&fault, sick, nodes);
            if bearable && (!needs_whole_database(&fault) || self.arena.act(is_whole).await?) {
                return Ok(fault);
            }
        }
    }

    /// Starts what ended by itself, as a supervisor would, and says so. A Patroni that is started while etcd has no quorum ends after
    /// a few seconds: that is its way, and no trouble.
    async fn look_after_the_dead(&mut self, sick: &[Fault]) -> Result<()> {
        let of_etcd = |fault: &Fault| fault.targets.iter().any(|target| target.starts_with("etcd-"));
        if sick.iter().any(of_etcd) {
            self.etcd_was_sick = Some(Instant::now());
        }
        for name in self.arena.cluster.nodes()? {
            let struck = sick.iter().any(|fault| fault.targets.contains(&name));
            if !struck && self.arena.cluster.pids(&name)?.is_empty() {
                let words = format!("at {:.1} s {name} had ended by itself", self.seconds());
                match self.etcd_was_sick.filter(|at| name.starts_with("pg-") && at.elapsed() < PATRONI_GIVES_UP) {
                    Some(_) => self.journal.say("patroni", self.seconds(), &words)?,
                    None => self.trouble(words)?,
                }
                self.arena.act(move |cluster| cluster.start(&name)).await?;
            }
        }
        Ok(())
    }

    /// Whether the workers have stopped for good.
    fn is_halted(&mut self) -> bool {
        let quarantined = !self.observer.quarantined().is_empty();
        self.halted = quarantined.then(|| self.halted.unwrap_or_else(Instant::now));
        self.halted.is_some_and(|since| since.elapsed() > HALTED)
    }

    fn trouble(&mut self, words: String) -> Result<()> {
        self.journal.say("trouble", self.seconds(), &words)?;
        self.troubles.push(words);
        Ok(())
    }

    /// Everything is mended; how long until rows flow again.
    async fn recover(&mut self, stage: &Stage) -> Result<Option<f64>> {
        let arena = Arc::clone(self.arena);
        let dead = tokio::task::spawn_blocking(move || arena.mend()).await??;
        if !dead.is_empty() {
            self.trouble(format!("at the end {} had ended by themselves", dead.join(" ")))?;
        }
        if let Err(error) = whole(&self.arena.cluster).await {
            self.trouble(format!("{error:#}"))?;
        }
        let flowed = stage.flows().await;
        if flowed.is_err() {
            self.trouble(format!("no row came through within {RECOVERY:?} of the last heal"))?;
        }
        for (worker, code, text) in self.observer.quarantined() {
            self.trouble(format!("{worker} is in quarantine: {code}: {text}"))?;
        }
        Ok(flowed.ok().map(|took| took.as_secs_f64()))
    }
}

/// One fault from blow to heal. It is healed whatever came of the blow.
async fn suffer(arena: Arc<Arena>, fault: Fault, start: Instant) -> Struck {
    let at = Instant::now();
    let struck = fault.strike(&arena).await;
    tokio::time::sleep(fault.lasts()).await;
    let healed = fault.heal(&arena).await;
    let error = struck.and(healed).err().map(|error| format!("{error:#}"));
    let at_seconds = (at - start).as_secs_f64();
    Struck { at, at_seconds, fault, healed_seconds: start.elapsed().as_secs_f64(), error }
}

/// What was done when, as lines of JSON beside the nodes' logs and as lines on the screen.
struct Journal {
    file: File,
    screen: Screen,
}

impl Journal {
    fn open(arena: &Arena, screen: &Screen) -> Result<Self> {
        let path = arena.cluster.instance().logs().join("chaos.jsonl");
        screen.step(&format!("faults are written to {}", path.display()));
        let file = File::create(&path).with_context(|| format!("write {}", path.display()))?;
        Ok(Journal { file, screen: screen.clone() })
    }

    fn write(&self, seconds: f64, event: &str, fault: &Fault, error: Option<&str>) -> Result<()> {
        let mut line = serde_json::to_value(fault)?;
        line["at_seconds"] = json!((seconds * 1000.0).round() / 1000.0);
        line["event"] = json!(event);
        line["error"] = json!(error);
        writeln!(&self.file, "{line}").context("write the journal")?;
        let error = error.map(|error| format!(" ({error})")).unwrap_or_default();
        self.screen.step(&format!("{event} {fault}{error}"));
        Ok(())
    }

    fn say(&self, event: &str, seconds: f64, words: &str) -> Result<()> {
        let line = json!({"at_seconds": (seconds * 1000.0).round() / 1000.0, "event": event, "words": words});
        writeln!(&self.file, "{line}").context("write the journal")?;
        self.screen.step(words);
        Ok(())
    }
}
