//! What a pipeline says of itself: its status on the board and the lines of its log. Nothing is decided by it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use pgbaton_core::{ClaimPlan, Code, Gap, Inspection, Moment, SessionEnd, State, Switch, Tenure, Worker};
use tracing::{info, warn};

use super::looking::Extra;
use super::publishing::Publishing;
use super::session::Session;
use super::standbys::TOLD_AFTER;
use crate::clock::{Timestamp, boottime};
use crate::config::Delivery;
use crate::coordination::Peers;
use crate::metrics::Meters;
use crate::status::{self, PipelineStatus, Publisher, Reason, Role};

/// A stream publishes its figures this often; a change of state is published at once.
const PERIOD: Duration = Duration::from_millis(200);

/// Tells the world.
pub struct Reporter {
    publisher: Publisher,
    worker: String,
    slot: String,
    status: PipelineStatus,
    due: Moment,
    /// Since when each reason stands.
    since: BTreeMap<Code, Timestamp>,
    extra: Option<Extra>,
    /// Since when PostgreSQL itself is seen waiting for standbys.
    server_waits_since: Option<Moment>,
    /// The end that was logged last, to log a repeated one once.
    last_end: Option<String>,
}

impl Reporter {
    /// A reporter that has told nothing.
    pub fn new(publisher: Publisher, worker: String, slot: String, delivery: Delivery) -> Self {
        let mut status = PipelineStatus::starting();
        status.sink.delivery = delivery.as_str();
        Reporter {
            publisher,
            worker,
            slot,
            status,
            due: Moment::default(),
            since: BTreeMap::new(),
            extra: None,
            server_waits_since: None,
            last_end: None,
        }
    }

    /// What the ordinary connection showed beside what decisions need.
    pub fn seen(&mut self, extra: Extra) {
        let since = self.server_waits_since.or_else(|| Some(boottime()));
        self.server_waits_since = since.filter(|_| extra.waits_for_standbys);
        self.extra = Some(extra);
    }

    /// What the witness of the topics says.
    pub fn audited(&mut self, audit: &status::Audit) {
        if self.status.audit.as_ref() != Some(audit) {
            self.status.audit = Some(audit.clone());
        }
    }

    /// What Inspect found.
    pub fn inspected(&mut self, inspection: &Inspection) {
        let server = &inspection.server;
        self.status.server = Some(status::Server {
            system_identifier: server.system_identifier,
            timeline: server.history.current(),
            version: self.extra.as_ref().map_or(0, |extra| extra.version),
            in_recovery: inspection.in_recovery,
        });
    }

    /// A claim is about to be written.
    pub fn claims(&mut self, plan: &ClaimPlan, may_repeat: bool) {
        for marker in &plan.records.markers {
            let Some(mark) = marker.divergence else { continue };
            warn!(
                old_timeline = %mark.old_timeline,
                new_timeline = %mark.new_timeline,
                from = %mark.from_lsn,
                to = %mark.to_lsn,
                "the server does not have what was published beyond the fork: marked as a divergence"
            );
            self.status.divergences.push(status::Divergence {
                at: Timestamp::now(),
                old_timeline: mark.old_timeline,
                new_timeline: mark.new_timeline,
                from_lsn: mark.from_lsn,
                to_lsn: mark.to_lsn,
            });
        }
        self.status.position = Some(plan.resume.position.into());
        self.status.watermark = Some(plan.resume.watermark);
        info!(
            term = %plan.journal.term(),
            timeline = %plan.resume.position.timeline,
            position = %plan.resume.position.lsn,
            start = %plan.resume.start_at,
            "claiming"
        );
        let position = plan.resume.position;
        self.status.sink.repeats_from =
            may_repeat.then_some(status::RepeatsFrom { timeline: position.timeline, lsn: position.lsn });
        if may_repeat {
            info!(
                timeline = %position.timeline,
                from = %position.lsn,
                "records of transactions that commit behind this position may be told once more"
            );
        }
    }

    /// The stream of a new owner has begun.
    pub fn switched(&mut self, switch: &Switch, meters: &Meters) {
        let told = status::Switch {
            at: Timestamp::now(),
            from: switch.from.clone(),
            to: self.worker.clone(),
            cause: switch.cause,
            took_ms: u64::try_from(switch.took.as_millis()).unwrap_or(u64::MAX),
        };
        let same = self
            .status
            .last_switch
            .as_ref()
            .is_some_and(|last| (&last.from, last.cause, last.took_ms) == (&told.from, told.cause, told.took_ms));
        if !same {
            meters.takeover(switch.cause);
            self.status.last_switch = Some(told);
        }
    }

