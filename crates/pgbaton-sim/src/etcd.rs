//! etcd as the workers see it: one linearizable store with leases, which may be slow, leaderless, gone, or restored.

use std::collections::BTreeMap;
use std::time::Duration;

use pgbaton_core::{Gap, Holder, HolderView, Replaced, Successor, VerdictSeen};

use crate::bus::Bus;
use crate::message::{Caller, EtcdRequest, Event, HolderValue, Reply, Service, StatusValue};
use crate::mutant::Mutant;
use crate::time::{Time, ms, seconds};

#[derive(Debug)]
pub(crate) enum Tick {
    Expire {
        lease: i64,
        due: Time,
    },
    /// The new leader is elected, or the members are back.
    Back(u32),
}

#[derive(Clone)]
struct Lease {
    ttl: Duration,
    expires: Time,
}

#[derive(Clone)]
struct HolderKey {
    value: HolderValue,
    lease: i64,
    created: i64,
    modified: i64,
}

/// What is replicated, and what a snapshot holds.
#[derive(Clone)]
pub(crate) struct Store {
    revision: i64,
    holder: Option<HolderKey>,
    successor: Option<Successor>,
    checkpoint: bool,
    verdict: Option<Gap>,
    statuses: BTreeMap<String, (StatusValue, i64)>,
    leases: BTreeMap<i64, Lease>,
}

pub(crate) struct Etcd {
    store: Store,
    cluster_id: u64,
    /// Without a leader nothing is answered and no lease ends. Counts, so that an older end of it is recognised.
    leaderless: Option<u32>,
    outages: u32,
    next_lease: i64,
    backup: Option<Store>,
    watchers: Vec<Caller>,
    /// Its answers take up to so long.
    takes: Duration,
}

/// A sound one answers sooner than that.
const SOUND: Duration = ms(4);

impl Etcd {
    pub fn new(takes: Duration) -> Self {
        let store = Store {
            revision: 100,
            holder: None,
            successor: None,
            checkpoint: false,
            verdict: None,
            statuses: BTreeMap::new(),
            leases: BTreeMap::new(),
        };
        Etcd {
            store,
            cluster_id: 7001,
            leaderless: None,
            outages: 0,
            next_lease: 1,
            backup: None,
            watchers: Vec::new(),
            takes: takes.max(SOUND),
        }
    }

    /// The holder of the lease by etcd's own book: worker and revision.
    pub fn holder(&self) -> Option<(usize, i64)> {
        self.store.holder.as_ref().map(|holder| (holder.value.worker, holder.modified))
    }

    pub fn verdict(&self) -> Option<&Gap> {
        self.store.verdict.as_ref()
    }

    pub fn watch(&mut self, caller: Caller) {
        self.watchers.retain(|watcher| watcher.worker != caller.worker);
        self.watchers.push(caller);
    }

    /// No quorum for so long.
    pub fn go_down(&mut self, bus: &mut Bus, time: Duration) {
        self.outages += 1;
        self.leaderless = Some(self.outages);
        bus.tell("etcd", || format!("has no leader for {time:?}"));
        bus.after(time, Event::Etcd(Tick::Back(self.outages)));
    }

    /// Keeps a backup.
    pub fn back_up(&mut self, bus: &mut Bus) {
        bus.tell("etcd", || format!("backed up at revision {}", self.store.revision));
        self.backup = Some(self.store.clone());
    }

    /// Starts anew from the backup: revisions count on from there.
    pub fn restore(&mut self, bus: &mut Bus, same_cluster: bool) {
        let Some(backup) = self.backup.clone() else { return };
        self.store = backup;
        if !same_cluster {
            self.cluster_id += 1;
        }
        bus.tell("etcd", || {
            format!("restored at revision {} with cluster id {}", self.store.revision, self.cluster_id)
        });
        bus.audit.etcd_restored();
        self.refresh_leases(bus);
        self.changed(bus);
    }

