//! The world: workers, servers, and what goes wrong, on one queue of events and virtual time.

use std::time::Duration;

use pgbaton_core::{Input, Lsn, Moment, Policy, State};

use crate::audit::{Audit, Violation};
use crate::bus::Bus;
use crate::etcd::Etcd;
use crate::genesis;
use crate::kafka::Kafka;
use crate::message::{Event, Request, Service};
use crate::mutant::Mutant;
use crate::postgres::{Postgres, SETTLED};
use crate::process::Process;
use crate::scenario::{Fault, Scenario, Target};
use crate::story::Story;
use crate::time::{Clock, Time, ms, seconds};

#[derive(Debug)]
pub(crate) enum Tick {
    Load,
    Foreign,
    Sample,
    Fault(usize),
    Thaw { worker: usize },
    Mend { worker: usize, service: Service },
    Together(usize),
    Heal,
    Settled,
}

/// How a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub violation: Option<Violation>,
    pub hash: u64,
    pub story: String,
    /// True time that passed in it.
    pub time: Duration,
}

/// After the last heal everything must be published within this time.
const RECOVERED: Duration = seconds(60);

/// No run has as many events; one that has goes round in circles.
const TOO_MANY: u64 = 2_000_000;

struct World {
    scenario: Scenario,
    bus: Bus,
    etcd: Etcd,
    postgres: Postgres,
    kafka: Kafka,
    workers: Vec<Process>,
    healed: Option<Time>,
    both_active: u32,
    over: bool,
}

/// Runs a scenario; with its story written down if wanted.
pub(crate) fn run(scenario: &Scenario, mutant: Option<Mutant>, written: bool) -> Outcome {
    let mut world = World::new(scenario.clone(), mutant, written);
    let mut events = 0_u64;
    while !world.over {
        let Some(event) = world.bus.next(Time(u64::MAX)) else { break };
        world.dispatch(event);
        events += 1;
        if events > TOO_MANY {
            world.bus.audit.violate(0, || "the world does not come to an end".to_owned());
        }
        if let Some(violation) = world.bus.audit.violation() {
            let text = format!("VIOLATION of invariant {}: {}", violation.invariant, violation.text);
            world.bus.tell("audit", || text);
            break;
        }
    }
    Outcome {
        violation: world.bus.audit.violation().cloned(),
        hash: world.bus.story.hash(),
        time: world.bus.now.since(Time(0)),
        story: world.bus.story.into_text(),
    }
}

impl World {
    fn new(scenario: Scenario, mutant: Option<Mutant>, written: bool) -> Self {
        let audit = Audit::new(&scenario);
        let mut bus = Bus::new(scenario.seed, scenario.workers, Story::new(written), audit, mutant);
        (bus.late_ends, bus.unseen_ends) = (scenario.late_ends, scenario.unseen_ends);
        let postgres = Postgres::new(&mut bus, scenario.nodes, scenario.workers);
        let policy = Policy {
            leased: !scenario.lease_free,
            takeover_grace: seconds(1),
            fenced: true,
            slot_guarded: !scenario.strict,
            accept_gaps: false,
            halt_on_shrink: false,
        };
        let drift = scenario.drift_ppm;
        let workers = (0..scenario.workers)
            .map(|id| {
                let offset = bus.between(seconds(1), seconds(100_000));
                let rate = bus.draw(2 * drift + 1) as i64 - drift as i64;
                Process::new(id, Clock::new(offset, rate), policy, scenario.partitions, scenario.standby_barrier)
            })
            .collect();
        let mut world = World {
            etcd: Etcd::new(scenario.etcd_takes),
            postgres,
            kafka: Kafka::new(scenario.partitions),
            workers,
            healed: None,
            both_active: 0,
            over: false,
            scenario,
            bus,
        };
        if world.scenario.lease_free
            && let Some(leader) = world.postgres.survivor()
        {
            world.kafka.seed(&mut world.bus, genesis::by_hand(leader.history()));
        }
        for worker in 0..world.workers.len() {
            world.start(worker);
        }
        for (index, (at, _)) in world.scenario.faults.iter().enumerate() {
            world.bus.at(Time(0) + *at, Event::World(Tick::Fault(index)));
        }
        let heal = Time(0) + world.scenario.heal;
        world.bus.at(heal, Event::World(Tick::Heal));
        for tick in [Tick::Load, Tick::Foreign, Tick::Sample] {
            world.bus.after(ms(500), Event::World(tick));
        }
        world
    }

