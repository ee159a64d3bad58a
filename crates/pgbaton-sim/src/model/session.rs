//! What may happen next to a worker in a session: from init over the claim to its stream, and how its transactions end.

use pgbaton_core::RecordType;

use super::defence::Defence;
use super::kafka::{Answer, LateEnd, PARTITIONS, PROGRESS, Refusal};
use super::machine::{Decision, Question, Rows, Silence, session_of, worker_name};
use super::state::{Closing, Fault, Outgoing, Read, Session, Stage, State};
use super::steps::{Delivery, Next, Step};
use super::{Model, laws};

impl Model {
    pub(super) fn in_session(&self, state: &State, w: usize, session: &Session, next: &mut Next) {
        if state.left.breaks > 0 {
            self.to(state, Step::Break(w), next, |state| {
                state.left.breaks -= 1;
                state.workers[w].session = None;
            });
        }
        self.sending(state, w, session, next);
        match session.stage {
            Stage::Initialising { read_early } => {
                let mut after = state.clone();
                if let Some(epoch) = after.kafka.init(session.id) {
                    self.initialised(&mut after, w, epoch, read_early);
                    next.push((Step::Init(w), after));
                }
            }
            Stage::Opening { .. } => {}
            Stage::Reading => {
                self.reading(state, w, session, next);
            }
            Stage::ReadingBack(read) => self.reading_back(state, w, read, next),
            Stage::Judging { read, seen } => {
                self.to(state, Step::Judge(w), next, |after| self.judge(after, w, read, seen));
            }
            Stage::Claiming { .. } => self.ending(state, w, session, next),
            Stage::Streaming { plan, cuts, durable, .. } => {
                self.ending(state, w, session, next);
                let told = match session.stage {
                    Stage::Streaming { closing: Some(closing), .. } if self.lacks(Defence::AckAfterCommit) => {
                        closing.close
                    }
                    _ => durable,
                };
                let watermark = self.machine.watermark(told);
                if self.bounds.acknowledges && watermark > state.confirmed {
                    self.to(state, Step::Acknowledge(w), next, |state| state.confirmed = watermark);
                }
                if session.in_transaction {
                    return;
                }
                if session.tainted && !self.lacks(Defence::InstanceRule) {
                    self.to(state, Step::Replace(w), next, |state| state.workers[w].session = None);
                    return;
                }
                for batch in 1..=self.bounds.batch {
                    let Some(made) = self.machine.next_batch(plan, cuts, batch) else { break };
                    self.to(state, Step::Begin(w, batch), next, |state| {
                        let session = session_mut(state, w);
                        session.stage = Stage::Streaming {
                            plan,
                            cuts,
                            closing: Some(Closing { cuts: made.cuts, close: made.close }),
                            durable,
                        };
                        session.in_transaction = true;
                        session.added = 0;
                        let rows = made.rows.iter().map(|row| Outgoing {
                            partition: self.machine.postgres.rows[usize::from(*row)].partition,
                            value: *row,
                        });
                        if !self.lacks(Defence::Bracket) {
                            session.outbox.push(Outgoing { partition: PROGRESS, value: made.open });
                        }
                        session.outbox.extend(rows);
                        session.outbox.push(Outgoing { partition: PROGRESS, value: made.close });
                    });
                }
            }
        }
    }

    fn initialised(&self, state: &mut State, w: usize, epoch: u8, read_early: Option<Read>) {
        let session = session_mut(state, w);
        session.epoch = epoch;
        if self.lacks(Defence::Claim) {
            session.stage = Stage::Reading;
            return;
        }
        session.stage = Stage::Opening { read_early };
        session.in_transaction = true;
        let open = self.machine.open(session.name, w as u8);
        session.outbox = vec![Outgoing { partition: PROGRESS, value: open }];
    }

    /// Records on their way. Only a late end, or a producer that nobody stops, can come between two of them so that
    /// anybody sees a difference: otherwise all are written at once.
    fn sending(&self, state: &State, w: usize, session: &Session, next: &mut Next) {
        if session.outbox.is_empty() {
            return;
        }
        let step_by_step = state.kafka.late.iter().any(|late| late.id == session.id)
            || state.kafka.pending(session.id) != 0
            || self.lacks(Defence::PartitionVerification)
            || self.bounds.step_by_step;
        if !step_by_step {
            let mut after = state.clone();
            while let Some(outgoing) = after.workers[w].session.as_ref().and_then(|session| session.outbox.first()) {
                let partition = outgoing.partition;
                self.add(&mut after, w, partition);
                self.append(&mut after, w, partition);
            }
            next.push((Step::Write(w), after));
            return;
        }
        for partition in 0..PARTITIONS {
            let Some(place) = session.outbox.iter().position(|outgoing| outgoing.partition == partition) else {
                continue;
            };
            if self.waits_its_turn(session, place) {
                continue;
            }
            if session.added & 1 << partition != 0 {
                self.to(state, Step::Append(w, partition), next, |after| self.append(after, w, partition));
            } else {
                let mut after = state.clone();
                if self.add(&mut after, w, partition) {
                    next.push((Step::Add(w, partition), after));
                }
            }
        }
    }

