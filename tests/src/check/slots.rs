//! The samples against the progress topic: nothing is acknowledged or confirmed before it is durable, and nobody reads the slot
//! who must not.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

use super::event::{lsn_text, parse_lsn};
use super::history::{Place, Progress};
use super::row::hex;
use super::samples::{Reading, Sample, Server, Shows, Worker};
use super::verdict::{Invariant, Verdict};

/// Twice the time-out after which PostgreSQL drops a reader that does not answer.
const OLD_READER_MS: i64 = 10_000;
/// Answers are not taken at one instant; what differs for longer is wrong.
const SKEW_MS: i64 = 1_500;
/// One keepalive period: how long two workers may both answer that they are active.
const BOTH_MS: i64 = 2_000;
/// A node that did not answer for longer was not seen in between.
const SEEN_MS: i64 = 2_000;

/// Judges the samples and adds to the verdict.
pub fn judge(progress: &[Progress], samples: &[Sample], verdict: &mut Verdict) {
    let durable = Durable::of(progress);
    let claims: Vec<(i64, u64)> = progress
        .iter()
        .filter(|record| record.says.kind == "claim")
        .filter_map(|record| Some((record.at_ms, record.says.term?)))
        .collect();
    let mut confirmed = Invariant::new(16, "the slot confirms only what is committed");
    let mut acknowledged = Invariant::new(15, "only what is committed is acknowledged");
    let mut readers = Invariant::new(23, "whoever reads has claimed before, and goes when another claims");
    let mut lasting = Lasting::default();
    for sample in samples {
        let Shows::Server(server) = &sample.shows else { continue };
        let words = |what: &str, lsn: &str| format!("{} at {} {what} {lsn}", sample.node, sample.at_ms);
        if let Some(limit) = durable.at(sample.at_ms, server.timeline) {
            let fits = |lsn: &str| parse_lsn(lsn).is_none_or(|lsn| lsn <= limit);
            if let Some(lsn) = &server.confirmed {
                confirmed.look(fits(lsn), || words("confirms", lsn) + &format!(", {} is durable", lsn_text(limit)));
            }
            for lsn in server.readers.iter().filter_map(|reader| reader.flush.as_ref()) {
                acknowledged.look(fits(lsn), || words("was told", lsn) + &format!(", {} is durable", lsn_text(limit)));
            }
        }
        for reader in &server.readers {
            let Some(term) = term(reader) else { continue };
            let claimed = claims.iter().any(|(at, claimed)| *claimed == term && *at <= sample.at_ms);
            readers.look(claimed, || {
                format!("{} was read at {} under term {term}, not claimed", sample.node, sample.at_ms)
            });
            let gone = claims.iter().any(|(at, newer)| *newer > term && at + OLD_READER_MS < sample.at_ms);
            let key = (sample.node.clone(), format!("{} of term {term}", reader.pid));
            let lasted = lasting.lasts(key, gone, sample.at_ms);
            readers.look(lasted <= SEEN_MS, || {
                format!("{} was still read at {} under the old term {term}", sample.node, sample.at_ms)
            });
        }
    }
    verdict.invariants.extend([confirmed, acknowledged, readers]);
    truth(samples, verdict);
}

fn term(reader: &Reading) -> Option<u64> {
    reader.name.split('/').find_map(|part| part.strip_prefix("t="))?.parse().ok()
}

/// What was durable when: for each timeline the highest watermark so far, and where it was left for good.
struct Durable(BTreeMap<u32, Reached>);

#[derive(Default)]
struct Reached {
    /// Since when the highest watermark was which, in order.
    highest: Vec<(i64, u64)>,
    left: Option<u64>,
}

impl Durable {
    fn of(progress: &[Progress]) -> Self {
        let mut found: BTreeMap<u32, Reached> = BTreeMap::new();
        for record in progress.iter().filter(|record| record.says.kind != "open") {
            let Some((timeline, lsn)) = record.says.watermark.as_ref().map(Place::order) else { continue };
            let highest = &mut found.entry(timeline).or_default().highest;
            let before = highest.last().copied().unwrap_or_default();
            highest.push((record.at_ms.max(before.0), lsn.max(before.1)));
        }
        let last = progress.iter().rev().find_map(|record| record.says.history.as_ref());
        for (timeline, switch) in last.into_iter().flatten() {
            if let Some(reached) = found.get_mut(timeline) {
                reached.left = parse_lsn(switch);
            }
        }
        Durable(found)
    }

