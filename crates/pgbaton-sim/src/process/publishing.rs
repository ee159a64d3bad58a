//! The data path of one session: frames in, records out, positions back. What to publish, when to close and what to tell
//! PostgreSQL is decided by the core's `Stream`; this moves messages.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use pgbaton_core::{
    Barrier, ClaimPlan, Cutting, Failure, FailureKind, Flushed, Gap, History, Journal, Lsn, Moment, Remains,
    SessionEnd, Status, Stream, StreamBreak, Timeline,
};

use super::Process;
use super::session::TOPIC;
use super::sink::Sink;
use crate::bus::Bus;
use crate::kafka::{DATA, DataRecord, Payload};
use crate::message::{Frame, FromClient};
use crate::mutant::Mutant;
use crate::postgres::Txn;
use crate::time::{ms, seconds};

/// Status updates go out this often, unasked.
const STATUS_PERIOD: Duration = seconds(1);
/// After this much silence they ask for an answer.
const ASK_AFTER: Duration = seconds(2);
/// Silence is told from here on.
const SILENT_AFTER: Duration = seconds(5);
/// The sink has moved nothing for this long: the stream is closed on purpose.
const STALLED_AFTER: Duration = seconds(5);
/// Frames that are worked on before the loop looks at anything else.
const TURN: usize = 512;
/// Rows that are kept in one Kafka transaction: few, so that chunks are common.
pub(crate) const ATOMIC_UP_TO: u64 = 8;

/// How Kafka transactions are cut here.
fn cutting() -> Cutting {
    Cutting {
        atomic_up_to: ATOMIC_UP_TO,
        rows: 12,
        open_time: ms(50),
        idle_time: seconds(4),
        idle_bytes: 1 << 20,
        ..Cutting::default()
    }
}

#[derive(Debug)]
enum Message {
    Begin(Rc<Txn>),
    Change(Rc<Txn>, usize),
    Commit(Lsn),
}

pub(super) struct Publishing {
    pub stream: Stream,
    journal: Journal,
    pub sink: Sink,
    term: u64,
    accepting: bool,
    backlog: VecDeque<Message>,
    status_due: Moment,
    moved: Option<Moment>,
    /// What the last close says: for the mutant that believes it before it is committed.
    closing: Lsn,
    /// Published by a torn transaction, and not published once more.
    remains: Option<Remains>,
    /// When something came from PostgreSQL last.
    heard: Moment,
    /// Where publication waits for standbys: those of the server that is read, on its timeline.
    barrier: Option<(Barrier, Timeline)>,
}

impl Publishing {
    pub fn new(plan: &ClaimPlan, sink: Sink, flat: bool, waits: bool, now: Moment) -> Self {
        let history = if flat { History::new(Vec::new(), plan.history.current()) } else { plan.history.clone() };
        Publishing {
            stream: Stream::new(&plan.resume, history, cutting(), plan.in_chunks, now),
            journal: plan.journal.clone(),
            sink,
            term: plan.journal.term().0,
            accepting: false,
            backlog: VecDeque::new(),
            status_due: now + STATUS_PERIOD,
            moved: None,
            closing: Lsn::INVALID,
            remains: plan.remains.clone(),
            heard: now,
            barrier: waits.then(|| (Barrier::default(), plan.history.current())),
        }
    }

    pub fn accept(&mut self) {
        self.accepting = true;
        self.stream.slot_checked();
    }

    pub fn due(&self) -> Moment {
        let deadline = self.stream.deadline().unwrap_or(self.status_due);
        let stalled = self.moved.map_or(self.status_due, |moved| moved + STALLED_AFTER);
        self.status_due.min(deadline).min(stalled)
    }

    pub fn delivered(&mut self, now: Moment) {
        self.moved = (self.sink.in_flight() > 0 || self.stream.is_committing()).then_some(now);
    }

    pub fn committed(&mut self, now: Moment) {
        self.moved = None;
        self.stream.closed(now);
        // Durable: PostgreSQL hears of it in this very turn.
        self.status_due = now;
    }

