//! What must come of each failure. The failures are the scenarios that anybody can play with `cargo xtask scenario`.

use anyhow::{Result, bail};
use pgbaton_tests::scenario::{self, Played, Scenario};
use pgbaton_tests::screen::Screen;

use crate::Alone;

/// Plays it: nothing is lost, doubled or invented, nobody lied, and all came as it must.
async fn plays(scenario: Scenario) -> Result<Played> {
    let mut alone = Alone::open().await?;
    let played = scenario::perform(&alone.ground.arena, scenario, &Screen::new()).await?;
    if let Some(complaint) = played.complaint() {
        bail!(complaint);
    }
    alone.words.wanted = false;
    Ok(played)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_replaced_before_its_lease_ends_and_nothing_is_lost() -> Result<()> {
    plays(Scenario::KillActive).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_without_etcd_survives_a_kill_a_switchover_and_a_stop_by_slot_and_claim_alone() -> Result<()> {
    plays(Scenario::NoEtcdPair).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_four_pipelines_and_nothing_moves_by_itself() -> Result<()> {
    plays(Scenario::SharedPipelines).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_after_twenty_seconds_finds_itself_replaced_and_harms_nothing() -> Result<()> {
    plays(Scenario::FreezeActive).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_worker_hands_over_at_once() -> Result<()> {
    plays(Scenario::StopActive).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_inside_a_large_transaction_leaves_the_rest_of_it_to_the_next() -> Result<()> {
    plays(Scenario::KillInLargeTransaction).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_of_the_database_changes_the_timeline_and_not_the_owner() -> Result<()> {
    plays(Scenario::Switchover).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_leader_took_with_it_is_marked_and_told_apart() -> Result<()> {
    let played = plays(Scenario::LaggingFailover).await?;
    assert!(played.outcome.verdict.phantoms.marked > 0, "the fault took nothing with it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_stop_of_the_leader_does_not_wait_for_us() -> Result<()> {
    plays(Scenario::FastStop).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_stop_of_the_leader_does_not_wait_for_us_while_kafka_hangs() -> Result<()> {
    plays(Scenario::FastStopWithKafkaDown).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_kafka_that_comes_back_gets_everything_once() -> Result<()> {
    plays(Scenario::KafkaOutage).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn through_an_outage_of_etcd_the_stream_goes_on_with_the_same_owner() -> Result<()> {
    plays(Scenario::EtcdOutage).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_any_one_etcd_member_changes_neither_owner_nor_session() -> Result<()> {
    plays(Scenario::EtcdMembers).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_slot_is_a_gap_and_is_not_made_again() -> Result<()> {
    plays(Scenario::DroppedSlot).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_dropped_and_made_again_is_a_gap_with_its_range() -> Result<()> {
    plays(Scenario::RecreatedSlot).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_advanced_by_hand_is_a_gap_with_its_range() -> Result<()> {
    plays(Scenario::AdvancedSlot).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_wal_was_removed_is_a_gap() -> Result<()> {
    plays(Scenario::LostSlot).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_while_kafka_is_waited_for_is_told_at_once() -> Result<()> {
    plays(Scenario::CutAsATopicIsMade).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_late_end_of_a_kafka_transaction_tears_nothing() -> Result<()> {
    plays(Scenario::LateEnd).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_writes_into_the_topics_is_named_by_the_standby_within_seconds() -> Result<()> {
    plays(Scenario::ForgedRecords).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_deleted_and_made_again_is_a_gap_that_can_be_accepted() -> Result<()> {
    plays(Scenario::TopicRecreated).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_is_not_kept_for_an_idle_slot() -> Result<()> {
    plays(Scenario::IdleForeignWal).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_slow_clients_delay_neither_health_nor_rows() -> Result<()> {
    plays(Scenario::SlowClients).await.map(drop)
}
