//! Delivery: every surviving transaction once and whole, in order, and the folded topics equal the tables.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::event::{Effect, Event, EventId, lsn_text};
use super::history::{Divergence, History};
use super::table::{Cell, Content, Row, Table};
use super::verdict::{Invariant, Verdict};

/// Judges the data records against the tables and adds to the verdict.
pub fn judge(history: &History, content: &Content, verdict: &mut Verdict) {
    let divergences = history.divergences();
    let marked = |id: EventId| divergences.iter().any(|divergence| divergence.names(id));
    verdict.records = history.events.len() as u64;
    readable(history, verdict);
    phantoms(history, &divergences, verdict);
    unique(&history.events, verdict);
    ordered(&history.events, verdict);

    let mut surviving: Vec<&Event> = history.events.iter().filter(|event| !marked(event.id)).collect();
    surviving.sort_by_key(|event| event.id);
    surviving.dedup_by_key(|event| event.id);
    outcomes(&surviving, content, verdict);
    whole(&surviving, verdict);
    converged(&surviving, content, verdict);
}

fn readable(history: &History, verdict: &mut Verdict) {
    let mut rule = Invariant::new(9, "every record can be read, with its headers, key and row");
    rule.checked = verdict.records;
    for words in &history.unreadable {
        rule.look(false, || words.clone());
    }
    verdict.invented += history.unreadable.len() as u64;
    verdict.invariants.push(rule);
}

fn phantoms(history: &History, divergences: &[Divergence], verdict: &mut Verdict) {
    let mut rule = Invariant::new(2, "records of a timeline that lost are named by a marker");
    for event in &history.events {
        if divergences.iter().any(|divergence| divergence.names(event.id)) {
            verdict.phantoms.marked += 1;
        } else if history.is_phantom(event.id) {
            verdict.phantoms.unmarked += 1;
            rule.look(false, || format!("{event} lies beyond the fork and no marker names it"));
        }
        rule.checked += 1;
    }
    let mut markers = Invariant::new(29, "a marker names something that was told");
    for divergence in divergences {
        let told = history.events.iter().any(|event| divergence.names(event.id));
        markers.look(told, || format!("{divergence:?} names no record"));
    }
    verdict.invariants.extend([rule, markers]);
}

fn unique(events: &[Event], verdict: &mut Verdict) {
    let mut rule = Invariant::new(3, "no id twice");
    let mut seen: HashMap<EventId, &Event> = HashMap::with_capacity(events.len());
    for event in events {
        let earlier = seen.insert(event.id, event);
        rule.look(earlier.is_none(), || format!("{event} came before as {}", earlier.map_or(event, |event| event)));
    }
    verdict.duplicated += rule.broken;
    verdict.invariants.push(rule);
}

/// Ids rise along the offsets of each partition, and with them per key and per transaction.
fn ordered(events: &[Event], verdict: &mut Verdict) {
    let mut rule = Invariant::new(5, "ids rise in every partition");
    let mut systems = Invariant::new(28, "one system identifier");
    let mut terms = Invariant::new(19, "terms never fall in a partition");
    let mut last: BTreeMap<(Table, i32), &Event> = BTreeMap::new();
    for event in events {
        if let Some(before) = last.insert((event.table, event.partition), event) {
            // An equal id is a duplicate and counted as such.
            rule.look(before.id <= event.id, || format!("{event} comes after {before}"));
            terms.look(before.term <= event.term, || format!("{event} comes after {before}"));
        }
        systems.look(event.id.system == events[0].id.system, || format!("{event} differs from {}", events[0]));
    }
    verdict.out_of_order += rule.broken;
    verdict.invariants.extend([rule, systems, terms]);
}

/// The ledger: written, received, lost, invented, and the same transaction told under two ids.
fn outcomes(surviving: &[&Event], content: &Content, verdict: &mut Verdict) {
    let mut lost = Invariant::new(1, "every surviving transaction is told");
    let mut once = Invariant::new(3, "no transaction twice");
    let mut invented = Invariant::new(8, "no transaction is told that the database does not have");
    let empty = BTreeMap::new();
    let ledger = content.get(&Table::Ledger).unwrap_or(&empty);
    let mut told: HashMap<&str, &Event> = HashMap::new();
    for event in surviving.iter().filter(|event| event.table == Table::Ledger && event.op == 'c') {
        let earlier = told.insert(&event.key, event);
        once.look(earlier.is_none(), || format!("{event} was told before as {}", earlier.map_or(*event, |e| e)));
        invented.look(ledger.contains_key(&event.key), || format!("{event} is not in the database"));
    }
    for (key, row) in ledger {
        lost.look(told.contains_key(key.as_str()), || format!("ledger row {} is in no topic", words(row)));
    }
    verdict.written = ledger.len() as u64;
    verdict.received = told.keys().filter(|key| ledger.contains_key(**key)).count() as u64;
    verdict.lost += lost.broken;
    verdict.invented += invented.broken;
    verdict.duplicated += once.broken;
    verdict.invariants.extend([lost, once, invented]);
}

