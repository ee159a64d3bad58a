//! The progress topic: brackets, terms, positions, the hash chain, and which term a data record may carry.

use sha2::{Digest, Sha256};

use super::event::{Event, parse_lsn};
use super::history::{History, Progress, Says};
use super::verdict::{Invariant, Verdict};

/// Judges the progress records, and the terms of the data records by them, and adds to the verdict.
pub fn judge(history: &History, verdict: &mut Verdict) {
    brackets(&history.progress, verdict);
    terms(&history.progress, verdict);
    positions(&history.progress, verdict);
    chain(&history.progress, verdict);
    covered(history, verdict);
}

fn name(record: &Progress) -> String {
    let says = &record.says;
    format!(
        "{} of {} (session {}, number {}, term {:?}) at offset {}",
        says.kind, says.worker, says.session, says.number, says.term, record.offset
    )
}

/// `open` first, `close` or `claim` with the same session and number last, numbers of a session without a hole.
fn brackets(progress: &[Progress], verdict: &mut Verdict) {
    let mut rule = Invariant::new(13, "every committed open has its close or claim");
    let mut numbers = Invariant::new(13, "a session's transactions are numbered from its claim's 0 without a hole");
    let mut open: Option<&Progress> = None;
    let mut ended: Option<&Progress> = None;
    for record in progress {
        let same =
            |other: &Progress| (&other.says.session, other.says.number) == (&record.says.session, record.says.number);
        let key = if record.says.kind == "open" { "open" } else { "position" };
        rule.look(record.key == key, || format!("{} has the key {:?}", name(record), record.key));
        match record.says.kind.as_str() {
            "open" => {
                rule.look(open.is_none(), || format!("{} comes before the end of an earlier open", name(record)));
                verdict.torn += u64::from(open.is_some());
                open = Some(record);
            }
            "claim" | "close" => {
                rule.look(open.is_some_and(same), || format!("{} ends no open of its own", name(record)));
                open = None;
                let expected = match ended {
                    _ if record.says.kind == "claim" => 0,
                    Some(before) if before.says.session == record.says.session => before.says.number + 1,
                    _ => u64::MAX,
                };
                numbers.look(record.says.number == expected, || format!("{} should be {expected}", name(record)));
                ended = Some(record);
            }
            _ => rule.look(open.is_some_and(same), || format!("{} lies in no transaction of its own", name(record))),
        }
    }
    if let Some(left) = open {
        rule.look(false, || format!("{} is never ended", name(left)));
        verdict.torn += 1;
    }
    verdict.invariants.extend([rule, numbers]);
}

/// Claims rise strictly; everything else carries the term of the claim in force, by the same session.
fn terms(progress: &[Progress], verdict: &mut Verdict) {
    let mut rise = Invariant::new(19, "the terms of claims rise strictly");
    let mut force = Invariant::new(21, "nobody writes after a newer claim");
    let mut last: Option<&Progress> = None;
    for record in progress {
        match record.says.kind.as_str() {
            "claim" => {
                let before = last.and_then(|claim| claim.says.term).unwrap_or(0);
                rise.look(record.says.term.is_some_and(|term| term > before), || {
                    format!("{} comes after term {before}", name(record))
                });
                last = Some(record);
            }
            "close" => force.look(
                last.is_some_and(|claim| {
                    (claim.says.term, &claim.says.session) == (record.says.term, &record.says.session)
                }),
                || format!("{} comes after {}", name(record), last.map_or("no claim".into(), name)),
            ),
            _ => {}
        }
    }
    verdict.invariants.extend([rise, force]);
}

/// Positions never fall but at a recorded divergence; the watermark is never behind the position.
fn positions(progress: &[Progress], verdict: &mut Verdict) {
    let mut rule = Invariant::new(12, "positions never fall");
    let mut bound = Invariant::new(45, "the watermark is at or past the position");
    let mut last: Option<((u32, u64), &Progress)> = None;
    for record in progress.iter().filter(|record| carries_position(&record.says)) {
        let Some(position) = record.says.position.as_ref() else {
            rule.look(false, || format!("{} carries no position", name(record)));
            continue;
        };
        let position = position.order();
        if let Some((before, earlier)) = last
            && record.says.kind != "divergence"
        {
            rule.look(position >= before, || format!("{} falls behind {}", name(record), name(earlier)));
        }
        let watermark = record.says.watermark.as_ref().map(|place| place.order().1);
        bound.look(watermark.is_some_and(|watermark| watermark >= position.1), || {
            format!("{} has its watermark before its position", name(record))
        });
        last = Some((position, record));
    }
    verdict.invariants.extend([rule, bound]);
}

/// `previous_hash` is the SHA-256 of the value of the position-carrying record before.
fn chain(progress: &[Progress], verdict: &mut Verdict) {
    let mut rule = Invariant::new(14, "the hash chain is unbroken");
    let mut before: Option<String> = None;
    for record in progress.iter().filter(|record| carries_position(&record.says)) {
        rule.look(record.says.previous_hash == before, || {
            format!("{} names {:?}, the record before it has {before:?}", name(record), record.says.previous_hash)
        });
        before = Some(Sha256::digest(&record.value).iter().map(|byte| format!("{byte:02x}")).collect());
    }
    verdict.invariants.push(rule);
}

/// The first close whose position is past a record, or whose half-published transaction has it, is of the record's term:
/// it was in the same Kafka transaction.
fn covered(history: &History, verdict: &mut Verdict) {
    let mut rule = Invariant::new(20, "a record carries the term under which it was committed");
    // Only closes that go further than all before them can be the first to cover anything.
    let mut front: Vec<((u32, u64, u64), u64, &Progress)> = Vec::new();
    for record in history.progress.iter().filter(|record| record.says.kind == "close") {
        let (Some(position), Some(term)) = (&record.says.position, record.says.term) else { continue };
        let (timeline, lsn) = position.order();
        let reach = match record.says.partial.as_ref().map(|partial| (parse_lsn(&partial.final_lsn), partial)) {
            Some((Some(lsn), partial)) => (record.says.timeline_of(lsn), lsn, partial.changes_done),
            _ => (timeline, lsn, 0),
        };
        if front.last().is_none_or(|(furthest, _, _)| reach > *furthest) {
            front.push((reach, term, record));
        }
    }
    for event in &history.events {
        let place = (event.id.timeline, event.id.lsn, event.id.change);
        let index = front.partition_point(|(reach, _, _)| *reach <= place);
        match front.get(index) {
            Some((_, term, close)) => {
                rule.look(*term == event.term, || format!("{event} is closed by {}", name(close)))
            }
            None => rule.look(false, || uncovered(event)),
        }
    }
    verdict.invariants.push(rule);
}

fn uncovered(event: &Event) -> String {
    format!("{event} is beyond every committed close")
}

fn carries_position(says: &Says) -> bool {
    says.kind != "open"
}
