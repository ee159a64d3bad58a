//! A PostgreSQL cluster under Patroni: nodes, their WAL and timelines, one slot with its copies on the standbys.

mod node;
mod walsender;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use pgbaton_core::{
    Code, Failure, FailureKind, Flushed, History, Inspection, Lsn, Observation, ReaderName, Server, SlotFacts,
    SlotState, SystemIdentifier, Timeline, hash_of,
};

use crate::bus::Bus;
use crate::message::{Caller, Event, PostgresRequest, Reply, Service};
use crate::time::{ms, seconds};

pub(crate) use node::{Node, Record, Row, Slot, Txn};
pub(crate) use walsender::Walsender;

pub(crate) type NodeId = usize;
/// Also the pid of its backend.
pub(crate) type ConnectionId = i32;

pub(crate) const SYSTEM: SystemIdentifier = SystemIdentifier(7_300_000_000_000_000_001);
pub(crate) const DATABASE: &str = "appdb";
pub(crate) const PUBLICATION: u32 = 16_400;

#[derive(Debug)]
pub(crate) enum Tick {
    /// A walsender has something to send.
    Pump(ConnectionId),
    /// It looks at its clock.
    Beat(ConnectionId),
    Replicate(NodeId),
    /// A transaction's commit record is written, unless the server has gone down meanwhile.
    Commit {
        node: NodeId,
        boot: u32,
        xid: u32,
        rows: Vec<Row>,
    },
    /// Patroni's loop: slots are copied, checkpoints save the slot's position.
    Patroni,
    Route {
        worker: usize,
        node: Option<NodeId>,
        news: u32,
    },
    Promote {
        node: NodeId,
        colliding: bool,
    },
    Return(NodeId),
    Restart {
        node: NodeId,
        boot: u32,
    },
    /// The old leader of a split brain notices.
    EndSplit(NodeId),
    FollowAgain(NodeId),
    ForeignGone(ConnectionId),
}

pub(crate) struct Postgres {
    pub nodes: Vec<Node>,
    /// Whom Patroni calls the leader.
    pub leader: Option<NodeId>,
    /// An old leader that does not know yet.
    pub split: Option<NodeId>,
    /// Where HAProxy leads each worker, and by which news of the leader.
    routes: Vec<(Option<NodeId>, u32)>,
    news: u32,
    pub walsenders: BTreeMap<ConnectionId, Walsender>,
    next_connection: ConnectionId,
    next_xid: u32,
    last_timeline: u32,
    switching_to: Option<NodeId>,
}

impl Postgres {
    pub fn new(bus: &mut Bus, nodes: usize, workers: usize) -> Self {
        let mut postgres = Postgres {
            nodes: (0..nodes).map(|id| Node::new(id, id != 0)).collect(),
            leader: Some(0),
            split: None,
            routes: vec![(Some(0), 0); workers],
            news: 0,
            walsenders: BTreeMap::new(),
            next_connection: 1000,
            next_xid: 700,
            last_timeline: 1,
            switching_to: None,
        };
        for node in 0..nodes {
            postgres.nodes[node].slot = Some(Slot::at(Node::BEGINNING));
            bus.after(ms(50), Event::Postgres(Tick::Replicate(node)));
        }
        bus.audit.branch(&postgres.nodes[0].history());
        bus.after(seconds(1), Event::Postgres(Tick::Patroni));
        postgres
    }

    /// A client commits a transaction on whatever node takes it.
    pub fn commit(&mut self, bus: &mut Bus, rows: usize, keys: u32) {
        let node = match (self.leader, self.split) {
            (leader, Some(old)) if leader.is_none() || bus.chance(500) => Some(old),
            (leader, _) => leader,
        };
        let Some(node) = node.filter(|node| self.nodes[*node].takes_writes()) else { return };
        self.next_xid += 1;
        let xid = self.next_xid;
        let rows = (0..rows)
            .map(|_| Row { key: bus.draw(u64::from(keys)) as u32, value: bus.draw(1 << 32) as u32 })
            .collect::<Vec<_>>();
        self.append(bus, node, 40 * rows.len() as u64);
        // The commit record comes later: a standby can have got all rows and not it.
        let boot = self.nodes[node].boot;
        let later = if rows.len() > 5 { bus.between(ms(1), ms(250)) } else { Duration::ZERO };
        bus.after(later, Event::Postgres(Tick::Commit { node, boot, xid, rows }));
    }

