//! A pipeline of a test's own on a cluster: its table, publication, slot, topics, etcd keys and workers. What is done to it
//! harms nobody else, and every row that it is to tell is known.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use xtask::cluster::{Cluster, Pipeline};

use crate::check::event::parse_lsn;
use crate::check::read::consumer;
use crate::http;

/// How long a pipeline may take to stream for the first time.
const START: Duration = Duration::from_secs(40);
const ASK: Duration = Duration::from_millis(200);
const KAFKA: Duration = Duration::from_secs(10);
/// Two of Patroni's rounds.
const PATRONI: Duration = Duration::from_secs(4);

/// Patroni drops slots that it does not know: from here on it leaves logical ones as they are. And it makes nobody the leader
/// who lags too far: from here on a replica that missed a burst of the load may still be chosen. Returns when it has heard.
pub async fn relax_patroni(cluster: &Cluster) -> Result<()> {
    let report = cluster.report("e2e")?;
    let leader = report["leader"].as_str().context("there is no leader")?;
    let rest = report["nodes"][leader]["rest"].as_u64().context("the leader has no REST interface")?;
    let url = format!("http://127.0.0.1:{rest}/config");
    let now = http::get(&url, KAFKA).await.map(|answer| answer.json());
    if now.is_some_and(|now| now["ignore_slots"].is_array()) {
        return Ok(());
    }
    let relaxed = json!({
        "ignore_slots": [{"type": "logical", "database": "appdb"}],
        "maximum_lag_on_failover": 100_000_000,
    });
    let answer = http::request("PATCH", &url, &relaxed.to_string(), KAFKA).await;
    ensure!(answer.is_some_and(|answer| answer.status == 200), "Patroni does not take the configuration");
    let probe = "select pg_create_logical_replication_slot('probe', 'pgoutput')
                 where not exists (select from pg_replication_slots where slot_name = 'probe')";
    let mut made = Instant::now();
    while made.elapsed() < PATRONI {
        if !act_on(cluster, move |cluster| cluster.sql(None, probe)).await?.is_empty() {
            made = Instant::now();
        }
        tokio::time::sleep(ASK).await;
    }
    act_on(cluster, |cluster| cluster.sql(None, "select pg_drop_replication_slot('probe')")).await?;
    Ok(())
}

/// A pipeline whose table, publication, slot and topic prefix all have its name.
pub struct Own {
    /// The cluster.
    pub cluster: Cluster,
    /// Of everything that is its own.
    pub name: &'static str,
    /// Workers that were added: name and URL.
    pub workers: Vec<(String, String)>,
}

impl Own {
    /// Makes the table and the publication.
    pub async fn new(cluster: &Cluster, name: &'static str) -> Result<Self> {
        let own = Own { cluster: cluster.clone(), name, workers: Vec::new() };
        own.sql(format!("create table {name} (id int primary key); create publication {name} for table {name}"))
            .await?;
        Ok(own)
    }

    /// Makes the slot.
    pub async fn make_slot(&self, plugin: &str) -> Result<()> {
        self.sql(format!("select pg_create_logical_replication_slot('{}', '{plugin}')", self.name)).await?;
        Ok(())
    }

    /// Adds a worker whose configuration is the usual one, changed.
    pub async fn add_worker(&mut self, change: impl Fn(String) -> String + Send + 'static) -> Result<()> {
        let (name, worker) = (self.name, format!("{}-{}", self.name, self.workers.len() + 1));
        let pipeline = Pipeline {
            name: name.into(),
            slot: name.into(),
            publication: name.into(),
            topic_prefix: name.into(),
            ..Pipeline::default()
        };
        let added = act_on(&self.cluster, move |cluster| {
            cluster.add_worker(&worker, |port| Ok(change(cluster.worker_config(&worker, port, &pipeline)?)))
        })
        .await?;
        self.workers.push((added.name, added.url));
        Ok(())
    }

    /// Two workers, one of which streams.
    pub async fn start(&mut self) -> Result<()> {
        self.add_worker(|config| config).await?;
        self.add_worker(|config| config).await?;
        self.until("a worker to stream", START, |status| status["role"] == "active").await?;
        Ok(())
    }

    /// What each worker that answers says about the pipeline.
    pub async fn statuses(&self) -> Vec<Value> {
        let mut statuses = Vec::new();
        for (_, url) in &self.workers {
            if let Some(answer) = http::get(&format!("{url}/status"), Duration::from_secs(1)).await {
                statuses.push(answer.json()["pipelines"][self.name].clone());
            }
        }
        statuses
    }

    /// Waits until some worker's status is as wanted, and returns it.
    pub async fn until(&self, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let end = Instant::now() + limit;
        loop {
            let statuses = self.statuses().await;
            if let Some(found) = statuses.iter().find(|status| wanted(status)) {
                return Ok(found.clone());
            }
            ensure!(Instant::now() < end, "waited {limit:?} for {what}; the workers say {statuses:#?}");
            tokio::time::sleep(ASK).await;
        }
    }

