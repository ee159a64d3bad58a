//! What the rows say: each change has the hashes that PostgreSQL noted when it was made, nothing that was taken back is told,
//! and the folded topics equal the tables.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

use super::delivery::tells_outcome;
use super::event::{Event, lsn_text};
use super::fold::{Fold, Line, Rows, agree};
use super::history::Gap;
use super::row::{Cell, Row, hex};
use super::table::{Database, LEDGER, Notes, Table};
use super::verdict::{Invariant, Verdict};
use crate::load::NEVER_SEEN;

/// Judges the records of surviving transactions, which come in the order of their ids, against the notes and the tables.
///
/// What a gap has in it nobody knows but the database: a row that was told before an accepted gap and not since may be another one,
/// or gone, and is counted as missing in it.
pub fn judge(
    surviving: &[&Event],
    ledger: &HashMap<String, Notes>,
    database: &Database,
    gaps: &[Gap],
    verdict: &mut Verdict,
) {
    let mut fidelity = Invariant::new(9, "every change has the hashes that were noted when it was made");
    let mut aborted = Invariant::new(8, "nothing is told that was taken back");
    let mut fold = Fold::new(database, gaps);
    for events in surviving.chunk_by(|a, b| a.id.transaction() == b.id.transaction()) {
        let mut lines = Vec::new();
        let mut outcomes = events.iter().filter_map(|event| tells_outcome(event));
        let noted = outcomes.next().filter(|_| outcomes.next().is_none()).and_then(|id| ledger.get(id));
        for change in events.chunk_by(|a, b| a.id.change == b.id.change) {
            for event in change.iter().filter(|event| event.after.is_some()) {
                aborted.look(!was_taken_back(event), || format!("{event} was taken back"));
            }
            let line = fold.apply(change);
            if tells_outcome(change[0]).is_none() {
                lines.push((change[0], line));
            }
        }
        if let Some(noted) = noted {
            compare(&lines, noted, &mut fidelity);
        }
    }
    for words in fold.unreadable.drain(..) {
        fidelity.look(false, || words);
    }
    verdict.invented += aborted.broken;
    converged(fold, database, verdict);
    verdict.invariants.extend([fidelity, aborted]);
}

fn was_taken_back(event: &Event) -> bool {
    *event.table == *"public.items"
        && event.after.as_ref().is_some_and(|row| [row.text("name"), row.text("note")].contains(&Some(NEVER_SEEN)))
}

/// The changes of a transaction against what its ledger row says of them.
fn compare(lines: &[(&Event, Line)], noted: &Notes, rule: &mut Invariant) {
    let place = || {
        let id = lines.first().map(|(event, _)| event.id);
        id.map_or(String::new(), |id| {
            format!(" of the transaction at {} on timeline {}", lsn_text(id.lsn), id.timeline)
        })
    };
    if let Some(changes) = &noted.changes {
        for (number, noted) in changes.iter().enumerate() {
            let told = lines.get(number);
            rule.look(told.is_some_and(|(_, line)| line.is(noted)), || match told {
                Some((event, line)) => format!("{event} is told as {line:?}, noted as {noted:?}"),
                None => format!("change {number}{}, noted as {noted:?}, is not told", place()),
            });
        }
        rule.look(lines.len() <= changes.len(), || {
            format!("{} changes{}, {} noted", lines.len(), place(), changes.len())
        });
    } else if let Some(digest) = &noted.digest
        && let Some(texts) = lines.iter().map(|(_, line)| line.text()).collect::<Option<Vec<_>>>()
    {
        let chained = texts.iter().fold(String::new(), |chain, line| hex(&Sha256::digest((chain + line).as_bytes())));
        rule.look(chained == *digest, || {
            format!("the {} changes{} are not those that were noted", lines.len(), place())
        });
        rule.checked += lines.len() as u64;
    }
}

/// Folding the topics from the start gives the tables.
fn converged(fold: Fold<'_>, database: &Database, verdict: &mut Verdict) {
    let mut rule = Invariant::new(10, "the folded topics equal the tables");
    let empty = Rows::default();
    for (name, table) in database {
        let told = fold.rows(name).unwrap_or(&empty);
        if table.key.is_empty() {
            keyless(name, table, told, &mut rule, verdict, fold.has_gaps());
        } else {
            keyed(name, table, told, &mut rule, verdict, &fold);
        }
    }
    for words in fold.misfits {
        rule.look(false, || words);
    }
    verdict.invariants.push(rule);
}

fn keyed(name: &str, table: &Table, told: &Rows, rule: &mut Invariant, verdict: &mut Verdict, fold: &Fold<'_>) {
    let is_stale = |key: &str| fold.is_stale(name, key, (u32::MAX, u64::MAX));
    // What is wrong with a ledger row is counted with the transactions.
    let counts = u64::from(name != LEDGER);
    let mut stored = 0;
    for row in table.content() {
        let key = table.key_of(&row);
        let same = told.keyed.get(&key).map(|told| table.today(told));
        if same.is_some() {
            stored += 1;
        }
        let agrees = same.as_ref().is_some_and(|told| agree(told, &row, fold.has_gaps()));
        if !agrees && is_stale(&key) {
            verdict.in_gaps += counts;
            continue;
        }
        verdict.lost += if agrees { 0 } else { counts };
        rule.look(agrees, || match &same {
            Some(told) => format!("{name} {key} {}", difference(&row, told)),
            None => format!("{name} {key} = {row} is missing in its topic"),
        });
    }
    if told.keyed.len() > stored {
        let keys: std::collections::HashSet<String> = table.content().map(|row| table.key_of(&row)).collect();
        for (key, row) in told.keyed.iter().filter(|(key, _)| !keys.contains(*key) && !is_stale(key)) {
            verdict.invented += counts;
            rule.look(false, || format!("{name} {key} = {row} is only in its topic"));
        }
    }
}

fn keyless(name: &str, table: &Table, told: &Rows, rule: &mut Invariant, verdict: &mut Verdict, has_gaps: bool) {
    let mut stored: BTreeMap<String, (Row, u64)> = BTreeMap::new();
    for row in table.content() {
        stored.entry(row.hash().unwrap_or_default()).or_insert((row, 0)).1 += 1;
    }
    for (hash, (row, count)) in &stored {
        let found = told.keyless.get(hash).map_or(0, |(_, found)| *found);
        if has_gaps && found != *count {
            verdict.in_gaps += count.abs_diff(found);
            continue;
        }
        verdict.lost += count.saturating_sub(found);
        verdict.invented += found.saturating_sub(*count);
        rule.look(found == *count, || format!("{name} has {count} rows {row}, its topic {found}"));
    }
    for (row, found) in told.keyless.iter().filter(|(hash, _)| !stored.contains_key(*hash)).map(|(_, row)| row) {
        if has_gaps {
            // Taken away in the gap, for all that anybody knows.
            verdict.in_gaps += found;
            continue;
        }
        verdict.invented += found;
        rule.look(false, || format!("{name} {row} is only in its topic"));
    }
}

/// What is not the same, in words.
fn difference(stored: &Row, told: &Row) -> String {
    let differs = stored.0.iter().find(|(name, cell)| told.get(name) != Some(cell));
    let Some((name, cell)) = differs else { return "differs in its columns".into() };
    format!("has {name} {cell} in the database, {} by its topic", told.get(name).unwrap_or(&Cell::Unavailable))
}
