//! A counter-example as a story: who did what, and what Kafka holds then.

use std::fmt::Write;

use pgbaton_core::{ProgressRecord, RecordType};

use super::Model;
use super::explore::{CounterExample, World};
use super::kafka::{PROGRESS, Partition};
use super::machine::{etcd_name, session_name, worker_name};
use super::postgres;
use super::state::{Outgoing, Stage, State};
use super::steps::{Delivery, Step};

/// So many of a partition's visible records are shown.
const SHOWN: usize = 4;

impl Model {
    /// Tells how it came to the broken law, step by step.
    pub fn story(&self, counter_example: &CounterExample<Step>) -> String {
        let mut story = String::new();
        for removed in self.removed {
            let _ = writeln!(story, "Without: {removed}.");
        }
        if self.bounds.streaming {
            let _ = writeln!(story, "At first: worker-1 holds the lease and streams, as session s1 under term 1.");
        }
        let _ = writeln!(story);
        let mut state = self.initial();
        let mut next = Vec::new();
        for (number, step) in counter_example.steps.iter().enumerate() {
            next.clear();
            self.next(&state, &mut next);
            let (_, after) = next
                .iter()
                .find(|(other, _)| other == step)
                .expect("the steps of a counter-example can be taken again");
            let told = self.tell(&state, after, *step) + &fenced(&state, after, *step);
            let _ = writeln!(story, "{:3}. {told}", number + 1);
            for (place, partition) in after.kafka.partitions.iter().enumerate() {
                if *partition != state.kafka.partitions[place] && partition_changed(partition, &state, place) {
                    let _ = writeln!(story, "       {}", self.partition(place, partition));
                }
            }
            state = after.clone();
        }
        let _ = writeln!(story, "\nSo: {}.", counter_example.law);
        story
    }

    /// `T2.0 a` is the first row of the second transaction, of key a.
    pub(super) fn row_name(&self, row: u16) -> String {
        let of = &self.machine.postgres.rows[usize::from(row)];
        format!("T{}.{}({})", of.transaction + 1, of.change, of.key)
    }

    fn partition(&self, place: usize, partition: &Partition) -> String {
        let name = |value: &u16| match place {
            PROGRESS => self.machine.with(*value, record_name),
            _ => self.row_name(*value),
        };
        let list = |values: &[u16]| values.iter().map(name).collect::<Vec<_>>().join(", ");
        let open: Vec<u16> = partition.open.iter().flatten().copied().collect();
        let (older, visible) = partition.visible.split_at(partition.visible.len().saturating_sub(SHOWN));
        let older = if older.is_empty() { "" } else { "... " };
        let undecided = if open.is_empty() { String::new() } else { format!(" | {}", list(&open)) };
        format!("{}: {older}{}{undecided}", partition_name(place), list(visible)).trim_end().to_owned()
    }

