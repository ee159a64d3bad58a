//! What a worker does under a lease, by its log, against what etcd said of that lease and what PostgreSQL's logs say of its
//! walsenders. All run on one machine, by one clock.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Evidence;
use super::row::hex;
use super::samples::{Sample, Shows};
use super::told::{field, milliseconds};
use super::verdict::{Invariant, Verdict};

/// 0.6 of a lease of 10 s may have passed since the last keepalive when the holder learns nothing new; and a busy machine.
const UNHEARD_MS: i64 = 7_000;
/// What a worker says of etcd may be seen so much sooner or later than what it does.
const ABOUT_MS: i64 = 5_000;
/// A worker that is not seen for longer may have stood still; and so long after that it may not have noticed.
const STILL_MS: i64 = 2_000;
/// Lines of two logs are not written at one instant.
const SKEW_MS: i64 = 100;
/// From PostgreSQL's last word about a backend to the worker's about the same.
const ANSWER_MS: i64 = 5_000;

/// A backend that somebody told to end, as PostgreSQL's log has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminated {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// On which node.
    pub node: String,
    /// Its process.
    pub pid: i32,
    /// What it called itself.
    pub name: String,
}

/// The backends that were told to end, of a node's log whose lines begin with time, process and name.
#[must_use]
pub fn terminated(node: &str, log: &str) -> Vec<Terminated> {
    let lines = log.lines().filter(|line| line.contains("terminating connection due to administrator command"));
    let read = |line: &str| {
        let (head, _) = line.split_once(" FATAL: ")?;
        let (time, rest) = head.split_once(" UTC [")?;
        let (pid, name) = rest.split_once(']')?;
        let at_ms = milliseconds(&format!("{}Z", time.replace(' ', "T")))?;
        Some(Terminated { at_ms, node: node.into(), pid: pid.parse().ok()?, name: name.trim().into() })
    };
    lines.filter_map(read).collect()
}

/// Judges what was done under each lease and adds to the verdict.
pub fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    let holders = Holders::of(&evidence.samples);
    verdict.invariants.extend([
        strict(evidence, &holders),
        starts(evidence, &holders),
        ended(&evidence.logs, &evidence.terminated, &evidence.samples),
    ]);
}

/// When each write of the holder key was heard to be there no more, which is never before it was so.
struct Holders(HashMap<i64, i64>);

impl Holders {
    fn of(samples: &[Sample]) -> Self {
        let (mut gone, mut last) = (HashMap::new(), 0);
        for sample in samples {
            let Shows::Holder(holder) = &sample.shows else { continue };
            if holder.revision != last && last != 0 {
                gone.insert(last, sample.at_ms);
            }
            last = holder.revision;
        }
        Holders(gone)
    }

    fn gone_at(&self, revision: i64) -> Option<i64> {
        self.0.get(&revision).copied()
    }
}

/// Where nothing but the lease keeps others away, no record is made after it: its own time is before the end of the key.
fn strict(evidence: &Evidence, holders: &Holders) -> Invariant {
    let mut rule = Invariant::new(24, "strict mode stops in time");
    if evidence.ownership.as_ref().and_then(super::ownership::Ownership::kept).is_none() {
        return rule;
    }
    let claims = evidence.history.progress.iter().filter(|record| record.says.kind == "claim");
    let tenures: BTreeMap<u64, (i64, &str)> = claims
        .filter_map(|claim| Some((claim.says.term?, (claim.says.lease.as_ref()?.revision, claim.says.worker.as_str()))))
        .collect();
    for (term, last) in &evidence.history.last_of_term {
        let Some((revision, worker)) = tenures.get(term) else { continue };
        let Some(gone) = holders.gone_at(*revision) else { continue };
        // Who stood still may send what it had in hand before it looks at its clock.
        if *last > gone && stood_still(&evidence.samples, worker, *last) {
            continue;
        }
        rule.look(*last <= gone, || {
            format!("{worker} sent a record under term {term} at {last}, its lease was gone at {gone}")
        });
    }
    rule
}

