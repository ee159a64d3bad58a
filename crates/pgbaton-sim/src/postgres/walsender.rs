//! Walsenders: what a logical replication connection sends, believes and waits for.

use std::time::Duration;

use pgbaton_core::{Code, Failure, FailureKind, Lsn, ReaderName};

use super::{ConnectionId, NodeId, Postgres, unreachable};
use crate::bus::Bus;
use crate::message::{Caller, Event, Frame, FromClient, Reply};
use crate::postgres::Tick;
use crate::time::{Time, ms, seconds};

/// `wal_sender_timeout`, as our workers set it.
const TIMEOUT: Duration = seconds(5);
/// Messages that are sent in one go.
const BATCH: usize = 24;

pub(crate) struct Walsender {
    pub node: NodeId,
    /// None: a consumer that is not ours.
    pub client: Option<Caller>,
    pub name: String,
    pub since: Time,
    pub streaming: Option<Streaming>,
}

#[derive(Debug)]
pub(crate) struct Streaming {
    /// Of the node's WAL.
    next: usize,
    /// Within the transaction that is being sent.
    row: usize,
    pub sent: Lsn,
    pub write: Lsn,
    flush: Lsn,
    heard: Time,
    asked: bool,
    pumping: bool,
}

impl Walsender {
    pub fn new(node: NodeId, client: Option<Caller>, since: Time) -> Self {
        Walsender { node, client, name: "pgbaton/".to_owned(), since, streaming: None }
    }
}

impl Walsender {
    /// For WAL, or for its client.
    pub fn waits(&self) -> bool {
        self.streaming.as_ref().is_some_and(|streaming| !streaming.pumping)
    }
}

impl Postgres {
    pub(super) fn start(&mut self, bus: &mut Bus, connection: ConnectionId, name: &ReaderName, at: Lsn) -> Reply {
        let Some(walsender) = self.walsenders.get_mut(&connection) else {
            return Reply::Refused(unreachable("the connection was lost"));
        };
        walsender.name = name.to_string();
        let node = walsender.node;
        if self.nodes[node].stopping {
            return Reply::Refused(super::stopping());
        }
        let in_recovery = self.nodes[node].in_recovery;
        let Some(slot) = &mut self.nodes[node].slot else {
            return Reply::Refused(Failure {
                code: Code::PostgresUnreachable,
                detail: "the slot does not exist".to_owned(),
                kind: FailureKind::Passing,
            });
        };
        if slot.reader.is_some_and(|reader| reader != connection) {
            return Reply::Refused(Failure {
                code: Code::PostgresUnreachable,
                detail: "the slot is active".to_owned(),
                kind: FailureKind::SlotInUse,
            });
        }
        slot.reader = Some(connection);
        // Behind what was confirmed is forwarded silently; ahead is taken at its word.
        let from = at.max(slot.confirmed);
        let wal = &self.nodes[node].wal;
        let next = wal.partition_point(|record| record.start < from);
        let sent = next.checked_sub(1).map_or(super::Node::BEGINNING, |last| wal[last].end);
        let history = self.nodes[node].history();
        bus.tell(&self.nodes[node].name(), || format!("streams to {name} from {at}"));
        bus.audit.started(connection, name, at, &history, in_recovery, bus.now);
        if let Some(walsender) = self.walsenders.get_mut(&connection) {
            walsender.since = bus.now;
            walsender.streaming = Some(Streaming {
                next,
                row: 0,
                sent,
                write: Lsn::INVALID,
                flush: Lsn::INVALID,
                heard: bus.now,
                asked: false,
                pumping: true,
            });
        }
        bus.after(ms(3), Event::Postgres(Tick::Pump(connection)));
        bus.after(ms(500), Event::Postgres(Tick::Beat(connection)));
        Reply::Started
    }

    /// New WAL: whoever sends it wakes up.
    pub(super) fn woken(&mut self, bus: &mut Bus, node: NodeId) {
        for (connection, walsender) in &mut self.walsenders {
            if let Some(streaming) = walsender.streaming.as_mut().filter(|_| walsender.node == node)
                && !streaming.pumping
            {
                streaming.pumping = true;
                let delay = bus.between(Duration::from_micros(200), ms(2));
                bus.after(delay, Event::Postgres(Tick::Pump(*connection)));
            }
        }
    }

    /// Sends what there is, a batch at a time.
    pub(super) fn pump(&mut self, bus: &mut Bus, connection: ConnectionId) {
        let Some(walsender) = self.walsenders.get_mut(&connection) else { return };
        let node = &self.nodes[walsender.node];
        let Some(streaming) = &mut walsender.streaming else { return };
        let mut frames = Vec::new();
        while frames.len() < BATCH
            && let Some(record) = node.wal.get(streaming.next)
        {
            if let Some(txn) = &record.txn {
                if streaming.row == 0 {
                    frames.push(Frame::Begin(txn.clone(), txn.final_lsn));
                }
                let rows = txn.rows.len().min(streaming.row + BATCH);
                frames.extend((streaming.row..rows).map(|row| Frame::Change(txn.clone(), row)));
                streaming.row = rows;
                if rows < txn.rows.len() {
                    continue;
                }
                frames.push(Frame::Commit(record.end));
                streaming.row = 0;
            }
            streaming.sent = record.end;
            streaming.next += 1;
        }
        let more = streaming.next < node.wal.len();
        streaming.pumping = more;
        if !more {
            // It sleeps now; if the client is behind, it wants to know where the client is.
            if streaming.write < streaming.sent && streaming.flush < streaming.sent && !streaming.asked {
                streaming.asked = true;
                frames.push(Frame::KeepAlive { wal_end: streaming.sent, asked: true });
            }
        } else {
            bus.after(ms(2), Event::Postgres(Tick::Pump(connection)));
        }
        bus.send_frames(connection, frames);
    }

