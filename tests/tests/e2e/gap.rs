//! Never a silent gap: whatever is done to the slot, the pipeline stops, says what is missing, and tells nothing beyond it.

use std::time::Duration;

use anyhow::{Context, Result};
use pgbaton_tests::check::event::parse_lsn;
use serde_json::Value;

use crate::own::Own;
use crate::shared;

const QUARANTINE: Duration = Duration::from_secs(10);
/// A quarantined worker looks again every 10 s: a cause that changed meanwhile is named by then.
const LOOKED_AGAIN: Duration = Duration::from_secs(25);

async fn quarantined(own: &Own, code: &str, limit: Duration) -> Result<Value> {
    let wanted = |status: &Value| status["role"] == "quarantined" && status["gap"]["code"] == code;
    let status = own.until(&format!("quarantine by {code}"), limit, wanted).await?;
    Ok(status["gap"].clone())
}

/// Ten rows are told; what is inserted after the fault never is. `end` lies behind the last row that is missing.
async fn halted(own: &Own, gap: &Value, missing: [String; 2]) -> Result<()> {
    let lsn = |text: &Value| text.as_str().and_then(parse_lsn).with_context(|| format!("no LSN: {gap}"));
    let [first, last] = missing.map(|text| parse_lsn(&text).unwrap_or(0));
    assert!(lsn(&gap["from_lsn"])? <= first, "the gap {gap} begins after the first missing row");
    if !gap["to_lsn"].is_null() {
        assert!(lsn(&gap["to_lsn"])? >= last, "the gap {gap} ends before the last missing row");
    }
    own.insert(31..=40).await?;
    quarantined(own, gap["code"].as_str().context("no code")?, LOOKED_AGAIN).await?;
    let mut told = own.told().await?;
    told.sort_unstable();
    assert_eq!(told, (1..=10).collect::<Vec<_>>(), "something was told beyond the gap");
    assert!(own.statuses().await.iter().all(|status| status["role"] != "active"));
    Ok(())
}

async fn streaming(own: &mut Own) -> Result<()> {
    own.make_slot("pgoutput").await?;
    own.start().await?;
    own.insert(1..=10).await?;
    own.until_told(10).await
}

async fn now(own: &Own) -> Result<String> {
    own.sql("select pg_current_wal_lsn()".into()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_slot_is_a_gap_and_is_not_made_again() -> Result<()> {
    let shared = shared().await?;
    let mut own = Own::new(&shared.cluster, "slot_dropped").await?;
    streaming(&mut own).await?;
    own.seize_slot("perform pg_drop_replication_slot('slot_dropped')").await?;
    let first = now(&own).await?;
    own.insert(11..=20).await?;
    let gap = quarantined(&own, "slot_missing", QUARANTINE).await?;
    halted(&own, &gap, [first.clone(), first]).await?;
    let slots = own.sql("select count(*) from pg_replication_slots where slot_name = 'slot_dropped'".into()).await?;
    assert_eq!(slots, "0", "somebody made the slot again");
    own.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_dropped_and_made_again_is_a_gap_with_its_range() -> Result<()> {
    let shared = shared().await?;
    let mut own = Own::new(&shared.cluster, "slot_again").await?;
    streaming(&mut own).await?;
    own.seize_slot("perform pg_drop_replication_slot('slot_again')").await?;
    let first = now(&own).await?;
    own.insert(11..=20).await?;
    let last = now(&own).await?;
    own.sql("select pg_create_logical_replication_slot('slot_again', 'pgoutput')".into()).await?;
    own.insert(21..=30).await?;
    // The moment without a slot may have been seen first.
    own.until("quarantine", QUARANTINE, |status| status["role"] == "quarantined").await?;
    let gap = quarantined(&own, "slot_ahead", LOOKED_AGAIN).await?;
    halted(&own, &gap, [first, last]).await?;
    own.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_advanced_by_hand_is_a_gap_with_its_range() -> Result<()> {
    let shared = shared().await?;
    let mut own = Own::new(&shared.cluster, "slot_advanced").await?;
    streaming(&mut own).await?;
    for (worker, _) in own.workers.clone() {
        crate::act_on(&own.cluster, move |cluster| cluster.term(&worker)).await?;
    }
    let first = now(&own).await?;
    own.insert(11..=20).await?;
    let last = now(&own).await?;
    own.sql("select pg_replication_slot_advance('slot_advanced', pg_current_wal_lsn())".into()).await?;
    for (worker, _) in own.workers.clone() {
        crate::act_on(&own.cluster, move |cluster| cluster.start(&worker)).await?;
    }
    let gap = quarantined(&own, "slot_ahead", QUARANTINE).await?;
    halted(&own, &gap, [first, last]).await?;
    own.end().await
}
