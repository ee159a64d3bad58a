//! The worker that streams has lost a way to something that the others still reach.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Play, Standing};
use crate::chaos::fault::Blow;
use crate::database::Connection;
use crate::http;
use crate::proxy::Trouble;
use crate::stage::RECOVERY;

/// Longer than every time-out of a worker.
const LASTS: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(2);
/// A topic that cannot be made is given up after 4 s.
const AT_ONCE: Duration = Duration::from_secs(1);

pub(super) async fn deaf_to_postgres(play: &mut Play) -> Result<()> {
    disturbed(play, "haproxy", Trouble::ServerUnheard, LASTS).await
}

pub(super) async fn unheard_by_postgres(play: &mut Play) -> Result<()> {
    disturbed(play, "haproxy", Trouble::ClientUnheard, LASTS).await
}

pub(super) async fn cut_from_postgres(play: &mut Play) -> Result<()> {
    disturbed(play, "haproxy", Trouble::Cut, LASTS).await
}

pub(super) async fn cut_from_kafka(play: &mut Play) -> Result<()> {
    disturbed(play, "kafka-", Trouble::Cut, LASTS).await
}

pub(super) async fn cut_from_etcd(play: &mut Play) -> Result<()> {
    disturbed(play, "etcd-", Trouble::Cut, LASTS).await
}

pub(super) async fn black_hole(play: &mut Play) -> Result<()> {
    disturbed(play, "", Trouble::BlackHole, LASTS).await
}

/// Whoever waits for Kafka reads on: that the stream has ended is told at once, and not when Kafka is given up.
pub(super) async fn cut_as_a_topic_is_made(play: &mut Play) -> Result<()> {
    let (before, target) = (play.stage.standing().await?, play.stage.target().clone());
    let url = target.workers.iter().find(|(name, _)| *name == before.worker).context("no such worker")?.1.clone();
    let ways = |to: &str| [format!("{}/{to}", before.worker)];
    // Writers wait, so that no commit is under way that would be waited for first.
    let writers = play.hold_writers().await?;
    until(RECOVERY, "nothing is in flight", async || {
        let status = http::get(&format!("{url}/status"), ANSWER).await.map(|answer| answer.json());
        Ok(status.is_some_and(|status| status["pipelines"][&target.pipeline]["lag"]["seconds"] == 0.0))
    })
    .await?;
    let hanging = play.strike(Blow::Trouble(Trouble::BlackHole), &ways("kafka-")).await?;
    play.says("Kafka hangs for the worker that streams; a table is new");
    let new_table = "create table load_late (id bigint primary key, note text); call lab.adopt('load_late', 'id');
                     insert into load_late values (1, 'its topic has to be made')";
    Connection::open(&target.app, ANSWER).await?.batch_execute(new_table).await?;
    let sent = "select r.sent_lsn = pg_current_wal_lsn() from pg_replication_slots s join pg_stat_replication r on r.pid = s.active_pid
                where s.slot_name = $1::text";
    let sees = Connection::open(&target.admin, ANSWER).await?;
    until(RECOVERY, "the row was sent", async || {
        let row = sees.query_opt(sent, &[&target.slot]).await?;
        Ok(row.and_then(|row| row.get::<_, Option<bool>>(0)) == Some(true))
    })
    .await?;
    let (cut, begun) = (play.strike(Blow::Trouble(Trouble::Cut), &ways("haproxy")).await?, Instant::now());
    until(RECOVERY, "the worker says that it does not stream", async || {
        let active = http::get(&format!("{url}/active"), ANSWER).await;
        Ok(active.is_none_or(|answer| answer.status != 200))
    })
    .await?;
    play.fact("told_after_ms", u64::try_from(begun.elapsed().as_millis())?);
    play.ensure(begun.elapsed() < AT_ONCE, "it said that it streams long after its stream was cut")?;
    play.heal(&cut).await?;
    play.heal(&hanging).await?;
    let since = Instant::now();
    writers.batch_execute("rollback").await?;
    play.flows_again(since, &before).await
}

async fn until(limit: Duration, what: &str, holds: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    while !holds().await? {
        ensure!(Instant::now() < end, "waited {limit:?} until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

pub(super) async fn late_end(play: &mut Play) -> Result<()> {
    let late = Trouble::LateEnd(Duration::from_secs(3));
    let (before, since) = trouble(play, "kafka-", late, Duration::from_secs(20)).await?;
    // Whoever has seen an end go wrong begins a new session: many of them, and all the same worker's.
    let now = play.comes_back(since, &before).await?;
    play.ensure(now.worker == before.worker, "the owner changed, though its lease was never in doubt")
}

/// Troubles the ways of the worker that streams for a while. Rows flow again, during it or afterwards; when is a fact.
async fn disturbed(play: &mut Play, to: &str, what: Trouble, lasts: Duration) -> Result<()> {
    let (before, since) = trouble(play, to, what, lasts).await?;
    play.flows_again(since, &before).await
}

/// Troubles them; answers with who streamed before, and from when on rows count that flow again.
async fn trouble(play: &mut Play, to: &str, what: Trouble, lasts: Duration) -> Result<(Standing, Instant)> {
    let (before, since) = (play.stage.standing().await?, Instant::now());
    let troubled = play.strike(Blow::Trouble(what), &[format!("{}/{to}", before.worker)]).await?;
    let codes = codes(to, what);
    if !codes.is_empty() {
        let struck = [before.worker.clone()];
        play.is_named(&format!("{what} {}/{to}", before.worker), &struck, codes, lasts).await;
    }
    let left = (since + lasts).saturating_duration_since(Instant::now());
    let meanwhile = play.stage.watcher().first(since + Duration::from_secs(1), 0, left).await;
    tokio::time::sleep_until((since + lasts).into()).await;
    play.fact("flowed_meanwhile", meanwhile.is_some());
    play.heal(&troubled).await?;
    Ok((before, since + Duration::from_secs(1)))
}

/// What the worker has to say that has lost this way; nothing where its sessions only end sooner.
fn codes(to: &str, what: Trouble) -> &'static [&'static str] {
    match to {
        _ if matches!(what, Trouble::LateEnd(_)) => &[],
        "haproxy" => &["postgres_unreachable"],
        "kafka-" => &["kafka_unreachable", "sink_stalled"],
        "etcd-" => &["etcd_unreachable"],
        _ => &["postgres_unreachable", "kafka_unreachable", "sink_stalled", "etcd_unreachable"],
    }
}
