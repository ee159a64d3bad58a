//! Swarm testing: every seed draws which kinds of fault there are at all, and how many of each. Runs with few kinds go
//! deeper than runs with all of them.

use std::time::Duration;

use fastrand::Rng;

use crate::message::Service;
use crate::scenario::{Fault, Scenario, Target};
use crate::time::{ms, seconds};

/// Kinds of fault, each as likely as its number says.
type Kind = fn(&mut Dice) -> Vec<Fault>;

struct Dice {
    rng: Rng,
    workers: usize,
    nodes: usize,
}

impl Dice {
    /// Whole milliseconds, so that a scenario survives its text.
    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        ms(self.rng.u64(least.as_millis() as u64..=most.as_millis() as u64))
    }

    /// The holder more often than not: that is where it hurts.
    fn target(&mut self) -> Target {
        if self.rng.u8(0..10) < 6 { Target::Holder } else { Target::Worker(self.rng.usize(0..self.workers)) }
    }

    fn service(&mut self) -> Service {
        [Service::Etcd, Service::Postgres, Service::Kafka][self.rng.usize(0..3)]
    }
}

const KINDS: &[Kind] = &[
    |d| vec![Fault::Kill(d.target())],
    |d| vec![Fault::PowerLoss(d.target())],
    |d| {
        let target = d.target();
        vec![Fault::Stop(target, d.between(ms(200), seconds(20)))]
    },
    |d| {
        let target = d.target();
        vec![Fault::Suspend(target, d.between(seconds(1), seconds(25)))]
    },
    |d| vec![Fault::Handover(d.target())],
    |d| {
        let (target, service) = (d.target(), d.service());
        let (out, back) = [(true, true), (true, false), (false, true)][d.rng.usize(0..3)];
        vec![Fault::Cut { target, service, out, back, time: d.between(ms(500), seconds(20)) }]
    },
    |d| {
        let (target, service) = (d.target(), d.service());
        let by = d.between(ms(50), ms(2500));
        vec![Fault::Slow { target, service, by, time: d.between(seconds(2), seconds(20)) }]
    },
    |d| {
        let (target, service) = (d.target(), Service::Etcd);
        let slow = Fault::Slow { target, service, by: d.between(ms(800), ms(1500)), time: seconds(30) };
        vec![slow, Fault::Cut { target, service, out: true, back: true, time: d.between(seconds(8), seconds(15)) }]
    },
    |d| {
        let node = d.rng.usize(0..d.nodes);
        let hold = Fault::PgHold(node, d.between(seconds(2), seconds(10)));
        vec![hold, Fault::Kill(Target::Holder), Fault::PgFailover { lagging: true }]
    },
    |d| {
        let (target, service) = (d.target(), d.service());
        let of_thousand = d.rng.u32(20..400);
        vec![Fault::Lossy { target, service, of_thousand, time: d.between(seconds(2), seconds(20)) }]
    },
    |d| {
        let target = d.target();
        vec![Fault::Apart(target, d.between(seconds(2), seconds(20)))]
    },
    |d| vec![Fault::EtcdDown(d.between(ms(300), seconds(25)))],
    |d| vec![Fault::EtcdBackup, Fault::EtcdRestore { same: d.rng.bool() }],
    |_| vec![Fault::EtcdForget],
    |d| vec![Fault::KafkaDown(d.between(ms(300), seconds(15)))],
    |d| vec![Fault::KafkaStale(d.between(ms(300), seconds(6))), Fault::Kill(Target::Holder)],
    |d| vec![Fault::KafkaSlowMarks(d.between(ms(20), seconds(3)))],
    |d| vec![Fault::PgRestart(d.between(ms(500), seconds(8)))],
    |_| vec![Fault::PgFailover { lagging: false }],
    |d| {
        let node = d.rng.usize(0..d.nodes);
        vec![Fault::PgHold(node, d.between(seconds(2), seconds(10))), Fault::PgFailover { lagging: true }]
    },
    |d| {
        let node = d.rng.usize(0..d.nodes);
        vec![Fault::PgHold(node, seconds(14)), Fault::PgFailover { lagging: false }, Fault::PgCollide]
    },
    // Two branches from one timeline, each published from: of one number, and of two. A fault that finds no leader is none, so
    // that the second branch begins when the first one leads.
    |d| {
        let node = d.rng.usize(0..d.nodes);
        let first = [Fault::PgHold(node, seconds(25)), Fault::PgFailover { lagging: false }];
        first.into_iter().chain([Fault::PgCollide; 3]).collect()
    },
    |d| {
        let node = d.rng.usize(0..d.nodes);
        let first = [Fault::PgHold(node, seconds(25)), Fault::PgFailover { lagging: false }];
        first.into_iter().chain([Fault::PgFailover { lagging: true }; 3]).collect()
    },
    |d| vec![Fault::PgSplit(d.between(ms(500), seconds(6)))],
    |_| vec![Fault::PgSwitchover],
    |_| vec![Fault::PgTerminate],
    |d| vec![Fault::SlotForeign(d.between(seconds(1), seconds(6)))],
];

