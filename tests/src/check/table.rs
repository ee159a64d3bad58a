//! The three tables of the test database, their columns, and how a row is told in the same words by a topic and by SQL.

use std::collections::BTreeMap;
use std::fmt;

/// A table of the test database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// One row per transaction that committed: the truth about outcomes.
    Ledger,
    /// Rows with inserts, updates, deletes, key changes and large values.
    Items,
    /// A few hot rows.
    Latest,
}

/// How a column's values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Text and uuid.
    Text,
    /// Whole numbers.
    Integer,
    /// `numeric(12,2)`, compared as a whole number of hundredths.
    Cents,
    /// `timestamptz`, compared as UTC text with microseconds.
    Time,
}

impl Table {
    /// All tables.
    pub const ALL: [Table; 3] = [Table::Ledger, Table::Items, Table::Latest];

    /// Its name in the database, schema `public`.
    pub fn name(self) -> &'static str {
        match self {
            Table::Ledger => "ledger",
            Table::Items => "items",
            Table::Latest => "latest",
        }
    }

    /// Its columns; the first is the key.
    pub fn columns(self) -> &'static [(&'static str, Column)] {
        match self {
            Table::Ledger => &[
                ("id", Column::Text),
                ("client", Column::Integer),
                ("number", Column::Integer),
                ("rows", Column::Integer),
                ("at", Column::Time),
            ],
            Table::Items => &[
                ("id", Column::Integer),
                ("owner", Column::Integer),
                ("name", Column::Text),
                ("amount", Column::Cents),
                ("note", Column::Text),
                ("at", Column::Time),
            ],
            Table::Latest => &[("id", Column::Integer), ("value", Column::Integer), ("note", Column::Text)],
        }
    }

    /// The query that tells the whole table as text, columns in order.
    pub fn query(self) -> String {
        let columns: Vec<String> = self
            .columns()
            .iter()
            .map(|(name, column)| match column {
                Column::Text | Column::Integer => format!("\"{name}\"::text"),
                Column::Cents => format!("(\"{name}\" * 100)::bigint::text"),
                Column::Time => format!("to_char(\"{name}\" at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"),
            })
            .collect();
        format!("select {} from public.{}", columns.join(", "), self.name())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A column's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// SQL null.
    Null,
    /// A value, in the words of [`Column`].
    Text(String),
    /// Not sent, because the change left a large value where it was.
    Unavailable,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Null => f.write_str("null"),
            Cell::Text(text) if text.len() > 60 => {
                write!(f, "{:?}... ({} bytes)", text.chars().take(40).collect::<String>(), text.len())
            }
            Cell::Text(text) => write!(f, "{text:?}"),
            Cell::Unavailable => f.write_str("(unavailable)"),
        }
    }
}

/// A row: the cells of its columns, in order.
pub type Row = Vec<Cell>;

/// The content of the tables: by table, by key.
pub type Content = BTreeMap<Table, BTreeMap<String, Row>>;
