//! Listens to the holder: this worker's own connection to its stream of state. That it ends is the quickest sign there is.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use pgbaton_core::{Input, Saying};
use rustls::ClientConfig;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::renewal::Renewed;
use crate::tls::{HttpTls, WayError, connect};

/// The first connection may take this long.
const CONNECT: Duration = Duration::from_secs(1);
/// A holder whose stream ended has this long to answer.
const ANSWER: Duration = Duration::from_millis(250);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(250);
/// One event is a status document; a line longer than this is none.
const LONGEST_EVENT: usize = 8 << 20;

/// Whom to listen to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// Where it answers.
    pub url: String,
    /// Its tenure: the mod revision of the holder key.
    pub revision: i64,
}

/// Tells what the holder says of its tenure, and when it is not heard any more, until `tell` answers false.
pub async fn follow(
    mut whom: watch::Receiver<Option<Followed>>,
    pipeline: String,
    tls: Renewed<HttpTls>,
    tell: impl Fn(Input) -> bool,
) {
    loop {
        let followed = whom.borrow_and_update().clone();
        let listening = async {
            match &followed {
                Some(followed) => listen(followed, &pipeline, &tls, &tell).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = listening => return,
            changed = whom.changed() => if changed.is_err() { return },
        }
    }
}

/// Ends when nobody listens to us any more.
async fn listen(followed: &Followed, pipeline: &str, tls: &Renewed<HttpTls>, tell: &impl Fn(Input) -> bool) {
    let revision = followed.revision;
    let mut had = false;
    let mut warned = false;
    loop {
        // If the holder answers a new connection, it is there.
        let limit = if had { ANSWER } else { CONNECT };
        match timeout(limit, Stream::open(&followed.url, &tls.get().peers)).await {
            Ok(Ok(mut stream)) => {
                had = true;
                warned = false;
                while let Some(status) = stream.next().await {
                    if !tell(Input::HolderHeard { revision, saying: saying(&status, pipeline, revision) }) {
                        return;
                    }
                }
            }
            failed => {
                if let Ok(Err(WayError::Untrusted(error))) = failed
                    && !std::mem::replace(&mut warned, true)
                {
                    let fix = "the holder's certificate has to be for the host in its http.advertise, of an authority in our http.ca_file";
                    warn!(url = followed.url, %error, fix, "the holder cannot be listened to");
                }
                if had && !tell(Input::HolderUnheard { revision }) {
                    return;
                }
                sleep(AGAIN).await;
            }
        }
    }
}

/// What the document says of the tenure.
fn saying(status: &Status, pipeline: &str, revision: i64) -> Saying {
    let Some(pipeline) = status.pipelines.get(pipeline) else { return Saying::NotTrying };
    let holds = pipeline.lease.as_ref().is_some_and(|lease| lease.revision == revision);
    match pipeline.state.as_str() {
        "stream" if holds => Saying::Streaming,
        "drain" | "cooldown" | "quarantine" => Saying::NotTrying,
        _ if holds => Saying::Trying,
        _ => Saying::NotTrying,
    }
}

#[derive(Deserialize)]
struct Status {
    pipelines: BTreeMap<String, Pipeline>,
}

#[derive(Deserialize)]
struct Pipeline {
    state: String,
    lease: Option<Lease>,
}

#[derive(Deserialize)]
struct Lease {
    revision: i64,
}

/// An open stream of events. Its connection ends with it.
struct Stream {
    body: Incoming,
    received: Vec<u8>,
    connection: AbortHandle,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Stream {
    /// Fails where nobody answers, or not with events.
    async fn open(url: &str, tls: &Arc<ClientConfig>) -> Result<Stream, WayError> {
        let url: Uri = url.parse().map_err(WayError::of)?;
        let way = connect(&url, tls).await?;
        let (mut sender, connection) =
            http1::handshake::<_, Empty<Bytes>>(TokioIo::new(way)).await.map_err(WayError::of)?;
        let connection = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        let host = url.authority().map_or("", |authority| authority.as_str());
        let request = Request::get("/events").header(header::HOST, host).body(Empty::new()).map_err(WayError::of)?;
        match sender.send_request(request).await {
            Ok(response) if response.status() == StatusCode::OK => {
                Ok(Stream { body: response.into_body(), received: Vec::new(), connection })
            }
            Ok(response) => {
                connection.abort();
                Err(WayError::Unreachable(io::Error::other(format!("it answers {}", response.status()))))
            }
            Err(error) => {
                connection.abort();
                Err(WayError::of(error))
            }
        }
    }

    /// The next event; none when the stream has ended.
    async fn next(&mut self) -> Option<Status> {
        loop {
            while let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let Some(data) = line.strip_prefix(b"data:") else { continue };
                if let Ok(status) = serde_json::from_slice(data) {
                    return Some(status);
                }
            }
            if self.received.len() > LONGEST_EVENT {
                return None;
            }
            let frame = self.body.frame().await?.ok()?;
            if let Some(bytes) = frame.data_ref() {
                self.received.extend_from_slice(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> Status {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn only_the_lease_of_the_very_tenure_counts_as_trying() {
        let streaming = status(r#"{"pipelines": {"orders": {"state": "stream", "lease": {"revision": 7}}}}"#);
        assert_eq!(saying(&streaming, "orders", 7), Saying::Streaming);
        assert_eq!(saying(&streaming, "orders", 6), Saying::NotTrying);
        assert_eq!(saying(&streaming, "other", 7), Saying::NotTrying);
        let fencing = status(r#"{"pipelines": {"orders": {"state": "fence", "lease": {"revision": 7}}}}"#);
        assert_eq!(saying(&fencing, "orders", 7), Saying::Trying);
        let leaving = status(r#"{"pipelines": {"orders": {"state": "drain", "lease": {"revision": 7}}}}"#);
        assert_eq!(saying(&leaving, "orders", 7), Saying::NotTrying);
        let standby = status(r#"{"pipelines": {"orders": {"state": "standby", "lease": null}}}"#);
        assert_eq!(saying(&standby, "orders", 7), Saying::NotTrying);
    }
}
