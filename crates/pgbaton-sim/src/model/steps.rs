//! What may happen next, to a worker without a session or around all of them, each with what there is then.

use pgbaton_core::RecordType;

use super::defence::Defence;
use super::explore::World;
use super::kafka::{PARTITIONS, PROGRESS};
use super::machine::session_of;
use super::state::{Etcd, Holder, Session, Stage, State};
use super::{Model, laws};

/// One thing that happens. Workers, transactional ids and partitions are numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The worker puts the holder key where there is none.
    TakeLease(usize),
    /// The worker inspects the server and reads the holder key; if it is its own, a session begins.
    Look(usize),
    /// The worker's producer asks to be initialised.
    Init(usize),
    /// The worker writes all that it has to write.
    Write(usize),
    /// The worker's client adds a partition to its transaction.
    Add(usize, usize),
    /// The leader of the partition takes the worker's next record for it.
    Append(usize, usize),
    /// The worker reads progress; with a number, from a leader that has only so many of the visible records.
    Read(usize, Option<usize>),
    /// The worker reads data partitions back; with a partition and a number, from a leader as above.
    ReadBack(usize, Option<(usize, usize)>),
    /// The worker decides and reads the holder key again.
    Judge(usize),
    /// The worker begins a Kafka transaction of so many PostgreSQL transactions.
    Begin(usize, u8),
    /// The worker commits its Kafka transaction.
    Commit(usize, Delivery),
    /// The worker aborts its Kafka transaction and goes on with the same instance (where that is the patch).
    AbortAndGoOn(usize, Delivery),
    /// The worker tells PostgreSQL what is durable.
    Acknowledge(usize),
    /// The worker's session ends without a reason of its own.
    Break(usize),
    /// The worker's session ends because its instance may not begin again.
    Replace(usize),
    /// The holder's lease ends, and nobody tells it.
    LoseLease(usize),
    /// The worker comes to the other etcd.
    MoveEtcd(usize),
    /// etcd ceases to answer the worker, or answers it again.
    CutOff(usize),
    /// etcd is restored to a time before there was any holder.
    RestoreEtcd(usize),
    /// The marker of a transaction's end is written to a partition.
    Mark(usize, usize),
    /// The coordinator ends a transaction that was open for too long.
    TimeOut(usize),
    /// An end of a transaction arrives late.
    LateEnd(usize),
    /// A row's record gives way to a later one of its key.
    Compact(u16),
}

/// How the end of a transaction comes to the coordinator, and its answer to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// At once.
    Once,
    /// The client sends it twice, because the first copy is late, and hears the answer to the second.
    Doubled,
    /// It is done, and the client never hears of it.
    Unheard,
    /// The client gives up, and the request is still on its way.
    Lost,
}

pub(super) type Next = Vec<(Step, State)>;

impl World for Model {
    type State = State;
    type Step = Step;

    fn initial(&self) -> State {
        let mut state = State::first(&self.bounds);
        while self.bounds.streaming && !state.workers[0].is_streaming() {
            let mut next = Vec::new();
            self.next(&state, &mut next);
            use Step::{Add, Append, Commit, Init, Judge, Look, Read, Write};
            let undisturbed = next.into_iter().find(|(step, _)| {
                matches!(step, Look(0) | Init(0) | Write(0) | Add(0, _) | Append(0, _) | Judge(0))
                    || matches!(step, Read(0, None) | Commit(0, Delivery::Once))
            });
            state = undisturbed.expect("an undisturbed worker comes to its stream").1;
        }
        state
    }

    fn next(&self, state: &State, next: &mut Next) {
        if state.fault.is_some() || self.is_cut_off(state) {
            return;
        }
        for worker in 0..state.workers.len() {
            if state.workers[worker].stopped {
                continue;
            }
            match &state.workers[worker].session {
                None => self.without_session(state, worker, next),
                Some(session) => self.in_session(state, worker, session, next),
            }
        }
        self.around(state, next);
        for (_, after) in next.iter_mut() {
            self.end_fenced(after);
            self.forget_claims(after);
            after.normalise();
        }
    }

    fn broken_law(&self, state: &State) -> Option<String> {
        laws::broken(self, state)
    }

    fn is_finished(&self, state: &State) -> bool {
        laws::published(state) == (1 << self.machine.postgres.rows.len()) - 1
            || state.workers.iter().any(|worker| worker.stopped)
            || self.is_cut_off(state)
    }
}

impl Model {
    /// So many claims that the world is not followed any further.
    fn is_cut_off(&self, state: &State) -> bool {
        let is_claim = |number: &&u16| self.machine.with(**number, |record| record.record_type == RecordType::Claim);
        state.kafka.partitions[PROGRESS].visible.iter().filter(is_claim).count() >= self.bounds.claims
    }

    /// A session that is fenced has nothing left to do but to hear of it, so it is over at once. Not if it has progress in
    /// its hands, which it may come to a verdict about; nor if it knows a position that it may confirm.
    fn end_fenced(&self, state: &mut State) {
        if self.lacks(Defence::PartitionVerification) || self.lacks(Defence::Claim) {
            return;
        }
        let State { kafka, workers, confirmed, .. } = state;
        for worker in workers {
            let Some(session) = &worker.session else { continue };
            let has_something_to_say = match session.stage {
                Stage::Initialising { .. } | Stage::Reading | Stage::ReadingBack(_) | Stage::Judging { .. } => true,
                Stage::Opening { .. } | Stage::Claiming { .. } => false,
                Stage::Streaming { durable, .. } => {
                    self.bounds.acknowledges && self.machine.watermark(durable) > *confirmed
                }
            };
            if session.epoch < kafka.ids[session.id].epoch && !has_something_to_say {
                worker.session = None;
                worker.fenced = self.bounds.etcd_cuts > 0;
            }
        }
    }

