//! `GET /events`: the status document, once at the start, at every change and at least every half second.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Extension,
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::stream;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep_until, timeout_at},
};

use super::{App, Problem, Shared, server::Connection};

/// Peers take silence of half a second for a sign; this leaves them some for the way.
const BEAT: Duration = Duration::from_millis(400);
/// A driver that publishes a thousand times a second is told of twenty times.
const LEAST_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn events(State(shared): App, Extension(connection): Extension<Connection>) -> Response {
    let Ok(permit) = Arc::clone(&shared.streams).try_acquire_owned() else {
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", "too many event streams are open")
            .fix("close some, or ask /status from time to time")
            .into_response();
    };
    connection.streams.store(true, Ordering::Relaxed);
    let changes = shared.service.board.subscribe();
    let listener = Listener { shared, changes, last: None, connection, _permit: permit };
    Sse::new(stream::unfold(listener, |mut listener| async move { Some((listener.next().await, listener)) }))
        .into_response()
}

struct Listener {
    shared: Arc<Shared>,
    changes: watch::Receiver<u64>,
    last: Option<Instant>,
    connection: Connection,
    _permit: OwnedSemaphorePermit,
}

impl Listener {
    async fn next(&mut self) -> Result<Event, Infallible> {
        if let Some(last) = self.last {
            sleep_until(last + LEAST_PAUSE).await;
            // The board outlives every listener, so that an error cannot be; the time-out is the beat.
            let _ = timeout_at(last + BEAT, self.changes.changed()).await;
        }
        self.last = Some(Instant::now());
        self.changes.mark_unchanged();
        let status = serde_json::to_string(&self.shared.service.board.status());
        Ok(Event::default().data(status.expect("a status of strings and numbers always serialises")))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.connection.streams.store(false, Ordering::Relaxed);
    }
}
