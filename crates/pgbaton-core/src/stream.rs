//! The stream of one session: which change is published under which id, when a Kafka transaction ends, how far we are,
//! and what PostgreSQL is told of it. Reads no clock and touches no byte of a row.
//!
//! ```text
//!  PostgreSQL   B1 r r C1   B2 r C2        B3 r r r ...
//!  Kafka        open r r r close(P = C2)   open r r ... close(P = C2, partial = B3) open r ...
//!  acknowledged ............^ only when the close is durable, and never beyond what it says
//! ```
//!
//! One Kafka transaction is open or being committed at a time, so what is durable is always a prefix of what was read:
//! the confirmed position cannot jump over something still in flight.

use std::time::Duration;

use crate::resume::{ChangesHash, Discontinuity, Replay, Treatment};
use crate::{EventId, History, LastTransaction, Lsn, Moment, PartialTransaction, Reached, Resume, Watermark};

/// How Kafka transactions are cut.
#[derive(Debug, Clone, Copy)]
pub struct Cutting {
    /// Rows of one PostgreSQL transaction that are kept in one Kafka transaction.
    pub atomic_up_to: u64,
    /// A Kafka transaction is closed at the next commit once it is this old.
    pub open_time: Duration,
    /// ... or holds this many rows.
    pub rows: u64,
    /// An atomic transaction may stay open this long (half of `transaction.timeout.ms`).
    pub longest: Duration,
    /// How long an idle pipeline may leave its watermark unrecorded ...
    pub idle_time: Duration,
    /// ... and how much WAL.
    pub idle_bytes: u64,
}

impl Default for Cutting {
    fn default() -> Self {
        Cutting {
            atomic_up_to: 100_000,
            open_time: Duration::from_millis(50),
            rows: 20_000,
            longest: Duration::from_secs(30),
            idle_time: Duration::from_secs(10),
            idle_bytes: 64 << 20,
        }
    }
}

/// A change that is to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish {
    /// The id of its first record.
    pub id: EventId,
    /// The chunk it belongs to, if its transaction is published in chunks. The first chunk of a transaction that turned
    /// out to be large while it was being written carries none.
    pub chunk: Option<u64>,
}

/// The three positions of a standby status update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// What we have received.
    pub write: Lsn,
    /// What is durable; [`Lsn::INVALID`] leaves the slot unmoved.
    pub flush: Lsn,
}

/// Why a stream ends itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamBreak {
    /// What comes is not what must come.
    #[error(transparent)]
    Discontinuity(#[from] Discontinuity),
    /// Messages in an order that the protocol does not have.
    #[error("PostgreSQL sent {found} where {expected} was due")]
    OutOfOrder {
        /// The message.
        found: &'static str,
        /// What could have come.
        expected: &'static str,
    },
}

#[derive(Debug)]
struct Transaction {
    xid: u32,
    final_lsn: Lsn,
    committed_at: String,
    treatment: Treatment,
    changes: u64,
    /// Set from the second chunk on, or from the start where atomic publication has failed before.
    chunk: Option<u64>,
    /// Rows of it in the open Kafka transaction.
    rows_open: u64,
    /// A change is counted and not written yet.
    writing: bool,
}

/// A Kafka transaction that is being filled.
#[derive(Debug)]
struct Filling {
    since: Moment,
    rows: u64,
}

/// The stream of one session.
#[derive(Debug)]
pub struct Stream {
    cutting: Cutting,
    history: History,
    replay: Replay,
    hash: ChangesHash,
    transaction: Option<Transaction>,
    filling: Option<Filling>,
    committing: Option<Reached>,
    /// What was read to its end and handed to the sink.
    reached: Reached,
    /// Everything that commits up to here was read to its end, or did not concern us.
    clean_to: Lsn,
    durable: Reached,
    durable_since: Moment,
    received: Lsn,
    checked: bool,
    in_chunks: bool,
}

