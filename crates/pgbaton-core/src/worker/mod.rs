//! One worker's part in one pipeline: the machine that the driver drives and that can be run without any server.
//!
//! ```text
//!  Standby -> Contend -> [ tenure:  Inspect -> Fence -> Recover -> Stream ]  -> Drain -> Cooldown -> Standby
//!                          ^ a session ends, the tenure goes on  |                   \-> Quarantine
//!                          +------ back-off, or SinkStalled -----+
//! ```
//!
//! Inputs are facts, effects are wishes; both are plain data in [`facts`]. Time comes in with every input. One rule runs
//! before all others: a tenure whose time may be up is over, whatever the input says.

mod claiming;
mod evidence;
mod facts;
mod judging;
mod lease_free;
mod share;
mod state;
mod steps;
mod tenure;

use std::collections::BTreeSet;
use std::time::Duration;

use evidence::Evidence;
pub use facts::{
    ClaimPlan, Effect, Failure, FailureKind, FenceRead, Holder, HolderView, Input, Inspection, Observation, PeerSeen,
    Replaced, Saying, SessionEnd, Successor, VerdictSeen,
};
use lease_free::SlotWatch;
pub use share::Hand;
use share::OTHERS_FIRST;
pub use state::{Cause, State};
use tenure::{AfterRelease, AfterSession, InTenure, Step};

use crate::{Code, Gap, Moment, Recorded, Tenure, Term};

/// What a machine is made for.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The worker's name.
    pub worker: String,
    /// Random for each start of the process.
    pub nonce: String,
    /// Hashes of pipeline and worker, as the walsender's name carries them.
    pub pipeline_hash: String,
    /// See `pipeline_hash`.
    pub worker_hash: String,
    /// The database that the slot must belong to.
    pub database: String,
    /// Hash of what in the configuration changes routing or the set of rows.
    pub config_hash: String,
}

/// What an operator decides for a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// A lease in etcd chooses who should try. Without one, workers go by the slot alone; only for a fenced sink.
    pub leased: bool,
    /// How long the slot may be idle before a holder that does not try is replaced.
    pub takeover_grace: Duration,
    /// The sink refuses older sessions, and keeps the progress: only then may anything go on, or be taken, without the
    /// lease. Else the checkpoint in etcd is the progress, and the lease is all that keeps two from publishing at once.
    pub fenced: bool,
    /// Go on through an outage of etcd while slot and sink hold (`slot-guarded`); else stop in time (`strict`).
    pub slot_guarded: bool,
    /// Accept a gap without asking anybody (`on_gap = "accept"`).
    pub accept_gaps: bool,
    /// Tables that are not published any more stop the stream (`on_publication_shrink = "halt"`); else a marker names them.
    pub halt_on_shrink: bool,
}

/// A change of owner that this worker made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    /// The holder before, if one was seen.
    pub from: Option<String>,
    /// Why.
    pub cause: Cause,
    /// From the moment the holder was seen gone to the first accepted data.
    pub took: Duration,
}

#[derive(Debug)]
enum Role {
    Boot,
    Standby,
    /// With the evidence, where a holder is replaced; and when the first sign was seen.
    Contend {
        began: Moment,
        evidence: Option<Cause>,
    },
    Tenure(Box<InTenure>),
    Releasing {
        then: AfterRelease,
    },
    Cooldown {
        since: Moment,
        until: Moment,
    },
    Quarantine(Box<Quarantined>),
    Gone,
}

#[derive(Debug)]
struct Quarantined {
    gap: Gap,
    recorded: Option<Recorded>,
    /// The server's timeline and cluster when the verdict fell, to see that it is another one now.
    seen_on: Option<(crate::SystemIdentifier, crate::Timeline)>,
    look_again: Moment,
}

#[derive(Debug, Clone, Copy)]
struct Suspicion {
    code: Code,
    first: Moment,
    last: Moment,
    /// On how many connections.
    times: u32,
}

