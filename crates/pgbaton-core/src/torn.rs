//! A Kafka transaction that became visible in part: what of it is beyond what progress says, and what is not published once
//! more when its changes come again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::{EventId, Lsn, PartialTransaction, Phantoms, Position, ProgressRecord, Term, Torn};

/// What progress knows of: an id beyond it was left by a transaction that progress does not tell of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    position: Position,
    /// The transaction published in part, and how many of its changes.
    partial: Option<(Lsn, u64)>,
    phantoms: Vec<Phantoms>,
}

/// What a published record is to progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Progress tells of it, and of all that stands before it in its partition.
    Told,
    /// It did not survive, and a marker names it. Where two branches have one timeline number its id may be that of a
    /// transaction that is still to come.
    Phantom,
    /// Progress does not know of it.
    Beyond,
}

impl Known {
    /// What a record with this position, this half-published transaction and these phantoms tells of.
    pub fn new(position: Position, partial: Option<&PartialTransaction>, phantoms: &[Phantoms]) -> Self {
        let partial = partial.map(|partial| (partial.final_lsn, partial.changes_done));
        Known { position, partial, phantoms: phantoms.to_vec() }
    }

    /// What is a record with this id, published under this term?
    pub fn standing(&self, id: &EventId, term: Option<Term>) -> Standing {
        let is_of =
            |phantoms: &Phantoms| term.is_some_and(|term| term < phantoms.term) && phantoms.from_lsn <= id.commit_lsn;
        if !self.is_beyond(id) {
            Standing::Told
        } else if self.phantoms.iter().any(is_of) {
            Standing::Phantom
        } else {
            Standing::Beyond
        }
    }

    /// Timelines only rise along the offsets of a partition.
    fn is_beyond(&self, id: &EventId) -> bool {
        if id.timeline != self.position.timeline {
            return id.timeline > self.position.timeline;
        }
        match self.partial {
            Some((final_lsn, done)) if id.commit_lsn == final_lsn => id.change >= done,
            _ => id.commit_lsn >= self.position.lsn,
        }
    }
}

/// A record that was found beyond what progress knows of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its key.
    pub key: Option<Box<[u8]>>,
    /// Its id.
    pub id: EventId,
}

/// What a torn transaction has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remains {
    ids: HashMap<Arc<str>, HashSet<EventId>>,
    /// Kafka keeps the order of what has one key: whatever is below the greatest id of a key was there before it.
    greatest: HashMap<Arc<str>, Greatest>,
    count: u64,
    last: Option<EventId>,
    /// What commits from here on is another transaction, whatever its id says.
    until: Lsn,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Greatest {
    of_key: HashMap<Box<[u8]>, EventId>,
    /// Records without a key are all in one partition, too.
    keyless: Option<EventId>,
}

impl Remains {
    /// What was found, in any order.
    pub fn new(found: Vec<Found>) -> Self {
        let mut remains = Remains {
            ids: HashMap::new(),
            greatest: HashMap::new(),
            count: found.len() as u64,
            last: None,
            until: Lsn::MAX,
        };
        for Found { topic, key, id } in found {
            remains.last = remains.last.max(Some(id));
            remains.ids.entry(topic.clone()).or_default().insert(id);
            let greatest = remains.greatest.entry(topic).or_default();
            match key {
                Some(key) => {
                    let greatest = greatest.of_key.entry(key).or_insert(id);
                    *greatest = id.max(*greatest);
                }
                None => greatest.keyless = greatest.keyless.max(Some(id)),
            }
        }
        remains
    }

    /// The same where the database has forked here: the rest is phantoms, and holds nothing.
    pub fn before(self, fork: Lsn) -> Self {
        Remains { until: fork, ..self }
    }

    /// Was this record published by the torn transaction?
    pub fn hold(&self, topic: &str, key: Option<&[u8]>, id: &EventId) -> bool {
        if id.commit_lsn >= self.until {
            return false;
        }
        let found = self.ids.get(topic).is_some_and(|ids| ids.contains(id));
        let greatest = self.greatest.get(topic).and_then(|greatest| match key {
            Some(key) => greatest.of_key.get(key).copied(),
            None => greatest.keyless,
        });
        found || greatest.is_some_and(|greatest| greatest > *id)
    }

    /// A transaction that commits here lies behind all of it.
    pub fn end_before(&self, final_lsn: Lsn) -> bool {
        final_lsn >= self.until || self.last.is_none_or(|last| last.commit_lsn < final_lsn)
    }

    /// As records carry it.
    pub fn mark(&self, session: &str, number: u64) -> Torn {
        Torn { session: session.to_owned(), number, greatest_id: self.last, count: self.count }
    }
}

