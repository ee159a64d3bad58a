//! Bad input: a clear error each, and nothing started by half.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use pgbaton_tests::own::Own;
use serde_json::Value;
use xtask::cluster::Cluster;

use crate::Shared;

const NAMED: Duration = Duration::from_secs(20);

/// Starts a worker with a changed configuration and waits until it names the code; it is not active, not healthy, and
/// made no topic.
async fn is_named(
    shared: Shared,
    mut own: Own,
    code: &str,
    change: impl Fn(String) -> String + Send + 'static,
) -> Result<()> {
    own.add_worker(change).await?;
    let names = |status: &Value| {
        let reasons = status["reasons"].as_array().into_iter().flatten();
        status["gap"]["code"] == code || reasons.into_iter().any(|reason| reason["code"] == code)
    };
    let status = own.until(&format!("the code {code}"), NAMED, names).await?;
    assert_ne!(status["role"], "active");
    let health = pgbaton_tests::http::get(&format!("{}/health", own.workers[0].1), Duration::from_secs(1)).await;
    assert_eq!(health.map(|answer| answer.status), Some(503));
    let data = format!("{0}.public.", own.name);
    assert!(own.topics().await?.iter().all(|topic| !topic.starts_with(&data)), "a data topic was made");
    shared.ends_well(own).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_named() -> Result<()> {
    let shared = Shared::open().await?;
    let own = shared.pipeline("wrong_password").await?;
    own.make_slot("pgoutput").await?;
    let wrong = |config: String| {
        let lines = config.lines().map(|line| match line.strip_prefix("password_file") {
            Some(_) => "password = \"not-this-one\"",
            None => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    is_named(shared, own, "auth_failed", wrong).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_publication_is_named() -> Result<()> {
    let shared = Shared::open().await?;
    let own = shared.pipeline("no_publication").await?;
    own.make_slot("pgoutput").await?;
    own.sql("drop publication no_publication".into()).await?;
    is_named(shared, own, "publication_missing", |config| config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_slot_is_named_and_not_made() -> Result<()> {
    let shared = Shared::open().await?;
    let own = shared.pipeline("no_slot").await?;
    let arena = std::sync::Arc::clone(&shared.ground.arena);
    is_named(shared, own, "slot_missing", |config| config).await?;
    let count = "select count(*) from pg_replication_slots where slot_name = 'no_slot'";
    assert_eq!(arena.act(move |cluster| cluster.sql(None, count)).await?, "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_another_plugin_is_named() -> Result<()> {
    let shared = Shared::open().await?;
    let own = shared.pipeline("wrong_plugin").await?;
    own.make_slot("test_decoding").await?;
    is_named(shared, own, "slot_wrong_kind", |config| config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_cannot_be_reached_is_named() -> Result<()> {
    let shared = Shared::open().await?;
    let own = shared.pipeline("no_etcd").await?;
    own.make_slot("pgoutput").await?;
    let away = |config: String| {
        let lines = config.lines().map(|line| match line.strip_prefix("endpoints") {
            Some(_) => "endpoints = [\"http://127.0.0.1:1\"]",
            None => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    is_named(shared, own, "etcd_unreachable", away).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_that_cannot_be_reached_is_named() -> Result<()> {
    let shared = Shared::open().await?;
    let own = shared.pipeline("no_kafka").await?;
    own.make_slot("pgoutput").await?;
    let away = |config: String| {
        let lines = config.lines().map(|line| match line.strip_prefix("brokers") {
            Some(_) => "brokers = \"127.0.0.1:1\"",
            None => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    is_named(shared, own, "kafka_unreachable", away).await
}

/// `pgbaton run` on a file that holds this text: the exit code and what went to standard error.
async fn run_with(text: &'static str) -> Result<(Option<i32>, String)> {
    let mut shared = Shared::open().await?;
    shared.words.wanted = false;
    let run = move |cluster: &Cluster| {
        let file = cluster.instance().conf().join(format!("refused-{}.toml", fastrand::u64(..)));
        std::fs::write(&file, text)?;
        let output = Command::new(cluster.instance().conf().join("pgbaton")).args(["run", "-c"]).arg(&file).output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    shared.ground.arena.act(run).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_file_ends_the_start_with_its_line() -> Result<()> {
    let (code, said) = run_with("name = \"w\"\n[pipelines.orders\n").await?;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("refused-") && said.contains('2'), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_mistakes_of_a_file_are_told_at_once_with_the_nearest_known_key() -> Result<()> {
    let text = "nam = \"w\"\n[coordination]\nlease_ttl = 10\nendpoints = [\"http://127.0.0.1:2379\"]\n";
    let (code, said) = run_with(text).await?;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("nam") && said.contains("name") && said.contains("lease_ttl"), "{said}");
    Ok(())
}
