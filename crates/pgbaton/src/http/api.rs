//! The unsafe methods: who may ask, and what is passed on to the drivers.

use std::time::Duration;

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{FromRequest, Path, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use subtle::ConstantTimeEq;
use tokio::{sync::oneshot, time::timeout};

use super::{Answer, App, Command, Problem, Service, probe::unknown_pipeline, server::Connection};
use crate::{config::VerifyClient, secret::Secret};

/// A body that takes longer to arrive is not a command.
const BODY_TIME: Duration = Duration::from_secs(2);
/// A driver answers at its next turn.
const ANSWER_TIME: Duration = Duration::from_secs(5);

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Handover {
    to: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Nothing {}

pub(super) async fn handover(
    app: App,
    connection: Extension<Connection>,
    pipeline: Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    command(app, connection, pipeline, request, |Handover { to }, answer| Command::Handover { to, answer }).await
}

pub(super) async fn pause(
    app: App,
    connection: Extension<Connection>,
    pipeline: Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    command(app, connection, pipeline, request, |Nothing {}, answer| Command::Pause(answer)).await
}

pub(super) async fn resume(
    app: App,
    connection: Extension<Connection>,
    pipeline: Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    command(app, connection, pipeline, request, |Nothing {}, answer| Command::Resume(answer)).await
}

pub(super) async fn accept_gap(
    app: App,
    connection: Extension<Connection>,
    pipeline: Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    command(app, connection, pipeline, request, |Nothing {}, answer| Command::AcceptGap(answer)).await
}

async fn command<T: Default + serde::de::DeserializeOwned>(
    State(shared): App,
    Extension(connection): Extension<Connection>,
    Path(pipeline): Path<String>,
    request: Request,
    make: impl FnOnce(T, Answer) -> Command,
) -> Result<Response, Problem> {
    let service = &shared.service;
    authorise(service, &connection, request.headers())?;
    let Some(commands) = service.commands.get(&pipeline) else {
        return Err(unknown_pipeline(&service.board, &pipeline));
    };
    let body = body(request).await?;
    let (answer, answered) = oneshot::channel();
    let silent = |what: &str| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_answer", what).fix("look at /status and try again")
    };
    commands.try_send(make(body, answer)).map_err(|_| silent("the pipeline takes no commands now"))?;
    match timeout(ANSWER_TIME, answered).await {
        Ok(Ok(Ok(()))) => Ok((StatusCode::ACCEPTED, Json(service.board.status())).into_response()),
        Ok(Ok(Err(refused))) => Ok((StatusCode::CONFLICT, Json(refused)).into_response()),
        Ok(Err(_)) | Err(_) => Err(silent("the pipeline did not answer in time")),
    }
}

async fn body<T: Default + serde::de::DeserializeOwned>(request: Request) -> Result<T, Problem> {
    let bad = |what: String| {
        Problem::new(StatusCode::BAD_REQUEST, "bad_request", what)
            .fix("send {}; a hand-over also takes {\"to\": \"WORKER\"}")
    };
    let bytes = timeout(BODY_TIME, Bytes::from_request(request, &())).await;
    match bytes {
        Ok(Ok(bytes)) if bytes.is_empty() => Ok(T::default()),
        Ok(Ok(bytes)) => {
            serde_json::from_slice(&bytes).map_err(|error| bad(format!("the body is not understood: {error}")))
        }
        Ok(Err(error)) => Err(bad(error.body_text())),
        Err(_) => Err(bad("the body did not arrive in time".to_owned())),
    }
}

/// Everybody with the token, and with a certificate where those are asked for; where neither is, this machine only, and no
/// web page that a browser here has open.
fn authorise(service: &Service, connection: &Connection, headers: &HeaderMap) -> Result<(), Problem> {
    let forbidden = |what: &str, fix: &str| Problem::new(StatusCode::FORBIDDEN, "forbidden", what).fix(fix);
    let by_certificate = service.verify_client != VerifyClient::None;
    if by_certificate && !connection.certified {
        return Err(forbidden("this needs a certificate", "show one that http.client_ca_file has signed"));
    }
    let Some(file) = &service.token_file else {
        if !by_certificate && !connection.peer.ip().to_canonical().is_loopback() {
            return Err(forbidden("without a token this is answered on loopback only", "set http.token_file"));
        }
        if headers.contains_key(header::ORIGIN) {
            return Err(forbidden("without a token web pages are not answered", "set http.token_file"));
        }
        return Ok(());
    };
    // Read anew each time: a changed token counts at once.
    let token = Secret::read(file).map_err(|error| {
        tracing::error!(file = %file.display(), %error, "the token cannot be read, so that every command is refused");
        forbidden("the token cannot be read", "see the worker's log")
    })?;
    let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let Some(given) = given.and_then(|value| value.strip_prefix(b"Bearer ")) else {
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "this needs the token")
            .fix("send Authorization: Bearer TOKEN"));
    };
    match bool::from(given.ct_eq(token.expose().as_bytes())) {
        true => Ok(()),
        false => Err(forbidden("this is not the token", "send the content of http.token_file")),
    }
}
