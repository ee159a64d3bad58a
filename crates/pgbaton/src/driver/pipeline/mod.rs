//! The loop of one pipeline. Facts come in from tasks, from the stream and from people; the machine answers with wishes;
//! the loop carries them out.

mod effects;
mod making;
mod orders;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_core::{Code, Effect, Hand, Holder, Input, Lsn, Moment, SessionEnd, SlotState, Worker};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::info;

use super::access::Access;
use super::batons::Batons;
use super::publishing::{Publishing, Telling};
use super::reporting::Reporter;
use super::session::{Session, Step};
use super::sink::Delivering;
use super::watchdog::Watchdog;
use super::{inspecting, looking};
use crate::clock::Timestamp;
use crate::clock::boottime;
use crate::coordination::{Etcd, Followed, HolderValue, Peers, WorkerValue};
use crate::http::Command;
use crate::metrics::Meters;
use crate::status::{Audit, Board};

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
    /// What the worker has in hand of all its pipelines, and what the machine was told of it last.
    batons: Arc<Batons>,
    hand: Hand,
    session: Session,
    /// Counts sessions, so that what comes late from one that was closed is recognised.
    serial: u64,
    step: Option<AbortHandle>,
    /// Tables that have ended a session because their key was not known.
    keys_asked: HashSet<u32>,
    /// How long the next look by the replication connection may take.
    inspect_limit: Duration,
    tasks: JoinSet<()>,
    keepalive: Option<AbortHandle>,
    facts: (mpsc::Sender<Fact>, mpsc::Receiver<Fact>),
    orders: mpsc::Receiver<Command>,
    look_now: Arc<Notify>,
    /// None where the workers go without.
    etcd: Option<Arc<Etcd>>,
    /// The keepalive's own.
    renewing: Option<Arc<Etcd>>,
    access: Access,
    wanted: Arc<inspecting::Wanted>,
    delivering: Arc<Delivering>,
    telling: Telling,
    holder_value: HolderValue,
    lease_ttl: Duration,
    own: watch::Sender<WorkerValue>,
    followed: watch::Sender<Option<Followed>>,
    /// Since when no lease counts.
    degraded_since: Option<Timestamp>,
    peers: watch::Receiver<Peers>,
    /// What the witness says, where there is one.
    audited: Option<watch::Receiver<Audit>>,
    meters: Meters,
    reporter: Reporter,
    board: Board,
    watchdog: Watchdog,
}

