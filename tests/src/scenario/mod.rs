//! Scenarios: one failure each, written down so that a reviewer can read what is done and what must come of it. Each plays on a
//! cluster under load, and each ends in the checker.
//!
//! Gaps are made in a pipeline of their own, in which every row is known. The pipeline under load beside it has to stay as it is,
//! and is what the checker judges.

mod crowd;
mod database;
mod forged;
mod gap;
mod idle;
mod lease_free;
mod naming;
mod outage;
mod several;
mod way;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Map, Value, json};
use xtask::cluster::{Cluster, Spec};

use crate::arena::Arena;
use crate::chaos::fault::{Blow, Fault as Dealt};
use crate::database::Connection;
use crate::own::{self, Own};
use crate::screen::Screen;
use crate::stage::{Fault, Outcome, Stage, Standing, Takeover};

/// Transactions per second.
const RATE: u32 = 80;
/// What one fault may cost: a session of the old holder that failed, one of the new, and one more where it came back.
const MANY_TERMS: u64 = 5;
/// For a connection of a scenario's own.
const CONNECT: Duration = Duration::from_secs(5);
const SETTLE: Duration = Duration::from_secs(60);

/// What happens, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// SIGKILL of the worker that streams
    KillActive,
    /// SIGSTOP of the worker that streams, for 20 s
    FreezeActive,
    /// SIGTERM of the worker that streams: it hands over
    StopActive,
    /// SIGKILL of every worker at once
    KillAllWorkers,
    /// Eight workers start at once, and the one that streams is killed: one streams, one follows, and nobody else does
    EightWorkers,
    /// SIGKILL of the worker that streams, inside a transaction of 100,000 rows that is told in chunks
    KillInLargeTransaction,
    /// Another node becomes the database's leader, as planned
    Switchover,
    /// SIGKILL of the database's leader
    LeaderKill,
    /// The leader dies with rows that no replica has and consumers have seen
    LaggingFailover,
    /// Publication waits for standbys (standby_barrier). The leader dies with rows that no replica has: no consumer has seen them
    BarrierLaggingFailover,
    /// PostgreSQL's fast stop while Kafka hangs: it must not wait for the worker
    FastStopWithKafkaDown,
    /// PostgreSQL's fast stop while everything works
    FastStop,
    /// Every etcd member dies for 25 s
    EtcdOutage,
    /// Each etcd member in turn dies
    EtcdMembers,
    /// Every Kafka broker dies for 20 s
    KafkaOutage,
    /// HAProxy dies for 5 s
    HaproxyKill,
    /// The slot is dropped while it is read
    DroppedSlot,
    /// The slot is dropped and made again, with rows in between
    RecreatedSlot,
    /// The slot is advanced by hand while no worker runs
    AdvancedSlot,
    /// WAL that the slot needs is removed: max_slot_wal_keep_size
    LostSlot,
    /// The slot is invalidated because nobody used it: PostgreSQL 18
    InvalidatedSlot,
    /// The publication is dropped and made again, with rows in between
    PublicationDropped,
    /// The topic of a table is deleted and made again while it is written
    TopicRecreated,
    /// Somebody else writes into the topics: the standby that audits them names it, and takes over all the same
    ForgedRecords,
    /// What PostgreSQL sends does not arrive at the worker that streams, for 30 s
    DeafToPostgres,
    /// What the worker that streams sends does not arrive at PostgreSQL, for 30 s
    UnheardByPostgres,
    /// The worker that streams, and it alone, is cut off from PostgreSQL for 30 s
    CutFromPostgres,
    /// The worker that streams, and it alone, is cut off from Kafka for 30 s
    CutFromKafka,
    /// The worker that streams, and it alone, is cut off from etcd for 30 s
    CutFromEtcd,
    /// Nothing that the worker that streams sends or is sent arrives anywhere, for 30 s
    BlackHole,
    /// Kafka hangs while a topic is made for the worker that streams, and its stream is cut: it does not say that it streams
    CutAsATopicIsMade,
    /// Delivery is at least once. SIGKILL of the worker that streams: its lease is waited for
    AtLeastOnceKillActive,
    /// Delivery is at least once. The leader dies with rows that no replica has and consumers have seen
    AtLeastOnceLaggingFailover,
    /// Delivery is at least once. Somebody else tells records again, not as they were: the standby that audits them names it
    AtLeastOnceForgedRecords,
    /// Delivery is at least once. The worker that streams, and it alone, is cut off from etcd for 30 s: it stops before its lease ends
    AtLeastOnceCutFromEtcd,
    /// Delivery is at least once. Kafka stands still for 3 s, again and again: the session outlasts it
    AtLeastOnceKafkaStandsStill,
    /// Workers without etcd: SIGKILL of the one that streams, a switchover, SIGTERM
    NoEtcdPair,
    /// Four pipelines in two workers: shared at the start, all in one after a SIGKILL, one handed back
    SharedPipelines,
    /// The ends of Kafka transactions arrive 3 s late, after their connection was lost, for 20 s
    LateEnd,
    /// Other tables are written, 512 MiB of WAL, while those of a pipeline are idle
    IdleForeignWal,
    /// Hundreds of clients hold half a request each at every worker
    SlowClients,
}

