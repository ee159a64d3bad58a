//! The two drains: a process is started, timed from its taking the slot to the end, and asked what it used.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::process::{Child, Command};
use tokio_postgres::Client;

use super::usage::Usage;
use super::{Bench, DATABASE, Run, Workload};
use crate::check::event::parse_lsn;
use crate::check::history::Says;
use crate::check::read::consumer;

/// How long a server may take to answer.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// How long a drain may take.
const DRAIN: Duration = Duration::from_secs(600);
/// How long a tool may take to get at the slot.
const START: Duration = Duration::from_secs(60);
/// A slot announces nothing: it is asked this often.
const ASK: Duration = Duration::from_millis(5);

/// `pg_recvlogical` over a copy of the slot.
pub(super) async fn peer(bench: &Bench, client: &Client, workload: Workload, end: &str) -> Result<Run> {
    let slot = format!("{}_peer", workload.name);
    let mut child = Command::new(bench.postgres.bin().join("pg_recvlogical"))
        .args(["-d", &bench.postgres.dsn(DATABASE), "--slot", &slot, "--start", "--no-loop", "-f", "/dev/null"])
        .args(["-o", "proto_version=1", "-o", &format!("publication_names={}", workload.name), "--endpos", end])
        .kill_on_drop(true)
        .spawn()
        .context("start pg_recvlogical")?;
    let taken = taken(client, &slot, &mut child).await?;
    let pid = child.id().context("pg_recvlogical has ended")?;
    // Not waited for while it is looked at: its times stay readable until then.
    let (ended, usage) = Usage::while_running(pid, ended(pid)).await;
    ended?;
    let seconds = taken.elapsed().as_secs_f64();
    let parity = child.wait().await?.success();
    Ok(run(workload, "pg_recvlogical", seconds, usage, parity))
}

/// Our worker over the slot itself.
pub(super) async fn pgbaton(bench: &Bench, client: &Client, workload: Workload, end: &str) -> Result<Run> {
    let folder = std::env::temp_dir().join(format!("pgbaton-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let (config, log) = (folder.join(format!("{}.toml", workload.name)), folder.join(format!("{}.log", workload.name)));
    std::fs::write(&config, configuration(bench, workload.name))?;
    let mut child = Command::new(&bench.pgbaton)
        .args(["run", "-c"])
        .arg(&config)
        // What names this program or the lab's folder would be read as configuration.
        .env_clear()
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log)?)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {}", bench.pgbaton.display()))?;
    let drained = async {
        let taken = taken(client, workload.name, &mut child).await?;
        let pid = child.id().context("pgbaton has ended")?;
        let end = parse_lsn(end).context("read an LSN")?;
        let bootstrap = bench.kafka.bootstrap();
        let closed = tokio::task::spawn_blocking(move || closed(&bootstrap, workload.name, end));
        let (closed, usage) = Usage::while_running(pid, closed).await;
        Ok::<_, anyhow::Error>(((closed?? - taken).as_secs_f64(), usage))
    };
    let (seconds, usage) = drained.await.with_context(|| last_words(&log))?;
    child.kill().await?;
    let bootstrap = bench.kafka.bootstrap();
    let parity = tokio::task::spawn_blocking(move || arrived(&bootstrap, workload)).await??;
    std::fs::remove_dir_all(&folder)?;
    Ok(run(workload, "pgbaton", seconds, usage, parity))
}

fn run(workload: Workload, tool: &'static str, seconds: f64, usage: Usage, parity: bool) -> Run {
    Run {
        workload: workload.name,
        tool,
        rows: workload.rows,
        seconds,
        rows_per_second: (workload.rows as f64 / seconds).round(),
        cpu_seconds: usage.cpu_seconds,
        peak_rss_bytes: usage.peak_rss_bytes,
        parity,
        percentiles_ms: None,
    }
}

fn configuration(bench: &Bench, name: &str) -> String {
    format!(
        r#"name = "bench"

[http]
listen = "127.0.0.1:0"

[coordination]
endpoints = ["{}"]
prefix = "/bench/{name}"

[pipelines.{name}.postgres]
url = "{}?sslmode=disable"
slot = "{name}"
publication = "{name}"

[pipelines.{name}.kafka]
brokers = "{}"
topic_prefix = "{name}"
"#,
        bench.etcd.endpoint(),
        bench.postgres.dsn(DATABASE),
        bench.kafka.bootstrap()
    )
}

/// When a walsender has the slot.
async fn taken(client: &Client, slot: &str, child: &mut Child) -> Result<Instant> {
    let limit = Instant::now() + START;
    let sql = client.prepare("select active from pg_replication_slots where slot_name = $1::text").await?;
    while !client.query_one(&sql, &[&slot]).await?.get::<_, bool>(0) {
        if let Some(status) = child.try_wait()? {
            bail!("it ended at once: {status}");
        }
        ensure!(Instant::now() < limit, "it did not take the slot within {START:?}");
        tokio::time::sleep(ASK).await;
    }
    Ok(Instant::now())
}

/// Returns when the process has ended, waited for or not.
async fn ended(pid: u32) -> Result<()> {
    let limit = Instant::now() + DRAIN;
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        if matches!(state, None | Some('Z' | 'X')) {
            return Ok(());
        }
        ensure!(Instant::now() < limit, "not drained within {DRAIN:?}");
        tokio::time::sleep(ASK).await;
    }
}

/// When a close past `end` is committed.
fn closed(bootstrap: &str, topic_prefix: &str, end: u64) -> Result<Instant> {
    let consumer = assigned(bootstrap, &format!("__pgbaton.{topic_prefix}.progress"))?.0;
    let limit = Instant::now() + DRAIN;
    while Instant::now() < limit {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        let says: Option<Says> = message.payload().and_then(|value| serde_json::from_slice(value).ok());
        let position = says.filter(|says| says.kind == "close").and_then(|says| says.position);
        if position.is_some_and(|position| position.order().1 > end) {
            return Ok(Instant::now());
        }
    }
    bail!("not drained within {DRAIN:?}")
}

/// Whether the topic holds every row once.
fn arrived(bootstrap: &str, workload: Workload) -> Result<bool> {
    let topic = format!("{0}.public.{0}", workload.name);
    let (consumer, partitions) = assigned(bootstrap, &topic)?;
    let (mut records, mut at_end) = (0, HashSet::new());
    let mut ids = HashSet::new();
    while at_end.len() < partitions {
        match consumer.poll(ANSWER) {
            Some(Ok(message)) => {
                records += 1;
                let headers = message.headers().context("a record has no headers")?;
                let id = headers.iter().find(|header| header.key == "pgbaton.id").and_then(|header| header.value);
                ids.insert(id.context("a record has no id")?.to_vec());
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                at_end.insert(partition);
            }
            Some(Err(error)) => return Err(error.into()),
            None => bail!("the end of {topic} is not in sight"),
        }
    }
    Ok(records == workload.rows && ids.len() as u64 == records)
}

fn assigned(bootstrap: &str, topic: &str) -> Result<(BaseConsumer, usize)> {
    let consumer = consumer(bootstrap)?;
    let metadata = consumer.fetch_metadata(None, ANSWER)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let found = found.with_context(|| format!("there is no topic {topic}"))?;
    let mut all = TopicPartitionList::new();
    for partition in found.partitions() {
        all.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let partitions = found.partitions().len();
    Ok((consumer, partitions))
}

fn last_words(log: &PathBuf) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
