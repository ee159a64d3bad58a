//! A Kafka transaction that became visible in part: what of it is beyond what progress says, and what is not published once
//! more when its changes come again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::{EventId, Lsn, PartialTransaction, Position, ProgressRecord, Torn};

/// What progress knows of: an id beyond it was left by a transaction that progress does not tell of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    position: Position,
    /// The transaction published in part, and how many of its changes.
    partial: Option<(Lsn, u64)>,
}

impl Known {
    /// What a record with this position and this half-published transaction tells of.
    pub fn new(position: Position, partial: Option<&PartialTransaction>) -> Self {
        Known { position, partial: partial.map(|partial| (partial.final_lsn, partial.changes_done)) }
    }

    /// Is the id beyond it? Timelines only rise along the offsets of a partition.
    pub fn is_beyond(&self, id: &EventId) -> bool {
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
        let mut remains =
            Remains { ids: HashMap::new(), greatest: HashMap::new(), count: found.len() as u64, last: None };
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

    /// Was this record published by the torn transaction?
    pub fn hold(&self, topic: &str, key: Option<&[u8]>, id: &EventId) -> bool {
        let found = self.ids.get(topic).is_some_and(|ids| ids.contains(id));
        let greatest = self.greatest.get(topic).and_then(|greatest| match key {
            Some(key) => greatest.of_key.get(key).copied(),
            None => greatest.keyless,
        });
        found || greatest.is_some_and(|greatest| greatest > *id)
    }

    /// A transaction that commits here lies behind all of it.
    pub fn end_before(&self, final_lsn: Lsn) -> bool {
        self.last.is_none_or(|last| last.commit_lsn < final_lsn)
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
        let known = Known::new(position(), None);
        assert!(known.is_beyond(&id(2, 1000, 0)) && known.is_beyond(&id(3, 900, 0)));
        assert!(!known.is_beyond(&id(2, 999, 5)) && !known.is_beyond(&id(1, 2000, 0)));
        let partial = PartialTransaction { xid: 8, final_lsn: Lsn(1200), changes_done: 5, hash: "h".into(), chunks: 1 };
        let known = Known::new(position(), Some(&partial));
        assert!(!known.is_beyond(&id(2, 1200, 4)) && known.is_beyond(&id(2, 1200, 5)));
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
