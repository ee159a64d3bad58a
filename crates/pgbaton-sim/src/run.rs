//! Many runs on all cores, and what came of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::model::Model;
use crate::mutant::Mutant;
use crate::scenario::Scenario;
use crate::{swarm, world};

/// A schedule in which an invariant did not hold.
#[derive(Debug, Clone)]
pub struct Found {
    /// The seed of the schedule.
    pub seed: u64,
    /// The number in INVARIANTS.md.
    pub invariant: u32,
    /// What was seen.
    pub text: String,
}

/// What many schedules came to.
#[derive(Debug)]
pub struct Tally {
    /// How many were run.
    pub schedules: u64,
    /// Those that violated something, by seed.
    pub found: Vec<Found>,
}

/// Runs `count` schedules from `first` on; ends at the first violation if `stop`.
pub fn sweep(first: u64, count: u64, mutant: Option<&str>, stop: bool) -> Tally {
    let mutant = mutant.and_then(Mutant::parse);
    let (next, done) = (AtomicU64::new(first), AtomicU64::new(0));
    let over = AtomicBool::new(false);
    let found = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    let outcome = world::run(&swarm::draw(seed), mutant, false);
                    done.fetch_add(1, Ordering::Relaxed);
                    if let Some(violation) = outcome.violation {
                        let found_here = Found { seed, invariant: violation.invariant, text: violation.text };
                        found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(found_here);
                        if stop {
                            over.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    found.sort_by_key(|found| found.seed);
    Tally { schedules: done.into_inner(), found }
}

/// The script of a seed.
pub fn script(seed: u64) -> String {
    swarm::draw(seed).text()
}

/// One run, told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// One line for each event: time, who, what.
    pub story: String,
    /// Of everything that happened. The same script has the same hash.
    pub hash: u64,
    /// The violated invariant, if one was, and what was seen.
    pub violation: Option<(u32, String)>,
}

/// Runs a script and tells its story; the error is the line that cannot be read.
pub fn tell(script: &str, mutant: Option<&str>) -> Result<Told, String> {
    let outcome = world::run(&Scenario::read(script)?, mutant.and_then(Mutant::parse), true);
    Ok(Told {
        story: outcome.story,
        hash: outcome.hash,
        violation: outcome.violation.map(|violation| (violation.invariant, violation.text)),
    })
}

/// Takes faults away from a script for as long as the same invariant is violated.
pub fn shrink(script: &str, mutant: Option<&str>) -> Result<String, String> {
    let mutant = mutant.and_then(Mutant::parse);
    let mut scenario = Scenario::read(script)?;
    let violated = |scenario: &Scenario| world::run(scenario, mutant, false).violation.map(|found| found.invariant);
    let Some(wanted) = violated(&scenario) else { return Ok(scenario.text()) };
    let mut at = 0;
    while at < scenario.faults.len() {
        let mut fewer = scenario.clone();
        fewer.faults.remove(at);
        if violated(&fewer) == Some(wanted) {
            scenario = fewer;
        } else {
            at += 1;
        }
    }
    Ok(scenario.text())
}

/// The model without the guard that this mutant lacks, where schedules are too blunt for it.
pub fn model_of(mutant: &str) -> Option<Model> {
    let (bounds, removed) = Mutant::parse(mutant)?.model()?;
    Some(Model::new(bounds, removed))
}

/// The names of all mutants.
pub fn mutants() -> impl Iterator<Item = &'static str> {
    Mutant::ALL.iter().map(|(_, name)| *name)
}
