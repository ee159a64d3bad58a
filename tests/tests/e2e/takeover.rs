//! The worker that streams dies, stands still or leaves; the database changes its leader.

use anyhow::Result;
use pgbaton_tests::stage::{Fault, Takeover};

use crate::Alone;

/// The lease lasts 10 s: whoever waited for it to end takes longer than this.
const SOONER_THAN_THE_LEASE_MS: u64 = 9_000;

async fn suffer(fault: Fault) -> Result<(Alone, Takeover)> {
    let alone = Alone::open().await?;
    let takeover = alone.stage.suffer(fault).await?;
    eprintln!("{fault}: {takeover:?}");
    Ok((alone, takeover))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_replaced_before_its_lease_ends_and_nothing_is_lost() -> Result<()> {
    let (alone, takeover) = suffer(Fault::KillActive).await?;
    assert!(takeover.owner_changed && takeover.to.term > takeover.from.term, "{takeover:?}");
    assert!(takeover.ms < SOONER_THAN_THE_LEASE_MS, "{takeover:?}");
    alone.ends_well().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_after_twenty_seconds_finds_itself_replaced_and_harms_nothing() -> Result<()> {
    let (alone, takeover) = suffer(Fault::FreezeActive).await?;
    assert!(takeover.owner_changed && takeover.to.term > takeover.from.term, "{takeover:?}");
    assert!(takeover.ms < SOONER_THAN_THE_LEASE_MS, "{takeover:?}");
    alone.ends_well().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_worker_hands_over_at_once() -> Result<()> {
    let (alone, takeover) = suffer(Fault::TermActive).await?;
    assert!(takeover.owner_changed, "{takeover:?}");
    assert!(takeover.ms < 5_000, "a lease was waited for: {takeover:?}");
    alone.ends_well().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_of_the_database_changes_the_timeline_and_not_the_owner() -> Result<()> {
    let (alone, takeover) = suffer(Fault::Switchover).await?;
    assert!(!takeover.owner_changed, "{takeover:?}");
    assert!(takeover.to.timeline > takeover.from.timeline && takeover.to.term > takeover.from.term, "{takeover:?}");
    alone.ends_well().await.map(drop)
}