/// A look at the slot counts as fresh for this long.
const FRESH: Duration = Duration::from_secs(5);
/// An answer of `/active` is true for this long after PostgreSQL named us.
const NAMED: Duration = Duration::from_millis(2500);
/// A cooldown is cut to this while nobody streams: nobody holds the key, or there is evidence against who does.
const CUT: Duration = Duration::from_secs(5);
/// A named successor goes first for this long.
const SUCCESSOR_FIRST: Duration = Duration::from_secs(1);
/// A status key that has not moved for this long belongs to a worker that does not answer.
const PEER_MOVES: Duration = Duration::from_secs(3);
/// A worker in quarantine looks whether the cause is gone.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Another worker, and since when it has been reaching what this one may have lost.
#[derive(Debug)]
struct Peer {
    seen: PeerSeen,
    postgres_since: Option<Moment>,
    kafka_since: Option<Moment>,
}

/// One worker's part in one pipeline.
#[derive(Debug)]
pub struct Worker {
    identity: Identity,
    policy: Policy,
    role: Role,
    leaving: bool,
    view: Option<HolderView>,
    /// The last holder seen, and when its key was first seen gone.
    last_holder: Option<Holder>,
    absent_since: Option<Moment>,
    /// About the last holder seen.
    evidence: Option<Evidence>,
    /// What there is instead of a holder key where there is no etcd.
    slot_watch: SlotWatch,
    /// What this worker has in hand of other pipelines.
    hand: Hand,
    /// The verdict of this worker that somebody has accepted, where there is no etcd to keep it.
    accepted_here: Option<VerdictSeen>,
    peers: Vec<Peer>,
    namesake: Option<String>,
    observed_at: Option<Moment>,
    observed: Option<Observation>,
    failure: Option<Failure>,
    coordination: Option<String>,
    sink: Option<(Code, String)>,
    notice: Option<(Code, String)>,
    /// Short tenures in a row: doubles the cooldown.
    short_tenures: u32,
    /// When this worker claimed after a reset of etcd.
    resets: Vec<Moment>,
    in_chunks: bool,
    /// Topics that the stream asked for and the catalogue may not know any more.
    topics: BTreeSet<String>,
    /// An identity verdict that waits to be confirmed.
    suspicion: Option<Suspicion>,
    named_until: Option<Moment>,
    term: Option<Term>,
    switch: Option<Switch>,
}

impl Worker {
    /// A worker that knows nothing yet.
    pub fn new(identity: Identity, policy: Policy) -> Self {
        Worker {
            identity,
            policy,
            role: Role::Boot,
            leaving: false,
            view: None,
            last_holder: None,
            absent_since: None,
            evidence: None,
            slot_watch: SlotWatch::default(),
            hand: Hand::default(),
            accepted_here: None,
            peers: Vec::new(),
            namesake: None,
            observed_at: None,
            observed: None,
            failure: None,
            coordination: None,
            sink: None,
            notice: None,
            short_tenures: 0,
            resets: Vec::new(),
            in_chunks: false,
            topics: BTreeSet::new(),
            suspicion: None,
            named_until: None,
            term: None,
            switch: None,
        }
    }

    /// Takes a fact and asks for what follows from it.
    pub fn handle(&mut self, now: Moment, input: Input, effects: &mut Vec<Effect>) {
        self.expire(now, effects);
        self.learn(now, &input);
        let role = std::mem::replace(&mut self.role, Role::Gone);
        self.role = match role {
            Role::Boot | Role::Standby => self.in_standby(now, effects),
            Role::Contend { began, evidence } => self.in_contend(now, began, evidence, input, effects),
            Role::Tenure(tenure) => self.in_tenure(now, *tenure, input, effects),
            Role::Releasing { then } => self.in_releasing(now, then, input),
            Role::Cooldown { since, until } if now >= until || (now.since(since) >= CUT && self.is_needed(now)) => {
                // What ended the last tenure has been said for as long as it lasted.
                self.notice = None;
                self.in_standby(now, effects)
            }
            Role::Cooldown { since, until } => Role::Cooldown { since, until },
            Role::Quarantine(quarantined) => self.in_quarantine(now, *quarantined, input, effects),
            Role::Gone => Role::Gone,
        };
        if self.leaving && matches!(self.role, Role::Boot | Role::Standby | Role::Cooldown { .. } | Role::Quarantine(_))
        {
            self.role = Role::Gone;
        }
    }

