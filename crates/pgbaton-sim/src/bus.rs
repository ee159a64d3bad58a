//! The world's queue of events, its randomness, and the network between workers and servers.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use fastrand::Rng;

use crate::audit::Audit;
use crate::message::{Caller, Event, Frame, FromClient, Reply, Request, Service};
use crate::mutant::Mutant;
use crate::postgres::ConnectionId;
use crate::story::Story;
use crate::time::Time;

/// Which way over a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the worker to the service.
    Out,
    /// Back.
    In,
}

/// The network between one worker and one service.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    pub out_cut: bool,
    pub in_cut: bool,
    /// Of a thousand messages, so many are lost.
    pub loss: u32,
    /// Added to every delay, up to.
    pub slow: Duration,
}

impl Link {
    pub fn is_cut(&self) -> bool {
        self.out_cut || self.in_cut
    }
}

/// Everything that all parts of the world share.
pub(crate) struct Bus {
    pub now: Time,
    rng: Rng,
    draws: u64,
    queue: BinaryHeap<Queued>,
    /// What is queued, by place. Events are large, and the heap moves its entries about.
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    serial: u64,
    calls: u64,
    links: Vec<[Link; 3]>,
    lanes: Lanes,
    pub story: Story,
    pub audit: Audit,
    /// Pairs of workers that do not hear each other.
    pub apart: Vec<(usize, usize)>,
    pub mutant: Option<Mutant>,
    /// Of a thousand ends of transactions, so many are sent twice, the first copy arriving late.
    pub late_ends: u32,
    /// ... and so many more without the library noticing.
    pub unseen_ends: u32,
}

struct Queued {
    at: Time,
    serial: u64,
    place: usize,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first: the earliest is the greatest.
        (other.at, other.serial).cmp(&(self.at, self.serial))
    }
}

impl Bus {
    pub fn new(seed: u64, workers: usize, story: Story, audit: Audit, mutant: Option<Mutant>) -> Self {
        Bus {
            now: Time(0),
            rng: Rng::with_seed(seed),
            draws: 0,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            serial: 0,
            calls: 0,
            lanes: Lanes::default(),
            links: vec![[Link::default(); 3]; workers],
            story,
            audit,
            apart: Vec::new(),
            mutant,
            late_ends: 0,
            unseen_ends: 0,
        }
    }

    pub fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub fn at(&mut self, at: Time, event: Event) {
        self.serial += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.queue.push(Queued { at: at.max(self.now), serial: self.serial, place });
    }

    pub fn after(&mut self, time: Duration, event: Event) {
        self.at(self.now + time, event);
    }

    /// Goes on to the next event.
    pub fn next(&mut self, until: Time) -> Option<Event> {
        if self.queue.peek()?.at > until {
            return None;
        }
        let next = self.queue.pop()?;
        self.now = next.at;
        self.free.push(next.place);
        self.events[next.place].take()
    }

    pub fn draw(&mut self, below: u64) -> u64 {
        self.draws += 1;
        self.rng.u64(0..below.max(1))
    }

    /// Happens so many times of a thousand.
    pub fn chance(&mut self, of_thousand: u32) -> bool {
        of_thousand > 0 && self.draw(1000) < u64::from(of_thousand)
    }

