//! Eight workers for one pipeline, on a cluster of their own.

use std::sync::Arc;

use anyhow::Result;
use pgbaton_tests::arena::Arena;
use pgbaton_tests::scenario::{self, Played, Scenario};
use pgbaton_tests::screen::Screen;
use xtask::cluster::{Cluster, Spec};

#[tokio::test(flavor = "multi_thread")]
async fn of_eight_workers_that_start_at_once_one_streams_and_one_follows_it() -> Result<()> {
    let raise = || {
        xtask::setup::ensure_done()?;
        let spec = Spec { proxied: true, ..Scenario::EightWorkers.spec("eight-workers".into()) };
        let guard = Cluster::up_for_test(&spec)?;
        anyhow::Ok((Arc::new(Arena::stand_in(guard.clone())?), guard))
    };
    let (arena, _guard) = tokio::task::spawn_blocking(raise).await??;
    let Played { facts, failure, outcome, .. } =
        scenario::perform(&arena, Scenario::EightWorkers, &Screen::new()).await?;
    assert_eq!(failure, None, "{facts:?}");
    assert!(outcome.verdict.is_clean(), "{}\n{:?}", outcome.verdict, outcome.load);
    assert!(outcome.verdict.written > 0 && outcome.samples > 0);
    assert_eq!(outcome.lies, Vec::<String>::new());
    Ok(())
}
