//! Somebody else writes into the topics of a pipeline. The worker that streams does not see it; the standby that audits does.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use xtask::cluster::Cluster;

use super::Play;
use crate::check::read::consumer;
use crate::http;
use crate::own::Own;
use crate::stage::RECOVERY;

/// Seconds, not minutes; several rounds of the audit on a machine that is busy.
const NAMED: Duration = Duration::from_secs(20);
const KAFKA: Duration = Duration::from_secs(10);
const TOPIC: &str = "forged.public.forged";

pub(super) async fn records(play: &mut Play) -> Result<()> {
    let own = audited(play).await?;
    let bootstrap = own.cluster.kafka_bootstrap()?;
    let mut reader = FollowingReader::start(&own, &["--brokers", &bootstrap, "--topic-prefix", own.name])?;

    play.says("a record is written a second time");
    let last = last_of(&own, TOPIC, |_| true).await?;
    let headers = last.headers().context("a record has no headers")?.clone();
    forge(&own, &last, last.payload(), headers).await?;
    named(play, &own, &mut reader, "duplicate").await?;

    play.says("a record of an older term");
    let (id, term) = (header(&last, "pgbaton.id")?, header(&last, "pgbaton.term")?.parse::<u64>()? - 1);
    forge(&own, &last, last.payload(), headers_of(&format!("{id}.1"), term)).await?;
    named(play, &own, &mut reader, "term_falls").await?;

    play.says("a bracket that is opened and not closed");
    let open = last_of(&own, "__pgbaton.forged.progress", |message| message.key() == Some(b"open")).await?;
    forge(&own, &open, open.payload(), OwnedHeaders::new()).await?;
    named(play, &own, &mut reader, "torn").await?;

    play.says("the worker that streams dies: the one that audits takes over");
    let status = own.until("the holder", RECOVERY, |status| status["role"] == "active").await?;
    let holder = status["holder"].as_str().context("nobody holds the baton")?.to_owned();
    own.insert(11..=20).await?;
    own.until_told(22).await?;
    let (killed, of) = (Instant::now(), holder.clone());
    play.act(move |cluster: &Cluster| cluster.kill(&of)).await?;
    let other = |status: &Value| status["role"] == "active" && status["holder"] != holder.as_str();
    own.until("the other to stream", RECOVERY, other).await?;
    play.fact("taken_over_after_ms", u64::try_from(killed.elapsed().as_millis())?);
    own.insert(21..=30).await?;
    own.until_told(32).await?;
    own.end().await
}

/// Where delivery is at least once, records may come again, but only as they were.
pub(super) async fn repeats(play: &mut Play) -> Result<()> {
    let own = audited(play).await?;
    let mut workers = own.cluster.workers()?.into_iter();
    let worker = workers.find(|worker| worker.name == own.workers[0].0).context("the worker is not there")?;
    let mut reader = FollowingReader::start(&own, &["-c", &worker.config.display().to_string()])?;

    // Holes are looked for in what comes after the audit began.
    own.insert(11..=11).await?;
    own.until_told(11).await?;
    let judges = |status: &Value| status["role"] == "standby" && status["audit"]["records"].as_u64() >= Some(11);
    own.until("the standby to have audited it", RECOVERY, judges).await?;
    let last = last_of(&own, TOPIC, |_| true).await?;
    let (id, term) = (header(&last, "pgbaton.id")?, header(&last, "pgbaton.term")?.parse::<u64>()? - 1);
    play.says("a record comes again");
    forge(&own, &last, last.payload(), headers_of(&id, term)).await?;
    play.says("it comes again otherwise");
    let value = String::from_utf8(last.payload().context("a record has no value")?.to_vec())?;
    let other = value.replace("\"after\":{\"id\":", "\"after\":{\"id\":9");
    play.ensure(other != value, "the forged record is the same")?;
    forge(&own, &last, Some(other.as_bytes()), headers_of(&id, term)).await?;
    named(play, &own, &mut reader, "altered").await?;
    play.says("a part of a change that is none");
    forge(&own, &last, last.payload(), headers_of(&format!("{id}.7"), term)).await?;
    named(play, &own, &mut reader, "hole").await?;
    let told = reader.told.join(" ");
    play.ensure(told == "altered hole", &format!("pgbaton verify has told {told}"))?;
    own.end().await
}

/// A pipeline whose rows a standby has audited.
async fn audited(play: &Play) -> Result<Own> {
    play.relax_patroni().await?;
    let mut own = Own::new(&play.arena.cluster, "forged").await?;
    own.make_slot("pgoutput").await?;
    for _ in 0..2 {
        let table = "[pipelines.forged]\naudit = true\n\n[pipelines.forged.postgres]";
        own.add_worker(move |config| config.replacen("[pipelines.forged.postgres]", table, 1)).await?;
    }
    own.until("a worker to stream", RECOVERY, |status| status["role"] == "active").await?;
    own.insert(1..=10).await?;
    own.until_told(10).await?;
    let judges = |status: &Value| status["role"] == "standby" && status["audit"]["records"].as_u64() >= Some(10);
    own.until("a standby that audits", RECOVERY, judges).await?;
    Ok(own)
}

