//! The checker: compares what a pipeline has told with what the surviving database has.
//!
//! Black box: it links nothing of the product and reads JSON, headers and SQL like anybody else. Judging is a pure
//! function of what was read ([`judge`]); reading is apart ([`read`], [`run`]).

pub mod event;
pub mod history;
pub mod read;
pub mod run;
pub mod table;
pub mod verdict;

mod delivery;
mod progress;

use history::History;
use table::Content;
use verdict::Verdict;

/// Judges all that was read.
pub fn judge(history: &History, content: &Content) -> Verdict {
    let mut verdict = Verdict { gaps: history.gaps(), ..Verdict::default() };
    delivery::judge(history, content, &mut verdict);
    progress::judge(history, &mut verdict);
    verdict.invariants.sort_by_key(|invariant| invariant.id);
    verdict
}

#[cfg(test)]
mod tests;
