//! Makes good histories: what a database, Kafka, etcd and workers would have if all went as it should, with everything that
//! may rightly happen: sessions, tenures, aborted transactions, chunks, torn transactions, forks with and without phantoms.

mod beside;

use std::collections::BTreeMap;

use base64::Engine;
use fastrand::Rng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::recording::{Partition, Recording};
use crate::check::batches::{Batch, Sort};
use crate::check::event::lsn_text;
use crate::check::history::Record;
use crate::check::ownership::{Ownership, Write};
use crate::check::row::{Cell, Row, hex};
use crate::check::samples::{Sample, Server, Shows, Worker};
use crate::check::table::{Column, Table};
use crate::check::value::Kind;

const SYSTEM: u64 = 7_300_000_000_000_000_000;
const PARTITIONS: u32 = 3;
const PREFIX: &str = "made";
const PROGRESS: &str = "__pgbaton.made.progress";
const MARKERS: &str = "__pgbaton.made.markers";
const PLACEHOLDER: &str = "__debezium_unavailable_value";
const WORKERS: [&str; 2] = ["worker-1", "worker-2"];

/// A row's values by column.
type Values = BTreeMap<&'static str, Option<String>>;

/// A record that is not written yet.
#[derive(Clone)]
struct Told {
    topic: String,
    partition: i32,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(String, String)>,
}

/// One change of a transaction: its records, all with its number in their ids.
struct Change {
    table: &'static str,
    records: Vec<(Option<Value>, Option<Value>, Option<&'static str>)>,
    line: Option<String>,
}

struct World {
    rng: Rng,
    made: Recording,
    offsets: BTreeMap<(String, i32), i64>,
    batches: BTreeMap<(String, i32), Vec<Batch>>,
    clock_ms: i64,
    timeline: u32,
    history: Vec<(u32, u64)>,
    /// The end of the last commit record.
    lsn: u64,
    position: (u32, u64),
    last: Value,
    partial: Value,
    torn: Value,
    /// The gap that the next claim accepts.
    accepted: Value,
    term: u64,
    session: u64,
    number: u64,
    worker: &'static str,
    revision: i64,
    hash: Option<String>,
    rows: BTreeMap<&'static str, BTreeMap<u64, Values>>,
    next_id: u64,
    xid: u64,
}

/// A good history, drawn from a seed.
pub fn good(seed: u64) -> Recording {
    let mut world = World::new(seed);
    world.tenure();
    world.claim(json!(null));
    for _ in 0..4 {
        world.transaction();
    }
    let mut events: Vec<fn(&mut World)> = vec![
        World::resumes,
        World::is_replaced,
        World::is_replaced,
        World::aborts,
        World::tears,
        World::forks,
        World::switches,
        World::chunks,
    ];
    world.rng.shuffle(&mut events);
    for event in events {
        event(&mut world);
        for _ in 0..world.rng.u8(1..4) {
            world.transaction();
        }
    }
    world.end()
}

/// A history with a gap that was accepted.
#[cfg(test)]
pub fn good_with_gap(seed: u64) -> Recording {
    let mut world = World::new(seed);
    world.tenure();
    world.claim(json!(null));
    for _ in 0..6 {
        world.transaction();
    }
    world.misses();
    for _ in 0..8 {
        world.transaction();
    }
    world.end()
}

impl World {
    fn new(seed: u64) -> Self {
        let made = Recording { topic_prefix: PREFIX.into(), secrets: vec!["hush-hush".into()], ..Recording::default() };
        World {
            rng: Rng::with_seed(seed),
            made: Recording {
                ownership: Ownership { cluster_id: "00000000000000aa".into(), since: 1, ..Ownership::default() },
                logs: WORKERS.map(|worker| (worker.to_owned(), String::new())).to_vec(),
                ..made
            },
            offsets: BTreeMap::new(),
            batches: BTreeMap::new(),
            clock_ms: 1_700_000_000_000,
            timeline: 1,
            history: Vec::new(),
            lsn: 0x100_0000,
            position: (1, 0x100_0000),
            last: json!(null),
            partial: json!(null),
            torn: json!(null),
            accepted: json!(null),
            term: 0,
            session: 0,
            number: 0,
            worker: WORKERS[0],
            revision: 10,
            hash: None,
            rows: ["items", "full", "keyless", "ledger"].map(|table| (table, BTreeMap::new())).into(),
            next_id: 1,
            xid: 700,
        }
    }

