//! The steps of a session, from Inspect to its end.

use std::time::Duration;

use pgbaton_core::{
    ClaimPlan, Code, Failure, FailureKind, FenceRead, Fork, Found, History, Input, Inspection, Journal, Lsn, Marks,
    Moment, ProgressRecord, ReadFrom, RecordType, Recorded, Remains, SessionEnd, SessionFacts, Tenure, TopicIds,
    first_open, hash_of,
};

use super::publishing::Publishing;
use super::sink::Sink;
use super::{Process, Purpose};
use crate::bus::Bus;
use crate::kafka::{MARKERS, PROGRESS, Payload, Refusal};
use crate::message::{
    EtcdRequest, Event, Frame, FromClient, KafkaRequest, PostgresRequest, ReadBack, Reply, Request, Service,
    SessionTimer, Timer,
};
use crate::mutant::Mutant;
use crate::postgres::ConnectionId;
use crate::time::{ms, seconds};

/// What a session's calls are made for.
#[derive(Debug, Clone, Copy)]
pub(super) enum SessionCall {
    Inspect,
    ReadHolder(Tenure),
    Init,
    Readable,
    Read,
    Witness,
    ReadBack,
    Start,
    Produce(usize),
    EndTxn,
    Standbys,
}

/// The table's topic.
pub(super) const TOPIC: &str = "orders.public.items";

/// A fence under way.
struct Fencing {
    id: String,
    open_at: Option<usize>,
    until: Moment,
    read: Option<ReadBack>,
}

/// A session that is being closed.
struct Ending {
    by: Moment,
    aborts: bool,
}

#[derive(Default)]
pub(super) struct Session {
    pub connection: Option<ConnectionId>,
    pub inspection: Option<Box<Inspection>>,
    pub sink: Option<Sink>,
    pub plan: Option<Box<ClaimPlan>>,
    pub publishing: Option<Box<Publishing>>,
    pub sink_failed: bool,
    fencing: Option<Fencing>,
    claiming: bool,
    ending: Option<Ending>,
    /// Came before the answer to START, which travels by another way here.
    early: Vec<Frame>,
    /// Kept by a mutant that fences once in a tenure, or reuses an instance.
    pub left_over: Option<Sink>,
}

impl Session {
    pub fn holds_something(&self) -> bool {
        self.ending.is_none() && (self.connection.is_some() || self.sink.is_some())
    }

    pub fn durable(&self) -> Option<Lsn> {
        self.publishing.as_ref().map(|publishing| publishing.stream.durable().watermark.lsn)
    }

    pub fn broken(&mut self, end: &SessionEnd) {
        self.sink_failed |=
            matches!(end, SessionEnd::Sink { .. } | SessionEnd::Stalled(_) | SessionEnd::ProducerSpent(_));
    }

    /// When the data path wants its turn.
    pub fn due(&self) -> Option<Moment> {
        self.publishing.as_ref().map(|publishing| publishing.due())
    }
}

/// In one line.
pub(super) fn describe(end: &SessionEnd) -> String {
    match end {
        SessionEnd::Stream(failure) => failure.detail.clone(),
        SessionEnd::Sink { code, detail } => format!("{code}: {detail}"),
        SessionEnd::ProducerSpent(detail) | SessionEnd::Stalled(detail) | SessionEnd::NotHolder(detail) => {
            detail.clone()
        }
        SessionEnd::TopicAdded(topic) => format!("topic {topic} came up"),
        SessionEnd::KeyUnknown { .. } => "a table's key is not known".to_owned(),
        SessionEnd::OpenTooLong => "an atomic transaction was open for too long".to_owned(),
        SessionEnd::Contradiction(gap) => format!("{}: {}", gap.code, gap.text),
    }
}

fn lost(detail: &str) -> SessionEnd {
    let kind = FailureKind::Passing;
    SessionEnd::Stream(Failure { code: Code::PostgresUnreachable, detail: detail.to_owned(), kind })
}

fn sink(code: Code, detail: &str) -> SessionEnd {
    SessionEnd::Sink { code, detail: detail.to_owned() }
}

impl Process {
    pub(super) fn session_call(&mut self, bus: &mut Bus, request: Request, limit: Duration, call: SessionCall) {
        let purpose = Purpose::Session(self.serial, call);
        self.call(bus, request, limit, purpose);
    }

