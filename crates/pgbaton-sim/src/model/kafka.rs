//! Kafka as far as the protocol leans on it: transaction coordinator with epochs and the old way of ending transactions,
//! and partitions as a read_committed consumer and a producer see them.
//!
//! The log of a partition is kept in two parts: what is visible, and what the open transaction of a transactional id has
//! written. What was aborted is forgotten, which makes states equal that no reader can tell apart. For the same reason the
//! markers of an end come to all partitions at once, but for a late end: that one has a producer who knows nothing of it and
//! goes on writing between them.

/// The progress partition; the data partitions follow it.
pub(super) const PROGRESS: usize = 0;
/// Partitions in all.
pub(super) const PARTITIONS: usize = 3;

/// A set of partitions.
pub(super) type Partitions = u8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Transaction {
    Empty,
    Ongoing(Partitions),
    /// Decided; the markers for these partitions are not written yet.
    Ending {
        commit: bool,
        pending: Partitions,
    },
    Ended {
        commit: bool,
    },
}

/// The coordinator's knowledge of one transactional id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Coordinator {
    pub epoch: u8,
    pub transaction: Transaction,
}

/// A partition: numbers of progress records, or of events.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Partition {
    pub visible: Vec<u16>,
    /// By transactional id: what its open transaction has written.
    pub open: [Vec<u16>; 2],
    /// By transactional id: the highest epoch that the leader has heard of.
    pub epoch: [u8; 2],
}

/// The end of a transaction that is still on its way, while the client has long had its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LateEnd {
    pub id: usize,
    pub epoch: u8,
    pub commit: bool,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// By the epoch: a newer producer was initialised, or the transaction timed out.
    Fenced,
    /// There is no such transaction.
    InvalidState,
}

/// An answer that may be "not now".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    /// An older transaction is being ended: ask again.
    Busy,
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Kafka {
    /// By transactional id; there is a second one only where each worker has its own.
    pub ids: [Coordinator; 2],
    pub partitions: [Partition; PARTITIONS],
    pub late: Vec<LateEnd>,
}

impl Kafka {
    pub fn new() -> Self {
        let coordinator = Coordinator { epoch: 0, transaction: Transaction::Empty };
        Kafka { ids: [coordinator.clone(), coordinator], partitions: Default::default(), late: Vec::new() }
    }

    /// InitProducerId: aborts what is open, and fences its producer. None: a transaction is being ended, ask again.
    pub fn init(&mut self, id: usize) -> Option<u8> {
        if let Transaction::Ending { .. } = self.ids[id].transaction {
            return None;
        }
        self.time_out(id);
        let coordinator = &mut self.ids[id];
        coordinator.epoch += 1;
        coordinator.transaction = Transaction::Empty;
        Some(coordinator.epoch)
    }

    /// AddPartitionsToTxn: begins a transaction if there is none, which is what makes a late end dangerous.
    pub fn add(&mut self, id: usize, epoch: u8, partition: usize) -> Answer {
        let coordinator = &mut self.ids[id];
        if epoch != coordinator.epoch {
            return Answer::Refused(Refusal::Fenced);
        }
        let before = match coordinator.transaction {
            Transaction::Ending { .. } => return Answer::Busy,
            Transaction::Ongoing(partitions) => partitions,
            Transaction::Empty | Transaction::Ended { .. } => 0,
        };
        coordinator.transaction = Transaction::Ongoing(before | 1 << partition);
        Answer::Done
    }

    /// Produce. A leader that has no open transaction of this producer asks the coordinator (`verified`, Kafka 3.6).
    pub fn append(
        &mut self,
        id: usize,
        epoch: u8,
        partition: usize,
        value: u16,
        verified: bool,
    ) -> Result<(), Refusal> {
        let coordinator = &self.ids[id];
        let leader = &mut self.partitions[partition];
        if epoch < leader.epoch[id] {
            return Err(Refusal::Fenced);
        }
        if verified && leader.open[id].is_empty() {
            if epoch != coordinator.epoch {
                return Err(Refusal::Fenced);
            }
            match coordinator.transaction {
                Transaction::Ongoing(partitions) if partitions & 1 << partition != 0 => {}
                _ => return Err(Refusal::InvalidState),
            }
        }
        leader.epoch[id] = epoch;
        leader.open[id].push(value);
        Ok(())
    }

    /// EndTxn from a client that knows of it. The second copy of an end finds all as it wanted, and is content.
    pub fn end(&mut self, id: usize, epoch: u8, commit: bool) -> Answer {
        let coordinator = &self.ids[id];
        if epoch != coordinator.epoch {
            return Answer::Refused(Refusal::Fenced);
        }
        match coordinator.transaction {
            Transaction::Ongoing(_) => {
                self.decide(id, commit);
                self.mark_all(id);
                Answer::Done
            }
            Transaction::Ending { commit: as_wanted, .. } if as_wanted == commit => Answer::Busy,
            Transaction::Ended { commit: as_wanted } if as_wanted == commit => Answer::Done,
            _ => Answer::Refused(Refusal::InvalidState),
        }
    }

    /// EndTxn that nobody waits for any more. Its markers are on their way.
    pub fn end_late(&mut self, late: &LateEnd) {
        if self.hits(late) {
            self.decide(late.id, late.commit);
        }
    }

    fn decide(&mut self, id: usize, commit: bool) {
        if let Transaction::Ongoing(pending) = self.ids[id].transaction {
            self.ids[id].transaction = Transaction::Ending { commit, pending };
        }
    }

    /// The partitions that still wait for their marker.
    pub fn pending(&self, id: usize) -> Partitions {
        match self.ids[id].transaction {
            Transaction::Ending { pending, .. } => pending,
            _ => 0,
        }
    }

    fn mark_all(&mut self, id: usize) {
        let pending = self.pending(id);
        (0..PARTITIONS)
            .filter(|partition| pending & 1 << partition != 0)
            .for_each(|partition| self.mark(id, partition));
    }

    /// The marker of the end comes to a partition.
    pub fn mark(&mut self, id: usize, partition: usize) {
        let coordinator = &mut self.ids[id];
        let Transaction::Ending { commit, pending } = coordinator.transaction else { return };
        let pending = pending & !(1 << partition);
        coordinator.transaction =
            if pending == 0 { Transaction::Ended { commit } } else { Transaction::Ending { commit, pending } };
        let leader = &mut self.partitions[partition];
        leader.epoch[id] = coordinator.epoch;
        let written = std::mem::take(&mut leader.open[id]);
        if commit {
            leader.visible.extend(written);
        }
    }

    /// The transaction was open for too long: aborted, and its producer fenced.
    pub fn time_out(&mut self, id: usize) -> bool {
        if !matches!(self.ids[id].transaction, Transaction::Ongoing(_)) {
            return false;
        }
        self.ids[id].epoch += 1;
        self.decide(id, false);
        self.mark_all(id);
        true
    }

    /// A late end that can still hit something: a transaction of the same producer that is open now.
    pub fn hits(&self, late: &LateEnd) -> bool {
        let coordinator = &self.ids[late.id];
        coordinator.epoch == late.epoch && matches!(coordinator.transaction, Transaction::Ongoing(_))
    }

    /// Nothing is decided and not yet seen by everybody.
    pub fn is_settled(&self) -> bool {
        self.ids.iter().all(|coordinator| !matches!(coordinator.transaction, Transaction::Ending { .. }))
    }
}
