//! Which fault comes next: drawn from a seed, and refused where it would kill too much at once.
//!
//! The seed draws faults and pauses. Which of the drawn ones are refused depends on what is still sick and on how soon the database
//! heals, so two runs of a seed are alike and not the same.

use std::time::Duration;

use fastrand::Rng;

use super::fault::{Blow, Fault};
use crate::proxy::Trouble;

/// The nodes of a cluster that faults may strike.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// Names of workers.
    pub workers: Vec<String>,
    /// Names of PostgreSQL's nodes.
    pub postgres: Vec<String>,
    /// Names of etcd members.
    pub etcd: Vec<String>,
    /// Names of brokers.
    pub kafka: Vec<String>,
}

impl Nodes {
    /// Tells the nodes of a cluster apart by their names.
    #[must_use]
    pub fn among(all: &[String]) -> Self {
        let like = |kind: &str| all.iter().filter(|name| name.starts_with(kind)).cloned().collect();
        Nodes { workers: like("worker-"), postgres: like("pg-"), etcd: like("etcd-"), kafka: like("kafka-") }
    }
}

/// Draws faults.
#[derive(Debug)]
pub struct Planner {
    rng: Rng,
    nodes: Nodes,
}

impl Planner {
    /// Draws from this seed.
    #[must_use]
    pub fn new(seed: u64, nodes: Nodes) -> Self {
        Planner { rng: Rng::with_seed(seed), nodes }
    }

    /// How long until the next fault.
    pub fn pause(&mut self) -> Duration {
        Duration::from_millis(self.rng.u64(3_000..15_000))
    }

    /// The next fault, which may be more than the cluster bears now.
    pub fn draw(&mut self) -> Fault {
        match self.rng.u32(0..100) {
            0..30 => self.worker(),
            30..70 => self.way(),
            70..82 => self.postgres(),
            82..90 => self.members(self.nodes.etcd.clone()),
            90..97 => self.members(self.nodes.kafka.clone()),
            _ => self.fault(Blow::Kill, vec!["haproxy".into()], 500..6_000),
        }
    }

    fn worker(&mut self) -> Fault {
        if self.rng.u32(0..12) == 0 {
            return self.fault(Blow::Kill, self.nodes.workers.clone(), 500..6_000);
        }
        let worker = vec![one_of(&mut self.rng, &self.nodes.workers)];
        match self.rng.u32(0..10) {
            0..4 => self.fault(Blow::Kill, worker, 500..10_000),
            4..8 => self.fault(Blow::Freeze, worker, 500..25_000),
            _ => self.fault(Blow::Terminate, worker, 500..5_000),
        }
    }

    fn postgres(&mut self) -> Fault {
        let node = vec![one_of(&mut self.rng, &self.nodes.postgres)];
        match self.rng.u32(0..10) {
            0..3 => self.fault(Blow::Kill, node, 2_000..30_000),
            3..6 => self.fault(Blow::Freeze, node, 2_000..30_000),
            _ => Fault { fault: Blow::Switchover, targets: vec!["database".into()], lasts_ms: 0 },
        }
    }

    /// One of three; now and then the majority.
    fn members(&mut self, mut members: Vec<String>) -> Fault {
        self.rng.shuffle(&mut members);
        members.truncate(if self.rng.u32(0..4) == 0 { members.len() / 2 + 1 } else { 1 });
        members.sort_unstable();
        let blow = if self.rng.bool() { Blow::Kill } else { Blow::Freeze };
        self.fault(blow, members, 2_000..20_000)
    }

    fn way(&mut self) -> Fault {
        let worker = one_of(&mut self.rng, &self.nodes.workers);
        let name = match self.rng.u32(0..23) {
            0..6 => format!("{worker}/haproxy"),
            6..9 => format!("{worker}/etcd-"),
            9..12 => format!("{worker}/{}", one_of(&mut self.rng, &self.nodes.etcd)),
            12..15 => format!("{worker}/kafka-"),
            15..18 => format!("{worker}/{}", one_of(&mut self.rng, &self.nodes.kafka)),
            18..21 => format!("{worker}/"),
            _ => format!("peers/{worker}"),
        };
        let by = Duration::from_millis(self.rng.u64(20..2_000));
        let late = Duration::from_millis(self.rng.u64(500..30_000));
        let kafka = name.contains("/kafka-");
        let blow = match self.rng.u32(0..if kafka { 11 } else { 9 }) {
            0 => Blow::Trouble(Trouble::Cut),
            1 | 2 => Blow::Trouble(Trouble::BlackHole),
            3 => Blow::Trouble(Trouble::ClientUnheard),
            4 => Blow::Trouble(Trouble::ServerUnheard),
            5 => Blow::Trouble(Trouble::Delay(by)),
            6 => Blow::Trouble(Trouble::Dribble),
            7 | 8 => return Fault { fault: Blow::Reset, targets: vec![name], lasts_ms: 0 },
            _ => Blow::Trouble(Trouble::LateEnd(late)),
        };
        self.fault(blow, vec![name], 1_000..20_000)
    }

    fn fault(&mut self, fault: Blow, targets: Vec<String>, lasts_ms: std::ops::Range<u64>) -> Fault {
        Fault { fault, targets, lasts_ms: self.rng.u64(lasts_ms) }
    }
}

fn one_of(rng: &mut Rng, names: &[String]) -> String {
    rng.choice(names).cloned().unwrap_or_default()
}

