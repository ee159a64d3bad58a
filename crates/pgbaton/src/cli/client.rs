//! A client for the workers' own HTTP: one request per connection, with TLS where the URL says so, everything bounded in
//! time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::time::timeout;

use crate::config::Certificate;
use crate::secret::Secret;
use crate::tls::{self, UnusableFile, WayError, connect};

/// A worker answers within milliseconds, a hand-over's refusal within seconds.
const WHOLE_TIME: Duration = Duration::from_secs(8);
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// A status with hundreds of divergences is far below.
const GREATEST_ANSWER: usize = 8 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("{0:?} is not a worker's URL; give one like http://10.0.0.5:8080 or https://...")]
    NotAUrl(String),
    #[error("{0} (tls_failed); give a PEM file by --ca-file, --cert-file, --key-file")]
    File(#[from] UnusableFile),
    #[error(
        "TLS with {0}: {1} (tls_failed); --ca-file names the authority of its certificate, which has to be for the host in \
         the URL; --cert-file and --key-file are what it may ask for"
    )]
    Untrusted(String, std::io::Error),
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
        (Some(scheme @ ("http" | "https")), Some(authority)) if !authority.as_str().contains('@') => {
            Ok(format!("{scheme}://{authority}"))
        }
        _ => Err(Unanswered::NotAUrl(url.to_owned())),
    }
}

/// Whom to trust and what to show, where a worker's URL is https.
#[derive(Debug, Default, Args)]
pub(super) struct Trust {
    /// Who signs the workers' certificates, a PEM file [default: the system's authorities]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// A certificate to show, where workers ask for one, a PEM file
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// Its key, a PEM file
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
}

impl Trust {
    pub fn client(&self) -> Result<Client, Unanswered> {
        let both = self.cert_file.clone().zip(self.key_file.clone());
        let certificate = both.map(|(cert_file, key_file)| Certificate { cert_file, key_file });
        Ok(Client { tls: Arc::new(tls::client(self.ca_file.as_deref(), certificate.as_ref())?) })
    }
}

/// Asks.
#[derive(Clone)]
pub(crate) struct Client {
    tls: Arc<ClientConfig>,
}

impl Client {
    /// One that trusts whom the system trusts.
    pub fn plain() -> Result<Self, Unanswered> {
        Trust::default().client()
    }

    /// `GET` of a JSON document.
    pub async fn get(&self, url: &str, path: &str) -> Result<Answer, Unanswered> {
        self.request(Method::GET, url, path, None, Vec::new()).await
    }

    /// `POST` of a JSON document.
    pub async fn post(
        &self,
        url: &str,
        path: &str,
        token: Option<&Secret>,
        body: &serde_json::Value,
    ) -> Result<Answer, Unanswered> {
        self.request(Method::POST, url, path, token, body.to_string().into_bytes()).await
    }

    async fn request(
        &self,
        method: Method,
        url: &str,
        path: &str,
        token: Option<&Secret>,
        body: Vec<u8>,
    ) -> Result<Answer, Unanswered> {
        let url = normalised(url)?;
        let exchange = self.exchange(method, &url, path, token, body);
        timeout(WHOLE_TIME, exchange).await.unwrap_or_else(|_| Err(Unanswered::Silent(url.clone())))
    }

    async fn exchange(
        &self,
        method: Method,
        url: &str,
        path: &str,
        token: Option<&Secret>,
        body: Vec<u8>,
    ) -> Result<Answer, Unanswered> {
        let uri: Uri = url.parse().map_err(|_| Unanswered::NotAUrl(url.to_owned()))?;
        let way = timeout(CONNECT_TIME, connect(&uri, &self.tls)).await;
        let way = way.map_err(|_| Unanswered::Silent(url.to_owned()))?.map_err(|error| match error {
            WayError::Unreachable(error) => Unanswered::Connect(url.to_owned(), error),
            WayError::Untrusted(error) => Unanswered::Untrusted(url.to_owned(), error),
        })?;
        let broken = |error: hyper::Error| match WayError::of(error) {
            WayError::Untrusted(error) => Unanswered::Untrusted(url.to_owned(), error),
            WayError::Unreachable(error) => Unanswered::Broken(url.to_owned(), error.to_string()),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|_| {
            Unanswered::Broken(url.to_owned(), "the path or the token has characters that a request may not".to_owned())
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(way)).await.map_err(broken)?;
        let talk = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), GREATEST_ANSWER).collect().await;
            let body = body.map_err(|error| Unanswered::Broken(url.to_owned(), error.to_string()))?;
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
                Err(error) => Err(broken(error)),
            },
        }
    }
}
