//! The data path of one session: frames in, records out, positions back. What to publish, when to close and what to tell
//! PostgreSQL is decided by the core's [`Stream`]; this moves bytes.

mod intake;
mod rows;
mod topics;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use pgbaton_core::{
    ClaimPlan, Code, Cutting, Gap, Journal, Lsn, Moment, Remains, SessionEnd, Stream, StreamBreak, Tenure,
};
use pgbaton_postgres::catalog::Waiting;
use pgbaton_postgres::{ReplicationConnection, StreamError};
use pgbaton_sinks::debezium::{Records, Source, TableEncoder};

use self::intake::Intake;
use self::rows::Held;
use self::topics::TopicWatch;
use super::access::Access;
use super::failures;
use super::sink::{Sink, Told};
use super::standbys::StandbyWatch;
use crate::clock::boottime;
use crate::metrics::Meters;
use crate::status::Counters;

/// Bytes of records handed to the sink and not acknowledged, by the average size of a record.
const IN_FLIGHT_BYTES: u64 = 32 << 20;
/// ... and their number.
const IN_FLIGHT_RECORDS: u64 = 100_000;
/// Frames that are worked on before the loop looks at anything else.
const TURN: usize = 512;
/// The sink has moved nothing for this long: the stream is closed on purpose.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// How changes are told: the same for every session.
pub struct Telling {
    /// What each event says of where it comes from.
    pub source: Source,
    /// Where transactions are cut.
    pub cutting: Cutting,
    /// Whose flush they wait for.
    pub waiting: Option<Waiting>,
}

/// What the data path needs beside its connections.
pub struct Publishing {
    /// Decides.
    pub stream: Stream,
    /// Writes the progress records.
    journal: Journal,
    /// From PostgreSQL.
    intake: Intake,
    /// To Kafka.
    pub sink: Sink,
    /// Primary keys of tables whose changes do not tell them, by OID; empty where a table has none.
    keys: HashMap<u32, Vec<String>>,
    source: Source,
    meters: Meters,
    accepting: bool,
    /// As far as the lease has been found alive; none where there is no tenure.
    hands_over_until: Option<Moment>,
    tables: HashMap<u32, TableEncoder>,
    records: Records,
    scratch: Scratch,
    transaction: Option<TransactionFacts>,
    held: Option<Held>,
    /// The transaction that is being read has published something.
    published_some: bool,
    last_commit_lsn: Option<Lsn>,
    /// Published by a torn transaction, and not published once more.
    remains: Option<Remains>,
    /// When the sink moved last, or the oldest pending record was handed to it.
    moved: Option<Moment>,
    average_record: u64,
    /// Topics that the claim or an `open` has named: only these may be written.
    named: HashSet<String>,
    /// Topics that the next `open` names.
    new_topics: Vec<String>,
    topic_watch: TopicWatch,
    counters: Counters,
    last_commit: Option<Duration>,
    last_commit_time: Option<SystemTime>,
}

#[derive(Default)]
struct Scratch {
    term: String,
    id: String,
    chunk: String,
}

struct TransactionFacts {
    xid: u32,
    commit_time_micros: i64,
}

impl Publishing {
    /// A data path that reads and answers keepalives, and publishes nothing before [`Publishing::accept`].
    pub fn new(
        plan: &ClaimPlan,
        telling: &Telling,
        connection: ReplicationConnection,
        sink: Sink,
        keys: HashMap<u32, Vec<String>>,
        access: &Access,
        meters: Meters,
    ) -> Self {
        let now = boottime();
        let read = (plan.resume.position.system_identifier, plan.history.current());
        let watch = |waiting| StandbyWatch::start(waiting, access.conninfo.clone(), read);
        Publishing {
            stream: Stream::new(&plan.resume, plan.history.clone(), telling.cutting, plan.in_chunks, now),
            journal: plan.journal.clone(),
            intake: Intake::new(connection, telling.waiting.map(watch)),
            sink,
            keys,
            source: telling.source.clone(),
            meters,
            accepting: false,
            hands_over_until: None,
            tables: HashMap::new(),
            records: Records::default(),
            scratch: Scratch { term: plan.journal.term().to_string(), ..Scratch::default() },
            transaction: None,
            held: None,
            published_some: false,
            last_commit_lsn: plan.resume.last.as_ref().map(|last| last.lsn),
            remains: plan.remains.clone(),
            moved: None,
            average_record: 512,
            named: plan.topics().iter().cloned().collect(),
            new_topics: Vec::new(),
            topic_watch: TopicWatch::start(access.kafka.clone(), plan.topics().to_vec()),
            counters: Counters::default(),
            last_commit: None,
            last_commit_time: None,
        }
    }