    pub fn tick(&mut self, bus: &mut Bus, tick: Tick) {
        match tick {
            Tick::Expire { lease, due } => {
                let ends = self.store.leases.get(&lease).is_some_and(|lease| lease.expires == due);
                if ends && self.leaderless.is_none() {
                    bus.tell("etcd", || format!("lease {lease} has ended"));
                    self.end_lease(bus, lease);
                }
            }
            Tick::Back(outage) if self.leaderless == Some(outage) => {
                self.leaderless = None;
                bus.tell("etcd", || "has a leader again".to_owned());
                self.refresh_leases(bus);
            }
            Tick::Back(_) => {}
        }
    }

    /// A new leader gives every lease its whole time again.
    fn refresh_leases(&mut self, bus: &mut Bus) {
        let leases: Vec<i64> = self.store.leases.keys().copied().collect();
        for lease in leases {
            self.renew(bus, lease);
        }
    }

    fn renew(&mut self, bus: &mut Bus, id: i64) -> Option<Duration> {
        let lease = self.store.leases.get_mut(&id)?;
        lease.expires = bus.now + lease.ttl;
        bus.at(lease.expires, Event::Etcd(Tick::Expire { lease: id, due: lease.expires }));
        Some(lease.ttl)
    }

    fn end_lease(&mut self, bus: &mut Bus, lease: i64) {
        self.store.leases.remove(&lease);
        if self.store.holder.as_ref().is_some_and(|holder| holder.lease == lease) {
            self.store.revision += 1;
            self.store.holder = None;
            self.changed(bus);
        }
    }

    fn changed(&mut self, bus: &mut Bus) {
        for watcher in self.watchers.clone() {
            if let Some(delay) = bus.pass(watcher.worker, Service::Etcd, crate::bus::Way::In) {
                bus.after(delay, Event::HolderChanged { to: watcher });
            }
        }
    }

    pub fn request(&mut self, bus: &mut Bus, from: Caller, call: u64, request: EtcdRequest) {
        if self.leaderless.is_some() {
            return;
        }
        let reply = self.carry_out(bus, from, request);
        let work = bus.between(ms(1), self.takes);
        bus.reply(from, call, Service::Etcd, work, reply);
    }

    fn carry_out(&mut self, bus: &mut Bus, from: Caller, request: EtcdRequest) -> Reply {
        match request {
            EtcdRequest::View => {
                if let Some(holder) = &self.store.holder {
                    bus.audit.holder_read(from, holder.modified, bus.now);
                }
                Reply::View(self.view(bus.is(Mutant::GuardByCreateRevision)))
            }
            EtcdRequest::Grant { ttl } => {
                let lease = self.next_lease;
                self.next_lease += 1;
                self.store.leases.insert(lease, Lease { ttl, expires: bus.now });
                self.renew(bus, lease);
                Reply::Granted { lease, ttl }
            }
            EtcdRequest::Take { lease, holder, replacing } => self.take(bus, lease, holder, replacing),
            EtcdRequest::Status(value) => {
                self.store.revision += 1;
                self.store.statuses.insert(value.name.clone(), (value, self.store.revision));
                Reply::Statuses(self.store.statuses.values().cloned().collect())
            }
            EtcdRequest::KeepAlive { lease } => Reply::KeptAlive { ttl: self.renew(bus, lease).unwrap_or_default() },
            EtcdRequest::Release { revision, lease, successor } => {
                let by_creation = bus.is(Mutant::GuardByCreateRevision);
                let is_its = |holder: &HolderKey| match by_creation {
                    true => holder.created == revision,
                    false => (holder.modified, holder.lease) == (revision, lease),
                };
                if let Some(holder) = self.store.holder.take_if(|holder| is_its(holder)) {
                    self.store.revision += 1;
                    bus.tell("etcd", || format!("holder key of {} deleted", holder.value.name));
                    bus.audit.holder_deleted(from, holder.value.worker, bus.now);
                    if let Some(worker) = successor {
                        self.store.successor = Some(Successor { worker, follows: revision });
                    }
                    self.changed(bus);
                }
                Reply::Done
            }
            EtcdRequest::Revoke { lease } => {
                self.end_lease(bus, lease);
                Reply::Done
            }
            EtcdRequest::Checkpoint { revision } => {
                if self.store.holder.as_ref().is_some_and(|holder| holder.modified == revision) {
                    self.store.revision += 1;
                    self.store.checkpoint = true;
                }
                Reply::Done
            }
            EtcdRequest::HasCheckpoint => Reply::Checkpoint(self.store.checkpoint),
            EtcdRequest::WriteVerdict(gap) => {
                self.store.revision += 1;
                bus.tell("etcd", || format!("verdict {}: {}", gap.code, gap.text));
                bus.audit.verdict_written(from, &gap, bus.now);
                self.store.verdict = Some(gap);
                Reply::Done
            }
            EtcdRequest::ClearVerdict => {
                if self.store.verdict.take().is_some() {
                    self.store.revision += 1;
                    bus.tell("etcd", || "verdict cleared".to_owned());
                }
                Reply::Done
            }
        }
    }