    fn write_commit(&mut self, bus: &mut Bus, node: NodeId, xid: u32, rows: Vec<Row>) {
        let start = self.nodes[node].end();
        let end = Lsn(start.0 + 48);
        let txn = Rc::new(Txn { xid, final_lsn: start, end, committed_at: format!("t{xid}"), rows });
        self.nodes[node].wal.push(Rc::new(Record { start, end, txn: Some(txn.clone()) }));
        bus.tell(&self.nodes[node].name(), || format!("commits {xid} with {} rows at {start}", txn.rows.len()));
        let timeline = self.nodes[node].timeline;
        bus.audit.committed_in_postgres(timeline, txn);
        self.woken(bus, node);
    }

    /// WAL that does not concern the publication.
    pub fn write_foreign(&mut self, bus: &mut Bus, bytes: u64) {
        let Some(node) = self.leader.filter(|node| self.nodes[*node].takes_writes()) else { return };
        self.append(bus, node, bytes);
    }

    fn append(&mut self, bus: &mut Bus, node: NodeId, bytes: u64) {
        let start = self.nodes[node].end();
        self.nodes[node].wal.push(Rc::new(Record { start, end: Lsn(start.0 + bytes), txn: None }));
        self.woken(bus, node);
    }

    pub fn request(&mut self, bus: &mut Bus, from: Caller, call: u64, request: PostgresRequest) {
        let reply = match request {
            PostgresRequest::Look { over } => self.look(bus, from, over),
            PostgresRequest::Standbys => self.standbys(from),
            PostgresRequest::Connect => self.connect(bus, from),
            PostgresRequest::Start { connection, name, at } => self.start(bus, connection, &name, at),
            PostgresRequest::Terminate { pid, revision, nonce, own_pid, pipeline, compare } => {
                let stale = |name: &ReaderName| {
                    name.pipeline == pipeline
                        && (name.revision < revision || name.nonce == nonce && name.revision == revision)
                };
                self.terminate_stale(bus, from, pid, own_pid, compare, stale);
                return;
            }
        };
        let work = bus.between(Duration::from_micros(200), ms(2));
        bus.reply(from, call, Service::Postgres, work, reply);
    }

    /// The node that a connection reaches, or the refusal of it.
    fn reach(&self, worker: usize, over: Option<(NodeId, u32)>) -> Result<NodeId, Failure> {
        let node = match over {
            Some((node, boot)) if self.nodes[node].boot == boot => Some(node),
            Some(_) => return Err(unreachable("the connection was lost")),
            None => self.routes[worker].0,
        };
        let Some(node) = node.filter(|node| self.nodes[*node].up) else {
            return Err(unreachable("no leader is known, or it does not answer"));
        };
        if self.nodes[node].stopping { Err(stopping()) } else { Ok(node) }
    }

    fn look(&mut self, bus: &mut Bus, from: Caller, over: Option<(NodeId, u32)>) -> Reply {
        let node = match self.reach(from.worker, over) {
            Ok(node) => node,
            Err(failure) => return Reply::Refused(failure),
        };
        let server = &self.nodes[node];
        let reader = server.slot.as_ref().and_then(|slot| slot.reader);
        bus.audit.looked(from, reader, bus.now);
        let observation = Box::new(Observation {
            system_identifier: SYSTEM,
            timeline: Some(server.timeline),
            in_recovery: server.in_recovery,
            postmaster_started: server.started(),
            write_position: server.end(),
            slot: server.slot_facts(),
            reader_name: reader.and_then(|reader| self.reader_name(reader)),
            reader_waits: reader.and_then(|reader| self.walsenders.get(&reader)).is_some_and(Walsender::waits),
            publication_oid: Some(PUBLICATION),
            members: String::new(),
        });
        Reply::Looked { over: (node, server.boot), observation }
    }

