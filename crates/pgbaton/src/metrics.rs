//! Every metric's name, labels and meaning. Counters and the histogram are recorded by the driver; all else is read from
//! the status when it is asked for, so that the two cannot disagree, and what is not known is absent.

use std::{fmt::Write, time::Duration};

use metrics::{Counter, Histogram, counter, describe_counter, describe_histogram, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use pgbaton_core::Code;
use pgbaton_core::audit::Rule;

use crate::status::{Board, Cause, PipelineStatus, Role, remaining};

const PIPELINE: &str = "pipeline";
const TAKEOVERS: &str = "pgbaton_takeovers_total";
const CHANGES: &str = "pgbaton_changes_total";
const COMMIT_SECONDS: &str = "pgbaton_commit_seconds";
const FENCED: &str = "pgbaton_fenced_total";
const VIOLATIONS: &str = "pgbaton_audit_violations_total";

/// From one broker on loopback to a cluster that hardly answers.
const COMMIT_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Makes the process's recorder, with the counters of these pipelines: whoever asks first finds all of them. Once per process,
/// before any [`Meters`].
///
/// # Errors
/// When the process has a recorder already.
pub fn install<'a>(pipelines: impl Iterator<Item = &'a str>) -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(COMMIT_SECONDS.to_owned()), COMMIT_BUCKETS)?
        .install_recorder()?;
    describe_counter!(TAKEOVERS, "Times this worker became the streaming one, by what led to it.");
    describe_counter!(CHANGES, "Changes published, by what they do.");
    describe_histogram!(COMMIT_SECONDS, "Time that a commit at the sink took.");
    describe_counter!(FENCED, "Times the sink refused a session of this worker for a newer one.");
    describe_counter!(
        VIOLATIONS,
        "What this worker found wrong in the topics while it stood by, by the rule that is broken."
    );
    pipelines.for_each(|pipeline| drop(Meters::new(pipeline)));
    Ok(handle)
}

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new row.
    Insert,
    /// A changed row.
    Update,
    /// A deleted row.
    Delete,
    /// An emptied table.
    Truncate,
    /// A logical message.
    Message,
}

/// The counters of one pipeline. Made once; counting is an addition.
#[derive(Clone)]
pub struct Meters {
    pipeline: String,
    changes: [Counter; 5],
    commit_seconds: Histogram,
    fenced: Counter,
}

impl Meters {
    /// Those of `pipeline`.
    pub fn new(pipeline: &str) -> Self {
        let of = |op: &'static str| counter!(CHANGES, PIPELINE => pipeline.to_owned(), "op" => op);
        Meters {
            pipeline: pipeline.to_owned(),
            changes: [of("insert"), of("update"), of("delete"), of("truncate"), of("message")],
            commit_seconds: histogram!(COMMIT_SECONDS, PIPELINE => pipeline.to_owned()),
            fenced: counter!(FENCED, PIPELINE => pipeline.to_owned()),
        }
    }

    /// `count` changes were published.
    pub fn changes(&self, operation: Operation, count: u64) {
        let [insert, update, delete, truncate, message] = &self.changes;
        match operation {
            Operation::Insert => insert.increment(count),
            Operation::Update => update.increment(count),
            Operation::Delete => delete.increment(count),
            Operation::Truncate => truncate.increment(count),
            Operation::Message => message.increment(count),
        }
    }

    /// A commit at the sink took this long.
    pub fn commit(&self, took: Duration) {
        self.commit_seconds.record(took);
    }

    /// This worker streams now and did not before.
    pub fn takeover(&self, cause: Cause) {
        counter!(TAKEOVERS, PIPELINE => self.pipeline.clone(), "cause" => cause.as_str()).increment(1);
    }

    /// The sink refused our session for a newer one.
    pub fn fenced(&self) {
        self.fenced.increment(1);
    }

    /// The topics break a rule.
    pub fn violation(&self, rule: Rule) {
        counter!(VIOLATIONS, PIPELINE => self.pipeline.clone(), "rule" => rule.as_str()).increment(1);
    }
}