    fn start(&mut self, worker: usize) {
        if self.workers[worker].machine().is_none() {
            self.workers[worker].start(&mut self.bus);
            if self.workers[worker].is_up() {
                self.etcd.watch(self.workers[worker].caller());
            }
        }
    }

    fn dispatch(&mut self, event: Event) {
        let bus = &mut self.bus;
        match event {
            Event::Request { from, call, body } => match body {
                Request::Etcd(request) => self.etcd.request(bus, from, call, request),
                Request::Postgres(request) => self.postgres.request(bus, from, call, request),
                Request::Kafka(request) => self.kafka.request(bus, from, call, request),
            },
            Event::ToServer { connection, message } => self.postgres.client_says(bus, connection, message),
            Event::Etcd(tick) => self.etcd.tick(bus, tick),
            Event::Postgres(tick) => self.postgres.tick(bus, tick),
            Event::Kafka(tick) => self.kafka.tick(bus, tick),
            Event::World(tick) => self.tick(tick),
            Event::Reply { to, .. }
            | Event::ToClient { to, .. }
            | Event::HolderChanged { to }
            | Event::Beat { to, .. }
            | Event::Unlinked { to, .. }
            | Event::Timer { of: to, .. } => self.workers[to.worker].receive(bus, event),
        }
    }

    fn tick(&mut self, tick: Tick) {
        match tick {
            Tick::Load => self.load(),
            Tick::Foreign => {
                if self.healed.is_none() {
                    let pause = self.bus.between(ms(300), seconds(3));
                    self.bus.after(pause, Event::World(Tick::Foreign));
                }
                let bytes = 8 + self.bus.draw(400);
                self.postgres.write_foreign(&mut self.bus, bytes);
            }
            Tick::Sample => {
                self.bus.after(ms(500), Event::World(Tick::Sample));
                let moments: Vec<Moment> = self.workers.iter().map(|worker| worker.now(&self.bus)).collect();
                let now = self.bus.now;
                self.bus.audit.sample(&self.postgres, &self.workers, &mut self.both_active, &moments, now);
            }
            Tick::Fault(index) => {
                let fault = self.scenario.faults[index].1;
                self.bus.tell("FAULT", || fault.text());
                self.inflict(fault);
            }
            Tick::Thaw { worker } => self.thaw(worker),
            Tick::Mend { worker, service } => {
                *self.bus.link(worker, service) = Default::default();
                self.bus.release_held(worker);
                self.excuse(worker);
            }
            Tick::Together(worker) => self.bus.apart.retain(|(a, b)| *a != worker && *b != worker),
            Tick::Heal => self.heal(),
            Tick::Settled => self.settled(),
        }
    }

    fn load(&mut self) {
        if self.healed.is_some() {
            return;
        }
        let pause = self.bus.between(Duration::ZERO, 2 * self.scenario.pause);
        self.bus.after(pause, Event::World(Tick::Load));
        let large = self.bus.chance(self.scenario.large);
        let rows = if large { 6 + self.bus.draw(40) } else { 1 + self.bus.draw(3) };
        self.postgres.commit(&mut self.bus, rows as usize, 12);
    }

    fn thaw(&mut self, worker: usize) {
        self.excuse(worker);
        let now = self.bus.now;
        self.bus.audit.woken(worker, now);
        self.workers[worker].thaw(&mut self.bus);
    }

