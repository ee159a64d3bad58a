//! A run as a text that a reviewer can read: the world's size, and what goes wrong when.
//!
//! ```text
//! seed 7
//! workers 2
//! at 8.000s kill holder
//! at 12.000s pg failover lagging
//! heal 30.000s
//! ```
//!
//! What a text does not say is drawn from its seed: delays, transactions, the order of what happens at once.

use std::fmt::Write as _;
use std::time::Duration;

use crate::message::Service;
use crate::time::{ms, seconds};

/// A worker, or whoever holds the lease by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Worker(usize),
    Holder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill(Target),
    PowerLoss(Target),
    Start(Target),
    Stop(Target, Duration),
    Suspend(Target, Duration),
    Handover(Target),
    Cut { target: Target, service: Service, out: bool, back: bool, time: Duration },
    Slow { target: Target, service: Service, by: Duration, time: Duration },
    Lossy { target: Target, service: Service, of_thousand: u32, time: Duration },
    Apart(Target, Duration),
    EtcdDown(Duration),
    EtcdBackup,
    EtcdRestore { same: bool },
    EtcdForget,
    KafkaDown(Duration),
    KafkaStale(Duration),
    KafkaSlowMarks(Duration),
    PgRestart(Duration),
    PgFailover { lagging: bool },
    PgCollide,
    PgSplit(Duration),
    PgSwitchover,
    PgHold(usize, Duration),
    PgTerminate,
    SlotDrop,
    SlotAnew,
    SlotForeign(Duration),
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub seed: u64,
    pub workers: usize,
    pub nodes: usize,
    pub partitions: usize,
    /// Stop in time without etcd, instead of going on behind slot and sink.
    pub strict: bool,
    /// There is no etcd: workers go by the slot and the claim alone, and a person said where to begin.
    pub lease_free: bool,
    /// Clocks run wrong by up to so many millionths.
    pub drift_ppm: u64,
    /// Mean pause between transactions.
    pub pause: Duration,
    /// Of a thousand transactions, so many are large.
    pub large: u32,
    /// Of a thousand ends of transactions, so many are sent twice, one late.
    pub late_ends: u32,
    /// The same, and nobody notices: what the instance rule cannot see.
    pub unseen_ends: u32,
    /// Publication waits until all other nodes of PostgreSQL have a transaction.
    pub standby_barrier: bool,
    /// etcd's answers take up to so long: what it was asked for is done by then.
    pub etcd_takes: Duration,
    pub faults: Vec<(Duration, Fault)>,
    /// From then on nothing goes wrong any more.
    pub heal: Duration,
}

impl Default for Scenario {
    fn default() -> Self {
        Scenario {
            seed: 1,
            workers: 2,
            nodes: 3,
            partitions: 2,
            strict: false,
            lease_free: false,
            drift_ppm: 0,
            pause: ms(300),
            large: 60,
            late_ends: 0,
            unseen_ends: 0,
            standby_barrier: false,
            etcd_takes: Duration::ZERO,
            faults: Vec::new(),
            heal: seconds(30),
        }
    }
}

fn time(time: Duration) -> String {
    format!("{}.{:03}s", time.as_secs(), time.subsec_millis())
}

fn read_time(text: &str) -> Option<Duration> {
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    Some(Duration::from_millis((seconds * 1000.0).round() as u64))
}

impl Target {
    fn text(self) -> String {
        match self {
            Target::Worker(worker) => format!("w{}", worker + 1),
            Target::Holder => "holder".to_owned(),
        }
    }

    fn read(text: &str) -> Option<Target> {
        match text {
            "holder" => Some(Target::Holder),
            name => Some(Target::Worker(name.strip_prefix('w')?.parse::<usize>().ok()?.checked_sub(1)?)),
        }
    }
}

fn service(service: Service) -> &'static str {
    match service {
        Service::Etcd => "etcd",
        Service::Postgres => "postgres",
        Service::Kafka => "kafka",
    }
}

fn read_service(text: &str) -> Option<Service> {
    [Service::Etcd, Service::Postgres, Service::Kafka].into_iter().find(|known| service(*known) == text)
}