    pub(super) fn beat(&mut self, bus: &mut Bus, connection: ConnectionId) {
        let Some(walsender) = self.walsenders.get_mut(&connection) else { return };
        let (node, client) = (walsender.node, walsender.client);
        let Some(streaming) = &mut walsender.streaming else { return };
        bus.after(ms(500), Event::Postgres(Tick::Beat(connection)));
        let silent = bus.now.since(streaming.heard);
        if silent >= TIMEOUT && client.is_some() {
            let name = self.nodes[node].name();
            bus.tell(&name, || format!("ends walsender {connection}: no word from its client"));
            return self.close(bus, connection, true);
        }
        if silent >= TIMEOUT / 2 && !streaming.asked {
            streaming.asked = true;
            let wal_end = streaming.sent;
            bus.send_frames(connection, vec![Frame::KeepAlive { wal_end, asked: true }]);
        }
        self.leave_if_sent(bus, connection);
    }

    /// A stopping server's walsender leaves when the client has everything.
    fn leave_if_sent(&mut self, bus: &mut Bus, connection: ConnectionId) {
        let Some(walsender) = self.walsenders.get_mut(&connection) else { return };
        let node = walsender.node;
        let Some(streaming) = walsender.streaming.as_mut().filter(|_| self.nodes[node].stopping) else { return };
        if streaming.next < self.nodes[node].wal.len() {
            return;
        }
        let reached = if streaming.flush == Lsn::INVALID { streaming.write } else { streaming.flush };
        if reached >= streaming.sent {
            bus.send_frames(connection, vec![Frame::End]);
            self.forget(connection);
            self.stop_when_sent(bus, node);
        } else if !streaming.asked {
            streaming.asked = true;
            let wal_end = streaming.sent;
            bus.send_frames(connection, vec![Frame::KeepAlive { wal_end, asked: true }]);
        }
    }

    pub fn client_says(&mut self, bus: &mut Bus, connection: ConnectionId, message: FromClient) {
        let Some(walsender) = self.walsenders.get_mut(&connection) else {
            if let FromClient::Status { .. } = message {
                bus.send_frames(connection, vec![Frame::Reset]);
            }
            return;
        };
        let node = walsender.node;
        let sent = walsender.streaming.as_ref().map(|streaming| streaming.sent);
        match message {
            FromClient::Closed => self.close(bus, connection, false),
            FromClient::Status { write, flush, asks } => {
                if let Some(streaming) = &mut walsender.streaming {
                    streaming.heard = bus.now;
                    streaming.asked = false;
                    (streaming.write, streaming.flush) = (write, flush);
                    if let Some(slot) = self.nodes[node].slot.as_mut().filter(|_| flush > Lsn::INVALID) {
                        slot.confirmed = slot.confirmed.max(flush);
                    }
                }
                if let Some(wal_end) = sent.filter(|_| asks) {
                    bus.send_frames(connection, vec![Frame::KeepAlive { wal_end, asked: false }]);
                }
                self.leave_if_sent(bus, connection);
            }
        }
    }

    /// `pg_terminate_backend`, in one statement with the comparison that allows it.
    pub(super) fn terminate_stale(
        &mut self,
        bus: &mut Bus,
        from: Caller,
        pid: i32,
        own_pid: i32,
        compare: bool,
        stale: impl Fn(&ReaderName) -> bool,
    ) {
        let Ok(node) = self.reach(from.worker, None) else { return };
        let Some(reader) = self.nodes[node].slot.as_ref().and_then(|slot| slot.reader) else { return };
        let Some(walsender) = self.walsenders.get(&reader) else { return };
        let read_all = walsender.streaming.as_ref().is_none_or(|streaming| streaming.write == streaming.sent);
        let name = ReaderName::parse(&walsender.name);
        let allowed = reader != own_pid && read_all && name.as_ref().is_some_and(&stale);
        if allowed || !compare && reader == pid {
            let ours = name.as_ref().is_some_and(stale);
            bus.audit.terminated(from, &walsender.name, ours, bus.now);
            bus.tell(&self.nodes[node].name(), || {
                format!("walsender {reader} is terminated by worker {}", from.worker)
            });
            self.close(bus, reader, true);
        }
    }

    /// An administrator ends whoever reads the slot.
    pub fn terminate_reader(&mut self, bus: &mut Bus) {
        let reader = self.leader.and_then(|leader| self.nodes[leader].slot.as_ref()?.reader);
        if let Some(reader) = reader {
            bus.tell("postgres", || format!("walsender {reader} is terminated by hand"));
            self.close(bus, reader, true);
        }
    }

    /// The connection is over at this end.
    pub(super) fn close(&mut self, bus: &mut Bus, connection: ConnectionId, told: bool) {
        if told {
            bus.send_frames(connection, vec![Frame::Reset]);
        }
        let node = self.walsenders.get(&connection).map(|walsender| walsender.node);
        self.forget(connection);
        if let Some(node) = node.filter(|node| self.nodes[*node].stopping && self.nodes[*node].up) {
            self.stop_when_sent(bus, node);
        }
    }

    fn forget(&mut self, connection: ConnectionId) {
        let Some(walsender) = self.walsenders.remove(&connection) else { return };
        if let Some(slot) = &mut self.nodes[walsender.node].slot
            && slot.reader == Some(connection)
        {
            slot.reader = None;
        }
    }
}
