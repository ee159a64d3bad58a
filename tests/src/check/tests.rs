//! The checker is only worth something if it notices. A good history of two sessions is mutilated in every way that a
//! broken worker could, and each mutilation must be found.

use std::collections::BTreeMap;

use fastrand::Rng;
use serde_json::json;

use super::event::{Effect, Event, EventId, lsn_text};
use super::history::{History, Progress};
use super::judge;
use super::table::{Cell, Content, Row, Table};

const SYSTEM: u64 = 7_300_000_000_000_000_000;
const PARTITIONS: i32 = 3;

/// Writes a history as a worker would, and the tables as the database would have them.
struct World {
    rng: Rng,
    history: History,
    content: Content,
    offsets: BTreeMap<(Table, i32), i64>,
    lsn: u64,
    term: u64,
    number: u64,
    next_item: u64,
    hash: Option<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        World {
            rng: Rng::with_seed(seed),
            history: History::default(),
            content: Table::ALL.into_iter().map(|table| (table, BTreeMap::new())).collect(),
            offsets: BTreeMap::new(),
            lsn: 0x100_0000,
            term: 0,
            number: 0,
            next_item: 1,
            hash: None,
        }
    }

    /// Two sessions on one timeline.
    fn good(seed: u64) -> (History, Content) {
        let mut world = World::new(seed);
        for _ in 0..2 {
            world.claim();
            for _ in 0..12 {
                world.transaction();
            }
        }
        (world.history, world.content)
    }

    fn record(&mut self, kind: &str) {
        let session = format!("s{}", self.term);
        let place = json!({"system_identifier": SYSTEM.to_string(), "timeline": 1, "lsn": lsn_text(self.lsn)});
        let value = if kind == "open" {
            let term = (self.number > 0).then_some(self.term);
            json!({"v": 1, "type": kind, "term": term, "session": session, "number": self.number, "worker": "w"})
        } else {
            json!({"v": 1, "type": kind, "term": self.term, "session": session, "number": self.number, "worker": "w",
                "position": place, "watermark": place, "history": [], "previous_hash": self.hash})
        };
        let value = serde_json::to_vec(&value).unwrap();
        if kind != "open" {
            use sha2::Digest;
            self.hash = Some(sha2::Sha256::digest(&value).iter().map(|byte| format!("{byte:02x}")).collect());
        }
        self.history.progress.push(Progress {
            offset: self.history.progress.len() as i64,
            key: if kind == "open" { "open" } else { "position" }.into(),
            says: serde_json::from_slice(&value).unwrap(),
            value,
        });
    }

    fn claim(&mut self) {
        self.term += 1;
        self.number = 0;
        self.record("open");
        self.record("claim");
    }

    fn transaction(&mut self) {
        self.number += 1;
        self.record("open");
        let lsn = self.lsn + 0x100;
        let mut change = 0;
        let at = |part| EventId { system: SYSTEM, timeline: 1, lsn, change, part };
        let id = self.next_item;
        self.next_item += 2;
        let row = item(id, self.rng.u32(..));
        self.event(Table::Items, at(0), 'c', id.to_string(), Effect::Put(row.clone()), false);
        self.content.get_mut(&Table::Items).unwrap().insert(id.to_string(), row.clone());
        change += 1;
        let at = |part| EventId { system: SYSTEM, timeline: 1, lsn, change, part };
        match self.rng.u8(..4) {
            0 => {
                self.event(Table::Items, at(0), 'd', id.to_string(), Effect::Delete, false);
                self.event(Table::Items, at(1), '-', id.to_string(), Effect::Tombstone, false);
                self.content.get_mut(&Table::Items).unwrap().remove(&id.to_string());
                change += 1;
            }
            1 => {
                let mut moved = row.clone();
                moved[0] = Cell::Text((id + 1).to_string());
                let mut told = moved.clone();
                told[4] = Cell::Unavailable;
                self.event(Table::Items, at(0), 'd', id.to_string(), Effect::Delete, true);
                self.event(Table::Items, at(1), '-', id.to_string(), Effect::Tombstone, false);
                self.event(Table::Items, at(2), 'c', (id + 1).to_string(), Effect::Put(told), false);
                let items = self.content.get_mut(&Table::Items).unwrap();
                items.remove(&id.to_string());
                items.insert((id + 1).to_string(), moved);
                change += 1;
            }
            2 => {
                let mut changed = row.clone();
                changed[3] = Cell::Text("77".into());
                let mut told = changed.clone();
                told[4] = Cell::Unavailable;
                self.event(Table::Items, at(0), 'u', id.to_string(), Effect::Put(told), false);
                self.content.get_mut(&Table::Items).unwrap().insert(id.to_string(), changed);
                change += 1;
            }
            _ => {}
        }
        let uuid = format!("{:032x}", self.rng.u128(..));
        let ledger: Row = [uuid.clone(), "1".into(), self.number.to_string(), change.to_string(), "t".into()]
            .map(Cell::Text)
            .to_vec();
        let id = EventId { system: SYSTEM, timeline: 1, lsn, change, part: 0 };
        self.event(Table::Ledger, id, 'c', uuid.clone(), Effect::Put(ledger.clone()), false);
        self.content.get_mut(&Table::Ledger).unwrap().insert(uuid, ledger);
        self.lsn += 0x180;
        self.record("close");
    }

    fn event(&mut self, table: Table, id: EventId, op: char, key: String, effect: Effect, moves: bool) {
        let partition = key.bytes().map(i32::from).sum::<i32>() % PARTITIONS;
        let offset = self.offsets.entry((table, partition)).or_default();
        let event = Event { table, partition, offset: *offset, id, term: self.term, op, key, effect, moves };
        *offset += 1;
        self.history.events.push(event);
    }
}

