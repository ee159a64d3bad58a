//! The tables as the topics tell them: every change in the order of the ids, and what each did to its row.
//!
//! An unavailable value keeps the one that the row had. A changed key arrives as a delete and a create of one change; there the
//! value is the deleted row's.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::event::Event;
use super::history::Gap;
use super::row::{Cell, Row};
use super::table::{Database, Table};

/// A change as the load's notes tell it. A hash is `-` where there is no row, and unknown where the topics do not say all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The table, without its schema.
    pub table: String,
    /// `c`, `u`, `d` or `t`.
    pub op: char,
    /// Hash of the row before.
    pub before: Option<String>,
    /// Hash of the row after.
    pub after: Option<String>,
    /// The row's key; that of the row after, if it changed.
    pub key: String,
}

impl Line {
    /// As the load writes it; `None` if something is unknown.
    pub fn text(&self) -> Option<String> {
        let (before, after) = (self.before.as_ref()?, self.after.as_ref()?);
        Some(format!("{} {} {before} {after} {}", self.table, self.op, self.key))
    }

    /// Whether it is what the load wrote, as far as it is known.
    pub fn is(&self, noted: &str) -> bool {
        let words: Vec<&str> = noted.splitn(5, ' ').collect();
        let &[table, op, before, after, key] = words.as_slice() else { return false };
        let agrees = |known: &Option<String>, noted: &str| known.as_deref().is_none_or(|known| known == noted);
        (table, key) == (self.table.as_str(), self.key.as_str())
            && op.chars().eq([self.op])
            && agrees(&self.before, before)
            && agrees(&self.after, after)
    }
}

/// The rows of one table.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// By key.
    pub keyed: HashMap<String, Row>,
    /// Those without a key, by the hash of today's columns, with how many times each is there.
    pub keyless: HashMap<String, (Row, u64)>,
}

/// The tables so far.
pub struct Fold<'a> {
    database: &'a Database,
    gaps: &'a [Gap],
    unknown: Table,
    tables: BTreeMap<Arc<str>, Rows>,
    /// Where each key of each table was told last, if there are gaps.
    told_at: HashMap<(Arc<str>, String), (u32, u64)>,
    /// Changes that do not fit to what was told before, each in words.
    pub misfits: Vec<String>,
    /// Rows that cannot be, each in words.
    pub unreadable: Vec<String>,
}

impl<'a> Fold<'a> {
    /// Empty tables; `database` says what their columns mean. What was told before one of the gaps may have changed in it.
    pub fn new(database: &'a Database, gaps: &'a [Gap]) -> Self {
        Fold {
            database,
            gaps,
            told_at: HashMap::new(),
            unknown: Table::default(),
            tables: BTreeMap::new(),
            misfits: Vec::new(),
            unreadable: Vec::new(),
        }
    }

    /// What was told of a table.
    pub fn rows(&self, table: &str) -> Option<&Rows> {
        self.tables.get(table)
    }

