//! A Kafka cluster: partitions, and the transaction coordinator of the old protocol, in which the end of a transaction
//! names only its producer's epoch and may come late.

mod log;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use pgbaton_core::{EventId, Known, ProgressRecord, RecordType, Standing, Term, hash_of};

use crate::bus::Bus;
use crate::message::{Caller, Event, KafkaRequest, ReadBack, Reply, Service};
use crate::time::{ms, seconds};

pub(crate) use log::{Body, Entry, Partition};

pub(crate) type PartitionId = usize;

/// The progress topic's only partition.
pub(crate) const PROGRESS: PartitionId = 0;
/// The markers topic's.
pub(crate) const MARKERS: PartitionId = 1;
/// The first of the table's topic.
pub(crate) const DATA: PartitionId = 2;

/// `transaction.timeout.ms` (X).
pub(crate) const TRANSACTION_TIMEOUT: Duration = seconds(60);

/// A record of the table's topic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DataRecord {
    pub id: EventId,
    pub term: u64,
    pub key: u32,
    pub value: u32,
    pub in_chunks: bool,
}

/// A progress record with the hash of its value.
#[derive(Debug)]
pub(crate) struct Stored {
    pub record: ProgressRecord,
    pub hash: String,
}

/// What a record holds.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    Progress(Rc<Stored>),
    Data(DataRecord),
}

impl Payload {
    pub fn progress(record: ProgressRecord) -> Self {
        let hash = hash_of(&record.to_bytes());
        Payload::Progress(Rc::new(Stored { record, hash }))
    }
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A newer epoch is in force.
    Fenced,
    /// The transaction before is still being ended: ask again.
    Concurrent,
    /// There is no such transaction.
    InvalidState,
}

#[derive(Debug)]
pub(crate) enum Tick {
    /// The mark that ends a transaction reaches a partition.
    Mark {
        id: u32,
        txn: u32,
        partition: PartitionId,
    },
    TimedOut {
        id: u32,
        txn: u32,
    },
    Back(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Nothing,
    Ongoing,
    Ending { commit: bool },
    Ended { commit: bool },
}

/// The coordinator's view of one transactional id.
struct Producer {
    epoch: u32,
    state: State,
    txn: u32,
    partitions: BTreeSet<PartitionId>,
    marks_due: usize,
}

pub(crate) struct Kafka {
    producers: BTreeMap<u32, Producer>,
    pub partitions: Vec<Partition>,
    /// Whether each transaction was committed, once that is decided.
    outcomes: Vec<Option<bool>>,
    /// Committed, and not shown to the checkers yet.
    audit_due: BTreeSet<u32>,
    down: Option<u32>,
    outages: u32,
    /// Readers of the progress topic are served by a leader that was deposed: it ends here.
    stale_end: Option<usize>,
    /// How long the marks of a transaction take at most.
    pub slow_marks: Duration,
}

impl Kafka {
    pub fn new(data_partitions: usize) -> Self {
        Kafka {
            producers: BTreeMap::new(),
            partitions: (0..DATA + data_partitions).map(|_| Partition::default()).collect(),
            outcomes: Vec::new(),
            audit_due: BTreeSet::new(),
            down: None,
            outages: 0,
            stale_end: None,
            slow_marks: ms(8),
        }
    }

    /// What was committed before the run began.
    pub fn seed(&mut self, bus: &mut Bus, progress: Vec<ProgressRecord>) {
        let txn = u32::try_from(self.outcomes.len()).unwrap_or(u32::MAX);
        self.outcomes.push(Some(true));
        let records = progress.into_iter().map(|record| Body::Record(Payload::progress(record)));
        let entries = &mut self.partitions[PROGRESS].entries;
        entries.extend(records.chain([Body::Mark]).map(|body| Entry { body, txn }));
        bus.audit.committed(txn, &[(PROGRESS, entries)], bus.now);
    }

    pub fn go_down(&mut self, bus: &mut Bus, time: Duration) {
        self.outages += 1;
        self.down = Some(self.outages);
        bus.tell("kafka", || format!("answers nobody for {time:?}"));
        bus.after(time, Event::Kafka(Tick::Back(self.outages)));
    }

    /// Whoever reads the progress topic meets a deposed leader, which knows nothing newer than this.
    pub fn serve_stale(&mut self, bus: &mut Bus, time: Duration) {
        let end = self.partitions[PROGRESS].last_stable();
        self.stale_end = Some(end);
        bus.tell("kafka", || format!("a deposed leader of the progress topic serves readers up to {end}"));
        self.outages += 1;
        bus.after(time, Event::Kafka(Tick::Back(self.outages)));
    }

    pub fn heal(&mut self) {
        (self.down, self.stale_end) = (None, None);
        self.slow_marks = ms(8);
    }