    fn tell(&self, before: &State, after: &State, step: Step) -> String {
        let ends = |w: usize| before.workers[w].session.is_some() && after.workers[w].session.is_none();
        match step {
            Step::TakeLease(w) => {
                let revision = after.workers[w].lease.unwrap_or_default();
                format!("{} takes the lease at revision {revision}", self.on_etcd(after, w))
            }
            Step::CutOff(w) => {
                let now = if after.workers[w].cut_off { "answers no longer" } else { "answers again" };
                format!("etcd {now} to {}", worker_name(w as u8))
            }
            Step::Look(w) if before.workers[w].cut_off => {
                let name = after.workers[w].session.as_ref().map_or(0, |session| session.name);
                format!(
                    "{} has claimed before, and begins session {} without etcd",
                    actor(before, w),
                    session_name(name)
                )
            }
            Step::Look(w) => match &after.workers[w].session {
                Some(session) => {
                    let early = matches!(session.stage, Stage::Initialising { read_early: Some(_) });
                    let early = if early { ", and reads progress" } else { "" };
                    format!(
                        "{} reads its key and begins session {}{early}",
                        self.on_etcd(after, w),
                        session_name(session.name)
                    )
                }
                None => format!("{} reads that the key is not its own", self.on_etcd(after, w)),
            },
            Step::Init(w) => format!("{} initialises its producer: all older ones are fenced", actor(before, w)),
            Step::Write(w) => {
                let outbox = before.workers[w].session.as_ref().map(|session| session.outbox.as_slice());
                let records = outbox.unwrap_or_default().iter().map(|outgoing| self.outgoing_name(outgoing));
                let refused = if ends(w) { ": refused, the session is over" } else { "" };
                format!("{} writes {}{refused}", actor(before, w), records.collect::<Vec<_>>().join(", "))
            }
            Step::Add(w, partition) => {
                let refused = if ends(w) { ": refused, the session is over" } else { "" };
                format!("{} adds {} to its transaction{refused}", actor(before, w), partition_name(partition))
            }
            Step::Append(w, partition) => {
                let session = before.workers[w].session.as_ref();
                let outgoing = session.and_then(|s| s.outbox.iter().find(|outgoing| outgoing.partition == partition));
                let what = outgoing.map_or(String::new(), |outgoing| self.outgoing_name(outgoing));
                let refused = if ends(w) { ": refused, the session is over" } else { "" };
                format!("{} writes {what}{refused}", actor(before, w))
            }
            Step::Read(w, view) => {
                let from = view.map_or(String::new(), |end| {
                    format!(" from a leader deposed long ago, which has {end} of the records")
                });
                let came = match after.workers[w].session.as_ref().map(|session| &session.stage) {
                    Some(Stage::Judging { read, .. } | Stage::ReadingBack(read)) => self.read_name(read.position),
                    _ => "its own transaction was ended, the session is over".to_owned(),
                };
                let torn = matches!(
                    after.workers[w].session.as_ref().map(|session| &session.stage),
                    Some(Stage::ReadingBack(_))
                );
                let torn = if torn { ", and of a torn transaction" } else { "" };
                format!("{} reads progress{from}: {came}{torn}", actor(before, w))
            }
            Step::ReadBack(w, view) => {
                let from = view.map_or(String::new(), |(partition, end)| {
                    format!(
                        " ({} from a leader deposed long ago, which has {end} of the rows)",
                        partition_name(partition)
                    )
                });
                let found = match after.workers[w].session.as_ref().map(|session| &session.stage) {
                    Some(Stage::Judging { read, seen: Some(seen) }) => {
                        self.rows_name(seen & self.beyond(read.position))
                    }
                    _ => String::new(),
                };
                format!("{} reads back{from}: {found}", actor(before, w))
            }
            Step::Judge(w) => match after.workers[w].session.as_ref().map(|session| &session.stage) {
                Some(Stage::Claiming { .. }) if before.workers[w].cut_off => {
                    format!(
                        "{} goes on without etcd, behind a claim that it takes for one of its own tenure",
                        actor(before, w)
                    )
                }
                Some(Stage::Claiming { held: false, .. }) => {
                    format!("{} goes on without reading the key, which is not its own any more", actor(before, w))
                }
                Some(Stage::Claiming { .. }) => format!("{} reads the key again: still its own", actor(before, w)),
                Some(_) => {
                    format!("{} reads the key again: still its own; it streams without a claim", actor(before, w))
                }
                None if after.workers[w].stopped || after.fault.is_some() => {
                    format!("{} comes to a verdict and stops", actor(before, w))
                }
                None => format!("{} reads the key again: not its own, the session is over", actor(before, w)),
            },
            Step::Begin(w, _) => {
                let outbox = after.workers[w].session.as_ref().map(|session| session.outbox.as_slice());
                let rows = outbox.unwrap_or_default().iter().filter(|outgoing| outgoing.partition != PROGRESS);
                let rows = rows.fold(0, |rows, outgoing| rows | 1 << outgoing.value);
                format!("{} begins a transaction with {}", actor(before, w), self.rows_name(rows))
            }
            Step::Commit(w, delivery) => {
                let came = match delivery {
                    Delivery::Lost => " and hears nothing; the request is still on its way, the session is over",
                    _ if ends(w) && delivery != Delivery::Unheard => ": refused, the session is over",
                    Delivery::Once => ": done",
                    Delivery::Doubled => {
                        "; no answer in time, so it asks again: done. The first copy is still on its way"
                    }
                    Delivery::Unheard if ends(w) => ": done, but it never hears of it; the session is over",
                    Delivery::Unheard => ": done, but it never hears of it, and begins again from where it was",
                };
                format!("{} commits{came}", actor(before, w))
            }
            Step::AbortAndGoOn(w, delivery) => {
                let late = match delivery {
                    Delivery::Doubled => {
                        "; no answer in time, so it asks again: done. The first copy is still on its way"
                    }
                    Delivery::Once | Delivery::Unheard | Delivery::Lost => ": done",
                };
                format!("{} aborts and keeps its producer{late}", actor(before, w))
            }
            Step::Acknowledge(w) => {
                let transactions = postgres::transactions_up_to(pgbaton_core::Lsn(u64::from(after.confirmed)));
                format!("{} confirms T{transactions} to PostgreSQL", actor(before, w))
            }
            Step::Break(w) => format!("{} loses its session", actor(before, w)),
            Step::Replace(w) => {
                format!("{} gives its producer up, the commit may have been sent twice", actor(before, w))
            }
            Step::LoseLease(etcd) => {
                let holder = before.etcds[etcd].holder.map_or(String::new(), |holder| worker_name(holder.worker));
                format!("the lease of {holder} ends, which it does not know")
            }
            Step::MoveEtcd(w) => {
                format!("{} now reaches {}", worker_name(w as u8), etcd_name(after.workers[w].etcd))
            }
            Step::RestoreEtcd(etcd) => format!("{} is restored to a time before any holder", etcd_name(etcd as u8)),
            Step::Mark(id, partition) => {
                let commit =
                    matches!(before.kafka.ids[id].transaction, super::kafka::Transaction::Ending { commit: true, .. });
                let what = if commit { "commit" } else { "abort" };
                format!("Kafka writes the {what} marker to {}", partition_name(partition))
            }
            Step::TimeOut(_) => "Kafka ends a transaction that was open for too long".to_owned(),
            Step::LateEnd(number) => {
                let what = if before.kafka.late[number].commit { "commit" } else { "abort" };
                format!("the late copy of the {what} arrives, and ends the transaction that is open now")
            }
            Step::Compact(row) => format!("Kafka compacts {} away", self.row_name(row)),
        }
    }

