//! Scenarios that need another cluster than all others do.

use anyhow::{Result, bail};
use pgbaton_tests::arena::Arena;
use pgbaton_tests::scenario::{self, Scenario};
use pgbaton_tests::screen::Screen;
use tokio::sync::Mutex;

/// One cluster at a time.
static TURN: Mutex<()> = Mutex::const_new(());

async fn plays(scenario: Scenario) -> Result<()> {
    let _turn = TURN.lock().await;
    let (arena, _guard) = Arena::for_test(scenario.spec(scenario.name())).await?;
    let played = scenario::perform(&arena, scenario, &Screen::new()).await?;
    played.complaint().map_or(Ok(()), |complaint| bail!(complaint))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_eight_workers_that_start_at_once_one_streams_and_one_follows_it() -> Result<()> {
    plays(Scenario::EightWorkers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_barrier_no_consumer_sees_what_a_lost_leader_took_with_it() -> Result<()> {
    plays(Scenario::BarrierLaggingFailover).await
}
