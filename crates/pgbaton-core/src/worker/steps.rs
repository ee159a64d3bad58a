//! The steps of a session: from Inspect through Fence and claim to the stream, each taken when its fact has come.

use std::time::Duration;

use super::claiming::{Claimant, Claiming, decide, told_of_fewer_tables, too_many_resets};
use super::facts::{ClaimPlan, Failure, FailureKind, FenceRead, Inspection};
use super::tenure::{AfterSession, InTenure, Step, end, release};
use super::{Effect, FRESH, Input, NAMED, Observation, Worker};
use crate::{Code, Lsn, Moment, ReadFrom, Reader, ReaderName, Recorded, SlotState, Term};

/// Time for a walsender of ours to go: more than three times the wal_sender_timeout that we set.
const SLOT_FREE: Duration = Duration::from_secs(10);
/// A stopping server is left after this, whatever is pending.
const LEAVE_STOPPING: Duration = Duration::from_secs(2);
/// A stream that answers nothing for this long is looked into.
const DEAF: Duration = Duration::from_secs(7);
/// How often the witness in etcd is written.
const CHECKPOINT: Duration = Duration::from_secs(60);

/// A session whose claim stands.
#[derive(Debug)]
pub(super) struct Running {
    backend_pid: i32,
    postmaster_started: String,
    pub inspected: Inspection,
    pub plan: ClaimPlan,
    since: Moment,
    /// Looks in a row that did not show us on the slot.
    absent: u32,
    /// Looks in a row that showed our walsender waiting.
    waits: u32,
    /// The server is going down; the stream is closed then whatever is pending.
    pub close_by: Option<Moment>,
    pub checkpoint_due: Moment,
}

/// So many resets of etcd within this time are no accident any more.
const MANY_RESETS: Duration = Duration::from_secs(600);

impl Worker {
    fn goes_on_guarded(&self, t: &InTenure) -> bool {
        self.policy.fenced && self.policy.slot_guarded && t.claimed && !t.challenged
    }

    /// Counts a reset of etcd, once in a tenure: the third in ten minutes is one too many, unless somebody has said that it is all right.
    fn is_one_too_many(&mut self, now: Moment, t: &mut InTenure) -> bool {
        if self.accepted().is_some_and(|accepted| accepted.code == Code::EtcdReset) {
            self.resets.clear();
        }
        self.resets.retain(|at| now.since(*at) < MANY_RESETS);
        if !std::mem::replace(&mut t.reset_counted, true) {
            self.resets.push(now);
        }
        self.resets.len() > 2
    }

