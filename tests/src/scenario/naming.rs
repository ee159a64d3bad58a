//! A fault is named by whom it strikes: by its code, in the status and in the metrics alike.

use std::time::{Duration, Instant};

use super::Play;
use crate::check::staged::Named;
use crate::http;

const ASK: Duration = Duration::from_millis(200);
const ANSWER: Duration = Duration::from_secs(1);

impl Play {
    /// Waits until each of these workers of the pipeline under load gives one of these codes as a reason, for so long at most, and
    /// notes what each said.
    pub(super) async fn is_named(&mut self, fault: &str, workers: &[String], codes: &[&str], limit: Duration) {
        let (target, end) = (self.stage.target().clone(), Instant::now() + limit);
        for worker in target.workers.iter().filter(|(name, _)| workers.contains(name)) {
            let left = end.saturating_duration_since(Instant::now());
            if let Some(named) = any(std::slice::from_ref(worker), fault, &target.pipeline, codes, left).await {
                self.fact(&format!("{}_said", named.worker), &named.said);
                self.stage.note(|staged| staged.named.push(named));
            }
        }
    }
}

/// Waits until some of these workers gives one of these codes for a pipeline, for so long at most; what that one said, or the first
/// of them said last.
pub(super) async fn any(
    workers: &[(String, String)],
    fault: &str,
    pipeline: &str,
    codes: &[&str],
    limit: Duration,
) -> Option<Named> {
    let end = Instant::now() + limit;
    loop {
        let mut last = None;
        for (worker, url) in workers {
            let named = ask(fault, worker, url, pipeline, codes).await;
            if named.metric {
                return Some(named);
            }
            last.get_or_insert(named);
        }
        if Instant::now() >= end {
            return last;
        }
        tokio::time::sleep(ASK).await;
    }
}

/// What a worker says now, as the reason or as the gap of a pipeline, and whether its metrics say the same.
async fn ask(fault: &str, worker: &str, url: &str, pipeline: &str, codes: &[&str]) -> Named {
    let status = http::get(&format!("{url}/status"), ANSWER).await.map(|answer| answer.json()).unwrap_or_default();
    let status = &status["pipelines"][pipeline];
    let reasons = status["reasons"].as_array().into_iter().flatten().map(|reason| ("pgbaton_reason", &reason["code"]));
    let said = reasons
        .chain([("pgbaton_gap", &status["gap"]["code"])])
        .find_map(|(metric, code)| Some((metric, code.as_str().filter(|code| codes.contains(code))?)));
    let metric = match said {
        Some((metric, code)) => stands(url, metric, pipeline, code).await,
        None => false,
    };
    Named {
        fault: fault.into(),
        worker: worker.into(),
        wanted: codes.iter().map(|code| (*code).into()).collect(),
        said: said.map(|(_, code)| code.to_owned()),
        metric,
    }
}

/// Whether a metric of the pipeline with this code stands at 1.
async fn stands(url: &str, metric: &str, pipeline: &str, code: &str) -> bool {
    let metrics = http::get(&format!("{url}/metrics"), ANSWER).await.map(|answer| answer.body).unwrap_or_default();
    let labels = [format!("pipeline=\"{pipeline}\""), format!("code=\"{code}\"")];
    metrics
        .lines()
        .any(|line| line.starts_with(metric) && labels.iter().all(|label| line.contains(label)) && line.ends_with(" 1"))
}
