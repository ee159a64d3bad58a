//! Without etcd: no lease chooses who should try, so a worker goes by what it sees of the slot. Slot and claim are the only
//! fences, and they are fences enough; what is decided here is only who tries when, so that two do not try for ever.

use std::time::Duration;

use super::facts::{FenceRead, Inspection, Observation};
use super::tenure::{AfterRelease, InTenure, Step, end, release};
use super::{Cause, Effect, Input, Quarantined, Role, Switch, VerdictSeen, Worker};
use crate::{Code, Failure, FailureKind, Moment, Reader, ReaderName, Tenure};

/// Whoever has handed over stands back for at least this long ...
const STANDS_BACK: Duration = Duration::from_secs(2);
/// ... and so many graces: the others wait for one and their jitter, and look twice a second.
const GRACES_FOR_OTHERS: u32 = 3;
/// A cooldown is not longer than this: nobody else says that the slot is free.
const LONGEST_COOLDOWN: Duration = Duration::from_secs(5);
/// How soon the slot is looked at again while our own walsender of before still sits on it.
const OWN_LEAVES: Duration = Duration::from_millis(200);

/// What the looks at the slot come to.
#[derive(Debug, Default)]
pub(super) struct SlotWatch {
    /// First and last of the looks in a row that showed nobody on it, by when they were asked for.
    idle: Option<(Moment, Moment)>,
    /// Looks in a row that showed somebody on it who is not of this pipeline.
    foreign: u32,
    /// A session of this pipeline was seen on it.
    pub was_read: bool,
    /// Counts what was begun: spreads the next wait.
    tries: u32,
}

impl SlotWatch {
    /// A look at the slot on a writable leader. A slot that is not there is read by nobody: who looks closer will say so.
    pub fn observed(&mut self, asked_at: Moment, observation: &Observation, pipeline: &str) {
        let reader = reader(observation, pipeline);
        self.was_read |= matches!(reader, Reader::Stale | Reader::Newer);
        self.foreign = if reader == Reader::Foreign { self.foreign + 1 } else { 0 };
        self.idle = match (reader, self.idle) {
            (Reader::Nobody, Some((first, _))) => Some((first, asked_at)),
            (Reader::Nobody, None) => Some((asked_at, asked_at)),
            _ => None,
        };
    }

    /// The leader is out of sight: how long the slot has been free has to be seen anew.
    pub fn lost_sight(&mut self) {
        (self.idle, self.foreign) = (None, 0);
    }

    /// Since when nobody has read the slot, if that is for the grace and a jitter of up to as much again.
    fn free_since(&self, grace: Duration, nonce: &str) -> Option<Moment> {
        let (first, last) = self.idle?;
        (last.since(first) >= grace + jitter(grace, nonce, self.tries)).then_some(first)
    }
}

fn reader(observation: &Observation, pipeline: &str) -> Reader {
    let active = observation.slot.as_ref().is_some_and(|slot| slot.active_pid.is_some());
    Reader::of(active, observation.reader_name.as_deref(), pipeline, 0)
}

/// Between nothing and `most`, another one for every worker and every try.
fn jitter(most: Duration, nonce: &str, tries: u32) -> Duration {
    let seed = nonce.bytes().fold(u64::from(tries) + 1, |sum, byte| {
        let sum = (sum ^ u64::from(byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        sum ^ (sum >> 29)
    });
    most.mul_f64((seed % 1000) as f64 / 1000.0)
}

impl Worker {
    /// Standing by: begins when the slot has been free for long enough, on a leader, and Kafka is not known to be away.
    pub(super) fn in_standby_without_lease(&mut self, now: Moment, effects: &mut Vec<Effect>) -> Role {
        let may = !self.leaving && self.sink.is_none() && self.sees_leader(now);
        let free = self.slot_watch.free_since(self.policy.takeover_grace, &self.identity.nonce);
        let Some(began) = free.filter(|_| may) else { return Role::Standby };
        self.slot_watch.tries += 1;
        let cause = if self.slot_watch.was_read { Cause::HolderGone } else { Cause::Start };
        let switch = Switch { from: None, cause, took: Duration::ZERO };
        effects.push(Effect::Inspect);
        Role::Tenure(Box::new(InTenure::new(Tenure::without_lease(), String::new(), began, switch)))
    }

    /// Whoever sits on the slot was first, and nobody is told to go.
    pub(super) fn inspected_without_lease(
        &mut self,
        now: Moment,
        t: &mut InTenure,
        inspection: Box<Inspection>,
        effects: &mut Vec<Effect>,
    ) {
        let name = inspection.reader_name.as_deref().and_then(ReaderName::parse);
        if inspection.reader_pid.is_none() {
            return self.verified(now, t, Step::VerifyingBeforeFence(inspection), effects);
        }
        if name.is_some_and(|name| name.nonce == self.identity.nonce) {
            // Our own session of before, whose end PostgreSQL has not seen yet.
            t.step = Step::Freeing { look_again: now + OWN_LEAVES };
            return;
        }
        end(t, now, false, release(false, None), effects);
    }

    /// Somebody else has claimed since this tenure first read progress: it is theirs now.
    pub(super) fn is_overtaken(t: &mut InTenure, read: &FenceRead) -> bool {
        let last = read.position.as_ref().map(|(record, _)| record.session.clone());
        let first = t.first_read.get_or_insert_with(|| last.clone());
        !t.tenure.has_lease() && !t.claimed_last && *first != last
    }

    /// How long to stand back after a tenure without a lease.
    pub(super) fn stands_back(&self, then: &AfterRelease) -> Duration {
        let cooldown = self.cooldown().min(LONGEST_COOLDOWN);
        match then {
            AfterRelease::Cooldown { handover: true, .. } => {
                cooldown.max(STANDS_BACK + self.policy.takeover_grace * GRACES_FOR_OTHERS)
            }
            _ => cooldown,
        }
    }

    /// What stopped this worker stops nobody any more: another one streams.
    pub(super) fn is_streamed_by_another(&self, observation: &Observation) -> bool {
        !self.policy.leased
            && matches!(reader(observation, &self.identity.pipeline_hash), Reader::Stale | Reader::Newer)
    }

    /// A person accepts the verdict of this worker. Kept in memory: it is for the next claim of this process.
    pub(super) fn take_acceptance(&mut self) {
        if let Role::Quarantine(quarantined) = &self.role {
            let Quarantined { gap, .. } = &**quarantined;
            let (code, from_lsn, to_lsn) = (gap.code, gap.from_lsn, gap.to_lsn);
            self.accepted_here = Some(VerdictSeen { code, from_lsn, to_lsn, accepted: true });
        }
    }

    /// The slot's reader, where it is not ours and stays: nobody but the standbys is there to see it.
    pub(super) fn foreign_reader(&self) -> Option<Failure> {
        let standing_by = matches!(self.role, Role::Standby | Role::Cooldown { .. });
        (!self.policy.leased && standing_by && self.slot_watch.foreign >= 2).then(|| Failure {
            code: Code::SlotForeignHolder,
            detail: "a consumer that is not ours reads the slot; stop it, or give this pipeline a slot of its own"
                .into(),
            kind: FailureKind::Passing,
        })
    }

    /// Reads the holder key before the next step. Where there is none, slot and claim say all that there is to say.
    pub(super) fn verified(&mut self, now: Moment, t: &mut InTenure, step: Step, effects: &mut Vec<Effect>) {
        t.step = step;
        match t.tenure.has_lease() {
            true => effects.push(Effect::ReadHolder(t.tenure)),
            false => self.step(now, t, Input::HolderRead(Some(true)), effects),
        }
    }
}
