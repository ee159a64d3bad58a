//! Carries out what the machine asks for.

use pgbaton_core::{Effect, Input, Lsn, Observation, SlotFacts};

use super::session::SessionCall;
use super::{ETCD_LIMIT, Process};
use crate::bus::Bus;
use crate::message::{EtcdRequest, KafkaRequest, PostgresRequest, Request};
use crate::mutant::Mutant;
use crate::postgres::{DATABASE, PUBLICATION};
use crate::time::seconds;

impl Process {
    pub(super) fn carry_out(&mut self, bus: &mut Bus, effect: Effect) {
        match effect {
            Effect::Contend { replacing, tenures } => self.contend(bus, replacing, tenures),
            Effect::KeepAlive(tenure) => self.keep_alive(bus, tenure),
            Effect::ReadHolder(tenure) => {
                if bus.is(Mutant::NoLeaseCheck) {
                    return self.told(bus, Some(Input::HolderRead(Some(true))));
                }
                let call = SessionCall::ReadHolder(tenure);
                self.session_call(bus, Request::Etcd(EtcdRequest::View), 3 * ETCD_LIMIT, call);
            }
            Effect::Release { tenure, handover, to } => self.release(bus, tenure, handover.then_some(to)),
            Effect::Inspect => self.inspect(bus),
            Effect::FreeSlot { pid, revision } => {
                let identity = self.worker.identity();
                let request = PostgresRequest::Terminate {
                    pid,
                    revision,
                    nonce: identity.nonce.clone(),
                    own_pid: self.session.connection.unwrap_or_default(),
                    pipeline: identity.pipeline_hash.clone(),
                    compare: !bus.is(Mutant::TerminateWithoutComparing),
                };
                bus.call(self.caller(), Request::Postgres(request));
            }
            Effect::Fence => self.fence(bus),
            Effect::ReadBack(known) => {
                let request = Request::Kafka(KafkaRequest::ReadData(known));
                self.session_call(bus, request, seconds(10), SessionCall::ReadBack);
            }
            Effect::Claim(plan) => self.claim(bus, plan),
            Effect::Start { name, at } => {
                let Some(connection) = self.session.connection else { return };
                let request = PostgresRequest::Start { connection, name, at };
                self.session_call(bus, Request::Postgres(request), seconds(10), SessionCall::Start);
            }
            Effect::Observe => {
                if bus.is(Mutant::NoPostStartCheck)
                    && let Some(seen) = self.imagined()
                {
                    let asked_at = self.now(bus);
                    return self.told(bus, Some(Input::Observed { asked_at, observation: seen, durable: None }));
                }
                self.look(bus);
            }
            Effect::Accept => {
                if let Some(publishing) = &mut self.session.publishing {
                    publishing.accept();
                }
            }
            Effect::EndSession { commit, by } => self.end_session(bus, commit, by),
            Effect::ProbeSink => self.probe(bus, false),
            Effect::WriteVerdict(gap) if !self.policy.leased => {
                bus.tell(&self.name(), || format!("verdict {}: {}", gap.code, gap.text));
                bus.audit.verdict_written(self.caller(), &gap, bus.now);
            }
            Effect::ClearVerdict | Effect::WriteCheckpoint { .. } if !self.policy.leased => {}
            Effect::WriteVerdict(gap) => self.fire(bus, EtcdRequest::WriteVerdict(gap)),
            Effect::ClearVerdict => self.fire(bus, EtcdRequest::ClearVerdict),
            Effect::WriteCheckpoint { revision, .. } => self.fire(bus, EtcdRequest::Checkpoint { revision }),
        }
    }

    /// A look at the slot that nobody took.
    fn imagined(&self) -> Option<Observation> {
        let found = self.session.inspection.as_ref()?;
        let confirmed = self.session.plan.as_ref().map_or(Lsn::INVALID, |plan| plan.resume.watermark.lsn);
        Some(Observation {
            system_identifier: found.server.system_identifier,
            timeline: Some(found.server.history.current()),
            in_recovery: false,
            postmaster_started: found.postmaster_started.clone(),
            write_position: found.server.write_position,
            slot: Some(SlotFacts {
                plugin: Some("pgoutput".to_owned()),
                database: Some(DATABASE.to_owned()),
                active_pid: Some(found.backend_pid),
                confirmed_flush_lsn: Some(confirmed),
                ..SlotFacts::default()
            }),
            reader_name: None,
            reader_waits: false,
            publication_oid: Some(PUBLICATION),
            members: String::new(),
        })
    }
}
