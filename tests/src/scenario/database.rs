//! The database changes its leader, or stops.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtask::cluster::Cluster;
use xtask::wait::until;

use super::Play;
use crate::chaos::fault::Blow;
use crate::check::staged::Timed;
use crate::stage::{Fault, RECOVERY};

/// A stopping leader waits for its walsenders: ours must be gone by then.
const FAST_STOP: Duration = Duration::from_secs(10);

pub(super) async fn switchover(play: &mut Play) -> Result<()> {
    let takeover = play.suffer(Fault::Switchover).await?;
    ensure!(!takeover.owner_changed, "a switchover of the database changed the owner: {takeover:?}");
    ensure!(takeover.to.timeline > takeover.from.timeline && takeover.to.term > takeover.from.term, "{takeover:?}");
    Ok(())
}

pub(super) async fn leader_kill(play: &mut Play) -> Result<()> {
    let takeover = play.suffer(Fault::KillLeader).await?;
    ensure!(takeover.to.timeline > takeover.from.timeline, "the database did not fail over: {takeover:?}");
    Ok(())
}

/// What the replicas never had goes with the leader, though consumers have seen it: it is named, and the rest is whole.
pub(super) async fn lagging_failover(play: &mut Play) -> Result<()> {
    // A replica that missed a burst of the load may still be chosen.
    play.relax_patroni().await?;
    let (before, since) = (play.stage.standing().await?, Instant::now());
    let (leader, replicas) = lone_leader(play).await?;
    play.stage.flows().await?;
    play.says("rows that no replica has were told; the leader dies");
    fail_over(play, leader, replicas).await?;
    play.flows_again(since, &before).await
}

/// What the replicas never had goes with the leader, and no consumer has seen it: there is nothing to mark.
pub(super) async fn barrier_lagging_failover(play: &mut Play) -> Result<()> {
    play.relax_patroni().await?;
    let before = play.stage.standing().await?;
    // Writers wait meanwhile: both replicas end at the same place, whichever is chosen.
    let writers = play.hold_writers().await?;
    let (leader, replicas) = lone_leader(play).await?;
    let since = Instant::now();
    writers.batch_execute("rollback").await?;
    play.while_written(100).await;
    play.is_named("no replica", std::slice::from_ref(&before.worker), &["barrier_wait"], RECOVERY).await;
    let told = play.stage.watcher().first(since, 0, Duration::ZERO).await;
    play.ensure(told.is_none(), "a row was told that no replica has")?;
    play.says("rows that no replica has were not told; the leader dies");
    let since = Instant::now();
    fail_over(play, leader, replicas).await?;
    play.flows_again(since, &before).await
}

/// Kills all replicas; answers with the leader and them.
async fn lone_leader(play: &Play) -> Result<(String, Vec<String>)> {
    let kill_replicas = |cluster: &Cluster| {
        let leader = cluster.leader()?;
        let nodes = cluster.nodes()?.into_iter().filter(|node| node.starts_with("pg-") && *node != leader);
        let replicas: Vec<String> = nodes.collect();
        replicas.iter().try_for_each(|replica| cluster.kill(replica))?;
        Ok((leader, replicas))
    };
    let alone = play.act(kill_replicas).await?;
    play.stage.strikes("kill", &play.nodes("pg-")?);
    Ok(alone)
}

/// Kills the leader, which has the most and would be chosen: it comes back only when another leads.
async fn fail_over(play: &mut Play, leader: String, replicas: Vec<String>) -> Result<()> {
    let fail_over = move |cluster: &Cluster| {
        cluster.kill(&leader)?;
        replicas.iter().try_for_each(|replica| cluster.start(replica))?;
        let new = until("another node to lead", RECOVERY, || Ok(cluster.leader().ok()))?;
        cluster.start(&leader)?;
        Ok(new)
    };
    let new = play.act(fail_over).await?;
    play.stage.heals(&play.nodes("pg-")?);
    play.fact("leader", new);
    Ok(())
}

pub(super) async fn fast_stop(play: &mut Play) -> Result<()> {
    stops(play, "the fast stop").await
}

pub(super) async fn fast_stop_with_kafka_down(play: &mut Play) -> Result<()> {
    let brokers = play.nodes("kafka-")?;
    let frozen = play.strike(Blow::Freeze, &brokers).await?;
    play.says("Kafka hangs; rows are pending that it does not take");
    play.while_written(100).await;
    let stopped = stops(play, "the fast stop while Kafka hangs").await;
    play.heal(&frozen).await?;
    stopped
}

/// Stops the leader's PostgreSQL and notes how long that took.
async fn stops(play: &mut Play, what: &str) -> Result<()> {
    let leader = [play.act(Cluster::leader).await?];
    play.stage.strikes("fast-stop", &leader);
    let took = u64::try_from(play.act(stop_fast).await?.as_millis())?;
    play.stage.heals(&leader);
    play.fact("fast_stop_ms", took);
    let timed = Timed { what: what.into(), ms: took, within_ms: u64::try_from(FAST_STOP.as_millis())? };
    play.stage.note(|staged| staged.fast_stops.push(timed));
    Ok(())
}

/// PostgreSQL's own fast stop, behind Patroni's back; how long it took. Patroni starts it again or fails over.
fn stop_fast(cluster: &Cluster) -> Result<Duration> {
    let leader = cluster.leader()?;
    let pids = cluster.pids(&leader)?;
    let postmaster = *pids.get(1).context("the leader has no PostgreSQL")?;
    let begun = Instant::now();
    let sent = Command::new("kill").args(["-INT", &postmaster.to_string()]).status()?;
    ensure!(sent.success(), "SIGINT did not reach PostgreSQL");
    while is_alive(postmaster) && begun.elapsed() < 3 * FAST_STOP {
        // Nobody tells us of the end of somebody else's child.
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(begun.elapsed())
}

fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !matches!(stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next()), None | Some('Z' | 'X'))
}
