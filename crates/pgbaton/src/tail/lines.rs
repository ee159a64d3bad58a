//! One line for each change: for people, or as flat JSON. Keeps what the stream said about tables and the transaction.

use std::collections::HashMap;
use std::fmt::Write as _;

use pgbaton_core::{Column, Datum, Lsn, Relation, ReplicaIdentity};
use pgbaton_postgres::Malformed;
use pgbaton_postgres::pgoutput::{Message, Tuple, decode};
use serde_json::{Value, json};

use crate::driver::rfc3339_micros;

/// PostgreSQL counts microseconds from 2000-01-01, Unix from 1970.
const UNIX_TO_POSTGRES_MICROS: i64 = 946_684_800_000_000;

/// What came cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It is not pgoutput.
    #[error("the server sent something else than pgoutput: {0}")]
    Malformed(#[from] Malformed),
    /// A change outside of a transaction, or of a table that was not described.
    #[error("the server sent a change out of order")]
    OutOfOrder,
}

/// Makes lines of pgoutput messages, which come in the order of the stream.
#[derive(Debug)]
pub struct Lines {
    json: bool,
    relations: HashMap<u32, Relation>,
    transaction: Option<Transaction>,
    committed: Lsn,
}

#[derive(Debug)]
struct Transaction {
    xid: u32,
    commit_lsn: Lsn,
    committed_at: String,
}

/// One change, taken apart.
struct Change<'a> {
    op: Op,
    relation: &'a Relation,
    key: Option<Tuple<'a>>,
    before: Option<Tuple<'a>>,
    after: Option<Tuple<'a>>,
}

#[derive(Clone, Copy)]
enum Op {
    Insert,
    Update,
    Delete,
    Truncate,
}

impl Op {
    /// Debezium's letter.
    fn letter(self) -> &'static str {
        match self {
            Op::Insert => "c",
            Op::Update => "u",
            Op::Delete => "d",
            Op::Truncate => "t",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Op::Insert => "INSERT",
            Op::Update => "UPDATE",
            Op::Delete => "DELETE",
            Op::Truncate => "TRUNCATE",
        }
    }
}

impl Lines {
    /// Lines for people, or JSON objects.
    pub fn new(json: bool) -> Self {
        Lines { json, relations: HashMap::new(), transaction: None, committed: Lsn::INVALID }
    }

    /// The end of the last transaction that was shown whole.
    pub fn committed(&self) -> Lsn {
        self.committed
    }

    /// The lines of one message: none, one, or one for each table of a TRUNCATE.
    ///
    /// # Errors
    /// See [`Broken`].
    pub fn of(&mut self, at: Lsn, data: &[u8]) -> Result<Vec<String>, Broken> {
        let (op, relation, key, before, after) = match decode(data)? {
            Message::Begin { final_lsn, commit_time, xid } => {
                let committed_at = rfc3339_micros(commit_time.saturating_add(UNIX_TO_POSTGRES_MICROS));
                self.transaction = Some(Transaction { xid, commit_lsn: final_lsn, committed_at });
                return Ok(Vec::new());
            }
            Message::Commit { end_lsn, .. } => {
                self.transaction = None;
                self.committed = end_lsn;
                return Ok(Vec::new());
            }
            Message::Relation(relation) => {
                self.relations.insert(relation.oid, relation);
                return Ok(Vec::new());
            }
            Message::Truncate { relations, .. } => {
                let line = |oid: &u32| {
                    let relation = self.relation(*oid)?;
                    self.line(at, &Change { op: Op::Truncate, relation, key: None, before: None, after: None })
                };
                return relations.iter().map(line).collect();
            }
            Message::Insert { relation, new } => (Op::Insert, relation, Some(new), None, Some(new)),
            Message::Update { relation, old, new } => {
                (Op::Update, relation, Some(new), old.map(|old| old.tuple), Some(new))
            }
            Message::Delete { relation, old } => (Op::Delete, relation, Some(old.tuple), Some(old.tuple), None),
            Message::Origin { .. } | Message::Type { .. } | Message::Message { .. } => return Ok(Vec::new()),
        };
        let relation = self.relation(relation)?;
        // With REPLICA IDENTITY FULL every column identifies the row: that is what `before` is for.
        let key =
            key.filter(|_| relation.identity != ReplicaIdentity::Full && relation.columns.iter().any(|c| c.identity));
        Ok(vec![self.line(at, &Change { op, relation, key, before, after })?])
    }

    fn relation(&self, oid: u32) -> Result<&Relation, Broken> {
        self.relations.get(&oid).ok_or(Broken::OutOfOrder)
    }

    fn line(&self, at: Lsn, change: &Change<'_>) -> Result<String, Broken> {
        let transaction = self.transaction.as_ref().ok_or(Broken::OutOfOrder)?;
        Ok(if self.json { as_json(at, transaction, change) } else { as_text(at, transaction, change) })
    }
}