impl Stream {
    /// A stream that goes on where the verdict says, on a server with this history. `in_chunks`: the first transaction is
    /// not tried atomically, because that took too long before.
    pub fn new(resume: &Resume, history: History, cutting: Cutting, in_chunks: bool, now: Moment) -> Self {
        let reached = Reached::from(resume);
        Stream {
            cutting,
            history,
            replay: Replay::new(resume),
            hash: ChangesHash::default(),
            transaction: None,
            filling: None,
            committing: None,
            clean_to: reached.watermark.lsn,
            durable: reached.clone(),
            reached,
            durable_since: now,
            received: Lsn::INVALID,
            checked: false,
            in_chunks,
        }
    }

    /// The slot was read again after START and is ours: from now on positions are confirmed.
    pub fn slot_checked(&mut self) {
        self.checked = true;
    }

    /// A transaction begins.
    pub fn begin(&mut self, xid: u32, final_lsn: Lsn, committed_at: String) -> Result<(), StreamBreak> {
        if self.transaction.is_some() {
            return Err(StreamBreak::OutOfOrder { found: "Begin", expected: "a change or Commit" });
        }
        let treatment = self.replay.begin(xid, final_lsn, &committed_at)?;
        self.hash.reset();
        let chunk = match treatment {
            Treatment::Publish { skip, chunks } if skip > 0 => Some(chunks),
            _ => self.in_chunks.then_some(0),
        };
        let transaction =
            Transaction { xid, final_lsn, committed_at, treatment, changes: 0, chunk, rows_open: 0, writing: false };
        self.transaction = Some(transaction);
        Ok(())
    }

    /// One change (a row or a truncate) as its raw message. Answers with its id if it is to be published; until
    /// [`Stream::written`] says that it was, nothing can be closed.
    pub fn change(&mut self, message: &[u8]) -> Result<Option<Publish>, StreamBreak> {
        let Some(transaction) = &mut self.transaction else {
            return Err(StreamBreak::OutOfOrder { found: "a change", expected: "Begin" });
        };
        let Treatment::Publish { skip, .. } = transaction.treatment else {
            return Ok(None);
        };
        let change = transaction.changes;
        transaction.changes += 1;
        self.hash.add(message);
        if change < skip {
            if change + 1 == skip {
                self.replay.skipped(&self.hash)?;
            }
            return Ok(None);
        }
        let id = EventId {
            system_identifier: self.reached.position.system_identifier,
            timeline: self.history.owner_of(transaction.final_lsn),
            commit_lsn: transaction.final_lsn,
            change,
            part: 0,
        };
        transaction.writing = true;
        Ok(Some(Publish { id, chunk: transaction.chunk }))
    }

    /// The records of a change were handed to the sink.
    pub fn written(&mut self, now: Moment) {
        self.filling.get_or_insert(Filling { since: now, rows: 0 }).rows += 1;
        if let Some(transaction) = &mut self.transaction {
            transaction.rows_open += 1;
            transaction.writing = false;
        }
    }

    /// The transaction ends; `end_lsn` is the end of its commit record.
    pub fn commit(&mut self, end_lsn: Lsn) -> Result<(), StreamBreak> {
        let Some(transaction) = self.transaction.take() else {
            return Err(StreamBreak::OutOfOrder { found: "Commit", expected: "Begin" });
        };
        self.replay.commit(transaction.treatment)?;
        self.clean_to = self.clean_to.max(end_lsn);
        if let Treatment::Publish { .. } = transaction.treatment
            && transaction.changes > 0
        {
            self.in_chunks = false;
            self.reached.position.lsn = end_lsn;
            self.reached.position.timeline = self.history.owner_of_end(end_lsn);
            self.reached.partial = None;
            self.reached.last = Some(LastTransaction {
                xid: transaction.xid,
                final_lsn: transaction.final_lsn,
                lsn: end_lsn,
                committed_at: transaction.committed_at,
            });
        }
        Ok(())
    }

