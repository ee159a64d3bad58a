//! A worker process: the machine of the core, and as thin a driver around it as the real one is.

mod effects;
mod lookouts;
mod publishing;
mod session;
mod sink;

use std::collections::BTreeMap;
use std::time::Duration;

use pgbaton_core::{Identity, Input, Moment, Policy, Tenure, Worker};

use crate::bus::Bus;
use crate::message::{Caller, Event, Reply, Request, Service, Timer};
use crate::postgres::{DATABASE, NodeId};
use crate::time::{Clock, Time, ms, seconds};
use lookouts::Lookouts;
pub(crate) use publishing::ATOMIC_UP_TO;
use session::{Session, SessionCall};

/// The loop turns at least this often.
const LONGEST_SLEEP: Duration = ms(500);
const SHORTEST_SLEEP: Duration = ms(10);
/// One call to etcd.
const ETCD_LIMIT: Duration = ms(1200);

/// What a call was made for.
#[derive(Debug, Clone)]
enum Purpose {
    View,
    Look { asked_at: Moment },
    Probe,
    Status,
    Grant { asked_at: Moment, contend: Contend },
    Take { lease: i64, ttl: Duration, asked_at: Moment, contend: Contend },
    Renew { tenure: Tenure, asked_at: Moment },
    Verify { tenure: Tenure, asked_at: Moment, ttl: Duration },
    Release { lease: i64, until: Moment },
    Revoked,
    Unanswered,
    Session(u64, SessionCall),
}

#[derive(Debug, Clone, Copy)]
struct Contend {
    replacing: Option<pgbaton_core::Replaced>,
    tenures: u32,
}

/// What happens to a process from outside.
enum Life {
    Up,
    /// Stopped, or its machine suspended: what comes in waits.
    Frozen {
        since: Time,
        suspended: bool,
        waiting: Vec<Event>,
    },
    Down,
}

/// One worker: its machine's clock, and the process while it lives.
pub(crate) struct Process {
    pub id: usize,
    boot: u32,
    clock: Clock,
    policy: Policy,
    life: Life,
    worker: Worker,
    calls: BTreeMap<u64, (Purpose, Service)>,
    session: Session,
    /// Counts sessions, so that what comes late from one that was closed is recognised.
    serial: u64,
    instances: u64,
    lookouts: Lookouts,
    keepalive: Option<Tenure>,
    keepalives: u64,
    wake_at: Option<u64>,
    /// A partition of the table's topic for each key.
    partitions: usize,
    /// Publication waits for standbys.
    standby_barrier: bool,
}

impl Process {
    pub fn new(id: usize, clock: Clock, policy: Policy, partitions: usize, standby_barrier: bool) -> Self {
        Process {
            id,
            boot: 0,
            clock,
            policy,
            life: Life::Down,
            worker: Worker::new(identity(id, 0), policy),
            calls: BTreeMap::new(),
            session: Session::default(),
            serial: 0,
            instances: 0,
            lookouts: Lookouts::default(),
            keepalive: None,
            keepalives: 0,
            wake_at: None,
            partitions,
            standby_barrier,
        }
    }

    pub fn name(&self) -> String {
        format!("w{}", self.id + 1)
    }

    pub fn caller(&self) -> Caller {
        Caller { worker: self.id, boot: self.boot }
    }

    pub fn is_up(&self) -> bool {
        matches!(self.life, Life::Up)
    }

    /// The machine, as far as it runs.
    pub fn machine(&self) -> Option<&Worker> {
        self.is_up().then_some(&self.worker)
    }

    pub fn now(&self, bus: &Bus) -> Moment {
        self.clock.boottime(bus.now)
    }

    /// Holds a replication connection, or a producer with an open transaction.
    pub fn holds_something(&self) -> bool {
        self.session.holds_something()
    }

    // What is done to it.

    pub fn start(&mut self, bus: &mut Bus) {
        if !matches!(self.life, Life::Down) {
            return;
        }
        self.boot += 1;
        self.life = Life::Up;
        self.worker = Worker::new(identity(self.id, self.boot), self.policy);
        self.calls.clear();
        self.session = Session::default();
        self.lookouts = Lookouts::default();
        (self.keepalive, self.wake_at) = (None, None);
        bus.tell(&self.name(), || format!("starts, life {}", self.boot));
        bus.audit.booted(self.caller());
        for (timer, most) in [
            (Timer::Watch, ms(200)),
            (Timer::Poll, ms(500)),
            (Timer::Probe, seconds(1)),
            (Timer::Status, ms(900)),
            (Timer::Beat, ms(300)),
        ] {
            if !self.policy.leased && !matches!(timer, Timer::Poll | Timer::Probe) {
                continue; // The others are etcd's.
            }
            let after = bus.between(ms(1), most);
            self.timer(bus, after, timer);
        }
        self.after_turn(bus);
    }