    /// The machine went from one state to another.
    pub fn moved(&mut self, pipeline: &str, worker: &Worker, before: State) {
        let (from, to) = (before, worker.state());
        if from != to {
            let term = worker.term().map(|term| term.0);
            let revision = worker.tenure().map(|tenure| tenure.revision);
            info!(pipeline, from = from.as_str(), to = to.as_str(), term, revision, "state changed");
        }
        if to == State::Stream {
            self.last_end = None;
        }
        self.due = Moment::default();
    }

    /// A session broke. The same end again and again is said once.
    pub fn broken(&mut self, end: &SessionEnd) {
        let text = match end {
            SessionEnd::Stream(failure) => format!("{}: {}", failure.code, failure.detail),
            SessionEnd::Sink { code, detail } => format!("{code}: {detail}"),
            SessionEnd::ProducerSpent(detail) => format!("a new producer is needed: {detail}"),
            SessionEnd::NotHolder(detail) => format!("{}: {detail}", Code::Fenced),
            SessionEnd::TopicAdded(topic) => format!("the next claim names topic {topic}"),
            SessionEnd::KeyUnknown { table, .. } => format!("the next session reads the primary key of {table}"),
            SessionEnd::Stalled(detail) => format!("{}: {detail}", Code::SinkStalled),
            SessionEnd::OpenTooLong => {
                "a Kafka transaction was open for too long; it is published in chunks".to_owned()
            }
            SessionEnd::Contradiction(gap) => format!("{}: {}", gap.code, gap.text),
        };
        if self.last_end.as_ref() != Some(&text) {
            warn!(reason = text, "session ended");
            self.last_end = Some(text);
        }
    }

    /// A session is being closed: keep what it did.
    pub fn ended(&mut self, session: &Session) {
        if let Some(publishing) = &session.publishing {
            self.position(publishing);
        }
        self.due = Moment::default();
    }

    fn position(&mut self, publishing: &Publishing) {
        let durable = publishing.stream.durable();
        self.status.position = Some(status::Published {
            timeline: durable.position.timeline,
            lsn: durable.position.lsn,
            events_done: durable.partial.as_ref().map_or(0, |partial| partial.changes_done),
        });
        self.status.watermark = Some(durable.watermark);
        self.status.received_lsn = Some(publishing.stream.received_lsn());
    }

    /// Publishes, if anything that matters changed or the time has come.
    pub fn report(
        &mut self,
        now: Moment,
        worker: &Worker,
        publishing: Option<&mut Publishing>,
        peers: &Peers,
        able_to_take_over: bool,
    ) {
        let active_until = worker.active_until();
        let active_changed = active_until.is_some() != self.status.active_until.is_some();
        if now < self.due && !active_changed {
            self.publisher.turned();
            return;
        }
        self.due = now + PERIOD;
        let behind = publishing.as_ref().and_then(|publishing| publishing.behind_since());
        let ours = publishing.as_ref().and_then(|publishing| publishing.waits_for_standbys());
        let waits = ours.or_else(|| self.server_waits(now).filter(|_| publishing.is_some()));
        if let Some(publishing) = publishing {
            self.position(publishing);
            self.count(publishing);
        }
        self.machine(worker, waits, active_until, able_to_take_over);
        self.server(worker);
        self.lag(behind);
        self.status.peers = peers
            .iter()
            .map(|peer| status::Peer {
                worker: peer.value.worker.clone(),
                url: peer.value.url.clone(),
                role: Role::ALL.iter().copied().find(|role| role.as_str() == peer.value.role).unwrap_or(Role::Starting),
                reachable: peer.reachable,
            })
            .collect();
        self.publisher.publish(|status| status.clone_from(&self.status));
    }

    /// PostgreSQL looks as if there were nothing to send, and its WAL grows.
    fn server_waits(&self, now: Moment) -> Option<(Code, String)> {
        let lasting = self.server_waits_since.is_some_and(|since| now.since(since) >= TOLD_AFTER);
        let detail = "PostgreSQL sends nothing before the standbys of synchronized_standby_slots have it";
        lasting.then(|| (Code::BarrierWait, detail.to_owned()))
    }

    fn count(&mut self, publishing: &mut Publishing) {
        let done = publishing.take_counters();
        let counters = &mut self.status.counters;
        counters.transactions += done.transactions;
        counters.changes += done.changes;
        counters.bytes += done.bytes;
        self.status.sink.in_flight = publishing.sink.in_flight();
        self.status.sink.last_commit_ms = publishing.last_commit().map(|took| took.as_secs_f64() * 1000.0);
    }