/// Waits until the standby counts this rule, says so in `/status` and `/health`, and who follows the topics by hand has read it.
async fn named(play: &mut Play, own: &Own, reader: &mut FollowingReader, rule: &str) -> Result<()> {
    let since = Instant::now();
    let metric = format!("pgbaton_audit_violations_total{{pipeline=\"forged\",rule=\"{rule}\"}}");
    while !is_named(own, &metric).await? {
        ensure!(since.elapsed() < NAMED, "no standby names {rule}; the workers say {:#?}", own.statuses().await);
    }
    play.fact(&format!("{rule}_named_after_ms"), u64::try_from(since.elapsed().as_millis())?);
    reader.until(rule).await
}

/// A worker counts it, gives the reason, and says that it can do its job all the same.
async fn is_named(own: &Own, metric: &str) -> Result<bool> {
    for (_, url) in &own.workers {
        let Some(metrics) = http::get(&format!("{url}/metrics"), KAFKA).await else { continue };
        let health = http::get(&format!("{url}/health"), KAFKA).await.context("no health")?.json();
        let mut reasons = health["reasons"].as_array().into_iter().flatten();
        if metrics.body.contains(metric) && reasons.any(|reason| reason["code"] == "audit_violation") {
            ensure!(health["status"] == "degraded", "a violation keeps the standby from nothing: {health}");
            return Ok(true);
        }
    }
    Ok(false)
}

/// `pgbaton verify --follow`, as a person would let it run.
struct FollowingReader {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The rules of all faults that it has told.
    told: Vec<String>,
}

impl FollowingReader {
    fn start(own: &Own, topics: &[&str]) -> Result<Self> {
        let mut child = Command::new(own.cluster.worker_binary()?)
            .args(["verify", "--follow", "--json"])
            .args(topics)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start pgbaton verify")?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(FollowingReader { _child: child, lines, told: Vec::new() })
    }

    async fn until(&mut self, rule: &str) -> Result<()> {
        let find = async {
            while let Some(line) = self.lines.next_line().await? {
                let fault: Value = serde_json::from_str(&line)?;
                self.told.push(fault["rule"].as_str().unwrap_or_default().to_owned());
                if fault["rule"] == rule {
                    return Ok(());
                }
            }
            anyhow::bail!("pgbaton verify ended")
        };
        tokio::time::timeout(NAMED, find).await.with_context(|| format!("pgbaton verify does not say {rule}"))?
    }
}

fn header(message: &OwnedMessage, name: &str) -> Result<String> {
    let headers = message.headers().context("a record has no headers")?;
    let value = headers.iter().find(|header| header.key == name).and_then(|header| header.value);
    Ok(String::from_utf8(value.with_context(|| format!("a record has no {name}"))?.to_vec())?)
}

/// The last record of a topic that is wanted, by partitions and offsets.
async fn last_of(own: &Own, topic: &str, wanted: fn(&OwnedMessage) -> bool) -> Result<OwnedMessage> {
    let (bootstrap, topic) = (own.cluster.kafka_bootstrap()?, topic.to_owned());
    tokio::task::spawn_blocking(move || {
        let consumer = consumer(&bootstrap)?;
        let metadata = consumer.fetch_metadata(Some(&topic), KAFKA)?;
        let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        let mut all = TopicPartitionList::new();
        for partition in 0..i32::try_from(partitions)? {
            all.add_partition_offset(&topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&all)?;
        let (mut last, mut ended) = (None, 0);
        while ended < partitions {
            match consumer.poll(KAFKA).context("Kafka is silent")? {
                Ok(message) => last = Some(message.detach()).filter(wanted).or(last),
                Err(KafkaError::PartitionEOF(_)) => ended += 1,
                Err(error) => return Err(error.into()),
            }
        }
        last.with_context(|| format!("{topic} is empty"))
    })
    .await?
}

fn headers_of(id: &str, term: u64) -> OwnedHeaders {
    let headers = [("pgbaton.id", id.to_owned()), ("pgbaton.term", term.to_string())];
    headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(rdkafka::message::Header { key, value: Some(value) })
    })
}

/// Writes a record more, where a message stands and with its key, by a producer that keeps no rule.
async fn forge(own: &Own, like: &OwnedMessage, value: Option<&[u8]>, headers: OwnedHeaders) -> Result<()> {
    let (bootstrap, like) = (own.cluster.kafka_bootstrap()?, like.clone());
    let value = value.unwrap_or_default().to_vec();
    tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &bootstrap).create()?;
        let record = BaseRecord::to(like.topic())
            .partition(like.partition())
            .key(like.key().unwrap_or_default())
            .payload(&value)
            .headers(headers);
        producer.send(record).map_err(|(error, _)| error)?;
        Ok(producer.flush(KAFKA)?)
    })
    .await?
}
