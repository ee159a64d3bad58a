//! Kafka's transactions as they lie in the partitions: who wrote what, and how each ended.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::batches::{Batch, Batches, Sort};
use super::event::Event;
use super::history::History;
use super::progress::Front;
use super::verdict::{Invariant, Verdict};

/// Judges the batches against what a read_committed consumer was given, and adds to the verdict.
pub fn judge(history: &History, batches: &Batches, verdict: &mut Verdict) {
    committed(history, batches, verdict);
    producers(batches, verdict);
    atomic(history, batches, verdict);
}

/// The batches of one transaction in one partition, committed.
fn groups(batches: &[Batch]) -> Vec<Vec<Batch>> {
    let mut open: BTreeMap<i64, Vec<Batch>> = BTreeMap::new();
    let mut done = Vec::new();
    for batch in batches {
        match batch.sort {
            Sort::Data => open.entry(batch.producer).or_default().push(*batch),
            Sort::Commit => done.extend(open.remove(&batch.producer)),
            Sort::Abort => drop(open.remove(&batch.producer)),
        }
    }
    done
}

/// Read_uncommitted minus what was aborted or never ended is read_committed.
fn committed(history: &History, batches: &Batches, verdict: &mut Verdict) {
    let mut rule = Invariant::new(11, "what is uncommitted or aborted is not read");
    for (place @ (topic, partition), read) in &history.offsets {
        let Some(batches) = batches.get(place) else { continue };
        let mut expected: Vec<i64> =
            groups(batches).into_iter().flatten().flat_map(|batch| batch.first..=batch.last).collect();
        expected.sort_unstable();
        let differs = expected.iter().zip(read).find(|(expected, read)| expected != read).map(|(offset, _)| *offset);
        rule.look(expected == *read, || {
            format!(
                "{topic} partition {partition} has {} committed records, {} were read; they part at offset {differs:?}",
                expected.len(),
                read.len()
            )
        });
        rule.checked += read.len() as u64;
    }
    verdict.invariants.push(rule);
}

/// A producer does not go on after its abort, nor after a newer one has begun.
fn producers(batches: &Batches, verdict: &mut Verdict) {
    let mut aborted = Invariant::new(46, "no producer goes on after an abort");
    let mut newer = Invariant::new(21, "nobody writes after a newer producer");
    for ((topic, partition), batches) in batches {
        let mut ended: HashMap<i64, i16> = HashMap::new();
        let mut latest: HashMap<i64, i16> = HashMap::new();
        for batch in batches.iter().filter(|batch| batch.producer >= 0) {
            let words = || format!("{topic} partition {partition}: {batch:?}");
            if batch.sort == Sort::Data {
                let gone = ended.get(&batch.producer).is_some_and(|epoch| batch.epoch <= *epoch);
                aborted.look(!gone, || format!("{} comes after its producer's abort", words()));
                let older = latest.get(&batch.producer).is_some_and(|epoch| batch.epoch < *epoch);
                newer.look(!older, || format!("{} comes after a newer epoch", words()));
            } else if batch.sort == Sort::Abort {
                ended.insert(batch.producer, batch.epoch);
            }
            let epoch = latest.entry(batch.producer).or_insert(batch.epoch);
            *epoch = batch.epoch.max(*epoch);
        }
    }
    verdict.invariants.extend([aborted, newer]);
}

/// The records of one transaction in one partition are covered by one close, and no other transaction there is covered by it.
fn atomic(history: &History, batches: &Batches, verdict: &mut Verdict) {
    let mut rule = Invariant::new(7, "the records that a close covers are in one transaction");
    let front = Front::of(&history.progress);
    let mut events: BTreeMap<(&str, i32), HashMap<i64, &Event>> = BTreeMap::new();
    for event in &history.events {
        events.entry((&event.table, event.partition)).or_default().insert(event.offset, event);
    }
    for ((topic, partition), batches) in batches {
        let found =
            events.iter().find(|((table, other), _)| topic.ends_with(&format!(".{table}")) && other == partition);
        let Some((_, events)) = found else { continue };
        let mut closed: HashSet<usize> = HashSet::new();
        for group in groups(batches) {
            let told: Vec<&Event> = group
                .iter()
                .flat_map(|batch| batch.first..=batch.last)
                .filter_map(|offset| events.get(&offset).copied())
                .collect();
            let Some(first) = told.first() else { continue };
            let Some(index) = front.transaction(first) else { continue };
            for event in &told {
                rule.look(front.transaction(event) == Some(index), || {
                    format!("{event} is in one transaction with {first}, but not told by the same close")
                });
            }
            rule.look(closed.insert(index), || {
                format!("{first} is in another transaction than what its close covers, too")
            });
        }
    }
    verdict.invariants.push(rule);
}