/// The last committed `open` must have been ended by the last position record: same session, same number. Else, or where
/// that record repeats one, a torn transaction is named: (session, number).
pub fn torn(record: &ProgressRecord, last_open: Option<&ProgressRecord>) -> Option<(String, u64)> {
    let open = last_open.filter(|open| (&open.session, open.number) != (&record.session, record.number));
    let repeated = record.torn.as_ref().map(|torn| (torn.session.clone(), torn.number));
    open.map(|open| (open.session.clone(), open.number)).or(repeated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SystemIdentifier, Timeline};

    fn id(timeline: u32, commit: u64, change: u64) -> EventId {
        EventId {
            system_identifier: SystemIdentifier(7),
            timeline: Timeline(timeline),
            commit_lsn: Lsn(commit),
            change,
            part: 0,
        }
    }

    fn position() -> Position {
        Position { system_identifier: SystemIdentifier(7), timeline: Timeline(2), lsn: Lsn(1000) }
    }

    #[test]
    fn what_commits_at_the_position_or_behind_it_is_beyond_and_a_published_part_is_not() {
        let known = Known::new(position(), None, &[]);
        assert!(known.is_beyond(&id(2, 1000, 0)) && known.is_beyond(&id(3, 900, 0)));
        assert!(!known.is_beyond(&id(2, 999, 5)) && !known.is_beyond(&id(1, 2000, 0)));
        let partial = PartialTransaction { xid: 8, final_lsn: Lsn(1200), changes_done: 5, hash: "h".into(), chunks: 1 };
        let known = Known::new(position(), Some(&partial), &[]);
        assert!(!known.is_beyond(&id(2, 1200, 4)) && known.is_beyond(&id(2, 1200, 5)));
    }

    #[test]
    fn what_an_earlier_term_published_beyond_a_fork_is_phantoms_and_what_stands_before_them_is_looked_at() {
        let phantoms = [Phantoms { term: Term(7), from_lsn: Lsn(1100), to_lsn: Lsn(1300) }];
        let known = Known::new(position(), None, &phantoms);
        assert_eq!(known.standing(&id(2, 1200, 0), Some(Term(6))), Standing::Phantom);
        assert_eq!(known.standing(&id(2, 1050, 0), Some(Term(6))), Standing::Beyond, "before the fork");
        assert_eq!(known.standing(&id(2, 1200, 0), Some(Term(7))), Standing::Beyond, "of the branch that survives");
        assert_eq!(known.standing(&id(2, 900, 0), Some(Term(6))), Standing::Told);
    }

    #[test]
    fn beyond_a_fork_nothing_is_held_whatever_its_id_is() {
        let found = |key: &str, id| Found { topic: "t".into(), key: Some(key.as_bytes().into()), id };
        let remains = Remains::new(vec![found("a", id(2, 1000, 3)), found("a", id(2, 1200, 0))]).before(Lsn(1100));
        assert!(!remains.hold("t", Some(b"a"), &id(2, 1200, 0)) && !remains.hold("t", Some(b"a"), &id(2, 1150, 0)));
        assert!(remains.hold("t", Some(b"a"), &id(2, 1000, 3)), "it survives");
        assert!(remains.hold("t", Some(b"a"), &id(2, 1050, 0)), "it stood before the phantom of its key");
        assert!(remains.end_before(Lsn(1100)) && !remains.end_before(Lsn(1099)));
    }

    #[test]
    fn what_was_found_is_skipped_and_what_was_there_before_it_under_the_same_key_and_nothing_else() {
        let found = |key: &str, id| Found { topic: "t".into(), key: Some(key.as_bytes().into()), id };
        let remains = Remains::new(vec![found("a", id(2, 1000, 3)), found("b", id(2, 1000, 1))]);
        assert!(remains.hold("t", Some(b"a"), &id(2, 1000, 3)));
        assert!(remains.hold("t", Some(b"a"), &id(2, 1000, 0)), "below the greatest of its key");
        assert!(!remains.hold("t", Some(b"b"), &id(2, 1000, 2)), "behind the greatest of its key");
        assert!(!remains.hold("t", Some(b"c"), &id(2, 1000, 0)), "a key that was not found");
        assert!(!remains.hold("u", Some(b"a"), &id(2, 1000, 3)), "another topic");
        assert!(remains.end_before(Lsn(1001)) && !remains.end_before(Lsn(1000)));
        assert_eq!(remains.mark("s", 4).greatest_id, Some(id(2, 1000, 3)));
    }
}
