//! All that a pipeline has committed to Kafka, as the checker judges it: data, progress and markers.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event::{self, Event, EventId, Raw, parse_lsn};
use super::row::Names;
use super::table::LEDGER;

/// A record as it lies in a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its time in milliseconds since 1970, the producer's.
    pub at_ms: i64,
    /// Its key.
    pub key: Option<String>,
    /// Its value.
    pub value: Option<String>,
    /// Its headers.
    pub headers: Vec<(String, String)>,
}

/// What was read from the topics, in any order between partitions, in offset order within one.
#[derive(Debug, Clone, Default)]
pub struct History {
    topic_prefix: String,
    names: Names,
    tables: BTreeMap<String, Arc<str>>,
    /// Data records.
    pub events: Vec<Event>,
    /// The progress topic's records, in offset order.
    pub progress: Vec<Progress>,
    /// The markers topic's records, in offset order.
    pub markers: Vec<Value>,
    /// Records that could not be read, each in words.
    pub unreadable: Vec<String>,
    /// The offsets that were handed to a read_committed consumer, by topic and partition, but for the progress topic's, some of
    /// which compaction may have removed.
    pub offsets: BTreeMap<(String, i32), Vec<i64>>,
    /// When the first data record of each term was sent, in milliseconds since 1970.
    pub first_of_term: BTreeMap<u64, i64>,
    /// When the last one was.
    pub last_of_term: BTreeMap<u64, i64>,
}

/// A record of the progress topic. The bytes are kept for the hash that the next record carries.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Its offset.
    pub offset: i64,
    /// When it was sent, in milliseconds since 1970.
    pub at_ms: i64,
    /// Its key.
    pub key: String,
    /// Its value as it lies in the topic.
    pub value: Vec<u8>,
    /// What the value says.
    pub says: Says,
}

/// The fields of a progress record that the checker looks at.
#[derive(Debug, Clone, Deserialize)]
pub struct Says {
    /// `genesis`, `claim`, `open`, `close`, `divergence` or `accept`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The term; null in a claim's `open`.
    pub term: Option<u64>,
    /// The session that wrote it.
    pub session: String,
    /// Counts the Kafka transactions of the session from 0.
    pub number: u64,
    /// The worker that wrote it.
    pub worker: String,
    /// What is published.
    pub position: Option<Place>,
    /// What may be acknowledged.
    pub watermark: Option<Place>,
    /// Timelines left behind, each with its switch point.
    pub history: Option<Vec<(u32, String)>>,
    /// The server's timeline: the end of `history`.
    pub server_timeline: Option<u32>,
    /// A transaction published in part.
    pub partial: Option<Partial>,
    /// A torn Kafka transaction that is not reconciled yet.
    pub torn: Option<Torn>,
    /// In a `divergence`: what was published and did not survive.
    pub divergence: Option<Value>,
    /// The last transaction that was published whole.
    pub last: Option<Last>,
    /// The tenure that it was written in.
    pub lease: Option<Lease>,
    /// Topics that may be written from here on.
    pub topics: Option<Vec<String>>,
    /// Hash of the position-carrying record before it.
    pub previous_hash: Option<String>,
}

impl Says {
    /// The timeline that owns a place in the history that the record was written under.
    pub fn timeline_of(&self, lsn: u64) -> u32 {
        let left = self.history.iter().flatten().find(|(_, switch)| parse_lsn(switch).is_some_and(|at| lsn < at));
        let newest = self.server_timeline.or(self.position.as_ref().map(|place| place.timeline));
        left.map(|(timeline, _)| *timeline).or(newest).unwrap_or(0)
    }
}

/// A place in the write-ahead log.
#[derive(Debug, Clone, Deserialize)]
pub struct Place {
    /// Timeline that owns it.
    pub timeline: u32,
    /// LSN as text.
    pub lsn: String,
}

impl Place {
    /// As a pair that orders the places of one history; an unreadable LSN is the start of the timeline.
    pub fn order(&self) -> (u32, u64) {
        (self.timeline, parse_lsn(&self.lsn).unwrap_or(0))
    }
}

/// A Kafka transaction of which a part became visible.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Torn {
    /// The session that wrote it.
    pub session: String,
    /// Its number in that session.
    pub number: u64,
    /// The greatest id that became visible.
    pub greatest_id: Option<String>,
}

/// The last transaction that was published whole.
#[derive(Debug, Clone, Deserialize)]
pub struct Last {
    /// Start of its commit record.
    pub final_lsn: String,
}

/// Which write of the holder key a record refers to.
#[derive(Debug, Clone, Deserialize)]
pub struct Lease {
    /// etcd's cluster id, in hexadecimal digits.
    pub cluster_id: String,
    /// Revision of that write.
    pub revision: i64,
}

/// A transaction that is published in part.
#[derive(Debug, Clone, Deserialize)]
pub struct Partial {
    /// Start of its commit record.
    pub final_lsn: String,
    /// How many of its changes are published.
    pub changes_done: u64,
    /// Hash over their messages.
    pub hash: Option<String>,
}

/// Ids that consumers have seen and that the surviving database never had, as a marker names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Divergence {
    /// The timeline that was left.
    pub timeline: u32,
    /// The last timeline of what was published there, where that was left with it.
    pub last_timeline: u32,
    /// The first LSN of it that did not survive.
    pub from: u64,
    /// The last LSN that was published.
    pub to: u64,
}

impl Divergence {
    /// Whether the marker names this id.
    pub fn names(&self, id: EventId) -> bool {
        (self.timeline..=self.last_timeline).contains(&id.timeline) && (self.from..=self.to).contains(&id.lsn)
    }

