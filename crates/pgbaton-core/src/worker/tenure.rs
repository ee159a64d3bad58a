//! Inside a tenure: sessions begin and end while the lease is kept.

use std::collections::VecDeque;
use std::time::Duration;

use super::claiming::EtcdReset;
use super::facts::{ClaimPlan, FailureKind, FenceRead, Inspection, SessionEnd};
use super::steps::Running;
use super::{Effect, FRESH, Input, PEER_MOVES, Peer, Quarantined, Role, State, Suspicion, Switch, Worker};
use crate::{Code, Gap, Lsn, Moment, Recorded, Tenure, Timeline};

/// What follows when the lease is given back.
#[derive(Debug)]
pub(super) enum AfterRelease {
    Cooldown { handover: bool, to: Option<String> },
    Quarantine(Box<Quarantined>),
}

/// What follows when the session is closed.
#[derive(Debug)]
pub(super) enum AfterSession {
    /// A new session, after a back-off.
    Retry,
    /// Probe the sink first.
    ProbeSink,
    /// Give the lease back.
    Release(AfterRelease),
}

/// What the tenure waits for.
#[derive(Debug)]
pub(super) enum Step {
    Inspecting,
    /// A walsender of an older session has to go first.
    Freeing {
        look_again: Moment,
    },
    VerifyingBeforeFence(Box<Inspection>),
    Fencing(Box<Inspection>),
    /// A torn transaction was found.
    ReadingBack(Box<Inspection>, Box<FenceRead>),
    VerifyingBeforeClaim(Box<Inspection>, Box<ClaimPlan>),
    /// A verdict that stops the pipeline is spoken by the holder only: who was slow may have read what a newer one wrote.
    VerifyingBeforeVerdict(Box<Inspection>, Box<(Gap, Option<Recorded>)>),
    Claiming(Box<Inspection>, Box<ClaimPlan>),
    Starting {
        running: Box<Running>,
        give_up: Moment,
        again: Option<Moment>,
    },
    Checking {
        running: Box<Running>,
        give_up: Moment,
    },
    Streaming(Box<Running>),
    Ending(AfterSession),
    BackOff {
        until: Moment,
    },
    Stalled {
        probe: Moment,
        pause: Duration,
    },
}

/// A tenure and what happens in it.
#[derive(Debug)]
pub(super) struct InTenure {
    pub tenure: Tenure,
    pub step: Step,
    pub cluster_id: String,
    /// When the holder before was seen gone.
    pub began: Moment,
    pub switch: Option<Switch>,
    pub streamed: Option<Moment>,
    /// A claim was committed in this tenure.
    pub claimed: bool,
    /// The sessions of this tenure that have tried to claim, the last few.
    pub sessions: VecDeque<String>,
    /// Progress as it was last read ends in a claim of this tenure.
    pub claimed_last: bool,
    /// What the claim that is being made says of etcd.
    pub reset: Option<EtcdReset>,
    pub reset_counted: bool,
    /// The session that had claimed last when this tenure first read progress; its inner none: nobody had.
    pub first_read: Option<Option<String>>,
    /// A session of this tenure, which has no lease, came to a verdict that stops the pipeline.
    pub refused: bool,
    /// The session that is being made had no answer from etcd.
    pub unverified: bool,
    /// A session was ended as a newer holder would end it, and etcd has not yet said that there is none.
    pub challenged: bool,
    /// Since when no lease counts, and slot and sink are the only fences.
    pub guarded_since: Option<Moment>,
    /// The first of the failures that have come without a stream between them.
    pub failing_since: Option<Moment>,
    pub failures: u32,
}

