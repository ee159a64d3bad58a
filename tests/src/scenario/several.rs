//! Several pipelines in two workers: they share them, and nothing is moved by itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::cluster::{Cluster, Pipeline};

use super::Play;
use crate::http;
use crate::own::Own;
use crate::stage::RECOVERY;

const PIPELINES: [&str; 4] = ["share_a", "share_b", "share_c", "share_d"];
const ASK: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(2);

/// Name and URL.
type Worker = (String, String);

pub(super) async fn shared_pipelines(play: &mut Play) -> Result<()> {
    play.relax_patroni().await?;
    let mut all = Vec::new();
    for name in PIPELINES {
        let own = Own::new(&play.arena.cluster, name).await?;
        own.make_slot("pgoutput").await?;
        all.push(own);
    }
    let workers = play.act(|cluster| ["sharer-1", "sharer-2"].into_iter().map(|name| add(cluster, name)).collect());
    let workers: Vec<Worker> = workers.await?;
    let [(first, _), (second, second_url)] = &workers[..] else { anyhow::bail!("two workers were added") };

    let owners = until(&workers, "all four to stream", |owners| owners.len() == PIPELINES.len()).await?;
    play.fact("at_the_start", &owners);
    let held = |owners: &Owners, worker: &str| owners.values().filter(|owner| *owner == worker).count();
    play.ensure(held(&owners, first) == 2, "two for each of two workers")?;

    let killed = first.clone();
    play.act(move |cluster| cluster.kill(&killed)).await?;
    until(&workers, "the other one to have all four", |owners| held(owners, second) == PIPELINES.len()).await?;
    let back = first.clone();
    play.act(move |cluster| cluster.start(&back)).await?;
    until_it_stands_by(&workers[0]).await?;
    let owners = owners_of(&workers).await;
    play.ensure(held(&owners, second) == PIPELINES.len(), "nothing moves by itself")?;

    let url = format!("{second_url}/api/v1/pipelines/{}/handover", PIPELINES[0]);
    let answer = http::request("POST", &url, "{}", LIMIT).await.context("the holder does not answer")?;
    ensure!(answer.status == 202, "the hand-over was refused: {}", answer.status);
    let moved = |owners: &Owners| owners.get(PIPELINES[0]).is_some_and(|owner| owner == first);
    let owners = until(&workers, "one to be handed over", moved).await?;
    play.fact("after_one_hand_over", &owners);
    play.ensure(held(&owners, second) == PIPELINES.len() - 1, "one hand-over moves one pipeline")?;

    for (worker, _) in workers {
        play.act(move |cluster| cluster.kill(&worker)).await?;
    }
    for own in all {
        own.end().await?;
    }
    Ok(())
}

/// A worker with all four pipelines.
fn add(cluster: &Cluster, name: &str) -> Result<Worker> {
    let [one, others @ ..] = PIPELINES;
    let text = || one.to_owned();
    let pipeline =
        Pipeline { name: text(), slot: text(), publication: text(), topic_prefix: text(), ..Pipeline::default() };
    let worker = cluster.add_worker(name, |port| {
        let mut config = cluster.worker_config(name, port, &pipeline)?;
        let tables = config[config.find("[pipelines.").context("there is no pipeline")?..].to_owned();
        config.extend(others.map(|other| tables.replace(one, other)));
        Ok(config)
    })?;
    Ok((worker.name, worker.url))
}

/// Who streams which pipeline.
type Owners = BTreeMap<String, String>;

async fn owners_of(workers: &[Worker]) -> Owners {
    let mut owners = BTreeMap::new();
    for (name, url) in workers {
        for (pipeline, status) in pipelines(url).await {
            if status["role"] == "active" {
                owners.insert(pipeline, name.clone());
            }
        }
    }
    owners
}

/// What a worker says of each pipeline; nothing where it does not answer.
async fn pipelines(url: &str) -> Vec<(String, Value)> {
    let answer = http::get(&format!("{url}/status"), LIMIT).await.map(|answer| answer.json());
    let pipelines = answer.as_ref().and_then(|answer| answer["pipelines"].as_object());
    pipelines.into_iter().flatten().map(|(name, status)| (name.clone(), status.clone())).collect()
}

async fn until(workers: &[Worker], what: &str, wanted: impl Fn(&Owners) -> bool) -> Result<Owners> {
    let end = Instant::now() + RECOVERY;
    loop {
        let owners = owners_of(workers).await;
        if wanted(&owners) {
            return Ok(owners);
        }
        ensure!(Instant::now() < end, "waited {RECOVERY:?} for {what}; now {owners:?}");
        tokio::time::sleep(ASK).await;
    }
}

/// Able to take over each of the pipelines.
async fn until_it_stands_by((name, url): &Worker) -> Result<()> {
    let end = Instant::now() + RECOVERY;
    loop {
        let all = pipelines(url).await;
        let able = |status: &Value| status["role"] == "standby" && status["healthy"] == true;
        if all.len() == PIPELINES.len() && all.iter().all(|(_, status)| able(status)) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "waited {RECOVERY:?} for {name} to stand by; it says {all:?}");
        tokio::time::sleep(ASK).await;
    }
}
