//! Something that the stream needs is away for a while: PostgreSQL stops, Kafka or etcd is gone.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pgbaton_tests::stage::RECOVERY;
use xtask::cluster::Cluster;
use xtask::wait::until;

use crate::Alone;

/// A stopping leader waits for its walsenders: ours must be gone by then.
const FAST_STOP: Duration = Duration::from_secs(10);
const ETCD: [&str; 3] = ["etcd-1", "etcd-2", "etcd-3"];

/// PostgreSQL's own fast stop, behind Patroni's back; how long it took. Patroni starts it again or fails over.
fn fast_stop(cluster: &Cluster) -> Result<Duration> {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_stop_of_the_leader_does_not_wait_for_us() -> Result<()> {
    let alone = Alone::open().await?;
    let took = alone.act(fast_stop).await?;
    assert!(took <= FAST_STOP, "the fast stop took {took:?}");
    alone.ends_well().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_stop_of_the_leader_does_not_wait_for_us_while_kafka_hangs() -> Result<()> {
    let alone = Alone::open().await?;
    alone.act(|cluster| cluster.stop("kafka-1")).await?;
    // Until rows are pending that Kafka does not take.
    let before = alone.stage.load().counters().transactions;
    while alone.stage.load().counters().transactions < before + 100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = alone.act(fast_stop).await;
    alone.act(|cluster| cluster.cont("kafka-1")).await?;
    let took = took?;
    assert!(took <= FAST_STOP, "the fast stop took {took:?}");
    alone.ends_well().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_kafka_that_comes_back_gets_everything_once() -> Result<()> {
    let alone = Alone::open().await?;
    alone.act(|cluster| cluster.kill("kafka-1")).await?;
    let before = alone.stage.load().counters().transactions;
    while alone.stage.load().counters().transactions < before + 500 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    alone.act(|cluster| cluster.start("kafka-1")).await?;
    alone.ends_well().await.map(drop)
}

/// What the replicas never had goes with the leader, though consumers have seen it: it is named, and the rest is whole.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_leader_took_with_it_is_marked_and_told_apart() -> Result<()> {
    let alone = Alone::open().await?;
    let (leader, replicas) = alone
        .act(|cluster| {
            let leader = cluster.leader()?;
            let nodes = cluster.nodes()?.into_iter().filter(|node| node.starts_with("pg-") && *node != leader);
            let replicas: Vec<String> = nodes.collect();
            replicas.iter().try_for_each(|replica| cluster.kill(replica))?;
            Ok((leader, replicas))
        })
        .await?;
    alone.stage.flows().await?;
    // The old leader comes back only when another leads: it has the most and would be chosen.
    alone
        .act(move |cluster| {
            cluster.kill(&leader)?;
            replicas.iter().try_for_each(|replica| cluster.start(replica))?;
            until("another node to lead", RECOVERY, || Ok(cluster.leader().ok()))?;
            cluster.start(&leader)
        })
        .await?;
    let verdict = alone.ends_well().await?;
    assert!(verdict.phantoms.marked > 0, "the fault took nothing with it");
    Ok(())
}

/// Without etcd nobody can win a lease, and slot and sink refuse everybody else: the stream goes on, and says that it does.
#[tokio::test(flavor = "multi_thread")]
async fn through_an_outage_of_etcd_the_stream_goes_on_with_the_same_owner() -> Result<()> {
    let alone = Alone::open().await?;
    let before = alone.stage.standing().await?;
    alone.act(|cluster| ETCD.iter().try_for_each(|member| cluster.kill(member))).await?;
    let gone = Instant::now();
    // Longer than the lease, so that only slot and sink are left.
    while gone.elapsed() < Duration::from_secs(15) {
        alone.stage.flows().await?;
    }
    let now = alone.stage.standing().await?;
    assert_eq!((&now.worker, now.term), (&before.worker, before.term), "the outage changed the owner or the session");
    alone.act(|cluster| ETCD.iter().try_for_each(|member| cluster.start(member))).await?;
    alone.ends_well().await.map(drop)
}

/// Whoever keeps the lease asks the members that are left.
#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_any_one_etcd_member_changes_neither_owner_nor_session() -> Result<()> {
    let alone = Alone::open().await?;
    let before = alone.stage.standing().await?;
    for member in ETCD {
        alone.act(move |cluster| cluster.kill(member)).await?;
        // Longer than a lease of 10 s may go without being renewed.
        let transactions = alone.stage.load().counters().transactions;
        while alone.stage.load().counters().transactions < transactions + 600 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let now = alone.stage.standing().await?;
        assert_eq!((&now.worker, now.term), (&before.worker, before.term), "after {member} was killed");
        alone.act(move |cluster| cluster.start(member)).await?;
    }
    alone.ends_well().await.map(drop)
}