    pub fn data(&self) -> impl Iterator<Item = &Partition> {
        self.partitions[DATA..].iter()
    }

    pub fn is_committed(&self, txn: u32) -> bool {
        self.outcomes[txn as usize] == Some(true)
    }

    pub fn tick(&mut self, bus: &mut Bus, tick: Tick) {
        match tick {
            Tick::Back(_) if self.down.is_none() => self.stale_end = None,
            Tick::Back(outage) => {
                if self.down == Some(outage) {
                    bus.tell("kafka", || "answers again".to_owned());
                    self.down = None;
                }
            }
            Tick::Mark { id, txn, partition } => {
                if self.down.is_some() {
                    return bus.after(ms(100), Event::Kafka(Tick::Mark { id, txn, partition }));
                }
                let commit = self.outcomes[txn as usize] == Some(true);
                self.partitions[partition].mark(txn, commit);
                let Some(producer) = self.producers.get_mut(&id) else { return };
                producer.marks_due -= 1;
                if producer.marks_due == 0 {
                    producer.state = State::Ended { commit };
                    if self.audit_due.remove(&txn) {
                        let partitions = producer.partitions.clone();
                        let records: Vec<(PartitionId, &[Entry])> =
                            partitions.iter().map(|id| (*id, self.partitions[*id].entries.as_slice())).collect();
                        bus.audit.committed(txn, &records, bus.now);
                    }
                }
            }
            Tick::TimedOut { id, txn } => {
                let ongoing = self
                    .producers
                    .get(&id)
                    .is_some_and(|producer| producer.txn == txn && producer.state == State::Ongoing);
                if ongoing {
                    bus.tell("kafka", || format!("transaction {txn} has timed out"));
                    if let Some(producer) = self.producers.get_mut(&id) {
                        producer.epoch += 1;
                    }
                    self.end(bus, id, false);
                }
            }
        }
    }

    pub fn request(&mut self, bus: &mut Bus, from: Caller, call: u64, request: KafkaRequest) {
        if self.down.is_some() {
            return;
        }
        let reply = match request {
            KafkaRequest::Init { id } => self.init(bus, id),
            KafkaRequest::Produce { id, epoch, partition, sequence, add, records, .. } => {
                self.produce(bus, id, epoch, partition, (sequence, add), &records)
            }
            KafkaRequest::EndTxn { id, epoch, commit, instance } => {
                let answer = self.end_transaction(bus, id, epoch, commit);
                bus.tell("kafka", || {
                    let what = if commit { "commit" } else { "abort" };
                    let answer = answer.map_or_else(|refusal| format!("{refusal:?}"), |()| "done".to_owned());
                    format!("{what} of instance {instance} of worker {}: {answer}", from.worker + 1)
                });
                answer.map(|()| Reply::Ended)
            }
            KafkaRequest::Readable => {
                let end = self.partitions[PROGRESS].last_stable();
                Ok(Reply::Readable { last_stable: self.stale_end.map_or(end, |stale| stale.min(end)) })
            }
            KafkaRequest::Read { below } => Ok(Reply::Read(Box::new(self.read(below)))),
            KafkaRequest::ReadData(known) => Ok(Reply::DataRead(self.beyond(&known))),
            KafkaRequest::Probe => Ok(Reply::Done),
        };
        let work = bus.between(Duration::from_micros(300), ms(3));
        bus.reply(from, call, Service::Kafka, work, reply.unwrap_or_else(Reply::KafkaRefused));
    }

    fn init(&mut self, bus: &mut Bus, id: u32) -> Result<Reply, Refusal> {
        let producer = self.producers.entry(id).or_insert(Producer {
            epoch: 0,
            state: State::Nothing,
            txn: 0,
            partitions: BTreeSet::new(),
            marks_due: 0,
        });
        match producer.state {
            State::Ongoing => {
                // The old session is fenced by the same step that ends its transaction.
                producer.epoch += 1;
                self.end(bus, id, false);
                Err(Refusal::Concurrent)
            }
            State::Ending { .. } => Err(Refusal::Concurrent),
            State::Nothing | State::Ended { .. } => {
                producer.epoch += 1;
                producer.state = State::Nothing;
                Ok(Reply::Initialised { epoch: producer.epoch })
            }
        }
    }

