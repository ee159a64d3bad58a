//! What an operator decides: to pause, to accept a gap, to take a table out of the publication, and that a second process under
//! one name is a mistake.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pgbaton_tests::http;
use pgbaton_tests::own::Own;
use pgbaton_tests::pages::{self, Tried};
use serde_json::Value;
use xtask::cluster::Cluster;

use crate::Shared;
use crate::pages::Reader;

const PATIENCE: Duration = Duration::from_secs(40);

async fn order(own: &Own, worker: usize, order: &str) -> Result<()> {
    let url = format!("{}/api/v1/pipelines/{}/{order}", own.workers[worker].1, own.name);
    let answer = http::request("POST", &url, "{}", PATIENCE).await.context("no answer")?;
    ensure!(answer.status == 202, "{order} was refused: {}", answer.body);
    Ok(())
}

fn has_reason(status: &Value, code: &str) -> bool {
    status["reasons"].as_array().into_iter().flatten().any(|reason| reason["code"] == code)
}

async fn every_worker(own: &Own, act: fn(&Cluster, &str) -> Result<()>) -> Result<()> {
    for (worker, _) in own.workers.clone() {
        let cluster = own.cluster.clone();
        tokio::task::spawn_blocking(move || act(&cluster, &worker)).await??;
    }
    Ok(())
}

