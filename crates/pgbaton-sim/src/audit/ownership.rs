//! Who owns what: the lease, the slot, the right to write.

use pgbaton_core::{Code, Gap, History, Lsn, ReaderName, Timeline};

use super::{Audit, Start};
use crate::message::{Caller, HolderValue};
use crate::postgres::{ConnectionId, Postgres};
use crate::process::Process;
use crate::time::{Time, seconds};

/// A lease is verified at least this often (K), give or take a call.
const VERIFIED_WITHIN: std::time::Duration = std::time::Duration::from_millis(3500);

/// So many restores, within the minutes that a schedule lasts, are for a person to look at.
const MANY_RESETS: u32 = 3;

impl Audit {
    pub fn etcd_restored(&mut self) {
        self.resets += 1;
    }

    pub fn holder_read(&mut self, reader: Caller, revision: i64, now: Time) {
        self.workers[reader.worker].verified.insert(revision, now);
    }

    /// 22: one write of the holder key in each tenure.
    pub fn holder_written(&mut self, cluster: u64, value: &HolderValue, lease: i64, revision: i64, now: Time) {
        // A restored etcd counts anew, and so it may give the same numbers again.
        let reset = self.resets > 0;
        if !self.leases.insert((cluster, lease)) && !reset {
            self.violate(22, || format!("{} writes the holder key twice under lease {lease}", value.name));
        }
        self.written.insert((cluster, revision), (value.name.clone(), now));
        self.workers[value.worker].verified.insert(revision, now);
        if self.owners.last() != Some(&value.worker) {
            self.owners.push(value.worker);
        }
    }

    /// 22: nobody deletes another one's key.
    pub fn holder_deleted(&mut self, by: Caller, owner: usize, _now: Time) {
        if by.worker != owner {
            self.violate(22, || format!("worker {} deletes the holder key of worker {}", by.worker + 1, owner + 1));
        }
    }

    /// 37: a young tenure is taken only by who had its stream and lost it.
    pub fn replaced(&mut self, by: &HolderValue, _old: usize, revision: i64, now: Time) {
        let written = self.written.iter().rev().find(|((_, at), _)| *at == revision).map(|(_, (_, at))| *at);
        let young = written.is_some_and(|at| now.since(at) < seconds(4));
        if young && self.workers[by.worker].heard != Some(revision) {
            self.violate(37, || format!("{} takes the place of a young tenure that it never heard", by.name));
        }
    }

    /// 34, and 32: a quarantine has a true cause, and says its range.
    pub fn verdict_written(&mut self, by: Caller, gap: &Gap, now: Time) {
        // Which of two etcds is the right one, nobody here can know.
        if gap.code == Code::EtcdReset && self.resets >= MANY_RESETS {
            self.reset_too_often = true;
            return;
        }
        let Some(broken) = self.broken else {
            return self.violate(34, || format!("worker {} quarantines for {}: {}", by.worker + 1, gap.code, gap.text));
        };
        if !matches!(gap.code, Code::SlotMissing | Code::SlotAhead | Code::Diverged | Code::ReplayMismatch) {
            self.violate(33, || format!("a lost slot is reported as {}: {}", gap.code, gap.text));
        }
        if gap.code == Code::SlotAhead && broken.branches == self.branches.len() {
            let contains = gap.to_lsn.zip(broken.anew_at).is_none_or(|(to, anew)| to >= anew);
            if !contains || gap.from_lsn > broken.anew_at.unwrap_or(Lsn::MAX) {
                self.violate(32, || format!("the reported range {} to {:?} is not the gap", gap.from_lsn, gap.to_lsn));
            }
        }
        self.verdict.get_or_insert((gap.clone(), now));
    }

    // The slot.

    /// A look at the slot is answered.
    pub fn looked(&mut self, _by: Caller, reader: Option<ConnectionId>, _now: Time) {
        if let Some(start) = reader.and_then(|reader| self.starts.get_mut(&reader)) {
            start.shown = true;
        }
    }

