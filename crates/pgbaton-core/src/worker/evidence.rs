//! What a standby knows of the holder, and when that is enough to take its place before the lease has ended.
//!
//! A wrong guess is harmless where the sink is fenced: it costs one aborted transaction. So nothing here has to be proof;
//! it only has to be right nearly always, and never so eager that standbys take the key from one another.

use std::time::Duration;

use super::Cause;
use super::facts::{Holder, Observation, PeerSeen, Saying};
use crate::{Moment, ReaderName};

/// Beats come at least every half second: a holder that was heard within this answers.
const ANSWERS: Duration = Duration::from_millis(1250);
/// Neither stream nor status key has moved for this long.
const SILENT: Duration = Duration::from_secs(2);
/// Where this worker never had the holder's stream there is only the status key, seen moving up to two periods late.
const SILENT_KEY: Duration = Duration::from_secs(3);
/// This worker's own writes to etcd succeed: the last one is not older than this.
const WRITES: Duration = Duration::from_millis(1500);
/// A younger tenure is only replaced when its holder is gone.
const YOUNG: Duration = Duration::from_secs(5);
/// While the holder is gone and the slot still looks active, it is looked at this often.
pub(super) const LOOK_CLOSER: Duration = Duration::from_millis(50);
/// The grace doubles with each tenure that did not stream, this many times.
const MOST_DOUBLINGS: u32 = 6;

/// What is known of one tenure of another worker.
#[derive(Debug, Clone)]
pub(super) struct Evidence {
    holder: Holder,
    /// When the holder key was first seen as it is: everything is counted from here.
    since: Moment,
    heard: Option<(Moment, Saying)>,
    /// The stream that was had in this tenure ended, and the holder did not answer.
    gone: Option<Moment>,
    /// When the holder's status key was seen to move.
    key_moved: Option<Moment>,
    own_write: Option<Moment>,
    slot: Option<SlotLook>,
    streamed: bool,
    looked_closer: Option<Moment>,
}

#[derive(Debug, Clone, Copy)]
enum SlotLook {
    /// Nobody has read it since.
    Idle(Moment),
    Active,
}

/// Enough to take the holder's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Conviction {
    pub cause: Cause,
    /// When the first sign was seen.
    pub began: Moment,
}

impl Evidence {
    /// A holder key that was first seen at `since`.
    pub fn new(holder: Holder, since: Moment) -> Self {
        Evidence {
            holder,
            since,
            heard: None,
            gone: None,
            key_moved: None,
            own_write: None,
            slot: None,
            streamed: false,
            looked_closer: None,
        }
    }

    pub fn is_about(&self, holder: &Holder) -> bool {
        // The lease, too: an etcd that was restored gives the same revisions again.
        (self.holder.revision, self.holder.lease_id) == (holder.revision, holder.lease_id)
    }

    /// The holder's stream said something.
    pub fn heard(&mut self, now: Moment, revision: i64, saying: Saying) {
        if revision != self.holder.revision {
            return;
        }
        self.streamed |= saying == Saying::Streaming;
        self.gone = None;
        self.heard = Some((now, saying));
    }

    /// The stream ended and no answer came. Says nothing of a holder that was never heard in this very tenure.
    pub fn unheard(&mut self, now: Moment, revision: i64) {
        let had = matches!(self.heard, Some((_, Saying::Streaming | Saying::Trying)));
        if revision == self.holder.revision && had {
            self.gone.get_or_insert(now);
        }
    }

    /// Our own write to etcd succeeded, and this is what the others' status keys say.
    pub fn peers(&mut self, now: Moment, peers: &[PeerSeen]) {
        self.own_write = Some(now);
        let holder = peers.iter().find(|peer| peer.worker == self.holder.worker && peer.nonce == self.holder.nonce);
        if let Some(peer) = holder {
            self.key_moved = Some(peer.moved_at);
        }
    }

    /// A look at the slot on a writable leader.
    pub fn observed(&mut self, asked_at: Moment, observation: &Observation) {
        let Some(slot) = &observation.slot else {
            self.slot = None;
            return;
        };
        let reader = observation.reader_name.as_deref().and_then(ReaderName::parse);
        self.streamed |= reader.is_some_and(|reader| reader.revision == self.holder.revision);
        self.slot = Some(match (slot.active_pid, self.slot) {
            (Some(_), _) => SlotLook::Active,
            (None, Some(SlotLook::Idle(since))) => SlotLook::Idle(since),
            (None, _) => SlotLook::Idle(asked_at),
        });
    }

    /// The leader is out of sight: how long the slot has been idle has to be seen anew.
    pub fn lost_sight(&mut self) {
        self.slot = None;
    }

    /// Tenures since somebody streamed, for the one that follows.
    pub fn next_tenures(&self) -> u32 {
        if self.streamed { 1 } else { self.holder.tenures.saturating_add(1) }
    }

