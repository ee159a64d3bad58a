//! Everything there is at one moment, as small as it can be told, and kept so that states which differ in nothing but
//! names are one.

use super::defence::Bounds;
use super::kafka::Kafka;
use super::machine::{PlanNumber, RecordNumber, Rows};
use super::postgres::SLOT_BEGINS;

/// The world at one moment.
#[derive(Debug, Clone, Hash)]
pub struct State {
    pub(super) kafka: Kafka,
    pub(super) etcds: [Etcd; 2],
    pub(super) workers: [Worker; 2],
    /// What the slot has confirmed.
    pub(super) confirmed: u16,
    /// Rows whose record gave way to a later one.
    pub(super) compacted: Rows,
    /// Every record that was ever written to the progress partition; kept only where somebody reads what is not committed.
    pub(super) written: Vec<RecordNumber>,
    pub(super) left: Left,
    pub(super) fault: Option<Fault>,
}

/// How much may still go wrong.
#[derive(Debug, Clone, Hash)]
pub(super) struct Left {
    pub lease_losses: u8,
    pub breaks: u8,
    pub time_outs: u8,
    pub doubled_ends: u8,
    pub stale_progress_reads: u8,
    pub stale_data_reads: u8,
    pub compactions: u8,
    pub etcd_faults: u8,
    pub etcd_cuts: u8,
}

/// What a step did that no later look at the state would show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fault {
    /// The verdict stopped the pipeline, and nothing was wrong.
    Quarantine(&'static str),
    /// A transaction was committed that does not belong to the latest claim.
    NotOfTheLatestClaim,
    /// Two sessions stream under one term.
    SameTerm,
    /// A claim by a worker that did not hold the key when it had read progress.
    ClaimWithoutKey,
    /// A claim without an answer from etcd, behind another worker's.
    ClaimBehindAnother,
    /// A claim without an answer from etcd by a worker that a newer session has fenced.
    ClaimAfterFence,
}

#[derive(Debug, Clone, Hash)]
pub(super) struct Etcd {
    pub holder: Option<Holder>,
    pub revision: u8,
}

#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) struct Holder {
    pub worker: u8,
    pub revision: u8,
}

#[derive(Debug, Clone, Hash)]
pub(super) struct Worker {
    /// The etcd that it reaches.
    pub etcd: u8,
    /// The lease revision that it believes in.
    pub lease: Option<u8>,
    pub session: Option<Session>,
    /// etcd does not answer it.
    pub cut_off: bool,
    /// The sessions of this tenure that have tried to claim, as bits by their names. Only where etcd may be silent.
    pub claims: u64,
    /// One of them has heard that its claim stands. Only as above.
    pub claimed: bool,
    /// A session of it was fenced since etcd has answered last. Only as above.
    pub fenced: bool,
    /// In quarantine.
    pub stopped: bool,
}

#[derive(Debug, Clone, Hash)]
pub(super) struct Session {
    pub name: u8,
    /// Transactional id.
    pub id: usize,
    pub epoch: u8,
    /// It was begun without an answer from etcd.
    pub unverified: bool,
    /// What Inspect saw of the slot.
    pub confirmed: u16,
    pub stage: Stage,
    /// Partitions that the client believes to be in its transaction.
    pub added: u8,
    /// Records that are not acknowledged, in order.
    pub outbox: Vec<Outgoing>,
    /// Its transaction is begun and not ended.
    pub in_transaction: bool,
    /// An end may have been sent twice, and the instance noticed.
    pub tainted: bool,
}

/// A record on its way to its partition.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub partition: usize,
    pub value: u16,
}

/// What was read of the progress partition.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub(super) struct Read {
    pub position: Option<RecordNumber>,
    pub last_open: Option<RecordNumber>,
}

