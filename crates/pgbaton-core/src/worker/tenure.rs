//! Inside a tenure: sessions begin and end while the lease is kept.

use std::time::Duration;

use super::facts::{ClaimPlan, Inspection, SessionEnd};
use super::steps::Running;
use super::{Effect, Input, Quarantined, Role, State, Suspicion, Switch, Worker};
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
    VerifyingBeforeClaim(Box<Inspection>, Box<ClaimPlan>),
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
    /// The first of the failures that have come without a stream between them.
    pub failing_since: Option<Moment>,
    pub failures: u32,
}

/// An identity verdict is believed after this time, on two connections.
const IDENTITY: Duration = Duration::from_secs(10);
/// A suspicion that did not come again for this long was another server's, or passing.
const FORGET: Duration = Duration::from_secs(60);

impl InTenure {
    pub(super) fn new(tenure: Tenure, cluster_id: String, began: Moment, switch: Switch) -> Self {
        InTenure {
            tenure,
            step: Step::Inspecting,
            cluster_id,
            began,
            switch: Some(switch),
            streamed: None,
            failing_since: None,
            failures: 0,
        }
    }

    pub(super) fn state(&self) -> State {
        match &self.step {
            Step::Inspecting | Step::Freeing { .. } | Step::VerifyingBeforeFence(_) | Step::BackOff { .. } => {
                State::Inspect
            }
            Step::Fencing(_) | Step::VerifyingBeforeClaim(..) | Step::Claiming(..) => State::Fence,
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

    /// At the latest when the tenure has to stop; sooner where a step waits for time.
    pub(super) fn deadline(&self) -> Moment {
        let end = self.tenure.stop_at();
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

    /// 0.1 to 0.5 s for the first minute without a stream, then up to 5 s.
    fn back_off(&mut self, now: Moment) -> Step {
        let since = *self.failing_since.get_or_insert(now);
        self.failures += 1;
        let most = if now.since(since) < Duration::from_secs(60) { 500 } else { 5000 };
        let pause = (100_u64 << self.failures.saturating_sub(1).min(6)).min(most);
        Step::BackOff { until: now + Duration::from_millis(pause) }
    }
}

pub(super) fn release(handover: bool, to: Option<String>) -> AfterSession {
    AfterSession::Release(AfterRelease::Cooldown { handover, to })
}

impl Worker {
    /// A tenure whose time may be up is over, whatever the input says.
    pub(super) fn expire(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if let Role::Tenure(tenure) = &mut self.role
            && now >= tenure.tenure.stop_at()
            && !matches!(tenure.step, Step::Ending(AfterSession::Release(_)))
        {
            self.notice = Some((Code::EtcdUnreachable, "the lease could not be renewed in time".to_owned()));
            let commit = now < tenure.tenure.closed_by();
            end(tenure, commit, release(false, None), effects);
        }
    }

    pub(super) fn in_tenure(&mut self, now: Moment, mut t: InTenure, input: Input, effects: &mut Vec<Effect>) -> Role {
        if let Step::Ending(_) = t.step {
            return self.in_ending(now, t, input, effects);
        }
        match input {
            Input::KeptAlive { asked_at, ttl } => t.tenure.renewed(asked_at, ttl),
            Input::LeaseLost(detail) => {
                self.notice = Some((Code::Fenced, detail));
                end(&mut t, false, release(false, None), effects);
            }
            // A view from before our own write says nothing about it.
            Input::HolderSeen(view)
                if view.revision >= t.tenure.revision
                    && view.holder.as_ref().map(|holder| holder.revision) != Some(t.tenure.revision) =>
            {
                self.notice = Some((Code::Fenced, "the holder key was taken away or overwritten".to_owned()));
                end(&mut t, false, release(false, None), effects);
            }
            Input::Shutdown => end(&mut t, true, release(true, None), effects),
            Input::Handover(to) => end(&mut t, true, release(true, to), effects),
            Input::Broken(broken) => self.broken(now, &mut t, broken, effects),
            other => self.step(now, &mut t, other, effects),
        }
        Role::Tenure(Box::new(t))
    }

    fn in_ending(&mut self, now: Moment, mut t: InTenure, input: Input, effects: &mut Vec<Effect>) -> Role {
        match input {
            Input::KeptAlive { asked_at, ttl } => t.tenure.renewed(asked_at, ttl),
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
        effects.push(Effect::Release { tenure: t.tenure, handover, to });
        Role::Releasing { then }
    }

    fn broken(&mut self, now: Moment, t: &mut InTenure, broken: SessionEnd, effects: &mut Vec<Effect>) {
        if matches!(t.step, Step::BackOff { .. } | Step::Stalled { .. }) {
            return; // What broke is closed already.
        }
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
            SessionEnd::Sink { code, detail } => {
                self.sink = Some((code, detail));
                AfterSession::Retry
            }
            SessionEnd::ProducerSpent(_) => AfterSession::Retry,
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
        end(t, false, after, effects);
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
        let of_identity =
            matches!(gap.code, Code::WrongCluster | Code::TimelineUnknown | Code::TimelineBackwards | Code::Diverged);
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
                end(t, false, AfterSession::Retry, effects);
                return;
            }
        }
        self.suspicion = None;
        let seen_on =
            inspection.map(|inspection| (inspection.server.system_identifier, inspection.server.history.current()));
        let quarantined = Box::new(Quarantined { gap, recorded, seen_on, look_again: now });
        end(t, false, AfterSession::Release(AfterRelease::Quarantine(quarantined)), effects);
    }
}

/// Closes the session; what follows is known beforehand.
pub(super) fn end(t: &mut InTenure, commit: bool, after: AfterSession, effects: &mut Vec<Effect>) {
    if !matches!(t.step, Step::Ending(_)) {
        effects.push(Effect::EndSession { commit, by: t.tenure.closed_by() });
    }
    t.step = Step::Ending(after);
}
