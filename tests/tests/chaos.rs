//! The short setting of `cargo xtask chaos`: another seed each time, which a failure tells.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use pgbaton_tests::arena::Arena;
use pgbaton_tests::chaos::{self, Options};
use pgbaton_tests::screen::Screen;
use xtask::cluster::{Cluster, Spec};

const LASTS: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn two_minutes_of_chaos_lose_double_and_invent_nothing() -> Result<()> {
    let raise = || {
        xtask::setup::ensure_done()?;
        let spec = Spec { instance: "chaos-test".into(), workers: 3, brokers: 3, proxied: true, ..Spec::default() };
        let guard = Cluster::up_for_test(&spec)?;
        anyhow::Ok((Arena::stand_in(guard.clone())?, guard))
    };
    let (arena, _guard) = tokio::task::spawn_blocking(raise).await??;
    let options = Options { lasts: LASTS, seed: fastrand::u64(..1_000_000) };
    let run = chaos::run(&Arc::new(arena), options, &Screen::new()).await?;
    let (verdict, faults) = (&run.outcome.verdict, &run.struck);
    assert!(run.is_clean(), "{options:?}\n{verdict}\n{:?}\n{:?}\n{faults:#?}", run.troubles, run.outcome.lies);
    assert!(faults.len() > 5 && verdict.written > 0, "{faults:?}");
    Ok(())
}
