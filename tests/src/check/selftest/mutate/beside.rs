//! Mutilations: what was seen beside Kafka.

use super::*;
use crate::check::resources::Process;
use crate::check::samples::Holder;

fn sample(recording: &mut Recording, rng: &mut Rng, wanted: impl Fn(&Sample) -> bool) -> Option<usize> {
    let found = recording.samples.iter().enumerate().filter(|(_, sample)| wanted(sample)).map(|(index, _)| index);
    some(found.collect(), rng)
}

fn is_read(sample: &Sample) -> bool {
    matches!(&sample.shows, Shows::Server(server) if !server.readers.is_empty() && server.confirmed.is_some() && server.timeline.is_some())
}

fn with_server(
    recording: &mut Recording,
    rng: &mut Rng,
    change: impl FnOnce(&mut crate::check::samples::Server),
) -> bool {
    let Some(index) = sample(recording, rng, is_read) else { return false };
    let Shows::Server(server) = &mut recording.samples[index].shows else { return false };
    change(server);
    true
}

pub(super) fn confirm_more(recording: &mut Recording, rng: &mut Rng) -> bool {
    with_server(recording, rng, |server| server.confirmed = Some("FFFFFFFF/0".into()))
}

pub(super) fn acknowledge_more(recording: &mut Recording, rng: &mut Rng) -> bool {
    with_server(recording, rng, |server| server.readers[0].flush = Some("FFFFFFFF/0".into()))
}

pub(super) fn unclaimed_reader(recording: &mut Recording, rng: &mut Rng) -> bool {
    with_server(recording, rng, |server| server.readers[0].name = "pgbaton/p/w/n/t=9999/r=1".into())
}

/// Repeats a sample ten times a second for some seconds after the end.
fn lasts(recording: &mut Recording, samples: &[Sample]) {
    let end = recording.samples.last().map_or(0, |sample| sample.at_ms) + 60_000;
    for tick in 0..100 {
        recording.samples.extend(samples.iter().map(|sample| Sample { at_ms: end + tick * 100, ..sample.clone() }));
    }
}

pub(super) fn lasting_reader(recording: &mut Recording, rng: &mut Rng) -> bool {
    let term = |sample: &Sample| match &sample.shows {
        Shows::Server(server) => server.readers.first().map(|reader| reader.name.clone()),
        _ => None,
    };
    let newest = recording.samples.iter().rev().find_map(term);
    let Some(index) = sample(recording, rng, |sample| is_read(sample) && term(sample) != newest) else { return false };
    let old = recording.samples[index].clone();
    lasts(recording, &[old]);
    true
}

fn last_of(recording: &Recording, wanted: impl Fn(&Sample) -> bool) -> Option<Sample> {
    recording.samples.iter().rev().find(|sample| wanted(sample)).cloned()
}

pub(super) fn two_active(recording: &mut Recording, _: &mut Rng) -> bool {
    let active = last_of(recording, |sample| matches!(&sample.shows, Shows::Worker(worker) if worker.active));
    let Some(active) = active else { return false };
    let other = Sample { node: "another-worker".into(), ..active.clone() };
    lasts(recording, &[active, other]);
    true
}

pub(super) fn reading_standby(recording: &mut Recording, _: &mut Rng) -> bool {
    let server = last_of(recording, |sample| {
        is_read(sample) && matches!(&sample.shows, Shows::Server(server) if !server.recovering)
    });
    let active = last_of(recording, |sample| matches!(&sample.shows, Shows::Worker(worker) if worker.active));
    let (Some(server), Some(mut worker)) = (server, active) else { return false };
    if let Shows::Worker(worker) = &mut worker.shows {
        (worker.active, worker.state) = (false, "standby".into());
    }
    lasts(recording, &[server, worker]);
    true
}

pub(super) fn alter_writer(recording: &mut Recording, rng: &mut Rng) -> bool {
    let claimed: Vec<i64> = all_progress(recording)
        .into_iter()
        .filter_map(|index| value_of(&recording.records[index])["lease"]["revision"].as_i64())
        .collect();
    let writes = recording.ownership.holder.iter_mut();
    let found = writes.filter(|write| write.value.is_some() && claimed.contains(&write.revision));
    let Some(write) = some(found.collect(), rng) else { return false };
    if let Some(value) = &mut write.value {
        value["worker"] = json!("another-worker");
    }
    true
}

