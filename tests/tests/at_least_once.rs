//! Delivery at least once, end to end, on a cluster of its own: nothing is lost, and what comes twice is the same both times.

use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use pgbaton_tests::arena::Arena;
use pgbaton_tests::scenario::{self, Played, Scenario};
use pgbaton_tests::screen::Screen;
use serde_json::Value;
use xtask::cluster::{Cluster, Spec};

/// One after the other on the same cluster: the checker judges all that was told on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_a_lost_leader_and_a_lost_lease_lose_nothing_and_repeat_only_what_is_the_same() -> Result<()> {
    let raise = || {
        xtask::setup::ensure_done()?;
        let spec = Spec { proxied: true, ..Scenario::AtLeastOnceKillActive.spec("at-least-once".into()) };
        let guard = Cluster::up_for_test(&spec)?;
        anyhow::Ok((Arc::new(Arena::stand_in(guard.clone())?), guard))
    };
    let (arena, _guard) = tokio::task::spawn_blocking(raise).await??;
    let scenarios = [
        Scenario::AtLeastOnceForgedRecords,
        Scenario::AtLeastOnceKillActive,
        Scenario::AtLeastOnceKafkaStandsStill,
        Scenario::AtLeastOnceLaggingFailover,
        Scenario::AtLeastOnceCutFromEtcd,
    ];
    for scenario in scenarios {
        let played = scenario::perform(&arena, scenario, &Screen::new()).await?;
        let Played { facts, takeovers, failure, outcome } = &played;
        assert_eq!(*failure, None, "{facts:?}, {takeovers:?}");
        assert!(outcome.verdict.is_clean(), "{}\n{:?}", outcome.verdict, outcome.load);
        assert!(outcome.verdict.written > 0 && outcome.samples > 0);
        assert_eq!(outcome.lies, Vec::<String>::new());
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