impl Fault {
    pub fn text(self) -> String {
        match self {
            Fault::Kill(target) => format!("kill {}", target.text()),
            Fault::PowerLoss(target) => format!("power-loss {}", target.text()),
            Fault::Start(target) => format!("start {}", target.text()),
            Fault::Stop(target, t) => format!("stop {} {}", target.text(), time(t)),
            Fault::Suspend(target, t) => format!("suspend {} {}", target.text(), time(t)),
            Fault::Handover(target) => format!("handover {}", target.text()),
            Fault::Cut { target, service: of, out, back, time: t } => {
                let way = match (out, back) {
                    (true, true) => "both",
                    (true, false) => "out",
                    _ => "in",
                };
                format!("cut {} {} {way} {}", target.text(), service(of), time(t))
            }
            Fault::Slow { target, service: of, by, time: t } => {
                format!("slow {} {} {} {}", target.text(), service(of), time(by), time(t))
            }
            Fault::Lossy { target, service: of, of_thousand, time: t } => {
                format!("lossy {} {} {of_thousand} {}", target.text(), service(of), time(t))
            }
            Fault::Apart(target, t) => format!("apart {} {}", target.text(), time(t)),
            Fault::EtcdDown(t) => format!("etcd down {}", time(t)),
            Fault::EtcdBackup => "etcd backup".to_owned(),
            Fault::EtcdRestore { same } => format!("etcd restore {}", if same { "same" } else { "new" }),
            Fault::EtcdForget => "etcd forget-holder".to_owned(),
            Fault::KafkaDown(t) => format!("kafka down {}", time(t)),
            Fault::KafkaStale(t) => format!("kafka stale {}", time(t)),
            Fault::KafkaSlowMarks(t) => format!("kafka slow-marks {}", time(t)),
            Fault::PgRestart(t) => format!("pg restart {}", time(t)),
            Fault::PgFailover { lagging } => format!("pg failover {}", if lagging { "lagging" } else { "current" }),
            Fault::PgCollide => "pg collide".to_owned(),
            Fault::PgSplit(t) => format!("pg split {}", time(t)),
            Fault::PgSwitchover => "pg switchover".to_owned(),
            Fault::PgHold(node, t) => format!("pg hold pg{} {}", node + 1, time(t)),
            Fault::PgTerminate => "pg terminate".to_owned(),
            Fault::SlotDrop => "slot drop".to_owned(),
            Fault::SlotAnew => "slot anew".to_owned(),
            Fault::SlotForeign(t) => format!("slot foreign {}", time(t)),
        }
    }

    fn read(text: &str) -> Option<Fault> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let target = |at: usize| Target::read(words.get(at)?);
        let long = |at: usize| read_time(words.get(at)?);
        Some(match (*words.first()?, words.get(1).copied().unwrap_or_default()) {
            ("kill", _) => Fault::Kill(target(1)?),
            ("power-loss", _) => Fault::PowerLoss(target(1)?),
            ("start", _) => Fault::Start(target(1)?),
            ("stop", _) => Fault::Stop(target(1)?, long(2)?),
            ("suspend", _) => Fault::Suspend(target(1)?, long(2)?),
            ("handover", _) => Fault::Handover(target(1)?),
            ("cut", _) => {
                let way = *words.get(3)?;
                let (out, back) = (way != "in", way != "out");
                Fault::Cut { target: target(1)?, service: read_service(words.get(2)?)?, out, back, time: long(4)? }
            }
            ("slow", _) => {
                Fault::Slow { target: target(1)?, service: read_service(words.get(2)?)?, by: long(3)?, time: long(4)? }
            }
            ("lossy", _) => Fault::Lossy {
                target: target(1)?,
                service: read_service(words.get(2)?)?,
                of_thousand: words.get(3)?.parse().ok()?,
                time: long(4)?,
            },
            ("apart", _) => Fault::Apart(target(1)?, long(2)?),
            ("etcd", "down") => Fault::EtcdDown(long(2)?),
            ("etcd", "backup") => Fault::EtcdBackup,
            ("etcd", "restore") => Fault::EtcdRestore { same: *words.get(2)? == "same" },
            ("etcd", "forget-holder") => Fault::EtcdForget,
            ("kafka", "down") => Fault::KafkaDown(long(2)?),
            ("kafka", "stale") => Fault::KafkaStale(long(2)?),
            ("kafka", "slow-marks") => Fault::KafkaSlowMarks(long(2)?),
            ("pg", "restart") => Fault::PgRestart(long(2)?),
            ("pg", "failover") => Fault::PgFailover { lagging: *words.get(2)? == "lagging" },
            ("pg", "collide") => Fault::PgCollide,
            ("pg", "split") => Fault::PgSplit(long(2)?),
            ("pg", "switchover") => Fault::PgSwitchover,
            ("pg", "hold") => {
                Fault::PgHold(words.get(2)?.strip_prefix("pg")?.parse::<usize>().ok()?.checked_sub(1)?, long(3)?)
            }
            ("pg", "terminate") => Fault::PgTerminate,
            ("slot", "drop") => Fault::SlotDrop,
            ("slot", "anew") => Fault::SlotAnew,
            ("slot", "foreign") => Fault::SlotForeign(long(2)?),
            _ => return None,
        })
    }
}

