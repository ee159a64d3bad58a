//! What the checker found, as people and reports read it.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// What the invariants say, by their numbers from 1 on. Those that cannot be seen from outside, or gave no occasion, are in a
/// verdict with nothing checked.
const INVARIANTS: [&str; 47] = [
    "no loss",
    "no phantom",
    "no duplicate",
    "per-key order",
    "per-partition order",
    "dense sequence",
    "atomicity",
    "aborted never seen",
    "fidelity",
    "convergence",
    "what is uncommitted or aborted is not read",
    "positions never fall",
    "brackets",
    "hash chain",
    "acknowledged only what is committed",
    "the slot confirms only what is committed",
    "streams start where the verdict says",
    "no data before the check after the start",
    "terms rise",
    "records carry the term of the latest claim",
    "no commit after a newer claim",
    "each claim names one write of the holder key",
    "one reader per slot and server, claimed before",
    "strict mode stops in time",
    "no start without a verified lease",
    "only older sessions of ours are terminated",
    "who does not stream has no replication connection",
    "one system identifier, timelines never fall",
    "a marker exactly where something was published beyond a fork",
    "no divergence behind a barrier",
    "no record from a server that lost",
    "gaps are told exactly and in time",
    "every fault has its code",
    "no false quarantine",
    "lag goes to zero",
    "takeover in time",
    "no needless change of owner",
    "an idle pipeline retains little",
    "resources within bounds",
    "PostgreSQL stops fast",
    "health answers under a flood",
    "no secret in anything collected",
    "same seed, same trace",
    "a watermark never passes the switch that left its timeline",
    "a verdict is written in one transaction",
    "no producer goes on after an abort",
    "whoever says it is active is",
];

/// What a run leaves to others to judge, for want of the occasion or of the means: by what each is judged.
const ELSEWHERE: [(u32, &str); 11] = [
    (24, "cargo xtask scenario at-least-once-cut-from-etcd: where delivery is at least once"),
    (30, "cargo xtask scenario barrier-lagging-failover: where publication waits for standbys"),
    (32, "cargo xtask scenario dropped-slot, recreated-slot, advanced-slot, lost-slot, publication-dropped"),
    (33, "cargo xtask scenario etcd-outage, kafka-outage, cut-from-postgres and those of gaps"),
    (34, "cargo xtask scenario, demo, chaos"),
    (36, "cargo xtask bench takeover"),
    (37, "cargo xtask scenario, demo, chaos"),
    (38, "cargo xtask scenario idle-foreign-wal"),
    (40, "cargo xtask scenario fast-stop, fast-stop-with-kafka-down"),
    (41, "cargo xtask scenario slow-clients"),
    (43, "cargo xtask simulate, and its test the_same_seed_has_the_same_trace"),
];

/// One statement of INVARIANTS and whether it held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Invariant {
    /// Its number.
    pub id: u32,
    /// What it says, in a few words.
    pub what: &'static str,
    /// Whether it held in all that was checked.
    pub ok: bool,
    /// How many times it was looked at.
    pub checked: u64,
    /// How many times it did not hold.
    pub broken: u64,
    /// The first counter-example, in words.
    pub first: Option<String>,
    /// By what it is judged, where this run did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judged_by: Option<&'static str>,
}

impl Invariant {
    /// An invariant of which nothing was looked at yet.
    pub fn new(id: u32, what: &'static str) -> Self {
        Invariant { id, what, ok: true, checked: 0, broken: 0, first: None, judged_by: None }
    }

    /// Looks at one case; `words` describes it if it does not hold.
    pub fn look(&mut self, holds: bool, words: impl FnOnce() -> String) {
        self.checked += 1;
        if !holds {
            self.ok = false;
            self.broken += 1;
            self.first.get_or_insert_with(words);
        }
    }
}

/// Records of timelines that lost: told apart by whether a marker names them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Phantoms {
    /// Named by a divergence marker.
    pub marked: u64,
    /// Named by nothing.
    pub unmarked: u64,
}

