//! The worker that streams dies, stands still or leaves.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Play;
use crate::chaos::fault::Blow;
use crate::check::staged::{Timed, now_ms};
use crate::http;
use crate::own::Own;
use crate::stage::{Fault, RECOVERY, Standing, Takeover};

/// The lease lasts 10 s: whoever waited for it to end takes longer than this.
const SOONER_THAN_THE_LEASE_MS: u64 = 9_000;
/// A hand-over waits for no lease.
const HAND_OVER_MS: u64 = 5_000;
/// Transactions in which nobody else may claim.
const STEADY: u64 = 1_000;
const ROWS: u64 = 100_000;
const ANSWER: Duration = Duration::from_secs(5);

fn is_replaced(takeover: &Takeover) -> Result<()> {
    ensure!(takeover.owner_changed && takeover.to.term > takeover.from.term, "nobody took over: {takeover:?}");
    Ok(())
}

/// The same, and there is a time that it may take.
fn is_replaced_within(play: &Play, takeover: &Takeover, within_ms: u64) -> Result<()> {
    let timed = Timed { what: format!("the takeover after {}", takeover.fault), ms: takeover.ms, within_ms };
    play.stage.note(|staged| staged.takeovers.push((now_ms(), timed)));
    is_replaced(takeover)
}

pub(super) async fn kill_active(play: &mut Play) -> Result<()> {
    let takeover = play.suffer(Fault::KillActive).await?;
    is_replaced_within(play, &takeover, SOONER_THAN_THE_LEASE_MS)
}

/// Nobody takes anything from a holder that only its lease keeps others away from.
pub(super) async fn kill_active_without_a_fence(play: &mut Play) -> Result<()> {
    let takeover = play.suffer(Fault::KillActive).await?;
    is_replaced(&takeover)?;
    let (_, url) = play.stage.target().workers.iter().find(|(name, _)| *name == takeover.to.worker).context("gone")?;
    let status = http::get(&format!("{url}/status"), ANSWER).await.context("the new holder does not answer")?.json();
    let pipeline = status["pipelines"][&play.stage.target().pipeline].clone();
    play.fact("cause", &pipeline["last_switch"]["cause"]);
    play.fact("repeats_from", &pipeline["sink"]["repeats_from"]);
    play.ensure(pipeline["last_switch"]["cause"] == "lease_expired", "the lease was not waited for")?;
    play.ensure(pipeline["sink"]["delivery"] == "at-least-once", "it says another delivery")?;
    play.ensure(pipeline["sink"]["repeats_from"]["lsn"].is_string(), "it does not say what may come twice")
}

pub(super) async fn freeze_active(play: &mut Play) -> Result<()> {
    let takeover = play.suffer(Fault::FreezeActive).await?;
    is_replaced_within(play, &takeover, SOONER_THAN_THE_LEASE_MS)
}

pub(super) async fn stop_active(play: &mut Play) -> Result<()> {
    let takeover = play.suffer(Fault::TermActive).await?;
    is_replaced_within(play, &takeover, HAND_OVER_MS)
}

pub(super) async fn kill_all(play: &mut Play) -> Result<()> {
    let (before, workers) = (play.stage.standing().await?, play.nodes("worker-")?);
    let since = Instant::now();
    let killed = play.strike(Blow::Kill, &workers).await?;
    play.while_written(100).await;
    play.heal(&killed).await?;
    play.flows_again(since, &before).await
}

/// Whoever comes first streams, and the seven others leave it alone.
pub(super) async fn eight_workers(play: &mut Play) -> Result<()> {
    let (before, workers) = (play.stage.standing().await?, play.nodes("worker-")?);
    ensure!(workers.len() == 8, "there are not eight workers");
    let killed = play.strike(Blow::Kill, &workers).await?;
    play.while_written(100).await;
    let since = Instant::now();
    play.heal(&killed).await?;
    let first = settles(play, since, &before).await?;

    let since = Instant::now();
    let killed = play.strike(Blow::Kill, std::slice::from_ref(&first.worker)).await?;
    let second = settles(play, since, &first).await?;
    ensure!(second.worker != first.worker, "the dead one streams");
    for (name, url) in &play.stage.target().workers {
        if [&first.worker, &second.worker].contains(&name) {
            continue;
        }
        play.stage.stands_by(name).await?;
        let status = http::get(&format!("{url}/status"), ANSWER).await.context("no status")?.json();
        let switch = &status["pipelines"][&play.stage.target().pipeline]["last_switch"];
        ensure!(switch.is_null(), "{name} has streamed, too: {switch}");
    }
    play.heal(&killed).await
}

/// The same worker streams while many transactions are written and one more is told.
async fn settles(play: &mut Play, since: Instant, before: &Standing) -> Result<Standing> {
    let now = play.comes_back(since, before).await?;
    play.while_written(STEADY).await;
    play.stage.flows().await?;
    let still = play.stage.standing().await?;
    play.fact("after_many_transactions", &still);
    ensure!(still.worker == now.worker, "{} was replaced by {}", now.worker, still.worker);
    Ok(still)
}

pub(super) async fn kill_in_large_transaction(play: &mut Play) -> Result<()> {
    let mut own = Own::new(&play.arena.cluster, "chunks").await?;
    play.relax_patroni().await?;
    own.make_slot("pgoutput").await?;
    for _ in 0..2 {
        own.add_worker(|config| config.replacen("topic_prefix", "atomic_up_to = 1000\ntopic_prefix", 1)).await?;
    }
    own.until("a worker to stream", RECOVERY, |status| status["role"] == "active").await?;
    play.says(&format!("one transaction of {ROWS} rows"));
    own.sql(format!("insert into chunks select generate_series(1, {ROWS})")).await?;

    let begun = |status: &Value| {
        status["role"] == "active" && status["position"]["events_done"].as_u64().is_some_and(|done| done > 0)
    };
    let status = own.until("the first chunk", RECOVERY, begun).await?;
    play.fact("rows_told_before_the_kill", &status["position"]["events_done"]);
    let holder = status["holder"].as_str().context("nobody holds the baton")?.to_owned();
    play.act(move |cluster| cluster.kill(&holder)).await?;

    own.until_told(usize::try_from(ROWS)?).await?;
    let mut told = own.told().await?;
    told.sort_unstable();
    play.fact("rows_told", told.len());
    play.ensure(told.iter().copied().eq(1..=ROWS), "rows are missing or came twice")?;
    let whole = |status: &Value| {
        status["role"] == "active" && status["position"]["events_done"] == 0 && status["term"].as_u64() > Some(1)
    };
    own.until("the whole transaction", RECOVERY, whole).await?;
    own.end().await
}
