//! A client for the workers' own HTTP: one request per connection, plain HTTP, everything bounded in time.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::secret::Secret;

/// A worker answers within milliseconds, a hand-over's refusal within seconds.
const WHOLE_TIME: Duration = Duration::from_secs(8);
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// A status with hundreds of divergences is far below.
const GREATEST_ANSWER: usize = 8 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("{0:?} is not a worker's URL; give one like http://10.0.0.5:8080")]
    NotAUrl(String),
    #[error("{0:?}: https is not available in this version; give a worker's http:// URL")]
    Https(String),
    #[error("connect to {0}: {1}")]
    Connect(String, std::io::Error),
    #[error("{0} did not answer in time")]
    Silent(String),
    #[error("talk to {0}: {1}")]
    Broken(String, String),
    #[error("{0} is not a pgbaton worker: {1}")]
    NotAWorker(String, String),
}

/// An answer, whatever its status says.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub body: serde_json::Value,
}

/// Brings `10.0.0.5:8080` and `http://10.0.0.5:8080/` into one form.
pub(crate) fn normalised(url: &str) -> Result<String, Unanswered> {
    let text = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let parsed: Uri = text.parse().map_err(|_| Unanswered::NotAUrl(url.to_owned()))?;
    match (parsed.scheme_str(), parsed.authority()) {
        (Some("https"), _) => Err(Unanswered::Https(url.to_owned())),
        (Some("http"), Some(authority)) if !authority.as_str().contains('@') => Ok(format!("http://{authority}")),
        _ => Err(Unanswered::NotAUrl(url.to_owned())),
    }
}

/// `GET` of a JSON document.
pub(crate) async fn get(url: &str, path: &str) -> Result<Answer, Unanswered> {
    request(Method::GET, url, path, None, Vec::new()).await
}

/// `POST` of a JSON document.
pub(crate) async fn post(
    url: &str,
    path: &str,
    token: Option<&Secret>,
    body: &serde_json::Value,
) -> Result<Answer, Unanswered> {
    request(Method::POST, url, path, token, body.to_string().into_bytes()).await
}

async fn request(
    method: Method,
    url: &str,
    path: &str,
    token: Option<&Secret>,
    body: Vec<u8>,
) -> Result<Answer, Unanswered> {
    let url = normalised(url)?;
    let exchange = exchange(method, &url, path, token, body);
    timeout(WHOLE_TIME, exchange).await.unwrap_or_else(|_| Err(Unanswered::Silent(url.clone())))
}

async fn exchange(
    method: Method,
    url: &str,
    path: &str,
    token: Option<&Secret>,
    body: Vec<u8>,
) -> Result<Answer, Unanswered> {
    let broken = |error: &dyn std::fmt::Display| Unanswered::Broken(url.to_owned(), error.to_string());
    let authority = url.trim_start_matches("http://");
    let has_port = authority.parse::<hyper::http::uri::Authority>().is_ok_and(|authority| authority.port().is_some());
    let address = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let stream = timeout(CONNECT_TIME, TcpStream::connect(&address))
        .await
        .map_err(|_| Unanswered::Silent(url.to_owned()))?
        .map_err(|error| Unanswered::Connect(url.to_owned(), error))?;
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    let request = request
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| broken(&"the token has characters that no header may have"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        let body =
            Limited::new(response.into_body(), GREATEST_ANSWER).collect().await.map_err(|error| broken(&error))?;
        let body = serde_json::from_slice(&body.to_bytes())
            .map_err(|error| Unanswered::NotAWorker(url.to_owned(), format!("status {status}, {error}")))?;
        Ok(Answer { status, body })
    };
    tokio::pin!(talk, connection);
    // The connection moves the bytes; it may end before the answer has been taken from it.
    tokio::select! {
        answer = &mut talk => answer,
        ended = &mut connection => match ended {
            Ok(()) => talk.await,
            Err(error) => Err(broken(&error)),
        },
    }
}