    fn take(&mut self, bus: &mut Bus, lease: i64, value: HolderValue, replacing: Option<Replaced>) -> Reply {
        let by_creation = bus.is(Mutant::GuardByCreateRevision);
        let guarded = match (&self.store.holder, replacing) {
            (None, None) => true,
            (Some(holder), Some(replaced)) => {
                replaced.revision == if by_creation { holder.created } else { holder.modified }
            }
            _ => false,
        };
        if !guarded || !self.store.leases.contains_key(&lease) {
            return Reply::NotTaken;
        }
        self.store.revision += 1;
        let revision = self.store.revision;
        let created = self.store.holder.as_ref().map_or(revision, |holder| holder.created);
        if let Some(old) = &self.store.holder {
            bus.audit.replaced(&value, old.value.worker, old.modified, bus.now);
        }
        bus.tell("etcd", || format!("holder key taken by {} at revision {revision}", value.name));
        bus.audit.holder_written(self.cluster_id, &value, lease, revision, bus.now);
        self.store.holder = Some(HolderKey { value, lease, created, modified: revision });
        self.changed(bus);
        let told = if by_creation { created } else { revision };
        Reply::Taken { revision: told, cluster_id: self.cluster_id.to_string() }
    }

    fn view(&self, by_creation: bool) -> HolderView {
        HolderView {
            revision: self.store.revision,
            holder: self.store.holder.as_ref().map(|holder| Holder {
                worker: holder.value.name.clone(),
                nonce: holder.value.nonce.clone(),
                url: String::new(),
                revision: if by_creation { holder.created } else { holder.modified },
                lease_id: holder.lease,
                fenced: true,
                tenures: holder.value.tenures,
            }),
            successor: self.store.successor.clone(),
            paused: false,
            verdict: self.store.verdict.as_ref().map(|gap| VerdictSeen {
                code: gap.code,
                from_lsn: gap.from_lsn,
                to_lsn: gap.to_lsn,
                accepted: false,
            }),
        }
    }

    /// It answers again, and at once.
    pub fn heal(&mut self, bus: &mut Bus) {
        self.takes = SOUND;
        if self.leaderless.take().is_some() {
            self.refresh_leases(bus);
        }
    }

    /// How long an ordinary worker's lease is.
    pub const TTL: Duration = seconds(10);
}

impl Etcd {
    /// Somebody deletes the holder key by hand; its lease lives on.
    pub fn forget_holder(&mut self, bus: &mut Bus) {
        if let Some(holder) = self.store.holder.take() {
            self.store.revision += 1;
            bus.tell("etcd", || format!("holder key of {} deleted by hand", holder.value.name));
            self.changed(bus);
        }
    }
}