    pub fn into_sink(self) -> Sink {
        self.sink
    }

    /// The session ends and may commit: closes what can be closed. False if there is nothing to wait for.
    pub fn closes_at_end(&mut self, now: Moment) -> bool {
        if !self.accepting {
            return false;
        }
        if self.stream.may_close() {
            self.close(now);
        }
        self.stream.is_committing()
    }

    fn close(&mut self, now: Moment) {
        let reached = self.stream.close();
        self.closing = reached.watermark.lsn;
        let close = self.journal.close(&reached);
        self.sink.commit(Payload::progress(close), now);
        self.moved = Some(now);
    }

    fn begin(&mut self, now: Moment, unbracketed: bool) -> Result<(), SessionEnd> {
        if self.sink.is_tainted() {
            return Err(SessionEnd::ProducerSpent("the end of a transaction may still be under way".to_owned()));
        }
        let open = self.journal.open(Vec::new());
        self.sink.begin(open, unbracketed);
        self.moved.get_or_insert(now);
        Ok(())
    }

    fn has_work(&self) -> bool {
        let Some(next) = self.backlog.front() else { return false };
        self.accepting
            && !self.stream.is_committing()
            && self.stream.may_take(matches!(next, Message::Commit(_)), self.backlog.len() > 1)
            && !self.is_held_back()
    }

    pub fn standbys_seen(&mut self, timeline: Timeline, flushed: Flushed) {
        if let Some((barrier, _)) = self.barrier.as_mut().filter(|(_, read)| *read == timeline) {
            barrier.seen(flushed);
        }
    }

    /// What comes next has to wait for standbys.
    fn is_held_back(&self) -> bool {
        let (Some((barrier, _)), Some(Message::Begin(txn))) = (&self.barrier, self.backlog.front()) else {
            return false;
        };
        let mut read = self.backlog.iter();
        let end = read.find_map(|message| if let Message::Commit(end) = message { Some(*end) } else { None });
        !barrier.lets(txn.final_lsn, end)
    }

    /// More can be worked on now.
    fn has_more(&self) -> bool {
        !self.backlog.is_empty() && !self.is_held_back()
    }

    fn message(
        &mut self,
        message: &Message,
        now: Moment,
        partitions: usize,
        unbracketed: bool,
    ) -> Result<(), SessionEnd> {
        match message {
            Message::Begin(txn) => {
                if self.remains.as_ref().is_some_and(|remains| remains.end_before(txn.final_lsn)) {
                    self.remains = None;
                }
                self.stream.begin(txn.xid, txn.final_lsn, txn.committed_at.clone()).map_err(broken)
            }
            Message::Commit(end) => self.stream.commit(*end).map_err(broken),
            Message::Change(txn, change) => {
                let Some(publish) = self.stream.change(&txn.message(*change)).map_err(broken)? else { return Ok(()) };
                if !self.stream.is_filling() {
                    self.begin(now, unbracketed)?;
                }
                let row = txn.rows[*change];
                let record = DataRecord {
                    id: publish.id,
                    term: self.term,
                    key: row.key,
                    value: row.value,
                    in_chunks: publish.chunk.is_some(),
                };
                let key = row.key.to_le_bytes();
                if !self.remains.as_ref().is_some_and(|remains| remains.hold(TOPIC, Some(&key), &publish.id)) {
                    self.sink.write(DATA + row.key as usize % partitions, Payload::Data(record));
                }
                self.moved.get_or_insert(now);
                self.stream.written(now);
                Ok(())
            }
        }
    }