    fn produce(
        &mut self,
        bus: &mut Bus,
        id: u32,
        epoch: u32,
        partition: PartitionId,
        (sequence, add): (u64, bool),
        records: &[Payload],
    ) -> Result<Reply, Refusal> {
        let producer = self.producers.get_mut(&id).ok_or(Refusal::Fenced)?;
        if let Some(offset) = self.partitions[partition].seen(id, epoch, sequence) {
            return Ok(Reply::Produced { offset });
        }
        if add {
            if epoch != producer.epoch {
                return Err(Refusal::Fenced);
            }
            match producer.state {
                // The library has nothing under way when it asks for an abort: what arrives behind one is a copy, and the
                // partition, which asks here, does not take it.
                State::Ending { commit: false } | State::Ended { commit: false } => return Err(Refusal::InvalidState),
                State::Ending { .. } => return Err(Refusal::Concurrent),
                State::Nothing | State::Ended { .. } => {
                    producer.state = State::Ongoing;
                    producer.txn = u32::try_from(self.outcomes.len()).unwrap_or(u32::MAX);
                    producer.partitions.clear();
                    self.outcomes.push(None);
                    bus.after(TRANSACTION_TIMEOUT, Event::Kafka(Tick::TimedOut { id, txn: producer.txn }));
                }
                State::Ongoing => {}
            }
            if producer.partitions.insert(partition) {
                self.partitions[partition].begin(producer.txn, id, epoch);
            }
        }
        let offset = self.partitions[partition]
            .append(id, epoch, sequence, records)
            .ok_or(if epoch < producer.epoch { Refusal::Fenced } else { Refusal::InvalidState })?;
        bus.audit.produced(records, bus.now);
        Ok(Reply::Produced { offset })
    }

    fn end_transaction(&mut self, bus: &mut Bus, id: u32, epoch: u32, commit: bool) -> Result<(), Refusal> {
        let producer = self.producers.get(&id).ok_or(Refusal::Fenced)?;
        if epoch != producer.epoch {
            return Err(Refusal::Fenced);
        }
        match producer.state {
            State::Ongoing => {
                self.end(bus, id, commit);
                Ok(())
            }
            State::Ending { commit: ending } if ending == commit => Err(Refusal::Concurrent),
            State::Ended { commit: ended } if ended == commit => Ok(()),
            State::Nothing | State::Ending { .. } | State::Ended { .. } => Err(Refusal::InvalidState),
        }
    }

    /// The outcome is decided here; the partitions learn of it one by one.
    fn end(&mut self, bus: &mut Bus, id: u32, commit: bool) {
        let Some(producer) = self.producers.get_mut(&id) else { return };
        producer.state = State::Ending { commit };
        producer.marks_due = producer.partitions.len();
        let txn = producer.txn;
        self.outcomes[txn as usize] = Some(commit);
        for partition in producer.partitions.clone() {
            let delay = bus.between(Duration::from_micros(300), self.slow_marks);
            bus.after(delay, Event::Kafka(Tick::Mark { id, txn, partition }));
        }
        if commit {
            let partitions = producer.partitions.clone();
            let records: Vec<(PartitionId, &[Entry])> =
                partitions.iter().map(|partition| (*partition, self.partitions[*partition].of(txn))).collect();
            // What is on its way while the marks are written still gets in: then it is too early to judge.
            if bus.audit.is_whole(txn, &records) {
                bus.audit.committed(txn, &records, bus.now);
            } else {
                self.audit_due.insert(txn);
            }
        }
    }

    /// From the end of every data partition back to the first record that progress knows of.
    fn beyond(&self, known: &Known) -> Vec<(u32, EventId)> {
        let committed = |partition: &Partition| {
            let readable = partition.entries[..partition.last_stable()].iter().rev();
            let records = readable.filter(|entry| self.is_committed(entry.txn)).filter_map(|entry| match &entry.body {
                Body::Record(Payload::Data(record)) => {
                    Some((record, known.standing(&record.id, Some(Term(record.term)))))
                }
                _ => None,
            });
            let above = records.take_while(|(_, standing)| *standing != Standing::Told);
            let beyond = above.filter(|(_, standing)| *standing == Standing::Beyond);
            beyond.map(|(record, _)| (record.key, record.id)).collect::<Vec<_>>()
        };
        self.data().flat_map(committed).collect()
    }

    /// What read_committed shows of the progress topic below an offset.
    fn read(&self, below: usize) -> ReadBack {
        let mut read = ReadBack::default();
        let progress = &self.partitions[PROGRESS];
        let end = below.min(self.stale_end.unwrap_or(usize::MAX)).min(progress.last_stable());
        for entry in progress.entries[..end].iter().rev() {
            let Body::Record(Payload::Progress(stored)) = &entry.body else { continue };
            if !self.is_committed(entry.txn) {
                continue;
            }
            if stored.record.record_type == RecordType::Open {
                read.last_open.get_or_insert_with(|| stored.record.clone());
            } else if read.position.is_none() {
                read.position = Some((stored.record.clone(), stored.hash.clone()));
            }
            if read.position.is_some() && read.last_open.is_some() {
                break;
            }
        }
        read.witness = read.position.is_none() && self.data().any(|partition| !partition.entries.is_empty());
        read
    }
}