    pub(super) fn step(&mut self, now: Moment, t: &mut InTenure, input: Input, effects: &mut Vec<Effect>) {
        let step = std::mem::replace(&mut t.step, Step::Inspecting);
        t.step = match (step, input) {
            (Step::Inspecting, Input::Inspected(inspection)) => return self.inspected(now, t, inspection, effects),
            (Step::Freeing { look_again }, _) if now >= look_again => {
                effects.push(Effect::EndSession { commit: false, by: t.closed_by(now) });
                Step::Ending(AfterSession::Retry)
            }
            (Step::VerifyingBeforeFence(inspection), Input::HolderRead(Some(true))) => {
                effects.push(Effect::Fence);
                Step::Fencing(inspection)
            }
            (Step::VerifyingBeforeClaim(inspection, plan), Input::HolderRead(Some(true))) => {
                if let Some(reset) = t.reset.take()
                    && self.is_one_too_many(now, t)
                {
                    let recorded = plan.records.progress.last().and_then(Recorded::of);
                    return self.conclude(now, t, too_many_resets(reset), recorded, Some(&inspection), effects);
                }
                t.claims(&plan, effects);
                Step::Claiming(inspection, plan)
            }
            // etcd is silent, and what stands in the way of a second holder are slot and sink: slot and claim fence a new
            // session of whoever claimed last, if that is still us.
            (Step::VerifyingBeforeFence(inspection), Input::HolderRead(None)) if self.goes_on_guarded(t) => {
                t.unverified = true;
                effects.push(Effect::Fence);
                Step::Fencing(inspection)
            }
            (Step::VerifyingBeforeClaim(inspection, plan), Input::HolderRead(None))
                if self.goes_on_guarded(t) && t.claimed_last =>
            {
                t.claims(&plan, effects);
                Step::Claiming(inspection, plan)
            }
            (Step::VerifyingBeforeVerdict(inspection, refusal), Input::HolderRead(Some(true))) => {
                let (gap, recorded) = *refusal;
                t.step = Step::Inspecting;
                return self.conclude(now, t, gap, recorded, Some(&inspection), effects);
            }
            (
                Step::VerifyingBeforeFence(_) | Step::VerifyingBeforeClaim(..) | Step::VerifyingBeforeVerdict(..),
                Input::HolderRead(answer @ (Some(false) | None)),
            ) => {
                let after = if answer.is_none() { AfterSession::Retry } else { release(false, None) };
                t.step = Step::Inspecting;
                return end(t, now, false, after, effects);
            }
            (Step::Fencing(inspection), Input::SinkFenced(read)) => {
                return self.fenced(now, t, inspection, read, effects);
            }
            (Step::ReadingBack(inspection, read), Input::ReadBack(remains)) => {
                let read = Box::new(FenceRead { remains: Some(remains), ..*read });
                return self.decide(now, t, inspection, read, effects);
            }
            (Step::Claiming(inspection, plan), Input::Claimed) => {
                t.claimed = true;
                self.claimed(now, t, *inspection, *plan, effects)
            }
            (Step::Starting { running, give_up, .. }, Input::Started) => {
                effects.push(Effect::Observe);
                Step::Checking { running, give_up }
            }
            (Step::Starting { .. }, Input::NotStarted(failure))
                if !t.tenure.has_lease() && failure.kind == FailureKind::SlotInUse =>
            {
                return end(t, now, false, release(false, None), effects);
            }
            (Step::Starting { running, give_up, .. }, Input::NotStarted(failure)) => {
                if failure.kind == FailureKind::SlotInUse && now < give_up {
                    Step::Starting { running, give_up, again: Some(now + Duration::from_millis(200)) }
                } else {
                    self.failure = Some(failure);
                    effects.push(Effect::EndSession { commit: false, by: t.closed_by(now) });
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
                effects.push(Effect::EndSession { commit: false, by: t.closed_by(now) });
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
            end(t, now, false, AfterSession::Retry, effects);
        };
        if inspection.in_recovery {
            return retry(self, t, Code::InRecovery, "the server that answers is a standby", effects);
        }
        if !t.tenure.has_lease() {
            return self.inspected_without_lease(now, t, inspection, effects);
        }
        let reader = Reader::of(
            inspection.reader_pid.is_some(),
            inspection.reader_name.as_deref(),
            &self.identity.pipeline_hash,
            t.tenure.revision,
        );
        match (reader, inspection.reader_pid) {
            (Reader::Newer, _) => end(t, now, false, release(false, None), effects),
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
                self.verified(now, t, Step::VerifyingBeforeFence(inspection), effects);
            }
        }
    }

    fn fenced(
        &mut self,
        now: Moment,
        t: &mut InTenure,
        inspection: Box<Inspection>,
        read: Box<FenceRead>,
        effects: &mut Vec<Effect>,
    ) {
        self.sink = None;
        t.claimed_last = read.position.as_ref().is_some_and(|(record, _)| t.sessions.contains(&record.session));
        let alone = read.from == ReadFrom::ProgressAlone;
        if std::mem::take(&mut t.unverified) && !t.claimed_last {
            self.notice = Some((Code::Fenced, "another session has claimed while etcd was out of reach".to_owned()));
            return end(t, now, false, release(false, None), effects);
        }
        if Self::is_overtaken(t, &read) {
            self.notice = Some((Code::Fenced, "another worker has claimed meanwhile".to_owned()));
            return end(t, now, false, release(false, None), effects);
        }
        // Only what this very tenure has claimed last is known to be the newest without etcd's word.
        if alone && !t.claimed_last {
            return end(t, now, false, AfterSession::Retry, effects);
        }
        self.decide(now, t, inspection, read, effects);
    }

    fn decide(
        &mut self,
        now: Moment,
        t: &mut InTenure,
        inspection: Box<Inspection>,
        read: Box<FenceRead>,
        effects: &mut Vec<Effect>,
    ) {
        let claimant = Claimant {
            worker: &self.identity.worker,
            config_hash: &self.identity.config_hash,
            lease: t.tenure.has_lease().then_some((t.cluster_id.as_str(), t.tenure.revision)),
            in_chunks: self.in_chunks,
            accepted: self.accepted(),
            accept_gaps: self.policy.accept_gaps,
            halt_on_shrink: self.policy.halt_on_shrink,
        };
        match decide(&claimant, &inspection, &read) {
            Claiming::ReadBack(known) => {
                effects.push(Effect::ReadBack(known));
                t.step = Step::ReadingBack(inspection, read);
            }
            // Where no lease kept the others away, they may have gone on while we were slow: what was read is newer than
            // what was seen of the server. The next session sees it anew, and finds out whether anybody has claimed since.
            Claiming::Quarantine(_) if !t.tenure.has_lease() && !std::mem::replace(&mut t.refused, true) => {
                end(t, now, false, AfterSession::Retry, effects);
            }
            // It stood still while the others went on with another etcd, which may be the one that answers: that the tenure
            // is over is certain, and nothing else.
            Claiming::Quarantine(refusal) if refusal.0.code == Code::EtcdReset && t.claimed => {
                self.notice = Some((Code::Fenced, "another worker has claimed meanwhile".to_owned()));
                end(t, now, false, release(false, None), effects);
            }
            Claiming::Quarantine(refusal) => {
                self.verified(now, t, Step::VerifyingBeforeVerdict(inspection, refusal), effects);
            }
            Claiming::Claim { plan, reset } => {
                if let Some(reset) = reset {
                    self.notice = Some((Code::EtcdReset, reset.as_str().to_owned()));
                }
                t.reset = reset;
                if let Some(detail) = told_of_fewer_tables(&plan) {
                    self.notice = Some((Code::PublicationShrunk, detail));
                }
                if let Some(torn) = plan.records.progress.last().and_then(|claim| claim.torn.as_ref()) {
                    let detail = format!(
                        "transaction {} of session {} became visible in part: {} records of it were read back, and are not \
                         published once more",
                        torn.number, torn.session, torn.count
                    );
                    self.notice = Some((Code::TornTransaction, detail));
                }
                self.verified(now, t, Step::VerifyingBeforeClaim(inspection, plan), effects);
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
        // It was asked for one transaction; this session publishes that one.
        self.in_chunks = false;
        self.term = Some(plan.journal.term());
        self.leave_witness(t, plan.journal.term(), effects);
        let running = Box::new(Running {
            backend_pid: inspection.backend_pid,
            postmaster_started: inspection.postmaster_started.clone(),
            inspected: inspection,
            plan,
            since: now,
            absent: 0,
            waits: 0,
            close_by: None,
            checkpoint_due: now + CHECKPOINT,
        });
        effects.push(self.start(t, &running));
        Step::Starting { running, give_up: now + SLOT_FREE, again: None }
    }

    fn leave_witness(&self, t: &InTenure, term: Term, effects: &mut Vec<Effect>) {
        if self.policy.fenced {
            effects.push(Effect::WriteCheckpoint { revision: t.tenure.revision, term });
        }
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
                end(t, now, false, AfterSession::Retry, effects);
            }
            return;
        }
        if running.is_overtaken(&slot, durable) || running.is_outrun(&slot) {
            t.step = Step::Inspecting;
            return end(t, now, false, AfterSession::Retry, effects);
        }
        effects.push(Effect::Accept);
        effects.push(Effect::ClearVerdict);
        self.accepted_here = None;
        self.named_until = Some(asked_at + NAMED);
        self.failure = None;
        // What happened at the claim is told for as long as the tenure lasts.
        let stays = |code: &Code| matches!(code, Code::EtcdReset | Code::TornTransaction | Code::PublicationShrunk);
        if self.notice.as_ref().is_some_and(|(code, _)| !stays(code)) {
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
                    running.waits = if observation.reader_waits { running.waits + 1 } else { 0 };
                    // It answers and names us: what looked like a shutdown was somebody ending our connection.
                    running.close_by = None;
                    self.named_until = Some(asked_at + NAMED);
                    let publication = (observation.publication_oid, &observation.members);
                    if publication != (running.inspected.server.publication_oid, &running.inspected.members) {
                        // Dropped, made anew or altered: the verdict of the next session names it.
                        t.step = Step::Streaming(running);
                        return end(t, now, false, AfterSession::Retry, effects);
                    }
                    let slot = SlotState::of(observation.slot.as_ref(), &self.identity.database);
                    if running.is_overtaken(&slot, durable) {
                        t.step = Step::Streaming(running);
                        return end(t, now, false, AfterSession::Retry, effects);
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
                        return end(t, now, false, AfterSession::Retry, effects);
                    }
                }
            }
            Input::StreamSilent { since } if now.since(since) >= DEAF => {
                // A walsender that decodes a huge transaction is silent for minutes; one that waits has answered us, and
                // the answer did not arrive. Or nothing arrives from this server at all.
                let blind = self.observed_at.is_none_or(|at| now.since(at) > FRESH);
                if blind || running.waits >= 2 {
                    self.failure = Some(Failure {
                        code: Code::PostgresUnreachable,
                        detail: format!("nothing has come from the stream for {} s", now.since(since).as_secs()),
                        kind: FailureKind::Passing,
                    });
                    t.step = Step::Streaming(running);
                    return end(t, now, false, AfterSession::Retry, effects);
                }
            }
            Input::NotObserved(failure) if failure.kind == FailureKind::ShuttingDown => {
                running.close_by.get_or_insert(now + LEAVE_STOPPING);
            }
            _ => {}
        }
        // Without a lease only what PostgreSQL says now counts.
        let unnamed = t.is_guarded() && self.named_until.is_none_or(|until| now >= until + FRESH);
        if unnamed || running.close_by.is_some_and(|by| now >= by) {
            t.step = Step::Streaming(running);
            return end(t, now, false, AfterSession::Retry, effects);
        }
        if now >= running.checkpoint_due {
            running.checkpoint_due = now + CHECKPOINT;
            self.leave_witness(t, running.plan.journal.term(), effects);
        }
        t.step = Step::Streaming(running);
    }
}

impl Running {
    /// The slot has moved beyond the transaction by which the server is to prove itself, as another session's last
    /// acknowledgement may move it between Inspect and START: the stream begins behind it now, and proves nothing.
    fn is_outrun(&self, slot: &SlotState) -> bool {
        let proof = self.plan.resume.continuity.as_ref();
        proof.is_some_and(
            |last| matches!(slot, SlotState::Usable { confirmed_flush_lsn } if *confirmed_flush_lsn > last.final_lsn),
        )
    }

    /// The slot has confirmed more than is durable here. A gap, or another session has claimed since and moved it: the next
    /// session reads what was claimed, asks who holds the key, and judges by that.
    fn is_overtaken(&self, slot: &SlotState, durable: Option<Lsn>) -> bool {
        let watermark = durable.unwrap_or(self.plan.resume.watermark.lsn);
        matches!(slot, SlotState::Usable { confirmed_flush_lsn } if *confirmed_flush_lsn > watermark)
    }
}