    /// Whatever it did not know it is told now.
    fn excuse(&mut self, worker: usize) {
        let until = self.bus.now + seconds(15);
        self.bus.audit.excuse(worker, until);
    }

    fn target(&self, target: Target) -> usize {
        match target {
            Target::Worker(worker) => worker.min(self.workers.len() - 1),
            Target::Holder if self.scenario.lease_free => {
                let streams = |worker: &Process| worker.machine().is_some_and(|machine| machine.tenure().is_some());
                self.workers.iter().position(streams).unwrap_or(0)
            }
            Target::Holder => self.etcd.holder().map_or(0, |(worker, _)| worker),
        }
    }

    fn inflict(&mut self, fault: Fault) {
        let bus = &mut self.bus;
        match fault {
            Fault::Kill(target) | Fault::PowerLoss(target) => {
                let worker = self.target(target);
                let told = matches!(fault, Fault::Kill(_));
                let caller = self.workers[worker].caller();
                self.workers[worker].die(&mut self.bus, told);
                for to in self.bus.peers_of(worker).into_iter().filter(|_| told) {
                    let delay = self.bus.between(ms(0), ms(3));
                    self.bus.after(delay, Event::Unlinked { to, from: caller });
                }
            }
            Fault::Start(target) => self.start(self.target(target)),
            Fault::Stop(target, time) | Fault::Suspend(target, time) => {
                let worker = self.target(target);
                self.workers[worker].freeze(&mut self.bus, matches!(fault, Fault::Suspend(..)));
                let until = self.bus.now + time + seconds(15);
                self.bus.audit.excuse(worker, until);
                self.bus.after(time, Event::World(Tick::Thaw { worker }));
            }
            Fault::Handover(target) => {
                let worker = self.target(target);
                if self.workers[worker].machine().is_some_and(|machine| machine.tenure().is_some()) {
                    self.workers[worker].tell_machine(&mut self.bus, Input::Handover(None));
                }
            }
            Fault::Cut { target, service, out, back, time } => {
                let worker = self.target(target);
                let link = self.bus.link(worker, service);
                // A second cut does not mend the first.
                (link.out_cut, link.in_cut) = (link.out_cut || out, link.in_cut || back);
                self.trouble(worker, service, time);
                if service == Service::Postgres {
                    self.workers[worker].link_cut(&mut self.bus);
                }
            }
            Fault::Slow { target, service, by, time } => {
                let worker = self.target(target);
                self.bus.link(worker, service).slow = by;
                self.trouble(worker, service, time);
            }
            Fault::Lossy { target, service, of_thousand, time } => {
                let worker = self.target(target);
                self.bus.link(worker, service).loss = of_thousand;
                self.trouble(worker, service, time);
            }
            Fault::Apart(target, time) => {
                let worker = self.target(target);
                let others = (0..self.workers.len()).filter(|other| *other != worker);
                self.bus.apart.extend(others.map(|other| (worker.min(other), worker.max(other))));
                self.bus.after(time, Event::World(Tick::Together(worker)));
            }
            Fault::EtcdDown(time) => {
                self.etcd.go_down(bus, time);
                let until = self.bus.now + time + seconds(15);
                for worker in 0..self.workers.len() {
                    self.bus.audit.excuse(worker, until);
                }
            }
            Fault::EtcdBackup => self.etcd.back_up(bus),
            Fault::EtcdRestore { same } => {
                self.etcd.restore(bus, same);
                for worker in 0..self.workers.len() {
                    self.excuse(worker);
                }
            }
            Fault::EtcdForget => self.etcd.forget_holder(bus),
            Fault::KafkaDown(time) => self.kafka.go_down(bus, time),
            Fault::KafkaStale(time) => self.kafka.serve_stale(bus, time),
            Fault::KafkaSlowMarks(time) => self.kafka.slow_marks = time,
            Fault::PgRestart(time) => self.postgres.crash_and_restart(bus, time),
            Fault::PgFailover { lagging } => self.postgres.fail_over(bus, lagging, false),
            Fault::PgCollide => self.postgres.fail_over(bus, true, true),
            Fault::PgSplit(time) => self.postgres.split(bus, time),
            Fault::PgSwitchover => self.postgres.switch_over(bus),
            Fault::PgHold(node, time) => {
                let node = node.min(self.postgres.nodes.len() - 1);
                self.postgres.hold(bus, node, time);
            }
            Fault::PgTerminate => self.postgres.terminate_reader(bus),
            Fault::SlotDrop => self.postgres.lose_slot(bus, false),
            Fault::SlotAnew => self.postgres.lose_slot(bus, true),
            Fault::SlotForeign(time) => self.postgres.foreign_reader(bus, time),
        }
    }