    pub(super) fn session_soon(&self, bus: &mut Bus, after: Duration, timer: SessionTimer) {
        self.timer(bus, after, Timer::Session(self.serial, timer));
    }

    pub(super) fn inspect(&mut self, bus: &mut Bus) {
        let left_over = self.session.left_over.take();
        self.session = Session { left_over, ..Session::default() };
        self.serial += 1;
        self.session_call(bus, Request::Postgres(PostgresRequest::Connect), seconds(10), SessionCall::Inspect);
    }

    pub(super) fn fence(&mut self, bus: &mut Bus) {
        self.instances += 1;
        let id = format!("{}-{}-{}", self.worker.identity().worker, self.boot(), self.instances);
        let until = self.now(bus) + seconds(50);
        self.session.fencing = Some(Fencing { id, open_at: None, until, read: None });
        if let Some(mut kept) = self.session.left_over.take() {
            // A mutant: the instance of an older session is used again.
            kept.renew();
            self.session.sink = Some(kept);
            return self.write_open(bus);
        }
        if bus.is(Mutant::ReadBeforeInit) {
            let read = KafkaRequest::Read { below: usize::MAX };
            return self.session_call(bus, Request::Kafka(read), seconds(5), SessionCall::Read);
        }
        self.init(bus);
    }

    fn boot(&self) -> u32 {
        self.caller().boot
    }

    fn transactional_id(&self, bus: &Bus) -> u32 {
        if bus.is(Mutant::TransactionalIdPerWorker) { self.id as u32 + 1 } else { 0 }
    }

    fn init(&mut self, bus: &mut Bus) {
        let id = self.transactional_id(bus);
        self.session_call(bus, Request::Kafka(KafkaRequest::Init { id }), seconds(3), SessionCall::Init);
    }

    fn write_open(&mut self, bus: &mut Bus) {
        let Some(fencing) = &self.session.fencing else { return };
        let open = first_open(&fencing.id, &self.worker.identity().worker);
        let Some(sink) = &mut self.session.sink else { return };
        sink.begin(open, bus.is(Mutant::NoBracket));
        self.flush_sink(bus);
        if bus.is(Mutant::NoBracket) {
            self.opened(bus, 0);
        }
    }

    /// Our `open` has its offset.
    pub(super) fn opened(&mut self, bus: &mut Bus, offset: usize) {
        let Some(fencing) = self.session.fencing.as_mut().filter(|fencing| fencing.open_at.is_none()) else { return };
        fencing.open_at = Some(offset);
        let unbracketed = bus.is(Mutant::NoBracket);
        if fencing.read.is_some() {
            self.progress_read(bus);
        } else if unbracketed {
            let read = KafkaRequest::Read { below: usize::MAX };
            self.session_call(bus, Request::Kafka(read), seconds(5), SessionCall::Read);
        } else {
            self.session_call(bus, Request::Kafka(KafkaRequest::Readable), seconds(3), SessionCall::Readable);
        }
    }

    fn fence_failed(&mut self, end: SessionEnd) -> Option<Input> {
        self.session.fencing = None;
        self.session.sink_failed = true;
        Some(Input::Broken(end))
    }

    fn fence_is_late(&self, bus: &Bus) -> bool {
        self.session.fencing.as_ref().is_none_or(|fencing| self.now(bus) >= fencing.until)
    }