    // What happens.

    /// The same worker begins a new session.
    fn resumes(&mut self) {
        self.claim(json!(null));
    }

    /// Its worker dies; another one takes over and ends what is left of its session.
    fn is_replaced(&mut self) {
        let reader = self.reader();
        self.strikes_the_owner();
        self.tenure();
        self.ends(reader);
        self.claim(json!(null));
    }

    /// A transaction is aborted and told again by the next session.
    fn aborts(&mut self) {
        let lsn = self.lsn + 0x40;
        let changes = self.changes();
        let records = self.records(&changes, lsn, 0);
        let open = self.open();
        self.kafka([vec![open], records].concat(), &[Sort::Abort]);
        self.claim(json!(null));
        self.publish(&changes, lsn, 0);
    }

    /// The first part of a transaction becomes visible; the next session names it and tells the rest.
    fn tears(&mut self) {
        let lsn = self.lsn + 0x40;
        let changes = self.changes();
        let first = self.records(&changes[..1], lsn, 0);
        let rest = self.records(&changes[1..], lsn, 1);
        let greatest = first.last().map(|told| told.headers[0].1.clone());
        let open = self.open();
        self.torn =
            json!({"session": self.session_id(), "number": self.number, "greatest_id": greatest, "count": first.len()});
        self.kafka([vec![open], first].concat(), &[Sort::Commit]);
        self.kafka(rest, &[Sort::Abort]);
        self.claim(json!(null));
        self.publish(&changes[1..], lsn, 1);
    }

    /// The database fails over and loses what was told last.
    fn forks(&mut self) {
        let (fork, rows) = (self.lsn, self.rows.clone());
        let before = self.last.clone();
        self.transaction();
        let to = self.lsn - 0x40;
        self.rows = rows;
        self.last = before;
        self.history.push((self.timeline, fork));
        let old = self.timeline;
        self.timeline += 1;
        self.position = (old, fork);
        self.lsn = fork;
        self.claim(json!({
            "old_timeline": old, "new_timeline": self.timeline, "from_lsn": lsn_text(fork), "to_lsn": lsn_text(to)}));
    }

    /// The database commits what nobody will tell; somebody accepts that, and the stream goes on behind it.
    #[cfg(test)]
    fn misses(&mut self) {
        let from = self.lsn;
        for _ in 0..3 {
            self.changes();
            self.lsn += 0x80;
            self.xid += 1;
        }
        self.position = (self.timeline, self.lsn);
        self.last = json!(null);
        self.accepted = json!({"code": "slot_ahead", "timeline": self.timeline, "from_lsn": lsn_text(from),
            "to_lsn": lsn_text(self.lsn)});
        self.claim(json!(null));
    }

    /// The database switches over and loses nothing.
    fn switches(&mut self) {
        self.history.push((self.timeline, self.lsn));
        self.timeline += 1;
        self.claim(json!(null));
    }

    /// A transaction in three chunks.
    fn chunks(&mut self) {
        let lsn = self.lsn + 0x40;
        let mut changes = self.changes();
        let ledger = changes.pop();
        while changes.len() < 6 {
            let more = self.change();
            changes.push(more);
        }
        drop(ledger);
        // What the first ledger row said is not so any more.
        self.rows.get_mut("ledger").expect("made at the start").pop_last();
        changes.push(self.ledger(&changes));
        let ends = [2, 4];
        for (chunk, end) in ends.into_iter().enumerate() {
            let begin = if chunk == 0 { 0 } else { ends[chunk - 1] };
            let records = self.records(&changes[begin..end], lsn, begin);
            self.partial = json!({"xid": self.xid, "final_lsn": lsn_text(lsn), "changes_done": end,
                "hash": format!("chunk {chunk}"), "chunks": chunk + 1});
            let open = self.open();
            let close = self.position_record("close", json!(null));
            self.kafka([vec![open], records, vec![close]].concat(), &[Sort::Commit]);
            if chunk == 0 && self.rng.bool() {
                self.claim(json!(null));
            }
        }
        self.partial = json!(null);
        self.publish(&changes[4..], lsn, 4);
    }

