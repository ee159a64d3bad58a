//! The loop of one pipeline. Facts come in from tasks, from the stream and from people; the machine answers with wishes;
//! the loop carries them out.

use std::sync::Arc;
use std::time::Duration;

use pgbaton_core::{
    Code, Cutting, Effect, Gap, Identity, Input, Lsn, Moment, SessionEnd, SlotState, State, Stream, Worker, hash_of,
};
use pgbaton_postgres::Conninfo;
use pgbaton_postgres::catalog::Claimant;
use pgbaton_sinks::debezium::Source;
use pgbaton_sinks::kafka::{KafkaProbe, KafkaTarget};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{error, info, warn};

use super::poller::Poller;
use super::publishing::{Publishing, Turn};
use super::reporting::Reporter;
use super::session::{self, Session, Step};
use super::watchdog::Watchdog;
use super::{Error, inspecting, looking};
use crate::clock::boottime;
use crate::config::Config;
use crate::coordination::{self, Etcd, HolderValue, Peers, WorkerValue};
use crate::http::{Command, Refused};
use crate::metrics::Meters;
use crate::status::{Board, Publisher};

/// Facts that tasks may have on their way; more make them wait, which harms nobody: each tells what is true when it asks.
const FACTS: usize = 64;
/// A worker that does not stream asks this often whether Kafka answers.
const PROBE_PERIOD: Duration = Duration::from_secs(5);
const PROBE_LIMIT: Duration = Duration::from_secs(4);
/// The loop turns at least this often, so that a suspended machine is noticed soon after it wakes.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);
const SHORTEST_SLEEP: Duration = Duration::from_millis(10);

enum Fact {
    Told(Input),
    Seen(Input, Option<looking::Extra>),
    /// Of the session with this serial.
    Session(u64, Step),
}

/// One pipeline of this worker.
pub struct Pipeline {
    name: String,
    worker: Worker,
    session: Session,
    /// Counts sessions, so that what comes late from one that was closed is recognised.
    serial: u64,
    step: Option<AbortHandle>,
    tasks: JoinSet<()>,
    keepalive: Option<AbortHandle>,
    facts: (mpsc::Sender<Fact>, mpsc::Receiver<Fact>),
    orders: mpsc::Receiver<Command>,
    look_now: Arc<Notify>,
    etcd: Arc<Etcd>,
    conninfo: Arc<Conninfo>,
    wanted: Arc<inspecting::Wanted>,
    target: Arc<KafkaTarget>,
    probe: Arc<KafkaProbe>,
    source: Source,
    cutting: Cutting,
    holder_value: HolderValue,
    lease_ttl: Duration,
    own: watch::Sender<WorkerValue>,
    peers: watch::Receiver<Peers>,
    meters: Meters,
    reporter: Reporter,
    board: Board,
    watchdog: Watchdog,
}

impl Pipeline {
    /// Checks what can be checked without a connection.
    pub fn new(
        config: &Config,
        name: &str,
        board: &Board,
        publisher: Publisher,
        url: &str,
        orders: mpsc::Receiver<Command>,
    ) -> Result<Pipeline, Error> {
        let settings = &config.pipelines[name];
        let conninfo = inspecting::conninfo(&settings.postgres)
            .map_err(|reason| Error::Conninfo { pipeline: name.to_owned(), reason })?;
        let target = KafkaTarget {
            brokers: settings.kafka.brokers.clone(),
            topic_prefix: settings.kafka.topic_prefix.clone(),
            properties: settings.kafka.properties.iter().map(|(k, v)| (k.clone(), v.expose().to_owned())).collect(),
            client_id: format!("pgbaton-{}", config.name),
        };
        let kafka = |reason: String| Error::Kafka { pipeline: name.to_owned(), reason };
        target.check().map_err(|fault| kafka(fault.to_string()))?;
        let probe = KafkaProbe::new(&target).map_err(|fault| kafka(fault.to_string()))?;
        let nonce = random_hex(4)?;
        let short = |text: &str| hash_of(text.as_bytes())[..8].to_owned();
        let prefix = &settings.kafka.topic_prefix;
        let identity = Identity {
            worker: config.name.clone(),
            nonce: nonce.clone(),
            pipeline_hash: short(&format!("{}/{name}", config.coordination.prefix)),
            worker_hash: short(&config.name),
            database: conninfo.dbname.clone(),
            config_hash: hash_of(
                format!("{prefix}\n{}\n{}", settings.postgres.publication, settings.kafka.format.as_str()).as_bytes(),
            ),
        };
        let own = WorkerValue {
            worker: config.name.clone(),
            nonce: nonce.clone(),
            url: url.to_owned(),
            role: "starting".to_owned(),
            state: "boot".to_owned(),
        };
        let (peers_told, peers) = watch::channel(Peers::new());
        let etcd = Arc::new(Etcd::new(&config.coordination, format!("{}/{name}", config.coordination.prefix))?);
        let own = watch::Sender::new(own);
        let mut tasks = JoinSet::new();
        tasks.spawn(coordination::exchange(etcd.clone(), own.subscribe(), peers_told));
        Ok(Pipeline {
            name: name.to_owned(),
            worker: Worker::new(identity),
            session: Session::default(),
            serial: 0,
            step: None,
            tasks,
            keepalive: None,
            facts: mpsc::channel(FACTS),
            orders,
            look_now: Arc::new(Notify::new()),
            etcd,
            wanted: Arc::new(inspecting::Wanted {
                slot: settings.postgres.slot.clone(),
                publication: settings.postgres.publication.clone(),
                topic_prefix: prefix.clone(),
                database: conninfo.dbname.clone(),
            }),
            source: Source {
                name: prefix.clone(),
                database: conninfo.dbname.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            },
            conninfo: Arc::new(conninfo),
            target: Arc::new(target),
            probe: Arc::new(probe),
            cutting: Cutting { atomic_up_to: settings.kafka.atomic_up_to, ..Cutting::default() },
            holder_value: HolderValue {
                worker: config.name.clone(),
                nonce,
                url: url.to_owned(),
                delivery: settings.kafka.delivery.as_str().to_owned(),
                tenures: 0,
            },
            lease_ttl: config.coordination.lease_ttl,
            own,
            peers,
            meters: Meters::new(name),
            reporter: Reporter::new(publisher, config.name.clone(), settings.postgres.slot.clone()),
            board: board.clone(),
            watchdog: Watchdog::start(name)?,
        })
    }

