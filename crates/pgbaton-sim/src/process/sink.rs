//! A producer instance as the sink adapter handles it: what it sends, what became of it, and when it may not begin again.

use std::collections::BTreeMap;
use std::rc::Rc;

use pgbaton_core::{Code, Input, Moment, ProgressRecord, SessionEnd};

use super::Process;
use super::session::SessionCall;
use crate::bus::Bus;
use crate::kafka::{PROGRESS, PartitionId, Payload, Refusal};
use crate::message::{Event, KafkaRequest, Reply, Request, SessionTimer};
use crate::mutant::Mutant;
use crate::time::{ms, seconds};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Open,
    /// `close` is written; with whether the end was sent.
    Committing {
        sent: bool,
    },
}

#[derive(Default)]
struct Lane {
    /// In the present transaction.
    added: bool,
    sequence: u64,
    waiting: Vec<Payload>,
    under_way: Option<Rc<[Payload]>>,
}

/// One instance.
pub(super) struct Sink {
    id: u32,
    instance: u64,
    epoch: u32,
    phase: Phase,
    lanes: BTreeMap<PartitionId, Lane>,
    /// `open` is acknowledged: only then does anything else follow it.
    opened: bool,
    /// The record that ends the transaction: written when everything else is acknowledged.
    last: Option<Payload>,
    /// Handed over and not acknowledged.
    pending: usize,
    ended_once: bool,
    tainted: bool,
    asked_at: Moment,
}

impl Sink {
    pub fn new(id: u32, epoch: u32, instance: u64) -> Self {
        Sink {
            id,
            instance,
            epoch,
            phase: Phase::Idle,
            lanes: BTreeMap::new(),
            opened: false,
            last: None,
            pending: 0,
            ended_once: false,
            tainted: false,
            asked_at: Moment::default(),
        }
    }

    pub fn names(&self) -> (u32, u64, u32) {
        (self.id, self.instance, self.epoch)
    }

    pub fn is_open(&self) -> bool {
        self.phase != Phase::Idle
    }

    pub fn in_flight(&self) -> usize {
        self.pending
    }

    pub fn is_tainted(&self) -> bool {
        self.tainted
    }

    /// For mutants that use an instance where none should be used.
    pub fn pretend_idle(&mut self) {
        self.phase = Phase::Idle;
    }

    pub fn renew(&mut self) {
        self.phase = Phase::Idle;
        (self.tainted, self.pending) = (false, 0);
        self.last = None;
        for lane in self.lanes.values_mut() {
            lane.waiting.clear();
            lane.sequence += u64::from(lane.under_way.take().is_some());
        }
    }

    pub fn begin(&mut self, open: ProgressRecord, without_open: bool) {
        self.phase = Phase::Open;
        self.opened = without_open;
        for lane in self.lanes.values_mut() {
            lane.added = false;
        }
        if !without_open {
            self.write(PROGRESS, Payload::progress(open));
        }
    }

    pub fn write(&mut self, partition: PartitionId, payload: Payload) {
        self.pending += 1;
        self.lanes.entry(partition).or_default().waiting.push(payload);
    }

    pub fn commit(&mut self, last: Payload, now: Moment) {
        self.phase = Phase::Committing { sent: false };
        self.last = Some(last);
        self.asked_at = now;
    }
}

impl Process {
    fn sink_mut(&mut self) -> Option<&mut Sink> {
        match &mut self.session.publishing {
            Some(publishing) => Some(&mut publishing.sink),
            None => self.session.sink.as_mut(),
        }
    }

    /// Sends what waits, one request for each partition at a time.
    pub(super) fn flush_sink(&mut self, bus: &mut Bus) {
        let Some(sink) = self.sink_mut() else { return };
        let (id, instance, epoch) = sink.names();
        if sink.pending == 0
            && let Some(last) = sink.last.take()
        {
            sink.write(PROGRESS, last);
        }
        let mut requests = Vec::new();
        let opened = sink.opened;
        for (partition, lane) in sink.lanes.iter_mut().filter(|(partition, _)| opened || **partition == PROGRESS) {
            if lane.under_way.is_none() && !lane.waiting.is_empty() {
                let records: Rc<[Payload]> = std::mem::take(&mut lane.waiting).into();
                lane.under_way = Some(records.clone());
                let (partition, sequence, add) = (*partition, lane.sequence, !lane.added);
                requests.push(KafkaRequest::Produce { id, instance, epoch, partition, sequence, add, records });
            }
        }
        let ends = sink.pending == 0 && sink.phase == Phase::Committing { sent: false };
        if ends {
            sink.phase = Phase::Committing { sent: true };
        }
        for request in requests {
            self.send_produce(bus, request);
        }
        if ends {
            self.send_commit(bus);
        }
    }