    /// A keepalive. `nothing_unread`: no data waits between the socket and this stream. Answers with the status to send
    /// at once, if one was asked for.
    ///
    /// Where the watermark is behind, the answer is write = walEnd and flush = 0: an invalid flush does not move the slot,
    /// and a server that shuts down then compares the *write* position, so its fast stop never waits for the sink.
    pub fn keepalive(
        &mut self,
        wal_end: Lsn,
        asked: bool,
        nothing_unread: bool,
    ) -> Result<Option<Status>, StreamBreak> {
        self.received(wal_end);
        if nothing_unread && self.transaction.is_none() {
            self.replay.sent_up_to(wal_end)?;
            if self.replay.is_over() {
                self.clean_to = self.clean_to.max(wal_end);
            }
        }
        if !asked {
            return Ok(None);
        }
        let confirmed = self.may_confirm() && self.durable.watermark.lsn >= wal_end;
        Ok(Some(if confirmed { self.status() } else { Status { write: self.received, flush: Lsn::INVALID } }))
    }

    /// WAL up to here has come in.
    pub fn received(&mut self, wal_end: Lsn) {
        self.received = self.received.max(wal_end);
    }

    /// The status to send on the timer.
    pub fn status(&self) -> Status {
        let flush = if self.may_confirm() { self.durable.watermark.lsn.min(self.received) } else { Lsn::INVALID };
        Status { write: self.received, flush }
    }

    /// Of two servers with equal histories and other WAL only the stream itself tells which one this is: what is confirmed
    /// to the wrong one is gone from its slot.
    fn may_confirm(&self) -> bool {
        self.checked && self.replay.has_proof()
    }

    /// Must the open Kafka transaction be closed now? `more`: more changes are already here.
    pub fn must_close(&self, now: Moment, more: bool) -> bool {
        let Some(filling) = &self.filling else { return false };
        match &self.transaction {
            None => !more || now.since(filling.since) >= self.cutting.open_time || filling.rows >= self.cutting.rows,
            Some(transaction) if transaction.writing => false,
            Some(transaction) => match transaction.chunk {
                None => transaction.rows_open >= self.cutting.atomic_up_to,
                Some(_) => {
                    filling.rows >= self.cutting.rows.min(self.cutting.atomic_up_to)
                        || now.since(filling.since) >= self.cutting.longest / 6
                }
            },
        }
    }

    /// May the next message be taken? In a transaction that is published in chunks a row is written only when it is known
    /// whether it is the last one, because its chunk mark says so: something always follows a row, nothing a commit.
    pub fn may_take(&self, is_commit: bool, more: bool) -> bool {
        let in_chunk = self.transaction.as_ref().is_some_and(|transaction| transaction.chunk.is_some());
        more || is_commit || !in_chunk
    }

    /// An atomic transaction has been open for too long: this session has to abort it, and the next one publishes it in
    /// chunks.
    pub fn open_too_long(&self, now: Moment) -> bool {
        self.filling.as_ref().is_some_and(|filling| now.since(filling.since) >= self.cutting.longest)
    }

    /// Is it time for an idle pipeline to make its watermark durable?
    pub fn idle_close_due(&self, now: Moment) -> bool {
        let behind = self.behind();
        self.filling.is_none()
            && self.committing.is_none()
            && self.transaction.is_none()
            && behind > 0
            && (now.since(self.durable_since) >= self.cutting.idle_time || behind >= self.cutting.idle_bytes)
    }

    /// When the answers of `open_too_long` and `idle_close_due` may change by time alone.
    pub fn deadline(&self) -> Option<Moment> {
        match &self.filling {
            Some(filling) => Some(filling.since + self.cutting.longest),
            None if self.committing.is_none() && self.transaction.is_none() && self.behind() > 0 => {
                Some(self.durable_since + self.cutting.idle_time)
            }
            None => None,
        }
    }

    /// Bytes of WAL that did not concern us and are not recorded as such yet.
    fn behind(&self) -> u64 {
        self.clean_to.bytes_since(self.durable.watermark.lsn)
    }