    /// 17, 23, 25, 31: a stream starts.
    pub fn started(
        &mut self,
        connection: ConnectionId,
        name: &ReaderName,
        at: Lsn,
        history: &History,
        in_recovery: bool,
        now: Time,
    ) {
        if in_recovery {
            self.violate(31, || format!("{name} streams from a server in recovery"));
        }
        let worker = name.worker.parse::<usize>().unwrap_or(1) - 1;
        let claimed =
            self.claims.iter().any(|claim| claim.term.0 == name.term && claim.worker == format!("w{}", worker + 1));
        if !claimed {
            self.violate(23, || format!("{name} streams and has not claimed its term"));
        }
        // The last claimant may have been overtaken meanwhile; then its start is judged by 23 alone.
        if self.latest_term().0 == name.term
            && let Some(record) = self.latest.as_ref().map(|stored| &stored.record)
        {
            let position = record.position.map_or(Lsn::INVALID, |position| position.lsn);
            let proof = record.last.as_ref().map(|last| last.final_lsn);
            if at != position && Some(at) != proof {
                self.violate(17, || format!("{name} starts at {at}, recorded is {position}"));
            }
            if self.claims.last().is_some_and(|claim| claim.history != *history) {
                self.violate(17, || format!("{name} starts on a server whose history is not that of its claim"));
            }
        }
        let seen = &self.workers[worker];
        let verified = seen.verified.get(&name.revision).is_some_and(|seen| now.since(*seen) <= VERIFIED_WITHIN);
        if !verified && !self.lease_free && now >= seen.excused_until {
            self.violate(25, || format!("{name} starts without having verified its lease"));
        }
        let start = Start { term: name.term, history: history.clone(), at: now, shown: false };
        self.starts.insert(connection, start);
        self.by_term.insert(name.term, connection);
    }

    /// 26: only older sessions of ours are terminated.
    pub fn terminated(&mut self, by: Caller, name: &str, ours: bool, _now: Time) {
        if !ours {
            self.violate(26, || format!("worker {} terminates {name}", by.worker + 1));
        }
    }

    /// 15: what is acknowledged has been durable before.
    pub fn acknowledges(&mut self, connection: ConnectionId, flush: Lsn, _now: Time) {
        if flush == Lsn::INVALID {
            return;
        }
        let Some(start) = self.starts.get(&connection) else { return };
        let timeline = owner_of_end(&start.history, flush);
        if self.watermarks.get(&timeline).is_none_or(|durable| *durable < flush) {
            self.violate(15, || format!("{flush} on timeline {timeline} is acknowledged and is not durable"));
        }
    }

    /// Taken every half second: 16, 23, 47, and 32's ten seconds.
    pub fn sample(
        &mut self,
        postgres: &Postgres,
        workers: &[Process],
        both: &mut u32,
        moments: &[pgbaton_core::Moment],
        now: Time,
    ) {
        if let Some((confirmed, node)) = postgres.confirmed().filter(|_| self.broken.is_none()) {
            let timeline = owner_of_end(&node.history(), confirmed);
            let durable = self.watermarks.get(&timeline).copied().unwrap_or(Lsn::INVALID);
            if confirmed > durable.max(crate::postgres::Node::BEGINNING) {
                self.violate(16, || {
                    format!("the slot has confirmed {confirmed} on timeline {timeline}, durable is {durable}")
                });
            }
        }
        let latest = self.latest_term().0;
        let newest = self.claims.len();
        for (walsender, connection) in postgres.readers() {
            let Some(start) = self.starts.get(&connection) else { continue };
            let (term, since) = (start.term, start.at.max(walsender.since));
            let claimed_since = self.claimed_at.get(newest.wrapping_sub(1)).copied().unwrap_or(now);
            if term < latest && now.since(since.max(claimed_since)) > seconds(11) && !postgres.is_old(walsender.node) {
                self.violate(23, || format!("a walsender of term {term} is still there, the newest claim is {latest}"));
            }
        }
        let active: Vec<usize> = workers
            .iter()
            .filter(|worker| {
                worker
                    .machine()
                    .and_then(|machine| machine.active_until())
                    .is_some_and(|until| until > moments[worker.id])
            })
            .map(|worker| worker.id)
            .collect();
        *both = if active.len() > 1 { *both + 1 } else { 0 };
        if *both > 5 {
            self.violate(47, || format!("workers {active:?} have both been active for {} samples", *both));
        }
        if let Some(broken) = self.broken
            && broken.anew_at.is_none()
            && self.verdict.is_none()
            && now.since(broken.since) > seconds(40)
            && self.healthy_since(now)
        {
            self.violate(32, || "a lost slot is not reported".to_owned());
        }
    }

    fn healthy_since(&self, now: Time) -> bool {
        self.workers.iter().all(|worker| now >= worker.excused_until + seconds(20))
    }
}

/// The timeline that a position ends on.
pub(super) fn owner_of_end(history: &History, end: Lsn) -> Timeline {
    history.left().iter().find(|(_, switch)| end <= *switch).map_or(history.current(), |(timeline, _)| *timeline)
}