/// The CHANGE values of a transaction over all partitions are 0..n-1, and n is what its ledger row says.
fn whole(surviving: &[&Event], verdict: &mut Verdict) {
    let mut dense = Invariant::new(6, "the changes of a transaction are numbered without a hole");
    let mut counted = Invariant::new(7, "a transaction has as many changes as its ledger row says");
    let mut parts = Invariant::new(6, "a delete has its tombstone, a changed key its delete, tombstone and create");
    let mut missing = 0;
    for events in surviving.chunk_by(|a, b| a.id.transaction() == b.id.transaction()) {
        let changes: BTreeSet<u64> = events.iter().map(|event| event.id.change).collect();
        let seen = changes.len() as u64;
        let name = || {
            let id = events[0].id;
            format!("the transaction at {} on timeline {}", lsn_text(id.lsn), id.timeline)
        };
        let last = changes.last().map_or(0, |change| change + 1);
        dense.look(last == seen, || format!("{} tells {seen} changes of {last}", name()));
        for change in events.chunk_by(|a, b| a.id.change == b.id.change) {
            let told: String = change.iter().map(|event| event.op).collect();
            let expected = match change[0].op {
                'd' if change[0].moves => "d-c",
                'd' => "d-",
                _ => &told[..1],
            };
            let numbered = change.iter().zip(0..).all(|(event, part)| event.id.part == part);
            parts.look(numbered && told == expected, || format!("{} is told as {told}, not {expected}", change[0]));
        }
        let mut ledger = events.iter().filter(|event| event.table == Table::Ledger && event.op == 'c');
        if let Some(Effect::Put(row)) = ledger.next().map(|event| &event.effect)
            && ledger.next().is_none()
            && let Cell::Text(rows) = &row[3]
            && let Ok(rows) = rows.parse::<u64>()
        {
            counted.look(seen == rows + 1, || {
                format!("{} tells {seen} changes, its ledger row says {rows} and itself", name())
            });
            missing += (rows + 1).saturating_sub(seen);
            verdict.invented += seen.saturating_sub(rows + 1);
        } else {
            missing += last - seen;
        }
    }
    verdict.lost += missing + parts.broken;
    verdict.invariants.extend([dense, counted, parts]);
}

/// Folding the topics from the start gives the tables.
fn converged(surviving: &[&Event], content: &Content, verdict: &mut Verdict) {
    let mut rule = Invariant::new(10, "the folded topics equal the tables");
    let folded = fold(surviving);
    let empty = BTreeMap::new();
    for table in Table::ALL {
        let topic = folded.get(&table).unwrap_or(&empty);
        let database = content.get(&table).unwrap_or(&empty);
        let keys: HashSet<&String> = topic.keys().chain(database.keys()).collect();
        for key in keys {
            match (topic.get(key), database.get(key)) {
                (Some(told), Some(stored)) => {
                    if told != stored {
                        verdict.lost += 1;
                    }
                    rule.look(told == stored, || {
                        format!("{table} {key} is {} in the database, {} by its topic", words(stored), words(told))
                    });
                }
                (None, Some(stored)) => {
                    // A ledger row that was never told is counted with the transactions.
                    verdict.lost += u64::from(table != Table::Ledger);
                    rule.look(false, || format!("{table} {key} = {} is missing in its topic", words(stored)));
                }
                (Some(told), None) => {
                    verdict.invented += u64::from(table != Table::Ledger);
                    rule.look(false, || format!("{table} {key} = {} is only in its topic", words(told)));
                }
                (None, None) => {}
            }
        }
    }
    verdict.invariants.push(rule);
}

/// The tables as the topics tell them; `events` in the order of their ids.
///
/// An unavailable value keeps the one that the row had. A changed key arrives as a delete and a create of one change:
/// there the value is the deleted row's.
fn fold(events: &[&Event]) -> Content {
    let mut content = Content::new();
    let mut moved: Option<((u32, u64), u64, Row)> = None;
    for event in events {
        let table = content.entry(event.table).or_default();
        match &event.effect {
            Effect::Put(row) => {
                let mut row = row.clone();
                if row.contains(&Cell::Unavailable) {
                    let change = (event.id.transaction(), event.id.change);
                    let older = table.get(&event.key).or(match &moved {
                        Some((transaction, number, row)) if (*transaction, *number) == change => Some(row),
                        _ => None,
                    });
                    if let Some(older) = older {
                        for (cell, old) in row.iter_mut().zip(older) {
                            if *cell == Cell::Unavailable {
                                *cell = old.clone();
                            }
                        }
                    }
                }
                table.insert(event.key.clone(), row);
            }
            Effect::Delete => {
                if let Some(row) = table.remove(&event.key) {
                    moved = Some((event.id.transaction(), event.id.change, row));
                }
            }
            Effect::Tombstone => {
                table.remove(&event.key);
            }
            Effect::Truncate => table.clear(),
        }
    }
    content
}

fn words(row: &Row) -> String {
    let cells: Vec<String> = row.iter().map(Cell::to_string).collect();
    format!("({})", cells.join(", "))
}
