//! The checker is only worth something if it notices. Good histories are mutilated in every way that a broken worker could, and
//! each mutilation must be found.

pub mod recording;

mod mutate;
mod world;

use std::collections::BTreeMap;

use fastrand::Rng;
use serde::Serialize;

use super::judge;
use recording::Recording;

/// How many of the mutilations were caught.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// How many were made.
    pub mutilations: usize,
    /// How many of them the checker found.
    pub caught: usize,
    /// How many were made of each kind.
    pub kinds: BTreeMap<&'static str, usize>,
    /// How many of them each invariant noticed, by its number.
    pub rules: BTreeMap<u32, usize>,
    /// Good histories that the checker took for bad ones, and bad ones that it took for good ones, in words.
    pub wrong: Vec<String>,
}

impl Outcome {
    /// Whether the checker was right every time.
    pub fn is_clean(&self) -> bool {
        self.wrong.is_empty() && self.caught == self.mutilations
    }
}

/// A history that was recorded from a real cluster.
fn recorded() -> Recording {
    serde_json::from_str(include_str!("recorded.json")).expect("it was written by serde_json")
}

/// Makes so many mutilations, drawn from a seed, of good histories: one that was recorded and many that are made.
pub fn run(mutilations: usize, seed: u64) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let recorded = recorded();
    let mut outcome =
        Outcome { mutilations, caught: 0, kinds: BTreeMap::new(), rules: BTreeMap::new(), wrong: Vec::new() };
    let verdict = judge(&recorded.evidence());
    if !verdict.is_clean() {
        outcome.wrong.push(format!("the recorded history is taken for a bad one:\n{verdict}"));
    }
    let mut made = 0;
    let mut turns = 0..mutilations * 4;
    while made < mutilations && turns.next().is_some() {
        // Every kind has its turn; which history it strikes is drawn.
        let mutilation = &mutate::ALL[made % mutate::ALL.len()];
        let history = rng.u64(..);
        let mut good = if rng.u8(..8) == 0 { recorded.clone() } else { world::good(history) };
        let at = rng.get_seed();
        if !mutilation.apply(&mut good, &mut rng) {
            continue;
        }
        made += 1;
        *outcome.kinds.entry(mutilation.what).or_default() += 1;
        let verdict = judge(&good.evidence());
        for invariant in verdict.invariants.iter().filter(|invariant| !invariant.ok) {
            *outcome.rules.entry(invariant.id).or_default() += 1;
        }
        if verdict.is_clean() {
            outcome.wrong.push(format!("history {history}, drawn on from {at}: {} is not noticed", mutilation.what));
        } else {
            outcome.caught += 1;
        }
    }
    outcome.mutilations = made;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_history_is_not_taken_for_a_bad_one() {
        for seed in 0..200 {
            let good = world::good(seed);
            let verdict = judge(&good.evidence());
            assert!(verdict.is_clean() && verdict.lost == 0 && verdict.torn == 1, "seed {seed}:\n{verdict}");
            assert_eq!(verdict.written, verdict.received);
            assert!(verdict.phantoms.marked > 0);
        }
        let verdict = judge(&recorded().evidence());
        assert!(verdict.is_clean(), "{verdict}");
    }

    #[test]
    fn what_an_accepted_gap_names_is_not_lost_and_what_it_does_not_name_is() {
        for seed in 0..100 {
            let mut gap = world::good_with_gap(seed);
            let verdict = judge(&gap.evidence());
            assert!(verdict.is_clean() && verdict.in_gaps >= 3, "seed {seed}:\n{verdict}");
            assert_eq!((verdict.written, verdict.gaps.len()), (verdict.received + 3, 1));
            gap.records.retain(|record| !record.topic.ends_with(".markers"));
            assert!(judge(&gap.evidence()).lost >= 3, "seed {seed}: nothing is lost without the marker");

            let mut gap = world::good_with_gap(seed);
            let last = gap.records.iter().rposition(|record| record.topic.ends_with(".ledger")).expect("transactions");
            gap.records.remove(last);
            assert!(judge(&gap.evidence()).lost > 0, "seed {seed}: what is lost behind the gap is not seen");
        }
    }

    #[test]
    fn every_mutilation_is_caught() {
        let outcome = run(1_000, 1);
        assert!(outcome.is_clean(), "{:#?}", outcome.wrong);
        assert_eq!(outcome.mutilations, 1_000);
        assert!(outcome.kinds.values().all(|made| *made >= 5), "{:?}", outcome.kinds);
        let checked = [
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 25, 26, 27, 28, 29, 31,
            32, 33, 34, 36, 37, 38, 39, 40, 41, 42, 44, 45, 46, 47,
        ];
        for id in checked {
            assert!(outcome.rules.contains_key(&id), "nothing breaks invariant {id}: {:?}", outcome.rules);
        }
    }
}
