//! Something that the stream needs is away for a while.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Play;
use crate::chaos::fault::Blow;
use crate::sample::ask;

/// Longer than a lease, so that every lease has ended.
const ETCD_AWAY: Duration = Duration::from_secs(25);
/// Longer than any of a worker's time-outs at Kafka.
const KAFKA_AWAY: Duration = Duration::from_secs(30);
/// Longer than a lease of 10 s may go without being renewed, at the load's rate.
const RENEWED: u64 = 600;
/// Shorter than a record's patience at the cluster's lease, 4.1 s.
const STANDSTILL: Duration = Duration::from_secs(3);
const STANDSTILLS: usize = 5;

/// Without etcd nobody can win a lease, and slot and sink refuse everybody else: the stream goes on, and nobody joins it.
pub(super) async fn etcd(play: &mut Play) -> Result<()> {
    let (before, members) = (play.stage.standing().await?, play.nodes("etcd-")?);
    let since = Instant::now();
    let killed = play.strike(Blow::Kill, &members).await?;
    let workers = play.nodes("worker-")?;
    play.is_named("etcd is away", &workers, &["etcd_unreachable"], ETCD_AWAY).await;
    while since.elapsed() < ETCD_AWAY {
        play.stage.flows().await?;
        let active = active(play).await;
        ensure!(active <= 1, "{active} workers streamed without etcd");
    }
    let now = play.stage.standing().await?;
    ensure!(now.worker == before.worker, "the outage changed the owner: {now:?}");
    play.heal(&killed).await?;
    play.flows_again(since, &before).await
}

/// Whoever keeps the lease asks the members that are left.
pub(super) async fn etcd_members(play: &mut Play) -> Result<()> {
    let before = play.stage.standing().await?;
    for member in play.nodes("etcd-")? {
        let member = [member];
        let killed = play.strike(Blow::Kill, &member).await?;
        play.while_written(RENEWED).await;
        let now = play.stage.standing().await?;
        ensure!(now.worker == before.worker && now.term == before.term, "after {} was killed: {now:?}", member[0]);
        play.heal(&killed).await?;
    }
    play.fact("owner_changed", false);
    Ok(())
}

pub(super) async fn kafka(play: &mut Play) -> Result<()> {
    let (before, brokers) = (play.stage.standing().await?, play.nodes("kafka-")?);
    let killed = play.strike(Blow::Kill, &brokers).await?;
    let workers = play.nodes("worker-")?;
    play.is_named("Kafka is away", &workers, &["kafka_unreachable", "sink_stalled"], KAFKA_AWAY).await;
    play.while_written(1600).await;
    let back = Instant::now();
    play.heal(&killed).await?;
    play.flows_again(back, &before).await
}

/// The lease is renewed meanwhile, so those who wait for an acknowledgement have time.
pub(super) async fn kafka_stands_still(play: &mut Play) -> Result<()> {
    let (before, brokers) = (ended_sessions(play)?, play.nodes("kafka-")?);
    for _ in 0..STANDSTILLS {
        let frozen = play.strike(Blow::Freeze, &brokers).await?;
        tokio::time::sleep(STANDSTILL).await;
        play.heal(&frozen).await?;
        play.stage.flows().await?;
    }
    let ended = ended_sessions(play)? - before;
    play.fact("ended_sessions", ended);
    ensure!(ended == 0, "{ended} sessions did not outlast it");
    Ok(())
}

/// What the workers' logs tell, but for sessions that end because a table or a column is new, or for PostgreSQL's sake.
fn ended_sessions(play: &Play) -> Result<usize> {
    const OTHERS: [&str; 2] = ["the next ", "postgres_unreachable"];
    let mut ended = 0;
    for worker in play.arena.cluster.workers()? {
        let log = fs::read_to_string(&worker.log)?;
        let is_ours = |line: &&str| line.contains("session ended") && !OTHERS.iter().any(|other| line.contains(other));
        ended += log.lines().filter(is_ours).count();
    }
    Ok(ended)
}

pub(super) async fn haproxy(play: &mut Play) -> Result<()> {
    let (before, haproxy) = (play.stage.standing().await?, ["haproxy".to_owned()]);
    let since = Instant::now();
    let killed = play.strike(Blow::Kill, &haproxy).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    play.heal(&killed).await?;
    play.flows_again(since, &before).await
}

/// How many workers say that they stream.
async fn active(play: &Play) -> usize {
    let target = play.stage.target();
    let mut active = 0;
    for (name, url) in &target.workers {
        let answers = ask(name, url, &target.pipeline, Duration::from_millis(500)).await;
        active += usize::from(answers.active == Some(200));
    }
    active
}
