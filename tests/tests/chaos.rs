//! The short setting of `cargo xtask chaos`: another seed each time, which a failure tells.

use std::time::Duration;

use anyhow::Result;
use pgbaton_tests::arena::Arena;
use pgbaton_tests::chaos::{self, Options};
use pgbaton_tests::screen::Screen;
use xtask::cluster::Spec;

const LASTS: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn two_minutes_of_chaos_lose_double_and_invent_nothing() -> Result<()> {
    let spec = Spec { instance: "chaos-test".into(), workers: 3, brokers: 3, ..Spec::default() };
    let (arena, _guard) = Arena::for_test(spec).await?;
    let options = Options { lasts: LASTS, seed: fastrand::u64(..1_000_000) };
    let run = chaos::run(&arena, options, &Screen::new()).await?;
    let (verdict, faults) = (&run.outcome.verdict, &run.struck);
    assert!(run.is_clean(), "{options:?}\n{verdict}\n{:?}\n{:?}\n{faults:#?}", run.troubles, run.outcome.lies);
    assert!(faults.len() > 5 && verdict.written > 0, "{faults:?}");
    Ok(())
}
