//! A transaction that is larger than one Kafka transaction may be: published in chunks, each row once, whoever dies meanwhile.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::own::Own;
use crate::{act_on, shared};

const ROWS: u64 = 100_000;
/// The lease of a dead worker lasts 10 s.
const TAKEOVER: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_inside_a_large_transaction_leaves_the_rest_of_it_to_the_next() -> Result<()> {
    let shared = shared().await?;
    let mut own = Own::new(&shared.cluster, "chunks").await?;
    own.make_slot("pgoutput").await?;
    for _ in 0..2 {
        own.add_worker(|config| config.replacen("topic_prefix", "atomic_up_to = 1000\ntopic_prefix", 1)).await?;
    }
    own.until("a worker to stream", TAKEOVER, |status| status["role"] == "active").await?;
    own.sql(format!("insert into chunks select generate_series(1, {ROWS})")).await?;

    let done = |status: &serde_json::Value| status["position"]["events_done"].as_u64().is_some_and(|done| done > 0);
    let status = own.until("the first chunk", TAKEOVER, |status| status["role"] == "active" && done(status)).await?;
    let holder = status["holder"].as_str().context("nobody holds the baton")?.to_owned();
    act_on(&own.cluster, move |cluster| cluster.kill(&holder)).await?;

    own.until_told(usize::try_from(ROWS)?).await?;
    let mut told = own.told().await?;
    told.sort_unstable();
    assert!(told.iter().copied().eq(1..=ROWS), "rows are missing or came twice: {} of {ROWS}", told.len());
    own.until("the whole transaction", TAKEOVER, |status| {
        status["role"] == "active" && status["position"]["events_done"] == 0 && status["term"].as_u64() > Some(1)
    })
    .await?;
    own.end().await
}
