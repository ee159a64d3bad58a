//! The worker that streams has lost a way to something that the others still reach.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Play, Standing};
use crate::chaos::fault::Blow;
use crate::proxy::Trouble;

/// Longer than every time-out of a worker.
const LASTS: Duration = Duration::from_secs(30);

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
