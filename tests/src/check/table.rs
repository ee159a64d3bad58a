//! The tables of the publication as the database has them: columns, keys and rows. Nothing is assumed about which there are.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::row::{Cell, Row};
use super::value::Kind;

/// A column of today.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// How events tell its values.
    pub kind: Kind,
    /// What rows have that are older than the column.
    pub missing: Option<String>,
}

/// A table of the publication and its content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Columns that are published.
    pub columns: Vec<Column>,
    /// Columns of the key; none if rows have no key.
    pub key: Vec<String>,
    /// Whether changes carry the whole old row.
    pub full: bool,
    /// Rows as jsonb tells them, a value for each column.
    pub rows: Vec<Vec<Option<String>>>,
}

/// The tables of the publication by `SCHEMA.TABLE` as their topics are named.
pub type Database = BTreeMap<String, Table>;

impl Table {
    fn kind(&self, column: &str) -> Option<&Column> {
        self.columns.iter().find(|known| known.name == column)
    }

    /// Whether the table has this column today.
    pub fn has(&self, column: &str) -> bool {
        self.kind(column).is_some()
    }

    /// A row of an event in the words of jsonb. Columns that are gone stay as they were told. The error names a value that its
    /// column's type cannot have.
    pub fn translate(&self, told: &Row) -> Result<Row, String> {
        let cells = told.0.iter().map(|(name, cell)| {
            let cell = match (cell, self.kind(name)) {
                (Cell::Text(text), Some(column)) => {
                    let words = column.kind.told(text);
                    Cell::text(words.ok_or_else(|| format!("column {name} cannot be {cell}"))?)
                }
                (cell, _) => cell.clone(),
            };
            Ok((name.clone(), cell))
        });
        cells.collect::<Result<_, String>>().map(Row)
    }

    /// A translated key as one text, its columns in the order of the index.
    pub fn key_of(&self, row: &Row) -> String {
        let text = |column: &String| row.text(column).unwrap_or_default().to_owned();
        self.key.iter().map(text).collect::<Vec<_>>().join("/")
    }

    /// All rows as the database has them.
    pub fn content(&self) -> impl Iterator<Item = Row> {
        let names: Vec<std::sync::Arc<str>> = self.columns.iter().map(|column| column.name.as_str().into()).collect();
        self.rows.iter().map(move |row| {
            let cells = row.iter().zip(&self.columns).map(|(value, column)| match value {
                Some(text) => Cell::text(column.kind.stored(text)),
                None => Cell::Null,
            });
            Row(names.iter().cloned().zip(cells).collect())
        })
    }

    /// What rows have in a column that came after them.
    pub fn missing(&self, column: &str) -> Option<Cell> {
        let column = self.kind(column)?;
        Some(column.missing.as_ref().map_or(Cell::Null, |text| Cell::text(column.kind.stored(text))))
    }

    /// The row with today's columns only, those that it is too old to have filled in.
    pub fn today(&self, row: &Row) -> Row {
        let cell = |column: &Column| match row.get(&column.name) {
            Some(cell) => cell.clone(),
            None => self.missing(&column.name).unwrap_or(Cell::Null),
        };
        Row(self.columns.iter().map(|column| (column.name.as_str().into(), cell(column))).collect())
    }
}

/// What a transaction of the load says about itself in its ledger row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notes {
    /// Who wrote it, and as its how-manieth, where that is known.
    pub order: Option<(String, u64)>,
    /// How many rows it changed.
    pub rows: u64,
    /// A chain of hashes over the lines; `None` if there are none.
    pub digest: Option<String>,
    /// A line for each change, where they are few.
    pub changes: Option<Vec<String>>,
}

/// The topic suffix of the table in which every transaction of the load leaves a row.
pub const LEDGER: &str = "public.ledger";

/// The ledger's rows by id.
pub fn ledger(database: &Database) -> HashMap<String, Notes> {
    let rows = database.get(LEDGER).into_iter().flat_map(Table::content);
    rows.filter_map(|row| Some((row.text("id")?.to_owned(), notes(&row)?))).collect()
}

/// What a ledger row says.
pub fn notes(row: &Row) -> Option<Notes> {
    let order = row.text("client").map(str::to_owned).zip(row.text("number").and_then(|number| number.parse().ok()));
    Some(Notes {
        order,
        rows: row.text("rows")?.parse().ok()?,
        digest: row.text("digest").map(str::to_owned),
        changes: row.text("changes").map(|lines| lines.lines().map(str::to_owned).collect()),
    })
}