impl Scenario {
    /// Its name: `kill-active`.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What happens in it.
    #[must_use]
    pub fn says(self) -> String {
        let help = self.to_possible_value().and_then(|value| value.get_help().map(ToString::to_string));
        help.unwrap_or_default()
    }

    /// The cluster that it needs.
    #[must_use]
    pub fn spec(self, instance: String) -> Spec {
        let pg = (self == Scenario::InvalidatedSlot).then_some(18);
        let at_least_once = matches!(
            self,
            Scenario::AtLeastOnceKillActive
                | Scenario::AtLeastOnceLaggingFailover
                | Scenario::AtLeastOnceForgedRecords
                | Scenario::AtLeastOnceCutFromEtcd
                | Scenario::AtLeastOnceKafkaStandsStill
        );
        let workers = if self == Scenario::EightWorkers { 8 } else { Spec::default().workers };
        let standby_barrier = self == Scenario::BarrierLaggingFailover;
        Spec { instance, pg, at_least_once, standby_barrier, workers, ..Spec::default() }
    }

    /// Plays it. What must come of it is checked on the way.
    pub async fn play(self, play: &mut Play) -> Result<()> {
        match self {
            Scenario::KillActive => worker::kill_active(play).await,
            Scenario::FreezeActive => worker::freeze_active(play).await,
            Scenario::StopActive => worker::stop_active(play).await,
            Scenario::KillAllWorkers => worker::kill_all(play).await,
            Scenario::EightWorkers => worker::eight_workers(play).await,
            Scenario::KillInLargeTransaction => worker::kill_in_large_transaction(play).await,
            Scenario::Switchover => database::switchover(play).await,
            Scenario::LeaderKill => database::leader_kill(play).await,
            Scenario::LaggingFailover => database::lagging_failover(play).await,
            Scenario::BarrierLaggingFailover => database::barrier_lagging_failover(play).await,
            Scenario::FastStop => database::fast_stop(play).await,
            Scenario::FastStopWithKafkaDown => database::fast_stop_with_kafka_down(play).await,
            Scenario::EtcdOutage => outage::etcd(play).await,
            Scenario::EtcdMembers => outage::etcd_members(play).await,
            Scenario::KafkaOutage => outage::kafka(play).await,
            Scenario::HaproxyKill => outage::haproxy(play).await,
            Scenario::DroppedSlot => gap::dropped_slot(play).await,
            Scenario::RecreatedSlot => gap::recreated_slot(play).await,
            Scenario::AdvancedSlot => gap::advanced_slot(play).await,
            Scenario::LostSlot => gap::lost_slot(play).await,
            Scenario::InvalidatedSlot => gap::invalidated_slot(play).await,
            Scenario::PublicationDropped => gap::publication_dropped(play).await,
            Scenario::TopicRecreated => gap::topic_recreated(play).await,
            Scenario::ForgedRecords => forged::records(play).await,
            Scenario::DeafToPostgres => way::deaf_to_postgres(play).await,
            Scenario::UnheardByPostgres => way::unheard_by_postgres(play).await,
            Scenario::CutFromPostgres => way::cut_from_postgres(play).await,
            Scenario::CutFromKafka => way::cut_from_kafka(play).await,
            Scenario::CutFromEtcd => way::cut_from_etcd(play).await,
            Scenario::BlackHole => way::black_hole(play).await,
            Scenario::CutAsATopicIsMade => way::cut_as_a_topic_is_made(play).await,
            Scenario::AtLeastOnceKillActive => worker::kill_active_without_a_fence(play).await,
            Scenario::AtLeastOnceLaggingFailover => database::lagging_failover(play).await,
            Scenario::AtLeastOnceForgedRecords => forged::repeats(play).await,
            Scenario::AtLeastOnceCutFromEtcd => way::cut_from_etcd(play).await,
            Scenario::AtLeastOnceKafkaStandsStill => outage::kafka_stands_still(play).await,
            Scenario::NoEtcdPair => lease_free::no_etcd_pair(play).await,
            Scenario::SharedPipelines => several::shared_pipelines(play).await,
            Scenario::LateEnd => way::late_end(play).await,
            Scenario::IdleForeignWal => idle::foreign_wal(play).await,
            Scenario::SlowClients => crowd::slow_clients(play).await,
        }
    }
}

