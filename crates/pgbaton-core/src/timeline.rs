//! Timelines and the history that tells them apart. The number of a timeline proves nothing: two nodes can both promote
//! to "timeline 2". Histories are compared as lists (docs/how-it-works.md).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;

/// PostgreSQL's timeline id, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The way a server came to its timeline: the timelines that were left, each with the LSN at which it was left.
///
/// The list of `TIMELINE_HISTORY`, in order, and the server's own timeline behind it. Serialised as the list of pairs
/// alone; the current timeline stands beside it in every record that carries a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    left: Vec<(Timeline, Lsn)>,
    current: Timeline,
}

impl History {
    /// The history of `current`, which was reached by leaving `left` in this order.
    pub fn new(left: Vec<(Timeline, Lsn)>, current: Timeline) -> Self {
        History { left, current }
    }

    /// The timeline that the server writes now.
    pub fn current(&self) -> Timeline {
        self.current
    }

    /// The timelines that were left, each with its switch point, oldest first.
    pub fn left(&self) -> &[(Timeline, Lsn)] {
        &self.left
    }

    /// The timeline that owns `lsn`: the first one whose switch point lies beyond it. A record that *starts* below the
    /// switch point belongs to the older timeline.
    pub fn owner_of(&self, lsn: Lsn) -> Timeline {
        self.left.iter().find(|(_, switch)| lsn < *switch).map_or(self.current, |(timeline, _)| *timeline)
    }

    /// The timeline a *position* (an end) lies on: ending exactly at the switch point still belongs to the older one.
    pub fn owner_of_end(&self, end: Lsn) -> Timeline {
        self.left.iter().find(|(_, switch)| end <= *switch).map_or(self.current, |(timeline, _)| *timeline)
    }

    /// Where two histories part.
    ///
    /// The first difference decides. The same timeline left at two places: the earlier one. Two different timelines: the
    /// switch point that led to both, whatever their numbers say (two standbys that promote from the same LSN, the second
    /// of them knowing that the first number is taken, differ in nothing but the number of their timeline).
    pub fn fork_with(&self, other: &History) -> Fork {
        let steps = |history: &History| -> Vec<(Timeline, Lsn)> {
            history.left.iter().copied().chain([(history.current, Lsn::MAX)]).collect()
        };
        let (ours, theirs) = (steps(self), steps(other));
        let same = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
        match (ours.get(same), theirs.get(same)) {
            (Some(a), Some(b)) if a.0 == b.0 => Fork::At(a.1.min(b.1)),
            (Some(_), Some(_)) if same > 0 => Fork::At(ours[same - 1].1),
            (Some(_), Some(_)) => Fork::Unrelated,
            // A last step ends at infinity, so one list cannot be the beginning of the other.
            _ => Fork::None,
        }
    }

    /// Reads a `TIMELINE_HISTORY` file: lines of `timeline TAB lsn TAB reason`; comments and empty lines are skipped.
    pub fn parse(file: &str, current: Timeline) -> Result<Self, MalformedHistory> {
        let mut left = Vec::new();
        for line in file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut fields = line.split_whitespace();
            let step = fields
                .next()
                .and_then(|field| field.parse().ok())
                .zip(fields.next().and_then(|field| field.parse().ok()))
                .filter(|(timeline, _)| left.last().is_none_or(|(last, _): &(Timeline, Lsn)| last.0 < *timeline))
                .ok_or_else(|| MalformedHistory { line: line.to_owned(), timeline: current })?;
            left.push((Timeline(step.0), step.1));
        }
        Ok(History { left, current })
    }
}

/// How two histories relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// They are equal: the same timeline, nothing to cut.
    None,
    /// They are one up to this LSN and part there.
    At(Lsn),
    /// They have no timeline in common.
    Unrelated,
}

/// A line of a timeline history file that does not read as `timeline lsn reason`, with rising timelines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the history of timeline {timeline} has a line that cannot be read: {line:?}")]
pub struct MalformedHistory {
    /// The line as it came.
    pub line: String,
    /// The timeline whose history was asked for.
    pub timeline: Timeline,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(left: &[(u32, u64)], current: u32) -> History {
        History::new(left.iter().map(|(t, l)| (Timeline(*t), Lsn(*l))).collect(), Timeline(current))
    }

    #[test]
    fn equal_histories_have_no_fork() {
        assert_eq!(history(&[(1, 100)], 2).fork_with(&history(&[(1, 100)], 2)), Fork::None);
    }

    #[test]
    fn a_promotion_forks_at_its_switch_point_seen_from_both_sides() {
        let (old, new) = (history(&[], 1), history(&[(1, 100)], 2));
        assert_eq!(old.fork_with(&new), Fork::At(Lsn(100)));
        assert_eq!(new.fork_with(&old), Fork::At(Lsn(100)));
    }

    #[test]
    fn two_promotions_to_the_same_number_fork_at_the_earlier_switch_point() {
        assert_eq!(history(&[(1, 100)], 2).fork_with(&history(&[(1, 80)], 2)), Fork::At(Lsn(80)));
    }

    #[test]
    fn two_promotions_from_one_lsn_to_different_numbers_fork_where_they_promoted() {
        let (ours, theirs) = (history(&[(1, 100)], 2), history(&[(1, 100)], 3));
        assert_eq!(ours.fork_with(&theirs), Fork::At(Lsn(100)));
        let theirs = history(&[(1, 100), (4, 250)], 5);
        assert_eq!(history(&[(1, 100), (2, 300)], 3).fork_with(&theirs), Fork::At(Lsn(100)));
    }

    #[test]
    fn histories_without_a_common_timeline_are_unrelated() {
        assert_eq!(history(&[], 1).fork_with(&history(&[], 2)), Fork::Unrelated);
    }

    #[test]
    fn a_record_that_starts_below_the_switch_point_belongs_to_the_older_timeline() {
        let history = history(&[(1, 100), (2, 200)], 3);
        assert_eq!(history.owner_of(Lsn(99)), Timeline(1));
        assert_eq!(history.owner_of(Lsn(100)), Timeline(2));
        assert_eq!(history.owner_of_end(Lsn(100)), Timeline(1));
        assert_eq!(history.owner_of(Lsn(200)), Timeline(3));
    }

    #[test]
    fn a_history_file_is_read_and_a_broken_one_refused() {
        let file = "1\t0/4062020\tno recovery target specified\n\n2\t0/40B22A8\tno recovery target specified\n";
        let read = History::parse(file, Timeline(3)).unwrap();
        assert_eq!(read.left(), [(Timeline(1), Lsn(0x4062020)), (Timeline(2), Lsn(0x40B22A8))]);
        for broken in ["x", "1", "1\tx", "2\t0/1\n1\t0/2"] {
            assert!(History::parse(broken, Timeline(3)).is_err(), "{broken:?} was accepted");
        }
    }
}
