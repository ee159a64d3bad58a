//! The answers for probes, load balancers and people in a hurry: a status code, and why.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{App, Problem, Shared};
use crate::status::{Board, PipelineStatus, Reason, Role};

/// How long a loop that stood still gets to turn before it is said to be dead: a process that was stopped and
/// continued needs a moment, and a restart would only lengthen the pause.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn livez(State(shared): App) -> Response {
    let still = shared.service.board.still(PATIENCE).await;
    verdict(still.is_empty(), json!({"still": still}))
}

pub(super) async fn readyz(State(shared): App) -> Response {
    let board = &shared.service.board;
    let (still, unconfigured) = (board.still(PATIENCE).await, board.unconfigured());
    verdict(still.is_empty() && unconfigured.is_empty(), json!({"still": still, "unconfigured": unconfigured}))
}

pub(super) async fn health(State(shared): App) -> Response {
    let board = &shared.service.board;
    let still = board.still(PATIENCE).await;
    let pipelines: Vec<PipelineStatus> = board.pipelines().filter_map(|name| board.pipeline(name)).collect();
    let reasons: Vec<&Reason> = pipelines.iter().flat_map(|pipeline| &pipeline.reasons).collect();
    let status = match still.is_empty() && pipelines.iter().all(does_its_job) {
        true if reasons.is_empty() => "ok",
        true => "degraded",
        false => "failing",
    };
    let code = if status == "failing" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let role = worst_role(&pipelines).as_str();
    (code, Json(json!({"status": status, "role": role, "worker": board.worker(), "reasons": reasons}))).into_response()
}

fn does_its_job(pipeline: &PipelineStatus) -> bool {
    match pipeline.role {
        Role::Active => pipeline.healthy,
        Role::Standby => pipeline.healthy && pipeline.stands_by(),
        Role::Quarantined | Role::Starting => false,
    }
}

/// One word for several pipelines: the one that a person should look at first.
fn worst_role(pipelines: &[PipelineStatus]) -> Role {
    [Role::Quarantined, Role::Starting, Role::Active, Role::Standby]
        .into_iter()
        .find(|role| pipelines.iter().any(|pipeline| pipeline.role == *role))
        .unwrap_or(Role::Starting)
}

/// Without a pipeline's name: of every pipeline, so that it never claims more than is true.
pub(super) async fn active(State(shared): App) -> Response {
    all(&shared, "active", |pipeline| pipeline.role == Role::Active)
}

pub(super) async fn active_pipeline(State(shared): App, Path(name): Path<String>) -> Response {
    one(&shared.service.board, &name, "active", |pipeline| pipeline.role == Role::Active)
}

pub(super) async fn standby(State(shared): App) -> Response {
    all(&shared, "standby", PipelineStatus::stands_by)
}

pub(super) async fn standby_pipeline(State(shared): App, Path(name): Path<String>) -> Response {
    one(&shared.service.board, &name, "standby", PipelineStatus::stands_by)
}

fn all(shared: &Shared, question: &str, is: impl Fn(&PipelineStatus) -> bool) -> Response {
    let board = &shared.service.board;
    let answer = board.pipelines().all(|name| board.pipeline(name).is_some_and(|pipeline| is(&pipeline)));
    verdict(answer, json!({"worker": board.worker(), question: answer}))
}

fn one(board: &Board, name: &str, question: &str, is: impl Fn(&PipelineStatus) -> bool) -> Response {
    let Some(pipeline) = board.pipeline(name) else { return unknown_pipeline(board, name).into_response() };
    let answer = is(&pipeline);
    verdict(answer, json!({"worker": board.worker(), "pipeline": name, question: answer, "state": pipeline.state}))
}

pub(super) fn unknown_pipeline(board: &Board, name: &str) -> Problem {
    let known: Vec<&str> = board.pipelines().collect();
    Problem::new(StatusCode::NOT_FOUND, "unknown_pipeline", format!("this worker has no pipeline {name:?}"))
        .fix(format!("name one of: {}", known.join(", ")))
}

fn verdict(good: bool, body: serde_json::Value) -> Response {
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(body)).into_response()
}