#[derive(Debug, Clone, Hash)]
pub(super) enum Stage {
    /// InitProducerId is asked for; with what was read too early, where that is the patch.
    Initialising { read_early: Option<Read> },
    /// The `open` is under way.
    Opening { read_early: Option<Read> },
    /// It is acknowledged.
    Reading,
    /// Progress is read, and names a torn transaction.
    ReadingBack(Read),
    /// All is read: the holder key next.
    Judging { read: Read, seen: Option<Rows> },
    /// The claim is under way.
    Claiming { plan: PlanNumber, held: bool },
    /// The claim stands.
    Streaming { plan: PlanNumber, cuts: u32, closing: Option<Closing>, durable: RecordNumber },
}

/// What is true once the open transaction is committed.
#[derive(Debug, Clone, Copy, Hash)]
pub(super) struct Closing {
    pub cuts: u32,
    pub close: RecordNumber,
}

impl Worker {
    pub fn is_streaming(&self) -> bool {
        self.session.as_ref().is_some_and(|session| matches!(session.stage, Stage::Streaming { .. }))
    }

    /// The tenure is over, and all that was known in it.
    pub fn give_up(&mut self) {
        (self.session, self.lease) = (None, None);
        (self.claims, self.claimed, self.fenced) = (0, false, false);
    }
}

impl State {
    /// Worker 1 holds the lease; nothing was ever published.
    pub(super) fn first(bounds: &Bounds) -> State {
        let worker = |lease| Worker {
            etcd: 0,
            lease,
            session: None,
            cut_off: false,
            claims: 0,
            claimed: false,
            fenced: false,
            stopped: false,
        };
        State {
            kafka: Kafka::new(),
            etcds: [
                Etcd { holder: Some(Holder { worker: 0, revision: 1 }), revision: 1 },
                Etcd { holder: None, revision: 0 },
            ],
            workers: [worker(Some(1)), worker(None)],
            confirmed: SLOT_BEGINS.0 as u16,
            compacted: 0,
            written: Vec::new(),
            left: Left {
                lease_losses: bounds.lease_losses,
                breaks: bounds.breaks,
                time_outs: bounds.time_outs,
                doubled_ends: bounds.doubled_ends,
                stale_progress_reads: bounds.stale_progress_reads,
                stale_data_reads: bounds.stale_data_reads,
                compactions: bounds.compactions,
                etcd_faults: bounds.etcd_faults,
                etcd_cuts: bounds.etcd_cuts,
            },
            fault: None,
        }
    }

    /// The worker's key as its etcd shows it: the mod revision is what counts.
    pub(super) fn holds(&self, worker: usize) -> bool {
        let Worker { etcd, lease, .. } = &self.workers[worker];
        let holder = self.etcds[usize::from(*etcd)].holder;
        lease.is_some() && holder.map(|holder| holder.revision) == *lease
    }

    /// Makes states one that differ only in how high epochs have come, or in late ends that cannot hit any more.
    pub(super) fn normalise(&mut self) {
        let State { kafka, workers, .. } = self;
        let ids = &kafka.ids;
        kafka.late.retain(|late| late.epoch == ids[late.id].epoch);
        kafka.late.sort_unstable();
        for id in 0..2 {
            let mut epochs: Vec<&mut u8> = vec![&mut kafka.ids[id].epoch];
            epochs.extend(kafka.partitions.iter_mut().map(|partition| &mut partition.epoch[id]));
            epochs.extend(kafka.late.iter_mut().filter(|late| late.id == id).map(|late| &mut late.epoch));
            let sessions = workers.iter_mut().filter_map(|worker| worker.session.as_mut());
            epochs.extend(sessions.filter(|session| session.id == id).map(|session| &mut session.epoch));
            let used = epochs.iter().fold(0_u64, |used, epoch| used | 1 << **epoch) | 1;
            for epoch in epochs {
                // Its rank among the epochs that there are.
                *epoch = (used & ((1 << *epoch) - 1)).count_ones() as u8;
            }
        }
    }
}
