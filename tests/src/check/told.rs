//! What the workers told about themselves in their logs, against what they did; and that nothing collected has a secret in it.

use std::collections::HashMap;

use super::Evidence;
use super::history::Progress;
use super::verdict::{Invariant, Verdict};

/// A line of a log and a record's time are not taken at one instant.
const SKEW_MS: i64 = 100;

/// Judges the logs and adds to the verdict.
pub fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    starts(evidence, verdict);
    secrets(evidence, verdict);
}

/// A field of a log line, `name=value`, with or without quotes.
pub(super) fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
    Some(rest.trim_matches('"'))
}

/// Where a worker says that it starts is where its claim says that it goes on; and it sends no data before it says that it streams.
fn starts(evidence: &Evidence, verdict: &mut Verdict) {
    let mut place = Invariant::new(17, "streams start where the claim says");
    let mut order = Invariant::new(18, "no data before the check after the start");
    let claims: HashMap<(u64, &str), &Progress> = evidence
        .history
        .progress
        .iter()
        .filter(|record| record.says.kind == "claim")
        .filter_map(|record| Some(((record.says.term?, record.says.worker.as_str()), record)))
        .collect();
    for (worker, log) in &evidence.logs {
        // A claim that was not committed is tried again under the same term: the last line of a term counts.
        let mut starting: HashMap<u64, &str> = HashMap::new();
        for line in log.lines() {
            let Some(term) = field(line, "term").and_then(|term| term.parse::<u64>().ok()) else { continue };
            if line.contains(": claiming ") {
                starting.insert(term, line);
            } else if line.contains(": state changed ")
                && field(line, "to") == Some("stream")
                && let Some(at) = line.split(' ').next().and_then(milliseconds)
                && claims.contains_key(&(term, worker))
                && let Some(first) = evidence.history.first_of_term.get(&term)
            {
                order.look(first + SKEW_MS >= at, || {
                    format!("{worker} sent data under term {term} at {first}, it streamed from {at} on")
                });
            }
        }
        for (term, line) in starting {
            let Some(claim) = claims.get(&(term, worker)) else { continue };
            let position = claim.says.position.as_ref().map(|place| place.lsn.as_str());
            let last = claim.says.last.as_ref().map(|last| last.final_lsn.as_str());
            let start = field(line, "start");
            place.look(field(line, "position") == position && (start == position || start == last), || {
                format!("{worker} started at {start:?} under term {term}, its claim says {position:?}")
            });
        }
    }
    verdict.invariants.extend([place, order]);
}

/// RFC 3339 in UTC as milliseconds since 1970.
pub(super) fn milliseconds(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let (shifted, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * month + 2) / 5 + day - 719_469;
    let fraction: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000 + fraction)
}

/// No password in progress, markers, etcd or a log.
fn secrets(evidence: &Evidence, verdict: &mut Verdict) {
    let mut rule = Invariant::new(42, "no secret in anything collected");
    let mut look = |place: &str, text: &str| {
        let found = evidence.secrets.iter().any(|secret| !secret.is_empty() && text.contains(secret.as_str()));
        rule.look(!found, || format!("a password is in {place}"));
    };
    if !evidence.secrets.is_empty() {
        for record in &evidence.history.progress {
            look("the progress topic", &String::from_utf8_lossy(&record.value));
        }
        for marker in &evidence.history.markers {
            look("the markers topic", &marker.to_string());
        }
        for write in evidence.ownership.iter().flat_map(|known| known.holder.iter().chain(&known.verdicts)) {
            look("etcd", &write.value.as_ref().map(ToString::to_string).unwrap_or_default());
        }
        for (worker, log) in &evidence.logs {
            look(&format!("{worker}'s log"), log);
        }
    }
    verdict.invariants.push(rule);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_from_1970() {
        assert_eq!(milliseconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(milliseconds("2024-02-29T23:03:03.1234Z"), Some(1_709_247_783_123));
    }
}