    pub(super) fn session_answered(&mut self, bus: &mut Bus, call: SessionCall, reply: Option<Reply>) -> Option<Input> {
        match (call, reply) {
            (SessionCall::Inspect, Some(Reply::Connected { connection, inspection })) => {
                self.session.connection = Some(connection);
                let inspection = self.shown(bus, inspection);
                self.session.inspection = Some(inspection.clone());
                Some(Input::Inspected(inspection))
            }
            (SessionCall::Inspect, Some(Reply::Refused(failure))) => Some(Input::Broken(SessionEnd::Stream(failure))),
            (SessionCall::Inspect, _) => Some(Input::Broken(lost("connecting took more than 10 s"))),
            (SessionCall::ReadHolder(tenure), reply) => Some(Input::HolderRead(match reply {
                Some(Reply::View(view)) => Some(view.holder.is_some_and(|held| held.is_of(&tenure))),
                _ => None,
            })),
            (SessionCall::Init, Some(Reply::Initialised { epoch })) => {
                self.instances += 1;
                let instance = (self.id as u64) << 32 | u64::from(self.boot()) << 20 | self.instances;
                self.session.sink = Some(Sink::new(self.transactional_id(bus), epoch, instance));
                bus.tell(&self.name(), || format!("producer instance {instance} has epoch {epoch}"));
                if bus.is(Mutant::ReadBeforeOpen) && self.session.fencing.as_ref()?.read.is_none() {
                    let read = KafkaRequest::Read { below: usize::MAX };
                    self.session_call(bus, Request::Kafka(read), seconds(5), SessionCall::Read);
                    return None;
                }
                self.write_open(bus);
                None
            }
            (SessionCall::Init, Some(Reply::KafkaRefused(Refusal::Concurrent))) => {
                let pause = bus.between(ms(10), ms(500));
                self.session_soon(bus, pause, SessionTimer::Init);
                None
            }
            (SessionCall::Init | SessionCall::Readable | SessionCall::Read, None) if !self.fence_is_late(bus) => {
                match call {
                    SessionCall::Init => self.init(bus),
                    SessionCall::Readable => self.ask_readable(bus),
                    _ => self.ask_read(bus),
                }
                None
            }
            (SessionCall::Init | SessionCall::Read | SessionCall::Readable, None) => {
                self.fence_failed(sink(Code::KafkaUnreachable, "Kafka did not answer"))
            }
            (SessionCall::Init, Some(_)) => self.fence_failed(sink(Code::Fenced, "the producer was refused")),
            (SessionCall::Readable, Some(Reply::Readable { last_stable })) => self.readable(bus, last_stable),
            (SessionCall::Read, Some(Reply::Read(read))) => {
                let fencing = self.session.fencing.as_mut()?;
                fencing.read = Some(*read);
                if fencing.open_at.is_some() {
                    self.progress_read(bus);
                } else if self.session.sink.is_some() {
                    self.write_open(bus);
                } else {
                    self.init(bus);
                }
                None
            }
            (SessionCall::Witness, reply) => match reply {
                Some(Reply::Checkpoint(there)) => self.fenced(bus, there),
                _ => self.fence_failed(sink(Code::EtcdUnreachable, "whether there was progress could not be asked")),
            },
            (SessionCall::ReadBack, Some(Reply::DataRead(found))) => {
                let topic: std::sync::Arc<str> = TOPIC.into();
                let found = found.into_iter().map(|(key, id)| {
                    let key = Some(key.to_le_bytes().as_slice().into());
                    Found { topic: topic.clone(), key, id }
                });
                let remains = Remains::new(found.collect());
                bus.tell(&self.name(), || {
                    format!("reads back {} records that a torn transaction has left", remains.mark("", 0).count)
                });
                Some(Input::ReadBack(remains))
            }
            (SessionCall::ReadBack, _) => {
                self.session.sink_failed = true;
                Some(Input::Broken(sink(Code::KafkaUnreachable, "the data topics could not be read back")))
            }
            (SessionCall::Start, Some(Reply::Started)) => Some(self.started(bus)),
            (SessionCall::Start, Some(Reply::Refused(failure))) => Some(Input::NotStarted(failure)),
            (SessionCall::Start, _) => Some(Input::Broken(lost("START_REPLICATION was not answered"))),
            (SessionCall::Produce(partition), reply) => self.produced(bus, partition, reply),
            (SessionCall::EndTxn, reply) => self.ended_txn(bus, reply),
            (SessionCall::Standbys, reply) => {
                self.session_soon(bus, ms(100), SessionTimer::Standbys);
                let Some(Reply::Standbys(timeline, flushed)) = reply else { return None };
                self.session.publishing.as_mut()?.standbys_seen(timeline, flushed);
                Some(Input::Tick)
            }
            (SessionCall::Readable | SessionCall::Read, Some(_)) => None,
        }
    }

    fn ask_for_standbys(&mut self, bus: &mut Bus) {
        self.session_call(bus, Request::Postgres(PostgresRequest::Standbys), seconds(3), SessionCall::Standbys);
    }

    fn ask_readable(&mut self, bus: &mut Bus) {
        self.session_call(bus, Request::Kafka(KafkaRequest::Readable), seconds(3), SessionCall::Readable);
    }

    fn ask_read(&mut self, bus: &mut Bus) {
        let below = self.session.fencing.as_ref().and_then(|fencing| fencing.open_at).unwrap_or(usize::MAX);
        self.session_call(bus, Request::Kafka(KafkaRequest::Read { below }), seconds(5), SessionCall::Read);
    }

