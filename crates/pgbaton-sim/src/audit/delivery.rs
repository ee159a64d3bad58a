//! The whole of what consumers see, against the whole of what the database has committed.

use std::collections::{BTreeMap, HashMap};

use pgbaton_core::{EventId, Lsn};

use super::progress::parted;
use super::{Audit, Mark};
use crate::kafka::{Body, DATA, DataRecord, Kafka, Payload};
use crate::postgres::{Node, Postgres, Row, SYSTEM, owner};

impl Audit {
    /// Everything of the surviving history is published (1), nothing else is (2, 8), in order (4, 5), whole (6), and
    /// true (9, 10). With `all`, up to the end of the database; else up to what progress says.
    pub fn compare(&mut self, kafka: &Kafka, postgres: &Postgres, all: bool) {
        let Some(node) = postgres.survivor() else { return };
        let expected = expected(node);
        // What was published beyond a fork that no claim has seen yet cannot have been marked.
        let unseen =
            self.recorded_history().and_then(|recorded| parted(&recorded, &node.history())).unwrap_or(Lsn::MAX);
        let mut found: HashMap<EventId, DataRecord> = HashMap::new();
        for (index, partition) in kafka.data().enumerate() {
            let mut last: BTreeMap<u32, EventId> = BTreeMap::new();
            let mut highest: Option<EventId> = None;
            for entry in &partition.entries {
                let Body::Record(Payload::Data(record)) = &entry.body else { continue };
                if !kafka.is_committed(entry.txn) {
                    continue;
                }
                let phantom = self.is_phantom(record.id, entry.txn);
                if !phantom {
                    if highest.is_some_and(|highest| record.id < highest) {
                        self.violate(5, || {
                            format!("{} comes after {:?} in partition {}", record.id, highest, index + DATA)
                        });
                    }
                    highest = Some(record.id);
                    if last.insert(record.key, record.id).is_some_and(|before| before >= record.id) {
                        self.violate(4, || format!("{} comes late for its key", record.id));
                    }
                    found.insert(record.id, *record);
                }
                match expected.get(&record.id) {
                    // Beyond that fork another transaction may have its id: promotions to one number.
                    Some(row)
                        if !phantom
                            && record.id.commit_lsn < unseen
                            && (row.key, row.value) != (record.key, record.value) =>
                    {
                        self.violate(9, || format!("{} has other content than the database", record.id));
                    }
                    None if !phantom && record.id.commit_lsn < unseen => {
                        self.violate(2, || {
                            format!("{} is published, and neither in the database nor marked", record.id)
                        });
                    }
                    _ => {}
                }
            }
        }
        let published = self.position().map_or(Lsn::INVALID, |position| position.lsn);
        let reached = if all { Lsn::MAX } else { published.min(unseen) };
        let due = self.begins_at..reached;
        let mut missing: Vec<&EventId> =
            expected.keys().filter(|id| due.contains(&id.commit_lsn) && !found.contains_key(id)).collect();
        missing.sort_unstable();
        if let Some(first) = missing.first() {
            let invariant = if first.commit_lsn < published { 1 } else { 35 };
            self.violate(invariant, || {
                format!("{} and {} more are not published; progress says {published}", first, missing.len() - 1)
            });
        }
    }

    /// A marker says that the database does not have it.
    fn is_phantom(&self, id: EventId, txn: u32) -> bool {
        self.marks.iter().any(|Mark { mark, txn: marked }| {
            txn < *marked
                && (mark.old_timeline..=mark.old_timeline_last).contains(&id.timeline)
                && (mark.from_lsn..=mark.to_lsn).contains(&id.commit_lsn)
        })
    }
}

/// Every event of the surviving history.
fn expected(node: &Node) -> HashMap<EventId, Row> {
    let history = node.history();
    let mut expected = HashMap::new();
    for txn in node.wal.iter().filter_map(|record| record.txn.as_ref()) {
        let timeline = owner(&history, txn.final_lsn);
        for (change, row) in txn.rows.iter().enumerate() {
            let id = EventId {
                system_identifier: SYSTEM,
                timeline,
                commit_lsn: txn.final_lsn,
                change: change as u64,
                part: 0,
            };
            expected.insert(id, *row);
        }
    }
    expected
}