fn item(id: u64, amount: u32) -> Row {
    [id.to_string(), "1".into(), "name".into(), amount.to_string(), "note".into(), "t".into()].map(Cell::Text).to_vec()
}

/// Applies the mutilation to many good histories; each must be found.
fn is_noticed(mutilate: impl Fn(&mut History, &mut Content, &mut Rng)) {
    for seed in 0..60 {
        let (mut history, mut content) = World::good(seed);
        let mut rng = Rng::with_seed(seed ^ 0xBA70);
        mutilate(&mut history, &mut content, &mut rng);
        let verdict = judge(&history, &content);
        assert!(!verdict.is_clean(), "seed {seed} went unnoticed:\n{verdict}");
        assert!(verdict.invariants.iter().any(|rule| rule.first.is_some()), "seed {seed} has no words for it");
    }
}

/// The index of some event that the condition holds for.
fn some(history: &History, rng: &mut Rng, condition: impl Fn(&Event) -> bool) -> usize {
    let found: Vec<usize> =
        history.events.iter().enumerate().filter(|(_, event)| condition(event)).map(|(index, _)| index).collect();
    found[rng.usize(..found.len())]
}

fn some_record(history: &History, rng: &mut Rng, kind: &str) -> usize {
    let found: Vec<usize> = history
        .progress
        .iter()
        .enumerate()
        .filter(|(_, record)| record.says.kind == kind)
        .map(|(index, _)| index)
        .collect();
    found[rng.usize(..found.len())]
}

/// Changes a record's fields as if it had been written so, hash of the next one included.
fn rewrite(history: &mut History, index: usize, change: impl Fn(&mut serde_json::Value)) {
    let record = &mut history.progress[index];
    let mut value = serde_json::from_slice(&record.value).unwrap();
    change(&mut value);
    record.says = serde_json::from_value(value).unwrap();
}

#[test]
fn a_good_history_is_clean() {
    for seed in 0..60 {
        let (history, content) = World::good(seed);
        let verdict = judge(&history, &content);
        assert!(verdict.is_clean(), "seed {seed}:\n{verdict}");
        assert_eq!((verdict.written, verdict.received), (24, 24));
    }
}

#[test]
fn a_dropped_record_is_noticed() {
    is_noticed(|history, _, rng| {
        let index = some(history, rng, |_| true);
        history.events.remove(index);
    });
}

#[test]
fn a_dropped_transaction_is_counted_as_lost() {
    let (mut history, content) = World::good(1);
    let transaction = history.events[20].id.transaction();
    history.events.retain(|event| event.id.transaction() != transaction);
    let verdict = judge(&history, &content);
    assert_eq!((verdict.written, verdict.received), (24, 23));
    assert!(verdict.lost >= 1 && verdict.invented == 0 && verdict.duplicated == 0);
}

#[test]
fn a_repeated_record_is_noticed() {
    is_noticed(|history, _, rng| {
        let index = some(history, rng, |_| true);
        let again = history.events[index].clone();
        history.events.push(again);
    });
}

#[test]
fn a_transaction_told_again_under_another_id_is_counted_as_duplicated() {
    let (mut history, content) = World::good(2);
    let index = history.events.iter().rposition(|event| event.table == Table::Ledger).unwrap();
    let mut again = history.events[index].clone();
    again.id.lsn += 1;
    history.events.push(again);
    assert_eq!(judge(&history, &content).duplicated, 1);
}

#[test]
fn two_swapped_records_of_a_partition_are_noticed() {
    is_noticed(|history, _, rng| {
        let first = some(history, rng, |event| {
            history.events.iter().any(|later| {
                (later.table, later.partition) == (event.table, event.partition) && later.offset > event.offset
            })
        });
        let event = history.events[first].clone();
        let second = history
            .events
            .iter()
            .position(|later| {
                (later.table, later.partition) == (event.table, event.partition) && later.offset == event.offset + 1
            })
            .unwrap();
        history.events.swap(first, second);
    });
}

