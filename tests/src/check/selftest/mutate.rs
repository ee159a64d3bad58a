//! What a broken worker, consumer or database could do to a good history. Each change makes it a different, wrong one; what
//! would change nothing is not done.

mod batches;
mod beside;
mod brackets;
mod records;
mod staged;
mod tables;

use fastrand::Rng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::recording::Recording;
use crate::check::batches::{Batch, Sort};
use crate::check::event::{EventId, lsn_text, parse_lsn};
use crate::check::history::{Divergence, Record};
use crate::check::progress::Front;
use crate::check::row::hex;
use crate::check::samples::{Sample, Shows};

/// Changes a recording; false where it gives no occasion.
type Change = fn(&mut Recording, &mut Rng) -> bool;

/// A mutilation: what it does, in words, and what it takes away first, so that nothing finds it that only compares copies.
pub struct Mutilation {
    /// What it does.
    pub what: &'static str,
    layer: Layer,
    change: Change,
}

/// Where a mutilation strikes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    /// Records and tables: what lies beneath them is not looked at.
    Records,
    /// The progress topic: hashes fit again afterwards.
    Progress,
    /// The hash chain itself.
    Chain,
    /// What was seen beside Kafka.
    Beside,
}

const fn on(layer: Layer, what: &'static str, change: Change) -> Mutilation {
    Mutilation { what, layer, change }
}