    fn trouble(&mut self, worker: usize, service: Service, time: Duration) {
        self.bus.after(time, Event::World(Tick::Mend { worker, service }));
        let until = self.bus.now + time + seconds(15);
        self.bus.audit.excuse(worker, until);
    }

    /// Nothing goes wrong any more, and no more is written.
    fn heal(&mut self) {
        self.bus.tell("world", || "healed".to_owned());
        self.healed = Some(self.bus.now);
        (self.bus.late_ends, self.bus.unseen_ends) = (0, 0);
        self.bus.apart.clear();
        for worker in 0..self.workers.len() {
            for service in [Service::Etcd, Service::Postgres, Service::Kafka] {
                *self.bus.link(worker, service) = Default::default();
            }
            self.bus.release_held(worker);
            self.thaw(worker);
            self.start(worker);
        }
        self.etcd.heal(&mut self.bus);
        self.postgres.heal(&mut self.bus);
        self.kafka.heal();
        self.bus.after(seconds(1), Event::World(Tick::Settled));
    }

    /// Is all well again? If not in time, that is a violation.
    fn settled(&mut self) {
        let since = self.healed.unwrap_or_default();
        let late = self.bus.now.since(since) > RECOVERED + SETTLED;
        let streams =
            self.workers.iter().any(|worker| worker.machine().is_some_and(|machine| machine.state() == State::Stream));
        let end = self.postgres.survivor().map(|node| {
            node.wal.iter().rev().find_map(|record| record.txn.as_ref().map(|txn| txn.end)).unwrap_or(Lsn::INVALID)
        });
        let published = self.bus.audit.position().map_or(Lsn::INVALID, |position| position.lsn);
        let reached = end.is_some_and(|end| published >= end);
        let confirmed = self.postgres.confirmed().is_some_and(|(confirmed, _)| end.is_some_and(|end| confirmed >= end));
        let well = streams && reached && confirmed;
        let quarantined = |worker: &Process| worker.machine().is_some_and(|machine| machine.gap().is_some());
        let told = self.etcd.verdict().is_some() || self.workers.iter().any(quarantined);
        let stopped = self.bus.audit.gap_was_made() && told && !streams;
        if !well && !stopped && !late {
            return self.bus.after(seconds(1), Event::World(Tick::Settled));
        }
        self.over = true;
        let gap = self.bus.audit.gap_was_made();
        if well {
            self.bus.tell("world", || "all is published".to_owned());
            self.bus.audit.compare(&self.kafka, &self.postgres, true);
        } else {
            // A gap may hide behind what progress says; what was published is right all the same.
            self.bus.audit.compare(&self.kafka, &self.postgres, false);
        }
        if !well && !gap {
            let states: Vec<String> = self
                .workers
                .iter()
                .map(|worker| {
                    let state = worker.machine().map_or("down", |machine| machine.state().as_str());
                    format!("{} {state}", worker.name())
                })
                .collect();
            self.bus.audit.violate(35, || {
                format!("not well after {RECOVERED:?}: {}, published {published} of {end:?}", states.join(", "))
            });
        }
    }
}
