//! Delivery: every surviving transaction once and whole, in order. What the rows say is judged apart, in `content`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::event::{Event, EventId, lsn_text};
use super::history::{Divergence, Gap, History};
use super::row::Row;
use super::table::{LEDGER, Notes};
use super::verdict::{Invariant, Verdict};
use super::{Delivery, repeats};

/// Judges the data records against the ledger and adds to the verdict. Returns those of surviving transactions, each once, in
/// the order of their ids.
pub(super) fn judge<'a>(
    history: &'a History,
    ledger: &HashMap<String, Notes>,
    delivery: Delivery,
    verdict: &mut Verdict,
) -> Vec<&'a Event> {
    let mut divergences = history.divergences();
    verdict.records = history.events.len() as u64;
    readable(history, verdict);
    let told = match delivery {
        Delivery::ExactlyOnce => unique(&history.events, verdict),
        Delivery::AtLeastOnce => {
            // A claim that failed behind its marker is made again.
            divergences.dedup();
            repeats::judge(history, verdict)
        }
    };
    let marked = |id: EventId| divergences.iter().any(|divergence| divergence.names(id));
    phantoms(history, &divergences, verdict);
    ordered(&told, verdict);
    keys_ordered(&told, verdict);

    let mut surviving: Vec<&Event> = history.events.iter().filter(|event| !marked(event.id)).collect();
    surviving.sort_by_key(|event| event.id);
    surviving.dedup_by_key(|event| event.id);
    outcomes(&surviving, ledger, &history.accepted_gaps(), verdict);
    whole(&surviving, ledger, verdict);
    surviving
}

/// Whether it is the row that a transaction of the load leaves in the ledger.
pub fn tells_outcome(event: &Event) -> Option<&str> {
    if event.op != 'c' || *event.table != *LEDGER {
        return None;
    }
    event.after.as_ref()?.text("id")
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
        let same = divergences.iter().filter(|other| other.timeline == divergence.timeline).count();
        markers.look(same == 1, || format!("{same} markers for timeline {}", divergence.timeline));
    }
    verdict.invariants.extend([rule, markers]);
}

fn unique<'a>(events: &'a [Event], verdict: &mut Verdict) -> Vec<&'a Event> {
    let mut rule = Invariant::new(3, "no id twice");
    let mut seen: HashMap<EventId, &Event> = HashMap::with_capacity(events.len());
    for event in events {
        let earlier = seen.insert(event.id, event);
        rule.look(earlier.is_none(), || format!("{event} came before as {}", earlier.map_or(event, |event| event)));
    }
    verdict.duplicated += rule.broken;
    verdict.invariants.push(rule);
    events.iter().collect()
}

/// Ids rise along the offsets of each partition, and with them per key and per transaction.
fn ordered(events: &[&Event], verdict: &mut Verdict) {
    let mut rule = Invariant::new(5, "ids rise in every partition");
    let mut systems = Invariant::new(28, "one system identifier");
    let mut terms = Invariant::new(19, "terms never fall in a partition");
    let mut last: BTreeMap<(&str, i32), &Event> = BTreeMap::new();
    for &event in events {
        if let Some(before) = last.insert((&event.table, event.partition), event) {
            // An equal id is a duplicate and counted as such.
            rule.look(before.id <= event.id, || format!("{event} comes after {before}"));
            terms.look(before.term <= event.term, || format!("{event} comes after {before}"));
        }
        systems.look(event.id.system == events[0].id.system, || format!("{event} differs from {}", events[0]));
    }
    verdict.out_of_order += rule.broken;
    verdict.invariants.extend([rule, systems, terms]);
}

/// Ids of one key rise along the offsets, and all its records are in one partition.
fn keys_ordered(events: &[&Event], verdict: &mut Verdict) {
    let mut rule = Invariant::new(4, "ids rise for every key, in one partition");
    let mut last: HashMap<(&str, &Row), &Event> = HashMap::new();
    for &event in events {
        let Some(key) = &event.key else { continue };
        if let Some(before) = last.insert((&event.table, key), event) {
            let holds = before.partition == event.partition && before.id <= event.id;
            rule.look(holds, || format!("{event} comes after {before}"));
        }
    }
    verdict.invariants.push(rule);
}

