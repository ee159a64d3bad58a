//! Mutilations: what lies in the partitions, committed or not.

use super::*;

/// Some batch for which the condition holds, in a partition of data.
fn batch(
    recording: &mut Recording,
    rng: &mut Rng,
    wanted: impl Fn(&[Batch], usize) -> bool,
    change: impl Fn(&mut Vec<Batch>, usize),
) -> bool {
    let partitions = recording.batches.iter().enumerate().filter(|(_, partition)| !partition.topic.starts_with("__"));
    let found = partitions.flat_map(|(index, partition)| {
        let fits = |batch: &usize| wanted(&partition.batches, *batch);
        (0..partition.batches.len()).filter(fits).map(|batch| (index, batch)).collect::<Vec<_>>()
    });
    let Some((partition, place)) = some(found.collect(), rng) else { return false };
    change(&mut recording.batches[partition].batches, place);
    true
}

pub(super) fn commit_to_abort(recording: &mut Recording, rng: &mut Rng) -> bool {
    batch(recording, rng, |batches, at| batches[at].sort == Sort::Commit, |batches, at| batches[at].sort = Sort::Abort)
}

pub(super) fn abort_to_commit(recording: &mut Recording, rng: &mut Rng) -> bool {
    // One that ends nothing here means nothing.
    let wanted = |batches: &[Batch], at: usize| {
        batches[at].sort == Sort::Abort
            && at > 0
            && batches[at - 1].sort == Sort::Data
            && batches[at - 1].producer == batches[at].producer
    };
    batch(recording, rng, wanted, |batches, at| batches[at].sort = Sort::Commit)
}

pub(super) fn go_on_after_abort(recording: &mut Recording, rng: &mut Rng) -> bool {
    batch(
        recording,
        rng,
        |batches, at| batches[at].sort == Sort::Abort,
        |batches, at| {
            let next = batches.last().map_or(0, |batch| batch.last + 1);
            batches.push(Batch { first: next, last: next, sort: Sort::Data, ..batches[at] });
        },
    )
}

pub(super) fn older_producer(recording: &mut Recording, rng: &mut Rng) -> bool {
    batch(
        recording,
        rng,
        |batches, at| batches[at].sort == Sort::Data,
        |batches, at| {
            let next = batches.last().map_or(0, |batch| batch.last + 1);
            let epoch = batches[at].epoch - 1;
            batches.push(Batch { first: next, last: next, epoch, ..batches[at] });
        },
    )
}

pub(super) fn split_transaction(recording: &mut Recording, rng: &mut Rng) -> bool {
    // The mark takes the place of the offset before it, where there is one to take.
    let evidence = recording.evidence();
    let front = Front::of(&evidence.history.progress);
    let close = |topic: &str, partition: i32, offset: i64| {
        let event = evidence.history.events.iter().find(|event| {
            topic.ends_with(&format!(".{}", event.table)) && (event.partition, event.offset) == (partition, offset)
        });
        event.and_then(|event| front.transaction(event))
    };
    let mut found = Vec::new();
    for (index, partition) in
        recording.batches.iter().enumerate().filter(|(_, partition)| !partition.topic.starts_with("__"))
    {
        for place in 1..partition.batches.len() {
            let (before, after) = (&partition.batches[place - 1], &partition.batches[place]);
            let of = |offset| close(&partition.topic, partition.number, offset);
            if before.sort == Sort::Data
                && after.sort == Sort::Data
                && before.producer == after.producer
                && before.epoch == after.epoch
                && of(before.last).is_some()
                && of(before.last) == of(after.first)
            {
                found.push((index, place));
            }
        }
    }
    let Some((partition, place)) = some(found, rng) else { return false };
    let batches = &mut recording.batches[partition].batches;
    let commit = Batch { sort: Sort::Commit, ..batches[place - 1] };
    batches.insert(place, commit);
    true
}

pub(super) fn merge_transactions(recording: &mut Recording, rng: &mut Rng) -> bool {
    let wanted = |batches: &[Batch], at: usize| {
        let same = |other: &Batch| (other.producer, other.epoch) == (batches[at].producer, batches[at].epoch);
        batches[at].sort == Sort::Commit
            && at > 0
            && batches.get(at + 1).is_some_and(|next| next.sort == Sort::Data && same(next))
            && batches[at - 1].sort == Sort::Data
            && batches[at + 1..]
                .iter()
                .find(|next| next.sort != Sort::Data)
                .is_some_and(|end| end.sort == Sort::Commit && same(end))
    };
    batch(recording, rng, wanted, |batches, at| {
        batches.remove(at);
    })
}