    /// Is it enough? `grace` is the configured one.
    pub fn convicts(&self, now: Moment, grace: Duration) -> Option<Conviction> {
        let slot = self.slot.filter(|_| self.holder.fenced)?;
        let (doubled, patience) = (self.grace(grace), self.patience(grace));
        let began = |moment: Moment| moment.max(self.since);
        if let (Some(gone), SlotLook::Idle(_)) = (self.gone, slot)
            && now.since(gone) >= patience
        {
            return Some(Conviction { cause: Cause::HolderGone, began: began(gone) });
        }
        if now.since(self.since) < YOUNG {
            return None;
        }
        match slot {
            SlotLook::Idle(idle) if now.since(began(idle)) >= doubled && !self.answers(now) => {
                Some(Conviction { cause: Cause::HolderIdle, began: began(idle) })
            }
            SlotLook::Active if now >= self.silent_at(patience) && self.own_writes_since(now) => {
                Some(Conviction { cause: Cause::HolderSilent, began: self.last_sign() })
            }
            _ => None,
        }
    }

    /// Look at the slot now instead of at the next turn: the holder is gone, and the slot will be free in a moment.
    pub fn look_closer(&mut self, now: Moment) -> bool {
        let due = self.looked_closer.is_none_or(|last| now.since(last) >= LOOK_CLOSER);
        let wanted = due && self.gone.is_some() && !matches!(self.slot, Some(SlotLook::Idle(_)));
        if wanted {
            self.looked_closer = Some(now);
        }
        wanted
    }

    /// When time alone may turn this into enough.
    pub fn deadline(&self, grace: Duration) -> Option<Moment> {
        let slot = self.slot.filter(|_| self.holder.fenced)?;
        let (doubled, patience) = (self.grace(grace), self.patience(grace));
        let grown = self.since + YOUNG;
        let slow = match slot {
            SlotLook::Idle(idle) => idle.max(self.since) + doubled,
            SlotLook::Active => self.silent_at(patience),
        };
        let slow = slow.max(grown);
        Some(match (self.gone, slot) {
            (Some(gone), SlotLook::Idle(_)) => slow.min(gone + patience),
            (Some(_), SlotLook::Active) => slow.min(self.looked_closer.unwrap_or(self.since) + LOOK_CLOSER),
            (None, _) => slow,
        })
    }

    fn grace(&self, grace: Duration) -> Duration {
        grace.saturating_mul(1 << self.holder.tenures.saturating_sub(1).min(MOST_DOUBLINGS))
    }

    /// After a tenure that did not stream the quick signs wait as long as the slow one.
    fn patience(&self, grace: Duration) -> Duration {
        if self.holder.tenures > 1 { self.grace(grace) } else { Duration::ZERO }
    }

    fn answers(&self, now: Moment) -> bool {
        match self.heard {
            Some((at, saying)) => now.since(at) <= ANSWERS && saying != Saying::NotTrying,
            None => self.key_moved.is_some_and(|at| now.since(at) <= SILENT),
        }
    }

    fn last_sign(&self) -> Moment {
        let heard = self.heard.map(|(at, _)| at);
        [heard, self.key_moved].into_iter().flatten().fold(self.since, Moment::max)
    }

    fn silent_at(&self, patience: Duration) -> Moment {
        let silent = if self.heard.is_some() { SILENT } else { SILENT_KEY };
        self.last_sign() + silent.max(patience)
    }

    /// Silence says nothing while etcd is what is silent.
    fn own_writes_since(&self, now: Moment) -> bool {
        self.own_write.is_some_and(|at| now.since(at) <= WRITES && at > self.last_sign())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lsn, SlotFacts, SystemIdentifier};

    const GRACE: Duration = Duration::from_secs(1);
    const START: Moment = Moment(Duration::from_secs(1000));

    fn after(millis: u64) -> Moment {
        START + Duration::from_millis(millis)
    }

    fn holder(tenures: u32) -> Holder {
        Holder {
            worker: "worker-2".into(),
            nonce: "n2".into(),
            url: String::new(),
            revision: 90,
            lease_id: 9,
            fenced: true,
            tenures,
        }
    }

    fn look(reader: Option<i32>) -> Observation {
        Observation {
            system_identifier: SystemIdentifier(7),
            timeline: None,
            in_recovery: false,
            postmaster_started: "p".into(),
            write_position: Lsn(2000),
            slot: Some(SlotFacts { active_pid: reader, ..SlotFacts::default() }),
            reader_name: None,
            reader_waits: false,
            publication_oid: None,
            members: String::new(),
        }
    }

    fn beat(moved_at: Moment) -> Vec<PeerSeen> {
        vec![PeerSeen {
            worker: "worker-2".into(),
            nonce: "n2".into(),
            moved_at,
            standby: false,
            postgres: true,
            kafka: true,
        }]
    }

    fn cause(evidence: &Evidence, now: Moment) -> Option<Cause> {
        evidence.convicts(now, GRACE).map(|conviction| conviction.cause)
    }