impl Scenario {
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "seed {}", self.seed);
        let _ = writeln!(out, "workers {}\nnodes {}\npartitions {}", self.workers, self.nodes, self.partitions);
        let _ = writeln!(out, "policy {}", if self.strict { "strict" } else { "slot-guarded" });
        let _ = writeln!(out, "coordination {}", if self.lease_free { "none" } else { "etcd" });
        let _ = writeln!(out, "drift {}ppm", self.drift_ppm);
        let _ = writeln!(out, "pause {}\nlarge {}\nlate-ends {}", time(self.pause), self.large, self.late_ends);
        let _ = writeln!(out, "unseen-ends {}\netcd-takes {}", self.unseen_ends, time(self.etcd_takes));
        let _ = writeln!(out, "standby-barrier {}", if self.standby_barrier { "all" } else { "off" });
        for (at, fault) in &self.faults {
            let _ = writeln!(out, "at {} {}", time(*at), fault.text());
        }
        let _ = writeln!(out, "heal {}", time(self.heal));
        out
    }

    /// Reads such a text, up to a line of dashes if there is one; the error is the line that cannot be read.
    pub fn read(text: &str) -> Result<Scenario, String> {
        let mut scenario = Scenario::default();
        let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("---"));
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            scenario.line(line).ok_or_else(|| line.to_owned())?;
        }
        Ok(scenario)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let (word, rest) = line.split_once(' ')?;
        match word {
            "seed" => self.seed = rest.parse().ok()?,
            "workers" => self.workers = rest.parse().ok()?,
            "nodes" => self.nodes = rest.parse().ok()?,
            "partitions" => self.partitions = rest.parse().ok()?,
            "policy" => self.strict = rest == "strict",
            "coordination" => self.lease_free = rest == "none",
            "drift" => self.drift_ppm = rest.strip_suffix("ppm")?.parse().ok()?,
            "pause" => self.pause = read_time(rest)?,
            "large" => self.large = rest.parse().ok()?,
            "unseen-ends" => self.unseen_ends = rest.parse().ok()?,
            "late-ends" => self.late_ends = rest.parse().ok()?,
            "etcd-takes" => self.etcd_takes = read_time(rest)?,
            "standby-barrier" => self.standby_barrier = rest == "all",
            "heal" => self.heal = read_time(rest)?,
            "at" => {
                let (at, fault) = rest.split_once(' ')?;
                self.faults.push((read_time(at)?, Fault::read(fault)?));
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_of_every_kind_of_fault_survives_its_text() {
        for seed in 0..300 {
            let scenario = crate::swarm::draw(seed);
            assert_eq!(Scenario::read(&scenario.text()).as_ref(), Ok(&scenario));
        }
    }
}