    /// False where the answer is "not now".
    fn add(&self, state: &mut State, w: usize, partition: usize) -> bool {
        let Some(session) = &mut state.workers[w].session else { return true };
        if session.added & 1 << partition != 0 {
            return true;
        }
        match state.kafka.add(session.id, session.epoch, partition) {
            Answer::Busy => return false,
            Answer::Done => session.added |= 1 << partition,
            Answer::Refused(_) => state.workers[w].session = None,
        }
        true
    }

    fn append(&self, state: &mut State, w: usize, partition: usize) {
        let Some(session) = &mut state.workers[w].session else { return };
        let Some(place) = session.outbox.iter().position(|outgoing| outgoing.partition == partition) else { return };
        let value = session.outbox.remove(place).value;
        let verified = !self.lacks(Defence::PartitionVerification);
        if state.kafka.append(session.id, session.epoch, partition, value, verified).is_err() {
            state.workers[w].session = None;
            return;
        }
        let read_early = match session.stage {
            Stage::Opening { read_early } => Some(read_early),
            _ => None,
        };
        if self.lacks(Defence::ReadCommitted) && partition == PROGRESS {
            state.written.push(value);
        }
        if let Some(read_early) = read_early {
            let stage = read_early.map_or(Stage::Reading, |read| self.read_done(state, w, read));
            session_mut(state, w).stage = stage;
        }
    }

    /// The `open` goes before everything else, and the `close` behind it.
    fn waits_its_turn(&self, session: &Session, place: usize) -> bool {
        let to_progress = |at: usize| session.outbox[at].partition == PROGRESS;
        let behind_open = place > 0 && to_progress(0) && !self.lacks(Defence::OpenFirst);
        let close_too_early = place > 0 && to_progress(place) && !self.lacks(Defence::CloseLast);
        behind_open || close_too_early
    }

    /// The last position and the last `open` among the first `end` visible records.
    pub(super) fn read(&self, state: &State, end: usize) -> Read {
        let progress = &state.kafka.partitions[PROGRESS];
        let records = if self.lacks(Defence::ReadCommitted) {
            // Our own `open` is the last one that was written.
            &state.written[..state.written.len().saturating_sub(1)]
        } else {
            &progress.visible[..end.min(progress.visible.len())]
        };
        let last = |is_open: bool| {
            let matches = |number: &&u16| {
                self.machine.with(**number, |record| (record.record_type == RecordType::Open) == is_open)
            };
            records.iter().rev().find(matches).copied()
        };
        let looks_for_open = !self.lacks(Defence::Bracket) && !self.lacks(Defence::ReadBack);
        Read { position: last(false), last_open: if looks_for_open { last(true) } else { None } }
    }

    /// The readable end of the progress partition is the session's own `open`.
    fn open_stands(&self, state: &State, w: usize) -> bool {
        state.workers[w].session.as_ref().is_some_and(|session| {
            let open = self.machine.open(session.name, w as u8);
            state.kafka.partitions[PROGRESS].open[session.id].first() == Some(&open)
        })
    }

    fn reading(&self, state: &State, w: usize, session: &Session, next: &mut Next) {
        let progress = &state.kafka.partitions[PROGRESS];
        if !self.lacks(Defence::Claim) {
            if !self.open_stands(state, w) {
                // The readable end is past our own transaction: it was ended by somebody else.
                self.to(state, Step::Read(w, None), next, |state| {
                    state.workers[w].session = None;
                    state.workers[w].fenced = self.bounds.etcd_cuts > 0;
                });
                return;
            }
            if !progress.open[1 - session.id].is_empty() {
                return;
            }
        }
        let read_to = |after: &mut State, end| {
            session_mut(after, w).stage = self.read_done(state, w, self.read(state, end));
        };
        self.to(state, Step::Read(w, None), next, |after| read_to(after, usize::MAX));
        if self.lacks(Defence::ReadToOwnOpen) && state.left.stale_progress_reads > 0 {
            // What has no position at all is found out by the witness.
            let has_position = |end: &usize| self.read(state, *end).position.is_some();
            for end in (0..progress.visible.len()).filter(has_position) {
                self.to(state, Step::Read(w, Some(end)), next, |after| {
                    after.left.stale_progress_reads -= 1;
                    read_to(after, end);
                });
            }
        }
    }

