//! Waiting for PostgreSQL's standbys. What they have not flushed, a failover can take back: with a barrier it is published
//! only when they have, so that no consumer ever sees what the database has lost.
//!
//! Logical decoding alone does not wait. It sends what the primary has flushed, also under synchronous replication: there a
//! client waits for its standbys, a walsender of ours does not.

use std::collections::VecDeque;

use crate::Lsn;

/// So many ends of WAL are kept in mind until the standbys have reached them; a standby that comes back has reached them all.
const MARKS: usize = 64;

/// How far the standbys that count were, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushed {
    /// Where the primary's next record was to begin: every transaction whose commit record begins below has ended by here.
    pub insert: Lsn,
    /// All of them have flushed up to here.
    pub by_all: Lsn,
}

/// What may be published, by what the standbys have flushed of the WAL that one session reads.
#[derive(Debug, Default)]
pub struct Barrier {
    /// Ends of records, rising, that they have not reached.
    marks: VecDeque<Lsn>,
    /// Transactions whose commit record begins below are flushed.
    cleared: Lsn,
    flushed: Lsn,
}

impl Barrier {
    /// The server that is read was looked at.
    pub fn seen(&mut self, seen: Flushed) {
        if self.marks.back().is_none_or(|last| *last < seen.insert) && self.marks.len() < MARKS {
            self.marks.push_back(seen.insert);
        }
        self.flushed = self.flushed.max(seen.by_all);
        while let Some(mark) = self.marks.front().copied().filter(|mark| *mark <= seen.by_all) {
            self.cleared = self.cleared.max(mark);
            self.marks.pop_front();
        }
    }

    /// Whether a transaction may be published whose commit record begins at `final_lsn`, and ends at `end` where that has been
    /// read already.
    pub fn lets(&self, final_lsn: Lsn, end: Option<Lsn>) -> bool {
        final_lsn < self.cleared || end.is_some_and(|end| end <= self.flushed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(insert: u64, by_all: u64) -> Flushed {
        Flushed { insert: Lsn(insert), by_all: Lsn(by_all) }
    }

    #[test]
    fn nothing_passes_before_the_standbys_were_seen() {
        let barrier = Barrier::default();
        assert!(!barrier.lets(Lsn(1), Some(Lsn(2))) && !barrier.lets(Lsn(1), None));
    }

    #[test]
    fn what_ends_within_what_they_have_flushed_passes() {
        let mut barrier = Barrier::default();
        barrier.seen(seen(300, 200));
        assert!(barrier.lets(Lsn(150), Some(Lsn(200))));
        assert!(!barrier.lets(Lsn(150), Some(Lsn(201))), "the end of its commit record is not flushed");
    }

    /// A standby flushes to the middle of a record: that a commit record begins below says nothing of its end.
    #[test]
    fn what_is_not_read_to_its_end_passes_when_they_have_reached_an_end_of_wal_behind_it() {
        let mut barrier = Barrier::default();
        barrier.seen(seen(300, 200));
        assert!(!barrier.lets(Lsn(190), None));
        barrier.seen(seen(500, 299));
        assert!(!barrier.lets(Lsn(190), None));
        barrier.seen(seen(600, 300));
        assert!(barrier.lets(Lsn(299), None));
        assert!(!barrier.lets(Lsn(300), None));
    }

    #[test]
    fn what_one_of_them_has_passed_stays_passed_when_a_slower_one_joins() {
        let mut barrier = Barrier::default();
        barrier.seen(seen(300, 300));
        barrier.seen(seen(400, 100));
        assert!(barrier.lets(Lsn(250), None) && barrier.lets(Lsn(250), Some(Lsn(300))));
        assert!(!barrier.lets(Lsn(350), Some(Lsn(400))));
    }

    #[test]
    fn a_standby_that_was_away_for_long_lets_everything_pass_once_it_is_there() {
        let mut barrier = Barrier::default();
        for insert in 1..1000 {
            barrier.seen(seen(insert, 0));
        }
        assert!(!barrier.lets(Lsn(0), None));
        barrier.seen(seen(1000, 1000));
        barrier.seen(seen(1000, 1000));
        assert!(barrier.lets(Lsn(999), None));
    }
}