#[test]
fn an_altered_value_that_is_still_in_force_is_noticed() {
    is_noticed(|history, content, rng| {
        let index = some(history, rng, |event| match &event.effect {
            Effect::Put(row) => content[&event.table].get(&event.key) == Some(row),
            _ => false,
        });
        let Effect::Put(row) = &mut history.events[index].effect else { unreachable!("chosen as a put") };
        let column = 1 + rng.usize(..row.len() - 1);
        row[column] = Cell::Text("999999".into());
    });
}

#[test]
fn a_row_that_the_database_never_had_is_counted_as_invented() {
    let (history, mut content) = World::good(3);
    let key = content[&Table::Ledger].keys().next().unwrap().clone();
    content.get_mut(&Table::Ledger).unwrap().remove(&key);
    let verdict = judge(&history, &content);
    assert!(verdict.invented >= 1 && verdict.lost == 0 && !verdict.is_clean());
}

#[test]
fn a_record_of_an_older_or_newer_term_is_noticed() {
    is_noticed(|history, _, rng| {
        let index = some(history, rng, |_| true);
        let event = &mut history.events[index];
        event.term = if rng.bool() { event.term + 1 } else { event.term - 1 };
    });
}

#[test]
fn a_removed_bracket_is_noticed() {
    for kind in ["open", "close", "claim"] {
        is_noticed(|history, _, rng| {
            let index = some_record(history, rng, kind);
            history.progress.remove(index);
        });
    }
}

#[test]
fn a_claim_that_does_not_rise_is_noticed() {
    is_noticed(|history, _, _| {
        let index = history.progress.iter().rposition(|record| record.says.kind == "claim").unwrap();
        rewrite(history, index, |value| value["term"] = json!(1));
    });
}

#[test]
fn a_close_of_an_older_session_after_a_newer_claim_is_noticed() {
    is_noticed(|history, _, rng| {
        let old = history.progress[..26].iter().rposition(|record| record.says.kind == "open").unwrap();
        let pair = [history.progress[old].clone(), history.progress[old + 1].clone()];
        let later = 28 + 2 * rng.usize(..5);
        history.progress.splice(later..later, pair);
    });
}

#[test]
fn a_position_that_falls_is_noticed() {
    is_noticed(|history, _, rng| {
        let index = some_record(history, rng, "close");
        rewrite(history, index, |value| value["position"]["lsn"] = json!("0/1"));
    });
}

#[test]
fn a_broken_hash_chain_is_noticed() {
    is_noticed(|history, _, rng| {
        let index = some_record(history, rng, "close");
        rewrite(history, index, |value| value["previous_hash"] = json!("00"));
    });
}

/// A fork: the second session finds that the database lost what was told last.
fn forked(marked: bool) -> (History, Content) {
    let mut world = World::new(5);
    world.claim();
    for _ in 0..6 {
        world.transaction();
    }
    let (fork, kept) = (world.lsn, world.content.clone());
    world.transaction();
    world.content = kept;
    world.lsn = fork;
    world.term += 1;
    world.number = 0;
    world.record("open");
    world.record("divergence");
    world.record("claim");
    let last = world.history.progress.len() - 1;
    rewrite(&mut world.history, last, |value| value["history"] = json!([[1, lsn_text(fork)]]));
    if marked {
        let (from, to) = (lsn_text(fork), lsn_text(fork + 0x1000));
        let says = json!({"old_timeline": 1, "new_timeline": 2, "from_lsn": from, "to_lsn": to});
        world.history.markers.push(json!({"type": "divergence", "divergence": says}));
    }
    (world.history, world.content)
}

#[test]
fn a_marked_divergence_is_counted_apart_and_is_clean() {
    let (history, content) = forked(true);
    let verdict = judge(&history, &content);
    assert!(verdict.phantoms.marked > 0 && verdict.phantoms.unmarked == 0);
    assert!(verdict.is_clean(), "{verdict}");
}

#[test]
fn an_unmarked_divergence_is_noticed() {
    let (history, content) = forked(false);
    let verdict = judge(&history, &content);
    assert!(verdict.phantoms.unmarked > 0 && verdict.invented > 0 && !verdict.is_clean());
}

#[test]
fn a_marker_that_names_nothing_is_noticed() {
    let (mut history, content) = World::good(6);
    let says = json!({"old_timeline": 1, "new_timeline": 2, "from_lsn": "9/0", "to_lsn": "9/1"});
    history.markers.push(json!({"type": "divergence", "divergence": says}));
    assert!(!judge(&history, &content).is_clean());
}