    /// Ends the open Kafka transaction (or an empty one): what its `close` says.
    pub fn close(&mut self) -> Reached {
        self.filling = None;
        if let Some(transaction) = &mut self.transaction
            && let Treatment::Publish { skip, .. } = transaction.treatment
            && transaction.changes > skip
        {
            let chunks = transaction.chunk.unwrap_or(0) + 1;
            self.reached.partial = Some(PartialTransaction {
                xid: transaction.xid,
                final_lsn: transaction.final_lsn,
                changes_done: transaction.changes,
                hash: self.hash.text(),
                chunks,
            });
            transaction.chunk = Some(chunks);
            transaction.rows_open = 0;
        }
        let lsn = self.clean_to.max(self.reached.position.lsn);
        self.reached.watermark = Watermark { timeline: self.history.owner_of_end(lsn), lsn };
        self.committing = Some(self.reached.clone());
        self.reached.clone()
    }

    /// The transaction that was closed last is durable.
    pub fn closed(&mut self, now: Moment) {
        if let Some(reached) = self.committing.take() {
            self.durable = reached;
            self.durable_since = now;
        }
    }

    /// A commit is under way: nothing may be written until it is known.
    pub fn is_committing(&self) -> bool {
        self.committing.is_some()
    }

    /// A Kafka transaction is open.
    pub fn is_filling(&self) -> bool {
        self.filling.is_some()
    }

    /// No PostgreSQL transaction is being read.
    pub fn at_boundary(&self) -> bool {
        self.transaction.is_none()
    }

    /// The open Kafka transaction can be closed here, early: between two transactions, or between two rows of one that is
    /// published in chunks.
    pub fn may_close(&self) -> bool {
        let between = |transaction: &Transaction| transaction.chunk.is_some() && !transaction.writing;
        self.is_filling() && !self.is_committing() && self.transaction.as_ref().is_none_or(between)
    }

    /// What is durable.
    pub fn durable(&self) -> &Reached {
        &self.durable
    }

    /// The highest LSN that has come in.
    pub fn received_lsn(&self) -> Lsn {
        self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, Position, SystemIdentifier, Timeline};

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    /// Published up to 100 on a server whose timeline 1 ended at 50.
    fn resume() -> Resume {
        Resume {
            position: Position { system_identifier: SystemIdentifier(7), timeline: Timeline(2), lsn: Lsn(100) },
            watermark: Watermark { timeline: Timeline(2), lsn: Lsn(100) },
            start_at: Lsn(100),
            continuity: None,
            last: None,
            partial: None,
        }
    }

    fn stream(resume: &Resume) -> Stream {
        let history = History::new(vec![(Timeline(1), Lsn(50))], Timeline(2));
        let cutting = Cutting { atomic_up_to: 3, rows: 2, ..Cutting::default() };
        let mut stream = Stream::new(resume, history, cutting, false, at(0));
        stream.slot_checked();
        stream
    }

    /// Feeds a whole transaction and answers with the ids that are published.
    fn transaction(stream: &mut Stream, xid: u32, final_lsn: u64, rows: &[&str]) -> Vec<String> {
        stream.begin(xid, Lsn(final_lsn), "t".into()).unwrap();
        let ids = rows.iter().filter_map(|row| row_of(stream, row)).collect();
        stream.received(Lsn(final_lsn + 10));
        stream.commit(Lsn(final_lsn + 10)).unwrap();
        ids
    }

    fn row_of(stream: &mut Stream, row: &str) -> Option<String> {
        let publish = stream.change(row.as_bytes()).unwrap()?;
        stream.written(at(0));
        Some(publish.id.to_string())
    }

    fn commit_to_kafka(stream: &mut Stream) -> Reached {
        let reached = stream.close();
        stream.closed(at(0));
        reached
    }

    #[test]
    fn nothing_is_confirmed_before_kafka_has_committed_it() {
        let mut stream = stream(&resume());
        assert_eq!(transaction(&mut stream, 1, 200, &["a", "b"]), ["7/2/0/C8/0", "7/2/0/C8/1"]);
        assert_eq!(stream.status(), Status { write: Lsn(210), flush: Lsn(100) });
        let reached = stream.close();
        assert_eq!((reached.position.lsn, reached.watermark.lsn), (Lsn(210), Lsn(210)));
        assert_eq!(stream.status().flush, Lsn(100), "closed is not committed");
        stream.closed(at(0));
        assert_eq!(stream.status().flush, Lsn(210));
    }

