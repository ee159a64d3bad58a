//! The checker: compares what a pipeline has told with what the surviving database has, and looks at everything else that
//! can be seen from outside.
//!
//! Black box: it links nothing of the product and reads JSON, headers and SQL like anybody else. Judging is a pure
//! function of what was read ([`judge`]); reading is apart ([`run`] and what it calls).

pub mod batches;
pub mod event;
pub mod fold;
pub mod history;
pub mod ownership;
pub mod read;
pub mod resources;
pub mod row;
pub mod run;
pub mod samples;
pub mod selftest;
pub mod staged;
pub mod stored;
pub mod table;
pub mod tenures;
pub mod value;
pub mod verdict;

mod bounds;
mod content;
mod delivery;
mod honesty;
pub mod progress;
mod repeats;
mod slots;
mod told;
mod transactions;

use batches::Batches;
use history::History;
use ownership::Ownership;
use samples::Sample;
use staged::Staged;
use table::Database;
use tenures::Terminated;
use verdict::{Invariant, Verdict};

/// All that was read of one pipeline.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What a read_committed consumer has.
    pub history: History,
    /// What the surviving database has.
    pub database: Database,
    /// What lies in the topics, committed or not.
    pub batches: Batches,
    /// What was seen while it ran, in the order of time.
    pub samples: Vec<Sample>,
    /// What etcd remembers, if it was asked.
    pub ownership: Option<Ownership>,
    /// The workers' logs.
    pub logs: Vec<(String, String)>,
    /// Backends of PostgreSQL that were told to end.
    pub terminated: Vec<Terminated>,
    /// What was done to the cluster, if that is known.
    pub staged: Option<Staged>,
    /// Passwords.
    pub secrets: Vec<String>,
    /// Whether all was told before the time was up, if that was waited for.
    pub settled: Option<bool>,
}

/// What consumers may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    /// Each record once, in transactions that carry the progress.
    ExactlyOnce,
    /// Each record, and behind a checkpoint some of them again; the checkpoints are the progress.
    AtLeastOnce,
}

/// Judges all that was read. Where the last checkpoint is a position, delivery is at least once.
pub fn judge(evidence: &Evidence) -> Verdict {
    match evidence.ownership.as_ref().and_then(Ownership::kept) {
        None => judge_as(evidence, Delivery::ExactlyOnce),
        Some(progress) => {
            let mut evidence = evidence.clone();
            evidence.history.progress = progress;
            judge_as(&evidence, Delivery::AtLeastOnce)
        }
    }
}

fn judge_as(evidence: &Evidence, delivery: Delivery) -> Verdict {
    let Evidence { history, database, .. } = evidence;
    let mut verdict = Verdict { gaps: history.gaps(), ..Verdict::default() };
    let ledger = table::ledger(database);
    let surviving = delivery::judge(history, &ledger, delivery, &mut verdict);
    content::judge(&surviving, &ledger, database, &history.accepted_gaps(), &mut verdict);
    match delivery {
        Delivery::ExactlyOnce => {
            progress::judge(history, &mut verdict);
            transactions::judge(history, &evidence.batches, &mut verdict);
        }
        Delivery::AtLeastOnce => progress::judge_kept(history, &mut verdict),
    }
    slots::judge(&history.progress, &evidence.samples, &mut verdict);
    if let Some(ownership) = &evidence.ownership {
        ownership::judge(history, ownership, &evidence.samples, &mut verdict);
    }
    told::judge(evidence, &mut verdict);
    tenures::judge(evidence, &mut verdict);
    resources::judge(&evidence.samples, &mut verdict);
    if let Some(staged) = &evidence.staged {
        honesty::judge(evidence, staged, &mut verdict);
        bounds::judge(history, &evidence.samples, staged, &mut verdict);
    }
    let mut lag = Invariant::new(35, "lag goes to zero");
    if let Some(settled) = evidence.settled {
        lag.look(settled, || "not all was told before the time was up".into());
    }
    verdict.invariants.push(lag);
    verdict.complete();
    verdict
}