/// Whether the worker was not seen for a while shortly before.
fn stood_still(samples: &[Sample], worker: &str, at: i64) -> bool {
    let seen = samples.iter().filter(|sample| sample.node == worker && matches!(sample.shows, Shows::Worker(_)));
    let mut last = None;
    for sample in seen.take_while(|sample| sample.at_ms <= at + STILL_MS) {
        let before = last.replace(sample.at_ms).unwrap_or(sample.at_ms);
        if sample.at_ms - before > STILL_MS && sample.at_ms > at - STILL_MS {
            return true;
        }
    }
    last.is_none_or(|last| at - last > STILL_MS)
}

/// A stream is begun under a lease of this worker's that is not long gone, unless etcd did not answer this worker.
fn starts(evidence: &Evidence, holders: &Holders) -> Invariant {
    let mut rule = Invariant::new(25, "no start without a verified lease");
    let since = evidence.ownership.as_ref().map_or(i64::MAX, |ownership| ownership.since);
    let writers: HashMap<i64, &str> = evidence
        .ownership
        .iter()
        .flat_map(|ownership| &ownership.holder)
        .filter_map(|write| Some((write.revision, write.value.as_ref()?["worker"].as_str()?)))
        .collect();
    for (worker, log) in &evidence.logs {
        for (at, revision) in moves(log).filter(|(_, _, to)| *to == "recover").map(|(at, revision, _)| (at, revision)) {
            // 0: a worker without etcd.
            if revision == 0 || revision < since {
                continue;
            }
            let writer = writers.get(&revision);
            rule.look(writer == Some(&worker.as_str()), || {
                format!("{worker} began a stream at {at} under revision {revision}, which was written by {writer:?}")
            });
            let Some(gone) = holders.gone_at(revision).filter(|gone| at > gone + UNHEARD_MS) else { continue };
            rule.look(is_cut_off(&evidence.samples, worker, at), || {
                format!("{worker} began a stream at {at}, its lease was gone at {gone} and etcd answered it")
            });
        }
    }
    rule
}

/// Whether the worker said about then that etcd does not answer.
fn is_cut_off(samples: &[Sample], worker: &str, at: i64) -> bool {
    let first = samples.partition_point(|sample| sample.at_ms < at - ABOUT_MS);
    samples[first..].iter().take_while(|sample| sample.at_ms <= at + ABOUT_MS).any(|sample| {
        sample.node == worker
            && matches!(&sample.shows, Shows::Worker(worker)
                if worker.degraded || worker.reasons.iter().any(|code| code == "etcd_unreachable"))
    })
}

/// The changes of state under a lease: when, under which revision, and to what.
fn moves(log: &str) -> impl Iterator<Item = (i64, i64, &str)> {
    log.lines().filter(|line| line.contains(": state changed ")).filter_map(|line| {
        let at = milliseconds(line.split(' ').next()?)?;
        Some((at, field(line, "revision")?.parse().ok()?, field(line, "to")?))
    })
}

/// Who was told to go is a session of this pipeline under an older lease, or under the teller's own.
fn ended(logs: &[(String, String)], terminated: &[Terminated], samples: &[Sample]) -> Invariant {
    let mut rule = Invariant::new(26, "only older sessions of ours are terminated");
    let tag = samples.iter().find_map(|sample| match &sample.shows {
        Shows::Server(server) => server.readers.first()?.name.split('/').nth(1),
        _ => None,
    });
    let Some(tag) = tag else { return rule };
    for (teller, log) in logs {
        let mut revision = 0;
        for line in log.lines() {
            if let Some((_, current, _)) = moves(line).next() {
                revision = current;
            }
            if !line.contains("told an older session's walsender to go") {
                continue;
            }
            let at = line.split(' ').next().and_then(milliseconds);
            let pid = field(line, "pid").and_then(|pid| pid.parse().ok());
            let (Some(at), Some(pid)) = (at, pid) else { continue };
            let Some(name) = name_of(pid, at, terminated, samples) else { continue };
            rule.look(may_be_told(name, tag, teller, revision), || {
                format!("{teller} told {name} to go at {at} under revision {revision}")
            });
        }
    }
    rule
}

/// What a backend called itself that was told to go then.
fn name_of<'e>(pid: i32, at: i64, terminated: &'e [Terminated], samples: &'e [Sample]) -> Option<&'e str> {
    let then = |end: &&Terminated| end.pid == pid && (at - ANSWER_MS..=at + SKEW_MS).contains(&end.at_ms);
    if let Some(end) = terminated.iter().find(then) {
        return Some(&end.name);
    }
    let past = samples.partition_point(|sample| sample.at_ms <= at);
    samples[..past].iter().rev().take_while(|sample| sample.at_ms >= at - ANSWER_MS).find_map(|sample| {
        let Shows::Server(server) = &sample.shows else { return None };
        server.readers.iter().find(|reader| reader.pid == pid).map(|reader| reader.name.as_str())
    })
}