    /// When time alone may change something.
    pub fn deadline(&self) -> Option<Moment> {
        match &self.role {
            // A worker in quarantine is woken by every look at the slot.
            Role::Boot | Role::Contend { .. } | Role::Releasing { .. } | Role::Quarantine(_) | Role::Gone => None,
            Role::Standby if self.nobody_holds() => self.absent_since.map(|since| since + SUCCESSOR_FIRST),
            Role::Standby => self.evidence.as_ref().and_then(|evidence| evidence.deadline(self.policy.takeover_grace)),
            Role::Cooldown { since, until } if self.nobody_holds() => Some((*until).min(*since + CUT)),
            // Each look at the slot wakes it, too, and asks whether it is needed.
            Role::Cooldown { until, .. } => Some(*until),
            Role::Tenure(tenure) => Some(tenure.deadline()),
        }
    }

    /// The state as status shows it.
    pub fn state(&self) -> State {
        match &self.role {
            Role::Boot => State::Boot,
            Role::Standby => State::Standby,
            Role::Contend { .. } => State::Contend,
            Role::Tenure(tenure) => tenure.state(),
            Role::Releasing { .. } => State::Drain,
            Role::Cooldown { .. } => State::Cooldown,
            Role::Quarantine(_) => State::Quarantine,
            Role::Gone => State::Gone,
        }
    }

    /// PostgreSQL has named this worker as the slot's reader, and that is true until then.
    pub fn active_until(&self) -> Option<Moment> {
        match &self.role {
            Role::Tenure(tenure) if tenure.is_streaming() => self
                .named_until
                .map(|until| if tenure.is_guarded() { until } else { until.min(tenure.tenure.stop_at()) }),
            _ => None,
        }
    }

    /// It holds the lease, or tries to get it: what counts as in hand for the worker's other pipelines.
    pub fn is_in_hand(&self) -> bool {
        matches!(self.role, Role::Contend { .. } | Role::Tenure(_) | Role::Releasing { .. })
    }

    /// Could this worker take over now? PostgreSQL and etcd answer, and it is standing by.
    pub fn can_take_over(&self, now: Moment) -> bool {
        matches!(self.role, Role::Standby | Role::Cooldown { .. })
            && self.coordination.is_none()
            && self.sees_leader(now)
    }

    /// What this worker was made for.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Does etcd answer? True where there is none to ask.
    pub fn coordination_answers(&self) -> bool {
        !self.policy.leased || (self.coordination.is_none() && self.view.is_some())
    }

    /// The tenure, while there is one.
    pub fn tenure(&self) -> Option<Tenure> {
        match &self.role {
            Role::Tenure(tenure) => Some(tenure.tenure),
            _ => None,
        }
    }

    /// Since when this worker goes on without etcd, guarded by slot and sink alone.
    pub fn guarded_since(&self) -> Option<Moment> {
        match &self.role {
            Role::Tenure(tenure) => tenure.guarded_since,
            _ => None,
        }
    }

    /// By when everything has to be closed unless the lease is renewed; none without a tenure, or while no lease counts.
    pub fn closed_by(&self) -> Option<Moment> {
        match &self.role {
            Role::Tenure(tenure) if !tenure.is_guarded() => Some(tenure.tenure.closed_by()),
            _ => None,
        }
    }