    /// The highest watermark that was committed by then and counts on a server of this timeline; `None` before the first. A standby
    /// that has not followed its leader to a new timeline yet may be given the leader's position up to where the timelines part.
    fn at(&self, at_ms: i64, timeline: Option<u32>) -> Option<u64> {
        let server = timeline.unwrap_or(u32::MAX);
        let parted = self.0.get(&server).and_then(|reached| reached.left);
        let highest = self.0.iter().filter_map(|(timeline, Reached { highest, left })| {
            let (_, lsn) = highest[..highest.partition_point(|(written, _)| *written <= at_ms)].last()?;
            match timeline.cmp(&server) {
                Ordering::Less => Some(left.map_or(*lsn, |left| left.min(*lsn))),
                Ordering::Equal => Some(*lsn),
                Ordering::Greater => parted.map(|parted| parted.min(*lsn)),
            }
        });
        highest.max()
    }
}

/// How long something has held without a pause in between.
#[derive(Default)]
struct Lasting(HashMap<(String, String), (i64, i64)>);

impl Lasting {
    fn lasts(&mut self, what: (String, String), holds: bool, at_ms: i64) -> i64 {
        if !holds {
            self.0.remove(&what);
            return 0;
        }
        let (since, seen) = self.0.entry(what).or_insert((at_ms, at_ms));
        if at_ms - *seen > SEEN_MS {
            *since = at_ms;
        }
        *seen = at_ms;
        at_ms - *since
    }
}

/// Who says that it is active reads the slot, nobody else does, and a worker that does not stream reads nothing.
fn truth(samples: &[Sample], verdict: &mut Verdict) {
    let mut active = Invariant::new(47, "whoever says it is active is");
    let mut idle = Invariant::new(27, "who does not stream has no replication connection");
    let mut workers: HashMap<&str, (i64, &Worker)> = HashMap::new();
    let mut leader: Option<(i64, &Server)> = None;
    let mut lasting = Lasting::default();
    for sample in samples {
        let at = sample.at_ms;
        match &sample.shows {
            Shows::Server(server) if server.recovering => continue,
            Shows::Server(server) => leader = Some((at, server)),
            Shows::Worker(worker) => {
                workers.insert(&sample.node, (at, worker));
            }
            Shows::Process(_) | Shows::Holder(_) => continue,
        }
        let fresh = |seen: i64| at - seen <= SEEN_MS;
        // What a worker says lasts until it was asked last: one that was killed says nothing any more.
        let saying = workers.values().filter(|(seen, worker)| fresh(*seen) && worker.active).map(|(seen, _)| *seen);
        let (count, said) = saying.fold((0, at), |(count, said), seen| (count + 1, said.min(seen)));
        let lasted = lasting.lasts((String::new(), "both".into()), count > 1, said);
        active.look(lasted <= BOTH_MS, || format!("two workers had said for {lasted} ms at {at} that they are active"));
        let Some((shown, server)) = leader.filter(|(seen, _)| fresh(*seen)) else { continue };
        for (name, (said, worker)) in workers.iter().filter(|(_, (seen, _))| fresh(*seen)) {
            let seen = shown.min(*said);
            let reads = |reader: &&Reading| Some(reader.pid) == server.active_pid;
            let reader = server.readers.iter().find(reads).and_then(term);
            let stranger = worker.active && reader != worker.term;
            let lasted = lasting.lasts(((*name).into(), "active".into()), stranger, seen);
            active.look(lasted <= SKEW_MS, || {
                format!(
                    "{name} had said for {lasted} ms at {at} that it is active, the slot's reader has term {reader:?}"
                )
            });
            let mark = format!("/{}/", &hex(&Sha256::digest(name.as_bytes()))[..8]);
            let connected = server.readers.iter().any(|reader| reader.name.contains(&mark));
            let outside = matches!(worker.state.as_str(), "standby" | "contend" | "quarantine" | "cooldown");
            let lasted = lasting.lasts(((*name).into(), "idle".into()), connected && outside, at);
            // PostgreSQL notices after its own time-out that a connection is gone whose end was lost.
            idle.look(lasted <= OLD_READER_MS / 2 + SKEW_MS, || {
                format!("{name} was in {} and had a walsender for {lasted} ms at {at}", worker.state)
            });
        }
    }
    verdict.invariants.extend([active, idle]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_durable_on_an_older_timeline_up_to_where_it_was_left() {
        let left = Reached { highest: vec![(10, 100)], left: Some(150) };
        let later = Reached { highest: vec![(20, 300)], left: None };
        let durable = Durable([(2, left), (3, later)].into());
        assert_eq!(durable.at(15, Some(2)), Some(100));
        assert_eq!(durable.at(25, Some(2)), Some(150));
        assert_eq!(durable.at(25, Some(3)), Some(300));
        assert_eq!(durable.at(5, Some(3)), None);
    }
}