    fn transaction(&mut self) {
        let lsn = self.lsn + 0x40;
        let changes = self.changes();
        self.publish(&changes, lsn, 0);
    }

    // What it looks like in Kafka.

    fn session_id(&self) -> String {
        format!("session{}", self.session)
    }

    fn open(&mut self) -> Told {
        self.number += 1;
        let value = json!({"v": 1, "type": "open", "term": self.term, "session": self.session_id(), "number": self.number,
            "worker": self.worker});
        progress("open", &value)
    }

    fn position_record(&mut self, kind: &str, divergence: Value) -> Told {
        let place = |(timeline, lsn): (u32, u64)| json!({"system_identifier": SYSTEM.to_string(), "timeline": timeline, "lsn": lsn_text(lsn)});
        let history: Vec<_> = self.history.iter().map(|(timeline, lsn)| json!([timeline, lsn_text(*lsn)])).collect();
        let mut value = json!({"v": 1, "type": kind, "term": self.term, "session": self.session_id(), "number": self.number,
            "worker": self.worker, "position": place(self.position), "watermark": place(self.position),
            "history": history, "server_timeline": self.timeline, "last": self.last, "partial": self.partial,
            "torn": self.torn, "divergence": divergence, "previous_hash": self.hash,
            "lease": {"cluster_id": self.made.ownership.cluster_id, "revision": self.revision, "left": []}});
        if kind == "accept" {
            value["accepted"] = self.accepted.take();
        }
        let told = progress("position", &value);
        self.hash = told.value.as_ref().map(|value| hex(&Sha256::digest(value.as_bytes())));
        told
    }

    /// Another worker writes the holder key.
    fn tenure(&mut self) {
        self.worker = WORKERS[usize::from(self.worker == WORKERS[0])];
        let revision = self.revision + 5;
        let holder = &mut self.made.ownership.holder;
        if !holder.is_empty() {
            holder.push(Write { revision: revision - 2, lease: 0, value: None });
        }
        let nonce = format!("nonce{revision}");
        holder.push(Write { revision, lease: revision, value: Some(json!({"worker": self.worker, "nonce": nonce})) });
        self.revision = revision;
        self.shows_holder();
    }

    fn claim(&mut self, divergence: Value) {
        self.waits();
        (self.session, self.term, self.number) = (self.session + 1, self.term + 1, 0);
        let mut open = self.open();
        self.number = 0;
        let value = json!({"v": 1, "type": "open", "term": null, "session": self.session_id(), "number": 0, "worker": self.worker});
        open.value = Some(value.to_string());
        let mut records = vec![open];
        if divergence.is_object() {
            records.push(self.position_record("divergence", divergence));
            let marker = Told { topic: MARKERS.into(), ..records[1].clone() };
            records.push(marker);
        }
        if self.accepted.is_object() {
            let accept = self.position_record("accept", json!(null));
            records.extend([accept.clone(), Told { topic: MARKERS.into(), ..accept }]);
        }
        records.push(self.position_record("claim", json!(null)));
        let (term, start, revision) = (self.term, lsn_text(self.position.1), self.revision);
        self.logs(&format!(
            "INFO worker: claiming term={term} timeline={} position={start} start={start}",
            self.timeline
        ));
        for (from, to) in [("fence", "recover"), ("recover", "stream")] {
            self.clock_ms += 1;
            self.logs(&format!(
                "INFO worker: state changed from=\"{from}\" to=\"{to}\" term={term} revision={revision}"
            ));
        }
        self.kafka(records, &[Sort::Commit]);
        self.sample();
    }