    /// PostgreSQL answers, and the server that answers is a leader.
    pub fn reaches_postgres(&self, now: Moment) -> bool {
        self.sees_leader(now)
    }

    /// Nothing says that Kafka does not answer.
    pub fn reaches_kafka(&self) -> bool {
        self.sink.is_none()
    }

    /// The holder, as far as etcd shows.
    pub fn holder(&self) -> Option<&Holder> {
        self.view.as_ref()?.holder.as_ref()
    }

    /// Its name; without etcd a worker knows only of itself that it streams.
    pub fn holder_name(&self) -> Option<&str> {
        match &self.role {
            Role::Tenure(tenure) if !self.policy.leased && tenure.is_streaming() => Some(&self.identity.worker),
            _ => self.holder().map(|holder| holder.worker.as_str()),
        }
    }

    /// The term of this worker's last session.
    pub fn term(&self) -> Option<Term> {
        self.term
    }

    /// The last change of owner that this worker made.
    pub fn last_switch(&self) -> Option<&Switch> {
        self.switch.as_ref()
    }

    /// Why this worker is in quarantine.
    pub fn gap(&self) -> Option<&Gap> {
        match &self.role {
            Role::Quarantine(quarantined) => Some(&quarantined.gap),
            _ => None,
        }
    }

    /// The last look at the slot.
    pub fn observed(&self) -> Option<&Observation> {
        self.observed.as_ref()
    }

    /// What is not as it should be, each with a text.
    pub fn reasons(&self) -> Vec<(Code, String)> {
        let mut reasons = Vec::new();
        if let Some(gap) = self.gap() {
            reasons.push((gap.code, gap.text.clone()));
        }
        if let Some(failure) = &self.failure {
            reasons.push((failure.code, failure.detail.clone()));
        }
        if let Some(detail) = &self.coordination {
            reasons.push((Code::EtcdUnreachable, detail.clone()));
        }
        if let Some(detail) = &self.namesake {
            reasons.push((Code::DuplicateWorker, detail.clone()));
        }
        if let Some(Failure { code, detail, .. }) = self.foreign_reader() {
            reasons.push((code, detail));
        }
        if self.is_paused() {
            reasons.push((Code::Paused, "the pipeline is paused; pgbaton resume lets it go on".to_owned()));
        }
        for reason in [&self.sink, &self.notice].into_iter().flatten() {
            if !reasons.iter().any(|(code, _)| *code == reason.0) {
                reasons.push(reason.clone());
            }
        }
        reasons
    }

    /// Stopped for good: everything is closed and released.
    pub fn is_gone(&self) -> bool {
        matches!(self.role, Role::Gone)
    }

    /// What is known of the world, whatever the role.
    fn learn(&mut self, now: Moment, input: &Input) {
        match input {
            Input::HolderSeen(view) => {
                self.coordination = None;
                match &view.holder {
                    Some(holder) => {
                        self.last_holder = Some(holder.clone());
                        self.absent_since = None;
                        if !self.evidence.as_ref().is_some_and(|evidence| evidence.is_about(holder)) {
                            self.evidence = Some(Evidence::new(holder.clone(), now));
                        }
                    }
                    None => {
                        self.absent_since.get_or_insert(now);
                    }
                }
                self.view = Some(view.clone());
            }
            Input::CoordinationLost(detail) => {
                self.coordination = Some(detail.clone());
                self.view = None;
                self.absent_since = None;
            }
            Input::KeptAlive { .. } => self.coordination = None,
            Input::Observed { asked_at, observation, .. } => {
                if observation.in_recovery {
                    self.failure = Some(Failure {
                        code: Code::InRecovery,
                        detail: "the server that answers is a standby".to_owned(),
                        kind: FailureKind::Passing,
                    });
                    self.lost_sight();
                } else {
                    self.failure = None;
                    self.observed_at = Some(*asked_at);
                    self.observed = Some(observation.clone());
                    if let Some(evidence) = &mut self.evidence {
                        evidence.observed(*asked_at, observation);
                    }
                    self.slot_watch.observed(*asked_at, observation, &self.identity.pipeline_hash);
                }
            }
            Input::NotObserved(failure) => {
                self.failure = Some(failure.clone());
                self.lost_sight();
            }
            Input::HolderHeard { revision, saying } => {
                if let Some(evidence) = &mut self.evidence {
                    evidence.heard(now, *revision, *saying);
                }
            }
            Input::HolderUnheard { revision } => {
                if let Some(evidence) = &mut self.evidence {
                    evidence.unheard(now, *revision);
                }
            }
            Input::PeersSeen { peers, namesake } => {
                if let Some(evidence) = &mut self.evidence {
                    evidence.peers(now, peers);
                }
                self.namesake.clone_from(namesake);
                self.peers = peers.iter().map(|peer| self.followed(now, peer)).collect();
            }
            Input::SinkProbed(answer) => {
                self.sink = answer.as_ref().err().map(|detail| (Code::KafkaUnreachable, detail.clone()));
            }
            Input::InHand(hand) => self.hand = *hand,
            Input::GapAccepted => self.take_acceptance(),
            Input::Shutdown => self.leaving = true,
            _ => {}
        }
    }

