//! `pgbaton handover`: asks the holder to let go, and returns when the successor streams.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use hyper::StatusCode;
use serde_json::json;

use super::{
    FAILED, UNHEALTHY, USAGE,
    client::{self, Unanswered},
    complain, say,
    status::{ask, find_all},
};
use crate::secret::Secret;

/// A planned hand-over takes a second; one that has to wait for a lease a dozen.
const WHOLE_TIME: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct Request {
    /// Any worker of the cluster, as in http://10.0.0.5:8080
    #[arg(value_name = "URL")]
    url: String,
    /// Which pipeline; needed where the worker has several
    #[arg(long, value_name = "P")]
    pipeline: Option<String>,
    /// The worker that should stream; any that is able when not given
    #[arg(long, value_name = "WORKER")]
    to: Option<String>,
    /// A file with the workers' token; without it only a worker on this machine obeys
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The result as JSON
    #[arg(long)]
    json: bool,
}

/// What goes wrong, and with which exit code.
struct Failure(u8, String);

impl From<Unanswered> for Failure {
    fn from(error: Unanswered) -> Self {
        let code = match error {
            Unanswered::NotAUrl(_) | Unanswered::Https(_) => USAGE,
            _ => FAILED,
        };
        Failure(code, error.to_string())
    }
}

/// Who streams now, and who did before.
struct Done {
    pipeline: String,
    from: String,
    to: String,
    term: Option<u64>,
    took: Duration,
}

pub(super) async fn handover(request: Request) -> u8 {
    match attempt(&request).await {
        Ok(Done { pipeline, from, to, term, took }) => {
            let took_ms = took.as_millis() as u64;
            if request.json {
                say(json!({"pipeline": pipeline, "from": from, "to": to, "term": term, "took_ms": took_ms}));
            } else {
                let term = term.map(|term| format!(" at term {term}")).unwrap_or_default();
                say(format_args!("{to} streams {pipeline}{term}; {from} handed over in {took_ms} ms"));
            }
            match &request.to {
                Some(wanted) if *wanted != to => {
                    complain(format_args!("{to} took over, not {wanted}"));
                    FAILED
                }
                _ => 0,
            }
        }
        Err(Failure(code, text)) => {
            complain(text);
            code
        }
    }
}

async fn attempt(request: &Request) -> Result<Done, Failure> {
    let token = match &request.token_file {
        Some(file) => Some(
            Secret::read(file)
                .map_err(|error| Failure(USAGE, format!("read the token from {}: {error}", file.display())))?,
        ),
        None => None,
    };
    let url = client::normalised(&request.url)?;
    let (worker, _) = ask(&url).await.map_err(|error| Failure(FAILED, error))?;
    let pipeline = match &request.pipeline {
        Some(name) if worker.pipelines.contains_key(name) => name.clone(),
        Some(name) => return Err(Failure(USAGE, format!("{url} has no pipeline {name:?}"))),
        None if worker.pipelines.len() == 1 => worker.pipelines.keys().next().cloned().unwrap_or_default(),
        None => {
            let names: Vec<&str> = worker.pipelines.keys().map(String::as_str).collect();
            return Err(Failure(
                USAGE,
                format!("{url} has several pipelines; name one by --pipeline: {}", names.join(", ")),
            ));
        }
    };
    let asked_at = Instant::now();
    let (url, holder) = ask_holder(&url, &pipeline, request.to.as_deref(), token.as_ref()).await?;
    let (to, term) = successor(&url, &pipeline, &holder, asked_at).await?;
    Ok(Done { pipeline, from: holder, to, term, took: asked_at.elapsed() })
}

/// Sends the command to the holder, which the worker at `url` either is or names; gives its URL and name.
async fn ask_holder(
    url: &str,
    pipeline: &str,
    to: Option<&str>,
    token: Option<&Secret>,
) -> Result<(String, String), Failure> {
    let path = format!("/api/v1/pipelines/{pipeline}/handover");
    let body = to.map_or_else(|| json!({}), |to| json!({"to": to}));
    let mut url = url.to_owned();
    let mut followed = false;
    loop {
        let answer = client::post(&url, &path, token, &body).await?;
        let text = |key: &str| answer.body[key].as_str().unwrap_or_default().to_owned();
        if answer.status == StatusCode::ACCEPTED {
            return Ok((url, text("worker")));
        }
        match answer.body["holder_url"].as_str() {
            // Once: the holder may change under our hands, but two workers may not send us to and fro.
            Some(holder) if !followed && text("code") == "not_holder" => {
                followed = true;
                url = client::normalised(holder)?;
            }
            _ => {
                let fix =
                    Some(text("fix")).filter(|fix| !fix.is_empty()).map(|fix| format!("; {fix}")).unwrap_or_default();
                return Err(Failure(FAILED, format!("{url} refused: {} ({}){fix}", text("message"), text("code"))));
            }
        }
    }
}

/// Looks at all workers until one other than `holder` streams.
async fn successor(
    url: &str,
    pipeline: &str,
    holder: &str,
    asked_at: Instant,
) -> Result<(String, Option<u64>), Failure> {
    let mut urls = vec![url.to_owned()];
    while asked_at.elapsed() < WHOLE_TIME {
        let found = find_all(&urls).await;
        for found in &found {
            // Remembered: the old holder may be gone before its successor streams.
            if !urls.contains(&found.url) {
                urls.push(found.url.clone());
            }
            let Ok((worker, _)) = &found.answer else { continue };
            let view = worker.pipelines.get(pipeline);
            if let Some(view) =
                view.filter(|view| worker.worker != holder && view.role == "active" && view.state == "stream")
            {
                return Ok((worker.worker.clone(), view.term));
            }
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Err(Failure(
        UNHEALTHY,
        format!("{holder} let go, and nobody else streams {pipeline} after {} s", WHOLE_TIME.as_secs()),
    ))
}