    fn readable(&mut self, bus: &mut Bus, last_stable: usize) -> Option<Input> {
        let open_at = self.session.fencing.as_ref()?.open_at?;
        if last_stable > open_at {
            return self
                .fence_failed(sink(Code::Fenced, "our transaction on the progress topic was ended by somebody"));
        }
        if last_stable == open_at {
            self.ask_read(bus);
            return None;
        }
        if self.fence_is_late(bus) {
            return self.fence_failed(sink(Code::ProgressBlocked, "an older transaction hangs below ours"));
        }
        self.session_soon(bus, ms(20), SessionTimer::Readable);
        None
    }

    fn progress_read(&mut self, bus: &mut Bus) {
        let nothing = self
            .session
            .fencing
            .as_ref()
            .and_then(|fencing| fencing.read.as_ref())
            .is_some_and(|read| read.position.is_none());
        if nothing && self.policy.leased {
            self.session_call(bus, Request::Etcd(EtcdRequest::HasCheckpoint), seconds(4), SessionCall::Witness);
        } else {
            let input = self.fenced(bus, false);
            self.told(bus, input);
        }
    }

    fn fenced(&mut self, bus: &mut Bus, checkpoint: bool) -> Option<Input> {
        let fencing = self.session.fencing.take()?;
        let read = fencing.read?;
        let witness =
            (read.position.is_none() && (checkpoint || read.witness)).then(|| "something was published".to_owned());
        let read = FenceRead {
            session: fencing.id,
            position: read.position.map(|position| self.recorded(bus, position)),
            from: ReadFrom::Progress,
            last_open: if bus.is(Mutant::NoBracket) { None } else { read.last_open },
            witness,
            remains: None,
            kafka_cluster: Some("k".to_owned()),
            topic_ids: TopicIds::default(),
        };
        Some(Input::SinkFenced(Box::new(read)))
    }

    pub(super) fn claim(&mut self, bus: &mut Bus, plan: Box<ClaimPlan>) {
        let plan = self.planned(bus, plan);
        bus.tell(&self.name(), || {
            let marks = plan.records.markers.len();
            format!(
                "claims term {} at {} watermark {}, start at {}{}",
                plan.journal.term(),
                plan.resume.position.lsn,
                plan.resume.watermark.lsn,
                plan.resume.start_at,
                if marks > 0 { ", with a marker" } else { "" }
            )
        });
        self.session.claiming = true;
        let records = plan.records.clone();
        self.session.plan = Some(plan);
        if bus.is(Mutant::NoClaim) {
            self.session.claiming = false;
            if let Some(sink) = &mut self.session.sink {
                sink.pretend_idle();
            }
            return self.told(bus, Some(Input::Claimed));
        }
        let Some(sink) = &mut self.session.sink else { return };
        for marker in records.markers {
            sink.write(MARKERS, Payload::progress(marker));
        }
        let mut progress = records.progress;
        let Some(last) = progress.pop() else { return };
        for record in progress {
            sink.write(PROGRESS, Payload::progress(record));
        }
        sink.commit(Payload::progress(last), self.clock.boottime(bus.now));
        self.flush_sink(bus);
    }

    /// The claim's transaction is committed.
    pub(super) fn claim_committed(&mut self) -> Option<Input> {
        std::mem::take(&mut self.session.claiming).then_some(Input::Claimed)
    }

    fn started(&mut self, bus: &mut Bus) -> Input {
        let (Some(plan), Some(sink)) = (&self.session.plan, self.session.sink.take()) else {
            return Input::Broken(SessionEnd::Stalled("the producer is gone".to_owned()));
        };
        let now = self.clock.boottime(bus.now);
        let flat = bus.is(Mutant::IdsByServerTimeline);
        let waits = self.standby_barrier && !bus.is(Mutant::PublishedBeforeFlushed);
        self.session.publishing = Some(Box::new(Publishing::new(plan, sink, flat, waits, now)));
        if waits {
            self.ask_for_standbys(bus);
        }
        for frame in std::mem::take(&mut self.session.early) {
            if let Err(end) = self.frame(bus, frame) {
                return Input::Broken(end);
            }
        }
        Input::Started
    }

