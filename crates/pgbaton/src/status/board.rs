//! Where every driver publishes and every question is answered from. It decides nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use pgbaton_core::Moment;
use tokio::sync::watch;

use super::{Coordination, PipelineStatus, Reason, WorkerStatus};
use crate::clock::{Timestamp, boottime};
use crate::renewal::Scope;

/// A driver loop that has not turned for this long is not alive.
pub const STILL_AFTER: Duration = Duration::from_secs(10);

/// Where every driver publishes and every question is answered from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Board(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    worker: String,
    started_at: Timestamp,
    coordination: watch::Sender<Coordination>,
    pipelines: BTreeMap<String, Pipeline>,
    /// Of files that cannot be used.
    unusable_files: watch::Sender<Vec<(Scope, Reason)>>,
    /// Moves with every publication, whoever's.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Pipeline {
    status: watch::Sender<PipelineStatus>,
    /// When its driver loop turned last.
    turned: watch::Sender<Moment>,
    /// Whether the driver has published at all.
    configured: watch::Sender<bool>,
}

impl Board {
    /// A board for the pipelines of one worker, none of which has said anything.
    pub fn new<'p>(worker: &str, backend: &'static str, pipelines: impl IntoIterator<Item = &'p str>) -> Self {
        let pipeline = |name: &str| {
            let pipeline = Pipeline {
                status: watch::Sender::new(PipelineStatus::starting()),
                turned: watch::Sender::new(boottime()),
                configured: watch::Sender::new(false),
            };
            (name.to_owned(), pipeline)
        };
        Board(Arc::new(Inner {
            worker: worker.to_owned(),
            started_at: Timestamp::now(),
            coordination: watch::Sender::new(Coordination { backend, reachable: false, degraded_since: None }),
            pipelines: pipelines.into_iter().map(pipeline).collect(),
            unusable_files: watch::Sender::new(Vec::new()),
            changes: watch::Sender::new(0),
        }))
    }

    /// The driver's side of one pipeline; none if there is no such pipeline.
    pub fn publisher(&self, pipeline: &str) -> Option<Publisher> {
        let (name, _) = self.0.pipelines.get_key_value(pipeline)?;
        Some(Publisher { board: self.clone(), pipeline: name.clone() })
    }

    /// Says whether the store answers, and since when we go on without it.
    pub fn coordination(&self, reachable: bool, degraded_since: Option<Timestamp>) {
        let changed = self.0.coordination.send_if_modified(|coordination| {
            let now = Coordination { backend: coordination.backend, reachable, degraded_since };
            let changed = *coordination != now;
            *coordination = now;
            changed
        });
        if changed {
            self.changed();
        }
    }

    /// The worker's name.
    pub fn worker(&self) -> &str {
        &self.0.worker
    }

    /// The names of all pipelines.
    pub fn pipelines(&self) -> impl Iterator<Item = &str> {
        self.0.pipelines.keys().map(String::as_str)
    }

    /// Says which files of the configuration have changed and cannot be used. A reason that its pipeline gives itself goes
    /// before one of the same code.
    pub fn unusable_files(&self, reasons: Vec<(Scope, Reason)>) {
        let changed = self.0.unusable_files.send_if_modified(|current| {
            let changed = *current != reasons;
            *current = reasons;
            changed
        });
        if changed {
            self.changed();
        }
    }

    /// One pipeline as it is now.
    pub fn pipeline(&self, name: &str) -> Option<PipelineStatus> {
        let mut status = self.0.pipelines.get(name)?.status.borrow().clone().at(boottime());
        for (Scope(of), reason) in self.0.unusable_files.borrow().iter() {
            let concerns = of.as_ref().is_none_or(|of| of == name);
            if concerns && !status.reasons.iter().any(|known| known.code == reason.code) {
                status.reasons.push(reason.clone());
            }
        }
        Some(status)
    }

    /// Everything as it is now.
    pub fn status(&self) -> WorkerStatus {
        let pipelines = self.0.pipelines.keys().filter_map(|name| Some((name.clone(), self.pipeline(name)?)));
        WorkerStatus {
            worker: self.0.worker.clone(),
            version: env!("CARGO_PKG_VERSION"),
            started_at: self.0.started_at,
            coordination: self.0.coordination.borrow().clone(),
            pipelines: pipelines.collect(),
        }
    }

    /// Tells of every publication from now on.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// The pipelines whose driver loop stands still. A process that was stopped and continued finds all of them so;
    /// they get `patience` to turn once before they are named.
    pub async fn still(&self, patience: Duration) -> Vec<String> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut still = Vec::new();
        for (name, pipeline) in &self.0.pipelines {
            let mut turned = pipeline.turned.subscribe();
            let turns = turned.wait_for(|moment| boottime().since(*moment) <= STILL_AFTER);
            if tokio::time::timeout_at(deadline, turns).await.is_err() {
                still.push(name.clone());
            }
        }
        still
    }

    /// The pipelines whose driver has not published yet.
    pub fn unconfigured(&self) -> Vec<String> {
        let pipelines = self.0.pipelines.iter().filter(|(_, pipeline)| !*pipeline.configured.borrow());
        pipelines.map(|(name, _)| name.clone()).collect()
    }

    fn changed(&self) {
        self.0.changes.send_modify(|number| *number = number.wrapping_add(1));
    }
}

/// The driver's side of one pipeline.
#[derive(Debug, Clone)]
pub struct Publisher {
    board: Board,
    pipeline: String,
}

impl Publisher {
    /// Changes what is said of the pipeline. Also counts as a turn of the loop.
    pub fn publish(&self, change: impl FnOnce(&mut PipelineStatus)) {
        let pipeline = self.pipeline();
        pipeline.status.send_modify(change);
        pipeline.configured.send_replace(true);
        self.turned();
        self.board.changed();
    }

    /// The driver loop turns. To be called at least every few seconds; cheap enough for every turn.
    pub fn turned(&self) {
        self.pipeline().turned.send_replace(boottime());
    }

    /// What is said of the pipeline, as last published.
    pub fn status(&self) -> PipelineStatus {
        self.pipeline().status.borrow().clone()
    }

    fn pipeline(&self) -> &Pipeline {
        self.board.0.pipelines.get(&self.pipeline).expect("a publisher is only made for a pipeline of its board")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Role;

    #[test]
    fn an_active_worker_whose_time_is_up_is_not_active_before_its_driver_looked() {
        let board = Board::new("w", "etcd", ["orders"]);
        let publisher = board.publisher("orders").unwrap();
        let now = boottime();
        publisher.publish(|status| {
            status.role = Role::Active;
            status.healthy = true;
            status.active_until = Some(now + Duration::from_secs(60));
        });
        assert_eq!(board.pipeline("orders").unwrap().role, Role::Active);
        publisher.publish(|status| status.active_until = Some(now));
        let status = board.pipeline("orders").unwrap();
        assert_eq!((status.role, status.healthy, status.stands_by()), (Role::Standby, false, false));
        publisher.publish(|status| status.active_until = None);
        assert_eq!(board.pipeline("orders").unwrap().role, Role::Standby);
    }
}