/// The ledger: written, received, lost, invented, and the same transaction told under two ids.
fn outcomes(surviving: &[&Event], ledger: &HashMap<String, Notes>, gaps: &[Gap], verdict: &mut Verdict) {
    let mut lost = Invariant::new(1, "every surviving transaction is told");
    let mut once = Invariant::new(3, "no transaction twice");
    let mut invented = Invariant::new(2, "no transaction is told that the database does not have");
    let mut told: HashMap<&str, &Event> = HashMap::new();
    for event in surviving {
        let Some(id) = tells_outcome(event) else { continue };
        let earlier = told.insert(id, event);
        once.look(earlier.is_none(), || format!("{event} was told before as {}", earlier.map_or(*event, |e| e)));
        invented.look(ledger.contains_key(id), || format!("{event} is not in the database"));
    }
    let clients = if gaps.is_empty() { Clients::new() } else { clients(ledger, &told) };
    for (id, notes) in ledger {
        let is_told = told.contains_key(id.as_str());
        if !is_told && lies_in_a_gap(notes, &clients, gaps) {
            verdict.in_gaps += 1;
            continue;
        }
        lost.look(is_told, || format!("ledger row {id} is in no topic"));
    }
    verdict.written = ledger.len() as u64;
    verdict.received = told.keys().filter(|id| ledger.contains_key(**id)).count() as u64;
    verdict.lost += lost.broken;
    verdict.invented += invented.broken;
    verdict.duplicated += once.broken;
    verdict.invariants.extend([lost, once, invented]);
}

/// Where the transactions of each client were told, by their numbers.
type Clients<'a> = HashMap<&'a str, BTreeMap<u64, (u32, u64)>>;

fn clients<'a>(ledger: &'a HashMap<String, Notes>, told: &HashMap<&str, &Event>) -> Clients<'a> {
    let mut clients = Clients::new();
    for (id, notes) in ledger {
        if let (Some((client, number)), Some(event)) = (&notes.order, told.get(id.as_str())) {
            clients.entry(client).or_default().insert(*number, (event.id.timeline, event.id.lsn));
        }
    }
    clients
}

/// Nobody tells where a transaction committed that is in no topic. But its client wrote one after the other: it lies between those
/// of its neighbours that were told.
fn lies_in_a_gap(notes: &Notes, clients: &Clients<'_>, gaps: &[Gap]) -> bool {
    let Some((client, number)) = &notes.order else { return false };
    let told = clients.get(client.as_str());
    let before = told.and_then(|told| told.range(..number).next_back()).map_or((0, 0), |(_, at)| *at);
    let after = told.and_then(|told| told.range(number + 1..).next()).map_or((u32::MAX, u64::MAX), |(_, at)| *at);
    gaps.iter().any(|gap| gap.is_between(before, after))
}

/// The CHANGE values of a transaction over all partitions are 0..n-1, and n is what its ledger row says.
fn whole(surviving: &[&Event], ledger: &HashMap<String, Notes>, verdict: &mut Verdict) {
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
            let expected = match (change[0].op, &change[0].key) {
                ('d', Some(_)) if change[0].moves => "d-c",
                ('d', Some(_)) => "d-",
                // One record for each table that a single TRUNCATE names.
                ('t', _) if told.bytes().all(|op| op == b't') => &told,
                _ => &told[..1],
            };
            let numbered = change.iter().zip(0..).all(|(event, part)| event.id.part == part);
            parts.look(numbered && told == expected, || format!("{} is told as {told}, not {expected}", change[0]));
        }
        let mut outcomes = events.iter().filter_map(|event| tells_outcome(event));
        if let Some(Notes { rows, .. }) = outcomes.next().and_then(|id| ledger.get(id))
            && outcomes.next().is_none()
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
