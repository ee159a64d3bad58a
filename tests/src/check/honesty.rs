//! Never a silent gap, and no false alarm: what the workers said of the faults that were dealt out.

use std::collections::BTreeMap;

use super::Evidence;
use super::event::lsn_text;
use super::samples::{Sample, Shows, Worker};
use super::staged::{Gap, Staged};
use super::told::milliseconds;
use super::verdict::{Invariant, Verdict};

/// A stream that says nothing is looked into after 10 s; twice that is no matter of a busy machine.
const SILENCE_MS: i64 = 20_000;
/// What comes through more often than this is no silence.
const LULL_MS: i64 = 1_000;
/// A worker that did not answer for longer was not seen in between.
const SEEN_MS: i64 = 2_000;

/// Judges gaps, codes and quarantines and adds to the verdict.
pub fn judge(evidence: &Evidence, staged: &Staged, verdict: &mut Verdict) {
    let mut gaps = Invariant::new(32, "gaps are told exactly and in time");
    staged.gaps.iter().for_each(|gap| gap_is_told(gap, &mut gaps));
    let mut codes = Invariant::new(33, "every fault has its code, and nobody is healthy and idle");
    for named in &staged.named {
        codes.look(named.said.is_some() && named.metric, || {
            let metric = if named.metric { "" } else { " and not in its metrics" };
            format!(
                "{}: {} said {:?} of {}{metric}",
                named.fault,
                named.worker,
                named.said.as_deref().unwrap_or("nothing"),
                named.wanted.join(" or ")
            )
        });
    }
    idle(staged, &evidence.samples, &mut codes);
    verdict.invariants.extend([gaps, codes, false_quarantine(evidence, staged)]);
    if staged.standby_barrier {
        verdict.invariants.push(behind_a_barrier(evidence));
    }
}

/// What consumers have seen, no failover takes back.
fn behind_a_barrier(evidence: &Evidence) -> Invariant {
    let mut rule = Invariant::new(30, "no divergence behind a barrier");
    rule.look(!evidence.history.events.is_empty(), || "nothing was published".to_owned());
    for divergence in evidence.history.divergences() {
        rule.look(false, || format!("the standbys had not flushed what was published: {divergence:?}"));
    }
    rule
}

fn gap_is_told(gap: &Gap, rule: &mut Invariant) {
    let Gap { pipeline, code, took, missing, reported: [from, to], widest, told_beyond } = gap;
    let place = |lsn: &Option<u64>| lsn.map_or("nowhere".to_owned(), lsn_text);
    rule.look(took.in_time(), || {
        format!("{pipeline} said {code} after {} ms, {} ms are its time", took.ms, took.within_ms)
    });
    rule.look(from.is_some_and(|from| (widest[0]..=missing[0]).contains(&from)), || {
        format!(
            "{pipeline} reported {code} from {}, the first thing missing lies behind {}, and one transaction before it {}",
            place(from),
            lsn_text(missing[0]),
            lsn_text(widest[0])
        )
    });
    // Where there is no slot to tell the end, the range ends where the WAL did when that was seen, or nowhere.
    let least = if code == "slot_ahead" { missing[1] } else { 0 };
    rule.look(to.map_or(code != "slot_ahead", |to| (least..=widest[1]).contains(&to)), || {
        format!(
            "{pipeline} reported {code} up to {}, what is missing ends at {}, and one transaction later at {}",
            place(to),
            lsn_text(missing[1]),
            lsn_text(widest[1])
        )
    });
    rule.look(*told_beyond == 0, || format!("{pipeline} told {told_beyond} rows beyond its gap"));
}

/// While a row waits to come through, no worker says all the time that it streams and all is well.
fn idle(staged: &Staged, samples: &[Sample], rule: &mut Invariant) {
    for pair in staged.rows.windows(2) {
        let (from, to) = (pair[0].1, pair[1].1);
        if to - from <= LULL_MS {
            continue;
        }
        // Of all that came afterwards, what had waited for longest.
        let waiting = staged.rows.iter().filter(|(_, seen)| *seen >= to).map(|(sent, _)| *sent).min().unwrap_or(to);
        let longest = longest_calm(samples, from.max(waiting), to);
        rule.look(longest.as_ref().is_none_or(|(_, ms)| *ms <= SILENCE_MS), || {
            let (worker, ms) = longest.unwrap_or_default();
            format!("no row came through from {from} to {to}, and {worker} said for {ms} ms of it that it streams and is healthy")
        });
    }
}

/// The worker that said for longest without a pause that it streams and all is well, and for how long.
fn longest_calm(samples: &[Sample], from: i64, to: i64) -> Option<(String, i64)> {
    let mut running: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    let mut longest: Option<(String, i64)> = None;
    let first = samples.partition_point(|sample| sample.at_ms < from);
    for sample in samples[first..].iter().take_while(|sample| sample.at_ms <= to) {
        let Shows::Worker(worker) = &sample.shows else { continue };
        if !is_calm(worker) {
            running.remove(sample.node.as_str());
            continue;
        }
        let (since, seen) = running.entry(&sample.node).or_insert((sample.at_ms, sample.at_ms));
        if sample.at_ms - *seen > SEEN_MS {
            *since = sample.at_ms;
        }
        *seen = sample.at_ms;
        let lasted = *seen - *since;
        if longest.as_ref().is_none_or(|(_, ms)| lasted > *ms) {
            longest = Some((sample.node.clone(), lasted));
        }
    }
    longest
}

fn is_calm(worker: &Worker) -> bool {
    worker.active && worker.healthy && worker.reasons.is_empty()
}

/// The pipeline under load has no gap, whatever was done: gaps are made in pipelines of their own.
fn false_quarantine(evidence: &Evidence, staged: &Staged) -> Invariant {
    let mut rule = Invariant::new(34, "no false quarantine");
    for sample in evidence.samples.iter().filter(|sample| sample.at_ms >= staged.since_ms) {
        let Shows::Worker(worker) = &sample.shows else { continue };
        rule.look(worker.state != "quarantine", || {
            format!("{} was in quarantine at {}, though no change was kept from it", sample.node, sample.at_ms)
        });
    }
    for write in evidence.ownership.iter().flat_map(|known| &known.verdicts) {
        let Some(value) = &write.value else { continue };
        let before = value["at"].as_str().and_then(milliseconds).is_some_and(|at| at < staged.since_ms);
        rule.look(before, || format!("{} wrote the verdict {}: {}", value["worker"], value["code"], value["text"]));
    }
    rule
}