const GAPS: &[Kind] = &[|_| vec![Fault::SlotDrop], |_| vec![Fault::SlotAnew]];

/// The run of a seed.
pub(crate) fn draw(seed: u64) -> Scenario {
    let mut rng = Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5EED);
    // Now and then as many as anybody may have.
    let workers = if rng.u8(0..12) == 0 { rng.usize(5..=8) } else { rng.usize(2..=4) };
    let nodes = rng.usize(2..=3);
    let mut dice = Dice { rng, workers, nodes };
    let heal = dice.between(seconds(15), seconds(50));
    let mut kinds: Vec<Kind> = Vec::new();
    for _ in 0..dice.rng.usize(1..=5) {
        kinds.push(KINDS[dice.rng.usize(0..KINDS.len())]);
    }
    let mut faults = Vec::new();
    for _ in 0..dice.rng.usize(1..=8) {
        let kind = kinds[dice.rng.usize(0..kinds.len())];
        let mut at = dice.between(seconds(2), heal - seconds(1));
        for fault in kind(&mut dice) {
            faults.push((at.min(heal - ms(100)), fault));
            let most = if dice.rng.bool() { ms(300) } else { seconds(6) };
            at += dice.between(ms(10), most);
        }
    }
    // One run in eight has a gap that no worker can close.
    if dice.rng.u8(0..8) == 0 {
        let gap = GAPS[dice.rng.usize(0..GAPS.len())];
        let at = dice.between(seconds(3), heal - seconds(1));
        faults.extend(gap(&mut dice).into_iter().map(|fault| (at, fault)));
    }
    // An etcd that is slow all the time, never too late for a keepalive's patience, and then not heard at all: what is counted
    // from the wrong end of a call is a second or two late there.
    let mut etcd_takes = Duration::ZERO;
    if dice.rng.u8(0..6) == 0 {
        etcd_takes = dice.between(ms(600), ms(1150));
        let at = dice.between(seconds(3), heal - seconds(9));
        let (target, time) = (Target::Holder, dice.between(seconds(8), seconds(15)));
        faults.push((at, Fault::Cut { target, service: Service::Etcd, out: true, back: true, time }));
    }
    // Whoever is gone comes back, at some time.
    for (at, fault) in faults.clone() {
        if matches!(fault, Fault::Kill(_) | Fault::PowerLoss(_)) {
            let back = (at + dice.between(ms(100), seconds(12))).min(heal);
            faults.extend((0..workers).map(|worker| (back, Fault::Start(Target::Worker(worker)))));
        }
    }
    faults.sort_by_key(|(at, _)| *at);
    faults.dedup();
    Scenario {
        seed,
        workers,
        nodes,
        partitions: dice.rng.usize(1..=3),
        strict: dice.rng.u8(0..3) == 0,
        drift_ppm: [0, 1000, 100_000][dice.rng.usize(0..3)],
        pause: dice.between(ms(60), ms(800)),
        large: dice.rng.u32(0..250),
        late_ends: [0, 0, 5, 50, 300][dice.rng.usize(0..5)],
        unseen_ends: [0, 0, 0, 0, 0, 0, 0, 20, 200][dice.rng.usize(0..9)],
        lease_free: dice.rng.u8(0..5) == 0,
        // Drawn last: all else of a seed is as it was before there was a barrier.
        standby_barrier: dice.rng.u8(0..8) == 0,
        etcd_takes,
        faults,
        heal,
    }
}