    #[test]
    fn a_holder_that_was_heard_in_this_tenure_and_is_gone_is_replaced_at_once() {
        let mut evidence = Evidence::new(holder(1), START);
        evidence.heard(after(100), 90, Saying::Streaming);
        evidence.observed(after(100), &look(Some(1)));
        evidence.unheard(after(200), 90);
        assert_eq!(cause(&evidence, after(200)), None, "the slot is still read");
        assert!(evidence.look_closer(after(200)));
        evidence.observed(after(210), &look(None));
        assert_eq!(
            evidence.convicts(after(210), GRACE),
            Some(Conviction { cause: Cause::HolderGone, began: after(200) })
        );
        evidence.heard(after(220), 90, Saying::Streaming);
        assert_eq!(cause(&evidence, after(220)), None, "it answers after all");
    }

    #[test]
    fn a_holder_that_was_never_heard_in_this_tenure_is_not_gone() {
        let mut evidence = Evidence::new(holder(1), START);
        evidence.heard(after(100), 89, Saying::Streaming);
        evidence.unheard(after(200), 90);
        evidence.observed(after(210), &look(None));
        assert_eq!(cause(&evidence, after(210)), None);
    }

    #[test]
    fn an_idle_slot_is_taken_after_the_grace_only_where_the_holder_does_not_try() {
        let mut evidence = Evidence::new(holder(1), START);
        evidence.observed(after(5000), &look(None));
        evidence.heard(after(5500), 90, Saying::Trying);
        assert_eq!(cause(&evidence, after(6000)), None, "it tries");
        assert_eq!(cause(&evidence, after(7000)), Some(Cause::HolderIdle), "it is not heard any more");
        evidence.heard(after(7000), 90, Saying::NotTrying);
        assert_eq!(cause(&evidence, after(7001)), Some(Cause::HolderIdle), "it says that it does not try");
        evidence.observed(after(7100), &look(Some(3)));
        assert_eq!(cause(&evidence, after(7100)), None, "somebody reads it");
    }

    #[test]
    fn a_status_key_that_moves_is_an_answer_of_a_holder_that_was_never_reached() {
        let mut evidence = Evidence::new(holder(1), START);
        evidence.observed(after(4000), &look(None));
        evidence.peers(after(6000), &beat(after(5900)));
        assert_eq!(cause(&evidence, after(7000)), None);
        assert_eq!(cause(&evidence, after(8000)), Some(Cause::HolderIdle));
    }

    #[test]
    fn a_frozen_holder_is_replaced_though_its_slot_is_active_but_not_while_etcd_is_what_is_silent() {
        let mut evidence = Evidence::new(holder(1), START);
        evidence.observed(after(5900), &look(Some(1)));
        evidence.heard(after(6000), 90, Saying::Streaming);
        evidence.peers(after(6100), &beat(after(5900)));
        assert_eq!(cause(&evidence, after(7900)), None);
        assert_eq!(cause(&evidence, after(8100)), None, "our own last write to etcd is too old to say anything");
        evidence.peers(after(8200), &beat(after(5900)));
        assert_eq!(cause(&evidence, after(8200)), Some(Cause::HolderSilent));
    }

    #[test]
    fn a_young_tenure_is_only_replaced_when_its_holder_is_gone() {
        let mut evidence = Evidence::new(holder(1), START);
        evidence.observed(after(100), &look(None));
        assert_eq!(cause(&evidence, after(4900)), None);
        assert_eq!(cause(&evidence, after(5000)), Some(Cause::HolderIdle));
        evidence.heard(after(1000), 90, Saying::Trying);
        evidence.unheard(after(1100), 90);
        assert_eq!(cause(&evidence, after(1100)), Some(Cause::HolderGone));
    }

    #[test]
    fn each_tenure_that_does_not_stream_doubles_the_grace_of_every_sign() {
        let mut evidence = Evidence::new(holder(3), START);
        evidence.heard(after(100), 90, Saying::Trying);
        evidence.observed(after(100), &look(None));
        evidence.unheard(after(1000), 90);
        assert_eq!(cause(&evidence, after(4900)), None);
        assert_eq!(cause(&evidence, after(5000)), Some(Cause::HolderGone));
        assert_eq!(evidence.next_tenures(), 4);
        let mut streaming = look(Some(1));
        streaming.reader_name = Some("pgbaton/p/w/n/t=1/r=90".into());
        evidence.observed(after(5100), &streaming);
        assert_eq!(evidence.next_tenures(), 1, "somebody streamed");
    }

    #[test]
    fn a_holder_without_a_fenced_sink_keeps_its_lease_to_the_end() {
        let mut evidence = Evidence::new(Holder { fenced: false, ..holder(1) }, START);
        evidence.heard(after(100), 90, Saying::Streaming);
        evidence.unheard(after(200), 90);
        evidence.observed(after(210), &look(None));
        assert_eq!(cause(&evidence, after(60_000)), None);
    }
}
