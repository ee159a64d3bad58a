//! What faults and crowds may cost: takeovers, changes of owner, WAL that is held back, stops of PostgreSQL, answers.

use super::history::History;
use super::samples::{Sample, stood_still};
use super::staged::{Fault, Staged, Timed};
use super::verdict::{Invariant, Verdict};

/// What an idle pipeline may hold back.
const RETAINED_BYTES: u64 = 128 << 20;
/// A fault can cost the owner its place for so long after it is healed: a lease.
const AFTERMATH_MS: i64 = 10_000;

/// A standby acts on silence of 2 s, and its claim is there some seconds later.
const BEFORE_MS: i64 = 15_000;

/// Judges what was measured and adds to the verdict.
pub fn judge(history: &History, samples: &[Sample], staged: &Staged, verdict: &mut Verdict) {
    let mut takeovers = Invariant::new(36, "takeover in time");
    // A machine that is too busy to be looked at is no measure.
    let measures = |(end, timed): &&(i64, Timed)| {
        let took = i64::try_from(timed.ms.min(timed.within_ms)).unwrap_or(i64::MAX);
        !stood_still(samples, "", end.saturating_sub(took), *end)
    };
    let measured: Vec<Timed> = staged.takeovers.iter().filter(measures).map(|(_, timed)| timed.clone()).collect();
    each_in_time(&measured, &mut takeovers);
    let mut idle = Invariant::new(38, "an idle pipeline retains little");
    for look in &staged.idle {
        idle.look(look.retained_bytes <= RETAINED_BYTES, || {
            let mib = |bytes: u64| bytes >> 20;
            format!("{} MiB were held back after {} MiB of others", mib(look.retained_bytes), mib(look.written_bytes))
        });
    }
    let mut stops = Invariant::new(40, "PostgreSQL stops fast");
    each_in_time(&staged.fast_stops, &mut stops);
    let mut probes = Invariant::new(41, "health answers under a flood");
    if let Some(slow) = percentile(&staged.probes, 99) {
        probes
            .look(slow.in_time(), || format!("1 of 100 answers took {} ms or longer, such as {}", slow.ms, slow.what));
        probes.checked = staged.probes.len() as u64;
    }
    verdict.invariants.extend([takeovers, owners(history, samples, staged), idle, stops, probes]);
}

fn each_in_time(measured: &[Timed], rule: &mut Invariant) {
    for timed in measured {
        rule.look(timed.in_time(), || {
            format!("{} took {} ms, {} ms are its time", timed.what, timed.ms, timed.within_ms)
        });
    }
}

/// By the nearest rank.
fn percentile(measured: &[Timed], percent: usize) -> Option<&Timed> {
    let mut sorted: Vec<&Timed> = measured.iter().collect();
    sorted.sort_by_key(|timed| timed.ms);
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

/// The owner changes once for each fault that may cost it its place, and once more. Where it stood still by itself, as on a machine
/// that is too busy, that was the fault.
fn owners(history: &History, samples: &[Sample], staged: &Staged) -> Invariant {
    let mut rule = Invariant::new(37, "no needless change of owner");
    let claims = history.progress.iter().filter(|record| record.says.kind == "claim");
    let tenures: Vec<(i64, &str)> = claims.map(|claim| (claim.at_ms, claim.says.worker.as_str())).collect();
    let relevant: Vec<&Fault> = staged.faults.iter().filter(|fault| may_cost_the_owner(fault, &tenures)).collect();
    let seen_until = samples.last().map_or(i64::MAX, |sample| sample.at_ms);
    let (mut changes, mut stood) = (0, 0);
    for (before, (at, after)) in tenures.windows(2).map(|pair| (pair[0].1, pair[1])) {
        if before == after || !(staged.since_ms..=seen_until).contains(&at) {
            continue;
        }
        changes += 1;
        let struck = relevant.iter().any(|fault| fault.at_ms <= at && fault.until_ms >= at - BEFORE_MS);
        stood += usize::from(!struck && stood_still(samples, before, at - BEFORE_MS, at));
    }
    rule.look(changes <= relevant.len() + stood + 1, || {
        format!(
            "{changes} changes of owner, {} of {} faults may have caused one, and {stood} times the owner stood still",
            relevant.len(),
            staged.faults.len()
        )
    });
    rule.checked = changes.max(1) as u64;
    rule
}

/// A planned change of the database's leader does not, and what strikes a worker does only if it was, or became, the owner meanwhile.
fn may_cost_the_owner(fault: &Fault, tenures: &[(i64, &str)]) -> bool {
    let until = fault.until_ms.saturating_add(AFTERMATH_MS);
    let owned = |worker: &str| {
        let ends = tenures.iter().skip(1).map(|next| next.0).chain([i64::MAX]);
        tenures.iter().zip(ends).any(|((from, owner), to)| *owner == worker && *from <= until && to >= fault.at_ms)
    };
    fault.targets.iter().any(|target| {
        let way = target.strip_prefix("peers/").unwrap_or(target);
        let node = way.split('/').next().unwrap_or(way);
        node != "database" && (!node.starts_with("worker-") || owned(node))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(target: &str, at_ms: i64, until_ms: i64) -> Fault {
        Fault { at_ms, until_ms, what: "kill".into(), targets: vec![target.into()] }
    }

    #[test]
    fn a_fault_counts_if_it_may_cost_the_owner_its_place() {
        let tenures = [(0, "worker-1"), (100_000, "worker-2")];
        let counts = |target, at, until| may_cost_the_owner(&fault(target, at, until), &tenures);
        assert!(counts("worker-1", 50_000, 60_000) && counts("worker-1/kafka-", 50_000, 60_000));
        assert!(counts("peers/worker-1", 50_000, 60_000) && counts("etcd-1", 50_000, 60_000));
        assert!(counts("worker-2", 50_000, 95_000), "it became the owner in its aftermath");
        assert!(!counts("worker-2", 50_000, 60_000) && !counts("worker-1", 150_000, i64::MAX));
        assert!(!counts("database", 50_000, 60_000));
    }

    #[test]
    fn one_slow_answer_of_two_hundred_is_borne_and_three_are_not() {
        let probes = |slow: usize| {
            let ms = |number| if number < slow { 1_500 } else { 3 };
            (0..200).map(|number| Timed { what: "/health".into(), ms: ms(number), within_ms: 1_000 }).collect()
        };
        let judged = |slow| {
            let mut verdict = Verdict::default();
            let staged = Staged { probes: probes(slow), ..Staged::default() };
            judge(&History::default(), &[], &staged, &mut verdict);
            verdict.invariants.into_iter().find(|rule| rule.id == 41).expect("it is judged")
        };
        assert!(judged(2).ok && !judged(3).ok);
        assert_eq!(judged(0).checked, 200);
    }
}