/// The gauges, in Prometheus's text format.
pub fn gauges(board: &Board) -> String {
    let status = board.status();
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, values: &dyn Fn(&PipelineStatus) -> Vec<(String, f64)>| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (pipeline, status) in &status.pipelines {
            for (label, value) in values(status) {
                // Neither pipelines' names nor codes nor roles have characters that need escaping.
                let _ = writeln!(text, "{name}{{{PIPELINE}=\"{pipeline}\"{label}}} {value}");
            }
        }
        text.push('\n');
    };
    let plain = |value: Option<f64>| value.map(|value| (String::new(), value)).into_iter().collect::<Vec<_>>();
    let flag = |label: &str, word: &str, is: bool| (format!(",{label}=\"{word}\""), f64::from(u8::from(is)));

    gauge("pgbaton_role", "1 for the role that this worker has, 0 for the others.", &|status| {
        Role::ALL.iter().map(|role| flag("role", role.as_str(), *role == status.role)).collect()
    });
    gauge("pgbaton_term", "The fencing number of the session; only rises.", &|status| {
        plain(status.term.map(|term| term.0 as f64))
    });
    gauge("pgbaton_lag_bytes", "WAL between the server's end and what is durable at the sink.", &|status| {
        plain(status.lag.bytes.map(|bytes| bytes as f64))
    });
    gauge("pgbaton_lag_seconds", "Age of the oldest change that is not durable at the sink.", &|status| {
        plain(status.lag.seconds)
    });
    gauge("pgbaton_slot_retained_bytes", "WAL that the server keeps for the slot.", &|status| {
        plain(status.slot.as_ref().and_then(|slot| slot.retained_bytes).map(|bytes| bytes as f64))
    });
    gauge("pgbaton_slot_safe_wal_bytes", "WAL that may still be written before the slot can be lost.", &|status| {
        plain(status.slot.as_ref().and_then(|slot| slot.safe_wal_bytes).map(|bytes| bytes as f64))
    });
    gauge("pgbaton_lease_remaining_seconds", "What remains of the lease by our own clock.", &|status| {
        plain(status.lease.as_ref().map(|lease| remaining(lease.ends_at).as_secs_f64()))
    });
    gauge("pgbaton_audit_offset", "The next offset of the progress topic that this standby judges.", &|status| {
        plain(status.audit.as_ref().map(|audit| audit.progress_offset as f64))
    });
    gauge("pgbaton_audit_lag_seconds", "How old may be what this standby has not judged yet.", &|status| {
        let until = status.audit.as_ref().and_then(|audit| audit.judged_until);
        plain(until.filter(|_| status.role == Role::Standby).map(|until| until.age().as_secs_f64()))
    });
    gauge("pgbaton_gap", "1 for the gap that the pipeline is quarantined for.", &|status| {
        let gap = status.gap.as_ref().map(|gap| gap.code);
        Code::ALL.iter().filter(|code| gap == Some(**code)).map(|code| flag("code", code.as_str(), true)).collect()
    });
    gauge("pgbaton_reason", "1 for everything that is not as it should be, 0 for all other codes.", &|status| {
        let stands = |code: &Code| status.reasons.iter().any(|reason| reason.code == *code);
        Code::ALL.iter().map(|code| flag("code", code.as_str(), stands(code))).collect()
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Timestamp, boottime};
    use crate::status::{Lease, Reason};

    #[test]
    fn gauges_say_what_the_status_says_and_are_absent_where_it_says_nothing() {
        let board = Board::new("w", "etcd", ["orders"]);
        let text = gauges(&board);
        assert!(text.contains("pgbaton_role{pipeline=\"orders\",role=\"starting\"} 1\n"), "{text}");
        assert!(text.contains("pgbaton_role{pipeline=\"orders\",role=\"active\"} 0\n"), "{text}");
        assert!(!text.contains("pgbaton_term{"), "{text}");
        assert!(text.contains("pgbaton_reason{pipeline=\"orders\",code=\"fenced\"} 0\n"), "{text}");

        board.publisher("orders").unwrap().publish(|status| {
            status.term = Some(pgbaton_core::Term(12));
            status.lag.seconds = Some(0.25);
            status.lease = Some(Lease { revision: 1, ttl_ms: 10_000, ends_at: boottime() + Duration::from_secs(5) });
            let reason = Reason { code: Code::Fenced, since: Timestamp::now(), detail: String::new() };
            status.reasons.push(reason);
        });
        let text = gauges(&board);
        assert!(text.contains("pgbaton_term{pipeline=\"orders\"} 12\n"), "{text}");
        assert!(text.contains("pgbaton_lag_seconds{pipeline=\"orders\"} 0.25\n"), "{text}");
        assert!(text.contains("pgbaton_lease_remaining_seconds{pipeline=\"orders\"} 4.9"), "{text}");
        assert!(text.contains("pgbaton_reason{pipeline=\"orders\",code=\"fenced\"} 1\n"), "{text}");
    }
}