    pub(super) fn session_timer(&mut self, bus: &mut Bus, timer: SessionTimer) -> Option<Input> {
        match timer {
            SessionTimer::Init => {
                self.init(bus);
                None
            }
            SessionTimer::Readable => {
                self.ask_readable(bus);
                None
            }
            SessionTimer::Produce(partition) => {
                self.produce_again(bus, partition);
                None
            }
            SessionTimer::EndTxn => {
                self.end_txn_again(bus);
                None
            }
            SessionTimer::Ended => {
                self.session.ending = None;
                Some(Input::SessionEnded)
            }
            SessionTimer::MustEnd => {
                self.session.ending.is_some().then(|| self.close_all(bus, false));
                None
            }
            SessionTimer::Standbys => {
                self.ask_for_standbys(bus);
                None
            }
            SessionTimer::ConnectionDead => {
                let cut = bus.link(self.id, Service::Postgres).is_cut();
                (cut && self.session.connection.is_some()).then(|| Input::Broken(lost("the connection timed out")))
            }
        }
    }

    /// The link to PostgreSQL was cut: the kernel gives the connection up some time later.
    pub fn link_cut(&mut self, bus: &mut Bus) {
        let after = bus.between(seconds(10), seconds(11));
        self.session_soon(bus, after, SessionTimer::ConnectionDead);
    }

    pub(super) fn frames(&mut self, bus: &mut Bus, connection: ConnectionId, frames: Vec<Frame>) -> Option<Input> {
        if self.session.connection != Some(connection) || self.session.ending.is_some() {
            // A connection that was closed, or that the process never got to know of.
            let unknown = !matches!(frames.first(), Some(Frame::Reset | Frame::End));
            unknown.then(|| bus.send_to_server(connection, FromClient::Closed));
            return None;
        }
        for frame in frames {
            let ended = match frame {
                Frame::Reset => Some(lost("the connection was closed")),
                Frame::End => Some(lost("the server ended the stream: it stops, restarts or switches over")),
                frame if self.session.publishing.is_none() => {
                    self.session.early.push(frame);
                    None
                }
                frame => self.frame(bus, frame).err(),
            };
            if let Some(end) = ended {
                return Some(Input::Broken(end));
            }
        }
        Some(Input::Tick)
    }

    // The end.

    pub(super) fn end_session(&mut self, bus: &mut Bus, commit: bool, by: Moment) {
        // A fence or claim under way is dropped; what is still on its way belongs to the session that ends here.
        let stepping = self.session.fencing.is_some() || self.session.claiming;
        self.session.fencing = None;
        self.session.claiming = false;
        if stepping {
            self.session.sink_failed = true;
        }
        let commits = commit
            && self
                .session
                .publishing
                .as_mut()
                .is_some_and(|publishing| publishing.closes_at_end(self.clock.boottime(bus.now)));
        if commits {
            // The commit's answers belong to this session still.
            self.session.ending = Some(Ending { by, aborts: true });
            self.flush_sink(bus);
            let left = by.since(self.now(bus));
            self.session_soon(bus, left, SessionTimer::MustEnd);
        } else {
            self.serial += 1;
            self.session.ending = Some(Ending { by, aborts: true });
            self.close_all(bus, false);
        }
    }

    /// The last commit of a session that ends is known.
    pub(super) fn last_commit(&mut self, bus: &mut Bus) -> bool {
        let ending = self.session.ending.is_some();
        if ending {
            self.close_all(bus, true);
        }
        ending
    }

    fn close_all(&mut self, bus: &mut Bus, confirm: bool) {
        let serial = self.serial;
        self.serial = serial + 1;
        let Some(ending) = self.session.ending.take() else { return };
        if confirm {
            self.send_status(bus);
        }
        if let Some(connection) = self.session.connection.take() {
            bus.send_to_server(connection, FromClient::Closed);
        }
        let sink_failed = self.session.sink_failed;
        let sink = match self.session.publishing.take() {
            Some(publishing) => Some(publishing.into_sink()),
            None => self.session.sink.take(),
        };
        if let Some(mut sink) = sink {
            let keep = bus.is(Mutant::FencePerTenure) || bus.is(Mutant::ReuseAfterAbort);
            if ending.aborts && !sink_failed && sink.is_open() {
                let (id, instance, epoch) = sink.names();
                let request = KafkaRequest::EndTxn { id, instance, epoch, commit: false };
                bus.audit.aborted(instance);
                self.send_end_of_transaction(bus, request, None);
                sink.pretend_idle();
            }
            if keep {
                self.session.left_over = Some(sink);
            }
        }
        self.session.sink_failed = false;
        let cut = bus.link(self.id, Service::Postgres).is_cut();
        let time = if cut { ms(500) } else { bus.between(ms(1), ms(20)) };
        self.session_soon(bus, time.min(ending.by.since(self.now(bus)).max(ms(1))), SessionTimer::Ended);
    }