/// Whether a fault strikes the database, which may only be struck while it is whole: a standby that has not got the slot yet loses
/// it for good when it is promoted, and then nothing is left to test.
#[must_use]
pub fn needs_whole_database(fault: &Fault) -> bool {
    fault.targets.iter().any(|target| target == "database" || target.starts_with("pg-"))
}

/// Whether the cluster bears one more fault while these are not healed: nobody is struck twice, the database one node at a time
/// and never without etcd's majority, and no two majorities are away at once.
#[must_use]
pub fn is_bearable(fault: &Fault, sick: &[Fault], nodes: &Nodes) -> bool {
    let struck: Vec<&str> = sick.iter().flat_map(|fault| &fault.targets).map(String::as_str).collect();
    let touches =
        |target: &String| struck.iter().any(|other| target.starts_with(other) || other.starts_with(target.as_str()));
    if fault.targets.iter().any(touches) {
        return false;
    }
    let after: Vec<&str> = struck.iter().copied().chain(fault.targets.iter().map(String::as_str)).collect();
    let away = |names: &[String]| names.iter().filter(|name| after.contains(&name.as_str())).count();
    let database = away(&nodes.postgres) + usize::from(after.contains(&"database"));
    let etcd_is_lost = away(&nodes.etcd) > nodes.etcd.len() / 2;
    let lost = [
        away(&nodes.workers) == nodes.workers.len(),
        etcd_is_lost,
        away(&nodes.kafka) > nodes.kafka.len() / 2,
        after.contains(&"haproxy"),
    ];
    database <= 1 && !(database == 1 && etcd_is_lost) && lost.into_iter().filter(|lost| *lost).count() <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Nodes {
        let names = |kind: &str| (1..=3).map(|i| format!("{kind}-{i}")).collect();
        Nodes { workers: names("worker"), postgres: names("pg"), etcd: names("etcd"), kafka: names("kafka") }
    }

    fn kill(targets: &[&str]) -> Fault {
        let targets = targets.iter().map(|target| (*target).to_owned()).collect();
        Fault { fault: Blow::Kill, targets, lasts_ms: 1 }
    }

    #[test]
    fn a_seed_draws_the_same_faults_again_and_in_time_all_kinds() {
        let draw = |seed| {
            let mut planner = Planner::new(seed, nodes());
            (0..2000).map(|_| (planner.pause(), planner.draw())).collect::<Vec<_>>()
        };
        let drawn = draw(7);
        assert_eq!(drawn, draw(7));
        assert_ne!(drawn, draw(8));
        assert!(drawn.iter().all(|(pause, _)| (3..15).contains(&pause.as_secs())));
        for (kind, target) in [
            ("kill", "worker-1"),
            ("freeze", "worker-2"),
            ("terminate", "worker-3"),
            ("switchover", "database"),
            ("kill", "pg-1"),
            ("freeze", "pg-2"),
            ("kill", "etcd-1"),
            ("freeze", "kafka-3"),
            ("kill", "haproxy"),
            ("cut", "worker-1/"),
            ("black-hole", "worker-1/haproxy"),
            ("client-unheard", "worker-1/etcd-"),
            ("server-unheard", "worker-2/kafka-"),
            ("reset", "worker-1/haproxy"),
            ("dribble", "peers/worker-1"),
            ("delay", "worker-1/etcd-"),
            ("late-end", "worker-1/kafka-"),
        ] {
            let there =
                |fault: &Fault| fault.fault.to_string().starts_with(kind) && fault.targets[0].starts_with(target);
            assert!(drawn.iter().any(|(_, fault)| there(fault)), "never drawn: {kind} {target}");
        }
    }

    #[test]
    fn two_majorities_are_never_away_at_once() {
        let (nodes, two_brokers) = (nodes(), kill(&["kafka-1", "kafka-2"]));
        assert!(is_bearable(&two_brokers, &[], &nodes));
        assert!(is_bearable(&kill(&["etcd-1"]), std::slice::from_ref(&two_brokers), &nodes));
        assert!(!is_bearable(&kill(&["etcd-1", "etcd-2"]), std::slice::from_ref(&two_brokers), &nodes));
        assert!(!is_bearable(&kill(&["haproxy"]), std::slice::from_ref(&two_brokers), &nodes));
        assert!(!is_bearable(&kill(&["etcd-2"]), &[two_brokers, kill(&["etcd-1"])], &nodes));
    }

    #[test]
    fn the_database_is_struck_one_node_at_a_time_and_with_etcd_only() {
        let nodes = nodes();
        assert!(is_bearable(&kill(&["pg-1"]), &[kill(&["etcd-1"])], &nodes));
        assert!(!is_bearable(&kill(&["pg-1"]), &[kill(&["pg-2"])], &nodes));
        assert!(!is_bearable(&kill(&["database"]), &[kill(&["pg-2"])], &nodes));
        assert!(!is_bearable(&kill(&["pg-1"]), &[kill(&["etcd-1", "etcd-2"])], &nodes));
    }

    #[test]
    fn nobody_and_no_way_is_struck_twice() {
        let nodes = nodes();
        assert!(!is_bearable(&kill(&["worker-1"]), &[kill(&["worker-1"])], &nodes));
        assert!(!is_bearable(&kill(&["worker-1/kafka-2"]), &[kill(&["worker-1/kafka-"])], &nodes));
        assert!(!is_bearable(&kill(&["worker-1/"]), &[kill(&["worker-1/kafka-"])], &nodes));
        assert!(is_bearable(&kill(&["worker-2/"]), &[kill(&["worker-1/kafka-"])], &nodes));
    }
}
