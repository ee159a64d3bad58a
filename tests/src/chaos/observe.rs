//! What the workers say about themselves during a run, four times a second, for the report's timeline.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::{JoinHandle, JoinSet};

use crate::http;
use crate::stage::Standing;
use crate::target::Target;

const PERIOD: Duration = Duration::from_millis(250);
const LIMIT: Duration = Duration::from_millis(200);

/// What one worker says at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// `role` of the pipeline.
    pub role: String,
    /// `state` of the pipeline.
    pub state: String,
    /// `term` of the pipeline.
    pub term: u64,
    /// `server.timeline` of the pipeline.
    pub timeline: u64,
    /// The code and the text of its `gap`.
    pub gap: Option<(String, String)>,
}

/// What all say that answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When.
    pub at: Instant,
    /// By worker.
    pub workers: BTreeMap<String, Said>,
}

impl Observation {
    /// The worker that says that it streams; of two the one with the greater term.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        let streams = self.workers.iter().filter(|(_, said)| said.role == "active");
        let (worker, said) = streams.max_by_key(|(_, said)| said.term)?;
        Some(Standing { worker: worker.clone(), term: said.term, timeline: said.timeline })
    }
}

/// Asks until it is stopped.
#[derive(Debug)]
pub struct Observer {
    seen: Arc<Mutex<Vec<Observation>>>,
    task: JoinHandle<()>,
}

impl Observer {
    /// Begins to ask.
    #[must_use]
    pub fn start(target: Target) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                let mut ticks = tokio::time::interval(PERIOD);
                loop {
                    ticks.tick().await;
                    let observation = look(&target).await;
                    seen.lock().expect("nobody panics holding it").push(observation);
                }
            }
        });
        Observer { seen, task }
    }

    /// All that was seen so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Observation> {
        self.seen.lock().expect("nobody panics holding it").clone()
    }

    /// Workers in quarantine as of the last look, with code and text.
    #[must_use]
    pub fn quarantined(&self) -> Vec<(String, String, String)> {
        let seen = self.seen.lock().expect("nobody panics holding it");
        let last = seen.last().into_iter().flat_map(|observation| &observation.workers);
        let halted = last.filter(|(_, said)| said.role == "quarantined");
        let gap = |said: &Said| said.gap.clone().unwrap_or_default();
        halted.map(|(worker, said)| (worker.clone(), gap(said).0, gap(said).1)).collect()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn look(target: &Target) -> Observation {
    let at = Instant::now();
    let mut asked = JoinSet::new();
    for (name, url) in &target.workers {
        let (name, url, pipeline) = (name.clone(), format!("{url}/status"), target.pipeline.clone());
        asked.spawn(async move {
            let answer = http::get(&url, LIMIT).await?;
            Some((name, said(&answer.json()["pipelines"][&pipeline])))
        });
    }
    Observation { at, workers: asked.join_all().await.into_iter().flatten().collect() }
}

fn said(status: &Value) -> Said {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let gap = &status["gap"];
    Said {
        role: text(&status["role"]),
        state: text(&status["state"]),
        term: status["term"].as_u64().unwrap_or(0),
        timeline: status["server"]["timeline"].as_u64().unwrap_or(0),
        gap: gap.is_object().then(|| (text(&gap["code"]), text(&gap["text"]))),
    }
}
