//! Delivery at least once, end to end, on a cluster of its own: nothing is lost, and what comes twice is the same both times.

use std::process::Command;

use anyhow::{Context, Result, bail};
use pgbaton_tests::arena::Arena;
use pgbaton_tests::scenario::{self, Scenario};
use pgbaton_tests::screen::Screen;
use serde_json::Value;
use xtask::cluster::Cluster;

/// One after the other on the same cluster: the checker judges all that was told on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_a_lost_leader_and_a_lost_lease_lose_nothing_and_repeat_only_what_is_the_same() -> Result<()> {
    let (arena, _guard) = Arena::for_test(Scenario::AtLeastOnceKillActive.spec("at-least-once".into())).await?;
    let scenarios = [
        Scenario::AtLeastOnceForgedRecords,
        Scenario::AtLeastOnceKillActive,
        Scenario::AtLeastOnceKafkaStandsStill,
        Scenario::AtLeastOnceLaggingFailover,
        Scenario::AtLeastOnceCutFromEtcd,
    ];
    for scenario in scenarios {
        let played = scenario::perform(&arena, scenario, &Screen::new()).await?;
        if let Some(complaint) = played.complaint() {
            bail!(complaint);
        }
        let outcome = &played.outcome;
        if scenario == Scenario::AtLeastOnceLaggingFailover {
            assert!(outcome.verdict.phantoms.marked > 0, "the fault took nothing with it");
        }
        let (code, says) = arena.act(verify).await?;
        assert_eq!((code, &says["sound"]), (Some(0), &true.into()), "{says}");
        assert_eq!(says["repeated"], outcome.verdict.repeated, "the checker has seen other repeats: {says}");
    }
    Ok(())
}

/// What `pgbaton verify` says at last, by a worker's configuration.
fn verify(cluster: &Cluster) -> Result<(Option<i32>, Value)> {
    let worker = cluster.workers()?.into_iter().find(|worker| worker.name == "worker-1").context("it is gone")?;
    let mut command = Command::new(cluster.worker_binary()?);
    let output = command.args(["verify", "--json", "-c"]).arg(worker.config).output()?;
    let said = String::from_utf8(output.stdout)?;
    let last = said.lines().last().with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code(), serde_json::from_str(last)?))
}
