//! Never a silent gap: whatever is done to the slot or to the publication, the pipeline stops within 10 s, says what is missing,
//! and tells nothing beyond it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::ClientConfig;
use rdkafka::types::RDKafkaErrorCode;
use serde_json::Value;
use xtask::cluster::Cluster;

use super::{Play, naming};
use crate::check::event::parse_lsn;
use crate::check::staged::{Gap, Timed};
use crate::http;
use crate::own::Own;

const QUARANTINE: Duration = Duration::from_secs(10);
/// A quarantined worker looks again every 10 s: a cause that changed meanwhile is named by then.
const LOOKED_AGAIN: Duration = Duration::from_secs(25);
/// The next look at the topics, two that agree 10 s apart, and a busy machine.
const TOPIC_SEEN: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) async fn dropped_slot(play: &mut Play) -> Result<()> {
    let (own, before_last) = play.streaming("slot_dropped").await?;
    own.seize_slot("perform pg_drop_replication_slot('slot_dropped')").await?;
    let since = Instant::now();
    let missing = missing(&own, 11..=20).await?;
    let halt = quarantined(play, &own, &["slot_missing"], since, QUARANTINE).await?;
    halted(play, own, halt, Truth { missing, before_last, next: None }).await?;
    let count = "select count(*) from pg_replication_slots where slot_name = 'slot_dropped'";
    let slots = play.act(|cluster| cluster.sql(None, count)).await?;
    play.ensure(slots == "0", "somebody made the slot again")
}

pub(super) async fn recreated_slot(play: &mut Play) -> Result<()> {
    let (own, before_last) = play.streaming("slot_again").await?;
    own.seize_slot("perform pg_drop_replication_slot('slot_again')").await?;
    let since = Instant::now();
    let missing = missing(&own, 11..=20).await?;
    own.sql("select pg_create_logical_replication_slot('slot_again', 'pgoutput')".into()).await?;
    own.insert(21..=21).await?;
    let next = Some(own.wal_end().await?);
    own.insert(22..=30).await?;
    // The moment without a slot may have been seen first.
    let first = quarantined(play, &own, &["slot_missing", "slot_ahead"], since, QUARANTINE).await?;
    let then = quarantined(play, &own, &["slot_ahead"], since, LOOKED_AGAIN).await?;
    play.ensure(then.took.in_time(), "the cause that changed meanwhile was not named in time")?;
    halted(play, own, Halt { took: first.took, ..then }, Truth { missing, before_last, next }).await
}

pub(super) async fn advanced_slot(play: &mut Play) -> Result<()> {
    let (own, before_last) = play.streaming("slot_advanced").await?;
    workers(&own, Cluster::term).await?;
    let missing = missing(&own, 11..=20).await?;
    own.sql("select pg_replication_slot_advance('slot_advanced', pg_current_wal_lsn())".into()).await?;
    let since = Instant::now();
    workers(&own, Cluster::start).await?;
    let halt = quarantined(play, &own, &["slot_ahead"], since, QUARANTINE).await?;
    halted(play, own, halt, Truth { missing, before_last, next: None }).await
}