    /// How far all other nodes have the WAL of the one that is reached. Those that are away count, too: any may be promoted here.
    fn standbys(&self, from: Caller) -> Reply {
        let node = match self.reach(from.worker, None) {
            Ok(node) => node,
            Err(failure) => return Reply::Refused(failure),
        };
        let server = &self.nodes[node];
        if server.in_recovery {
            return Reply::Refused(unreachable("it is a standby"));
        }
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != node);
        let by_all = others.map(|(_, other)| other.has_of(server)).min().unwrap_or(Node::BEGINNING);
        Reply::Standbys(server.timeline, Flushed { insert: server.end(), by_all })
    }

    fn connect(&mut self, bus: &mut Bus, from: Caller) -> Reply {
        let node = match self.reach(from.worker, None) {
            Ok(node) => node,
            Err(failure) => return Reply::Refused(failure),
        };
        self.next_connection += 1;
        let connection = self.next_connection;
        bus.open_lane(connection, from);
        let server = &self.nodes[node];
        self.walsenders.insert(connection, Walsender::new(node, Some(from), bus.now));
        let facts = server.slot_facts();
        let reader = facts.as_ref().and_then(|slot| slot.active_pid);
        let inspection = Box::new(Inspection {
            server: Server {
                system_identifier: SYSTEM,
                history: server.history(),
                write_position: server.end(),
                publication_oid: Some(PUBLICATION),
            },
            in_recovery: server.in_recovery,
            slot: SlotState::of(facts.as_ref(), DATABASE),
            reader_pid: reader,
            reader_name: reader.and_then(|reader| self.reader_name(reader)),
            postmaster_started: server.started(),
            backend_pid: connection,
            tables_hash: hash_of(b"items"),
            members: String::new(),
            topics: vec!["orders.public.items".to_owned()],
        });
        Reply::Connected { connection, inspection }
    }

    fn reader_name(&self, reader: ConnectionId) -> Option<String> {
        self.walsenders.get(&reader).map(|walsender| walsender.name.clone())
    }

    pub fn tick(&mut self, bus: &mut Bus, tick: Tick) {
        match tick {
            Tick::Pump(connection) => self.pump(bus, connection),
            Tick::Beat(connection) => self.beat(bus, connection),
            Tick::Commit { node, boot, xid, rows } => {
                if self.nodes[node].boot == boot && self.nodes[node].takes_writes() {
                    self.write_commit(bus, node, xid, rows);
                }
            }
            Tick::Replicate(node) => self.replicate(bus, node),
            Tick::Patroni => self.patroni(bus),
            Tick::Route { worker, node, news } if news >= self.routes[worker].1 => self.routes[worker] = (node, news),
            Tick::Route { .. } => {}
            Tick::Promote { node, colliding } => self.promote(bus, node, colliding),
            Tick::Return(node) => self.come_back(bus, node),
            Tick::Restart { node, boot } => {
                if self.nodes[node].boot == boot && !self.nodes[node].up {
                    self.nodes[node].up = true;
                    bus.tell(&self.nodes[node].name(), || "is up again".to_owned());
                    self.announce(bus);
                }
            }
            Tick::EndSplit(node) => self.end_split(bus, node),
            Tick::FollowAgain(node) => self.nodes[node].held = false,
            Tick::ForeignGone(connection) => self.close(bus, connection, false),
        }
    }

    /// Copies the leader's WAL to a standby, and the slot's position with Patroni's loop.
    fn replicate(&mut self, bus: &mut Bus, node: NodeId) {
        let pause = bus.between(ms(20), ms(150));
        bus.after(pause, Event::Postgres(Tick::Replicate(node)));
        if let Some(leader) = self.leader.filter(|leader| *leader != node && self.nodes[*leader].up) {
            self.follow(leader, node);
        }
    }

    fn follow(&mut self, leader: NodeId, node: NodeId) {
        let standby = &self.nodes[node];
        if !standby.up || !standby.in_recovery || standby.held {
            return;
        }
        let Ok([leader, standby]) = self.nodes.get_disjoint_mut([leader, node]) else { return };
        let wal = &leader.wal;
        // One that has what the leader has not is rewound.
        while standby
            .wal
            .last()
            .is_some_and(|last| wal.get(standby.wal.len() - 1).is_none_or(|record| !Rc::ptr_eq(record, last)))
        {
            standby.wal.pop();
        }
        let common = standby.end();
        if let Some(slot) = &mut standby.slot {
            slot.confirmed = slot.confirmed.min(common);
            slot.saved = slot.saved.min(common);
        }
        let from = standby.wal.len();
        standby.wal.extend(wal[from..].iter().cloned());
        standby.left.clone_from(&leader.left);
        standby.timeline = leader.timeline;
    }

    fn patroni(&mut self, bus: &mut Bus) {
        let pause = bus.between(seconds(1), seconds(4));
        bus.after(pause, Event::Postgres(Tick::Patroni));
        let Some(leader) = self.leader.filter(|leader| self.nodes[*leader].up) else { return };
        let Some(slot) = &mut self.nodes[leader].slot else { return };
        slot.saved = slot.confirmed;
        let (confirmed, generation) = (slot.confirmed, slot.generation);
        for (id, node) in self.nodes.iter_mut().enumerate() {
            if id != leader && node.up && node.in_recovery && !node.held {
                let confirmed = confirmed.min(node.end());
                node.slot = Some(Slot { generation, ..Slot::at(confirmed) });
            }
        }
    }

    // What happens to the cluster.

    /// The leader's machine or process is gone; it starts again on the same timeline.
    pub fn crash_and_restart(&mut self, bus: &mut Bus, down: Duration) {
        let Some(leader) = self.leader.filter(|leader| self.nodes[*leader].takes_writes()) else { return };
        self.go_down(bus, leader, "crashes");
        let boot = self.nodes[leader].boot;
        bus.after(down, Event::Postgres(Tick::Restart { node: leader, boot }));
    }

    /// It can be promoted: it has nothing that the leader has not. (A branch that was left does not come back here. Where
    /// one does, what was marked as lost is there again, and a quarantine is right.)
    fn may_follow(&self, leader: NodeId, node: NodeId) -> bool {
        let (server, wal) = (&self.nodes[node], &self.nodes[leader].wal);
        let last = server.wal.len().checked_sub(1);
        server.up
            && server.in_recovery
            && last.is_none_or(|last| wal.get(last).is_some_and(|record| Rc::ptr_eq(record, &server.wal[last])))
    }

    /// The leader is gone and another node takes over: the one that is behind most, or the one that is behind least.
    pub fn fail_over(&mut self, bus: &mut Bus, lagging: bool, colliding: bool) {
        let Some(leader) = self.leader.filter(|leader| self.nodes[*leader].takes_writes()) else { return };
        let mut standbys: Vec<NodeId> = (0..self.nodes.len()).filter(|id| self.may_follow(leader, *id)).collect();
        standbys.sort_by_key(|id| self.nodes[*id].end());
        let Some(next) = (if lagging { standbys.first() } else { standbys.last() }).copied() else { return };
        self.go_down(bus, leader, "is gone");
        self.leader = None;
        let promoted = bus.between(ms(500), seconds(4));
        bus.after(promoted, Event::Postgres(Tick::Promote { node: next, colliding }));
        let back = promoted + bus.between(seconds(2), seconds(10));
        bus.after(back, Event::Postgres(Tick::Return(leader)));
    }

    /// Another node is promoted while the leader goes on for a while.
    pub fn split(&mut self, bus: &mut Bus, time: Duration) {
        let Some(leader) = self.leader.filter(|leader| self.nodes[*leader].takes_writes()) else { return };
        let next = (0..self.nodes.len()).find(|id| self.may_follow(leader, *id));
        let Some(next) = next.filter(|_| self.split.is_none()) else { return };
        bus.tell(&self.nodes[leader].name(), || "is cut off from the others and goes on".to_owned());
        self.split = Some(leader);
        self.leader = None;
        self.nodes[next].held = true;
        bus.after(ms(300), Event::Postgres(Tick::Promote { node: next, colliding: false }));
        bus.after(time, Event::Postgres(Tick::EndSplit(leader)));
    }

    fn end_split(&mut self, bus: &mut Bus, node: NodeId) {
        if self.split != Some(node) {
            return;
        }
        self.split = None;
        self.go_down(bus, node, "learns that it is not the leader");
        bus.after(seconds(2), Event::Postgres(Tick::Return(node)));
    }

    /// A clean change of leader: everything is sent before the old one stops.
    pub fn switch_over(&mut self, bus: &mut Bus) {
        let Some(leader) = self.leader.filter(|leader| self.nodes[*leader].takes_writes()) else { return };
        let next = (0..self.nodes.len())
            .filter(|id| self.may_follow(leader, *id) && !self.nodes[*id].held)
            .max_by_key(|id| self.nodes[*id].end());
        let Some(next) = next else { return };
        bus.tell(&self.nodes[leader].name(), || format!("stops, to be followed by pg{}", next + 1));
        self.nodes[leader].stopping = true;
        self.nodes[leader].stops_since = bus.now;
        self.switching_to = Some(next);
        self.stop_when_sent(bus, leader);
    }

    /// The last walsender has left a stopping server.
    fn stop_when_sent(&mut self, bus: &mut Bus, node: NodeId) {
        let idle: Vec<ConnectionId> = self
            .walsenders
            .iter()
            .filter(|(_, walsender)| walsender.node == node && walsender.streaming.is_none())
            .map(|(id, _)| *id)
            .collect();
        for connection in idle {
            self.close(bus, connection, true);
        }
        if !self.nodes[node].stopping || self.walsenders.values().any(|walsender| walsender.node == node) {
            return;
        }
        let took = bus.now.since(self.nodes[node].stops_since);
        bus.audit.stopped_fast(took, bus.now);
        self.append(bus, node, 120);
        if let Some(slot) = &mut self.nodes[node].slot {
            slot.saved = slot.confirmed;
        }
        if let Some(next) = self.switching_to.take() {
            self.follow(node, next);
            self.go_down(bus, node, "has stopped");
            self.leader = None;
            let promoted = bus.between(ms(100), ms(800));
            bus.after(promoted, Event::Postgres(Tick::Promote { node: next, colliding: false }));
            let back = promoted + bus.between(seconds(1), seconds(5));
            bus.after(back, Event::Postgres(Tick::Return(node)));
        }
    }

    fn promote(&mut self, bus: &mut Bus, node: NodeId, colliding: bool) {
        if self.leader.is_some() || !self.nodes[node].up || !self.nodes[node].in_recovery {
            return;
        }
        let (old, switch) = (self.nodes[node].timeline, self.nodes[node].end());
        // A number below one that was published from is refused as a step backwards, and that is right.
        // Two that leave at one LSN and take one number cannot be told apart by any history; only the stream shows it, and
        // then a quarantine is right.
        let mut branch = self.nodes[node].left.clone();
        branch.push((old, switch));
        let taken = bus.audit.is_branch(&History::new(branch, Timeline(old.0 + 1)));
        let older = old.0 + 1 < self.last_timeline;
        let next = if colliding && !taken && !older { old.0 + 1 } else { self.last_timeline.max(old.0) + 1 };
        self.last_timeline = self.last_timeline.max(next);
        let server = &mut self.nodes[node];
        server.left.push((old, switch));
        server.timeline = Timeline(next);
        server.in_recovery = false;
        server.held = false;
        self.leader = Some(node);
        bus.tell(&self.nodes[node].name(), || format!("is promoted to timeline {next}, leaving {old} at {switch}"));
        bus.audit.branch(&self.nodes[node].history());
        // A record of its own begins every timeline.
        self.append(bus, node, 64);
        self.announce(bus);
    }

    fn come_back(&mut self, bus: &mut Bus, node: NodeId) {
        let leads = self.leader.is_some_and(|leader| self.nodes[leader].up);
        if !leads || self.leader == Some(node) || self.nodes[node].up {
            if !leads {
                bus.after(seconds(1), Event::Postgres(Tick::Return(node)));
            }
            return;
        }
        let server = &mut self.nodes[node];
        (server.up, server.in_recovery, server.stopping, server.held) = (true, true, false, false);
        if let Some(slot) = &mut server.slot {
            slot.reader = None;
        }
        bus.tell(&self.nodes[node].name(), || "is back as a standby".to_owned());
        // Rewound to what the leader has, before anybody may promote it.
        if let Some(leader) = self.leader {
            self.follow(leader, node);
        }
    }

    fn go_down(&mut self, bus: &mut Bus, node: NodeId, how: &str) {
        bus.tell(&self.nodes[node].name(), || how.to_owned());
        (self.nodes[node].up, self.nodes[node].stopping) = (false, false);
        let connections: Vec<ConnectionId> =
            self.walsenders.iter().filter(|(_, walsender)| walsender.node == node).map(|(id, _)| *id).collect();
        for connection in connections {
            self.close(bus, connection, true);
        }
        let server = &mut self.nodes[node];
        server.boot += 1;
        if let Some(slot) = &mut server.slot {
            // What was confirmed since the last save is forgotten.
            slot.confirmed = slot.saved;
            slot.reader = None;
        }
        self.announce(bus);
    }

    /// HAProxy notices, for every worker at its own time.
    fn announce(&mut self, bus: &mut Bus) {
        let node = self.leader.filter(|leader| self.nodes[*leader].up);
        self.news += 1;
        let news = self.news;
        for worker in 0..self.routes.len() {
            let noticed = bus.between(ms(50), ms(2000));
            bus.after(noticed, Event::Postgres(Tick::Route { worker, node, news }));
        }
    }

    /// A standby gets nothing for a while.
    pub fn hold(&mut self, bus: &mut Bus, node: NodeId, time: Duration) {
        if self.nodes[node].in_recovery {
            bus.tell(&self.nodes[node].name(), || format!("lags for {time:?}"));
            self.nodes[node].held = true;
            bus.after(time, Event::Postgres(Tick::FollowAgain(node)));
        }
    }

    /// Somebody drops the slot, or drops it and makes a new one of its name.
    pub fn lose_slot(&mut self, bus: &mut Bus, made_anew: bool) {
        let Some(leader) = self.leader.filter(|leader| self.nodes[*leader].takes_writes()) else { return };
        if let Some(reader) = self.nodes[leader].slot.as_ref().and_then(|slot| slot.reader) {
            self.close(bus, reader, true);
        }
        let generation = self.nodes[leader].slot.as_ref().map_or(0, |slot| slot.generation) + 1;
        let end = self.nodes[leader].end();
        bus.tell(&self.nodes[leader].name(), || {
            format!("the slot is dropped{}", if made_anew { " and made anew" } else { "" })
        });
        let new = made_anew.then(|| Slot { generation, ..Slot::at(end) });
        for node in &mut self.nodes {
            node.slot = new.clone();
        }
        bus.audit.slot_lost(new.map(|_| end), bus.now);
    }

    /// A consumer that is not ours takes the slot when it is free.
    pub fn foreign_reader(&mut self, bus: &mut Bus, time: Duration) {
        let Some(leader) = self.leader.filter(|leader| self.nodes[*leader].takes_writes()) else { return };
        if let Some(slot) = &mut self.nodes[leader].slot {
            if let Some(reader) = slot.reader {
                self.close(bus, reader, true);
            }
            self.next_connection += 1;
            let connection = self.next_connection;
            let mut walsender = Walsender::new(leader, None, bus.now);
            "pg_recvlogical".clone_into(&mut walsender.name);
            self.walsenders.insert(connection, walsender);
            if let Some(slot) = &mut self.nodes[leader].slot {
                slot.reader = Some(connection);
            }
            bus.tell(&self.nodes[leader].name(), || format!("a foreign consumer sits on the slot as {connection}"));
            bus.after(time, Event::Postgres(Tick::ForeignGone(connection)));
        }
    }

    /// Everything that is broken is repaired.
    pub fn heal(&mut self, bus: &mut Bus) {
        for node in &mut self.nodes {
            node.held = false;
        }
        if let Some(old) = self.split {
            self.end_split(bus, old);
        }
    }

    /// The surviving history: that of the leader.
    pub fn survivor(&self) -> Option<&Node> {
        self.leader.map(|leader| &self.nodes[leader])
    }
}

