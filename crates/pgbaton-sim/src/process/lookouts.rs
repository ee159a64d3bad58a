//! What looks out for as long as a process runs: the holder key, the slot, Kafka, the other workers.

use std::time::Duration;

use pgbaton_core::{Code, Failure, FailureKind, Input, Moment, PeerSeen, Saying, State, Tenure};

use super::{Contend, ETCD_LIMIT, Over, Process, Purpose};
use crate::bus::Bus;
use crate::etcd::Etcd;
use crate::message::{
    Caller, EtcdRequest, Event, HolderValue, KafkaRequest, PostgresRequest, Reply, Request, StatusValue, Timer,
};
use crate::mutant::Mutant;
use crate::time::{ms, seconds};

/// The lease is renewed this often.
const KEEPALIVE: Duration = seconds(2);
/// A stream of another worker is silent for this long: it has ended.
const STREAM_SILENT: Duration = ms(1250);

#[derive(Default)]
pub(super) struct Lookouts {
    over: Option<Over>,
    looking: bool,
    look_again: bool,
    viewing: bool,
    /// Of the other workers' status keys: at which revision, and since when.
    moved: Vec<(String, i64, Moment)>,
    /// The stream to the holder: of which life, in which tenure, and when it was heard last.
    stream: Option<(Caller, i64, Moment)>,
    tenures: u32,
}

impl Process {
    pub(super) fn view(&mut self, bus: &mut Bus) {
        if !std::mem::replace(&mut self.lookouts.viewing, true) {
            self.call(bus, Request::Etcd(EtcdRequest::View), ETCD_LIMIT, Purpose::View);
        }
    }

    pub(super) fn viewed(&mut self, bus: &Bus, reply: Option<Reply>) -> Input {
        self.lookouts.viewing = false;
        match reply {
            Some(Reply::View(mut view)) => {
                if bus.is(Mutant::NoLeaseCheck)
                    && let Some(tenure) = self.worker.tenure()
                {
                    // It goes on as if the key were its own.
                    view.revision = tenure.revision - 1;
                }
                Input::HolderSeen(view)
            }
            _ => Input::CoordinationLost("etcd does not answer".to_owned()),
        }
    }

    pub(super) fn look(&mut self, bus: &mut Bus) {
        if std::mem::replace(&mut self.lookouts.looking, true) {
            self.lookouts.look_again = true;
            return;
        }
        let request = PostgresRequest::Look { over: self.lookouts.over };
        let asked_at = self.now(bus);
        self.call(bus, Request::Postgres(request), seconds(3), Purpose::Look { asked_at });
    }

    pub(super) fn looked(&mut self, bus: &mut Bus, asked_at: Moment, reply: Option<Reply>) -> Option<Input> {
        self.lookouts.looking = false;
        if std::mem::take(&mut self.lookouts.look_again) {
            self.look(bus);
        } else {
            let pause = bus.between(ms(400), ms(600));
            self.timer(bus, pause, Timer::Poll);
        }
        match reply {
            Some(Reply::Looked { over, observation }) => {
                self.lookouts.over = (!observation.in_recovery).then_some(over);
                Some(Input::Observed { asked_at, observation: *observation, durable: self.session.durable() })
            }
            Some(Reply::Refused(failure)) => {
                self.lookouts.over = None;
                Some(Input::NotObserved(failure))
            }
            _ => {
                self.lookouts.over = None;
                let detail = "no answer within 3 s".to_owned();
                let kind = FailureKind::Passing;
                Some(Input::NotObserved(Failure { code: Code::PostgresUnreachable, detail, kind }))
            }
        }
    }

    pub(super) fn probe(&mut self, bus: &mut Bus, periodic: bool) {
        if periodic {
            self.timer(bus, seconds(5), Timer::Probe);
            // A stream knows better how Kafka is.
            if self.worker.state() == State::Stream {
                return;
            }
        }
        self.call(bus, Request::Kafka(KafkaRequest::Probe), seconds(4), Purpose::Probe);
    }

    // The others.

    pub(super) fn put_status(&mut self, bus: &mut Bus) {
        self.timer(bus, seconds(1), Timer::Status);
        let now = self.now(bus);
        let identity = self.worker.identity();
        let status = StatusValue {
            name: identity.worker.clone(),
            nonce: identity.nonce.clone(),
            standby: self.worker.can_take_over(now),
            postgres: self.worker.reaches_postgres(now),
            kafka: self.worker.reaches_kafka(),
        };
        self.call(bus, Request::Etcd(EtcdRequest::Status(status)), ETCD_LIMIT, Purpose::Status);
    }

