//! All that a pipeline has committed to Kafka, as the checker judges it: data, progress and markers.

use serde::Deserialize;
use serde_json::Value;

use super::event::{Event, EventId, parse_lsn};

/// What was read from the topics, in any order between partitions, in offset order within one.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Data records.
    pub events: Vec<Event>,
    /// The progress topic's records, in offset order.
    pub progress: Vec<Progress>,
    /// The markers topic's records, in offset order.
    pub markers: Vec<Value>,
    /// Records that could not be read, each in words.
    pub unreadable: Vec<String>,
}

/// A record of the progress topic. The bytes are kept for the hash that the next record carries.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Its offset.
    pub offset: i64,
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
    pub torn: Option<Value>,
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

/// A transaction that is published in part.
#[derive(Debug, Clone, Deserialize)]
pub struct Partial {
    /// Start of its commit record.
    pub final_lsn: String,
    /// How many of its changes are published.
    pub changes_done: u64,
}

/// Ids that consumers have seen and that the surviving database never had, as a marker names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Divergence {
    /// The timeline that was left.
    pub timeline: u32,
    /// The first LSN of it that did not survive.
    pub from: u64,
    /// The last LSN that was published.
    pub to: u64,
}

impl Divergence {
    /// Whether the marker names this id.
    pub fn names(&self, id: EventId) -> bool {
        id.timeline == self.timeline && (self.from..=self.to).contains(&id.lsn)
    }

    fn read(marker: &Value) -> Option<Self> {
        let says = &marker["divergence"];
        let lsn = |key: &str| parse_lsn(says[key].as_str()?);
        let timeline = u32::try_from(says["old_timeline"].as_u64()?).ok()?;
        Some(Divergence { timeline, from: lsn("from_lsn")?, to: lsn("to_lsn")? })
    }
}

impl History {
    /// The divergences that the markers name.
    pub fn divergences(&self) -> Vec<Divergence> {
        self.markers.iter().filter_map(Divergence::read).collect()
    }

    /// The gaps that were accepted or announced to consumers.
    pub fn gaps(&self) -> Vec<Value> {
        self.markers.iter().filter(|marker| marker["type"] != "divergence").cloned().collect()
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