/// An identity verdict is believed after this time, on two connections.
const IDENTITY: Duration = Duration::from_secs(10);
/// A suspicion that did not come again for this long was another server's, or passing.
const FORGET: Duration = Duration::from_secs(60);
/// Sessions of a tenure that are remembered; only the last one whose outcome was told, and those after it, matter.
const REMEMBERED: usize = 16;
/// Without etcd nobody watches us: it ends at some time.
const GUARDED_AT_MOST: Duration = Duration::from_secs(15 * 60);
/// Time to close a session while no lease counts.
const CLOSE_GUARDED: Duration = Duration::from_secs(3);
/// Another worker has been reaching a leader that we do not, for this long.
const LEADER_LOST: Duration = Duration::from_secs(5);
/// Another worker has been reaching Kafka that we do not, for this long.
const SINK_LOST: Duration = Duration::from_secs(10);
/// A tenure that has not streamed does not end for another worker's sake before this.
const NO_BETTER: Duration = Duration::from_secs(30);

impl InTenure {
    pub(super) fn new(tenure: Tenure, cluster_id: String, began: Moment, switch: Switch) -> Self {
        InTenure {
            tenure,
            step: Step::Inspecting,
            cluster_id,
            began,
            switch: Some(switch),
            streamed: None,
            claimed: false,
            sessions: VecDeque::new(),
            claimed_last: false,
            reset: None,
            reset_counted: false,
            first_read: None,
            refused: false,
            unverified: false,
            challenged: false,
            guarded_since: None,
            failing_since: None,
            failures: 0,
        }
    }

    pub(super) fn state(&self) -> State {
        match &self.step {
            Step::Inspecting | Step::Freeing { .. } | Step::VerifyingBeforeFence(_) | Step::BackOff { .. } => {
                State::Inspect
            }
            Step::Fencing(_)
            | Step::ReadingBack(..)
            | Step::VerifyingBeforeClaim(..)
            | Step::VerifyingBeforeVerdict(..)
            | Step::Claiming(..) => State::Fence,
            Step::Starting { .. } | Step::Checking { .. } => State::Recover,
            Step::Streaming(_) => State::Stream,
            Step::Ending(AfterSession::Retry) => State::Inspect,
            Step::Ending(AfterSession::ProbeSink) | Step::Stalled { .. } => State::SinkStalled,
            Step::Ending(AfterSession::Release(_)) => State::Drain,
        }
    }

    /// The session whose claim stands.
    fn running(&self) -> Option<&Running> {
        match &self.step {
            Step::Streaming(running) | Step::Starting { running, .. } | Step::Checking { running, .. } => Some(running),
            _ => None,
        }
    }

    pub(super) fn is_streaming(&self) -> bool {
        matches!(self.step, Step::Streaming(_))
    }

    /// Asks for the claim, and remembers whose it is: its outcome may never be told.
    pub(super) fn claims(&mut self, plan: &ClaimPlan, effects: &mut Vec<Effect>) {
        self.sessions.extend(plan.records.progress.last().map(|claim| claim.session.clone()));
        if self.sessions.len() > REMEMBERED {
            self.sessions.pop_front();
        }
        effects.push(Effect::Claim(Box::new(plan.clone())));
    }

    pub(super) fn is_guarded(&self) -> bool {
        self.guarded_since.is_some()
    }

    /// By when what is being closed has to be closed.
    pub(super) fn closed_by(&self, now: Moment) -> Moment {
        if self.is_guarded() || !self.tenure.has_lease() { now + CLOSE_GUARDED } else { self.tenure.closed_by() }
    }

    /// At the latest when the tenure has to stop; sooner where a step waits for time.
    pub(super) fn deadline(&self) -> Moment {
        let end = self.guarded_since.map_or(self.tenure.stop_at(), |since| since + GUARDED_AT_MOST);
        match &self.step {
            Step::Freeing { look_again } => end.min(*look_again),
            Step::Starting { again: Some(again), .. } => end.min(*again),
            Step::Checking { give_up, .. } => end.min(*give_up),
            Step::Streaming(running) => end.min(running.close_by.unwrap_or(running.checkpoint_due)),
            Step::BackOff { until } => end.min(*until),
            Step::Stalled { probe, .. } => end.min(*probe),
            // It ends by itself: the driver closes everything in time. Then nothing is left to wait for but the answer.
            Step::Ending(_) => self.tenure.ends_at(),
            _ => end,
        }
    }