    fn on_etcd(&self, state: &State, w: usize) -> String {
        let on = if self.bounds.etcd_faults > 0 {
            format!(" (at {})", etcd_name(state.workers[w].etcd))
        } else {
            String::new()
        };
        format!("{}{on}", worker_name(w as u8))
    }

    fn outgoing_name(&self, outgoing: &Outgoing) -> String {
        match outgoing.partition {
            PROGRESS => self.machine.with(outgoing.value, record_name),
            _ => self.row_name(outgoing.value),
        }
    }

    fn read_name(&self, position: Option<u16>) -> String {
        match position {
            None => "there is none".to_owned(),
            Some(number) => self.machine.with(number, |record| {
                let position = record.position.as_ref().map_or(String::new(), postgres::name_of);
                format!("{position}, term {}", record.term.map_or(0, |term| term.0))
            }),
        }
    }

    /// The rows of transactions that the position has not come to.
    fn beyond(&self, position: Option<u16>) -> u32 {
        let lsn = position.and_then(|number| self.machine.with(number, |record| record.position.map(|at| at.lsn)));
        let done = postgres::transactions_up_to(lsn.unwrap_or_default());
        let rows = self.machine.postgres.rows.iter().enumerate();
        rows.filter(|(_, row)| row.transaction >= done).fold(0, |rows, (number, _)| rows | 1 << number)
    }

    fn rows_name(&self, rows: u32) -> String {
        let names: Vec<_> = (0..32).filter(|row| rows & 1 << row != 0).map(|row| self.row_name(row)).collect();
        if names.is_empty() { "no row".to_owned() } else { names.join(", ") }
    }
}

/// Whose session the step has ended without its knowing.
fn fenced(before: &State, after: &State, step: Step) -> String {
    let other = match step {
        Step::Init(w) => 1 - w,
        Step::TimeOut(_) => (0..2).find(|w| after.workers[*w].session.is_none()).unwrap_or_default(),
        _ => return String::new(),
    };
    match (&before.workers[other].session, &after.workers[other].session) {
        (Some(_), None) => format!("; {} is refused from here on", actor(before, other)),
        _ => String::new(),
    }
}

fn partition_changed(partition: &Partition, before: &State, place: usize) -> bool {
    let was = &before.kafka.partitions[place];
    partition.visible != was.visible || partition.open != was.open
}

fn actor(state: &State, w: usize) -> String {
    match &state.workers[w].session {
        Some(session) => format!("{} ({})", worker_name(w as u8), session_name(session.name)),
        None => worker_name(w as u8),
    }
}

fn partition_name(place: usize) -> String {
    if place == PROGRESS { "progress".to_owned() } else { format!("data-{}", place - 1) }
}

fn record_name(record: &ProgressRecord) -> String {
    let kind = match record.record_type {
        RecordType::Genesis => "genesis",
        RecordType::Claim => "claim",
        RecordType::Open => "open",
        RecordType::Close => "close",
        RecordType::Divergence => "divergence",
        RecordType::Accept => "accept",
    };
    let mut name = format!("{kind} {}.{}", record.session, record.number);
    if let Some(position) = &record.position {
        let _ = write!(name, " {}", postgres::name_of(position));
    }
    if let (RecordType::Claim, Some(term)) = (record.record_type, record.term) {
        let _ = write!(name, " term {}", term.0);
    }
    if let Some(torn) = &record.torn {
        let _ = write!(name, " torn {}.{}", torn.session, torn.number);
    }
    name
}