    fn send_produce(&mut self, bus: &mut Bus, request: KafkaRequest) {
        let KafkaRequest::Produce { partition, instance, .. } = &request else { return };
        let partition = *partition;
        let now = self.now(bus);
        let (true_now, guarded) = (bus.now, self.worker.guarded_since().is_some());
        bus.audit.sends(self.id, *instance, now, true_now, guarded);
        self.session_call(bus, Request::Kafka(request), seconds(2), SessionCall::Produce(partition));
    }

    fn send_commit(&mut self, bus: &mut Bus) {
        let reuse = bus.is(Mutant::ReuseAfterAbort) || bus.is(Mutant::FencePerTenure);
        let Some(sink) = self.sink_mut() else { return };
        let (id, instance, epoch) = sink.names();
        sink.ended_once = true;
        let request = KafkaRequest::EndTxn { id, instance, epoch, commit: true };
        if bus.chance(bus.unseen_ends) {
            let delay = bus.between(ms(1), ms(1500));
            bus.tell(&self.name(), || format!("a second copy of its commit is under way for {delay:?}, unseen"));
            bus.after(delay, Event::Request { from: self.caller(), call: 0, body: Request::Kafka(request.clone()) });
        }
        // Two ends were sent, and the library's statistics tell.
        if self.send_end_of_transaction(bus, request, Some(SessionCall::EndTxn))
            && !reuse
            && let Some(sink) = self.sink_mut()
        {
            sink.tainted = true;
        }
    }

    pub(super) fn end_txn_again(&mut self, bus: &mut Bus) {
        let Some(sink) = self.sink_mut() else { return };
        let (id, instance, epoch) = sink.names();
        let request = KafkaRequest::EndTxn { id, instance, epoch, commit: true };
        self.session_call(bus, Request::Kafka(request), seconds(10), SessionCall::EndTxn);
    }

    pub(super) fn produce_again(&mut self, bus: &mut Bus, partition: PartitionId) {
        let Some(sink) = self.sink_mut() else { return };
        let (id, instance, epoch) = sink.names();
        let Some(lane) = sink.lanes.get(&partition) else { return };
        let Some(records) = lane.under_way.clone() else { return };
        let (sequence, add) = (lane.sequence, !lane.added);
        self.send_produce(bus, KafkaRequest::Produce { id, instance, epoch, partition, sequence, add, records });
    }

    pub(super) fn produced(&mut self, bus: &mut Bus, partition: PartitionId, reply: Option<Reply>) -> Option<Input> {
        let sink = self.sink_mut()?;
        match reply {
            Some(Reply::Produced { offset }) => {
                let lane = sink.lanes.get_mut(&partition)?;
                let records = lane.under_way.take()?;
                lane.added = true;
                lane.sequence += 1;
                sink.opened |= partition == PROGRESS;
                sink.pending -= records.len();
                let now = self.now(bus);
                if let Some(publishing) = &mut self.session.publishing {
                    publishing.delivered(now);
                }
                self.flush_sink(bus);
                if partition == PROGRESS {
                    self.opened(bus, offset);
                }
                Some(Input::Tick)
            }
            Some(Reply::KafkaRefused(Refusal::Concurrent)) => {
                self.session_soon(bus, ms(20), SessionTimer::Produce(partition));
                None
            }
            Some(Reply::KafkaRefused(refusal)) => self.sink_over(refusal_end(refusal)),
            None => {
                if sink.ended_once {
                    sink.tainted = true;
                }
                self.produce_again(bus, partition);
                None
            }
            Some(_) => None,
        }
    }

    pub(super) fn ended_txn(&mut self, bus: &mut Bus, reply: Option<Reply>) -> Option<Input> {
        match reply {
            Some(Reply::Ended) => {
                let now = self.now(bus);
                let sink = self.sink_mut()?;
                if now.since(sink.asked_at) > seconds(8) {
                    sink.tainted = true;
                }
                sink.phase = Phase::Idle;
                if let Some(claimed) = self.claim_committed() {
                    return Some(claimed);
                }
                if let Some(publishing) = &mut self.session.publishing {
                    publishing.committed(now);
                }
                if self.last_commit(bus) { None } else { Some(Input::Tick) }
            }
            Some(Reply::KafkaRefused(Refusal::Concurrent)) => {
                self.session_soon(bus, ms(20), SessionTimer::EndTxn);
                None
            }
            Some(Reply::KafkaRefused(refusal)) => self.sink_over(refusal_end(refusal)),
            _ => self.sink_over(SessionEnd::ProducerSpent("the outcome of the commit is unknown".to_owned())),
        }
    }

    fn sink_over(&mut self, end: SessionEnd) -> Option<Input> {
        self.session.sink_failed = true;
        Some(Input::Broken(end))
    }
}

fn refusal_end(refusal: Refusal) -> SessionEnd {
    match refusal {
        Refusal::Fenced => {
            SessionEnd::Sink { code: Code::Fenced, detail: "the transaction was fenced or timed out".to_owned() }
        }
        Refusal::InvalidState | Refusal::Concurrent => {
            SessionEnd::ProducerSpent("the transaction cannot be committed".to_owned())
        }
    }
}
