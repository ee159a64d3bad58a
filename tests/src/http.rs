//! The little HTTP that the lab speaks: one request, one answer, a limit over all of it.
//!
//! HTTP/1.0 on purpose: the answer ends where the connection does, so there is nothing to parse but the head.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: String,
}

impl Answer {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// `GET url`; `None` where no whole answer came within `limit`. Only `http://host:port/path`.
pub async fn get(url: &str, limit: Duration) -> Option<Answer> {
    request("GET", url, "", limit).await
}

/// Sends a request with a JSON body; as [`get`] otherwise.
pub async fn request(method: &str, url: &str, body: &str, limit: Duration) -> Option<Answer> {
    tokio::time::timeout(limit, exchange(method, url, body)).await.ok().flatten()
}

async fn exchange(method: &str, url: &str, body: &str) -> Option<Answer> {
    let (host, path) = url.strip_prefix("http://")?.split_once('/').unwrap_or((url.strip_prefix("http://")?, ""));
    let mut stream = TcpStream::connect(host).await.ok()?;
    let head = format!(
        "{method} /{path} HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some(Answer { status: head.split(' ').nth(1)?.parse().ok()?, body: body.into() })
}