    /// 0.1 to 0.2 s for the first ten seconds without a stream, which a switchover takes, 0.5 s for the first minute, then up
    /// to 5 s.
    fn back_off(&mut self, now: Moment) -> Step {
        let since = *self.failing_since.get_or_insert(now);
        self.failures += 1;
        let most = match now.since(since).as_secs() {
            0..10 => 200,
            10..60 => 500,
            _ => 5000,
        };
        let pause = (100_u64 << self.failures.saturating_sub(1).min(6)).min(most);
        Step::BackOff { until: now + Duration::from_millis(pause) }
    }
}

pub(super) fn release(handover: bool, to: Option<String>) -> AfterSession {
    AfterSession::Release(AfterRelease::Cooldown { handover, to })
}

impl Worker {
    /// A tenure whose time may be up is over, whatever the input says. But for an outage of etcd, where slot and sink are
    /// fences enough: without a quorum nobody else can win a lease, and if only we are cut off, the new holder frees the
    /// slot and fences our producer.
    pub(super) fn expire(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        // Silence of etcd was seen: a process that was stopped and continued has seen nothing, and stops.
        let guarded = self.policy.fenced && self.policy.slot_guarded && self.coordination.is_some();
        if let Role::Tenure(tenure) = &mut self.role
            && now >= tenure.tenure.stop_at()
            && !matches!(tenure.step, Step::Ending(AfterSession::Release(_)))
        {
            if guarded && tenure.claimed {
                tenure.guarded_since.get_or_insert(now);
            }
            let goes_on = tenure.guarded_since.is_some_and(|since| now.since(since) < GUARDED_AT_MOST);
            if goes_on && !tenure.challenged {
                return;
            }
            self.notice = Some((Code::EtcdUnreachable, "the lease could not be renewed in time".to_owned()));
            let commit = tenure.is_guarded() || now < tenure.tenure.closed_by();
            end(tenure, now, commit, release(false, None), effects);
        }
    }

    /// Another worker can do what this one alone cannot. Judged by what looks at the servers all the time, and not by a
    /// connection of the session: one that is refused here would be refused there.
    fn better_placed(&self, now: Moment, t: &InTenure) -> Option<String> {
        let failing = t.failing_since?;
        let blind = self.observed_at.is_none_or(|at| now.since(at) > FRESH);
        let (reaches, patience): (fn(&Peer) -> Option<Moment>, _) = match &t.step {
            Step::Streaming(_) => return None,
            Step::Stalled { .. } if self.sink.is_some() => (|peer| peer.kafka_since, SINK_LOST),
            Step::Stalled { .. } => return None,
            _ if blind => (|peer| peer.postgres_since, LEADER_LOST),
            _ => return None,
        };
        // Whoever got the lease this way and could not stream either keeps it for longer: it must not go round.
        let patience = if t.streamed.is_some() { patience } else { NO_BETTER };
        let fit = |peer: &&Peer| {
            peer.seen.standby
                && now.since(peer.seen.moved_at) < PEER_MOVES
                && now.since(failing) >= patience
                && reaches(peer).is_some_and(|since| now.since(since) >= patience)
        };
        self.peers.iter().find(fit).map(|peer| peer.seen.worker.clone())
    }

    pub(super) fn in_tenure(&mut self, now: Moment, mut t: InTenure, input: Input, effects: &mut Vec<Effect>) -> Role {
        if let Step::Ending(_) = t.step {
            return self.in_ending(now, t, input, effects);
        }
        match input {
            Input::KeptAlive { asked_at, ttl } => {
                t.tenure.renewed(asked_at, ttl);
                t.challenged = false;
                if now < t.tenure.stop_at() {
                    t.guarded_since = None;
                }
            }
            Input::LeaseLost(detail) => {
                self.notice = Some((Code::Fenced, detail));
                end(&mut t, now, false, release(false, None), effects);
            }
            // A view from before our own write says nothing about it.
            Input::HolderSeen(view)
                if view.revision >= t.tenure.revision
                    && !view.holder.as_ref().is_some_and(|holder| holder.is_of(&t.tenure)) =>
            {
                self.notice = Some((Code::Fenced, "the holder key was taken away or overwritten".to_owned()));
                end(&mut t, now, false, release(false, None), effects);
            }
            Input::HolderSeen(view) if view.paused => end(&mut t, now, true, release(false, None), effects),
            Input::Shutdown => end(&mut t, now, true, release(true, None), effects),
            Input::Handover(to) => end(&mut t, now, true, release(true, to), effects),
            Input::Broken(broken) => self.broken(now, &mut t, broken, effects),
            other => self.step(now, &mut t, other, effects),
        }
        if !matches!(t.step, Step::Ending(AfterSession::Release(_)))
            && let Some(peer) = self.better_placed(now, &t)
        {
            end(&mut t, now, true, release(true, Some(peer)), effects);
        }
        Role::Tenure(Box::new(t))
    }