    #[test]
    fn nothing_is_confirmed_before_the_slot_was_checked_after_the_start() {
        let history = History::new(vec![], Timeline(1));
        let mut stream = Stream::new(&resume(), history, Cutting::default(), false, at(0));
        assert_eq!(stream.keepalive(Lsn(100), true, true).unwrap().unwrap().flush, Lsn::INVALID);
        assert_eq!(stream.status().flush, Lsn::INVALID);
    }

    #[test]
    fn a_flush_is_never_above_what_this_connection_received() {
        let stream = stream(&resume());
        assert_eq!(stream.status(), Status { write: Lsn(0), flush: Lsn(0) });
    }

    #[test]
    fn a_stopping_server_gets_its_write_position_back_while_rows_are_pending() {
        let mut stream = stream(&resume());
        transaction(&mut stream, 1, 200, &["a"]);
        let answer = stream.keepalive(Lsn(900), true, true).unwrap();
        assert_eq!(answer, Some(Status { write: Lsn(900), flush: Lsn::INVALID }));
        commit_to_kafka(&mut stream);
        assert_eq!(stream.status().flush, Lsn(900), "the close that made the row durable says it too");
    }

    #[test]
    fn an_idle_position_is_confirmed_only_after_a_transaction_of_its_own_has_recorded_it() {
        let mut stream = stream(&resume());
        let answer = stream.keepalive(Lsn(900), true, true).unwrap();
        assert_eq!(answer, Some(Status { write: Lsn(900), flush: Lsn::INVALID }));
        assert!(!stream.idle_close_due(at(9_999)) && stream.idle_close_due(at(10_000)));
        let reached = commit_to_kafka(&mut stream);
        assert_eq!((reached.position.lsn, reached.watermark.lsn), (Lsn(100), Lsn(900)));
        assert_eq!(stream.keepalive(Lsn(900), true, true).unwrap(), Some(Status { write: Lsn(900), flush: Lsn(900) }));
    }

    #[test]
    fn a_keepalive_behind_unread_data_moves_nothing() {
        let mut stream = stream(&resume());
        stream.keepalive(Lsn(900), false, false).unwrap();
        assert!(!stream.idle_close_due(at(20_000)));
    }

    #[test]
    fn what_was_published_is_dropped_and_the_proof_of_continuity_is_demanded() {
        let last = LastTransaction { xid: 9, final_lsn: Lsn(90), lsn: Lsn(100), committed_at: "t".into() };
        let resume = Resume { continuity: Some(last.clone()), last: Some(last), start_at: Lsn(90), ..resume() };
        let mut good = stream(&resume);
        assert!(transaction(&mut good, 9, 90, &["a"]).is_empty());
        assert_eq!(transaction(&mut good, 10, 100, &["b"]).len(), 1);

        let mut other = stream(&resume);
        let broken = other.begin(10, Lsn(100), "t".into()).unwrap_err();
        assert!(matches!(broken, StreamBreak::Discontinuity(Discontinuity { code: Code::Diverged, .. })));

        let mut absent = stream(&resume);
        absent.keepalive(Lsn(90), true, true).unwrap();
        assert!(absent.keepalive(Lsn(91), true, true).is_err(), "the server went past it without sending it");
    }

    #[test]
    fn kafka_transactions_end_at_commits_as_soon_as_nothing_more_is_here() {
        let mut stream = stream(&resume());
        stream.begin(1, Lsn(200), "t".into()).unwrap();
        row_of(&mut stream, "a");
        assert!(!stream.must_close(at(1000), false), "not in the middle of a transaction");
        stream.commit(Lsn(210)).unwrap();
        assert!(stream.must_close(at(0), false));
        assert!(!stream.must_close(at(49), true) && stream.must_close(at(50), true));
        transaction(&mut stream, 2, 300, &["b"]);
        assert!(stream.must_close(at(0), true), "full");
    }

