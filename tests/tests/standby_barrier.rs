//! A barrier of standbys, on a cluster of its own.

use std::sync::Arc;

use anyhow::Result;
use pgbaton_tests::arena::Arena;
use pgbaton_tests::scenario::{self, Played, Scenario};
use pgbaton_tests::screen::Screen;
use xtask::cluster::{Cluster, Spec};

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_barrier_no_consumer_sees_what_a_lost_leader_took_with_it() -> Result<()> {
    let raise = || {
        xtask::setup::ensure_done()?;
        let spec = Spec { proxied: true, ..Scenario::BarrierLaggingFailover.spec("standby-barrier".into()) };
        let guard = Cluster::up_for_test(&spec)?;
        anyhow::Ok((Arc::new(Arena::stand_in(guard.clone())?), guard))
    };
    let (arena, _guard) = tokio::task::spawn_blocking(raise).await??;
    let Played { facts, failure, outcome, .. } =
        scenario::perform(&arena, Scenario::BarrierLaggingFailover, &Screen::new()).await?;
    assert_eq!(failure, None, "{facts:?}");
    assert!(outcome.verdict.is_clean(), "{}\n{:?}", outcome.verdict, outcome.load);
    assert!(outcome.verdict.written > 0 && outcome.samples > 0);
    assert_eq!(outcome.lies, Vec::<String>::new());
    Ok(())
}
