//! `pgbaton status`: every worker of a cluster, found through any of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::json;

use super::{
    FAILED, UNHEALTHY, USAGE,
    client::{self, Client, Trust},
    complain, say,
    table::table,
};

/// What we need of a worker's `/status`; it may hold more, and keys of a later version.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Worker {
    pub worker: String,
    #[serde(default)]
    pub pipelines: BTreeMap<String, Pipeline>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Pipeline {
    pub state: String,
    pub role: String,
    #[serde(default)]
    pub healthy: bool,
    #[serde(default)]
    pub reasons: Vec<Reason>,
    pub term: Option<u64>,
    #[serde(default)]
    pub peers: Vec<Peer>,
    pub position: Option<Place>,
    #[serde(default)]
    pub lag: Lag,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Reason {
    pub code: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Peer {
    pub worker: String,
    pub url: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Place {
    pub timeline: u32,
    pub lsn: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Lag {
    pub bytes: Option<u64>,
    pub seconds: Option<f64>,
}

/// One worker's answer, or why there is none.
pub(super) struct Found {
    pub url: String,
    /// Its name, as its peers know it.
    pub known_as: Option<String>,
    pub answer: Result<(Worker, serde_json::Value), String>,
}

/// Asks `urls`, and then the peers that they name, until nobody new is named.
pub(super) async fn find_all(client: &Client, urls: &[String]) -> Vec<Found> {
    let mut asked = BTreeSet::new();
    let mut found: Vec<Found> = Vec::new();
    let mut next: Vec<(String, Option<String>)> = urls.iter().map(|url| (url.clone(), None)).collect();
    while !next.is_empty() {
        let answers = join_all(next.into_iter().map(|(url, known_as)| async {
            let answer = ask(client, &url).await;
            Found { url, known_as, answer }
        }));
        let answers = answers.await;
        asked.extend(answers.iter().map(|found| found.url.clone()));
        found.extend(answers);
        let named = found.iter().filter_map(|found| found.answer.as_ref().ok());
        let peers = named.flat_map(|(worker, _)| worker.pipelines.values().flat_map(|pipeline| &pipeline.peers));
        let seen: BTreeSet<&str> = found
            .iter()
            .filter_map(|found| found.answer.as_ref().ok())
            .map(|(worker, _)| worker.worker.as_str())
            .collect();
        // By name too: a worker may be known by another URL than the one it was asked at.
        let new: BTreeMap<String, String> = peers
            .filter(|peer| !seen.contains(peer.worker.as_str()) && !asked.contains(peer.url.as_str()))
            .map(|peer| (peer.url.clone(), peer.worker.clone()))
            .collect();
        next = new.into_iter().map(|(url, worker)| (url, Some(worker))).collect();
    }
    found
}

/// Asks one worker.
pub(super) async fn ask(client: &Client, url: &str) -> Result<(Worker, serde_json::Value), String> {
    let answer = client.get(url, "/status").await.map_err(|error| error.to_string())?;
    let worker = serde_json::from_value(answer.body.clone())
        .map_err(|error| format!("{url} is not a pgbaton worker: status {}, {error}", answer.status))?;
    Ok((worker, answer.body))
}

pub(super) async fn status(urls: &[String], trust: &Trust, as_json: bool, watch: bool) -> u8 {
    let client = match trust.client() {
        Ok(client) => client,
        Err(error) => {
            complain(error);
            return USAGE;
        }
    };
    for url in urls {
        if let Err(error) = client::normalised(url) {
            complain(error);
            return USAGE;
        }
    }
    let urls: Vec<String> = urls.iter().filter_map(|url| client::normalised(url).ok()).collect();
    loop {
        let found = find_all(&client, &urls).await;
        let code = show(&found, as_json);
        if !watch {
            return code;
        }
        // Between two looks, not for something to happen.
        tokio::time::sleep(Duration::from_secs(1)).await;
        if !as_json {
            say("");
        }
    }
}

fn show(found: &[Found], as_json: bool) -> u8 {
    if as_json {
        let workers: Vec<_> = found
            .iter()
            .map(|found| match &found.answer {
                Ok((_, status)) => json!({"url": found.url, "reachable": true, "status": status}),
                Err(error) => json!({"url": found.url, "worker": found.known_as, "reachable": false, "error": error}),
            })
            .collect();
        say(json!({"healthy": verdict(found) == 0, "workers": workers}));
    } else {
        for found in found {
            if let Err(error) = &found.answer {
                complain(error);
            }
        }
        if found.iter().any(|found| found.answer.is_ok()) {
            say(table(&rows(found)));
        }
    }
    verdict(found)
}

fn verdict(found: &[Found]) -> u8 {
    let workers: Vec<&Worker> =
        found.iter().filter_map(|found| found.answer.as_ref().ok()).map(|(worker, _)| worker).collect();
    if workers.is_empty() {
        return FAILED;
    }
    let names: BTreeSet<&String> = workers.iter().flat_map(|worker| worker.pipelines.keys()).collect();
    let sound = names.into_iter().all(|name| {
        let views = || workers.iter().filter_map(|worker| worker.pipelines.get(name));
        views().any(|pipeline| pipeline.role == "active") && views().all(|pipeline| pipeline.role != "quarantined")
    });
    if sound { 0 } else { UNHEALTHY }
}

fn rows(found: &[Found]) -> Vec<Vec<String>> {
    let heading = ["WORKER", "PIPELINE", "ROLE", "STATE", "HEALTHY", "TERM", "POSITION", "LAG", "REASONS", "URL"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let dash = || "-".to_owned();
    for found in found {
        match &found.answer {
            Ok((worker, _)) => rows.extend(worker.pipelines.iter().map(|(name, pipeline)| {
                let reasons: Vec<&str> = pipeline.reasons.iter().map(|reason| reason.code.as_str()).collect();
                vec![
                    printable(&worker.worker),
                    printable(name),
                    printable(&pipeline.role),
                    printable(&pipeline.state),
                    if pipeline.healthy { "yes" } else { "no" }.to_owned(),
                    pipeline.term.map_or_else(dash, |term| term.to_string()),
                    pipeline
                        .position
                        .as_ref()
                        .map_or_else(dash, |at| printable(&format!("{}:{}", at.timeline, at.lsn))),
                    lag(&pipeline.lag),
                    if reasons.is_empty() { dash() } else { printable(&reasons.join(",")) },
                    found.url.clone(),
                ]
            })),
            Err(_) => {
                let name = found.known_as.as_deref().map_or_else(dash, printable);
                let mut row = vec![name, dash(), "unreachable".to_owned()];
                row.resize_with(heading.len() - 1, dash);
                row.push(found.url.clone());
                rows.push(row);
            }
        }
    }
    rows
}

fn lag(lag: &Lag) -> String {
    match (lag.bytes, lag.seconds) {
        (None, None) => "-".to_owned(),
        (Some(bytes), None) => format!("{bytes} B"),
        (None, Some(seconds)) => format!("{seconds:.1} s"),
        (Some(bytes), Some(seconds)) => format!("{bytes} B, {seconds:.1} s"),
    }
}

/// What another process said may not move the cursor of this terminal.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}