    /// The slot has been checked after START: publish from now on, and confirm what is durable.
    pub fn accept(&mut self) {
        self.accepting = true;
        self.stream.slot_checked();
    }

    /// The lease as it was found last.
    pub fn renewed(&mut self, tenure: Option<&Tenure>) {
        self.hands_over_until = tenure.map(Tenure::hands_over_until);
    }

    /// What was done since the last call.
    pub fn take_counters(&mut self) -> Counters {
        std::mem::take(&mut self.counters)
    }

    /// How long the last commit took.
    pub fn last_commit(&self) -> Option<Duration> {
        self.last_commit
    }

    /// When the transaction that was read last committed; none while nothing is behind.
    pub fn behind_since(&self) -> Option<SystemTime> {
        let pending =
            self.stream.is_filling() || self.stream.is_committing() || self.held.is_some() || !self.intake.is_empty();
        self.last_commit_time.filter(|_| pending)
    }

    /// Waits until there is something to do, and does it. Cancelling it between turns loses nothing: what was read stays
    /// in the connection or in the backlog.
    pub async fn wait(&mut self, until: Moment) -> Result<(), SessionEnd> {
        let until = until.min(self.intake.status_due).min(self.stream.deadline().unwrap_or(until));
        if self.has_work() {
            // Looks at the sink in passing, so that a long backlog hides neither its failure nor its progress.
            tokio::select! {
                biased;
                event = self.sink.event() => self.sink_event(event)?,
                () = tokio::task::yield_now() => {}
            }
            return self.intake.read_what_is_here(&mut self.stream);
        }
        let pause = until.since(boottime());
        if let Some(Held::Topic { encoder, .. }) = &self.held {
            let topic = [encoder.topic()];
            return tokio::select! {
                prepared = self.sink.prepare_topics(&topic) => match prepared {
                    Ok(()) => self.topic_is_ready(),
                    Err(error) => Err(failures::topic(&error)),
                },
                read = self.intake.read(&mut self.stream) => read,
                () = tokio::time::sleep(pause) => Ok(()),
            };
        }
        tokio::select! {
            event = self.sink.event() => self.sink_event(event),
            read = self.intake.read(&mut self.stream) => read,
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// Data is here and the sink can take it.
    fn has_work(&self) -> bool {
        let Some(next) = self.intake.front() else { return false };
        self.accepting
            && self.held.is_none()
            && !self.stream.is_committing()
            && !self.sink_is_full()
            && self.stream.may_take(is_commit(next), self.intake.len() > 1)
            && !self.intake.is_held_back()
    }

    /// More can be worked on now.
    fn has_more(&self) -> bool {
        !self.intake.is_empty() && !self.intake.is_held_back()
    }

    /// Why nothing is published while standbys are waited for, if that has lasted.
    pub fn waits_for_standbys(&self) -> Option<(Code, String)> {
        self.intake.waits_for_standbys()
    }

    fn sink_is_full(&self) -> bool {
        !self.sink.has_room(self.hands_over_until)
            || self.sink.in_flight() >= (IN_FLIGHT_BYTES / self.average_record.max(1)).clamp(64, IN_FLIGHT_RECORDS)
    }

    /// One turn: works on what is here, closes what is due, tells PostgreSQL how far we are. Waits for nothing.
    pub fn turn(&mut self) -> Result<(), SessionEnd> {
        self.intake.look_at_standbys();
        let mut left = TURN;
        while left > 0 && self.step()? {
            left -= 1;
            if self.stream.is_filling() && self.stream.must_close(boottime(), self.has_more()) {
                self.close();
            }
        }
        let now = boottime();
        // There may be nothing left to do behind a commit that was read in an earlier turn.
        if self.accepting && !self.stream.is_committing() {
            if !self.has_more() && self.stream.must_close(now, false) {
                self.close();
            } else if self.intake.is_empty() && self.stream.idle_close_due(now) {
                self.begin()?;
                self.close();
            } else if self.stream.open_too_long(now) {
                return Err(SessionEnd::OpenTooLong);
            }
        }
        let learned = self.topic_watch.look(self.journal.topic_ids())?;
        self.journal.learn(learned);
        self.watch_the_sink(now)?;
        if now >= self.intake.status_due {
            self.intake.tell(&self.stream, now)?;
        }
        Ok(())
    }

    /// When something came last, if that is some time ago.
    pub fn silent_since(&self, now: Moment) -> Option<Moment> {
        self.intake.silent_since(now)
    }

    fn begin(&mut self) -> Result<(), SessionEnd> {
        let open = self.journal.open(std::mem::take(&mut self.new_topics));
        self.sink.begin(&open)?;
        self.moved.get_or_insert_with(boottime);
        Ok(())
    }

    fn close(&mut self) {
        let reached = self.stream.close();
        self.sink.commit(self.journal.close(&reached));
        self.moved = Some(boottime());
    }

    fn sink_event(&mut self, event: Told) -> Result<(), SessionEnd> {
        let now = boottime();
        match event {
            Told::Delivered => {
                self.moved = self.waits_for_the_sink().then_some(now);
            }
            Told::Committed(took) => {
                self.moved = None;
                self.last_commit = Some(took);
                self.meters.commit(took);
                self.stream.closed(now);
                // Durable: PostgreSQL hears of it in this very turn.
                self.intake.status_due = now;
            }
            Told::Failed(end) => return Err(end),
        }
        Ok(())
    }

    fn watch_the_sink(&mut self, now: Moment) -> Result<(), SessionEnd> {
        // While a topic is waited for nobody hears what the sink tells.
        if !self.waits_for_the_sink() || matches!(self.held, Some(Held::Topic { .. })) {
            self.moved = None;
            return Ok(());
        }
        let moved = *self.moved.get_or_insert(now);
        if now.since(moved) < STALLED_AFTER {
            return Ok(());
        }
        Err(SessionEnd::Stalled(format!("Kafka has acknowledged nothing for {} s", STALLED_AFTER.as_secs())))
    }

    fn waits_for_the_sink(&self) -> bool {
        self.sink.waits_for_kafka(self.stream.is_committing()) || matches!(self.held, Some(Held::Change(_)))
    }

    /// Ends the data path. With `commit`, what is complete is committed and confirmed by then; the rest is left for the
    /// next session, which finds it where progress says.
    pub async fn finish(mut self, commit: bool, by: Moment, sink_failed: bool) {
        let limit = by.since(boottime());
        let _ = tokio::time::timeout(limit, async {
            if commit && self.accepting {
                if self.stream.may_close() {
                    self.close();
                }
                while self.stream.is_committing() {
                    let event = self.sink.event().await;
                    if self.sink_event(event).is_err() {
                        break;
                    }
                }
                let _ = self.intake.tell(&self.stream, boottime());
            }
        })
        .await;
        let Publishing { intake, sink, stream, held, .. } = self;
        let open = stream.is_filling() || matches!(held, Some(Held::Change(_)));
        intake.close(by.since(boottime()).min(Duration::from_millis(500))).await;
        if !sink_failed {
            let _ = tokio::time::timeout(by.since(boottime()), sink.close(open)).await;
        }
    }
}

/// The first byte of a pgoutput message is its kind.
fn is_commit(message: &[u8]) -> bool {
    message.first() == Some(&b'C')
}

fn out_of_order(found: &'static str, expected: &'static str) -> SessionEnd {
    broken(StreamBreak::OutOfOrder { found, expected })
}

fn broken(broken: StreamBreak) -> SessionEnd {
    match broken {
        StreamBreak::Discontinuity(discontinuity) => SessionEnd::Contradiction(Gap {
            code: discontinuity.code,
            timeline: pgbaton_core::Timeline(0),
            from_lsn: discontinuity.at,
            to_lsn: None,
            text: discontinuity.text,
        }),
        other => SessionEnd::Stream(failures::passing(Code::PostgresUnreachable, other.to_string())),
    }
}

fn stream_end(error: StreamError) -> SessionEnd {
    SessionEnd::Stream(failures::stream(&error))
}