    /// Reads what a marker or a progress record says.
    pub fn read(says: &Value) -> Option<Self> {
        let lsn = |key: &str| parse_lsn(says[key].as_str()?);
        let timeline = u32::try_from(says["old_timeline"].as_u64()?).ok()?;
        let last_timeline =
            says["old_timeline_last"].as_u64().and_then(|last| u32::try_from(last).ok()).unwrap_or(timeline);
        Some(Divergence { timeline, last_timeline, from: lsn("from_lsn")?, to: lsn("to_lsn")? })
    }
}

/// Changes that are missing, which somebody has accepted: those of transactions that end in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Timeline and LSN behind which something is missing.
    pub from: (u32, u64),
    /// Where that ends.
    pub to: (u32, u64),
}

impl Gap {
    /// Reads a marker of type `accept`.
    pub fn read(marker: &Value) -> Option<Self> {
        let says = &marker["accepted"];
        let timeline = u32::try_from(says["timeline"].as_u64()?).ok()?;
        let from = parse_lsn(says["from_lsn"].as_str()?)?;
        // One that has no end goes on to where the stream does.
        let end = says["to_lsn"].as_str().or(marker["position"]["lsn"].as_str())?;
        Some(Gap { from: (timeline, from), to: (timeline, parse_lsn(end)?) })
    }

    /// Whether it lies between two transactions, by the starts of their commit records.
    pub fn is_between(&self, before: (u32, u64), after: (u32, u64)) -> bool {
        before < self.to && after >= self.from
    }
}

impl History {
    /// Nothing read yet from the topics with this prefix.
    pub fn new(topic_prefix: &str) -> Self {
        History { topic_prefix: topic_prefix.into(), ..History::default() }
    }

    /// Whether a topic belongs to the pipeline.
    pub fn wants(&self, topic: &str) -> bool {
        topic == self.progress_topic() || topic == self.markers_topic() || self.table_of(topic).is_some()
    }

    fn progress_topic(&self) -> String {
        format!("__pgbaton.{}.progress", self.topic_prefix)
    }

    fn markers_topic(&self) -> String {
        format!("__pgbaton.{}.markers", self.topic_prefix)
    }

    /// `SCHEMA.TABLE` of a data topic.
    fn table_of<'a>(&self, topic: &'a str) -> Option<&'a str> {
        topic.strip_prefix(&self.topic_prefix)?.strip_prefix('.').filter(|table| table.contains('.'))
    }

    /// Takes in the next record of a partition. Returns the id of the ledger row that it tells, if it does.
    pub fn take(&mut self, record: &Record) -> Option<String> {
        let at = || format!("{} partition {} offset {}", record.topic, record.partition, record.offset);
        let value = record.value.as_deref();
        if record.topic == self.progress_topic() {
            match serde_json::from_str(value.unwrap_or_default()) {
                Ok(says) => self.progress.push(Progress {
                    offset: record.offset,
                    at_ms: record.at_ms,
                    key: record.key.clone().unwrap_or_default(),
                    value: value.unwrap_or_default().into(),
                    says,
                }),
                Err(error) => self.unreadable.push(format!("{}: {error}", at())),
            }
            return None;
        }
        self.offsets.entry((record.topic.clone(), record.partition)).or_default().push(record.offset);
        if record.topic == self.markers_topic() {
            match serde_json::from_str(value.unwrap_or_default()) {
                Ok(marker) => self.markers.push(marker),
                Err(error) => self.unreadable.push(format!("{}: {error}", at())),
            }
            return None;
        }
        let table = self.table_of(&record.topic)?.to_owned();
        let table = Arc::clone(self.tables.entry(table).or_insert_with_key(|table| table.as_str().into()));
        let header = |name: &str| record.headers.iter().find(|header| header.0 == name).map(|header| header.1.as_str());
        let raw = Raw {
            table: &table,
            partition: record.partition,
            offset: record.offset,
            id: header("pgbaton.id"),
            term: header("pgbaton.term"),
            key: record.key.as_deref().map(str::as_bytes),
            value: value.map(str::as_bytes),
            moves: header("__debezium.newkey").is_some(),
        };
        match event::read(raw, &mut self.names) {
            Ok(event) => {
                let first = self.first_of_term.entry(event.term).or_insert(record.at_ms);
                *first = record.at_ms.min(*first);
                let last = self.last_of_term.entry(event.term).or_insert(record.at_ms);
                *last = record.at_ms.max(*last);
                let row = event.after.as_ref().filter(|_| *event.table == *LEDGER);
                let told = row.and_then(|row| row.text("id")).map(str::to_owned);
                self.events.push(event);
                told
            }
            Err(words) => {
                self.unreadable.push(words);
                None
            }
        }
    }

    /// The divergences that the markers name.
    pub fn divergences(&self) -> Vec<Divergence> {
        self.markers.iter().filter_map(|marker| Divergence::read(&marker["divergence"])).collect()
    }

    /// The gaps that were accepted or announced to consumers.
    pub fn gaps(&self) -> Vec<Value> {
        self.markers.iter().filter(|marker| marker["type"] != "divergence").cloned().collect()
    }

    /// The gaps that were accepted, with their ranges.
    pub fn accepted_gaps(&self) -> Vec<Gap> {
        self.markers.iter().filter(|marker| marker["type"] == "accept").filter_map(Gap::read).collect()
    }

    /// Whether the id lies on a timeline beyond the point where the database of the last record left it.
    pub fn is_phantom(&self, id: EventId) -> bool {
        let last = self.progress.iter().rev().find_map(|record| record.says.history.as_ref());
        last.is_some_and(|history| {
            history
                .iter()
                .any(|(timeline, switch)| *timeline == id.timeline && parse_lsn(switch).is_some_and(|at| id.lsn >= at))
        })
    }
}