    pub(super) fn statuses(&mut self, bus: &mut Bus, reply: Option<Reply>) -> Option<Input> {
        let Some(Reply::Statuses(all)) = reply else { return None };
        let now = self.now(bus);
        let own = self.worker.identity().worker.clone();
        let mut peers = Vec::new();
        let mut moved = Vec::new();
        for (status, revision) in all.into_iter().filter(|(status, _)| status.name != own) {
            let known = self.lookouts.moved.iter().find(|(name, at, _)| (name, *at) == (&status.name, revision));
            let moved_at = known.map_or(now, |(_, _, at)| *at);
            moved.push((status.name.clone(), revision, moved_at));
            let StatusValue { name, nonce, standby, postgres, kafka } = status;
            peers.push(PeerSeen { worker: name, nonce, moved_at, standby, postgres, kafka });
        }
        self.lookouts.moved = moved;
        Some(Input::PeersSeen { peers, namesake: None })
    }

    /// Says how it is to the others, and notices who has not said anything for too long.
    pub(super) fn beat(&mut self, bus: &mut Bus) -> Option<Input> {
        let pause = bus.between(ms(250), ms(400));
        self.timer(bus, pause, Timer::Beat);
        let saying = match self.worker.state() {
            State::Stream => Saying::Streaming,
            State::Inspect | State::Fence | State::Recover | State::SinkStalled => Saying::Trying,
            _ => Saying::NotTrying,
        };
        let tenure = self.worker.tenure().map(|tenure| tenure.revision);
        for to in bus.peers_of(self.id) {
            let delay = bus.between(ms(0), ms(2));
            let name = self.worker.identity().worker.clone();
            bus.after(delay, Event::Beat { to, from: self.caller(), name, tenure, saying });
        }
        let now = self.now(bus);
        if bus.is(Mutant::GoneWithoutStream)
            && let Some(holder) = self.worker.holder().filter(|holder| holder.worker != self.worker.identity().worker)
            && self.lookouts.stream.is_none_or(|(_, revision, _)| revision != holder.revision)
        {
            let revision = holder.revision;
            self.told(bus, Some(Input::HolderHeard { revision, saying: Saying::Trying }));
            return Some(Input::HolderUnheard { revision });
        }
        let (_, revision, heard) = self.lookouts.stream?;
        (now.since(heard) >= STREAM_SILENT).then(|| {
            self.lookouts.stream = None;
            Input::HolderUnheard { revision }
        })
    }

    pub(super) fn heard(
        &mut self,
        bus: &mut Bus,
        from: Caller,
        name: &str,
        tenure: Option<i64>,
        saying: Saying,
    ) -> Option<Input> {
        let holder = self.worker.holder().filter(|holder| holder.worker == name)?;
        let revision = holder.revision;
        let saying = if tenure == Some(revision) { saying } else { Saying::NotTrying };
        bus.audit.beat_heard(self.id, revision);
        self.lookouts.stream = Some((from, revision, self.now(bus)));
        Some(Input::HolderHeard { revision, saying })
    }

    pub(super) fn unlinked(&mut self, from: Caller) -> Option<Input> {
        let (life, revision, _) = self.lookouts.stream?;
        (life == from).then(|| {
            self.lookouts.stream = None;
            Input::HolderUnheard { revision }
        })
    }

    // The lease.

    pub(super) fn contend(&mut self, bus: &mut Bus, replacing: Option<pgbaton_core::Replaced>, tenures: u32) {
        let asked_at = self.now(bus);
        let purpose = Purpose::Grant { asked_at, contend: Contend { replacing, tenures } };
        self.lookouts.tenures = tenures;
        self.call(bus, Request::Etcd(EtcdRequest::Grant { ttl: Etcd::TTL }), ETCD_LIMIT, purpose);
    }

    pub(super) fn granted(
        &mut self,
        bus: &mut Bus,
        asked_at: Moment,
        contend: Contend,
        reply: Option<Reply>,
    ) -> Option<Input> {
        let Some(Reply::Granted { lease, ttl }) = reply else { return Some(Input::NotWon) };
        let identity = self.worker.identity();
        let holder = HolderValue {
            worker: self.id,
            name: identity.worker.clone(),
            nonce: identity.nonce.clone(),
            tenures: contend.tenures,
        };
        let take = EtcdRequest::Take { lease, holder, replacing: contend.replacing };
        self.call(bus, Request::Etcd(take), ETCD_LIMIT, Purpose::Take { lease, ttl, asked_at, contend });
        None
    }

