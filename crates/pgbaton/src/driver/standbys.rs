//! Looks at the standbys of the server that a session reads, and holds back what they have not flushed.

use std::collections::VecDeque;
use std::time::Duration;

use pgbaton_core::{Barrier, Code, Failure, Flushed, Lsn, Moment, SystemIdentifier, Timeline};
use pgbaton_postgres::catalog::{self, Standbys, Waiting};
use pgbaton_postgres::{Conninfo, connect_client};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use super::eager::eagerly;
use super::failures;
use crate::clock::boottime;
use crate::renewal::Renewed;

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(100);
/// A look, and the connection that it may need, take no longer than this.
const LIMIT: Duration = Duration::from_secs(3);
/// While a connection hangs, another one is tried beside it after so long; and after one that was lost.
const EAGER: Duration = Duration::from_millis(500);
/// Standbys are always a little behind: waiting for them is told from here on.
pub const TOLD_AFTER: Duration = Duration::from_secs(1);

/// The barrier of one session. It looks for as long as it lives.
pub struct StandbyWatch {
    barrier: Barrier,
    /// Ends of the transactions that were read to their end and wait.
    ends: VecDeque<Lsn>,
    looks: watch::Receiver<Result<Flushed, Failure>>,
    holding_since: Option<Moment>,
    task: AbortHandle,
}

impl StandbyWatch {
    /// Begins at once. What is told of another server than the one that is read, or of its next timeline, does not count.
    pub fn start(waiting: Waiting, conninfo: Renewed<Conninfo>, read: (SystemIdentifier, Timeline)) -> Self {
        let (tell, looks) = watch::channel(Err(waits("they were not looked at yet".to_owned())));
        let task = tokio::spawn(async move {
            let mut client = None;
            loop {
                let look = timeout(LIMIT, look(&mut client, &conninfo, waiting)).await;
                let is_of_it = |seen: &Standbys| {
                    (SystemIdentifier(seen.system_identifier), seen.timeline) == (read.0, Some(read.1))
                };
                let (told, is_lost) = match look {
                    Ok(Ok(seen)) if is_of_it(&seen) => (flushed(&seen, waiting), false),
                    Ok(Ok(_)) => (
                        Err(waits("the server that tells of its standbys is not the one that is read".to_owned())),
                        true,
                    ),
                    Ok(Err(failure)) => (Err(failure), true),
                    Err(_) => (Err(waits(format!("the primary did not tell within {} s", LIMIT.as_secs()))), true),
                };
                if tell.send(told).is_err() {
                    return;
                }
                if is_lost {
                    // Another connection may find the server that is read.
                    client = None;
                    sleep(EAGER).await;
                } else {
                    sleep(PERIOD).await;
                }
            }
        });
        let (barrier, ends) = (Barrier::default(), VecDeque::new());
        StandbyWatch { barrier, ends, looks, holding_since: None, task: task.abort_handle() }
    }

    /// A transaction was read to its end.
    pub fn read_to(&mut self, end: Lsn) {
        self.ends.push_back(end);
    }

    /// The first of those that were read to their end does not wait any more.
    pub fn passed(&mut self) {
        self.ends.pop_front();
    }

    /// Whether the next transaction, whose commit record begins there, has to wait.
    pub fn holds(&self, final_lsn: Lsn) -> bool {
        // The next one to end is the next one that begins.
        !self.barrier.lets(final_lsn, self.ends.front().copied())
    }

    /// Takes what was seen last.
    pub fn look(&mut self) {
        if let Ok(flushed) = &*self.looks.borrow_and_update() {
            self.barrier.seen(*flushed);
        }
    }

    /// Whether something waits now.
    pub fn holding(&mut self, holds: bool) {
        self.holding_since = self.holding_since.or_else(|| Some(boottime())).filter(|_| holds);
    }

    /// Returns when something new was seen.
    pub async fn changed(&mut self) {
        if self.looks.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Why nothing is published, if that has lasted.
    pub fn reason(&self) -> Option<(Code, String)> {
        let lasting = self.holding_since.is_some_and(|since| boottime().since(since) >= TOLD_AFTER);
        lasting.then(|| match &*self.looks.borrow() {
            Err(failure) => (failure.code, failure.detail.clone()),
            Ok(Flushed { insert, by_all }) => {
                let behind = insert.bytes_since(*by_all);
                (
                    Code::BarrierWait,
                    format!("the standbys have flushed up to {by_all}, {behind} bytes behind the primary"),
                )
            }
        })
    }
}

impl Drop for StandbyWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn look(
    client: &mut Option<Client>,
    conninfo: &Renewed<Conninfo>,
    waiting: Waiting,
) -> Result<Standbys, Failure> {
    let client = match client {
        Some(client) => client,
        None => {
            let conninfo = conninfo.get();
            let opened = eagerly(EAGER, || connect_client(&conninfo, "pgbaton", Some(LIMIT))).await;
            // Its task ends with the client.
            let (opened, _task) = opened.map_err(|error| failures::connect(&error))?;
            client.insert(opened)
        }
    };
    catalog::standbys(&mut &*client, waiting).await.map_err(|error| failures::query(&error))
}

fn flushed(seen: &Standbys, waiting: Waiting) -> Result<Flushed, Failure> {
    if seen.hidden {
        let detail =
            "standby_barrier looks at pg_stat_replication, which this role may not read; GRANT pg_monitor TO it";
        return Err(failures::passing(Code::PermissionDenied, detail.to_owned()));
    }
    match (seen.insert_lsn.zip(seen.flushed), waiting) {
        (Some((insert, by_all)), _) => Ok(Flushed { insert, by_all }),
        (None, Waiting::ForSynchronous) => {
            Err(waits("no standby is synchronous: see synchronous_standby_names".to_owned()))
        }
        (None, Waiting::ForAll) => Err(waits("no standby streams".to_owned())),
    }
}

fn waits(detail: String) -> Failure {
    failures::passing(Code::BarrierWait, detail)
}