fn unreachable(detail: &str) -> Failure {
    Failure { code: Code::PostgresUnreachable, detail: detail.to_owned(), kind: FailureKind::Passing }
}

fn stopping() -> Failure {
    Failure {
        code: Code::PostgresUnreachable,
        detail: "the database system is shutting down".to_owned(),
        kind: FailureKind::ShuttingDown,
    }
}

/// Of a history, for whoever does not trust the core's own.
pub(crate) fn owner(history: &History, lsn: Lsn) -> Timeline {
    history.left().iter().find(|(_, switch)| lsn < *switch).map_or(history.current(), |(timeline, _)| *timeline)
}

impl Node {
    fn slot_facts(&self) -> Option<SlotFacts> {
        let slot = self.slot.as_ref()?;
        Some(SlotFacts {
            plugin: Some("pgoutput".to_owned()),
            database: Some(DATABASE.to_owned()),
            active_pid: slot.reader,
            restart_lsn: Some(slot.confirmed),
            confirmed_flush_lsn: Some(slot.confirmed),
            wal_status: Some("reserved".to_owned()),
            ..SlotFacts::default()
        })
    }
}

/// Longest time that anything in here takes by itself, to know when a healed world must be whole.
pub(crate) const SETTLED: Duration = seconds(12);

impl Postgres {
    /// Since when, for the sample of who reads the slot.
    pub fn readers(&self) -> impl Iterator<Item = (&Walsender, ConnectionId)> {
        self.walsenders
            .iter()
            .filter(|(_, walsender)| walsender.streaming.is_some())
            .map(|(id, walsender)| (walsender, *id))
    }

    pub fn confirmed(&self) -> Option<(Lsn, &Node)> {
        let leader = self.leader.filter(|leader| self.nodes[*leader].up)?;
        let node = &self.nodes[leader];
        Some((node.slot.as_ref()?.confirmed, node))
    }

    /// A node that is not the leader any more and may not know it.
    pub fn is_old(&self, node: NodeId) -> bool {
        self.leader != Some(node)
    }
}