    /// The process is gone; `told`: its machine is not, so that the other ends of its connections hear of it.
    pub fn die(&mut self, bus: &mut Bus, told: bool) {
        if matches!(self.life, Life::Down) {
            return;
        }
        bus.tell(&self.name(), || if told { "is killed".to_owned() } else { "loses power".to_owned() });
        self.life = Life::Down;
        bus.caller_gone(self.caller(), told);
        bus.audit.died(self.caller());
    }

    pub fn freeze(&mut self, bus: &mut Bus, suspended: bool) {
        if self.is_up() {
            bus.tell(&self.name(), || if suspended { "is suspended".to_owned() } else { "is stopped".to_owned() });
            self.life = Life::Frozen { since: bus.now, suspended, waiting: Vec::new() };
        }
    }

    pub fn thaw(&mut self, bus: &mut Bus) {
        let Life::Frozen { since, suspended, waiting } = &mut self.life else { return };
        let (since, suspended, waiting) = (*since, *suspended, std::mem::take(waiting));
        self.life = Life::Up;
        bus.tell(&self.name(), || "goes on".to_owned());
        if suspended {
            self.clock.slept(since, bus.now);
        }
        // All of it comes at once, each in its turn.
        for event in waiting {
            bus.at(bus.now, event);
        }
    }

    pub fn tell_machine(&mut self, bus: &mut Bus, input: Input) {
        if self.is_up() {
            self.told(bus, Some(input));
        }
    }

    // What comes in.

    pub fn receive(&mut self, bus: &mut Bus, event: Event) {
        match &mut self.life {
            Life::Down => return,
            Life::Frozen { waiting, .. } => return waiting.push(event),
            Life::Up => {}
        }
        let input = match event {
            Event::Reply { to, call, body } if to == self.caller() => {
                let Some((purpose, service)) = self.calls.remove(&call) else { return };
                let _ = service;
                match self.answered(bus, purpose, Some(body)) {
                    Some(input) => input,
                    None => return self.after_turn(bus),
                }
            }
            Event::Timer { of, timer, due } if of == self.caller() => {
                let early = due.saturating_sub(self.clock.monotonic(bus.now));
                if early > 0 {
                    // The machine slept meanwhile, and this clock with it.
                    let time = self.clock.true_time(Duration::from_micros(early)) + Duration::from_micros(1);
                    return bus.after(time, Event::Timer { of, timer, due });
                }
                match self.timer_fired(bus, timer, due) {
                    Some(input) => input,
                    None => return self.after_turn(bus),
                }
            }
            Event::ToClient { connection, to, frames } if to == self.caller() => {
                match self.frames(bus, connection, frames) {
                    Some(input) => input,
                    None => return,
                }
            }
            Event::HolderChanged { to } if to == self.caller() => {
                self.view(bus);
                return;
            }
            Event::Beat { to, from, name, tenure, saying } if to == self.caller() => {
                match self.heard(bus, from, &name, tenure, saying) {
                    Some(input) => input,
                    None => return,
                }
            }
            Event::Unlinked { to, from } if to == self.caller() => match self.unlinked(from) {
                Some(input) => input,
                None => return,
            },
            _ => return,
        };
        self.told(bus, Some(input));
    }

    fn timer_fired(&mut self, bus: &mut Bus, timer: Timer, due: u64) -> Option<Input> {
        match timer {
            Timer::Wake if self.wake_at == Some(due) => {
                self.wake_at = None;
                Some(Input::Tick)
            }
            Timer::Wake => None,
            Timer::Poll => {
                self.look(bus);
                None
            }
            Timer::Watch => {
                self.timer(bus, seconds(1), Timer::Watch);
                self.view(bus);
                None
            }
            Timer::KeepAlive(serial) => {
                self.renew(bus, serial);
                None
            }
            Timer::Probe => {
                self.probe(bus, true);
                None
            }
            Timer::Status => {
                self.put_status(bus);
                None
            }
            Timer::Beat => self.beat(bus),
            Timer::GiveUp(call) => {
                let (purpose, _) = self.calls.remove(&call)?;
                self.answered(bus, purpose, None)
            }
            Timer::Session(serial, timer) if serial == self.serial => self.session_timer(bus, timer),
            Timer::Session(..) => None,
        }
    }

