//! Carries out what the machine asks for. Every wish is answered by a fact.

use pgbaton_core::{Effect, Gap, Input, Replaced, Term};
use pgbaton_postgres::catalog::Claimant;
use tracing::{error, warn};

use super::super::session::{self, Session, Step};
use super::super::{inspecting, looking};
use super::making::{random_hex, telling};
use super::{Fact, PROBE_LIMIT, Pipeline};
use crate::coordination::{self, Granted, VerdictValue};

impl Pipeline {
    /// Where there is no etcd, nothing asks for a lease or its key, and what only tells others there stays unsaid.
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Contend { replacing, tenures } => self.contend(replacing, tenures),
            Effect::KeepAlive(tenure) => {
                let Some(etcd) = self.renewing.clone() else { return };
                let task = coordination::keep_alive(etcd, tenure, telling(&self.facts.0));
                self.keepalive = Some(self.tasks.spawn(task));
            }
            Effect::ReadHolder(tenure) => {
                let Some(etcd) = self.etcd.clone() else { return };
                self.step(session::read_holder(etcd, tenure));
            }
            Effect::Release { tenure, handover, to } => {
                if let Some(keepalive) = self.keepalive.take() {
                    keepalive.abort();
                }
                let Some(etcd) = self.etcd.clone() else { return };
                self.tell(session::release(etcd, tenure, handover.then_some(to)));
            }
            Effect::Inspect => {
                self.session = Session::default();
                self.serial += 1;
                let limit = self.inspect_limit;
                self.inspect_limit = (limit * 2).min(inspecting::LAST_LIMIT);
                self.step(session::inspect(self.access.conninfo.get(), self.wanted.clone(), limit));
            }
            Effect::FreeSlot { pid, revision } => {
                let (conninfo, slot, name) = (self.access.conninfo.get(), self.wanted.slot.clone(), self.name.clone());
                let identity = self.worker.identity();
                let (pipeline, nonce) = (identity.pipeline_hash.clone(), identity.nonce.clone());
                let backend_pid = self.session.connection.as_ref().map_or(0, |connection| connection.backend_pid());
                self.tasks.spawn(async move {
                    let claimant = Claimant { pipeline: &pipeline, nonce: &nonce, revision, backend_pid };
                    match looking::free_slot(&conninfo, &slot, &claimant).await {
                        Ok(true) => warn!(pipeline = name, pid, "told an older session's walsender to go"),
                        Ok(false) => {}
                        Err(error) => {
                            warn!(pipeline = name, pid, error, "could not tell an older session's walsender to go")
                        }
                    }
                });
            }
            Effect::Fence => match (random_hex(16), self.worker.tenure()) {
                (Ok(id), Some(tenure)) => {
                    let (delivering, topics) = (self.delivering(), self.session.topics.clone());
                    let worker = self.holder_value.worker.clone();
                    self.step(session::fence(delivering, worker, id, tenure, topics));
                }
                (Err(error), _) => error!(%error, "no random bytes for a session id"),
                (Ok(_), None) => {}
            },
            Effect::ReadBack(known) => {
                let Some(sink) = self.session.sink.take() else { return };
                self.step(session::read_back(sink, self.wanted.topic_prefix.clone(), known));
            }
            Effect::Claim(plan) => {
                let Some(sink) = self.session.sink.take() else { return };
                self.reporter.claims(&plan, sink.may_repeat());
                self.session.plan = Some(plan.clone());
                self.step(session::claim(sink, plan));
            }
            Effect::Start { name, at } => {
                let Some(connection) = self.session.connection.take() else { return };
                let wanted = &self.wanted;
                self.step(session::start(connection, wanted.slot.clone(), wanted.publication.clone(), name, at));
            }
            Effect::Observe => self.look_now.notify_one(),
            Effect::Accept => {
                if let Some(publishing) = &mut self.session.publishing {
                    publishing.accept();
                }
                if let Some(switch) = self.worker.last_switch() {
                    self.reporter.switched(switch, &self.meters);
                }
            }
            Effect::EndSession { commit, by } => {
                if let Some(step) = self.step.take() {
                    step.abort();
                }
                // What is still on its way belongs to the session that ends here.
                self.serial += 1;
                let session = std::mem::take(&mut self.session);
                self.reporter.ended(&session);
                self.step(session.end(commit, by));
            }
            Effect::ProbeSink => {
                let delivering = self.delivering();
                self.tell(async move {
                    Input::SinkProbed(delivering.kafka.check(PROBE_LIMIT).await.map_err(|fault| fault.to_string()))
                });
            }
            Effect::WriteVerdict(gap) => self.write_verdict(&gap),
            Effect::ClearVerdict => {
                let Some(etcd) = self.etcd.clone() else { return };
                self.tasks.spawn(async move {
                    let _ = etcd.delete("verdict").await;
                });
            }
            Effect::WriteCheckpoint { revision, term } => self.write_checkpoint(revision, term),
        }
    }

    /// Runs a step of the session; its outcome comes back as a fact that names the session.
    fn step(&mut self, step: impl Future<Output = Step> + Send + 'static) {
        let (facts, serial) = (self.facts.0.clone(), self.serial);
        self.step = Some(self.tasks.spawn(async move {
            let _ = facts.send(Fact::Session(serial, step.await)).await;
        }));
    }

    fn tell(&mut self, telling: impl Future<Output = Input> + Send + 'static) {
        let facts = self.facts.0.clone();
        self.tasks.spawn(async move {
            let _ = facts.send(Fact::Told(telling.await)).await;
        });
    }

    fn contend(&mut self, replacing: Option<Replaced>, tenures: u32) {
        let Some(etcd) = self.etcd.clone() else { return };
        self.holder_value.tenures = tenures;
        let (value, ttl) = (self.holder_value.clone(), self.lease_ttl);
        self.tell(async move {
            let Ok(granted) = etcd.grant(ttl).await else { return Input::NotWon };
            match etcd.take_holder(granted.id, &value, replacing.map(|replaced| replaced.revision)).await {
                Ok(Some((revision, cluster_id))) => {
                    if let Some(Replaced { lease_id, .. }) = replacing.filter(|replaced| replaced.lease_id != 0) {
                        // Nobody waits for it: the loser sees the key as well.
                        let etcd = etcd.clone();
                        tokio::spawn(async move { etcd.revoke(lease_id).await });
                    }
                    let Granted { id: lease_id, ttl, asked_at } = granted;
                    Input::Won { lease_id, revision, ttl, asked_at, cluster_id }
                }
                // Lost, or unknown: if the key was written after all, it goes with its lease.
                Ok(None) | Err(_) => {
                    let _ = etcd.revoke(granted.id).await;
                    Input::NotWon
                }
            }
        });
    }

    fn write_verdict(&mut self, gap: &Gap) {
        error!(
            pipeline = self.name,
            code = gap.code.as_str(),
            timeline = %gap.timeline,
            from = %gap.from_lsn,
            to = gap.to_lsn.map(tracing::field::display),
            "quarantine: {}", gap.text
        );
        let value = VerdictValue {
            code: gap.code,
            timeline: gap.timeline,
            from_lsn: gap.from_lsn,
            to_lsn: gap.to_lsn,
            text: gap.text.clone(),
            worker: self.holder_value.worker.clone(),
            at: crate::clock::Timestamp::now().to_string(),
            accepted: None,
        };
        let Some(etcd) = self.etcd.clone() else { return };
        self.tasks.spawn(async move {
            let _ = etcd
                .put("verdict", serde_json::to_vec(&value).expect("texts and numbers always serialise"), None)
                .await;
        });
    }

    fn write_checkpoint(&mut self, revision: i64, term: Term) {
        let reached = match &self.session.publishing {
            Some(publishing) => publishing.stream.durable().position,
            None => match &self.session.plan {
                Some(plan) => plan.resume.position,
                None => return,
            },
        };
        let claim = self.session.plan.as_ref().and_then(|plan| plan.records.progress.last());
        let kafka_cluster = claim.and_then(|claim| claim.kafka_cluster.clone());
        let value = serde_json::json!({
            "pipeline": self.name, "term": term, "position": reached, "kafka_cluster": kafka_cluster,
        });
        let Some(etcd) = self.etcd.clone() else { return };
        self.tasks.spawn(async move {
            let _ = etcd.put_guarded("checkpoint", value.to_string().into_bytes(), revision).await;
        });
    }
}
