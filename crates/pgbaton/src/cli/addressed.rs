//! One pipeline of a running worker, as a command line names it.

use std::path::PathBuf;

use clap::Args;
use hyper::StatusCode;
use serde_json::Value;

use super::{
    FAILED, USAGE,
    client::{self, Client, Trust, Unanswered},
    status::ask,
};
use crate::secret::Secret;

/// Which worker, which of its pipelines, and by what right.
#[derive(Debug, Args)]
pub(super) struct Addressed {
    /// Any worker of the cluster, as in http://10.0.0.5:8080 or https://...
    #[arg(value_name = "URL")]
    url: String,
    /// Which pipeline; needed where the worker has several
    #[arg(long, value_name = "P")]
    pipeline: Option<String>,
    /// A file with the workers' token; without it only a worker on this machine obeys
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    trust: Trust,
}

/// What goes wrong, and with which exit code.
pub(super) struct Failure(pub u8, pub String);

impl From<Unanswered> for Failure {
    fn from(error: Unanswered) -> Self {
        let code = match error {
            Unanswered::NotAUrl(_) | Unanswered::File(_) => USAGE,
            _ => FAILED,
        };
        Failure(code, error.to_string())
    }
}

/// A pipeline that the worker has.
pub(super) struct Resolved {
    /// The worker's.
    pub url: String,
    pub pipeline: String,
    pub token: Option<Secret>,
    pub client: Client,
    /// The worker's status.
    pub status: Value,
}

impl Addressed {
    /// Asks the worker which pipelines it has.
    pub async fn resolve(&self) -> Result<Resolved, Failure> {
        let read = |file: &PathBuf| {
            Secret::read(file)
                .map_err(|error| Failure(USAGE, format!("read the token from {}: {error}", file.display())))
        };
        let token = self.token_file.as_ref().map(read).transpose()?;
        let url = client::normalised(&self.url)?;
        let client = self.trust.client()?;
        let (worker, status) = ask(&client, &url).await.map_err(|error| Failure(FAILED, error))?;
        let pipeline = match &self.pipeline {
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
        Ok(Resolved { url, pipeline, token, client, status })
    }
}

impl Resolved {
    /// What the worker says of the pipeline.
    pub fn view(&self) -> &Value {
        &self.status["pipelines"][&self.pipeline]
    }

    /// Gives an order to the worker at `url`. A refusal is an answer.
    pub async fn order(&self, url: &str, order: &str, body: &Value) -> Result<Result<Value, Refusal>, Failure> {
        let path = format!("/api/v1/pipelines/{}/{order}", self.pipeline);
        let answer = self.client.post(url, &path, self.token.as_ref(), body).await?;
        let text = |key: &str| answer.body[key].as_str().unwrap_or_default().to_owned();
        if answer.status == StatusCode::ACCEPTED {
            return Ok(Ok(answer.body));
        }
        let fix = Some(text("fix")).filter(|fix| !fix.is_empty()).map(|fix| format!("; {fix}")).unwrap_or_default();
        Ok(Err(Refusal {
            holder_url: answer.body["holder_url"].as_str().map(str::to_owned),
            text: format!("{url} refused: {} ({}){fix}", text("message"), text("code")),
            code: text("code"),
        }))
    }
}

/// Why a worker did not do what it was told.
pub(super) struct Refusal {
    pub code: String,
    pub text: String,
    /// Where the holder answers, if that is why.
    pub holder_url: Option<String>,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure(FAILED, refusal.text)
    }
}
