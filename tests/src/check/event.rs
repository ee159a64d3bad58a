//! One record of a data topic, read as a stranger would: from its headers, key and JSON alone.
//!
//! Nothing here is shared with the code that writes the records; a mistake made there is not repeated here.

use std::fmt;

use base64::Engine;
use serde_json::Value;

use super::table::{Cell, Column, Row, Table};

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

/// What a record does to its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The key has this row from now on.
    Put(Row),
    /// The key has no row from now on.
    Delete,
    /// The value is null: compaction may forget the key.
    Tombstone,
    /// All rows of the table are gone.
    Truncate,
}

/// One committed record of a data topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The table that its topic stands for.
    pub table: Table,
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
    /// The row's key.
    pub key: String,
    /// What it does.
    pub effect: Effect,
    /// Whether it is the delete of a key that goes on under another name.
    pub moves: bool,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} (id {}, term {}, partition {} offset {})",
            self.table, self.op, self.key, self.id, self.term, self.partition, self.offset
        )
    }
}

/// A record as Kafka hands it over.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a> {
    /// The table that its topic stands for.
    pub table: Table,
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

/// Reads a record; the error says in words what is wrong with it.
pub fn read(raw: Raw<'_>) -> Result<Event, String> {
    let at = || format!("{} partition {} offset {}", raw.table, raw.partition, raw.offset);
    let id = raw.id.ok_or_else(|| format!("{} has no pgbaton.id", at()))?;
    let id = EventId::parse(id).ok_or_else(|| format!("{} has the unreadable pgbaton.id {id:?}", at()))?;
    let term = raw
        .term
        .and_then(|term| term.parse().ok())
        .ok_or_else(|| format!("{} has no readable pgbaton.term: {:?}", at(), raw.term))?;
    let event = |op, key, effect| Event {
        table: raw.table,
        partition: raw.partition,
        offset: raw.offset,
        id,
        term,
        op,
        key,
        effect,
        moves: raw.moves,
    };
    let Some(value) = raw.value else {
        return Ok(event('-', key_of(raw).map_err(|what| format!("{} {what}", at()))?, Effect::Tombstone));
    };
    let value: Value = serde_json::from_slice(value).map_err(|error| format!("{} is no JSON: {error}", at()))?;
    let op = value["op"].as_str().and_then(|op| op.chars().next()).unwrap_or('?');
    if op == 't' {
        return Ok(event(op, String::new(), Effect::Truncate));
    }
    let key = key_of(raw).map_err(|what| format!("{} {what}", at()))?;
    match op {
        'c' | 'u' | 'r' => {
            let row = row_of(raw.table, &value["after"]).map_err(|what| format!("{}: {what}", at()))?;
            if row[0] != Cell::Text(key.clone()) {
                return Err(format!("{} has key {key} but its row says {:?}", at(), row[0]));
            }
            Ok(event(op, key, Effect::Put(row)))
        }
        'd' => Ok(event(op, key, Effect::Delete)),
        _ => Err(format!("{} has the unknown op {}", at(), value["op"])),
    }
}

fn key_of(raw: Raw<'_>) -> Result<String, String> {
    let key = raw.key.ok_or("has no key")?;
    let key: Value = serde_json::from_slice(key).map_err(|error| format!("has a key that is no JSON: {error}"))?;
    match &key["id"] {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(format!("has the key {key} without id")),
    }
}

/// What stands for a value that PostgreSQL did not send because the change left it where it was.
pub const UNAVAILABLE: &str = "__debezium_unavailable_value";

fn row_of(table: Table, after: &Value) -> Result<Row, String> {
    let Value::Object(fields) = after else { return Err(format!("no row after the change: {after}")) };
    let columns = table.columns();
    if fields.len() != columns.len() {
        return Err(format!("{} columns, the table has {}", fields.len(), columns.len()));
    }
    columns
        .iter()
        .map(|(name, column)| {
            let value = fields.get(*name).ok_or_else(|| format!("column {name} is missing"))?;
            cell_of(*column, value).ok_or_else(|| format!("column {name} has the unexpected value {value}"))
        })
        .collect()
}

fn cell_of(column: Column, value: &Value) -> Option<Cell> {
    match (column, value) {
        (_, Value::Null) => Some(Cell::Null),
        (Column::Text, Value::String(text)) if text == UNAVAILABLE => Some(Cell::Unavailable),
        (Column::Text | Column::Time, Value::String(text)) => Some(Cell::Text(text.clone())),
        (Column::Integer, Value::Number(number)) => Some(Cell::Text(number.to_string())),
        (Column::Cents, Value::String(text)) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
            unscaled(&bytes).map(|cents| Cell::Text(cents.to_string()))
        }
        _ => None,
    }
}

/// A two's complement number, most significant byte first.
fn unscaled(bytes: &[u8]) -> Option<i64> {
    if bytes.is_empty() || bytes.len() > 8 {
        return None;
    }
    let start = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
    Some(bytes.iter().fold(start, |number: i64, byte| (number << 8) | i64::from(*byte)))
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
    fn decimals_are_two_s_complement_of_any_length() {
        assert_eq!(unscaled(&[0x30, 0x39]), Some(12345));
        assert_eq!(unscaled(&[0xFF]), Some(-1));
        assert_eq!(unscaled(&[0x00, 0x80]), Some(128));
        assert_eq!(unscaled(&[]), None);
    }

    #[test]
    fn a_row_is_read_by_its_columns_and_a_placeholder_is_no_text() {
        let value = br#"{"before":null,"after":{"id":5,"owner":1,"name":"n","amount":"MDk=","note":"__debezium_unavailable_value","at":"2024-02-28T23:02:03.123456Z"},"op":"u"}"#;
        let raw = Raw {
            table: Table::Items,
            partition: 0,
            offset: 7,
            id: Some("7/1/0/10/0"),
            term: Some("2"),
            key: Some(br#"{"id":5}"#),
            value: Some(value),
            moves: false,
        };
        let event = read(raw).unwrap();
        let Effect::Put(row) = event.effect else { panic!("no row") };
        assert_eq!(row[3], Cell::Text("12345".into()));
        assert_eq!(row[4], Cell::Unavailable);
        assert!(read(Raw { id: None, ..raw }).unwrap_err().contains("no pgbaton.id"));
        assert!(read(Raw { key: Some(br#"{"id":6}"#), ..raw }).unwrap_err().contains("its row says"));
    }
}