    /// Carries the step out on a copy.
    pub(super) fn to(&self, state: &State, step: Step, next: &mut Next, change: impl FnOnce(&mut State)) {
        let mut after = state.clone();
        change(&mut after);
        next.push((step, after));
    }

    fn without_session(&self, state: &State, w: usize, next: &mut Next) {
        let worker = &state.workers[w];
        if worker.lease.is_none() {
            if !worker.cut_off && state.etcds[usize::from(worker.etcd)].holder.is_none() {
                self.to(state, Step::TakeLease(w), next, |state| {
                    let etcd = &mut state.etcds[usize::from(state.workers[w].etcd)];
                    etcd.revision += 1;
                    etcd.holder = Some(Holder { worker: w as u8, revision: etcd.revision });
                    state.workers[w].lease = Some(etcd.revision);
                });
            }
            return;
        }
        let fenced = worker.fenced && !self.lacks(Defence::FencedAsksEtcd);
        if worker.cut_off && !self.machine.goes_on_in_silence(worker.claimed, fenced) {
            return;
        }
        self.to(state, Step::Look(w), next, |after| {
            if !worker.cut_off {
                if !state.holds(w) {
                    return after.workers[w].give_up();
                }
                after.workers[w].fenced = false;
            }
            let read_early = self.lacks(Defence::ReadAfterInit).then(|| self.read(state, usize::MAX));
            after.workers[w].session = Some(Session {
                name: self.free_name(state),
                id: if self.lacks(Defence::SharedTransactionalId) { w } else { 0 },
                epoch: 0,
                unverified: worker.cut_off,
                confirmed: state.confirmed,
                stage: Stage::Initialising { read_early },
                added: 0,
                outbox: Vec::new(),
                in_transaction: false,
                tainted: false,
            });
        });
    }

    /// Session ids are random; here, the least that nothing bears.
    fn free_name(&self, state: &State) -> u8 {
        let remembered = state.workers.iter().fold(0, |used, worker| used | worker.claims);
        let used = remembered | self.names_in_use(state);
        (1..64).find(|name| used & 1 << name == 0).expect("few sessions leave a trace")
    }

    /// The sessions that are alive or have left a record, as bits.
    fn names_in_use(&self, state: &State) -> u64 {
        let progress = &state.kafka.partitions[PROGRESS];
        let records = progress.visible.iter().chain(progress.open.iter().flatten()).chain(&state.written);
        let live = state.workers.iter().filter_map(|worker| worker.session.as_ref().map(|session| session.name));
        let names = records.map(|number| self.machine.with(*number, session_of)).chain(live);
        names.fold(0, |used, name| used | 1 << name)
    }

    /// A claim that has left nothing cannot be read by anybody: that it was tried makes no difference.
    fn forget_claims(&self, state: &mut State) {
        if self.bounds.etcd_cuts > 0 {
            let in_use = self.names_in_use(state);
            state.workers.iter_mut().for_each(|worker| worker.claims &= in_use);
        }
    }

    /// What happens without any worker's doing.
    fn around(&self, state: &State, next: &mut Next) {
        for id in 0..state.kafka.ids.len() {
            for partition in (0..PARTITIONS).filter(|partition| state.kafka.pending(id) & 1 << partition != 0) {
                self.to(state, Step::Mark(id, partition), next, |state| state.kafka.mark(id, partition));
            }
            if state.left.time_outs > 0 {
                let mut after = state.clone();
                if after.kafka.time_out(id) {
                    after.left.time_outs -= 1;
                    next.push((Step::TimeOut(id), after));
                }
            }
        }
        for number in 0..state.kafka.late.len() {
            let late = state.kafka.late[number];
            if state.kafka.hits(&late) {
                self.to(state, Step::LateEnd(number), next, |state| {
                    state.kafka.late.remove(number);
                    state.kafka.end_late(&late);
                });
            }
        }
        if state.left.lease_losses > 0 {
            for etcd in 0..2 {
                if state.etcds[etcd].holder.is_some() {
                    self.to(state, Step::LoseLease(etcd), next, |state| {
                        state.left.lease_losses -= 1;
                        state.etcds[etcd].holder = None;
                    });
                }
            }
        }
        if state.left.etcd_faults > 0 {
            for w in 0..state.workers.len() {
                self.to(state, Step::MoveEtcd(w), next, |state| {
                    state.left.etcd_faults -= 1;
                    state.workers[w].etcd ^= 1;
                });
            }
            self.to(state, Step::RestoreEtcd(0), next, |state| {
                state.left.etcd_faults -= 1;
                state.etcds[0] = Etcd { holder: None, revision: 0 };
            });
        }
        for w in 0..state.workers.len() {
            if state.workers[w].cut_off || state.left.etcd_cuts > 0 {
                self.to(state, Step::CutOff(w), next, |state| {
                    state.left.etcd_cuts -= u8::from(!state.workers[w].cut_off);
                    state.workers[w].cut_off ^= true;
                });
            }
        }
        if state.left.compactions > 0 {
            self.compacting(state, next);
        }
    }

    fn compacting(&self, state: &State, next: &mut Next) {
        let rows = &self.machine.postgres.rows;
        for partition in &state.kafka.partitions[1..] {
            for (at, row) in partition.visible.iter().enumerate() {
                let key = rows[usize::from(*row)].key;
                let has_later = partition.visible[at + 1..].iter().any(|later| rows[usize::from(*later)].key == key);
                if has_later && state.compacted & 1 << row == 0 {
                    self.to(state, Step::Compact(*row), next, |state| {
                        state.left.compactions -= 1;
                        state.compacted |= 1 << row;
                    });
                }
            }
        }
    }
}