    fn in_ending(&mut self, now: Moment, mut t: InTenure, input: Input, effects: &mut Vec<Effect>) -> Role {
        match input {
            Input::KeptAlive { asked_at, ttl } => {
                t.tenure.renewed(asked_at, ttl);
                t.challenged = false;
            }
            // The session is being closed for another one: what forbids that turns it into the end of the tenure.
            Input::LeaseLost(_) | Input::Shutdown | Input::Handover(_)
                if !matches!(t.step, Step::Ending(AfterSession::Release(_))) =>
            {
                let (handover, to) = match input {
                    Input::Handover(to) => (true, to),
                    Input::Shutdown => (true, None),
                    _ => (false, None),
                };
                t.step = Step::Ending(release(handover, to));
            }
            Input::SessionEnded => {
                let Step::Ending(after) = std::mem::replace(&mut t.step, Step::Inspecting) else {
                    return Role::Tenure(Box::new(t));
                };
                match after {
                    AfterSession::Retry => t.step = t.back_off(now),
                    AfterSession::ProbeSink => {
                        t.failing_since.get_or_insert(now);
                        t.step = Step::Stalled { probe: now + Duration::from_secs(1), pause: Duration::from_secs(1) };
                    }
                    AfterSession::Release(then) => return self.give_back(now, &t, then, effects),
                }
            }
            _ => {}
        }
        Role::Tenure(Box::new(t))
    }

    fn give_back(&mut self, now: Moment, t: &InTenure, then: AfterRelease, effects: &mut Vec<Effect>) -> Role {
        let good = t.streamed.is_some_and(|since| now.since(since) >= Duration::from_secs(60));
        let (handover, to) = match &then {
            AfterRelease::Cooldown { handover, to } => (*handover, to.clone()),
            AfterRelease::Quarantine(_) => (false, None),
        };
        self.short_tenures = if good || handover { 0 } else { self.short_tenures + 1 };
        if let AfterRelease::Quarantine(quarantined) = &then {
            effects.push(Effect::WriteVerdict(quarantined.gap.clone()));
        }
        if !t.tenure.has_lease() {
            let pause = self.stands_back(&then);
            return self.rest(now, then, pause);
        }
        effects.push(Effect::Release { tenure: t.tenure, handover, to });
        Role::Releasing { then }
    }