impl Pipeline {
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
            if let Some(publishing) = &mut self.session.publishing {
                publishing.renewed(self.worker.tenure().as_ref());
                if let Err(end) = publishing.turn() {
                    self.handle(Input::Broken(end));
                } else if let Some(since) = publishing.silent_since(boottime()) {
                    self.handle(Input::StreamSilent { since });
                }
            }
            self.report();
        }
        self.tasks.shutdown().await;
        info!(pipeline = self.name, "stopped");
    }

    /// What a fact is to the machine, after taking what came with it.
    fn fact(&mut self, fact: Fact) -> Option<Input> {
        match fact {
            Fact::Told(input) => {
                if let Input::HolderSeen(view) = &input {
                    self.follow(view.holder.as_ref());
                }
                Some(input)
            }
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

    /// Listens to whoever holds the key, unless that is this very process.
    fn follow(&self, holder: Option<&Holder>) {
        let followed = holder
            .filter(|holder| holder.nonce != self.holder_value.nonce)
            .map(|holder| Followed { url: holder.url.clone(), revision: holder.revision });
        self.followed.send_if_modified(|current| {
            let changed = *current != followed;
            *current = followed;
            changed
        });
    }

    /// What sessions with Kafka are made of, as one that begins now, or a probe, reaches it.
    fn delivering(&self) -> Arc<Delivering> {
        self.delivering.kafka.aim_at(self.access.kafka.get());
        self.delivering.clone()
    }

    fn durable(&self) -> Option<Lsn> {
        self.session.publishing.as_ref().map(|publishing| publishing.stream.durable().watermark.lsn)
    }

    fn stepped(&mut self, step: Step) -> Input {
        self.step = None;
        match step {
            Step::Inspected(connection, inspection, keys) => {
                self.inspect_limit = inspecting::FIRST_LIMIT;
                self.session.connection = Some(connection);
                // A table that has ended a session for its key and is not in the catalogue any more has none.
                self.session.keys = self.keys_asked.iter().map(|oid| (*oid, Vec::new())).chain(keys).collect();
                self.session.topics.clone_from(&inspection.topics);
                self.reporter.inspected(&inspection);
                Input::Inspected(inspection)
            }
            Step::HolderRead(ours) => Input::HolderRead(ours),
            Step::Fenced(sink, read) => {
                self.session.sink = Some(sink);
                Input::SinkFenced(read)
            }
            Step::ReadBack(sink, remains) => {
                self.session.sink = Some(sink);
                Input::ReadBack(remains)
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
        let publishing = Publishing::new(
            plan,
            &self.telling,
            connection,
            sink,
            std::mem::take(&mut self.session.keys),
            &self.access,
            self.meters.clone(),
        );
        self.session.publishing = Some(Box::new(publishing));
        Input::Started
    }

    fn handle(&mut self, input: Input) {
        let before = self.worker.state();
        let mut effects = Vec::new();
        if let Input::Broken(end) = &input {
            self.reporter.broken(end);
            if let SessionEnd::KeyUnknown { oid, .. } = end {
                self.keys_asked.insert(*oid);
            }
            self.session.sink_failed |=
                matches!(end, SessionEnd::Sink { .. } | SessionEnd::Stalled(_) | SessionEnd::ProducerSpent(_));
            if matches!(end, SessionEnd::Sink { code: Code::Fenced, .. }) {
                self.meters.fenced();
            }
        }
        self.decide(input, &mut effects);
        let after = self.worker.state();
        if before != after {
            self.reporter.moved(&self.name, &self.worker, before);
        }
        for effect in effects {
            self.carry_out(effect);
        }
    }

    /// While nothing is in hand here, the worker's pipelines decide one after another: each has to know what the others took.
    fn decide(&mut self, input: Input, effects: &mut Vec<Effect>) {
        let (worker, told) = (&mut self.worker, &mut self.hand);
        if worker.is_in_hand() {
            worker.handle(boottime(), input, effects);
            if !worker.is_in_hand() {
                self.batons.decide(&self.name, |_| false);
            }
            return;
        }
        self.batons.decide(&self.name, |hand| {
            let now = boottime();
            if *told != hand {
                *told = hand;
                worker.handle(now, Input::InHand(hand), effects);
            }
            worker.handle(now, input, effects);
            worker.is_in_hand()
        });
    }

    fn report(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        let now: Moment = boottime();
        self.watchdog.turned(self.worker.closed_by());
        let slot = SlotState::of(self.worker.observed().and_then(|seen| seen.slot.as_ref()), &self.wanted.database);
        let sound = matches!(slot, SlotState::Usable { .. });
        let able = sound && self.worker.can_take_over(now) && self.worker.reasons().is_empty();
        if let Some(audited) = &mut self.audited {
            self.reporter.audited(&audited.borrow_and_update());
        }
        self.reporter.report(now, &self.worker, self.session.publishing.as_deref_mut(), &self.peers.borrow(), able);
        let guarded = self.worker.guarded_since().is_some();
        self.degraded_since = self.degraded_since.filter(|_| guarded).or_else(|| guarded.then(Timestamp::now));
        self.board.coordination(self.worker.coordination_answers(), self.degraded_since);
        let (role, state) = self.reporter.told();
        let (postgres, kafka) = (sound && self.worker.reaches_postgres(now), self.worker.reaches_kafka());
        self.own.send_if_modified(|own| {
            let changed = (&*own.role, &*own.state, own.postgres, own.kafka) != (role, state, postgres, kafka);
            role.clone_into(&mut own.role);
            state.clone_into(&mut own.state);
            (own.postgres, own.kafka) = (postgres, kafka);
            changed
        });
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