    /// Asks the machine what it makes of this: where it finds a torn transaction, that is read back first.
    fn read_done(&self, state: &State, w: usize, read: Read) -> Stage {
        match self.question(state, w, read, None).map(|question| self.machine.decide(&question)) {
            Some(Decision::ReadBack) => Stage::ReadingBack(read),
            _ => Stage::Judging { read, seen: None },
        }
    }

    fn question(&self, state: &State, w: usize, read: Read, seen: Option<Rows>) -> Option<Question> {
        let worker = &state.workers[w];
        let (Some(session), Some(revision)) = (&worker.session, worker.lease) else { return None };
        Some(Question {
            worker: w as u8,
            session: session.name,
            etcd: worker.etcd,
            revision,
            confirmed: session.confirmed,
            position: read.position,
            last_open: read.last_open,
            witness: read.position.is_none() && laws::published(state) != 0,
            seen,
            silence: (session.unverified || worker.cut_off).then(|| Silence {
                before_fence: session.unverified,
                before_claim: worker.cut_off,
                sessions: worker.claims | self.last_session_as_own(read),
            }),
        })
    }

    /// The patch: whoever has claimed last was this tenure.
    fn last_session_as_own(&self, read: Read) -> u64 {
        match read.position {
            Some(position) if self.lacks(Defence::LastClaimIsOwn) => 1 << self.machine.with(position, session_of),
            _ => 0,
        }
    }

    fn reading_back(&self, state: &State, w: usize, read: Read, next: &mut Next) {
        let mut views = vec![None];
        if state.left.stale_data_reads > 0 {
            for partition in (0..PARTITIONS).filter(|partition| *partition != PROGRESS) {
                let visible = state.kafka.partitions[partition].visible.len();
                views.extend((0..visible).map(|end| Some((partition, end))));
            }
        }
        for view in views {
            self.to(state, Step::ReadBack(w, view), next, |after| {
                after.left.stale_data_reads -= u8::from(view.is_some());
                let seen = Some(self.seen(state, view));
                session_mut(after, w).stage = Stage::Judging { read, seen };
            });
        }
    }

    /// Every visible row.
    fn seen(&self, state: &State, view: Option<(usize, usize)>) -> Rows {
        let partitions = state.kafka.partitions.iter().enumerate().skip(1);
        let seen = partitions.flat_map(|(number, partition)| {
            let end = view.filter(|(of, _)| *of == number).map_or(usize::MAX, |(_, end)| end);
            partition.visible.iter().take(end)
        });
        seen.fold(0, |seen, row| seen | 1 << row) & !state.compacted
    }

    fn judge(&self, state: &mut State, w: usize, read: Read, seen: Option<Rows>) {
        let silent = state.workers[w].cut_off;
        let held = state.holds(w) || silent;
        let Some(question) = self.question(state, w, read, seen) else { return };
        let plan = match self.machine.decide(&question) {
            Decision::Claim(plan) => plan,
            Decision::Retry => {
                state.workers[w].session = None;
                return;
            }
            Decision::ReadBack => unreachable!("it was read back"),
            Decision::Quarantine(_) if !held && !self.lacks(Defence::KeyReadBeforeVerdict) => {
                return state.workers[w].give_up();
            }
            Decision::GiveUp => return state.workers[w].give_up(),
            Decision::Quarantine(code) => {
                let worker = &mut state.workers[w];
                worker.give_up();
                if self.bounds.verdict == Some(code) {
                    worker.stopped = true;
                    if held && !silent {
                        state.etcds[usize::from(worker.etcd)].holder = None;
                    }
                } else {
                    state.fault = Some(Fault::Quarantine(code.as_str()));
                }
                return;
            }
        };
        if !held && !self.lacks(Defence::KeyReadAgain) {
            return state.workers[w].give_up();
        }
        let own = read
            .position
            .is_none_or(|number| self.machine.with(number, |record| record.worker == worker_name(w as u8)));
        if silent && !state.holds(w) {
            if !own {
                state.fault = Some(Fault::ClaimBehindAnother);
            } else if state.workers[w].fenced {
                state.fault = Some(Fault::ClaimAfterFence);
            }
        }
        let records = self.machine.plan(plan).records;
        let term = |plan| self.machine.with(*self.machine.plan(plan).records.last()?, |claim| claim.term);
        if self.lacks(Defence::Claim) {
            let other = state.workers[1 - w].session.as_ref().map(|session| &session.stage);
            if let Some(Stage::Streaming { plan: other, .. }) = other
                && term(*other) == term(plan)
            {
                state.fault = Some(Fault::SameTerm);
            }
            let session = session_mut(state, w);
            let durable = read.position.unwrap_or_default();
            session.stage = Stage::Streaming { plan, cuts: 0, closing: None, durable };
        } else {
            if self.bounds.etcd_cuts > 0 {
                state.workers[w].claims |= 1 << question.session;
            }
            let session = session_mut(state, w);
            session.stage = Stage::Claiming { plan, held };
            session.outbox.extend(records.into_iter().map(|value| Outgoing { partition: PROGRESS, value }));
        }
    }