    /// Tells the rest of a transaction, of which so many changes were told before.
    fn publish(&mut self, changes: &[Change], lsn: u64, done: usize) {
        let records = self.records(changes, lsn, done);
        let end = lsn + 0x40;
        let open = self.open();
        self.lsn = end;
        self.position = (self.timeline, end);
        self.last = json!({"xid": self.xid, "final_lsn": lsn_text(lsn), "lsn": lsn_text(end), "committed_at": ""});
        self.torn = json!(null);
        let close = self.position_record("close", json!(null));
        self.kafka([vec![open], records, vec![close]].concat(), &[Sort::Commit]);
        self.xid += 1;
        self.sample();
    }

    /// The records of changes, of which so many were told before.
    fn records(&self, changes: &[Change], lsn: u64, done: usize) -> Vec<Told> {
        let mut told = Vec::new();
        for (number, change) in (done..).zip(changes) {
            for (part, (key, value, header)) in change.records.iter().enumerate() {
                let suffix = if part > 0 { format!(".{part}") } else { String::new() };
                let id = format!("{SYSTEM}/{}/{}/{number}{suffix}", self.timeline, lsn_text(lsn));
                let mut headers =
                    vec![("pgbaton.id".to_owned(), id), ("pgbaton.term".to_owned(), self.term.to_string())];
                headers.extend(header.map(|name| (name.to_owned(), "{}".to_owned())));
                let key = key.as_ref().map(Value::to_string);
                let sum: u32 = key.iter().flat_map(|key| key.bytes()).map(u32::from).sum();
                told.push(Told {
                    topic: format!("{PREFIX}.public.{}", change.table),
                    partition: (sum % PARTITIONS) as i32,
                    key,
                    value: value.as_ref().map(Value::to_string),
                    headers,
                });
            }
        }
        told
    }

    /// A Kafka transaction of the session's producer, ended in each of its partitions.
    fn kafka(&mut self, told: Vec<Told>, ends: &[Sort]) {
        self.clock_ms += 60;
        let epoch = i16::try_from(self.session).unwrap_or(i16::MAX);
        let mut touched = Vec::new();
        for told in told {
            let place = (told.topic.clone(), told.partition);
            let offset = self.offsets.entry(place.clone()).or_default();
            let batch = Batch { first: *offset, last: *offset, producer: 1, epoch, sort: Sort::Data };
            self.batches.entry(place.clone()).or_default().push(batch);
            if ends == [Sort::Commit] {
                self.made.records.push(Record {
                    topic: told.topic,
                    partition: told.partition,
                    offset: *offset,
                    at_ms: self.clock_ms,
                    key: told.key,
                    value: told.value,
                    headers: told.headers,
                });
            }
            *offset += 1;
            if !touched.contains(&place) {
                touched.push(place);
            }
        }
        for (place, sort) in touched.into_iter().flat_map(|place| ends.iter().map(move |end| (place.clone(), *end))) {
            let offset = self.offsets.entry(place.clone()).or_default();
            let batch = Batch { first: *offset, last: *offset, producer: 1, epoch, sort };
            self.batches.entry(place).or_default().push(batch);
            *offset += 1;
        }
    }

    fn sample(&mut self) {
        self.clock_ms += 10;
        let (at_ms, term) = (self.clock_ms, self.term);
        let lsn = lsn_text(self.position.1);
        let reader = self.reader();
        let server = Server {
            recovering: false,
            timeline: Some(self.timeline),
            confirmed: Some(lsn),
            active_pid: Some(term as i32),
            readers: vec![reader],
        };
        self.made.samples.push(Sample { at_ms, node: "pg-1".into(), shows: Shows::Server(server) });
        for name in WORKERS {
            let active = name == self.worker;
            let state = if active { "stream" } else { "standby" };
            let worker = Worker {
                state: state.into(),
                term: active.then_some(term),
                active,
                healthy: true,
                reasons: Vec::new(),
                degraded: false,
            };
            self.made.samples.push(Sample { at_ms, node: name.into(), shows: Shows::Worker(worker) });
        }
        self.shows_process();
    }

    // What happens in the database.

