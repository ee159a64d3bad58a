//! `pgbaton handover`: asks the holder to let go, and returns when the successor streams.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::{
    FAILED, UNHEALTHY,
    addressed::{Addressed, Failure, Refusal, Resolved},
    client, complain, say,
    status::find_all,
};

/// A planned hand-over takes a second; one that has to wait for a lease a dozen.
const WHOLE_TIME: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct Request {
    #[command(flatten)]
    of: Addressed,
    /// The worker that should stream; any that is able when not given
    #[arg(long, value_name = "WORKER")]
    to: Option<String>,
    /// The result as JSON
    #[arg(long)]
    json: bool,
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
    let resolved = request.of.resolve().await?;
    let asked_at = Instant::now();
    let (url, holder, told) = ask_holder(&resolved, request.to.as_deref()).await?;
    let (to, term) = successor(&resolved, &url, &holder, &told, asked_at).await?;
    Ok(Done { pipeline: resolved.pipeline, from: holder, to, term, took: asked_at.elapsed() })
}

/// Sends the command to the holder, which the worker either is or names; gives its URL, its name, and what it answered.
async fn ask_holder(resolved: &Resolved, to: Option<&str>) -> Result<(String, String, Value), Failure> {
    let body = to.map_or_else(|| json!({}), |to| json!({"to": to}));
    let mut url = resolved.url.clone();
    let mut followed = false;
    loop {
        match resolved.order(&url, "handover", &body).await? {
            Ok(status) => return Ok((url, status["worker"].as_str().unwrap_or_default().to_owned(), status)),
            // Once: the holder may change under our hands, but two workers may not send us to and fro.
            Err(Refusal { code, holder_url: Some(holder), .. }) if !followed && code == "not_holder" => {
                followed = true;
                url = client::normalised(&holder)?;
            }
            Err(refusal) => return Err(refusal.into()),
        }
    }
}

/// Without etcd the holder knows no other worker; it sees another process on the slot.
fn is_read_by_another(now: &Value, before: &Value, pipeline: &str) -> bool {
    let reader = |status: &Value| status["pipelines"][pipeline]["slot"]["active_pid"].as_i64();
    now["coordination"]["backend"] == "none" && reader(now).is_some() && reader(now) != reader(before)
}

/// Looks at all workers until one other than `holder` streams.
async fn successor(
    resolved: &Resolved,
    url: &str,
    holder: &str,
    told: &Value,
    asked_at: Instant,
) -> Result<(String, Option<u64>), Failure> {
    let pipeline = &resolved.pipeline;
    let mut urls = vec![url.to_owned()];
    while asked_at.elapsed() < WHOLE_TIME {
        let found = find_all(&resolved.client, &urls).await;
        for found in &found {
            // Remembered: the old holder may be gone before its successor streams.
            if !urls.contains(&found.url) {
                urls.push(found.url.clone());
            }
            let Ok((worker, status)) = &found.answer else { continue };
            if worker.worker == holder && is_read_by_another(status, told, pipeline) {
                return Ok(("another worker".to_owned(), None));
            }
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