fn may_be_told(name: &str, tag: &str, teller: &str, revision: i64) -> bool {
    let mut parts = name.split('/');
    let ours = parts.next() == Some("pgbaton") && parts.next() == Some(tag);
    let own = parts.next() == Some(&hex(&Sha256::digest(teller.as_bytes()))[..8]);
    let theirs = name.split('/').find_map(|part| part.strip_prefix("r=")).and_then(|theirs| theirs.parse().ok());
    ours && theirs.is_some_and(|theirs: i64| theirs < revision || theirs == revision && own)
}

#[cfg(test)]
mod tests {
    use super::super::history::History;
    use super::super::ownership::{Ownership, Write};
    use super::super::samples::{Holder, Worker};
    use super::*;

    /// A pipeline that is delivered at least once: worker-1 under revision 7 and term 1, whose last record is of this time; the key was
    /// heard to be gone at 20,000.
    fn at_least_once(last_ms: i64, seen: impl Iterator<Item = i64>) -> Evidence {
        let record = |kind: &str| {
            serde_json::json!({"v": 1, "type": kind, "term": 1, "session": "s", "number": 0, "worker": "worker-1",
                "at": "1970-01-01T00:00:05Z", "lease": {"cluster_id": "aa", "revision": 7}})
        };
        let write = |(revision, kind)| Write { revision, lease: 0, value: Some(record(kind)) };
        let checkpoints = [(8, "claim"), (9, "close")].map(write).to_vec();
        let ownership = Ownership { checkpoints, ..Ownership::default() };
        let mut history = History::new("made");
        history.progress = ownership.kept().expect("it is kept");
        history.last_of_term.insert(1, last_ms);
        let holder =
            |(at_ms, revision)| Sample { at_ms, node: "etcd".into(), shows: Shows::Holder(Holder { revision }) };
        let shows = Shows::Worker(Worker {
            state: "stream".into(),
            term: Some(1),
            active: true,
            healthy: true,
            reasons: Vec::new(),
            degraded: false,
        });
        let worker = |at_ms| Sample { at_ms, node: "worker-1".into(), shows: shows.clone() };
        let mut samples: Vec<Sample> =
            [(5_000, 7), (20_000, 0)].map(holder).into_iter().chain(seen.map(worker)).collect();
        samples.sort_by_key(|sample| sample.at_ms);
        Evidence { history, ownership: Some(ownership), samples, ..Evidence::default() }
    }

    #[test]
    fn a_record_after_the_end_of_its_lease_is_found_unless_the_worker_had_stood_still() {
        let awake = || (5..30).map(|second| second * 1_000);
        let judged = |evidence: &Evidence| strict(evidence, &Holders::of(&evidence.samples));
        assert_eq!(
            (judged(&at_least_once(19_000, awake())).ok, judged(&at_least_once(19_000, awake())).checked),
            (true, 1)
        );
        assert!(!judged(&at_least_once(20_500, awake())).ok);
        let asleep = awake().filter(|at| !(9_000..20_400).contains(at));
        assert_eq!(judged(&at_least_once(20_500, asleep)).checked, 0);
    }

    #[test]
    fn a_backend_that_was_told_to_end_is_found_in_the_log_by_time_process_and_name() {
        let log = "2026-11-21 12:28:52.249 UTC [15859] psql ERROR:  no\n\
                   2026-11-21 12:28:52.257 UTC [15860] pgbaton/p/w/n/t=1/r=2 FATAL:  terminating connection due to \
                   administrator command\n\
                   2026-11-21 12:28:53.000 UTC [7]  FATAL:  terminating connection due to administrator command\n";
        let found = terminated("pg-1", log);
        let at_ms = milliseconds("2026-11-21T12:28:52.257Z").unwrap();
        let name = "pgbaton/p/w/n/t=1/r=2".into();
        assert_eq!(found[0], Terminated { at_ms, node: "pg-1".into(), pid: 15860, name });
        assert_eq!((found.len(), found[1].pid, found[1].name.as_str()), (2, 7, ""));
    }
}
