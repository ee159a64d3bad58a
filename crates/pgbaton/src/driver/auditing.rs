//! Reads the topics while the worker stands by: a witness of what another process writes. It decides nothing, and leaves at
//! once when the worker has something better to do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_core::audit::{Delivery, Fault, Place, Rule};
use pgbaton_sinks::kafka::{KafkaAudit, KafkaTarget};
use tokio::sync::watch;
use tracing::{error, warn};

use crate::clock::Timestamp;
use crate::coordination::{Etcd, WorkerValue};
use crate::metrics::Meters;
use crate::renewal::Renewed;
use crate::status::Audit;

/// Between two rounds.
const PAUSE: Duration = Duration::from_secs(1);
/// So many are logged and told apart; whoever has more has read enough.
const MOST: usize = 1000;

/// The witness of one pipeline.
pub struct Auditor {
    /// The pipeline's name.
    pub pipeline: String,
    /// Where its topics are.
    pub target: Renewed<KafkaTarget>,
    /// Where the checkpoint is, if that is the progress: where delivery is at least once.
    pub checkpoint: Option<Arc<Etcd>>,
    /// Where violations are counted.
    pub meters: Meters,
    /// What was found, and where it is told.
    pub told: watch::Sender<Audit>,
}

impl Auditor {
    /// Runs for as long as `own` tells of the worker.
    pub async fn run(self, mut own: watch::Receiver<WorkerValue>) {
        let mut known = BTreeSet::new();
        while own.wait_for(|own| own.state == "standby").await.is_ok() {
            // The audit goes with its round.
            tokio::select! {
                biased;
                _ = own.wait_for(|own| own.state != "standby") => {}
                () = self.witness(&mut known) => {}
            }
        }
    }

    /// Round after round. Each time as a standby begins at the end of the topics, and may find again what is known.
    async fn witness(&self, known: &mut BTreeSet<(Rule, Place)>) {
        let target = self.target.get();
        let target = KafkaTarget { client_id: format!("{}-audit", target.client_id), ..KafkaTarget::clone(&target) };
        let delivery = if self.checkpoint.is_some() { Delivery::AtLeastOnce } else { Delivery::ExactlyOnce };
        let mut audit = match KafkaAudit::of_what_comes(&target, delivery) {
            Ok(audit) => audit,
            // Settings that cannot be used are refused long before.
            Err(fault) => return warn!(pipeline = self.pipeline, %fault, "cannot audit the topics"),
        };
        let mut last_fault = None;
        loop {
            let began = Timestamp::now();
            match self.round(&mut audit).await {
                Ok(faults) => {
                    last_fault = None;
                    let new = faults.into_iter().filter(|Fault { rule, place, .. }| {
                        known.len() >= MOST || known.insert((*rule, place.clone()))
                    });
                    self.tell(new, &audit, began);
                }
                Err(text) => {
                    if last_fault.as_ref() != Some(&text) {
                        warn!(pipeline = self.pipeline, fault = text, "the topics cannot be audited");
                    }
                    last_fault = Some(text);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// At least once there is nothing to go by before the first checkpoint.
    async fn round(&self, audit: &mut KafkaAudit) -> Result<Vec<Fault>, String> {
        let Some(etcd) = &self.checkpoint else { return audit.round(None).await.map_err(|fault| fault.to_string()) };
        let kept = etcd.checkpoint(&self.target.get().topic_prefix).await.map_err(|error| error.to_string())?;
        match kept.record {
            Some(record) => audit.round(Some(record)).await.map_err(|fault| fault.to_string()),
            None => Ok(Vec::new()),
        }
    }

    fn tell(&self, faults: impl Iterator<Item = Fault>, audit: &KafkaAudit, began: Timestamp) {
        self.told.send_modify(|told| {
            for Fault { rule, place, text } in faults {
                if told.violations < MOST as u64 {
                    let (rule, place) = (rule.as_str(), place.to_string());
                    error!(pipeline = self.pipeline, rule, place, text, "the topics are not sound");
                }
                self.meters.violation(rule);
                told.violations += 1;
                told.first.get_or_insert_with(|| format!("{}: {place}: {text}", rule.as_str()));
            }
            told.judged_until = Some(began);
            told.progress_offset = audit.progress_offset();
            told.records = audit.looked().records;
        });
    }
}
