//! What became of the faults of a run: takeovers, and how late rows came through. Pure, over what was observed.

use std::time::Instant;

use serde::Serialize;

use super::Struck;
use super::observe::Observation;
use crate::stage::Standing;
use crate::watch::Sight;

/// A new term: another worker streams, or the same one in a new session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Takeover {
    /// The last fault before it that concerned the one that streamed. Others may have played a part.
    pub fault: String,
    /// Whom that fault struck.
    pub target: String,
    /// From that fault to the first row committed after it that a read_committed consumer had.
    pub ms: Option<u64>,
    /// Whether another worker streams.
    pub owner_changed: bool,
    /// Before.
    pub from: Standing,
    /// After.
    pub to: Standing,
    /// When it was seen.
    #[serde(skip)]
    pub at: Instant,
}

/// All changes of term, in order.
#[must_use]
pub fn takeovers(struck: &[Struck], seen: &[Observation], sights: &[Sight]) -> Vec<Takeover> {
    let mut found = Vec::new();
    let mut before: Option<Standing> = None;
    for (at, to) in seen.iter().filter_map(|observation| Some((observation.at, observation.standing()?))) {
        if let Some(from) = before.as_ref().filter(|from| from.term < to.term) {
            let last = suspect(struck, at, &from.worker);
            found.push(Takeover {
                fault: last.map_or_else(|| "none".into(), |struck| struck.fault.fault.to_string()),
                target: last.map(|struck| struck.fault.targets.join(" ")).unwrap_or_default(),
                ms: last.and_then(|struck| first_row_ms(struck.at, sights)),
                owner_changed: from.worker != to.worker,
                from: from.clone(),
                to: to.clone(),
                at,
            });
        }
        if before.as_ref().is_none_or(|before| before.term <= to.term) {
            before = Some(to);
        }
    }
    found
}

/// The last fault before `at` that did not strike another worker only, or else the last one.
fn suspect<'a>(struck: &'a [Struck], at: Instant, holder: &str) -> Option<&'a Struck> {
    let concerns = |target: &String| {
        target.starts_with(holder) || !(target.starts_with("worker-") || target.starts_with("peers/"))
    };
    let before = || struck.iter().filter(|struck| struck.at < at);
    before().rfind(|struck| struck.fault.targets.iter().any(concerns)).or_else(|| before().next_back())
}

/// From a moment to the first row that was committed after it and came through.
#[must_use]
pub fn first_row_ms(after: Instant, sights: &[Sight]) -> Option<u64> {
    let first = sights.iter().filter(|sight| sight.sent >= after).map(|sight| sight.seen).min()?;
    u64::try_from((first - after).as_millis()).ok()
}

/// For each second from `start`: the longest that a row which came through in it had been on its way, in seconds.
#[must_use]
pub fn lag(start: Instant, sights: &[Sight]) -> Vec<(u64, f64)> {
    let mut seconds = std::collections::BTreeMap::new();
    for sight in sights.iter().filter(|sight| sight.seen >= start) {
        let late = (sight.seen - sight.sent).as_secs_f64();
        let worst = seconds.entry((sight.seen - start).as_secs()).or_insert(0.0_f64);
        *worst = worst.max(late);
    }
    seconds.into_iter().collect()
}

/// The spans in which no row came through for longer than a second, as seconds from `start`: from, to.
#[must_use]
pub fn silences(start: Instant, sights: &[Sight]) -> Vec<(f64, f64)> {
    let mut seen: Vec<f64> =
        sights.iter().filter(|sight| sight.seen >= start).map(|sight| (sight.seen - start).as_secs_f64()).collect();
    seen.sort_by(f64::total_cmp);
    seen.windows(2).filter(|pair| pair[1] - pair[0] > 1.0).map(|pair| (pair[0], pair[1])).collect()
}