/// A scenario under way: the cluster, its load, and what is to be reported.
pub struct Play {
    /// The cluster and its ways.
    pub arena: Arc<Arena>,
    /// Its load, and those who watch.
    pub stage: Stage,
    screen: Screen,
    facts: Map<String, Value>,
    takeovers: Vec<Takeover>,
}

/// What came of a scenario.
#[derive(Debug)]
pub struct Played {
    /// What was seen, by name.
    pub facts: Map<String, Value>,
    /// Each change of the one that streams that was caused on purpose.
    pub takeovers: Vec<Takeover>,
    /// What was not as it must be.
    pub failure: Option<String>,
    /// The checker's part.
    pub outcome: Outcome,
}

impl Played {
    /// Whether all was as it must be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failure.is_none() && self.outcome.is_clean()
    }

    /// What a test says of it that is to be clean and to have looked at something; none if it is and has.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let Played { facts, takeovers, failure, outcome } = self;
        let has_looked = outcome.verdict.written > 0 && outcome.samples > 0;
        (!self.is_clean() || !has_looked).then(|| {
            format!(
                "{failure:?}, {facts:?}, {takeovers:?}\n{}\n{:?}\n{} samples; {:#?}",
                outcome.verdict, outcome.load, outcome.samples, outcome.lies
            )
        })
    }
}

/// Plays a scenario from the first row to the checker's verdict.
pub async fn perform(arena: &Arc<Arena>, scenario: Scenario, screen: &Screen) -> Result<Played> {
    let stage = Stage::open(&arena.cluster, RATE).await?;
    screen.step(&format!("{}: {}", scenario.name(), scenario.says()));
    let (arena, screen) = (Arc::clone(arena), screen.clone());
    let mut play = Play { arena, stage, screen, facts: Map::new(), takeovers: Vec::new() };
    let played = scenario.play(&mut play).await;
    let mended = play.ends_as_it_began().await;
    let failure = played.and(mended).err().map(|error| format!("{error:#}"));
    let Play { stage, screen, facts, takeovers, .. } = play;
    screen.step("the load stops; tables are compared with topics");
    Ok(Played { facts, takeovers, failure, outcome: stage.close(SETTLE).await? })
}

impl Play {
    fn says(&self, words: &str) {
        self.screen.step(words);
    }

    fn fact(&mut self, name: &str, value: impl Serialize) {
        let value = json!(value);
        self.screen.step(&format!("{name}: {value}"));
        self.facts.insert(name.into(), value);
    }

