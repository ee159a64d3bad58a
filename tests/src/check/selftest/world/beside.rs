//! What is seen beside Kafka and the database: logs, etcd, processes, and what was done to all of them.

use super::{WORKERS, World};
use crate::check::event::lsn_text;
use crate::check::resources::Process;
use crate::check::row::hex;
use crate::check::samples::{Holder, Reading, Sample, Shows, Worker};
use crate::check::staged::{Fault, Gap, Idle, Named, Staged, Timed};
use crate::check::tenures::Terminated;
use sha2::{Digest, Sha256};

/// The 14th of November 2023 began at this time.
const DAY_MS: i64 = 1_699_920_000_000;
/// It is cleared in the middle of the day, so all that is made is of one day.
const HOUR_MS: i64 = 3_600_000;

impl World {
    /// Adds a line to the log of the worker that streams.
    pub(super) fn logs(&mut self, words: &str) {
        let ms = self.clock_ms - DAY_MS;
        let time = format!(
            "2023-11-14T{:02}:{:02}:{:02}.{:03}Z",
            ms / HOUR_MS % 24,
            ms / 60_000 % 60,
            ms / 1_000 % 60,
            ms % 1_000
        );
        let log = self.made.logs.iter_mut().find(|(worker, _)| worker == self.worker);
        let (_, log) = log.expect("every worker has a log");
        log.push_str(&format!("{time}  {words}\n"));
    }

    /// The walsender of the session.
    pub(super) fn reader(&self) -> Reading {
        let (term, revision) = (self.term, self.revision);
        let short = &hex(&Sha256::digest(self.worker.as_bytes()))[..8];
        let name = format!("pgbaton/p/{short}/n/t={term}/r={revision}");
        Reading { pid: term as i32, name, flush: Some(lsn_text(self.position.1)) }
    }

    /// The worker that streams is killed.
    pub(super) fn strikes_the_owner(&mut self) {
        let at_ms = self.clock_ms;
        let targets = vec![self.worker.to_owned()];
        let fault = Fault { at_ms, until_ms: at_ms + 5_000, what: "kill".into(), targets };
        self.staged().faults.push(fault);
    }

    /// Some time goes by, in which the workers are seen and nobody streams.
    pub(super) fn waits(&mut self) {
        for _ in 0..40 {
            self.clock_ms += 500;
            for name in WORKERS {
                let shows = Shows::Worker(Worker {
                    state: "inspect".into(),
                    term: None,
                    active: false,
                    healthy: true,
                    reasons: Vec::new(),
                    degraded: false,
                });
                self.made.samples.push(Sample { at_ms: self.clock_ms, node: name.into(), shows });
            }
        }
    }

    /// etcd is heard to have another holder key.
    pub(super) fn shows_holder(&mut self) {
        for revision in [0, self.revision] {
            self.clock_ms += 1;
            let shows = Shows::Holder(Holder { revision });
            self.made.samples.push(Sample { at_ms: self.clock_ms, node: "etcd".into(), shows });
        }
    }

    /// The worker that streams tells a walsender of an older session to go.
    pub(super) fn ends(&mut self, reader: Reading) {
        self.logs(&format!("INFO worker: state changed from=\"contend\" to=\"inspect\" revision={}", self.revision));
        let Reading { pid, name, .. } = reader;
        self.made.terminated.push(Terminated { at_ms: self.clock_ms, node: "pg-1".into(), pid, name });
        self.clock_ms += 1;
        self.logs(&format!("WARN worker: told an older session's walsender to go pipeline=\"made\" pid={pid}"));
    }

    /// What the worker that streams uses.
    pub(super) fn shows_process(&mut self) {
        let process = Process { memory_kib: 60_000, files: 70, most_files: 1_024, spools: Vec::new() };
        let node = self.worker.into();
        self.made.samples.push(Sample { at_ms: self.clock_ms, node, shows: Shows::Process(process) });
    }

    fn staged(&mut self) -> &mut Staged {
        self.made.staged.get_or_insert_default()
    }

    /// Everything that can be measured was.
    pub(super) fn stages(&mut self) {
        let (lsn, now) = (self.lsn, self.clock_ms);
        let timed = |what: &str, ms, within_ms| Timed { what: what.into(), ms, within_ms };
        let named = |code: &str| Named {
            fault: "etcd is away".into(),
            worker: WORKERS[0].into(),
            wanted: vec![code.into()],
            said: Some(code.into()),
            metric: true,
        };
        let gap = |code: &str, to| Gap {
            pipeline: code.into(),
            code: code.into(),
            took: timed(code, 700, 10_000),
            missing: [lsn, lsn + 0x1000],
            reported: [Some(lsn - 0x20), to],
            widest: [lsn - 0x40, lsn + 0x1040],
            told_beyond: 0,
        };
        let idle = |step: u64| Idle { written_bytes: step << 24, retained_bytes: (step % 5) << 24 };
        let rows = (0..60).map(|row| (now + row * 500, now + row * 500 + 80)).collect();
        let staged = self.staged();
        staged.named = vec![named("etcd_unreachable"), named("kafka_unreachable")];
        staged.gaps = vec![gap("slot_missing", None), gap("slot_ahead", Some(lsn + 0x1020))];
        staged.takeovers = vec![(now + 20_000, timed("the takeover after kill-active", 300, 9_000))];
        staged.fast_stops = vec![timed("the fast stop", 800, 10_000)];
        staged.probes = (0..200).map(|probe| timed("/health", probe % 40, 1_000)).collect();
        staged.idle = (0..32).map(idle).collect();
        staged.rows = rows;
        // While the rows come through, whoever streams says so.
        let streams = |sample: &&Sample| matches!(&sample.shows, Shows::Worker(worker) if worker.active);
        let Some(active) = self.made.samples.iter().rev().find(streams).cloned() else { return };
        self.made.samples.extend((0..150).map(|tick| Sample { at_ms: now + 1 + tick * 200, ..active.clone() }));
    }
}