    pub(super) fn taken(
        &mut self,
        bus: &mut Bus,
        (lease_id, ttl, asked_at): (i64, Duration, Moment),
        contend: Contend,
        reply: Option<Reply>,
    ) -> Input {
        let Some(Reply::Taken { revision, cluster_id }) = reply else {
            // Lost, or unknown: if the key was written after all, it goes with its lease.
            self.fire(bus, EtcdRequest::Revoke { lease: lease_id });
            return Input::NotWon;
        };
        if let Some(replaced) = contend.replacing {
            self.fire(bus, EtcdRequest::Revoke { lease: replaced.lease_id });
        }
        bus.audit.kept_alive(self.id, asked_at, ttl);
        let asked_at = if bus.is(Mutant::DeadlineFromReply) { self.now(bus) } else { asked_at };
        Input::Won { lease_id, revision, ttl, asked_at, cluster_id }
    }

    pub(super) fn keep_alive(&mut self, bus: &mut Bus, tenure: Tenure) {
        self.keepalives += 1;
        self.keepalive = Some(tenure);
        self.timer(bus, KEEPALIVE, Timer::KeepAlive(self.keepalives));
    }

    pub(super) fn renew(&mut self, bus: &mut Bus, serial: u64) {
        let Some(tenure) = self.keepalive.filter(|_| serial == self.keepalives) else { return };
        let asked_at = self.now(bus);
        let request = Request::Etcd(EtcdRequest::KeepAlive { lease: tenure.lease_id });
        self.call(bus, request, ETCD_LIMIT, Purpose::Renew { tenure, asked_at });
    }

    pub(super) fn renewed(
        &mut self,
        bus: &mut Bus,
        tenure: Tenure,
        asked_at: Moment,
        reply: Option<Reply>,
    ) -> Option<Input> {
        if self.keepalive != Some(tenure) {
            return None;
        }
        match reply {
            Some(Reply::KeptAlive { ttl }) if ttl.is_zero() => {
                self.keepalive = None;
                Some(Input::LeaseLost("etcd says that the lease has ended".to_owned()))
            }
            Some(Reply::KeptAlive { ttl }) if bus.is(Mutant::NoLeaseCheck) => {
                self.timer(bus, KEEPALIVE, Timer::KeepAlive(self.keepalives));
                Some(Input::KeptAlive { asked_at, ttl })
            }
            Some(Reply::KeptAlive { ttl }) => {
                let purpose = Purpose::Verify { tenure, asked_at, ttl };
                self.call(bus, Request::Etcd(EtcdRequest::View), ETCD_LIMIT, purpose);
                None
            }
            _ => {
                self.timer(bus, ms(100), Timer::KeepAlive(self.keepalives));
                None
            }
        }
    }

    pub(super) fn verified(
        &mut self,
        bus: &mut Bus,
        tenure: Tenure,
        asked_at: Moment,
        ttl: Duration,
        reply: Option<Reply>,
    ) -> Option<Input> {
        if self.keepalive != Some(tenure) {
            return None;
        }
        match reply {
            Some(Reply::View(view)) if view.holder.as_ref().is_some_and(|held| held.is_of(&tenure)) => {
                self.timer(bus, KEEPALIVE, Timer::KeepAlive(self.keepalives));
                bus.audit.kept_alive(self.id, asked_at, ttl);
                let asked_at = if bus.is(Mutant::DeadlineFromReply) { self.now(bus) } else { asked_at };
                Some(Input::KeptAlive { asked_at, ttl })
            }
            Some(Reply::View(_)) => {
                self.keepalive = None;
                Some(Input::LeaseLost("the holder key is not the one that this worker wrote".to_owned()))
            }
            _ => {
                self.timer(bus, ms(100), Timer::KeepAlive(self.keepalives));
                None
            }
        }
    }

    pub(super) fn release(&mut self, bus: &mut Bus, tenure: Tenure, successor: Option<Option<String>>) {
        self.keepalive = None;
        let request = EtcdRequest::Release { revision: tenure.revision, lease: tenure.lease_id, successor };
        let until = self.now(bus) + seconds(4);
        let purpose = Purpose::Release { lease: tenure.lease_id, until };
        self.call(bus, Request::Etcd(request), ETCD_LIMIT, purpose);
    }

    pub(super) fn released(&mut self, bus: &mut Bus, lease: i64, until: Moment, reply: Option<Reply>) -> Option<Input> {
        if self.now(bus) >= until {
            return Some(Input::Released);
        }
        let _ = reply;
        self.call(bus, Request::Etcd(EtcdRequest::Revoke { lease }), ETCD_LIMIT, Purpose::Revoked);
        None
    }

    /// A call whose answer nobody waits for.
    pub(super) fn fire(&mut self, bus: &mut Bus, request: EtcdRequest) {
        self.call(bus, Request::Etcd(request), ETCD_LIMIT, Purpose::Unanswered);
    }
}
