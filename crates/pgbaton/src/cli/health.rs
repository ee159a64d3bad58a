//! `pgbaton health`: one question to one worker, for container health checks.

use clap::Args;

use super::client::{self, Answer, Trust, Unanswered};
use super::{UNHEALTHY, USAGE, complain, say};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The worker to ask
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// What to ask: /health, or /livez, which a restart may be decided by
    #[arg(long, value_name = "PATH", default_value = "/health")]
    path: String,
    #[command(flatten)]
    trust: Trust,
}

pub(super) async fn run(Arguments { url, path, trust }: Arguments) -> u8 {
    match ask(&url, &path, &trust).await {
        Ok(Answer { status, body }) if status.is_success() => {
            say(format_args!("{path}: {}", body["status"].as_str().unwrap_or("ok")));
            0
        }
        Ok(Answer { status, body }) => {
            complain(format_args!("{path}: {}: {body}", status.as_u16()));
            UNHEALTHY
        }
        Err(error @ (Unanswered::NotAUrl(_) | Unanswered::File(_))) => {
            complain(error);
            USAGE
        }
        Err(error) => {
            complain(error);
            UNHEALTHY
        }
    }
}

async fn ask(url: &str, path: &str, trust: &Trust) -> Result<Answer, Unanswered> {
    trust.client()?.get(&client::normalised(url)?, path).await
}