    fn broken(&mut self, now: Moment, t: &mut InTenure, broken: SessionEnd, effects: &mut Vec<Effect>) {
        if matches!(t.step, Step::BackOff { .. } | Step::Stalled { .. }) {
            return; // What broke is closed already.
        }
        t.challenged |= match &broken {
            SessionEnd::Stream(failure) => failure.kind == FailureKind::ShuttingDown && t.running().is_some(),
            SessionEnd::Sink { code, .. } => *code == Code::Fenced,
            _ => false,
        };
        let after = match broken {
            SessionEnd::Stream(failure) if failure.code == Code::WalRemoved => {
                let watermark = t.running().map(|running| running.plan.resume.watermark);
                let gap = Gap {
                    code: Code::WalRemoved,
                    timeline: watermark.map_or(Timeline(0), |watermark| watermark.timeline),
                    from_lsn: watermark.map_or(Lsn::INVALID, |watermark| watermark.lsn),
                    to_lsn: None,
                    text: failure.detail,
                };
                return self.contradicted(now, t, gap, effects);
            }
            SessionEnd::Stream(failure) => {
                self.failure = Some(failure);
                AfterSession::Retry
            }
            SessionEnd::Sink { code: Code::KafkaUnreachable, detail } => {
                self.sink = Some((Code::KafkaUnreachable, detail));
                AfterSession::ProbeSink
            }
            // Where no lease says whose turn it is, the last to come to Kafka goes first.
            SessionEnd::Sink { code: Code::Fenced, .. } if !t.tenure.has_lease() && !t.claimed => release(false, None),
            SessionEnd::Sink { code, detail } => {
                self.sink = Some((code, detail));
                AfterSession::Retry
            }
            SessionEnd::NotHolder(detail) => {
                self.notice = Some((Code::Fenced, detail));
                release(false, None)
            }
            SessionEnd::ProducerSpent(_) | SessionEnd::KeyUnknown { .. } => AfterSession::Retry,
            SessionEnd::TopicAdded(topic) => {
                self.topics.insert(topic);
                AfterSession::Retry
            }
            SessionEnd::Stalled(detail) => {
                self.sink = Some((Code::SinkStalled, detail));
                AfterSession::ProbeSink
            }
            SessionEnd::OpenTooLong => {
                self.in_chunks = true;
                AfterSession::Retry
            }
            SessionEnd::Contradiction(gap) => return self.contradicted(now, t, gap, effects),
        };
        end(t, now, false, after, effects);
    }

    /// What the server sends cannot follow what was published.
    fn contradicted(&mut self, now: Moment, t: &mut InTenure, mut gap: Gap, effects: &mut Vec<Effect>) {
        let (inspection, recorded) = match t.running() {
            Some(running) => {
                gap.timeline = running.plan.history.owner_of(gap.from_lsn);
                (Some(running.inspected.clone()), running.plan.records.progress.last().and_then(Recorded::of))
            }
            None => (None, None),
        };
        self.conclude(now, t, gap, recorded, inspection.as_ref(), effects);
    }

    /// A verdict that stops the pipeline. One about identity has to be seen for a while, on two connections.
    pub(super) fn conclude(
        &mut self,
        now: Moment,
        t: &mut InTenure,
        gap: Gap,
        recorded: Option<Recorded>,
        inspection: Option<&Inspection>,
        effects: &mut Vec<Effect>,
    ) {
        // One server may say what is not so: another one, or one that has just come up.
        let of_identity = matches!(
            gap.code,
            Code::WrongCluster
                | Code::TimelineUnknown
                | Code::TimelineBackwards
                | Code::Diverged
                | Code::TopicRecreated
        );
        if of_identity {
            // Some contradictions show only in a stream, after a claim: only time ends a suspicion.
            let seen = match self.suspicion {
                Some(seen) if seen.code == gap.code && now.since(seen.last) < FORGET => {
                    Suspicion { last: now, times: seen.times + 1, ..seen }
                }
                _ => Suspicion { code: gap.code, first: now, last: now, times: 1 },
            };
            self.suspicion = Some(seen);
            if seen.times < 2 || now.since(seen.first) < IDENTITY {
                self.notice = Some((gap.code, gap.text));
                end(t, now, false, AfterSession::Retry, effects);
                return;
            }
        }
        self.suspicion = None;
        let seen_on =
            inspection.map(|inspection| (inspection.server.system_identifier, inspection.server.history.current()));
        let quarantined = Box::new(Quarantined { gap, recorded, seen_on, look_again: now });
        end(t, now, false, AfterSession::Release(AfterRelease::Quarantine(quarantined)), effects);
    }
}

/// Closes the session; what follows is known beforehand.
pub(super) fn end(t: &mut InTenure, now: Moment, commit: bool, after: AfterSession, effects: &mut Vec<Effect>) {
    if !matches!(t.step, Step::Ending(_)) {
        effects.push(Effect::EndSession { commit, by: t.closed_by(now) });
    }
    t.step = Step::Ending(after);
}
