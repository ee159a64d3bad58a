//! The progress topic: brackets, terms, positions, the hash chain, and which term a data record may carry.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::event::{Event, EventId, parse_lsn};
use super::history::{Divergence, History, Place, Progress, Says};
use super::verdict::{Invariant, Verdict};

/// Judges the progress records, and the terms of the data records by them, and adds to the verdict.
pub fn judge(history: &History, verdict: &mut Verdict) {
    brackets(&history.progress, verdict);
    terms(&history.progress, verdict);
    positions(&history.progress, verdict);
    chain(&history.progress, verdict);
    partials(&history.progress, verdict);
    verdicts(history, verdict);
    origins(history, verdict);
    covered(history, verdict);
}

/// Judges checkpoints: there are no transactions to bracket, and nobody reads more than the last one.
pub fn judge_kept(history: &History, verdict: &mut Verdict) {
    terms(&history.progress, verdict);
    positions(&history.progress, verdict);
    partials(&history.progress, verdict);
}

fn name(record: &Progress) -> String {
    let says = &record.says;
    format!(
        "{} of {} (session {}, number {}, term {:?}) at offset {}",
        says.kind, says.worker, says.session, says.number, says.term, record.offset
    )
}

/// `open` first, `close` or `claim` with the same session and number last, numbers of a session without a hole. An `open` that is
/// left without its end is named as torn by the next claim.
fn brackets(progress: &[Progress], verdict: &mut Verdict) {
    let mut rule =
        Invariant::new(13, "every committed open has its close or claim, or is named as torn by the next claim");
    let mut numbers = Invariant::new(13, "a session's transactions are numbered from its claim's 0 without a hole");
    let mut open: Option<&Progress> = None;
    let mut ended: Option<&Progress> = None;
    let mut torn: Option<&Progress> = None;
    for record in progress {
        let same =
            |other: &Progress| (&other.says.session, other.says.number) == (&record.says.session, record.says.number);
        let key = if record.says.kind == "open" { "open" } else { "position" };
        rule.look(record.key == key, || format!("{} has the key {:?}", name(record), record.key));
        match record.says.kind.as_str() {
            "open" => {
                if let Some(left) = open.replace(record) {
                    verdict.torn += 1;
                    rule.look(torn.is_none(), || format!("{} is torn before an earlier one was named", name(left)));
                    torn = Some(left);
                }
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
                if let Some(left) = torn.take() {
                    let named =
                        record.says.kind == "claim"
                            && record.says.torn.as_ref().is_some_and(|torn| {
                                (&torn.session, torn.number) == (&left.says.session, left.says.number)
                            });
                    rule.look(named, || format!("{} is not named as torn by {}", name(left), name(record)));
                }
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
            // A claim's open does not know its term yet.
            "open" if record.says.term.is_none() => {}
            "close" | "open" => force.look(
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
    let mut bound = Invariant::new(12, "the watermark is at or past the position");
    let mut cut = Invariant::new(44, "a watermark never passes the switch that left its timeline");
    let mut last: Option<((u32, u64), &Progress)> = None;
    for record in progress.iter().filter(|record| carries_position(&record.says)) {
        let Some(position) = record.says.position.as_ref() else {
            rule.look(false, || format!("{} carries no position", name(record)));
            continue;
        };
        let position = position.order();
        if let Some((before, earlier)) = last
            && !is_judgement(record)
        {
            rule.look(position >= before, || format!("{} falls behind {}", name(record), name(earlier)));
            let left = record.says.history.iter().flatten().find(|(timeline, _)| *timeline == before.0);
            let switch = left.and_then(|(_, switch)| parse_lsn(switch));
            rule.look(switch.is_none_or(|switch| before.1 <= switch), || {
                format!("{} leaves a timeline before the position of {}", name(record), name(earlier))
            });
        }
        let watermark = record.says.watermark.as_ref().map(Place::order);
        for (timeline, lsn) in [Some(position), watermark].into_iter().flatten() {
            let older = record.says.history.iter().flatten().filter(|(left, _)| *left < timeline);
            let begins = older.filter_map(|(_, switch)| parse_lsn(switch)).max();
            rule.look(begins.is_none_or(|begins| begins <= lsn), || {
                format!("{} is before the beginning of timeline {timeline}", name(record))
            });
        }
        bound.look(watermark.is_some_and(|watermark| watermark >= position), || {
            format!("{} has its watermark before its position", name(record))
        });
        let left = |timeline| record.says.history.iter().flatten().find(move |(left, _)| *left == timeline);
        if let Some((timeline, lsn)) = watermark
            && let Some(switch) = left(timeline).and_then(|(_, switch)| parse_lsn(switch))
        {
            cut.look(lsn <= switch, || format!("{} has its watermark beyond the switch", name(record)));
        }
        last = Some((position, record));
    }
    verdict.invariants.extend([rule, bound, cut]);
}

/// `previous_hash` is the SHA-256 of the value of the position-carrying record before.
fn chain(progress: &[Progress], verdict: &mut Verdict) {
    let mut rule = Invariant::new(14, "the hash chain is unbroken");
    let mut before: Option<String> = None;
    for record in progress.iter().filter(|record| carries_position(&record.says)) {
        // What compaction took away before the oldest record left cannot be known.
        let first = before.is_none() && record.offset > 1;
        rule.look(first || record.says.previous_hash == before, || {
            format!("{} names {:?}, the record before it has {before:?}", name(record), record.says.previous_hash)
        });
        before = Some(Sha256::digest(&record.value).iter().map(|byte| format!("{byte:02x}")).collect());
    }
    verdict.invariants.push(rule);
}

/// The chunks of one transaction go forward, each with a hash of its own, until the position passes its commit record.
fn partials(progress: &[Progress], verdict: &mut Verdict) {
    let mut rule = Invariant::new(7, "the chunks of a large transaction go forward to its end");
    let mut before: Option<&Progress> = None;
    for record in progress.iter().filter(|record| carries_position(&record.says)) {
        let partial = |record: &'_ Progress| {
            record.says.partial.as_ref().map(|p| (p.final_lsn.clone(), p.changes_done, p.hash.clone()))
        };
        if let Some((lsn, done, hash)) = before.and_then(partial)
            && !is_judgement(record)
        {
            let holds = match partial(record) {
                Some((same, more, other)) if same == lsn => {
                    if record.says.kind == "close" {
                        more > done && other != hash
                    } else {
                        more == done && other == hash
                    }
                }
                _ => {
                    let end = record.says.position.as_ref().map(|place| place.order().1);
                    record.says.kind == "close" && end > parse_lsn(&lsn)
                }
            };
            rule.look(holds, || {
                format!(
                    "{} does not go on with the transaction at {lsn}, of which {done} changes were told",
                    name(record)
                )
            });
        }
        // After a divergence nothing of it is left, and what was accepted begins anew.
        before = Some(record).filter(|record| !is_judgement(record));
    }
    verdict.invariants.push(rule);
}

/// A divergence is told to consumers in the transaction of the claim that found it.
fn verdicts(history: &History, verdict: &mut Verdict) {
    let mut rule = Invariant::new(45, "position, watermark and marker of one verdict are in one transaction");
    let records: Vec<&Progress> = history.progress.iter().filter(|record| record.says.kind == "divergence").collect();
    let markers: Vec<_> = history.markers.iter().filter(|marker| marker["type"] == "divergence").collect();
    rule.look(records.len() == markers.len(), || {
        format!("{} divergences in the progress topic, {} markers", records.len(), markers.len())
    });
    for (record, marker) in records.into_iter().zip(markers) {
        let same = (marker["session"].as_str(), marker["number"].as_u64())
            == (Some(&record.says.session), Some(record.says.number))
            && record.says.divergence.as_ref().and_then(Divergence::read) == Divergence::read(&marker["divergence"]);
        rule.look(same && record.says.number == 0, || format!("{} has another marker: {marker}", name(record)));
    }
    verdict.invariants.push(rule);
}

/// The timeline of a record's id is the one that owns the place in the history of the server that its session read.
fn origins(history: &History, verdict: &mut Verdict) {
    let mut rule = Invariant::new(31, "no record comes from a server that had lost");
    let claims: HashMap<u64, &Progress> = history
        .progress
        .iter()
        .filter(|record| record.says.kind == "claim")
        .filter_map(|record| Some((record.says.term?, record)))
        .collect();
    for event in &history.events {
        if let Some(claim) = claims.get(&event.term).filter(|claim| claim.says.history.is_some()) {
            let owner = claim.says.timeline_of(event.id.lsn);
            rule.look(owner == event.id.timeline, || format!("{event} is of timeline {owner} to {}", name(claim)));
        }
    }
    verdict.invariants.push(rule);
}

/// Which Kafka transaction told what, by the progress topic alone.
pub struct Front<'a> {
    /// The closes that went further than all before them: only these can be the first to cover anything.
    closes: Vec<((u32, u64, u64), &'a Progress)>,
    /// The greatest visible id of each torn transaction, and the term of the session that wrote it.
    torn: Vec<(EventId, u64)>,
}

impl<'a> Front<'a> {
    /// The front of a history.
    pub fn of(progress: &'a [Progress]) -> Self {
        let mut closes: Vec<((u32, u64, u64), &Progress)> = Vec::new();
        for record in progress.iter().filter(|record| record.says.kind == "close") {
            let Some(position) = &record.says.position else { continue };
            let (timeline, lsn) = position.order();
            let reach = match record.says.partial.as_ref().map(|partial| (parse_lsn(&partial.final_lsn), partial)) {
                Some((Some(lsn), partial)) => (record.says.timeline_of(lsn), lsn, partial.changes_done),
                _ => (timeline, lsn, 0),
            };
            if closes.last().is_none_or(|(furthest, _)| reach > *furthest) {
                closes.push((reach, record));
            }
        }
        let claims = progress.iter().filter(|record| record.says.kind == "claim");
        let torn = claims.filter_map(|record| {
            let torn = record.says.torn.as_ref()?;
            let open =
                progress.iter().find(|open| (&open.says.session, open.says.number) == (&torn.session, torn.number));
            Some((EventId::parse(torn.greatest_id.as_deref()?)?, open?.says.term?))
        });
        Front { closes, torn: torn.collect() }
    }

    /// The first close whose position is past a record, or whose half-published transaction has it, with its place in the front.
    fn covers(&self, id: EventId) -> Option<(usize, &'a Progress)> {
        let place = (id.timeline, id.lsn, id.change);
        let index = self.closes.partition_point(|(reach, _)| *reach <= place);
        self.closes.get(index).map(|(_, record)| (index, *record))
    }

    /// The torn transaction in which a record became visible that another session's close covers.
    fn torn(&self, event: &Event) -> Option<usize> {
        self.torn.iter().position(|(greatest, term)| event.id <= *greatest && event.term == *term)
    }

    /// A number for the Kafka transaction that told a record; `None` if no close covers it.
    pub fn transaction(&self, event: &Event) -> Option<usize> {
        let (index, close) = self.covers(event.id)?;
        if close.says.term == Some(event.term) { Some(index) } else { Some(self.closes.len() + self.torn(event)?) }
    }
}

/// The first close that covers a record is of the record's term: it was in the same Kafka transaction. What became visible of a
/// torn transaction is covered by the session that reconciled it.
fn covered(history: &History, verdict: &mut Verdict) {
    let mut rule = Invariant::new(20, "a record carries the term under which it was committed");
    let front = Front::of(&history.progress);
    for event in &history.events {
        match front.covers(event.id) {
            Some((_, close)) => {
                rule.look(close.says.term == Some(event.term) || front.torn(event).is_some(), || {
                    format!("{event} is closed by {}", name(close))
                });
            }
            None => rule.look(false, || uncovered(event)),
        }
    }
    verdict.invariants.push(rule);
}

/// Whether it says that a history ended otherwise than was told.
fn is_judgement(record: &Progress) -> bool {
    matches!(record.says.kind.as_str(), "divergence" | "accept")
}

fn uncovered(event: &Event) -> String {
    format!("{event} is beyond every committed close")
}

fn carries_position(says: &Says) -> bool {
    says.kind != "open"
}