/// All mutilations.
pub const ALL: &[Mutilation] = &[
    on(Layer::Records, "a record is dropped", records::drop_record),
    on(Layer::Records, "a transaction is dropped", records::drop_transaction),
    on(Layer::Records, "the end of a transaction is dropped", records::drop_tail),
    on(Layer::Records, "a record comes twice", records::repeat_record),
    on(Layer::Records, "a transaction comes twice, under another id", records::repeat_transaction),
    on(Layer::Records, "two records of a partition are swapped", records::swap_records),
    on(Layer::Records, "a value of a new row is altered", records::alter_after),
    on(Layer::Records, "a value of an old row is altered", records::alter_before),
    on(Layer::Records, "a value becomes unavailable", records::lose_value),
    on(Layer::Records, "a key is altered", records::alter_key),
    on(Layer::Records, "an operation is altered", records::alter_operation),
    on(Layer::Records, "a term is altered", records::alter_term),
    on(Layer::Records, "a timeline is altered", records::alter_timeline),
    on(Layer::Records, "a system identifier is altered", records::alter_system),
    on(Layer::Records, "a change is numbered otherwise", records::alter_number),
    on(Layer::Records, "a header is lost", records::lose_header),
    on(Layer::Records, "a value is cut", records::cut_value),
    on(Layer::Records, "a phantom row", records::phantom_row),
    on(Layer::Records, "a phantom transaction", records::phantom_transaction),
    on(Layer::Records, "a change that a savepoint took back", records::taken_back),
    on(Layer::Records, "a record in another partition", records::move_record),
    on(Layer::Records, "a row that the database does not have any more", tables::lose_row),
    on(Layer::Records, "a row that only the database has", tables::invent_row),
    on(Layer::Records, "a row that differs in the database", tables::alter_row),
    on(Layer::Records, "a ledger row that the database does not have", tables::lose_outcome),
    on(Layer::Records, "a marker is removed", tables::remove_marker),
    on(Layer::Records, "a marker comes twice", tables::repeat_marker),
    on(Layer::Records, "a marker begins later", tables::shrink_marker),
    on(Layer::Records, "a marker begins earlier", tables::widen_marker),
    on(Layer::Records, "a marker names another timeline", tables::alter_marker),
    on(Layer::Progress, "an open is removed", brackets::remove_open),
    on(Layer::Progress, "a close is removed", brackets::remove_close),
    on(Layer::Progress, "a claim is removed", brackets::remove_claim),
    on(Layer::Progress, "a whole bracket is removed", brackets::remove_bracket),
    on(Layer::Progress, "a bracket of an older session comes again", brackets::repeat_bracket),
    on(Layer::Progress, "a claim's term goes down", brackets::lower_claim),
    on(Layer::Progress, "a close has another term", brackets::alter_close_term),
    on(Layer::Progress, "a close has another number", brackets::alter_close_number),
    on(Layer::Progress, "a close is of another session", brackets::alter_close_session),
    on(Layer::Progress, "a position goes down", brackets::lower_position),
    on(Layer::Progress, "a position is ahead of its watermark", brackets::raise_position),
    on(Layer::Progress, "a watermark is behind its position", brackets::lower_watermark),
    on(Layer::Progress, "a watermark passes the switch", brackets::raise_watermark),
    on(Layer::Progress, "a torn transaction is not named", brackets::forget_torn),
    on(Layer::Progress, "chunks go backwards", brackets::lower_chunk),
    on(Layer::Progress, "chunks are forgotten", brackets::forget_chunk),
    on(Layer::Progress, "a divergence is not recorded", brackets::remove_divergence),
    on(Layer::Progress, "a claim names another tenure", brackets::alter_tenure),
    on(Layer::Chain, "a hash is altered", brackets::alter_hash),
    on(Layer::Chain, "a record was written otherwise", brackets::alter_written),
    on(Layer::Beside, "a commit was an abort", batches::commit_to_abort),
    on(Layer::Beside, "an abort was a commit", batches::abort_to_commit),
    on(Layer::Beside, "a producer goes on after its abort", batches::go_on_after_abort),
    on(Layer::Beside, "an older producer writes", batches::older_producer),
    on(Layer::Beside, "a transaction is committed in two", batches::split_transaction),
    on(Layer::Beside, "two transactions are committed as one", batches::merge_transactions),
    on(Layer::Beside, "the slot confirms too much", beside::confirm_more),
    on(Layer::Beside, "an acknowledgement is moved", beside::acknowledge_more),
    on(Layer::Beside, "a reader without a claim", beside::unclaimed_reader),
    on(Layer::Beside, "an old reader stays", beside::lasting_reader),
    on(Layer::Beside, "two workers are active", beside::two_active),
    on(Layer::Beside, "a standby reads", beside::reading_standby),
    on(Layer::Beside, "another worker wrote the holder key", beside::alter_writer),
    on(Layer::Beside, "the holder key is written twice", beside::write_twice),
    on(Layer::Beside, "a stream starts elsewhere", beside::alter_start),
    on(Layer::Beside, "data before the stream", beside::early_data),
    on(Layer::Beside, "a secret in a log", beside::leak),
    on(Layer::Beside, "a worker takes much memory", beside::much_memory),
    on(Layer::Beside, "a worker has many files open", beside::many_files),
    on(Layer::Beside, "a worker writes to a spool", beside::spool),
    on(Layer::Beside, "a stream begins long after its lease", beside::start_without_a_lease),
    on(Layer::Beside, "a stream begins under a lease of nobody", beside::start_under_anothers_lease),
    on(Layer::Beside, "somebody else's backend is told to go", beside::terminate_another),
    on(Layer::Beside, "what a fork left was published behind a barrier", staged::diverged_behind_a_barrier),
    on(Layer::Beside, "a gap is told late", staged::late_gap),
    on(Layer::Beside, "a gap is told without its beginning", staged::narrow_gap),
    on(Layer::Beside, "a gap is told with more before it", staged::wide_gap),
    on(Layer::Beside, "a gap is told without its end", staged::short_gap),
    on(Layer::Beside, "rows beyond a gap are told", staged::told_beyond),
    on(Layer::Beside, "a fault has no code", staged::unnamed),
    on(Layer::Beside, "a fault is not in the metrics", staged::not_in_metrics),
    on(Layer::Beside, "a worker is healthy and idle", staged::healthy_and_idle),
    on(Layer::Beside, "a quarantine without a gap", staged::false_quarantine),
    on(Layer::Beside, "a takeover takes its time", staged::slow_takeover),
    on(Layer::Beside, "the owner changes for nothing", staged::needless_changes),
    on(Layer::Beside, "an idle slot holds WAL back", staged::retained),
    on(Layer::Beside, "a fast stop waits", staged::slow_stop),
    on(Layer::Beside, "health answers late", staged::slow_probes),
];