    #[test]
    fn a_large_transaction_is_published_in_chunks_that_a_later_session_goes_on_from() {
        let mut first = stream(&resume());
        first.begin(5, Lsn(200), "t".into()).unwrap();
        for row in ["a", "b", "c"] {
            assert!(!first.must_close(at(0), true));
            row_of(&mut first, row);
        }
        assert!(first.must_close(at(0), true));
        let reached = commit_to_kafka(&mut first);
        let partial = reached.partial.clone().unwrap();
        assert_eq!((partial.xid, partial.changes_done, partial.chunks), (5, 3, 1));
        assert_eq!((reached.position.lsn, reached.watermark.lsn), (Lsn(100), Lsn(100)));
        let next = first.change(b"d").unwrap().unwrap();
        assert_eq!((next.id.change, next.chunk), (3, Some(1)));

        let resume = Resume { partial: Some(partial), ..resume() };
        let mut second = stream(&resume);
        assert_eq!(transaction(&mut second, 5, 200, &["a", "b", "c", "d"]), ["7/2/0/C8/3"]);
        let reached = commit_to_kafka(&mut second);
        assert_eq!((reached.position.lsn, reached.partial), (Lsn(210), None));
    }

    #[test]
    fn in_a_chunk_a_row_waits_for_what_follows_it_and_a_commit_does_not() {
        let mut stream = stream(&resume());
        stream.begin(5, Lsn(200), "t".into()).unwrap();
        for row in ["a", "b", "c"] {
            assert!(stream.may_take(false, false), "not in chunks yet");
            row_of(&mut stream, row);
        }
        commit_to_kafka(&mut stream);
        assert!(!stream.may_take(false, false) && stream.may_take(false, true));
        row_of(&mut stream, "d");
        assert!(stream.may_take(true, false), "nothing follows a commit for as long as the database is idle");
    }

    #[test]
    fn a_replay_that_is_not_what_was_published_publishes_nothing() {
        let mut first = stream(&resume());
        first.begin(5, Lsn(200), "t".into()).unwrap();
        for row in ["a", "b", "c"] {
            row_of(&mut first, row);
        }
        let resume = Resume { partial: commit_to_kafka(&mut first).partial, ..resume() };
        let is_mismatch = |broken: StreamBreak| {
            matches!(broken, StreamBreak::Discontinuity(Discontinuity { code: Code::ReplayMismatch, .. }))
        };

        let mut changed = stream(&resume);
        changed.begin(5, Lsn(200), "t".into()).unwrap();
        changed.change(b"a").unwrap();
        changed.change(b"bc").unwrap();
        assert!(is_mismatch(changed.change(b"").unwrap_err()));

        let mut shorter = stream(&resume);
        shorter.begin(5, Lsn(200), "t".into()).unwrap();
        shorter.change(b"a").unwrap();
        assert!(is_mismatch(shorter.commit(Lsn(210)).unwrap_err()));

        let mut another = stream(&resume);
        assert!(is_mismatch(another.begin(6, Lsn(200), "t".into()).unwrap_err()));

        let mut absent = stream(&resume);
        assert!(is_mismatch(absent.keepalive(Lsn(201), false, true).unwrap_err()));
    }

    #[test]
    fn messages_out_of_order_end_the_stream() {
        let mut stream = stream(&resume());
        assert!(stream.change(b"a").is_err());
        assert!(stream.commit(Lsn(1)).is_err());
        stream.begin(1, Lsn(200), "t".into()).unwrap();
        assert!(stream.begin(2, Lsn(300), "t".into()).is_err());
    }

    #[test]
    fn transactions_without_changes_move_the_watermark_and_publish_nothing() {
        let mut stream = stream(&resume());
        transaction(&mut stream, 1, 200, &[]);
        assert!(!stream.must_close(at(0), false));
        assert!(stream.idle_close_due(at(10_000)));
        let reached = commit_to_kafka(&mut stream);
        assert_eq!((reached.position.lsn, reached.watermark.lsn), (Lsn(100), Lsn(210)));
    }
}
