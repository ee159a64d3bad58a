//! Workers without etcd: slot and claim are all that they have in common.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::Play;
use crate::stage::Fault;

const WITH_ETCD: &str = "backend = \"etcd\"";
const WITHOUT: &str = "backend = \"none\"";

/// The pipeline goes on without etcd from where it stood with it, and back again.
pub(super) async fn no_etcd_pair(play: &mut Play) -> Result<()> {
    restart(play, WITH_ETCD, WITHOUT).await?;
    play.stage.flows().await.context("without etcd")?;
    let killed = play.suffer(Fault::KillActive).await?;
    ensure!(killed.owner_changed && killed.to.term > killed.from.term, "nobody took over: {killed:?}");
    play.suffer(Fault::Switchover).await?;
    let handed = play.suffer(Fault::TermActive).await?;
    ensure!(handed.owner_changed && handed.to.term > handed.from.term, "nobody took over: {handed:?}");
    restart(play, WITHOUT, WITH_ETCD).await
}

/// Ends all workers of the pipeline, changes their configuration, and starts them.
async fn restart(play: &Play, from: &'static str, to: &'static str) -> Result<()> {
    play.says(&format!("all workers are stopped, and started with {to}"));
    let names = play.nodes("worker-")?;
    let stopped = names.clone();
    play.stage.strikes("terminate", &stopped);
    play.act(move |cluster| {
        names.iter().try_for_each(|name| cluster.term(name))?;
        for worker in cluster.workers()?.iter().filter(|worker| names.contains(&worker.name)) {
            let text = fs::read_to_string(&worker.config).context("read a worker's configuration")?;
            ensure!(text.contains(from), "{} has no {from}", worker.config.display());
            fs::write(&worker.config, text.replace(from, to)).context("write a worker's configuration")?;
            cluster.start(&worker.name)?;
        }
        Ok(())
    })
    .await?;
    play.stage.heals(&stopped);
    Ok(())
}
