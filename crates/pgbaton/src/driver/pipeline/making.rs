//! Makes a pipeline from its configuration, and starts the tasks that look out for it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_core::{Cutting, Hand, Identity, Input, Policy, Worker, hash_of};
use pgbaton_sinks::debezium::Source;
use pgbaton_sinks::kafka::KafkaStandby;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use super::super::access::Access;
use super::super::auditing::Auditor;
use super::super::poller::Poller;
use super::super::publishing::Telling;
use super::super::reporting::Reporter;
use super::super::session::Session;
use super::super::sink::Delivering;
use super::super::watchdog::Watchdog;
use super::super::{Error, inspecting};
use super::{FACTS, Fact, PROBE_LIMIT, PROBE_PERIOD, Pipeline};
use crate::config::{Backend, Config, Delivery, OnGap, OnLoss, OnPublicationShrink, PipelineConfig};
use crate::coordination::{self, Etcd, HolderValue, Peers, WorkerValue};
use crate::http::Command;
use crate::metrics::Meters;
use crate::servers;
use crate::status::{Audit, Board, Publisher};

impl Pipeline {
    /// Checks what can be checked without a connection.
    pub fn new(
        config: &Config,
        name: &str,
        board: &Board,
        publisher: Publisher,
        url: &str,
        orders: mpsc::Receiver<Command>,
        access: Access,
    ) -> Result<Pipeline, Error> {
        let settings = &config.pipelines[name];
        let (conninfo, target) = (access.conninfo.get(), access.kafka.get());
        let kafka = |reason: String| Error::Kafka { pipeline: name.to_owned(), reason };
        let delivery = settings.kafka.delivery;
        let patience = servers::delivery_patience(config);
        let checked = match delivery {
            Delivery::ExactlyOnce => target.check(),
            Delivery::AtLeastOnce => target.check_plain(patience),
        };
        checked.map_err(|fault| kafka(fault.to_string()))?;
        let standby = KafkaStandby::new(&target).map_err(|fault| kafka(fault.to_string()))?;
        let nonce = random_hex(4)?;
        let short = |text: &str| hash_of(text.as_bytes())[..8].to_owned();
        let prefix = &settings.kafka.topic_prefix;
        let identity = Identity {
            worker: config.name.clone(),
            nonce: nonce.clone(),
            pipeline_hash: short(&format!("{}/{name}", config.coordination.prefix)),
            worker_hash: short(&config.name),
            database: conninfo.dbname.clone(),
            config_hash: servers::config_hash(settings),
        };
        let own = WorkerValue {
            worker: config.name.clone(),
            nonce: nonce.clone(),
            url: url.to_owned(),
            role: "starting".to_owned(),
            state: "boot".to_owned(),
            postgres: false,
            kafka: false,
        };
        let policy = Policy {
            leased: config.coordination.backend == Backend::Etcd,
            takeover_grace: settings.takeover_grace,
            fenced: delivery == Delivery::ExactlyOnce,
            slot_guarded: config.coordination.on_loss == OnLoss::SlotGuarded,
            accept_gaps: settings.on_gap == OnGap::Accept,
            halt_on_shrink: settings.on_publication_shrink == OnPublicationShrink::Halt,
        };
        let (peers_told, peers) = watch::channel(Peers::new());
        let prefix_in_etcd = format!("{}/{name}", config.coordination.prefix);
        let etcd = || {
            let etcd = || Etcd::renewed(&config.coordination, access.shared.etcd.clone(), prefix_in_etcd.clone());
            (config.coordination.backend == Backend::Etcd).then(etcd).map(Arc::new)
        };
        let (etcd, renewing) = (etcd(), etcd());
        let own = watch::Sender::new(own);
        let mut tasks = JoinSet::new();
        let facts = mpsc::channel(FACTS);
        if let Some(etcd) = &etcd {
            tasks.spawn(coordination::exchange(etcd.clone(), own.subscribe(), peers_told, telling(&facts.0)));
        }
        let followed = watch::Sender::new(None);
        let tls = access.shared.http_tls.clone();
        tasks.spawn(coordination::follow(followed.subscribe(), name.to_owned(), tls, telling(&facts.0)));
        let meters = Meters::new(name);
        let audited = settings.audit.then(|| {
            let told = watch::Sender::new(Audit::default());
            let audited = told.subscribe();
            let target = access.kafka.clone();
            let checkpoint = etcd.clone().filter(|_| delivery == Delivery::AtLeastOnce);
            let auditor = Auditor { pipeline: name.to_owned(), target, checkpoint, meters: meters.clone(), told };
            tasks.spawn(auditor.run(own.subscribe()));
            audited
        });
        Ok(Pipeline {
            name: name.to_owned(),
            worker: Worker::new(identity, policy),
            batons: access.shared.batons.clone(),
            hand: Hand::default(),
            session: Session::default(),
            serial: 0,
            step: None,
            keys_asked: HashSet::new(),
            inspect_limit: inspecting::FIRST_LIMIT,
            tasks,
            keepalive: None,
            facts,
            orders,
            look_now: Arc::new(Notify::new()),
            etcd: etcd.clone(),
            renewing,
            wanted: Arc::new(inspecting::Wanted {
                slot: settings.postgres.slot.clone(),
                publication: settings.postgres.publication.clone(),
                topic_prefix: prefix.clone(),
                database: conninfo.dbname.clone(),
            }),
            telling: Telling {
                source: Source {
                    name: prefix.clone(),
                    database: conninfo.dbname.clone(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                },
                cutting: cutting(settings),
                waiting: servers::waiting(settings),
            },
            access,
            delivering: Arc::new(Delivering {
                delivery,
                kafka: Arc::new(standby),
                etcd,
                pipeline: name.to_owned(),
                patience,
            }),
            holder_value: HolderValue {
                worker: config.name.clone(),
                nonce,
                url: url.to_owned(),
                delivery: delivery.as_str().to_owned(),
                tenures: 0,
            },
            lease_ttl: config.coordination.lease_ttl,
            own,
            followed,
            degraded_since: None,
            peers,
            audited,
            meters,
            reporter: Reporter::new(publisher, config.name.clone(), settings.postgres.slot.clone(), delivery),
            board: board.clone(),
            watchdog: Watchdog::start(name)?,
        })
    }

    /// The tasks that look out for as long as the pipeline runs.
    pub(super) fn spawn_lookouts(&mut self) {
        if let Some(etcd) = &self.etcd {
            self.tasks.spawn(coordination::watch_holder(etcd.clone(), telling(&self.facts.0)));
        }
        let facts = self.facts.0.clone();
        let seed = u64::from_str_radix(&self.holder_value.nonce, 16).unwrap_or(1);
        let poller = Poller {
            conninfo: self.access.conninfo.clone(),
            slot: self.wanted.slot.clone(),
            publication: self.wanted.publication.clone(),
            now: self.look_now.clone(),
            seed,
        };
        self.tasks.spawn(
            poller.run(move |input, extra| facts.try_send(Fact::Seen(input, extra)).is_ok() || !facts.is_closed()),
        );
        let (facts, kafka, target) = (self.facts.0.clone(), self.delivering.kafka.clone(), self.access.kafka.clone());
        let own = self.own.subscribe();
        self.tasks.spawn(async move {
            let mut ticks = tokio::time::interval(PROBE_PERIOD);
            while !facts.is_closed() {
                ticks.tick().await;
                // A stream knows better how Kafka is than a probe does.
                if own.borrow().role == "active" {
                    continue;
                }
                kafka.aim_at(target.get());
                let answer = kafka.check(PROBE_LIMIT).await.map_err(|fault| fault.to_string());
                let _ = facts.send(Fact::Told(Input::SinkProbed(answer))).await;
            }
        });
    }
}

/// How batches of changes are cut. Only a transaction has a time-out that a slow one could run into.
fn cutting(settings: &PipelineConfig) -> Cutting {
    let cutting = Cutting { atomic_up_to: settings.kafka.atomic_up_to, ..Cutting::default() };
    match settings.kafka.delivery {
        Delivery::ExactlyOnce => cutting,
        Delivery::AtLeastOnce => Cutting { longest: Duration::from_secs(24 * 3600), ..cutting },
    }
}

/// Tells the loop, until it is gone. What it has no room for is told again: every fact says what is true when it is told.
pub(super) fn telling(facts: &mpsc::Sender<Fact>) -> impl Fn(Input) -> bool + use<> {
    let facts = facts.clone();
    move |input| facts.try_send(Fact::Told(input)).is_ok() || !facts.is_closed()
}

/// Random bytes as hexadecimal digits, from the operating system.
pub(super) fn random_hex(bytes: usize) -> std::io::Result<String> {
    let mut buffer = vec![0; bytes];
    rustix::rand::getrandom(&mut buffer, rustix::rand::GetRandomFlags::empty())?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}