    /// Waits until every worker's status is as wanted.
    pub async fn until_all(&self, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let statuses = self.statuses().await;
            if statuses.len() == self.workers.len() && statuses.iter().all(&wanted) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "waited {limit:?} for {what} at every worker; they say {statuses:#?}");
            tokio::time::sleep(ASK).await;
        }
    }

    /// SQL as the superuser on the leader.
    pub async fn sql(&self, sql: String) -> Result<String> {
        act_on(&self.cluster, move |cluster| cluster.sql(None, &sql)).await
    }

    /// Where the WAL ends now.
    pub async fn wal_end(&self) -> Result<u64> {
        parse_lsn(&self.sql("select pg_current_wal_lsn()".into()).await?).context("no LSN")
    }

    /// Inserts these rows, each in a transaction of its own.
    pub async fn insert(&self, rows: std::ops::RangeInclusive<u32>) -> Result<()> {
        let name = self.name;
        self.sql(format!(
            "do $$ begin for n in {}..{} loop insert into {name} values (n); commit; end loop; end $$",
            rows.start(),
            rows.end()
        ))
        .await?;
        Ok(())
    }

    /// Frees the slot from whoever reads it and does something to it before anybody has it again.
    pub async fn seize_slot(&self, then: &str) -> Result<()> {
        let name = self.name;
        self.sql(format!(
            "do $$ declare reader int; begin
               for n in 1..1000 loop
                 select active_pid into reader from pg_replication_slots where slot_name = '{name}';
                 if reader is not null then perform pg_terminate_backend(reader, 5000); end if;
                 begin {then}; return; exception when object_in_use then null; end;
               end loop;
               raise exception 'the slot is always in use';
             end $$"
        ))
        .await?;
        Ok(())
    }

    /// The ids that read_committed consumers have now, in the order of their offsets.
    pub async fn told(&self) -> Result<Vec<u64>> {
        let (bootstrap, topic) = (self.cluster.kafka_bootstrap()?, format!("{0}.public.{0}", self.name));
        tokio::task::spawn_blocking(move || told(&bootstrap, &topic)).await?
    }

    /// What the markers topic tells consumers, from its beginning.
    pub async fn markers(&self) -> Result<Vec<Value>> {
        let (bootstrap, topic) = (self.cluster.kafka_bootstrap()?, format!("__pgbaton.{}.markers", self.name));
        tokio::task::spawn_blocking(move || committed(&bootstrap, &topic)).await?
    }

    /// Waits until consumers have so many rows.
    pub async fn until_told(&self, rows: usize) -> Result<()> {
        let end = Instant::now() + START;
        while self.told().await?.len() < rows {
            ensure!(Instant::now() < end, "{rows} rows are not told within {START:?}");
            tokio::time::sleep(ASK).await;
        }
        Ok(())
    }

    /// The topics that its workers made.
    pub async fn topics(&self) -> Result<Vec<String>> {
        let (bootstrap, name) = (self.cluster.kafka_bootstrap()?, self.name);
        tokio::task::spawn_blocking(move || {
            let metadata = consumer(&bootstrap)?.fetch_metadata(None, KAFKA)?;
            let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
            Ok(names.filter(|topic| topic.contains(name)).collect())
        })
        .await?
    }

    /// Ends its workers for good and removes its slot, which would keep WAL for ever.
    pub async fn end(self) -> Result<()> {
        for (worker, _) in self.workers.clone() {
            act_on(&self.cluster, move |cluster| cluster.dismiss(&worker)).await?;
        }
        let drop = format!(
            "perform pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{}'",
            self.name
        );
        self.seize_slot(&drop).await
    }
}

fn told(bootstrap: &str, topic: &str) -> Result<Vec<u64>> {
    let row = |value: &Value| value["after"]["id"].as_u64().context("a record has no row");
    committed(bootstrap, topic)?.iter().map(row).collect()
}

/// The values that read_committed consumers find in a topic; none where there is no such topic.
fn committed(bootstrap: &str, topic: &str) -> Result<Vec<Value>> {
    let consumer = consumer(bootstrap)?;
    let metadata = consumer.fetch_metadata(None, KAFKA)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(Vec::new()) };
    let mut all = TopicPartitionList::new();
    for partition in found.partitions() {
        all.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let (mut values, mut at_end) = (Vec::new(), HashSet::new());
    while at_end.len() < all.count() {
        match consumer.poll(KAFKA).context("Kafka is silent")? {
            Ok(message) => {
                values.push(serde_json::from_slice(message.payload().context("a record has no value")?)?);
            }
            Err(KafkaError::PartitionEOF(partition)) => {
                at_end.insert(partition);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(values)
}

async fn act_on<T: Send + 'static>(
    cluster: &Cluster,
    act: impl FnOnce(&Cluster) -> Result<T> + Send + 'static,
) -> Result<T> {
    let cluster = cluster.clone();
    tokio::task::spawn_blocking(move || act(&cluster)).await?
}
