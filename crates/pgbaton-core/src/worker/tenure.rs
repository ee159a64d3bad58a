//! Inside a tenure: sessions begin and end while the lease is kept.

use std::time::Duration;

use super::claiming::{Claimant, Claiming, decide};
use super::facts::{ClaimPlan, Failure, FailureKind, Inspection, SessionEnd};
use super::{Effect, Input, NAMED, Observation, Quarantined, Role, State, Switch, Worker};
use crate::{Code, Gap, Lsn, Moment, Reader, ReaderName, Recorded, SlotState, Tenure, Timeline};

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

/// A session whose claim stands.
#[derive(Debug)]
pub(super) struct Running {
    backend_pid: i32,
    postmaster_started: String,
    inspected: Inspection,
    plan: ClaimPlan,
    since: Moment,
    /// Looks in a row that did not show us on the slot.
    absent: u32,
    /// The server is going down; the stream is closed then whatever is pending.
    close_by: Option<Moment>,
    checkpoint_due: Moment,
}

/// A tenure and what happens in it.
#[derive(Debug)]
pub(super) struct InTenure {
    pub tenure: Tenure,
    pub step: Step,
    cluster_id: String,
    /// When the holder before was seen gone.
    began: Moment,
    switch: Option<Switch>,
    streamed: Option<Moment>,
    /// The first of the failures that have come without a stream between them.
    failing_since: Option<Moment>,
    failures: u32,
}

/// Time for a walsender of ours to go: twice the wal_sender_timeout that we set.
const SLOT_FREE: Duration = Duration::from_secs(10);
/// A stopping server is left after this, whatever is pending.
const LEAVE_STOPPING: Duration = Duration::from_secs(2);
/// How often the witness in etcd is written.
const CHECKPOINT: Duration = Duration::from_secs(60);
/// An identity verdict is believed after this time, on two connections.
const IDENTITY: Duration = Duration::from_secs(10);

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