/// Columns of a row, in the table's order. What was not sent, and what an old key does not hold, is left out.
fn columns<'a>(
    relation: &'a Relation,
    tuple: Tuple<'a>,
    keys_only: bool,
) -> impl Iterator<Item = (&'a Column, Datum<'a>)> {
    relation.columns.iter().zip(tuple.walk()).filter(move |(column, _)| !keys_only || column.identity)
}

/// The old image holds nothing but the key, unless the whole row identifies it.
fn old_is_key(relation: &Relation) -> bool {
    relation.identity != ReplicaIdentity::Full
}

fn as_json(at: Lsn, transaction: &Transaction, change: &Change<'_>) -> String {
    let Change { op, relation, key, before, after } = change;
    let mut out = String::new();
    let head = [
        ("op", json!(op.letter())),
        ("schema", json!(relation.schema)),
        ("table", json!(relation.table)),
        ("lsn", json!(at)),
        ("commit_lsn", json!(transaction.commit_lsn)),
        ("xid", json!(transaction.xid)),
        ("committed_at", json!(transaction.committed_at)),
    ];
    for (name, value) in head {
        let _ = write!(out, "{}\"{name}\":{value}", if out.is_empty() { "{" } else { "," });
    }
    let row = |tuple: &Option<Tuple<'_>>, keys_only: bool| match tuple {
        None => "null".to_owned(),
        Some(tuple) => {
            let sent = columns(relation, *tuple, keys_only).filter(|(_, datum)| !matches!(datum, Datum::Unchanged));
            let fields: Vec<_> =
                sent.map(|(column, datum)| format!("{}:{}", json!(column.name), value(column, datum))).collect();
            format!("{{{}}}", fields.join(","))
        }
    };
    let _ = write!(out, ",\"key\":{}", row(key, true));
    let _ = write!(out, ",\"before\":{},\"after\":{}", row(before, old_is_key(relation)), row(after, false));
    let unchanged: Vec<_> = after.iter().flat_map(|row| unchanged(relation, *row)).collect();
    if !unchanged.is_empty() {
        let _ = write!(out, ",\"unchanged\":{}", json!(unchanged));
    }
    out.push('}');
    out
}

/// The columns whose large values the change left alone, so that PostgreSQL did not send them.
fn unchanged<'a>(relation: &'a Relation, row: Tuple<'a>) -> Vec<&'a str> {
    let unsent = columns(relation, row, false).filter(|(_, datum)| matches!(datum, Datum::Unchanged));
    unsent.map(|(column, _)| column.name.as_str()).collect()
}

fn as_text(at: Lsn, transaction: &Transaction, change: &Change<'_>) -> String {
    let Change { op, relation, before, after, .. } = change;
    let table = printable(&format!("{}.{}", relation.schema, relation.table));
    let mut line = format!("{at} xid {} {} {table}", transaction.xid, op.word());
    if let Some(after) = after {
        put(&mut line, columns(relation, *after, false));
    }
    if let Some(before) = before {
        if after.is_some() {
            line.push_str(" was:");
        }
        put(&mut line, columns(relation, *before, old_is_key(relation)));
    }
    line
}

fn put<'a>(line: &mut String, columns: impl Iterator<Item = (&'a Column, Datum<'a>)>) {
    for (column, datum) in columns {
        let name = printable(&column.name);
        let _ = match datum {
            Datum::Unchanged => write!(line, " {name}=(unchanged)"),
            datum => write!(line, " {name}={}", value(column, datum)),
        };
    }
}

/// Numbers and truth values as such, all else as the text that PostgreSQL prints. JSON in both forms, so that no value can
/// move the cursor of a terminal.
fn value(column: &Column, datum: Datum<'_>) -> Value {
    const BOOL: u32 = 16;
    const INTEGERS: [u32; 4] = [20, 21, 23, 26];
    const FLOATS: [u32; 2] = [700, 701];
    let Datum::Text(bytes) = datum else { return Value::Null };
    // A SQL_ASCII database sends what it stores.
    let text = String::from_utf8_lossy(bytes);
    match column.type_oid {
        BOOL if text == "t" || text == "f" => Value::Bool(text == "t"),
        oid if INTEGERS.contains(&oid) => text.parse::<i64>().map_or_else(|_| Value::from(text.as_ref()), Value::from),
        // NaN and infinities are no JSON numbers.
        oid if FLOATS.contains(&oid) => {
            let number = text.parse().ok().and_then(serde_json::Number::from_f64);
            number.map_or_else(|| Value::from(text.as_ref()), Value::Number)
        }
        _ => Value::from(text.as_ref()),
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}