    fn machine(
        &mut self,
        worker: &Worker,
        waits: Option<(Code, String)>,
        active_until: Option<Moment>,
        able_to_take_over: bool,
    ) {
        let state = worker.state();
        let mut reasons = worker.reasons();
        reasons.extend(self.violation().into_iter().chain(waits));
        self.since.retain(|code, _| reasons.iter().any(|(reason, _)| reason == code));
        self.status.reasons = reasons
            .into_iter()
            .map(|(code, detail)| {
                let since = *self.since.entry(code).or_insert_with(Timestamp::now);
                Reason { code, since, detail }
            })
            .collect();
        self.status.state = state;
        self.status.role = match state {
            State::Quarantine => Role::Quarantined,
            State::Boot => Role::Starting,
            State::Stream if active_until.is_some() => Role::Active,
            _ => Role::Standby,
        };
        self.status.active_until = active_until;
        self.status.able_to_take_over = able_to_take_over;
        self.status.healthy = match self.status.role {
            Role::Active => true,
            Role::Standby => able_to_take_over,
            Role::Quarantined | Role::Starting => false,
        };
        if let Some(term) = worker.term() {
            self.status.term = Some(term);
        }
        self.status.holder = worker.holder_name().map(str::to_owned);
        self.status.lease = worker.tenure().filter(Tenure::has_lease).map(|tenure| status::Lease {
            revision: tenure.revision,
            ttl_ms: u64::try_from(tenure.ttl().as_millis()).unwrap_or(u64::MAX),
            ends_at: tenure.ends_at(),
        });
        self.status.gap = worker.gap().map(|gap| self.gap(gap));
    }

    /// Stands until the process ends: what is in the topics stays there.
    fn violation(&self) -> Option<(Code, String)> {
        let status::Audit { violations, first, .. } = self.status.audit.as_ref()?;
        let first = first.as_ref()?;
        let more = if *violations > 1 { format!("; {} more", violations - 1) } else { String::new() };
        Some((Code::AuditViolation, format!("{first}{more}")))
    }

    fn gap(&self, gap: &Gap) -> status::Gap {
        let known = self.status.gap.as_ref().filter(|known| known.code == gap.code);
        status::Gap {
            code: gap.code,
            timeline: gap.timeline,
            from_lsn: gap.from_lsn,
            to_lsn: gap.to_lsn,
            since: known.map_or_else(Timestamp::now, |known| known.since),
            text: gap.text.clone(),
        }
    }

    fn server(&mut self, worker: &Worker) {
        let (Some(observation), Some(extra)) = (worker.observed(), &self.extra) else { return };
        let timeline = observation.timeline.or(self.status.server.as_ref().map(|server| server.timeline));
        if let Some(timeline) = timeline {
            self.status.server = Some(status::Server {
                system_identifier: observation.system_identifier,
                timeline,
                version: extra.version,
                in_recovery: observation.in_recovery,
            });
        }
        self.status.slot = observation.slot.as_ref().map(|slot| status::Slot {
            name: self.slot.clone(),
            active: slot.active_pid.is_some(),
            active_pid: slot.active_pid,
            wal_status: slot.wal_status.clone(),
            restart_lsn: slot.restart_lsn,
            confirmed_flush_lsn: slot.confirmed_flush_lsn,
            retained_bytes: extra.retained_bytes,
            safe_wal_bytes: slot.safe_wal_bytes,
            failover: slot.failover,
        });
    }

    /// Behind the server by so many bytes of WAL, and by the age of the oldest transaction that is read and not durable.
    fn lag(&mut self, behind_since: Option<SystemTime>) {
        let active = self.status.role == Role::Active;
        let server_at = self.extra.as_ref().map(|extra| extra.write_position);
        self.status.lag.bytes = server_at
            .zip(self.status.watermark)
            .filter(|_| active)
            .map(|(server_at, watermark)| server_at.bytes_since(watermark.lsn));
        let age = |since: SystemTime| SystemTime::now().duration_since(since).unwrap_or_default().as_secs_f64();
        self.status.lag.seconds = active.then(|| behind_since.map_or(0.0, age));
    }

    /// Role and state as they were told last.
    pub fn told(&self) -> (&'static str, &'static str) {
        (self.status.role.as_str(), self.status.state.as_str())
    }
}