fn release(handover: bool, to: Option<String>) -> AfterSession {
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
    fn conclude(
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
            let (since, times) = match self.suspicion {
                Some((code, since, times)) if code == gap.code => (since, times + 1),
                _ => (now, 1),
            };
            self.suspicion = Some((gap.code, since, times));
            if times < 2 || now.since(since) < IDENTITY {
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

    fn step(&mut self, now: Moment, t: &mut InTenure, input: Input, effects: &mut Vec<Effect>) {
        let step = std::mem::replace(&mut t.step, Step::Inspecting);
        t.step = match (step, input) {
            (Step::Inspecting, Input::Inspected(inspection)) => return self.inspected(now, t, inspection, effects),
            (Step::Freeing { look_again }, _) if now >= look_again => {
                effects.push(Effect::EndSession { commit: false, by: t.tenure.closed_by() });
                Step::Ending(AfterSession::Retry)
            }
            (Step::VerifyingBeforeFence(inspection), Input::HolderRead(Some(true))) => {
                effects.push(Effect::Fence);
                Step::Fencing(inspection)
            }
            (Step::VerifyingBeforeClaim(inspection, plan), Input::HolderRead(Some(true))) => {
                effects.push(Effect::Claim(plan.clone()));
                Step::Claiming(inspection, plan)
            }
            (
                Step::VerifyingBeforeFence(_) | Step::VerifyingBeforeClaim(..),
                Input::HolderRead(answer @ (Some(false) | None)),
            ) => {
                let after = if answer.is_none() { AfterSession::Retry } else { release(false, None) };
                t.step = Step::Inspecting;
                return end(t, false, after, effects);
            }
            (Step::Fencing(inspection), Input::SinkFenced(read)) => {
                return self.fenced(now, t, inspection, &read, effects);
            }
            (Step::Claiming(inspection, plan), Input::Claimed) => self.claimed(now, t, *inspection, *plan, effects),
            (Step::Starting { running, give_up, .. }, Input::Started) => {
                effects.push(Effect::Observe);
                Step::Checking { running, give_up }
            }
            (Step::Starting { running, give_up, .. }, Input::NotStarted(failure)) => {
                if failure.kind == FailureKind::SlotInUse && now < give_up {
                    Step::Starting { running, give_up, again: Some(now + Duration::from_millis(200)) }
                } else {
                    self.failure = Some(failure);
                    effects.push(Effect::EndSession { commit: false, by: t.tenure.closed_by() });
                    Step::Ending(AfterSession::Retry)
                }
            }
            (Step::Starting { running, give_up, again: Some(again) }, _) if now >= again => {
                effects.push(self.start(t, &running));
                Step::Starting { running, give_up, again: None }
            }
            (Step::Checking { running, give_up }, Input::Observed { observation, asked_at, durable }) => {
                return self.checked(now, t, running, give_up, asked_at, &observation, durable, effects);
            }
            (Step::Checking { give_up, .. }, _) if now >= give_up => {
                effects.push(Effect::EndSession { commit: false, by: t.tenure.closed_by() });
                Step::Ending(AfterSession::Retry)
            }
            (Step::Streaming(running), input) => return self.streaming(now, t, running, input, effects),
            (Step::BackOff { until }, _) if now >= until => {
                effects.push(Effect::Inspect);
                Step::Inspecting
            }
            (Step::Stalled { .. }, Input::SinkProbed(Ok(()))) => {
                effects.push(Effect::Inspect);
                Step::Inspecting
            }
            (Step::Stalled { probe, pause }, _) if now >= probe => {
                effects.push(Effect::ProbeSink);
                let pause = (pause * 2).min(Duration::from_secs(10));
                Step::Stalled { probe: now + pause, pause }
            }
            (step, _) => step,
        };
    }

    fn inspected(&mut self, now: Moment, t: &mut InTenure, mut inspection: Box<Inspection>, effects: &mut Vec<Effect>) {
        let known = self.topics.iter().filter(|topic| !inspection.topics.contains(topic)).cloned().collect::<Vec<_>>();
        inspection.topics.extend(known);
        let retry = |this: &mut Self, t: &mut InTenure, code, detail: &str, effects: &mut Vec<Effect>| {
            this.failure = Some(Failure { code, detail: detail.to_owned(), kind: FailureKind::Passing });
            end(t, false, AfterSession::Retry, effects);
        };
        if inspection.in_recovery {
            return retry(self, t, Code::InRecovery, "the server that answers is a standby", effects);
        }
        let reader = Reader::of(
            inspection.reader_pid.is_some(),
            inspection.reader_name.as_deref(),
            &self.identity.pipeline_hash,
            t.tenure.revision,
        );
        match (reader, inspection.reader_pid) {
            (Reader::Newer, _) => end(t, false, release(false, None), effects),
            (Reader::Foreign, _) => retry(
                self,
                t,
                Code::SlotForeignHolder,
                "a consumer that is not ours reads the slot; stop it, or give this pipeline a slot of its own",
                effects,
            ),
            (Reader::Stale, Some(pid)) => {
                effects.push(Effect::FreeSlot { pid, revision: t.tenure.revision });
                t.step = Step::Freeing { look_again: now + Duration::from_millis(200) };
            }
            (Reader::Stale | Reader::Nobody, _) => {
                effects.push(Effect::ReadHolder(t.tenure));
                t.step = Step::VerifyingBeforeFence(inspection);
            }
        }
    }

    fn fenced(
        &mut self,
        now: Moment,
        t: &mut InTenure,
        inspection: Box<Inspection>,
        read: &super::FenceRead,
        effects: &mut Vec<Effect>,
    ) {
        self.sink = None;
        let claimant = Claimant {
            worker: &self.identity.worker,
            config_hash: &self.identity.config_hash,
            cluster_id: &t.cluster_id,
            revision: t.tenure.revision,
            in_chunks: self.in_chunks,
        };
        match decide(&claimant, &inspection, read) {
            Claiming::Quarantine(refusal) => {
                let (gap, recorded) = *refusal;
                self.conclude(now, t, gap, recorded, Some(&inspection), effects);
            }
            Claiming::Claim { plan, etcd_counts_anew } => {
                if etcd_counts_anew {
                    let detail = "a greater lease revision than ours has claimed before: etcd was restored or wiped";
                    self.notice = Some((Code::EtcdReset, detail.to_owned()));
                }
                effects.push(Effect::ReadHolder(t.tenure));
                t.step = Step::VerifyingBeforeClaim(inspection, plan);
            }
        }
    }

    fn claimed(
        &mut self,
        now: Moment,
        t: &InTenure,
        inspection: Inspection,
        plan: ClaimPlan,
        effects: &mut Vec<Effect>,
    ) -> Step {
        self.suspicion = None;
        // It was asked for one transaction; this session publishes that one.
        self.in_chunks = false;
        self.term = Some(plan.journal.term());
        effects.push(Effect::WriteCheckpoint { revision: t.tenure.revision, term: plan.journal.term() });
        let running = Box::new(Running {
            backend_pid: inspection.backend_pid,
            postmaster_started: inspection.postmaster_started.clone(),
            inspected: inspection,
            plan,
            since: now,
            absent: 0,
            close_by: None,
            checkpoint_due: now + CHECKPOINT,
        });
        effects.push(self.start(t, &running));
        Step::Starting { running, give_up: now + SLOT_FREE, again: None }
    }

    fn start(&self, t: &InTenure, running: &Running) -> Effect {
        Effect::Start {
            name: ReaderName {
                pipeline: self.identity.pipeline_hash.clone(),
                worker: self.identity.worker_hash.clone(),
                nonce: self.identity.nonce.clone(),
                term: running.plan.journal.term().0,
                revision: t.tenure.revision,
            },
            at: running.plan.resume.start_at,
        }
    }

    /// The slot is read again after START: only the reader that PostgreSQL names may publish.
    #[allow(clippy::too_many_arguments)]
    fn checked(
        &mut self,
        now: Moment,
        t: &mut InTenure,
        running: Box<Running>,
        give_up: Moment,
        asked_at: Moment,
        observation: &Observation,
        durable: Option<Lsn>,
        effects: &mut Vec<Effect>,
    ) {
        let slot = SlotState::of(observation.slot.as_ref(), &self.identity.database);
        let reader = observation.slot.as_ref().and_then(|slot| slot.active_pid);
        let same_server = observation.postmaster_started == running.postmaster_started
            && observation.system_identifier == running.inspected.server.system_identifier
            && !observation.in_recovery;
        if !same_server || reader != Some(running.backend_pid) {
            // The look may be older than the START, or the polling connection may still be on another server.
            if now < give_up {
                t.step = Step::Checking { running, give_up };
            } else {
                t.step = Step::Inspecting;
                end(t, false, AfterSession::Retry, effects);
            }
            return;
        }
        if let Some(gap) = running.overtaken(&slot, durable) {
            let recorded = running.plan.records.progress.last().and_then(Recorded::of);
            let inspection = running.inspected.clone();
            t.step = Step::Streaming(running);
            return self.conclude(now, t, gap, recorded, Some(&inspection), effects);
        }
        effects.push(Effect::Accept);
        effects.push(Effect::ClearVerdict);
        self.named_until = Some(asked_at + NAMED);
        self.failure = None;
        if self.notice.as_ref().is_some_and(|(code, _)| *code != Code::EtcdReset) {
            self.notice = None;
        }
        t.failing_since = None;
        t.failures = 0;
        t.streamed.get_or_insert(now);
        if let Some(mut switch) = t.switch.take() {
            switch.took = now.since(t.began);
            self.switch = Some(switch);
        }
        t.step = Step::Streaming(running);
    }

    fn streaming(
        &mut self,
        now: Moment,
        t: &mut InTenure,
        mut running: Box<Running>,
        input: Input,
        effects: &mut Vec<Effect>,
    ) {
        match input {
            Input::Observed { asked_at, observation, durable }
                if asked_at >= running.since && !observation.in_recovery =>
            {
                let reader = observation.slot.as_ref().and_then(|slot| slot.active_pid);
                if reader == Some(running.backend_pid) && observation.postmaster_started == running.postmaster_started {
                    running.absent = 0;
                    // It answers and names us: what looked like a shutdown was somebody ending our connection.
                    running.close_by = None;
                    self.named_until = Some(asked_at + NAMED);
                    if observation.publication_oid != running.inspected.server.publication_oid {
                        // Dropped, or made anew: the verdict of the next session names it.
                        t.step = Step::Streaming(running);
                        return end(t, false, AfterSession::Retry, effects);
                    }
                    let slot = SlotState::of(observation.slot.as_ref(), &self.identity.database);
                    if let Some(gap) = running.overtaken(&slot, durable) {
                        let recorded = running.plan.records.progress.last().and_then(Recorded::of);
                        let inspection = running.inspected.clone();
                        t.step = Step::Streaming(running);
                        return self.conclude(now, t, gap, recorded, Some(&inspection), effects);
                    }
                } else {
                    running.absent += 1;
                    self.named_until = None;
                    if running.absent >= 2 {
                        self.failure = Some(Failure {
                            code: Code::PostgresUnreachable,
                            detail: "PostgreSQL no longer names this worker as the slot's reader".to_owned(),
                            kind: FailureKind::Passing,
                        });
                        t.step = Step::Streaming(running);
                        return end(t, false, AfterSession::Retry, effects);
                    }
                }
            }
            Input::NotObserved(failure) if failure.kind == FailureKind::ShuttingDown => {
                running.close_by.get_or_insert(now + LEAVE_STOPPING);
            }
            _ => {}
        }
        if running.close_by.is_some_and(|by| now >= by) {
            t.step = Step::Streaming(running);
            return end(t, false, AfterSession::Retry, effects);
        }
        if now >= running.checkpoint_due {
            running.checkpoint_due = now + CHECKPOINT;
            effects.push(Effect::WriteCheckpoint { revision: t.tenure.revision, term: running.plan.journal.term() });
        }
        t.step = Step::Streaming(running);
    }
}

impl Running {
    /// The slot moved beyond what is durable: what lies between cannot be had any more.
    fn overtaken(&self, slot: &SlotState, durable: Option<Lsn>) -> Option<Gap> {
        let watermark = durable.unwrap_or(self.plan.resume.watermark.lsn);
        match slot {
            SlotState::Usable { confirmed_flush_lsn } if *confirmed_flush_lsn > watermark => Some(Gap {
                code: Code::SlotAhead,
                timeline: self.plan.history.owner_of_end(*confirmed_flush_lsn),
                from_lsn: watermark,
                to_lsn: Some(*confirmed_flush_lsn),
                text: format!(
                    "the slot has confirmed {confirmed_flush_lsn}, but only {watermark} is durable: changes that commit \
                     between cannot be had from it"
                ),
            }),
            _ => None,
        }
    }
}

/// Closes the session; what follows is known beforehand.
fn end(t: &mut InTenure, commit: bool, after: AfterSession, effects: &mut Vec<Effect>) {
    if !matches!(t.step, Step::Ending(_)) {
        effects.push(Effect::EndSession { commit, by: t.tenure.closed_by() });
    }
    t.step = Step::Ending(after);
}