/// The slot falls so far behind that its WAL is removed, while the slot of the pipeline under load keeps up.
pub(super) async fn lost_slot(play: &mut Play) -> Result<()> {
    let (own, before_last) = play.streaming("slot_lost").await?;
    workers(&own, Cluster::term).await?;
    let missing = missing(&own, 11..=20).await?;
    own.sql("alter system set max_slot_wal_keep_size = '64MB'".into()).await?;
    own.sql("select pg_reload_conf()".into()).await?;
    let status = "select wal_status from pg_replication_slots where slot_name = 'slot_lost'";
    let end = Instant::now() + PATIENCE;
    while own.sql(status.into()).await? != "lost" {
        ensure!(Instant::now() < end, "the slot is not lost within {PATIENCE:?}");
        let here = own.sql("select pg_switch_wal()".into()).await?;
        // The slot of the load must not be lost, too: it goes on from a checkpoint after what it has read.
        let passed = format!("select restart_lsn > '{here}' from pg_replication_slots where slot_name = 'orders'");
        while own.sql(passed.clone()).await? != "t" {
            ensure!(Instant::now() < end, "the slot of the load does not go on");
            own.sql("checkpoint".into()).await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    own.sql("alter system reset max_slot_wal_keep_size".into()).await?;
    own.sql("select pg_reload_conf()".into()).await?;
    play.says("the slot is lost; the workers come back");
    let since = Instant::now();
    workers(&own, Cluster::start).await?;
    let halt = quarantined(play, &own, &["slot_lost"], since, QUARANTINE).await?;
    halted(play, own, halt, Truth { missing, before_last, next: None }).await
}

/// PostgreSQL 18 invalidates a slot that nobody has used for a while.
pub(super) async fn invalidated_slot(play: &mut Play) -> Result<()> {
    let (own, before_last) = play.streaming("slot_idle").await?;
    workers(&own, Cluster::term).await?;
    let missing = missing(&own, 11..=20).await?;
    own.sql("alter system set idle_replication_slot_timeout = '2s'".into()).await?;
    own.sql("select pg_reload_conf()".into()).await?;
    let reason = "select invalidation_reason from pg_replication_slots where slot_name = 'slot_idle'";
    let end = Instant::now() + PATIENCE;
    while own.sql(reason.into()).await? != "idle_timeout" {
        ensure!(Instant::now() < end, "the slot is not invalidated within {PATIENCE:?}");
        own.sql("checkpoint".into()).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    own.sql("alter system reset idle_replication_slot_timeout".into()).await?;
    own.sql("select pg_reload_conf()".into()).await?;
    play.says("the slot is invalidated; the workers come back");
    let since = Instant::now();
    workers(&own, Cluster::start).await?;
    let halt = quarantined(play, &own, &["slot_invalidated"], since, QUARANTINE).await?;
    halted(play, own, halt, Truth { missing, before_last, next: None }).await
}

/// What is written while there is no publication is in no stream.
pub(super) async fn publication_dropped(play: &mut Play) -> Result<()> {
    let (own, before_last) = play.streaming("publication_gone").await?;
    own.sql("drop publication publication_gone".into()).await?;
    let since = Instant::now();
    let missing = missing(&own, 11..=20).await?;
    let first = quarantined(play, &own, &["publication_missing", "publication_changed"], since, QUARANTINE).await?;
    own.sql("create publication publication_gone for table publication_gone".into()).await?;
    let then = quarantined(play, &own, &["publication_missing", "publication_changed"], since, LOOKED_AGAIN).await?;
    halted(play, own, Halt { took: first.took, ..then }, Truth { missing, before_last, next: None }).await
}

/// Consumers of a topic that was made again do not find what was in the one before.
pub(super) async fn topic_recreated(play: &mut Play) -> Result<()> {
    let (own, _) = play.streaming("topic_again").await?;
    let (bootstrap, topic) = (own.cluster.kafka_bootstrap()?, "topic_again.public.topic_again");
    tokio::task::spawn_blocking(move || make_again(&bootstrap, topic)).await??;
    let since = Instant::now();
    own.insert(11..=20).await?;
    let halt = quarantined(play, &own, &["topic_recreated"], since, TOPIC_SEEN).await?;
    play.ensure(halt.took.in_time(), "the new topic was not noticed in time")?;
    let text = halt.gap["text"].as_str().unwrap_or_default();
    play.ensure(text.contains(topic), "the gap does not name the topic")?;

    let url = format!("{}/api/v1/pipelines/{}/gap/accept", own.workers[0].1, own.name);
    let answer = http::request("POST", &url, "{}", PATIENCE).await.context("no answer")?;
    ensure!(answer.status == 202, "accepting was refused: {}", answer.body);
    own.until("a worker to stream", PATIENCE, |status| status["role"] == "active").await?;
    own.insert(21..=30).await?;
    let end = Instant::now() + PATIENCE;
    while !own.told().await?.contains(&30) {
        ensure!(Instant::now() < end, "the stream does not go on behind the gap");
    }
    let mut told = own.told().await?;
    told.sort_unstable();
    play.fact("rows_told", told.len());
    play.ensure(told.iter().copied().eq(11..=30), "what was written to the new topic is lost or doubled")?;
    own.end().await
}

/// Deletes a topic and makes it again with as many partitions.
fn make_again(bootstrap: &str, topic: &str) -> Result<()> {
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let metadata = admin.inner().fetch_metadata(Some(topic), PATIENCE)?;
    let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    let new = NewTopic::new(topic, i32::try_from(partitions)?, TopicReplication::Fixed(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let deleted = admin.delete_topics(&[topic], &options).await?;
        ensure!(deleted.iter().all(Result::is_ok), "the topic is not deleted: {deleted:?}");
        // Whoever writes to it may have made it first.
        let made = admin.create_topics([&new], &options).await?;
        let is_made = |made: &Result<_, _>| matches!(made, Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)));
        ensure!(made.iter().all(is_made), "the topic is not made again: {made:?}");
        Ok(())
    })
}

async fn workers(own: &Own, act: fn(&Cluster, &str) -> Result<()>) -> Result<()> {
    for (worker, _) in own.workers.clone() {
        let cluster = own.cluster.clone();
        tokio::task::spawn_blocking(move || act(&cluster, &worker)).await??;
    }
    Ok(())
}

/// Writes rows that nobody will tell; where the WAL was before and after.
async fn missing(own: &Own, rows: std::ops::RangeInclusive<u32>) -> Result<[u64; 2]> {
    let first = own.wal_end().await?;
    own.insert(rows).await?;
    Ok([first, own.wal_end().await?])
}

/// What a worker in quarantine says, and how long it took.
struct Halt {
    gap: Value,
    took: Timed,
}

/// Waits until a worker is in quarantine with one of these codes, which is to be seen within `limit` from `since`; its metrics say
/// so, too.
async fn quarantined(play: &mut Play, own: &Own, codes: &[&str], since: Instant, limit: Duration) -> Result<Halt> {
    let wanted = |status: &Value| {
        status["role"] == "quarantined" && status["gap"]["code"].as_str().is_some_and(|code| codes.contains(&code))
    };
    let gap = own.until(&format!("quarantine by {}", codes.join(" or ")), PATIENCE, wanted).await?["gap"].clone();
    let ms = u64::try_from(since.elapsed().as_millis())?;
    play.fact("gap", &gap);
    play.fact("quarantined_after_ms", ms);
    let named = naming::any(&own.workers, own.name, own.name, codes, LOOKED_AGAIN).await;
    play.stage.note(|staged| staged.named.extend(named));
    let took = Timed { what: own.name.into(), ms, within_ms: u64::try_from(limit.as_millis())? };
    Ok(Halt { gap, took })
}

/// What a gap has to be reported as: everything behind the first of `missing` up to the second is missing, the last row that was told
/// lies behind `before_last`, and the next row that is told when all goes on lies before `next`.
struct Truth {
    missing: [u64; 2],
    before_last: u64,
    next: Option<u64>,
}

/// Ten rows are told; what is inserted after the fault never is, and no worker streams. What was reported is the checker's to judge.
async fn halted(play: &mut Play, own: Own, halt: Halt, truth: Truth) -> Result<()> {
    let Halt { gap, took } = halt;
    let code = gap["code"].as_str().context("no code")?.to_owned();
    let next = match truth.next {
        Some(next) => next,
        None => own.wal_end().await?,
    };
    own.insert(31..=40).await?;
    let still = |status: &Value| status["role"] == "quarantined" && status["gap"]["code"] == code.as_str();
    own.until("the quarantine to last", LOOKED_AGAIN, still).await?;
    let mut told = own.told().await?;
    told.sort_unstable();
    play.fact("rows_told", told.len());
    let lsn = |text: &Value| text.as_str().and_then(parse_lsn);
    let judged = Gap {
        pipeline: own.name.into(),
        code,
        took,
        missing: truth.missing,
        reported: [lsn(&gap["from_lsn"]), lsn(&gap["to_lsn"])],
        widest: [truth.before_last, next],
        told_beyond: told.iter().filter(|id| **id > 10).count() as u64,
    };
    play.stage.note(|staged| staged.gaps.push(judged));
    play.ensure(told.iter().copied().filter(|id| *id <= 10).eq(1..=10), "what was told before the gap has changed")?;
    let active = own.statuses().await.iter().any(|status| status["role"] == "active");
    play.ensure(!active, "a worker streams beyond the gap")?;
    own.end().await
}