    fn lost_sight(&mut self) {
        self.slot_watch.lost_sight();
        if let Some(evidence) = &mut self.evidence {
            evidence.lost_sight();
        }
    }

    /// A peer with the time since when it reaches what it reaches.
    fn followed(&self, now: Moment, peer: &PeerSeen) -> Peer {
        let before = self.peers.iter().find(|known| known.seen.nonce == peer.nonce);
        let since = |reaches: bool, before: Option<Moment>| reaches.then(|| before.unwrap_or(now));
        Peer {
            postgres_since: since(peer.postgres, before.and_then(|known| known.postgres_since)),
            kafka_since: since(peer.kafka, before.and_then(|known| known.kafka_since)),
            seen: peer.clone(),
        }
    }

    fn is_paused(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.paused)
    }

    fn nobody_holds(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.holder.is_none())
    }

    /// Nobody holds the key, or who does is to be replaced.
    fn is_needed(&self, now: Moment) -> bool {
        let convicted = |evidence: &Evidence| evidence.convicts(now, self.policy.takeover_grace).is_some();
        self.nobody_holds() || self.evidence.as_ref().is_some_and(convicted)
    }

    fn sees_leader(&self, now: Moment) -> bool {
        self.failure.is_none() && self.observed_at.is_some_and(|at| now.since(at) <= FRESH)
    }

    /// Standing by: contend when the key is absent and no named successor goes first, or on evidence that its holder does
    /// not stream any more.
    fn in_standby(&mut self, now: Moment, effects: &mut Vec<Effect>) -> Role {
        if !self.policy.leased {
            return self.in_standby_without_lease(now, effects);
        }
        let Some(view) = &self.view else { return Role::Standby };
        if self.leaving || view.paused || self.namesake.is_some() || !self.sees_leader(now) {
            return Role::Standby;
        }
        let tenures = self.evidence.as_ref().map_or(1, Evidence::next_tenures);
        let full = self.has_its_share(now, view.holder.as_ref().map(|holder| holder.worker.as_str()));
        let Some(holder) = &view.holder else {
            let follows = |successor: &&Successor| {
                self.last_holder.as_ref().is_some_and(|holder| holder.revision == successor.follows)
            };
            let named = view.successor.as_ref().filter(follows).and_then(|successor| successor.worker.as_ref());
            let others_first = match named {
                Some(worker) if *worker == self.identity.worker => Duration::ZERO,
                _ if full => OTHERS_FIRST,
                Some(_) => SUCCESSOR_FIRST,
                None => Duration::ZERO,
            };
            if self.absent_since.is_none_or(|since| now.since(since) < others_first) {
                return Role::Standby;
            }
            effects.push(Effect::Contend { replacing: None, tenures });
            return Role::Contend { began: self.absent_since.unwrap_or(now), evidence: None };
        };
        let Some(evidence) = self.evidence.as_mut().filter(|_| self.policy.fenced) else { return Role::Standby };
        let conviction = evidence.convicts(now, self.policy.takeover_grace);
        if let Some(conviction) = conviction.filter(|found| !full || now.since(found.began) >= OTHERS_FIRST) {
            let replacing = Some(Replaced { revision: holder.revision, lease_id: holder.lease_id });
            effects.push(Effect::Contend { replacing, tenures });
            return Role::Contend { began: conviction.began, evidence: Some(conviction.cause) };
        }
        if evidence.look_closer(now) {
            effects.push(Effect::Observe);
        }
        Role::Standby
    }

    fn in_contend(
        &mut self,
        now: Moment,
        began: Moment,
        evidence: Option<Cause>,
        input: Input,
        effects: &mut Vec<Effect>,
    ) -> Role {
        match input {
            Input::Won { lease_id, revision, ttl, asked_at, cluster_id } => {
                let tenure = Tenure::new(lease_id, revision, ttl, asked_at);
                let handed_over =
                    self.view.as_ref().and_then(|view| view.successor.as_ref()).is_some_and(|successor| {
                        self.last_holder.as_ref().is_some_and(|holder| holder.revision == successor.follows)
                    });
                let switch = Switch {
                    from: self.last_holder.as_ref().map(|holder| holder.worker.clone()),
                    cause: match (&self.last_holder, evidence) {
                        (None, _) => Cause::Start,
                        (Some(_), Some(cause)) => cause,
                        (Some(_), None) if handed_over => Cause::Handover,
                        (Some(_), None) => Cause::LeaseExpired,
                    },
                    took: Duration::ZERO,
                };
                let mut in_tenure = InTenure::new(tenure, cluster_id, began, switch);
                effects.push(Effect::KeepAlive(tenure));
                if self.leaving {
                    in_tenure.step =
                        Step::Ending(AfterSession::Release(AfterRelease::Cooldown { handover: true, to: None }));
                    effects.push(Effect::EndSession { commit: false, by: tenure.closed_by() });
                } else {
                    effects.push(Effect::Inspect);
                }
                Role::Tenure(Box::new(in_tenure))
            }
            // Lost by a hair, or etcd did not answer: the watch tells what is true now.
            Input::NotWon => Role::Cooldown { since: now, until: now + Duration::from_millis(500) },
            _ => Role::Contend { began, evidence },
        }
    }

    fn in_releasing(&mut self, now: Moment, then: AfterRelease, input: Input) -> Role {
        if input != Input::Released {
            return Role::Releasing { then };
        }
        self.rest(now, then, self.cooldown())
    }

    /// Everything is closed and given back.
    fn rest(&mut self, now: Moment, then: AfterRelease, cooldown: Duration) -> Role {
        self.named_until = None;
        match then {
            AfterRelease::Quarantine(quarantined) => {
                Role::Quarantine(Box::new(Quarantined { look_again: now + LOOK_AGAIN, ..*quarantined }))
            }
            AfterRelease::Cooldown { .. } => Role::Cooldown { since: now, until: now + cooldown },
        }
    }

    /// 2 s after a good tenure, doubling to 60 s with every short one; spread by a tenth so that workers which fell
    /// together do not rise together.
    fn cooldown(&self) -> Duration {
        let base = Duration::from_secs(2).saturating_mul(1 << self.short_tenures.min(5)).min(Duration::from_secs(60));
        let spread =
            self.identity.nonce.bytes().fold(self.short_tenures, |sum, byte| sum.wrapping_mul(31) + u32::from(byte));
        base + base.mul_f64(f64::from(spread % 100) / 1000.0)
    }
}

#[cfg(test)]
mod tests;