    /// An end of a transaction on its way; some are delayed, the library sends them again, and both arrive. Answers
    /// whether it was sent twice.
    pub(super) fn send_end_of_transaction(
        &mut self,
        bus: &mut Bus,
        request: KafkaRequest,
        call: Option<SessionCall>,
    ) -> bool {
        let late = bus.chance(bus.late_ends);
        if late {
            let delay = bus.between(ms(50), seconds(6));
            bus.tell(&self.name(), || format!("its end of a transaction is held up for {delay:?}"));
            let body = Request::Kafka(request.clone());
            bus.after(delay, Event::Request { from: self.caller(), call: 0, body });
        }
        match call {
            Some(call) => self.session_call(bus, Request::Kafka(request), seconds(10), call),
            None if !late => {
                bus.call(self.caller(), Request::Kafka(request));
            }
            None => {}
        }
        late
    }

    // What mutants show to the machine instead of what is.

    fn shown(&self, bus: &Bus, mut inspection: Box<Inspection>) -> Box<Inspection> {
        if bus.is(Mutant::TerminateWithoutComparing)
            && let Some(name) = &mut inspection.reader_name
        {
            *name = format!("pgbaton/{}/00000000/00000000/t=0/r=0", self.worker.identity().pipeline_hash);
        }
        if let Some(recorded) = bus.audit.recorded_history().filter(|_| bus.is(Mutant::TimelinesByNumber)) {
            let server = &mut inspection.server;
            let (ours, theirs) = (recorded.current(), server.history.current());
            if ours == theirs {
                server.history = recorded;
            } else if ours < theirs && server.history.left().iter().all(|(left, _)| *left != ours) {
                // A higher number passes for a descendant.
                let left = recorded.left().iter().copied().chain([(ours, server.write_position)]).collect();
                server.history = History::new(left, theirs);
            }
        }
        inspection
    }

    fn recorded(&self, bus: &Bus, (mut record, hash): (ProgressRecord, String)) -> (ProgressRecord, String) {
        let Some(found) = &self.session.inspection else { return (record, hash) };
        let history = &found.server.history;
        if bus.is(Mutant::LsnsAcrossTimelines) {
            record.history = Some(history.left().to_vec());
            record.server_timeline = Some(history.current());
        }
        if bus.is(Mutant::StrictlyBeyondFork)
            && let Some(Fork::At(fork)) = record.history().map(|recorded| recorded.fork_with(history))
            && let Some(partial) = record.partial.as_mut().filter(|partial| partial.final_lsn == fork)
        {
            partial.final_lsn = Lsn(fork.0 - 1);
        }
        if bus.is(Mutant::TornNotRepeated) {
            record.torn = None;
        }
        (record, hash)
    }

    fn planned(&self, bus: &Bus, mut plan: Box<ClaimPlan>) -> Box<ClaimPlan> {
        if !bus.is(Mutant::WatermarkNotCut) {
            return plan;
        }
        let (Some(before), Some(claim)) = (bus.audit.latest_position(), plan.records.progress.last().cloned()) else {
            return plan;
        };
        let Some(recorded) = Recorded::of(&before) else { return plan };
        if recorded.watermark.lsn <= plan.resume.watermark.lsn {
            return plan;
        }
        plan.resume.watermark = recorded.watermark;
        let (Some(publication), Some(config_hash)) = (claim.publication, claim.config_hash) else { return plan };
        let facts = SessionFacts {
            session: claim.session,
            worker: claim.worker,
            history: plan.history.clone(),
            publication,
            config_hash,
            kafka_cluster: claim.kafka_cluster,
            lease: claim.lease,
        };
        let divergence = plan
            .records
            .progress
            .iter()
            .find(|record| record.record_type == RecordType::Divergence)
            .and_then(|record| record.divergence);
        let mut journal = Journal::new(facts, plan.journal.term(), Some(hash_of(&before.to_bytes())));
        plan.records = journal.claim(&plan.resume, false, Marks { divergence, accepted: Vec::new() }, claim.topics);
        plan.journal = journal;
        plan
    }
}