    /// Tells the machine, lets the data path have its turn, and sets the alarm.
    fn told(&mut self, bus: &mut Bus, input: Option<Input>) {
        let mut next = input;
        for _ in 0..8 {
            let Some(input) = next.take() else { break };
            self.handle(bus, input);
            next = self.turn(bus).err().map(Input::Broken);
        }
        if let Some(since) = self.silent_since(bus) {
            self.handle(bus, Input::StreamSilent { since });
        }
        self.after_turn(bus);
    }

    fn after_turn(&mut self, bus: &mut Bus) {
        let now = self.now(bus);
        let mut until = now + LONGEST_SLEEP;
        if let Some(deadline) = self.worker.deadline() {
            until = until.min(deadline.max(now + SHORTEST_SLEEP));
        }
        if let Some(due) = self.session.due() {
            until = until.min(due.max(now + ms(1)));
        }
        let due = self.clock.monotonic(bus.now) + until.since(now).as_micros() as u64;
        if self.wake_at.is_none_or(|set| due < set) {
            self.wake_at = Some(due);
            self.timer_at(bus, due, Timer::Wake);
        }
    }

    fn handle(&mut self, bus: &mut Bus, input: Input) {
        let before = self.worker.state();
        if let Input::Broken(end) = &input {
            self.session.broken(end);
            bus.tell(&self.name(), || format!("session ends: {}", session::describe(end)));
        }
        let mut effects = Vec::new();
        let now = self.now(bus);
        self.worker.handle(now, input, &mut effects);
        let after = self.worker.state();
        if before != after {
            bus.tell(&self.name(), || format!("{} -> {}", before.as_str(), after.as_str()));
        }
        for effect in effects {
            self.carry_out(bus, effect);
        }
        bus.audit.resting(self.id, self.worker.state(), self.holds_something());
    }

    // Calls and timers.

    fn call(&mut self, bus: &mut Bus, request: Request, limit: Duration, purpose: Purpose) -> u64 {
        let service = request.service();
        let call = bus.call(self.caller(), request);
        self.calls.insert(call, (purpose, service));
        self.timer(bus, limit, Timer::GiveUp(call));
        call
    }

    fn timer(&self, bus: &mut Bus, after: Duration, timer: Timer) {
        let due = self.clock.monotonic(bus.now) + after.as_micros() as u64;
        self.timer_at(bus, due, timer);
    }

    fn timer_at(&self, bus: &mut Bus, due: u64, timer: Timer) {
        let left = due.saturating_sub(self.clock.monotonic(bus.now));
        let time = self.clock.true_time(Duration::from_micros(left)) + Duration::from_micros(1);
        bus.after(time, Event::Timer { of: self.caller(), timer, due });
    }
}

/// The identity of one life of one worker.
pub(crate) fn identity(id: usize, boot: u32) -> Identity {
    Identity {
        worker: format!("w{}", id + 1),
        nonce: format!("{:04x}{boot:04x}", id + 1),
        pipeline_hash: "0000aaaa".to_owned(),
        worker_hash: format!("{:08x}", id + 1),
        database: DATABASE.to_owned(),
        config_hash: "c0".to_owned(),
    }
}

/// Where an ordinary connection leads.
type Over = (NodeId, u32);

impl Process {
    fn answered(&mut self, bus: &mut Bus, purpose: Purpose, reply: Option<Reply>) -> Option<Input> {
        match purpose {
            Purpose::View => Some(self.viewed(bus, reply)),
            Purpose::Look { asked_at } => self.looked(bus, asked_at, reply),
            Purpose::Probe => Some(Input::SinkProbed(match reply {
                Some(Reply::Done) => Ok(()),
                _ => Err("no answer".to_owned()),
            })),
            Purpose::Status => self.statuses(bus, reply),
            Purpose::Grant { asked_at, contend } => self.granted(bus, asked_at, contend, reply),
            Purpose::Take { lease, ttl, asked_at, contend } => {
                Some(self.taken(bus, (lease, ttl, asked_at), contend, reply))
            }
            Purpose::Renew { tenure, asked_at } => self.renewed(bus, tenure, asked_at, reply),
            Purpose::Verify { tenure, asked_at, ttl } => self.verified(bus, tenure, asked_at, ttl, reply),
            Purpose::Release { lease, until } => self.released(bus, lease, until, reply),
            Purpose::Revoked => Some(Input::Released),
            Purpose::Unanswered => None,
            Purpose::Session(serial, call) if serial == self.serial => self.session_answered(bus, call, reply),
            Purpose::Session(..) => None,
        }
    }
}