    /// Runs until `shutdown` turns true and the lease is given back.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        self.spawn_lookouts();
        let mut stopping = false;
        while !self.worker.is_gone() {
            let now = boottime();
            let mut until = now + LONGEST_SLEEP;
            if let Some(deadline) = self.worker.deadline() {
                // One that has passed was looked at in the last turn and waits for something else.
                until = until.min(deadline.max(now + SHORTEST_SLEEP));
            }
            let input = tokio::select! {
                biased;
                stop = shutdown.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    // Whoever held the other end is gone: nobody will ask for anything any more.
                    let _ = stop;
                    info!(pipeline = self.name, "stopping");
                    Input::Shutdown
                }
                Some(order) = self.orders.recv() => match self.order(order) {
                    Some(input) => input,
                    None => continue,
                },
                Some(fact) = self.facts.1.recv() => match self.fact(fact) {
                    Some(input) => input,
                    None => continue,
                },
                over = publish(&mut self.session.publishing, until) => match over {
                    Some(end) => Input::Broken(end),
                    None => Input::Tick,
                },
            };
            self.handle(input);
            if let Some(publishing) = &mut self.session.publishing
                && let Turn::Over(end) = publishing.turn().await
            {
                self.handle(Input::Broken(end));
            }
            self.report();
        }
        self.tasks.shutdown().await;
        info!(pipeline = self.name, "stopped");
    }

    /// The tasks that look out for as long as the pipeline runs.
    fn spawn_lookouts(&mut self) {
        let facts = self.facts.0.clone();
        let etcd = self.etcd.clone();
        self.tasks.spawn(coordination::watch_holder(etcd, move |input| {
            facts.try_send(Fact::Told(input)).is_ok() || !facts.is_closed()
        }));
        let facts = self.facts.0.clone();
        let seed = u64::from_str_radix(&self.holder_value.nonce, 16).unwrap_or(1);
        let poller = Poller {
            conninfo: self.conninfo.clone(),
            slot: self.wanted.slot.clone(),
            publication: self.wanted.publication.clone(),
            now: self.look_now.clone(),
            seed,
        };
        self.tasks.spawn(
            poller.run(move |input, extra| facts.try_send(Fact::Seen(input, extra)).is_ok() || !facts.is_closed()),
        );
        let (facts, probe) = (self.facts.0.clone(), self.probe.clone());
        let own = self.own.subscribe();
        self.tasks.spawn(async move {
            let mut ticks = tokio::time::interval(PROBE_PERIOD);
            while !facts.is_closed() {
                ticks.tick().await;
                // A stream knows better how Kafka is than a probe does.
                if own.borrow().role == "active" {
                    continue;
                }
                let answer = probe.check(PROBE_LIMIT).await.map_err(|fault| fault.to_string());
                let _ = facts.send(Fact::Told(Input::SinkProbed(answer))).await;
            }
        });
    }

    /// What a fact is to the machine, after taking what came with it.
    fn fact(&mut self, fact: Fact) -> Option<Input> {
        match fact {
            Fact::Told(input) => Some(input),
            Fact::Seen(input, extra) => {
                if let Some(extra) = extra {
                    self.reporter.seen(extra);
                }
                Some(match input {
                    Input::Observed { asked_at, observation, .. } => {
                        Input::Observed { asked_at, observation, durable: self.durable() }
                    }
                    other => other,
                })
            }
            Fact::Session(serial, step) if serial == self.serial => Some(self.stepped(step)),
            // From a session that was closed meanwhile: what it brings is dropped, which closes it.
            Fact::Session(..) => None,
        }
    }

    fn durable(&self) -> Option<Lsn> {
        self.session.publishing.as_ref().map(|publishing| publishing.stream.durable().watermark.lsn)
    }

    fn stepped(&mut self, step: Step) -> Input {
        self.step = None;
        match step {
            Step::Inspected(connection, inspection, keys) => {
                self.session.connection = Some(connection);
                self.session.keys = keys;
                self.reporter.inspected(&inspection);
                Input::Inspected(inspection)
            }
            Step::Fenced(sink, read) => {
                self.session.sink = Some(sink);
                Input::SinkFenced(read)
            }
            Step::Claimed(sink) => {
                self.session.sink = Some(sink);
                Input::Claimed
            }
            Step::Started(connection) => self.started(connection),
            Step::NotStarted(connection, failure) => {
                self.session.connection = Some(connection);
                Input::NotStarted(failure)
            }
            Step::Broken(end) => Input::Broken(end),
            Step::Ended => Input::SessionEnded,
        }
    }

    fn started(&mut self, connection: pgbaton_postgres::ReplicationConnection) -> Input {
        let (Some(plan), Some(sink)) = (&self.session.plan, self.session.sink.take()) else {
            return Input::Broken(SessionEnd::Stalled("the producer is gone".to_owned()));
        };
        let stream = Stream::new(&plan.resume, plan.history.clone(), self.cutting, plan.in_chunks, boottime());
        let publishing = Publishing::new(
            stream,
            plan.journal.clone(),
            connection,
            sink,
            std::mem::take(&mut self.session.keys),
            plan.topics().iter().cloned().collect(),
            self.source.clone(),
            self.meters.clone(),
        );
        self.session.publishing = Some(Box::new(publishing));
        Input::Started
    }

    fn order(&mut self, order: Command) -> Option<Input> {
        match order {
            Command::Handover { to, answer } => {
                let ours = self.worker.tenure().is_some();
                let refused = (!ours).then(|| Refused {
                    code: "not_holder",
                    message: "this worker does not hold the baton".to_owned(),
                    fix: "ask the holder".to_owned(),
                    holder_url: self.worker.holder().map(|holder| holder.url.clone()),
                });
                let unknown = to
                    .as_ref()
                    .filter(|to| !self.peers.borrow().iter().any(|peer| peer.reachable && peer.value.worker == **to));
                let refused = refused.or_else(|| {
                    unknown.map(|to| Refused {
                        code: "unknown_worker",
                        message: format!("no worker named {to} answers"),
                        fix: "name one of the peers that status shows".to_owned(),
                        holder_url: None,
                    })
                });
                let _ = answer.send(refused.clone().map_or(Ok(()), Err));
                if refused.is_some() {
                    return None;
                }
                // Somebody has to go first; a standby that could take over is named where nobody was.
                let to = to.or_else(|| {
                    let peers = self.peers.borrow();
                    peers
                        .iter()
                        .find(|peer| peer.reachable && peer.value.role == "standby")
                        .map(|peer| peer.value.worker.clone())
                });
                Some(Input::Handover(to))
            }
        }
    }

    fn handle(&mut self, input: Input) {
        let before = self.worker.state();
        let mut effects = Vec::new();
        if let Input::Broken(end) = &input {
            self.reporter.broken(end);
            self.session.sink_failed |=
                matches!(end, SessionEnd::Sink { .. } | SessionEnd::Stalled(_) | SessionEnd::ProducerSpent(_));
            if matches!(end, SessionEnd::Sink { code: Code::Fenced, .. }) {
                self.meters.fenced();
            }
        }
        self.worker.handle(boottime(), input, &mut effects);
        let after = self.worker.state();
        if before != after {
            self.reporter.moved(&self.name, &self.worker, before);
        }
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Contend => self.contend(),
            Effect::KeepAlive(tenure) => {
                let (etcd, facts) = (self.etcd.clone(), self.facts.0.clone());
                let task = coordination::keep_alive(etcd, tenure, move |input| {
                    facts.try_send(Fact::Told(input)).is_ok() || !facts.is_closed()
                });
                self.keepalive = Some(self.tasks.spawn(task));
            }
            Effect::ReadHolder(tenure) => {
                let etcd = self.etcd.clone();
                self.tell(async move {
                    let view = etcd.view().await;
                    Input::HolderRead(
                        view.ok().map(|view| view.holder.is_some_and(|holder| holder.revision == tenure.revision)),
                    )
                });
            }
            Effect::Release { tenure, handover, to } => {
                if let Some(keepalive) = self.keepalive.take() {
                    keepalive.abort();
                }
                let etcd = self.etcd.clone();
                self.tell(session::release(etcd, tenure, handover.then_some(to)));
            }
            Effect::Inspect => {
                self.session = Session::default();
                self.serial += 1;
                self.step(session::inspect(self.conninfo.clone(), self.wanted.clone()));
            }
            Effect::FreeSlot { pid, revision } => {
                let (conninfo, slot, name) = (self.conninfo.clone(), self.wanted.slot.clone(), self.name.clone());
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
            Effect::Fence => match random_hex(16) {
                Ok(id) => {
                    let (target, etcd) = (self.target.clone(), self.etcd.clone());
                    self.step(session::fence(target, etcd, self.holder_value.worker.clone(), id));
                }
                Err(error) => error!(%error, "no random bytes for a session id"),
            },
            Effect::Claim(plan) => {
                let Some(sink) = self.session.sink.take() else { return };
                self.reporter.claims(&plan);
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
                let probe = self.probe.clone();
                self.tell(async move {
                    Input::SinkProbed(probe.check(PROBE_LIMIT).await.map_err(|fault| fault.to_string()))
                });
            }
            Effect::WriteVerdict(gap) => self.write_verdict(&gap),
            Effect::ClearVerdict => {
                let etcd = self.etcd.clone();
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

    fn contend(&mut self) {
        self.holder_value.tenures += 1;
        let (etcd, value, ttl) = (self.etcd.clone(), self.holder_value.clone(), self.lease_ttl);
        self.tell(async move {
            let Ok(granted) = etcd.grant(ttl).await else { return Input::NotWon };
            match etcd.take_holder(granted.id, &value).await {
                Ok(Some((revision, cluster_id))) => Input::Won {
                    lease_id: granted.id,
                    revision,
                    ttl: granted.ttl,
                    asked_at: granted.asked_at,
                    cluster_id,
                },
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
        let value = serde_json::json!({
            "code": gap.code, "timeline": gap.timeline, "from_lsn": gap.from_lsn, "to_lsn": gap.to_lsn,
            "text": gap.text, "worker": self.holder_value.worker, "at": crate::clock::Timestamp::now(),
        });
        let etcd = self.etcd.clone();
        self.tasks.spawn(async move {
            let _ = etcd.put("verdict", value.to_string().into_bytes(), None).await;
        });
    }

    fn write_checkpoint(&mut self, revision: i64, term: pgbaton_core::Term) {
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
        let etcd = self.etcd.clone();
        self.tasks.spawn(async move {
            let _ = etcd.put_guarded("checkpoint", value.to_string().into_bytes(), revision).await;
        });
    }

    fn report(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        let now: Moment = boottime();
        self.watchdog.turned(self.worker.tenure().map(|tenure| tenure.closed_by()));
        let slot = SlotState::of(self.worker.observed().and_then(|seen| seen.slot.as_ref()), &self.wanted.database);
        let sound = matches!(slot, SlotState::Usable { .. });
        let able = sound && self.worker.can_take_over(now) && self.worker.reasons().is_empty();
        self.reporter.report(now, &self.worker, self.session.publishing.as_deref_mut(), &self.peers.borrow(), able);
        self.board.coordination(self.worker.coordination_answers(), None);
        let (role, state) = self.reporter.told();
        self.own.send_if_modified(|own| {
            let changed = own.role != role || own.state != state;
            role.clone_into(&mut own.role);
            state.clone_into(&mut own.state);
            changed
        });
        if self.worker.state() == State::Stream {
            self.holder_value.tenures = 0;
        }
    }
}

/// Waits for the data path and lets it work; without one, just waits.
async fn publish(publishing: &mut Option<Box<Publishing>>, until: Moment) -> Option<SessionEnd> {
    let Some(publishing) = publishing else {
        tokio::time::sleep(until.since(boottime())).await;
        return None;
    };
    publishing.wait(until).await.err()
}

fn random_hex(bytes: usize) -> std::io::Result<String> {
    let mut buffer = vec![0; bytes];
    rustix::rand::getrandom(&mut buffer, rustix::rand::GetRandomFlags::empty())?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}
