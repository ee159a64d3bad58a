//! One record of a data topic, read as a stranger would: from its headers, key and JSON alone.
//!
//! Nothing here is shared with the code that writes the records; a mistake made there is not repeated here.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::row::{Names, Row};

/// The id of a record: `SYSTEM/TIMELINE/COMMIT_LSN/CHANGE[.PART]`. Ids of one history are ordered as the fields are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// System identifier of the database.
    pub system: u64,
    /// Timeline that owns the commit record.
    pub timeline: u32,
    /// Start of the commit record.
    pub lsn: u64,
    /// Counts the changes of the transaction from 0.
    pub change: u64,
    /// Tells further records of one change apart.
    pub part: u8,
}

impl EventId {
    /// Reads an id as the header has it; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('/');
        let system = fields.next()?.parse().ok()?;
        let timeline = fields.next()?.parse().ok()?;
        let lsn = lsn(fields.next()?, fields.next()?)?;
        let last = fields.next()?;
        if fields.next().is_some() {
            return None;
        }
        let (change, part) = match last.split_once('.') {
            None => (last, 0),
            Some((change, part)) => (change, part.parse().ok()?),
        };
        Some(EventId { system, timeline, lsn, change: change.parse().ok()?, part })
    }

    /// The transaction that the record belongs to.
    pub fn transaction(self) -> (u32, u64) {
        (self.timeline, self.lsn)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.system, self.timeline, lsn_text(self.lsn), self.change)?;
        if self.part > 0 { write!(f, ".{}", self.part) } else { Ok(()) }
    }
}

/// Reads an LSN as PostgreSQL prints it.
pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    lsn(high, low)
}

fn lsn(high: &str, low: &str) -> Option<u64> {
    Some((u64::from(u32::from_str_radix(high, 16).ok()?) << 32) | u64::from(u32::from_str_radix(low, 16).ok()?))
}

/// An LSN as PostgreSQL prints it.
pub fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

/// One committed record of a data topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The table that its topic stands for, as the topic names it.
    pub table: Arc<str>,
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// `pgbaton.id`.
    pub id: EventId,
    /// `pgbaton.term`.
    pub term: u64,
    /// The operation letter, `c`, `u`, `d` or `t`; `-` for a tombstone.
    pub op: char,
    /// The row's key, if its table has one.
    pub key: Option<Row>,
    /// The row before, as far as it was told.
    pub before: Option<Row>,
    /// The row after.
    pub after: Option<Row>,
    /// Whether it is the delete of a key that goes on under another name.
    pub moves: bool,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.table, self.op)?;
        if let Some(key) = &self.key {
            write!(f, "{key} ")?;
        }
        write!(f, "(id {}, term {}, partition {} offset {})", self.id, self.term, self.partition, self.offset)
    }
}

/// A record of a data topic as Kafka hands it over.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a> {
    /// The table that its topic stands for.
    pub table: &'a Arc<str>,
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// `pgbaton.id`, if there.
    pub id: Option<&'a str>,
    /// `pgbaton.term`, if there.
    pub term: Option<&'a str>,
    /// The key's bytes.
    pub key: Option<&'a [u8]>,
    /// The value's bytes.
    pub value: Option<&'a [u8]>,
    /// Whether a header `__debezium.newkey` is there.
    pub moves: bool,
}

#[derive(Deserialize)]
struct Envelope {
    before: Option<Map<String, Value>>,
    after: Option<Map<String, Value>>,
    op: String,
    source: Option<Source>,
}

#[derive(Deserialize)]
struct Source {
    schema: String,
    table: String,
}

/// Reads a record; the error says in words what is wrong with it.
pub fn read(raw: Raw<'_>, names: &mut Names) -> Result<Event, String> {
    let wrong = |what: String| format!("{} partition {} offset {} {what}", raw.table, raw.partition, raw.offset);
    let id = raw.id.ok_or_else(|| wrong("has no pgbaton.id".into()))?;
    let id = EventId::parse(id).ok_or_else(|| wrong(format!("has the unreadable pgbaton.id {id:?}")))?;
    let term = raw.term.and_then(|term| term.parse().ok());
    let term = term.ok_or_else(|| wrong(format!("has no readable pgbaton.term: {:?}", raw.term)))?;
    let key = match raw.key {
        None => None,
        Some(key) => {
            let fields: Map<String, Value> =
                serde_json::from_slice(key).map_err(|error| wrong(format!("has an unreadable key: {error}")))?;
            Some(Row::read(&fields, names))
        }
    };
    let table = Arc::clone(raw.table);
    let (partition, offset, moves) = (raw.partition, raw.offset, raw.moves);
    let mut event = Event { table, partition, offset, id, term, op: '-', key, before: None, after: None, moves };
    let Some(value) = raw.value else {
        return if event.key.is_some() { Ok(event) } else { Err(wrong("has neither key nor value".into())) };
    };
    let envelope: Envelope = serde_json::from_slice(value).map_err(|error| wrong(format!("is no event: {error}")))?;
    if let Some(source) = &envelope.source {
        let place = format!("{}.{}", source.schema, source.table);
        if !place
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
            .eq(raw.table.chars())
        {
            return Err(wrong(format!("is of table {place}")));
        }
    }
    event.before = envelope.before.map(|row| Row::read(&row, names));
    event.after = envelope.after.map(|row| Row::read(&row, names));
    event.op = match (envelope.op.as_str(), &event.before, &event.after) {
        ("c" | "r", None, Some(_)) => 'c',
        ("u", _, Some(_)) => 'u',
        ("d", Some(_), None) => 'd',
        ("t", None, None) => 't',
        (op, ..) => return Err(wrong(format!("has op {op:?} with a row before or after that does not go with it"))),
    };
    if let (Some(key), Some(row)) = (&event.key, event.after.as_ref().or(event.before.as_ref())) {
        for (name, cell) in &key.0 {
            if row.get(name) != Some(cell) {
                return Err(wrong(format!("has key {key} but the row {row}")));
            }
        }
    }
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_was_written() {
        for text in ["7300000000000000000/3/0/16B3700/12", "7300000000000000000/3/1A/16B3700/12.2"] {
            assert_eq!(EventId::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "7/3/0/16B3700", "7/3/16B3700/1", "7/3/0/16B3700/1/2", "7/3/0/XYZ/1", "7/3/0/1/1."] {
            assert_eq!(EventId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_record_is_read_by_its_envelope_and_what_contradicts_itself_is_refused() {
        let value = br#"{"before":null,"after":{"id":5,"note":"__debezium_unavailable_value"},"source":{"schema":"public","table":"items"},"op":"u"}"#;
        let (items, latest): (Arc<str>, Arc<str>) = ("public.items".into(), "public.latest".into());
        let raw = Raw {
            table: &items,
            partition: 0,
            offset: 7,
            id: Some("7/1/0/10/0"),
            term: Some("2"),
            key: Some(br#"{"id":5}"#),
            value: Some(value),
            moves: false,
        };
        let names = &mut Names::default();
        let event = read(raw, names).unwrap();
        assert_eq!((event.op, event.after.unwrap().text("id")), ('u', Some("5")));
        assert!(read(Raw { id: None, ..raw }, names).unwrap_err().contains("no pgbaton.id"));
        assert!(read(Raw { key: Some(br#"{"id":6}"#), ..raw }, names).unwrap_err().contains("but the row"));
        assert!(read(Raw { table: &latest, ..raw }, names).unwrap_err().contains("of table public.items"));
        assert_eq!(read(Raw { value: None, ..raw }, names).unwrap().op, '-');
    }
}