/// What the pages say of a gap: the slot is made anew by statements, the gap looked at and accepted by commands.
async fn type_blocks_of_the_pages(own: &Own, language: &'static str) -> Result<()> {
    let (cluster, pipeline, worker) = (own.cluster.clone(), own.name, own.workers[0].0.clone());
    let type_them = move || {
        let blocks = pages::of(cluster.lab(), Tried::Gap)?.into_iter().filter(|block| block.language == language);
        let reader = Reader::of(&cluster, &worker, pipeline)?;
        blocks.into_iter().try_for_each(|block| reader.types(&block))
    };
    tokio::task::spawn_blocking(type_them).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_gap_is_left_behind_and_all_that_follows_is_told() -> Result<()> {
    let shared = Shared::open().await?;
    let mut own = shared.pipeline("gap_accepted").await?;
    own.make_slot("pgoutput").await?;
    own.start().await?;
    own.insert(1..=10).await?;
    own.until_told(10).await?;
    every_worker(&own, Cluster::term).await?;
    own.insert(11..=20).await?;
    type_blocks_of_the_pages(&own, "sql").await?;
    every_worker(&own, Cluster::start).await?;
    own.until_all("the gap", PATIENCE, |status| status["gap"]["code"] == "slot_ahead").await?;
    own.insert(21..=30).await?;
    type_blocks_of_the_pages(&own, "sh").await?;
    own.until("a worker to stream", PATIENCE, |status| status["role"] == "active").await?;
    own.until_told(20).await?;
    let told = own.told().await?;
    assert_eq!(told, (1..=10).chain(21..=30).collect::<Vec<u64>>(), "the gap was accepted, and nothing else");
    shared.ends_well(own).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_pipeline_is_told_by_nobody_until_it_is_resumed() -> Result<()> {
    let shared = Shared::open().await?;
    let mut own = shared.pipeline("paused").await?;
    own.make_slot("pgoutput").await?;
    own.start().await?;
    own.insert(1..=10).await?;
    own.until_told(10).await?;
    order(&own, 1, "pause").await?;
    own.until("the pause", PATIENCE, |status| has_reason(status, "paused") && status["holder"].is_null()).await?;
    own.insert(11..=20).await?;
    let statuses = own.statuses().await;
    assert!(statuses.iter().all(|status| status["role"] != "active"), "{statuses:#?}");
    assert_eq!(own.told().await?.len(), 10);
    order(&own, 0, "resume").await?;
    own.until_told(20).await?;
    shared.ends_well(own).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_under_one_name_says_so_and_takes_nothing() -> Result<()> {
    let shared = Shared::open().await?;
    let mut own = shared.pipeline("namesake").await?;
    own.make_slot("pgoutput").await?;
    own.add_worker(|config| config).await?;
    own.until("the first to stream", PATIENCE, |status| status["role"] == "active").await?;
    own.add_worker(|config| config.replace("namesake-2", "namesake-1")).await?;
    own.until("the second to see it", PATIENCE, |status| has_reason(status, "duplicate_worker")).await?;
    let statuses = own.statuses().await;
    let active = statuses.iter().filter(|status| status["role"] == "active").count();
    assert_eq!(active, 1, "{statuses:#?}");
    shared.ends_well(own).await
}

/// Takes a second table out of the publication of a pipeline that has told ten rows of its own.
async fn take_a_table_out(own: &Own) -> Result<()> {
    own.insert(1..=10).await?;
    own.until_told(10).await?;
    own.sql(format!("alter publication {0} drop table {0}_other", own.name)).await?;
    Ok(())
}

async fn with_another_table(own: &Own) -> Result<()> {
    own.sql(format!(
        "create table {0}_other (id int primary key); alter publication {0} add table {0}_other",
        own.name
    ))
    .await?;
    own.make_slot("pgoutput").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_taken_out_of_the_publication_is_named_to_consumers_and_the_rest_goes_on() -> Result<()> {
    let shared = Shared::open().await?;
    let mut own = shared.pipeline("less").await?;
    with_another_table(&own).await?;
    own.start().await?;
    let holder =
        own.until("a worker to stream", PATIENCE, |status| status["role"] == "active").await?["holder"].clone();
    take_a_table_out(&own).await?;
    own.until("the note", PATIENCE, |status| has_reason(status, "publication_shrunk")).await?;
    own.insert(11..=20).await?;
    own.until_told(20).await?;
    assert_eq!(own.told().await?, (1..=20).collect::<Vec<u64>>());
    let markers = own.markers().await?;
    let [marker] = &markers[..] else { anyhow::bail!("one marker is due: {markers:#?}") };
    assert_eq!((&marker["type"], &marker["accepted"]["code"]), (&"accept".into(), &"publication_shrunk".into()));
    assert_eq!(marker["topics"], serde_json::json!(["less.public.less_other"]));
    let now = own.until("a worker to stream", PATIENCE, |status| status["role"] == "active").await?;
    assert_eq!(now["holder"]["worker"], holder["worker"], "nobody else took over");
    shared.ends_well(own).await
}

#[tokio::test(flavor = "multi_thread")]
async fn where_that_is_to_stop_the_stream_it_goes_on_once_it_is_accepted() -> Result<()> {
    let shared = Shared::open().await?;
    let mut own = shared.pipeline("less_halts").await?;
    with_another_table(&own).await?;
    let halting = |config: String| {
        let section = "[pipelines.less_halts.postgres]";
        config.replacen(section, &format!("[pipelines.less_halts]\non_publication_shrink = \"halt\"\n\n{section}"), 1)
    };
    own.add_worker(halting).await?;
    own.add_worker(halting).await?;
    own.until("a worker to stream", PATIENCE, |status| status["role"] == "active").await?;
    take_a_table_out(&own).await?;
    let stopped = own.until("the gap", PATIENCE, |status| status["gap"]["code"] == "publication_shrunk").await?;
    let text = stopped["gap"]["text"].as_str().unwrap_or_default();
    assert!(text.contains("less_halts.public.less_halts_other"), "{text}");
    own.insert(11..=20).await?;
    order(&own, 0, "gap/accept").await?;
    own.until("a worker to stream", PATIENCE, |status| status["role"] == "active").await?;
    own.until_told(20).await?;
    assert_eq!(own.told().await?, (1..=20).collect::<Vec<u64>>());
    assert_eq!(own.markers().await?.len(), 1);
    shared.ends_well(own).await
}