    async fn act<T: Send + 'static>(&self, act: impl FnOnce(&Cluster) -> Result<T> + Send + 'static) -> Result<T> {
        self.arena.act(act).await
    }

    /// Names of the nodes of a kind: `etcd-`, `kafka-`, `pg-`, `worker-`.
    fn nodes(&self, kind: &str) -> Result<Vec<String>> {
        Ok(self.arena.cluster.nodes()?.into_iter().filter(|name| name.starts_with(kind)).collect())
    }

    /// Deals a fault out to all of these, and notes it until it is healed.
    async fn strike(&self, blow: Blow, targets: &[String]) -> Result<Dealt> {
        let dealt = Dealt { fault: blow, targets: targets.to_vec(), lasts_ms: 0 };
        self.stage.strikes(&blow.to_string(), targets);
        dealt.strike(&self.arena).await?;
        Ok(dealt)
    }

    async fn heal(&self, dealt: &Dealt) -> Result<()> {
        dealt.heal(&self.arena).await?;
        self.stage.heals(&dealt.targets);
        Ok(())
    }

    /// A pipeline of a name of its own with two workers, whose first ten rows were told; and a place in the WAL before the last of
    /// them.
    async fn streaming(&self, name: &'static str) -> Result<(Own, u64)> {
        self.relax_patroni().await?;
        let mut own = Own::new(&self.arena.cluster, name).await?;
        own.make_slot("pgoutput").await?;
        own.start().await?;
        own.insert(1..=9).await?;
        let before_last = own.wal_end().await?;
        own.insert(10..=10).await?;
        own.until_told(10).await?;
        self.says(&format!("the pipeline {name} has told its first ten rows"));
        Ok((own, before_last))
    }

    /// One of the demo's faults from blow to heal.
    async fn suffer(&mut self, fault: Fault) -> Result<Takeover> {
        let takeover = self.stage.suffer(fault).await?;
        let owner = if takeover.owner_changed { "took over" } else { "went on" };
        self.screen.step(&format!("{} {owner}, rows flowed again after {} ms", takeover.to.worker, takeover.ms));
        self.takeovers.push(takeover.clone());
        Ok(takeover)
    }

    /// Lets the load go on until so many more transactions were written: there is something to miss then.
    async fn while_written(&self, transactions: u64) {
        let before = self.stage.load().counters().transactions;
        while self.stage.load().counters().transactions < before + transactions {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes all writers of the load wait, until the transaction of this connection ends.
    async fn hold_writers(&self) -> Result<Connection> {
        let connection = Connection::open(&self.stage.target().admin, CONNECT).await?;
        connection.batch_execute("begin; lock table public.ledger in exclusive mode").await?;
        Ok(connection)
    }

    /// Waits for a row that was committed after `since`, and notes how long it took, how long none came, and who streams now. A
    /// fault changes the owner once at most, and does not make workers take the stream from each other again and again.
    async fn flows_again(&mut self, since: Instant, before: &Standing) -> Result<()> {
        let terms = self.comes_back(since, before).await?.term - before.term;
        self.ensure(terms <= MANY_TERMS, "the workers took the stream from each other again and again")
    }

    /// Waits and notes as [`Play::flows_again`] does, however many sessions it took. Returns who streams now.
    async fn comes_back(&mut self, since: Instant, before: &Standing) -> Result<Standing> {
        let first = self.stage.watcher().first(since, 0, crate::stage::RECOVERY).await;
        let first = first.context("no row came through again")?;
        let now = self.stage.standing().await?;
        self.fact("first_row_ms", u64::try_from((first.seen - since).as_millis())?);
        let silence = self.stage.watcher().longest_silence(since);
        self.fact("longest_silence_ms", u64::try_from(silence.as_millis())?);
        self.fact("owner_changed", now.worker != before.worker);
        self.fact("terms", now.term - before.term);
        Ok(now)
    }

    /// All nodes run, all ways are clear, and rows flow.
    async fn ends_as_it_began(&mut self) -> Result<()> {
        let arena = Arc::clone(&self.arena);
        tokio::task::spawn_blocking(move || arena.mend()).await??;
        let took = self.stage.flows().await.context("at the end")?;
        self.fact("flows_at_the_end_ms", u64::try_from(took.as_millis())?);
        Ok(())
    }

    /// Lets pipelines of a scenario's own keep their slots.
    async fn relax_patroni(&self) -> Result<()> {
        own::relax_patroni(&self.arena.cluster).await
    }

    fn ensure(&self, holds: bool, words: &str) -> Result<()> {
        ensure!(holds, "{words}; facts: {}", Value::Object(self.facts.clone()));
        Ok(())
    }
}
