//! Where we are in the stream of changes. A bare LSN never names an event: it needs the cluster and the timeline.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Lsn, Timeline};

/// The identity of a PostgreSQL cluster since its `initdb`. Text in JSON: it does not fit a double.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemIdentifier(pub u64);

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for SystemIdentifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SystemIdentifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map(SystemIdentifier).map_err(D::Error::custom)
    }
}

/// What was published: everything that commits up to `lsn`, the *end* of a commit record (`Commit.end_lsn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// The timeline that owns `lsn` in the server's history, which need not be the server's current one.
    pub timeline: Timeline,
    /// The end of the last published commit record.
    pub lsn: Lsn,
}

/// What may be acknowledged to PostgreSQL: everything up to `lsn` is durable at the sink or did not concern us.
/// Never below the position's LSN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// The timeline that owns `lsn`.
    pub timeline: Timeline,
    /// The greatest LSN that may be acknowledged.
    pub lsn: Lsn,
}

/// The name of a record for ever, whatever the configuration of the day: `SYSTEM/TIMELINE/COMMIT_LSN/CHANGE[.PART]`,
/// the LSN as PostgreSQL prints it, so that an id has five slashes' worth of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// The timeline that owns the commit record.
    pub timeline: Timeline,
    /// The *start* of the commit record (`Begin.final_lsn`), known from the first change on.
    pub commit_lsn: Lsn,
    /// Counts the changes of the transaction as PostgreSQL sends them, from 0, whatever is filtered.
    pub change: u64,
    /// Tells further records of the same change apart: 0 for the first, then 1, 2.
    pub part: u16,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EventId { system_identifier, timeline, commit_lsn, change, part } = self;
        write!(f, "{system_identifier}/{timeline}/{commit_lsn}/{change}")?;
        if *part > 0 { write!(f, ".{part}") } else { Ok(()) }
    }
}

/// The text is not an event id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an event id; expected SYSTEM/TIMELINE/COMMIT_LSN/CHANGE[.PART]")]
pub struct InvalidEventId(pub String);

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let read = || {
            let mut fields = text.split('/');
            let mut field = || fields.next();
            let system_identifier = SystemIdentifier(field()?.parse().ok()?);
            let timeline = Timeline(field()?.parse().ok()?);
            let commit_lsn = format!("{}/{}", field()?, field()?).parse().ok()?;
            let change = field()?;
            let (change, part) = change.split_once('.').unwrap_or((change, "0"));
            let id = EventId {
                system_identifier,
                timeline,
                commit_lsn,
                change: change.parse().ok()?,
                part: part.parse().ok()?,
            };
            fields.next().is_none().then_some(id)
        };
        read().ok_or_else(|| InvalidEventId(text.to_owned()))
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_id_survives_its_text() {
        for text in ["7300000000000000000/3/0/16B3700/0", "7300000000000000000/3/0/16B3700/12.2"] {
            assert_eq!(text.parse::<EventId>().unwrap().to_string(), text);
        }
        for text in ["", "1/2/0/3", "1/2/0/3/4/5", "1/2/0/3/x", "x/2/0/3/4"] {
            assert!(text.parse::<EventId>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn ids_rise_with_commit_change_and_part() {
        let id = |text: &str| text.parse::<EventId>().unwrap();
        assert!(id("1/1/0/9/3") < id("1/1/0/10/0"));
        assert!(id("1/1/0/9/3") < id("1/1/0/9/3.1"));
        assert!(id("1/1/0/9/3.2") < id("1/1/0/9/4"));
    }
}