    fn changes(&mut self) -> Vec<Change> {
        let mut changes: Vec<Change> = (0..self.rng.u8(2..5)).map(|_| self.change()).collect();
        changes.push(self.ledger(&changes));
        changes
    }

    fn row(&self, table: &'static str, id: u64) -> Values {
        self.rows[table][&id].clone()
    }

    fn some(&mut self, table: &'static str) -> Option<u64> {
        let ids: Vec<u64> = self.rows[table].keys().copied().collect();
        self.rng.choice(ids)
    }

    fn change(&mut self) -> Change {
        let table = ["items", "items", "full", "keyless"][self.rng.usize(..4)];
        match (self.some(table), self.rng.u8(..6)) {
            (Some(id), 0) => self.delete(table, id),
            (Some(id), 1 | 2) => self.update(table, id, id),
            (Some(id), 3) if table != "keyless" => {
                let new = self.fresh();
                self.update(table, id, new)
            }
            _ => self.insert(table),
        }
    }

    fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn insert(&mut self, table: &'static str) -> Change {
        let id = self.fresh();
        let text = |rng: &mut Rng| Some(format!("text {}", rng.u32(..)));
        let mut row = BTreeMap::from([("name", text(&mut self.rng)), ("note", Some("y".repeat(50))), ("nil", None)]);
        if table == "items" {
            row.insert("amount", Some(format!("{}.{:02}", self.rng.u16(..), self.rng.u8(..100))));
        }
        if table != "keyless" {
            row.insert("id", Some(id.to_string()));
        }
        self.rows.get_mut(table).expect("made at the start").insert(id, row.clone());
        Change {
            table,
            records: vec![(key(table, &row), Some(envelope(table, "c", None, Some(&row), &[])), None)],
            line: Some(line(table, 'c', None, Some(&row))),
        }
    }

    fn delete(&mut self, table: &'static str, id: u64) -> Change {
        let row = self.row(table, id);
        self.rows.get_mut(table).expect("made at the start").remove(&id);
        let mut records = vec![(key(table, &row), Some(envelope(table, "d", Some(&row), None, &[])), None)];
        if table != "keyless" {
            records.push((key(table, &row), None, None));
        }
        Change { table, records, line: Some(line(table, 'd', Some(&row), None)) }
    }

    fn update(&mut self, table: &'static str, id: u64, new: u64) -> Change {
        let old = self.row(table, id);
        let mut row = old.clone();
        row.insert("name", Some(format!("name {}", self.rng.u32(..))));
        if id != new {
            row.insert("id", Some(new.to_string()));
        }
        let rows = self.rows.get_mut(table).expect("made at the start");
        rows.remove(&id);
        rows.insert(new, row.clone());
        // What a change leaves alone is not sent, unless the old row is.
        let unsent: &[&str] = if table == "items" { &["note"] } else { &[] };
        let records = if id == new {
            let before = (table != "items").then_some(&old);
            vec![(key(table, &row), Some(envelope(table, "u", before, Some(&row), unsent)), None)]
        } else {
            vec![
                (key(table, &old), Some(envelope(table, "d", Some(&old), None, &[])), Some("__debezium.newkey")),
                (key(table, &old), None, Some("__debezium.newkey")),
                (key(table, &row), Some(envelope(table, "c", None, Some(&row), unsent)), Some("__debezium.oldkey")),
            ]
        };
        Change { table, records, line: Some(line(table, 'u', Some(&old), Some(&row))) }
    }

    /// The ledger row of a transaction of these changes, the lines kept in every other one.
    fn ledger(&mut self, changes: &[Change]) -> Change {
        let lines: Vec<&str> = changes.iter().filter_map(|change| change.line.as_deref()).collect();
        let digest = lines.iter().fold(String::new(), |chain, line| hex(&Sha256::digest((chain + line).as_bytes())));
        let row = BTreeMap::from([
            ("id", Some(format!("{:032x}", self.rng.u128(..)))),
            ("client", Some("1".to_owned())),
            ("number", Some(self.next_id.to_string())),
            ("rows", Some(lines.len().to_string())),
            ("digest", Some(digest)),
            ("changes", self.rng.bool().then(|| lines.join("\n") + "\n")),
        ]);
        let id = self.fresh();
        self.rows.get_mut("ledger").expect("made at the start").insert(id, row.clone());
        let value = envelope("ledger", "c", None, Some(&row), &[]);
        Change { table: "ledger", records: vec![(key("ledger", &row), Some(value), None)], line: None }
    }