    /// Whether anything is missing.
    pub fn has_gaps(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// Whether a gap lies between what was told last of this row and `now`.
    pub fn is_stale(&self, table: &str, key: &str, now: (u32, u64)) -> bool {
        self.has_gaps() && {
            let told = self.told_at.get(&(Arc::from(table), key.to_owned())).copied().unwrap_or_default();
            self.gaps.iter().any(|gap| told < gap.to && gap.to <= now)
        }
    }

    /// Applies all records of one change, in order.
    pub fn apply(&mut self, change: &[&Event]) -> Line {
        let event = change[0];
        let table = self.database.get(&*event.table).unwrap_or(&self.unknown);
        let mut rows = std::mem::take(self.tables.entry(Arc::clone(&event.table)).or_default());
        let mut read = |row: &Option<Row>| {
            let row = row.as_ref()?;
            table.translate(row).map_err(|words| self.unreadable.push(format!("{event}: {words}"))).ok()
        };
        let created = change.iter().find(|other| event.moves && other.op == 'c');
        let (key, new_key) = (read(&event.key), created.and_then(|created| read(&created.key)));
        let before = read(&event.before);
        let after = read(created.map_or(&event.after, |created| &created.after));
        let shape = after.clone().or(before.clone()).unwrap_or_default();
        // The key alone is told of the old row unless the table's identity is the whole of it.
        let before = before.filter(|_| table.full);
        let name = event.table.split_once('.').map_or(&*event.table, |(_, name)| name).to_owned();
        let text = |key: &Row| if table.key.is_empty() { key.to_string() } else { table.key_of(key) };
        let (op, key) = match (event.op, &key, &new_key) {
            ('d', Some(old), Some(new)) => ('u', (Some(text(old)), Some(text(new)))),
            ('d', old, _) => ('d', (old.as_ref().map(text), None)),
            ('c', new, _) => ('c', (None, new.as_ref().map(text))),
            (op, same, _) => (op, (same.as_ref().map(text), same.as_ref().map(text))),
        };
        let mut line = Line {
            table: name,
            op,
            before: Some("-".into()),
            after: Some("-".into()),
            key: key.1.clone().or(key.0.clone()).unwrap_or_default(),
        };
        if op == 't' {
            rows = Rows::default();
        }
        let at = (event.id.timeline, event.id.lsn);
        let mut stale = false;
        if self.has_gaps() {
            // Of rows without a key nobody can say which one it was.
            stale = table.key.is_empty();
            for key in [&key.0, &key.1].into_iter().flatten() {
                stale |= self.is_stale(&event.table, key, at);
                self.told_at.insert((Arc::clone(&event.table), key.clone()), at);
            }
        }
        let misfits = self.misfits.len();
        let mut old = None;
        if matches!(op, 'u' | 'd') {
            old = match &key.0 {
                Some(key) => rows.keyed.remove(key),
                None => before.as_ref().and_then(|row| take_one(&mut rows, table, row)),
            };
            if old.is_none() {
                self.misfits.push(format!("{event} changes a row that its topic does not have"));
            }
            if let (Some(old), Some(before)) = (&old, &before)
                && !agree(&table.today(old), &table.today(before), !self.gaps.is_empty())
            {
                self.misfits.push(format!("{event} says that the row was {before}, its topic had {old}"));
            }
            line.before = match &before {
                Some(before) => before.hash(),
                None if stale => None,
                None => old.as_ref().and_then(|old| shaped(old, &shape, table)).and_then(|old| old.hash()),
            };
        }
        if let Some(mut row) = after {
            let is_whole = row.0.iter().all(|(_, cell)| *cell != Cell::Unavailable);
            for (name, cell) in row.0.iter_mut().filter(|(_, cell)| *cell == Cell::Unavailable) {
                // What was told before a gap may have changed in it.
                let told = old.as_ref().filter(|_| !stale).and_then(|old| old.get(name));
                let older = told.or(before.as_ref().and_then(|row| row.get(name)));
                if let Some(older) = older {
                    *cell = older.clone();
                }
            }
            if self.gaps.is_empty() && row.0.iter().any(|(_, cell)| *cell == Cell::Unavailable) {
                self.misfits.push(format!("{event} leaves a value open that was never told"));
            }
            line.after = row.hash().filter(|_| is_whole || !stale);
            let earlier = match key.1 {
                Some(key) => rows.keyed.insert(key, row),
                None => {
                    let hash = table.today(&row).hash().unwrap_or_default();
                    rows.keyless.entry(hash).or_insert((row, 0)).1 += 1;
                    None
                }
            };
            if let Some(earlier) = earlier {
                self.misfits.push(format!("{event} makes a row that its topic has already: {earlier}"));
            }
        }
        if stale {
            self.misfits.truncate(misfits);
        }
        self.tables.insert(Arc::clone(&event.table), rows);
        line
    }
}

/// Whether the rows are the same. With gaps, a value that was told in none of what is left agrees with any.
pub fn agree(told: &Row, other: &Row, has_gaps: bool) -> bool {
    let same =
        |(name, cell): &(Arc<str>, Cell)| other.get(name) == Some(cell) || (has_gaps && *cell == Cell::Unavailable);
    told.0.len() == other.0.len() && told.0.iter().all(same)
}

/// One of the equal rows without a key.
fn take_one(rows: &mut Rows, table: &Table, row: &Row) -> Option<Row> {
    let hash = table.today(row).hash()?;
    let (row, count) = rows.keyless.get_mut(&hash)?;
    let row = row.clone();
    *count -= 1;
    if *count == 0 {
        rows.keyless.remove(&hash);
    }
    Some(row)
}

/// An older row with the columns that the table had at the time of the change; `None` where it is not known what it had in one.
fn shaped(old: &Row, shape: &Row, table: &Table) -> Option<Row> {
    let cell = |name: &Arc<str>| old.get(name).cloned().or_else(|| table.missing(name));
    shape.0.iter().map(|(name, _)| Some((Arc::clone(name), cell(name)?))).collect::<Option<_>>().map(Row)
}