pub(super) fn write_twice(recording: &mut Recording, rng: &mut Rng) -> bool {
    let writes = &recording.ownership.holder;
    let found = (0..writes.len()).filter(|write| writes[*write].value.is_some()).collect();
    let Some(place) = some(found, rng) else { return false };
    let mut again = recording.ownership.holder[place].clone();
    again.revision += 1;
    recording.ownership.holder.insert(place + 1, again);
    true
}

pub(super) fn alter_start(recording: &mut Recording, rng: &mut Rng) -> bool {
    let logs = recording.logs.iter_mut().filter(|(_, log)| log.contains(" start=0/"));
    let Some((_, log)) = some(logs.collect(), rng) else { return false };
    *log = log.replace(" start=0/", " start=7/");
    true
}

pub(super) fn early_data(recording: &mut Recording, _: &mut Rng) -> bool {
    let mut any = false;
    for record in recording.records.iter_mut().filter(|record| is_data(record)) {
        record.at_ms -= 5_000;
        any = true;
    }
    any && recording.logs.iter().any(|(_, log)| log.contains("to=\"stream\""))
}

pub(super) fn leak(recording: &mut Recording, rng: &mut Rng) -> bool {
    let Some(secret) = recording.secrets.first().cloned() else { return false };
    let Some((_, log)) = some(recording.logs.iter_mut().collect(), rng) else { return false };
    log.push_str(&format!("connecting with password={secret}\n"));
    true
}

/// Changes what a worker's process uses at some time.
fn process(recording: &mut Recording, rng: &mut Rng, change: impl FnOnce(&mut Process)) -> bool {
    let found = recording.samples.iter_mut().filter_map(|sample| match &mut sample.shows {
        Shows::Process(process) => Some(process),
        _ => None,
    });
    some(found.collect(), rng).map(change).is_some()
}

pub(super) fn much_memory(recording: &mut Recording, rng: &mut Rng) -> bool {
    process(recording, rng, |process| process.memory_kib = 1 << 20)
}

pub(super) fn many_files(recording: &mut Recording, rng: &mut Rng) -> bool {
    process(recording, rng, |process| process.files = process.most_files)
}

pub(super) fn spool(recording: &mut Recording, rng: &mut Rng) -> bool {
    process(recording, rng, |process| process.spools.push("/var/spool/pgbaton/1".into()))
}

/// The key is gone, and long afterwards its worker begins a stream.
pub(super) fn start_without_a_lease(recording: &mut Recording, rng: &mut Rng) -> bool {
    let holders = recording.samples.iter().enumerate().filter_map(|(index, sample)| match &sample.shows {
        Shows::Holder(holder) if holder.revision != 0 => Some((index, holder.revision)),
        _ => None,
    });
    let started = |(_, revision): &(usize, i64)| {
        let line = "to=\"recover\" term=";
        let under = format!(" revision={revision}");
        recording.logs.iter().any(|(_, log)| log.lines().any(|text| text.contains(line) && text.ends_with(&under)))
    };
    let Some((index, _)) = some(holders.filter(started).collect(), rng) else { return false };
    let gone = Sample { shows: Shows::Holder(Holder { revision: 0 }), ..recording.samples[index].clone() };
    recording.samples.insert(index + 1, gone);
    true
}

/// A stream is begun under what another worker has written.
pub(super) fn start_under_anothers_lease(recording: &mut Recording, rng: &mut Rng) -> bool {
    let logs = recording.logs.iter_mut().filter(|(_, log)| log.contains("to=\"recover\""));
    let Some((_, log)) = some(logs.collect(), rng) else { return false };
    *log = log.replace(" revision=", " revision=9");
    true
}

/// A worker ends what is not an older session of this pipeline.
pub(super) fn terminate_another(recording: &mut Recording, rng: &mut Rng) -> bool {
    let names = ["psql", "pgbaton/other/w/n/t=1/r=1", "pgbaton/p/w/n/t=999/r=99999"];
    let Some(end) = some(recording.terminated.iter_mut().collect(), rng) else { return false };
    end.name = names[rng.usize(..names.len())].into();
    true
}