impl Mutilation {
    /// Mutilates a recording; false where it gives no occasion, and is left as it was.
    pub fn apply(&self, recording: &mut Recording, rng: &mut Rng) -> bool {
        if !(self.change)(recording, rng) {
            return false;
        }
        if matches!(self.layer, Layer::Records | Layer::Progress | Layer::Chain) {
            recording.batches.clear();
        }
        if self.layer == Layer::Progress {
            chain_again(recording);
        }
        true
    }
}

// Finding something to change.

fn is_data(record: &Record) -> bool {
    !record.topic.starts_with("__")
}

fn id_of(record: &Record) -> Option<EventId> {
    let header = record.headers.iter().find(|header| header.0 == "pgbaton.id")?;
    EventId::parse(&header.1)
}

fn set_id(record: &mut Record, id: EventId) {
    for header in record.headers.iter_mut().filter(|header| header.0 == "pgbaton.id") {
        header.1 = id.to_string();
    }
}

fn value_of(record: &Record) -> Value {
    record.value.as_deref().and_then(|value| serde_json::from_str(value).ok()).unwrap_or_default()
}

fn divergences(recording: &Recording) -> Vec<Divergence> {
    let markers = recording.records.iter().filter(|record| record.topic.ends_with(".markers"));
    markers.filter_map(|record| Divergence::read(&value_of(record)["divergence"])).collect()
}

/// Some data record of a surviving transaction for which the condition holds.
fn data(recording: &Recording, rng: &mut Rng, wanted: impl Fn(&Record, &Value) -> bool) -> Option<usize> {
    let phantoms = divergences(recording);
    let survives = |record: &Record| id_of(record).is_some_and(|id| !phantoms.iter().any(|phantom| phantom.names(id)));
    let found = recording.records.iter().enumerate().filter(|(_, record)| is_data(record) && survives(record));
    some(found.filter(|(_, record)| wanted(record, &value_of(record))).map(|(index, _)| index).collect(), rng)
}

/// Some progress record of a type for which the condition holds.
fn progress(recording: &Recording, rng: &mut Rng, kind: &str, wanted: impl Fn(&Value) -> bool) -> Option<usize> {
    let found = all_progress(recording).into_iter().filter(|index| {
        let value = value_of(&recording.records[*index]);
        value["type"] == kind && wanted(&value)
    });
    some(found.collect(), rng)
}

fn all_progress(recording: &Recording) -> Vec<usize> {
    let records = recording.records.iter().enumerate();
    records.filter(|(_, record)| record.topic.ends_with(".progress")).map(|(index, _)| index).collect()
}

fn some<T>(mut found: Vec<T>, rng: &mut Rng) -> Option<T> {
    if found.is_empty() { None } else { Some(found.swap_remove(rng.usize(..found.len()))) }
}

fn rewrite(record: &mut Record, change: impl FnOnce(&mut Value)) {
    let mut value = value_of(record);
    change(&mut value);
    record.value = Some(value.to_string());
}

/// Puts hashes right after the progress topic was changed.
fn chain_again(recording: &mut Recording) {
    let mut before: Option<String> = None;
    for index in all_progress(recording) {
        let record = &mut recording.records[index];
        let mut value = value_of(record);
        if value["type"] == "open" {
            continue;
        }
        value["previous_hash"] = json!(before);
        let text = value.to_string();
        before = Some(hex(&Sha256::digest(text.as_bytes())));
        record.value = Some(text);
    }
}
