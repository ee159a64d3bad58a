//! What must be true, seen from outside: of what a read_committed consumer can read, and of nothing that a worker thinks.

use pgbaton_core::{ProgressRecord, RecordType, hash_of};

use super::Model;
use super::defence::Defence;
use super::kafka::PROGRESS;
use super::machine::{Rows, lease_of, session_of};
use super::postgres::{end_lsn, final_lsn};
use super::state::{Fault, State};

/// The rows that consumers have seen.
pub(super) fn published(state: &State) -> Rows {
    state.kafka.partitions[1..].iter().flat_map(|partition| &partition.visible).fold(0, |rows, row| rows | 1 << row)
}

/// The first law that the state breaks.
pub(super) fn broken(model: &Model, state: &State) -> Option<String> {
    match state.fault {
        Some(Fault::Quarantine(code)) => return Some(format!("nothing is wrong, and the verdict is {code}")),
        Some(Fault::NotOfTheLatestClaim) => {
            return Some("a transaction was committed that does not belong to the latest claim".to_owned());
        }
        Some(Fault::SameTerm) => return Some("two sessions stream under one term".to_owned()),
        Some(Fault::ClaimWithoutKey) => {
            return Some(
                "a worker that did not hold the key any more when it had read progress has claimed".to_owned(),
            );
        }
        Some(Fault::ClaimBehindAnother) => {
            return Some("a worker that etcd does not answer has claimed behind another worker's claim".to_owned());
        }
        Some(Fault::ClaimAfterFence) => {
            return Some(
                "a worker that was fenced has claimed again, and etcd has not told it who holds the key".to_owned(),
            );
        }
        None => {}
    }
    // Markers that are under way will come: what is half seen until then is no law's matter.
    if !state.kafka.is_settled() {
        return None;
    }
    doubled(model, state).or_else(|| {
        // The progress partition has few faces, and its law is dear: it is looked at once.
        let progress = &state.kafka.partitions[PROGRESS].visible;
        let known = model.judged.borrow().get(progress).cloned();
        let (must_be_seen, law) = known.unwrap_or_else(|| {
            let records: Vec<_> = progress.iter().map(|number| model.machine.record(*number)).collect();
            let judged = (must_be_seen(model, &records), out_of_order(model, &records));
            model.judged.borrow_mut().insert(progress.clone(), judged.clone());
            judged
        });
        lost(model, must_be_seen & !published(state)).or(law)
    })
}

/// Nothing twice, and nothing behind what comes after it.
fn doubled(model: &Model, state: &State) -> Option<String> {
    let name = |row: u16| model.row_name(row);
    state.kafka.partitions[1..].iter().find_map(|partition| {
        partition.visible.windows(2).find_map(|pair| match pair {
            [a, b] if a == b => Some(format!("consumers saw {} twice", name(*a))),
            [a, b] if partition.visible.iter().filter(|row| *row == b).count() > 1 => {
                Some(format!("consumers saw {} twice, the second time behind {}", name(*b), name(*a)))
            }
            [a, b] if a > b => Some(format!("consumers saw {} behind {}", name(*b), name(*a))),
            _ => None,
        })
    })
}

fn lost(model: &Model, rows: Rows) -> Option<String> {
    (rows != 0).then(|| format!("{} is lost: the position is behind it", model.row_name(rows.trailing_zeros() as u16)))
}

/// What the last position says to be published.
fn must_be_seen(model: &Model, records: &[ProgressRecord]) -> Rows {
    let Some(last) = records.iter().rev().find(|record| record.position.is_some()) else { return 0 };
    let done = |transaction: usize, change: usize| {
        let partial = last.partial.as_ref().filter(|partial| partial.final_lsn == final_lsn(transaction));
        last.position.is_some_and(|position| end_lsn(transaction) <= position.lsn)
            || partial.is_some_and(|partial| (change as u64) < partial.changes_done)
    };
    let rows = model.machine.postgres.rows.iter().enumerate();
    rows.filter(|(_, row)| done(row.transaction, row.change)).fold(0, |rows, (number, _)| rows | 1 << number)
}

/// The progress partition reads as one story.
fn out_of_order(model: &Model, records: &[ProgressRecord]) -> Option<String> {
    let mut before: Option<&ProgressRecord> = None;
    let mut open: Option<&ProgressRecord> = None;
    let (mut term, mut session, mut etcds_left) = (0, String::new(), Vec::new());
    for record in records {
        if model.is_atomic()
            && let Some(open) = open.filter(|open| (&open.session, open.number) != (&record.session, record.number))
        {
            return Some(format!("transaction {}.{} became visible in part", open.session, open.number));
        }
        if record.record_type == RecordType::Open {
            open = Some(record);
            continue;
        }
        open = open.filter(|_| record.record_type == RecordType::Genesis);
        let now = record.term.map_or(0, |term| term.0);
        if now < term || (now == term && session != record.session && before.is_some()) {
            return Some(format!("s{} writes under term {now}, which is {session}'s", session_of(record)));
        }
        (term, session) = (now, record.session.clone());
        if let (Some(before), Some(position)) = (before, record.position) {
            let was = before.position?;
            if position.lsn < was.lsn || (record.record_type == RecordType::Claim && position.lsn != was.lsn) {
                return Some("a session does not go on from the position that was committed before it".to_owned());
            }
            // Where a defence is missing the chain shows it before anybody comes to harm, and the harm is the better story.
            if model.removed.is_empty() && record.previous_hash.as_ref() != Some(&hash_of(&before.to_bytes())) {
                return Some("the chain of hashes is broken".to_owned());
            }
        }
        if let Some(lease) = lease_of(record) {
            if etcds_left.contains(&lease.cluster_id) {
                return Some(format!("{} was left behind, and its holder claims again", lease.cluster_id));
            }
            if let Some(last) = before.and_then(|before| before.lease.as_ref())
                && last.cluster_id != lease.cluster_id
            {
                etcds_left.push(last.cluster_id.clone());
            }
        }
        before = Some(record);
    }
    None
}

impl Model {
    /// In this world no transaction can be torn, unless the instance rule is missing.
    fn is_atomic(&self) -> bool {
        self.bounds.doubling_is_noticed && !self.lacks(Defence::Bracket) && !self.lacks(Defence::Claim)
    }
}
