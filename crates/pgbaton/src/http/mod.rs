//! What a worker answers to people, probes and peers. It reads the board and sends commands to the drivers; it decides
//! nothing, and runs on threads of its own so that neither a busy stream nor a flood of probes starves the other.

mod api;
mod command;
mod events;
mod probe;
mod server;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};

pub use command::{Answer, Command, Refused};
pub use server::{Bound, Server, bind};

use crate::{config::VerifyClient, metrics, renewal::Renewed, status::Board, tls::HttpTls};

/// The body of a command is a worker's name.
const GREATEST_BODY: usize = 4 << 10;

/// What the answers are made of.
pub struct Service {
    /// What there is to say.
    pub board: Board,
    /// Where each pipeline takes commands.
    pub commands: BTreeMap<String, mpsc::Sender<Command>>,
    /// The token that unsafe methods need; without it they are answered on loopback only, or for a client's certificate.
    pub token_file: Option<PathBuf>,
    /// What TLS is spoken with; without it, or where it has no side of a server, plain HTTP is.
    pub tls: Option<Renewed<HttpTls>>,
    /// Of whom `tls` asks a certificate.
    pub verify_client: VerifyClient,
    /// The counters.
    pub metrics: PrometheusHandle,
}

/// What every handler sees.
struct Shared {
    service: Service,
    /// One permit per open event stream: they stay, so they may not take all connections.
    streams: Arc<Semaphore>,
}

type App = State<Arc<Shared>>;

fn router(service: Service, most_streams: usize) -> Router {
    let shared = Arc::new(Shared { service, streams: Arc::new(Semaphore::new(most_streams)) });
    Router::new()
        .route("/livez", get(probe::livez))
        .route("/readyz", get(probe::readyz))
        .route("/health", get(probe::health))
        .route("/active", get(probe::active))
        .route("/active/{pipeline}", get(probe::active_pipeline))
        .route("/standby", get(probe::standby))
        .route("/standby/{pipeline}", get(probe::standby_pipeline))
        .route("/status", get(status))
        .route("/metrics", get(metrics_text))
        .route("/events", get(events::events))
        .route("/api/v1/pipelines/{pipeline}/handover", post(api::handover))
        .route("/api/v1/pipelines/{pipeline}/pause", post(api::pause))
        .route("/api/v1/pipelines/{pipeline}/resume", post(api::resume))
        .route("/api/v1/pipelines/{pipeline}/gap/accept", post(api::accept_gap))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path takes another method")
        })
        .layer(DefaultBodyLimit::max(GREATEST_BODY))
        .with_state(shared)
}

async fn status(State(shared): App) -> Response {
    Json(shared.service.board.status()).into_response()
}

async fn metrics_text(State(shared): App) -> Response {
    let text = metrics::gauges(&shared.service.board) + &shared.service.metrics.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// A refusal, as JSON.
#[derive(Debug, Serialize)]
struct Problem {
    #[serde(skip)]
    status: StatusCode,
    code: &'static str,
    message: String,
    fix: String,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Problem { status, code, message: message.into(), fix: String::new() }
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(&self)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        response
    }
}