    /// Some time between the two.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let (least, most) = (least.as_micros() as u64, most.as_micros() as u64);
        Duration::from_micros(least + self.draw(most.saturating_sub(least) + 1))
    }

    pub fn tell(&mut self, who: &str, what: impl FnOnce() -> String) {
        self.story.tell(self.now, self.draws, who, what);
    }

    pub fn link(&mut self, worker: usize, service: Service) -> &mut Link {
        &mut self.links[worker][service as usize]
    }

    /// How long a message is under way; none: it is lost.
    pub fn pass(&mut self, worker: usize, service: Service, way: Way) -> Option<Duration> {
        let link = *self.link(worker, service);
        let cut = if way == Way::Out { link.out_cut } else { link.in_cut };
        if cut || self.chance(link.loss) {
            return None;
        }
        Some(self.delay(worker, service))
    }

    pub fn delay(&mut self, worker: usize, service: Service) -> Duration {
        let slow = self.link(worker, service).slow;
        let extra = if slow.is_zero() { Duration::ZERO } else { self.between(Duration::ZERO, slow) };
        self.between(Duration::from_micros(100), Duration::from_micros(1500)) + extra
    }

    /// Sends a request; the number names its reply.
    pub fn call(&mut self, from: Caller, body: Request) -> u64 {
        self.calls += 1;
        let call = self.calls;
        if let Some(delay) = self.pass(from.worker, body.service(), Way::Out) {
            self.after(delay, Event::Request { from, call, body });
        }
        call
    }

    /// Answers one, after the time that the work took.
    pub fn reply(&mut self, to: Caller, call: u64, service: Service, work: Duration, body: Reply) {
        if let Some(delay) = self.pass(to.worker, service, Way::In) {
            self.after(work + delay, Event::Reply { to, call, body });
        }
    }
}

/// A replication connection as the network sees it: messages keep their order, and wait while the link is cut.
struct Lane {
    caller: Caller,
    out_at: Time,
    in_at: Time,
    held: Vec<(Way, Event)>,
}

/// The lanes of all replication connections.
#[derive(Default)]
pub(crate) struct Lanes(BTreeMap<ConnectionId, Lane>);

impl Bus {
    pub fn open_lane(&mut self, connection: ConnectionId, caller: Caller) {
        let lane = Lane { caller, out_at: self.now, in_at: self.now, held: Vec::new() };
        self.lanes.0.insert(connection, lane);
    }

    /// Frames for the worker at the other end.
    pub fn send_frames(&mut self, connection: ConnectionId, frames: Vec<Frame>) {
        let Some(to) = self.lanes.0.get(&connection).map(|lane| lane.caller) else { return };
        self.travel(connection, Way::In, Event::ToClient { connection, to, frames });
    }

    /// A message for the walsender at the other end.
    pub fn send_to_server(&mut self, connection: ConnectionId, message: FromClient) {
        self.travel(connection, Way::Out, Event::ToServer { connection, message });
    }

    fn travel(&mut self, connection: ConnectionId, way: Way, event: Event) {
        let Some(worker) = self.lanes.0.get(&connection).map(|lane| lane.caller.worker) else { return };
        let link = *self.link(worker, Service::Postgres);
        let delay = self.delay(worker, Service::Postgres);
        let now = self.now;
        let Some(lane) = self.lanes.0.get_mut(&connection) else { return };
        let (cut, last) = match way {
            Way::Out => (link.out_cut, &mut lane.out_at),
            Way::In => (link.in_cut, &mut lane.in_at),
        };
        if cut {
            lane.held.push((way, event));
            return;
        }
        *last = (*last).max(now + delay);
        let at = *last;
        self.at(at, event);
    }

    /// The link works again: what was held is sent again.
    pub fn release_held(&mut self, worker: usize) {
        let connections: Vec<ConnectionId> =
            self.lanes.0.iter().filter(|(_, lane)| lane.caller.worker == worker).map(|(id, _)| *id).collect();
        for connection in connections {
            let held = self.lanes.0.get_mut(&connection).map(|lane| std::mem::take(&mut lane.held)).unwrap_or_default();
            for (way, event) in held {
                self.travel(connection, way, event);
            }
        }
    }

    /// The process that had these connections is gone. Its kernel says so to the other end, unless the machine is gone
    /// with it.
    pub fn caller_gone(&mut self, caller: Caller, told: bool) {
        let connections: Vec<ConnectionId> =
            self.lanes.0.iter().filter(|(_, lane)| lane.caller == caller).map(|(id, _)| *id).collect();
        for connection in connections {
            if told {
                self.send_to_server(connection, FromClient::Closed);
            }
        }
    }
}

impl Bus {
    /// Those who can hear this worker, in their present lives.
    pub fn peers_of(&self, worker: usize) -> Vec<Caller> {
        let apart = |other: usize| self.apart.contains(&(worker.min(other), worker.max(other)));
        self.audit.alive().filter(|other| other.worker != worker && !apart(other.worker)).collect()
    }
}