    /// The end of the open transaction, once everything of it is acknowledged.
    fn ending(&self, state: &State, w: usize, session: &Session, next: &mut Next) {
        if !session.in_transaction {
            return;
        }
        if self.lacks(Defence::AbortEndsInstance)
            && state.left.breaks > 0
            && matches!(session.stage, Stage::Streaming { .. })
        {
            for delivery in [Delivery::Once, Delivery::Doubled] {
                self.end(state, w, session, false, delivery, next);
            }
        }
        if session.outbox.is_empty() {
            for delivery in [Delivery::Once, Delivery::Doubled, Delivery::Unheard, Delivery::Lost] {
                self.end(state, w, session, true, delivery, next);
            }
        }
    }

    fn end(&self, state: &State, w: usize, session: &Session, commit: bool, delivery: Delivery, next: &mut Next) {
        let mut after = state.clone();
        match delivery {
            Delivery::Once => {}
            Delivery::Doubled if state.left.doubled_ends > 0 => after.left.doubled_ends -= 1,
            Delivery::Unheard if state.left.breaks > 0 => after.left.breaks -= 1,
            Delivery::Lost if state.left.doubled_ends > 0 && state.left.breaks > 0 => {
                after.left.doubled_ends -= 1;
                after.left.breaks -= 1;
                after.kafka.late.push(LateEnd { id: session.id, epoch: session.epoch, commit });
                after.workers[w].session = None;
                next.push((Step::Commit(w, delivery), after));
                return;
            }
            Delivery::Doubled | Delivery::Unheard | Delivery::Lost => return,
        }
        match after.kafka.end(session.id, session.epoch, commit) {
            Answer::Busy => return,
            Answer::Refused(Refusal::Fenced | Refusal::InvalidState) => after.workers[w].session = None,
            Answer::Done => self.ended(&mut after, w, commit, delivery),
        }
        let step = if commit { Step::Commit(w, delivery) } else { Step::AbortAndGoOn(w, delivery) };
        next.push((step, after));
    }

    fn ended(&self, state: &mut State, w: usize, commit: bool, delivery: Delivery) {
        if commit {
            self.note_decision(state, w);
        }
        let Some(session) = &mut state.workers[w].session else { return };
        if delivery == Delivery::Doubled {
            let (id, epoch) = (session.id, session.epoch);
            state.kafka.late.push(LateEnd { id, epoch, commit });
            session.tainted |= self.bounds.doubling_is_noticed;
        }
        session.in_transaction = false;
        session.outbox.clear();
        if !commit {
            state.left.breaks -= 1;
        }
        match &mut session.stage {
            Stage::Streaming { closing, .. } if !commit => *closing = None,
            Stage::Streaming { closing, .. } if delivery == Delivery::Unheard => {
                *closing = None;
                if !self.lacks(Defence::FencePerSession) {
                    state.workers[w].session = None;
                }
            }
            _ if delivery == Delivery::Unheard => state.workers[w].session = None,
            Stage::Streaming { cuts, closing, durable, .. } => {
                if let Some(Closing { cuts: now, close }) = closing.take() {
                    *cuts = now;
                    *durable = close;
                }
            }
            Stage::Claiming { plan, held } => {
                if !*held {
                    state.fault = Some(Fault::ClaimWithoutKey);
                }
                let plan = *plan;
                let claim = self.machine.plan(plan).records.last().copied().unwrap_or_default();
                session.stage = Stage::Streaming { plan, cuts: 0, closing: None, durable: claim };
                state.workers[w].claimed = self.bounds.etcd_cuts > 0;
            }
            _ => {}
        }
    }

    /// A commit was decided: it must belong to the latest claim.
    fn note_decision(&self, state: &mut State, w: usize) {
        let Some(session) = &state.workers[w].session else { return };
        let progress = &state.kafka.partitions[PROGRESS];
        let claim = |number: &u16| {
            self.machine.with(*number, |record| (record.record_type == RecordType::Claim).then(|| session_of(record)))
        };
        let latest = progress.visible.iter().chain(&progress.open[session.id]).rev().find_map(claim);
        if latest.is_some_and(|latest| latest != session.name) {
            state.fault = Some(Fault::NotOfTheLatestClaim);
        }
    }
}

fn session_mut(state: &mut State, worker: usize) -> &mut Session {
    state.workers[worker].session.as_mut().expect("the step is one of a session")
}
