//! A row as a topic or a table tells it: its columns by name, each value as text, and the hash by which the load's notes
//! name a row.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// A column's value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Cell {
    /// SQL null.
    Null,
    /// A value.
    Text(Box<str>),
    /// Debezium's placeholder: the change did not touch it and PostgreSQL did not send it.
    Unavailable,
}

impl Cell {
    /// A value.
    pub fn text(text: impl Into<Box<str>>) -> Self {
        Cell::Text(text.into())
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Null => f.write_str("null"),
            Cell::Unavailable => f.write_str("(unavailable)"),
            Cell::Text(text) if text.chars().count() <= 40 => write!(f, "{text:?}"),
            Cell::Text(text) => {
                write!(f, "{:?}... of {} bytes", text.chars().take(24).collect::<String>(), text.len())
            }
        }
    }
}

/// What stands for a value that PostgreSQL did not send because the change left it where it was.
const UNAVAILABLE: [&str; 3] =
    ["__debezium_unavailable_value", "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==", "[\"__debezium_unavailable_value\"]"];

/// A row: column names and values, in the order in which they were told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Row(pub Vec<(Arc<str>, Cell)>);

impl Row {
    /// Reads a row image of an event. Strings, numbers and booleans become their text; what they mean is the table's to say.
    pub fn read(fields: &Map<String, Value>, names: &mut Names) -> Self {
        let cell = |value: &Value| match value {
            Value::Null => Cell::Null,
            Value::String(text) => Cell::text(text.as_str()),
            other => Cell::text(other.to_string()),
        };
        let cell = |value| match cell(value) {
            Cell::Text(text) if UNAVAILABLE.contains(&&*text) => Cell::Unavailable,
            cell => cell,
        };
        Row(fields.iter().map(|(name, value)| (names.get(name), cell(value))).collect())
    }

    /// The value of a column; `None` where the row has no such column.
    pub fn get(&self, name: &str) -> Option<&Cell> {
        self.0.iter().find(|(known, _)| **known == *name).map(|(_, cell)| cell)
    }

    /// The text of a column; `None` where it has none.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Cell::Text(text) => Some(text),
            Cell::Null | Cell::Unavailable => None,
        }
    }

    /// The hash that the load notes of a row; `None` if some value is unavailable.
    pub fn hash(&self) -> Option<String> {
        let mut columns: Vec<&(Arc<str>, Cell)> = self.0.iter().collect();
        columns.sort_by(|a, b| a.0.cmp(&b.0));
        let mut text = String::new();
        for (index, (name, cell)) in columns.into_iter().enumerate() {
            let value = match cell {
                Cell::Null => "\u{1}",
                Cell::Text(text) => text,
                Cell::Unavailable => return None,
            };
            let line = if index == 0 { "" } else { "\n" };
            write!(text, "{line}{name}={value}").expect("a string takes all");
        }
        Some(hex(&Sha256::digest(text.as_bytes()))[..16].to_owned())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (index, (name, cell)) in self.0.iter().enumerate() {
            write!(f, "{}{name} {cell}", if index == 0 { "" } else { ", " })?;
        }
        f.write_str(")")
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

/// Column names, each kept once however many rows have it.
#[derive(Debug, Clone, Default)]
pub struct Names(Vec<Arc<str>>);

impl Names {
    /// The one copy of a name.
    pub fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| ***known == *name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.0.push(Arc::clone(&name));
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_that_sql_makes() {
        // select lab.row_hash('{"id": 5, "b": null, "a": "x"}'), computed by hand: lines by name, null as byte 1.
        let row = Row(vec![("id".into(), Cell::text("5")), ("b".into(), Cell::Null), ("a".into(), Cell::text("x"))]);
        let expected = hex(&Sha256::digest(b"a=x\nb=\x01\nid=5"))[..16].to_owned();
        assert_eq!(row.hash(), Some(expected));
        assert_eq!(Row(vec![("a".into(), Cell::Unavailable)]).hash(), None);
    }

    #[test]
    fn a_placeholder_is_no_text() {
        let fields = serde_json::json!({"note": "__debezium_unavailable_value", "n": 5, "t": true, "z": null});
        let row = Row::read(fields.as_object().unwrap(), &mut Names::default());
        assert_eq!(row.get("note"), Some(&Cell::Unavailable));
        assert_eq!((row.text("n"), row.text("t"), row.get("z")), (Some("5"), Some("true"), Some(&Cell::Null)));
    }
}