    fn watch_the_sink(&mut self, now: Moment) -> Result<(), SessionEnd> {
        if self.sink.in_flight() == 0 && !self.stream.is_committing() {
            self.moved = None;
        }
        match self.moved {
            Some(moved) if now.since(moved) >= STALLED_AFTER => {
                Err(SessionEnd::Stalled("Kafka has acknowledged nothing for 5 s".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

impl Process {
    /// One turn of the data path.
    pub(super) fn turn(&mut self, bus: &mut Bus) -> Result<(), SessionEnd> {
        let now = self.now(bus);
        let (partitions, unbracketed) = (self.partitions, bus.is(Mutant::NoBracket));
        let Some(publishing) = &mut self.session.publishing else { return Ok(()) };
        let mut left = TURN;
        while left > 0 && publishing.has_work() {
            left -= 1;
            let Some(message) = publishing.backlog.pop_front() else { break };
            publishing.message(&message, now, partitions, unbracketed)?;
            if publishing.stream.is_filling() && publishing.stream.must_close(now, publishing.has_more()) {
                publishing.close(now);
            }
        }
        if publishing.accepting && !publishing.stream.is_committing() {
            if !publishing.has_more() && publishing.stream.must_close(now, false) {
                publishing.close(now);
            } else if publishing.backlog.is_empty() && publishing.stream.idle_close_due(now) {
                publishing.begin(now, unbracketed)?;
                publishing.close(now);
            } else if publishing.stream.open_too_long(now) {
                return Err(SessionEnd::OpenTooLong);
            }
        }
        publishing.watch_the_sink(now)?;
        let tells = now >= publishing.status_due;
        self.flush_sink(bus);
        if tells {
            self.send_status(bus);
        }
        Ok(())
    }

    pub(super) fn send_status(&mut self, bus: &mut Bus) {
        let now = self.now(bus);
        let Some(publishing) = &mut self.session.publishing else { return };
        publishing.status_due = now + STATUS_PERIOD;
        let status = publishing.stream.status();
        let asks = now.since(publishing.heard) >= ASK_AFTER;
        self.answer(bus, status, asks);
    }

    /// When something came from the stream last, if that is some time ago.
    pub(super) fn silent_since(&self, bus: &Bus) -> Option<Moment> {
        let heard = self.session.publishing.as_ref()?.heard;
        (self.now(bus).since(heard) >= SILENT_AFTER).then_some(heard)
    }

    fn answer(&mut self, bus: &mut Bus, status: Status, asks: bool) {
        let (Some(connection), Some(publishing)) = (self.session.connection, &self.session.publishing) else { return };
        let mut flush = status.flush;
        if publishing.accepting && bus.is(Mutant::AckBeforeCommit) {
            flush = publishing.stream.received_lsn();
        }
        if publishing.accepting && bus.is(Mutant::HighestAckWins) {
            flush = flush.max(publishing.closing);
        }
        bus.audit.acknowledges(connection, flush, bus.now);
        bus.send_to_server(connection, FromClient::Status { write: status.write, flush, asks });
    }

    pub(super) fn frame(&mut self, bus: &mut Bus, frame: Frame) -> Result<(), SessionEnd> {
        let now = self.now(bus);
        let Some(publishing) = &mut self.session.publishing else { return Ok(()) };
        publishing.heard = now;
        match frame {
            Frame::Begin(txn, at) => {
                publishing.stream.received(at);
                publishing.backlog.push_back(Message::Begin(txn));
            }
            Frame::Change(txn, row) => publishing.backlog.push_back(Message::Change(txn, row)),
            Frame::Commit(end) => {
                publishing.stream.received(end);
                publishing.backlog.push_back(Message::Commit(end));
            }
            Frame::End | Frame::Reset => {}
            Frame::KeepAlive { wal_end, asked } => {
                let nothing_unread = publishing.backlog.is_empty();
                if let Some(status) = publishing.stream.keepalive(wal_end, asked, nothing_unread).map_err(broken)? {
                    self.answer(bus, status, false);
                }
            }
        }
        Ok(())
    }
}

fn broken(broken: StreamBreak) -> SessionEnd {
    match broken {
        StreamBreak::Discontinuity(found) => SessionEnd::Contradiction(Gap {
            code: found.code,
            timeline: Timeline(0),
            from_lsn: found.at,
            to_lsn: None,
            text: found.text,
        }),
        other => SessionEnd::Stream(Failure {
            code: pgbaton_core::Code::PostgresUnreachable,
            detail: other.to_string(),
            kind: FailureKind::Passing,
        }),
    }
}