    fn end(mut self) -> Recording {
        self.stages();
        for (table, rows) in &self.rows {
            let columns: Vec<Column> = columns(table)
                .into_iter()
                .map(|(name, kind)| Column { name: name.into(), kind, missing: None })
                .collect();
            let cells = |row: &Values| columns.iter().map(|column| row[column.name.as_str()].clone()).collect();
            let table_rows = rows.values().map(cells).collect();
            let key = if *table == "keyless" { vec![] } else { vec!["id".to_owned()] };
            let full = matches!(*table, "full" | "keyless");
            self.made.database.insert(format!("public.{table}"), Table { columns, key, full, rows: table_rows });
        }
        self.made.batches = std::mem::take(&mut self.batches)
            .into_iter()
            .map(|((topic, number), batches)| Partition { topic, number, batches })
            .collect();
        self.made
    }
}

fn columns(table: &str) -> Vec<(&'static str, Kind)> {
    match table {
        "ledger" => ["id", "client", "number", "rows", "digest", "changes"].map(|name| (name, Kind::Plain)).to_vec(),
        "items" => vec![
            ("id", Kind::Plain),
            ("name", Kind::Plain),
            ("note", Kind::Plain),
            ("nil", Kind::Plain),
            ("amount", Kind::Decimal(2)),
        ],
        "full" => vec![("id", Kind::Plain), ("name", Kind::Plain), ("note", Kind::Plain), ("nil", Kind::Plain)],
        _ => vec![("name", Kind::Plain), ("note", Kind::Plain), ("nil", Kind::Plain)],
    }
}

/// A value as an event tells it.
fn told(kind: Kind, value: &str) -> Value {
    match kind {
        Kind::Decimal(_) => {
            let cents: i64 = value.replace('.', "").parse().unwrap_or_default();
            json!(base64::engine::general_purpose::STANDARD.encode(cents.to_be_bytes()))
        }
        _ => json!(value),
    }
}

fn image(table: &str, row: &Values, unsent: &[&str]) -> Value {
    let cells = columns(table).into_iter().map(|(name, kind)| {
        let value = match &row[name] {
            _ if unsent.contains(&name) => json!(PLACEHOLDER),
            Some(value) => told(kind, value),
            None => json!(null),
        };
        (name.to_owned(), value)
    });
    Value::Object(cells.collect())
}

fn envelope(table: &str, op: &str, before: Option<&Values>, after: Option<&Values>, unsent: &[&str]) -> Value {
    json!({
        "before": before.map(|row| image(table, row, &[])), "after": after.map(|row| image(table, row, unsent)),
        "source": {"schema": "public", "table": table}, "op": op,
    })
}

fn key(table: &str, row: &Values) -> Option<Value> {
    (table != "keyless").then(|| json!({"id": row["id"]}))
}

fn line(table: &str, op: char, before: Option<&Values>, after: Option<&Values>) -> String {
    let hash = |row: Option<&Values>| match row {
        None => "-".to_owned(),
        Some(row) => {
            let cell = |value: &Option<String>| value.as_ref().map_or(Cell::Null, |value| Cell::text(value.as_str()));
            let row = Row(row.iter().map(|(name, value)| ((*name).into(), cell(value))).collect());
            row.hash().unwrap_or_default()
        }
    };
    let key = after.or(before).and_then(|row| row.get("id").cloned().flatten()).unwrap_or_default();
    format!("{table} {op} {} {} {key}", hash(before), hash(after))
}

fn progress(key: &str, value: &Value) -> Told {
    Told {
        topic: PROGRESS.into(),
        partition: 0,
        key: Some(key.into()),
        value: Some(value.to_string()),
        headers: Vec::new(),
    }
}
