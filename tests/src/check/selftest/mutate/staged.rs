//! Mutilations: what came of faults that were dealt out on purpose.

use super::*;
use crate::check::staged::{Gap, Staged};

/// Changes what was measured; false where nothing was.
fn staged(recording: &mut Recording, change: impl FnOnce(&mut Staged) -> Option<()>) -> bool {
    recording.staged.as_mut().and_then(change).is_some()
}

fn one<'s, T>(of: &'s mut [T], rng: &mut Rng) -> Option<&'s mut T> {
    if of.is_empty() { None } else { Some(&mut of[rng.usize(..of.len())]) }
}

/// There was a fork, and what lay beyond it was published: with a barrier it must not have been.
pub(super) fn diverged_behind_a_barrier(recording: &mut Recording, _: &mut Rng) -> bool {
    let marks = |(_, record): &(usize, &Record)| value_of(record)["type"] == "divergence";
    if !recording.records.iter().enumerate().any(|found| marks(&found)) {
        return false;
    }
    staged(recording, |staged| (!std::mem::replace(&mut staged.standby_barrier, true)).then_some(()))
}

pub(super) fn late_gap(recording: &mut Recording, rng: &mut Rng) -> bool {
    staged(recording, |staged| one(&mut staged.gaps, rng).map(|gap| gap.took.ms = gap.took.within_ms + 1))
}

pub(super) fn narrow_gap(recording: &mut Recording, rng: &mut Rng) -> bool {
    staged(recording, |staged| one(&mut staged.gaps, rng).map(|gap| gap.reported[0] = Some(gap.missing[0] + 1)))
}

pub(super) fn wide_gap(recording: &mut Recording, rng: &mut Rng) -> bool {
    staged(recording, |staged| one(&mut staged.gaps, rng).map(|gap| gap.reported[0] = Some(gap.widest[0] - 1)))
}

pub(super) fn short_gap(recording: &mut Recording, rng: &mut Rng) -> bool {
    staged(recording, |staged| {
        let told = some(staged.gaps.iter_mut().filter(|gap| gap.reported[1].is_some()).collect(), rng);
        told.map(|gap: &mut Gap| gap.reported[1] = Some(gap.missing[1] - 1))
    })
}

pub(super) fn told_beyond(recording: &mut Recording, rng: &mut Rng) -> bool {
    staged(recording, |staged| one(&mut staged.gaps, rng).map(|gap| gap.told_beyond = 1))
}

pub(super) fn unnamed(recording: &mut Recording, rng: &mut Rng) -> bool {
    staged(recording, |staged| one(&mut staged.named, rng).map(|named| named.said = None))
}

pub(super) fn not_in_metrics(recording: &mut Recording, rng: &mut Rng) -> bool {
    staged(recording, |staged| one(&mut staged.named, rng).map(|named| named.metric = false))
}

/// Rows wait for 25 s while a worker says that it streams and is healthy.
pub(super) fn healthy_and_idle(recording: &mut Recording, _: &mut Rng) -> bool {
    staged(recording, |staged| {
        let last = staged.rows.last()?.1;
        let first = staged.rows.first()?.1;
        staged.rows.iter_mut().skip(1).for_each(|(_, seen)| *seen = last.max(first + 25_000));
        Some(())
    })
}

pub(super) fn false_quarantine(recording: &mut Recording, rng: &mut Rng) -> bool {
    let known = recording.staged.is_some();
    let found = recording.samples.iter_mut().filter_map(|sample| match &mut sample.shows {
        Shows::Worker(worker) if !worker.active => Some(worker),
        _ => None,
    });
    let Some(worker) = some(found.collect(), rng).filter(|_| known) else { return false };
    worker.state = "quarantine".into();
    true
}

pub(super) fn slow_takeover(recording: &mut Recording, rng: &mut Rng) -> bool {
    staged(recording, |staged| one(&mut staged.takeovers, rng).map(|(_, timed)| timed.ms = timed.within_ms + 1))
}

/// The owner changed twice, and nobody did anything.
pub(super) fn needless_changes(recording: &mut Recording, _: &mut Rng) -> bool {
    staged(recording, |staged| {
        let any = !staged.faults.is_empty();
        staged.faults.clear();
        any.then_some(())
    })
}

pub(super) fn retained(recording: &mut Recording, rng: &mut Rng) -> bool {
    staged(recording, |staged| one(&mut staged.idle, rng).map(|idle| idle.retained_bytes = 129 << 20))
}

pub(super) fn slow_stop(recording: &mut Recording, rng: &mut Rng) -> bool {
    staged(recording, |staged| one(&mut staged.fast_stops, rng).map(|timed| timed.ms = timed.within_ms + 1))
}

pub(super) fn slow_probes(recording: &mut Recording, _: &mut Rng) -> bool {
    staged(recording, |staged| {
        let some = staged.probes.len() / 50;
        staged.probes.iter_mut().take(some).for_each(|probe| probe.ms = 1_200);
        (some > 0).then_some(())
    })
}