/// The checker's verdict over one pipeline.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// Transactions of the surviving database.
    pub written: u64,
    /// Distinct transactions of the surviving database that the topics tell.
    pub received: u64,
    /// What the database has and the topics do not.
    pub lost: u64,
    /// What the topics tell twice.
    pub duplicated: u64,
    /// Records that stand there once more, as delivery at least once may have it: they are not counted as doubled.
    pub repeated: u64,
    /// What the topics tell and the database does not have.
    pub invented: u64,
    /// Records that come before an earlier one.
    pub out_of_order: u64,
    /// Records of a timeline that lost.
    pub phantoms: Phantoms,
    /// Committed opens without their end. Those that the next claim reconciled are not wrong.
    pub torn: u64,
    /// Gaps that consumers were told of.
    pub gaps: Vec<Value>,
    /// What the database has and the topics do not, and an accepted gap names.
    pub in_gaps: u64,
    /// Data records read.
    pub records: u64,
    /// Each invariant that was looked at.
    pub invariants: Vec<Invariant>,
}

impl Verdict {
    /// Brings the invariants into order, one verdict for each, those included of which nothing was looked at.
    pub fn complete(&mut self) {
        self.invariants.extend((1..).zip(INVARIANTS).map(|(id, what)| Invariant::new(id, what)));
        self.invariants.sort_by_key(|invariant| invariant.id);
        self.invariants.dedup_by(|later, kept| {
            if later.id != kept.id {
                return false;
            }
            // What broke says it best.
            if kept.ok && (!later.ok || kept.checked == 0) && later.checked > 0 {
                kept.what = later.what;
            }
            kept.ok &= later.ok;
            kept.checked += later.checked;
            kept.broken += later.broken;
            kept.first = kept.first.take().or(later.first.take());
            true
        });
        for invariant in self.invariants.iter_mut().filter(|invariant| invariant.checked == 0) {
            invariant.judged_by = ELSEWHERE.iter().find(|(id, _)| *id == invariant.id).map(|(_, by)| *by);
        }
    }

    /// Whether nothing at all is wrong; a marked divergence is not wrong.
    pub fn is_clean(&self) -> bool {
        self.lost == 0
            && self.duplicated == 0
            && self.invented == 0
            && self.out_of_order == 0
            && self.phantoms.unmarked == 0
            && self.invariants.iter().all(|invariant| invariant.ok)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  written      {:>9}", self.written)?;
        writeln!(f, "  received     {:>9}", self.received)?;
        writeln!(f, "  lost         {:>9}", self.lost)?;
        writeln!(f, "  duplicated   {:>9}", self.duplicated)?;
        writeln!(f, "  invented     {:>9}", self.invented)?;
        if self.repeated > 0 {
            writeln!(f, "  repeated     {:>9}", self.repeated)?;
        }
        if self.out_of_order > 0 {
            writeln!(f, "  out of order {:>9}", self.out_of_order)?;
        }
        if self.phantoms != Phantoms::default() {
            writeln!(f, "  phantoms     {:>9} marked, {} unmarked", self.phantoms.marked, self.phantoms.unmarked)?;
        }
        if self.torn > 0 {
            writeln!(f, "  torn         {:>9}", self.torn)?;
        }
        for gap in &self.gaps {
            writeln!(f, "  gap          {gap}")?;
        }
        if self.in_gaps > 0 {
            writeln!(f, "  in gaps      {:>9}", self.in_gaps)?;
        }
        for invariant in &self.invariants {
            if let Some(first) = &invariant.first {
                writeln!(
                    f,
                    "  BROKEN {:>2} {}: {} of {}, first: {first}",
                    invariant.id, invariant.what, invariant.broken, invariant.checked
                )?;
            }
        }
        let looked = self.invariants.iter().filter(|invariant| invariant.checked > 0);
        let (mut rules, mut held) = (0, 0);
        for invariant in looked {
            rules += 1;
            held += usize::from(invariant.ok);
        }
        writeln!(
            f,
            "  {held} of {rules} rules hold that this run gave occasion to check, over {} records",
            self.records
        )
    }
}
