//! etcd behind as few verbs as the protocol needs. Every call is bounded; an endpoint that fails is left for the next one.
//! Nothing is decided here.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, GetOptions, Identity, PutOptions,
    TlsOptions, Txn, TxnOp, TxnOpResponse,
};
use pgbaton_core::{Code, Holder, HolderView, Lsn, Moment, Successor, Tenure, Timeline, VerdictSeen};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::clock::boottime;
use crate::config::{CoordinationConfig, Delivery};
use crate::renewal::{Broken, Renewed};
use crate::secret::Secret;
use crate::tls;

/// One call may take this long before its endpoint is given up on.
pub const CALL_TIMEOUT: Duration = Duration::from_millis(1200);

/// New credentials that etcd did not take are tried again this much later.
const NEW_CREDENTIALS_AGAIN: Duration = Duration::from_secs(2);

/// etcd did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EtcdError {
    /// No endpoint answered in time.
    #[error("etcd does not answer: {0}")]
    Unreachable(String),
    /// An endpoint answered with a refusal.
    #[error("etcd refused: {0}")]
    Refused(String),
    /// A file of the TLS configuration could not be read.
    #[error("{0}")]
    Setup(String),
}

/// The value of the holder key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HolderValue {
    /// The worker.
    pub worker: String,
    /// Its boot nonce.
    pub nonce: String,
    /// Where it answers.
    pub url: String,
    /// What its consumers may rely on: says whether its sink is fenced.
    pub delivery: String,
    /// Tenures since the last stream.
    pub tenures: u32,
}

impl HolderValue {
    /// Only a sink that refuses older sessions lets anybody go on, or take over, without the lease.
    fn is_fenced(&self) -> bool {
        self.delivery == Delivery::ExactlyOnce.as_str()
    }
}

/// The value of the verdict key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictValue {
    /// Why the pipeline is stopped.
    pub code: Code,
    /// The timeline of the range.
    pub timeline: Timeline,
    /// What is missing starts behind this LSN ...
    pub from_lsn: Lsn,
    /// ... and ends here, if that is known.
    pub to_lsn: Option<Lsn>,
    /// For a person.
    pub text: String,
    /// Who came to it.
    pub worker: String,
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// Set by whoever accepts exactly this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Accepted>,
}

/// An acceptance: the next claimer whose own verdict is the same goes on where it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The worker that was asked.
    pub by: String,
    /// When, RFC 3339 in UTC.
    pub at: String,
}

/// The value of the successor key.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SuccessorValue {
    worker: Option<String>,
    follows: i64,
}

/// A lease as it was granted.
#[derive(Debug, Clone, Copy)]
pub struct Granted {
    /// Its id.
    pub id: i64,
    /// The TTL in the reply: servers raise small ones.
    pub ttl: Duration,
    /// Read before the request was sent.
    pub asked_at: Moment,
}

/// The value of a key, and its mod revision.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its value.
    pub value: Vec<u8>,
    /// Mod revision.
    pub revision: i64,
}

/// etcd, for the keys below one pipeline's prefix.
pub struct Etcd {
    endpoints: Vec<Endpoint>,
    options: Renewed<ConnectOptions>,
    at: AtomicUsize,
    prefix: String,
}

struct Endpoint {
    url: String,
    client: Mutex<Option<Connected>>,
}

/// A client, and what it was made with.
struct Connected {
    client: Client,
    options: Arc<ConnectOptions>,
    /// When newer options did not do last.
    refused_at: Option<Instant>,
}

impl Endpoint {
    async fn connect(&self, options: &ConnectOptions) -> Result<Client, EtcdError> {
        let connecting = Client::connect([&self.url], Some(options.clone()));
        match timeout(CALL_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|error| self.classify(error)),
            Err(_) => Err(self.silent()),
        }
    }

    /// A client for newer options, once it has had an answer: until then the older one is used. Credentials may be changed
    /// here before they are in etcd, and a client that works is not let go for one that does not.
    async fn replacement(&self, options: &ConnectOptions, key: String) -> Result<Client, EtcdError> {
        let client = self.connect(options).await?;
        match timeout(CALL_TIMEOUT, client.clone().get(key, None)).await {
            Ok(answer) => answer.map(|_| client).map_err(|error| self.classify(error)),
            Err(_) => Err(self.silent()),
        }
    }

    fn silent(&self) -> EtcdError {
        EtcdError::Unreachable(format!("no answer from {} within {} ms", self.url, CALL_TIMEOUT.as_millis()))
    }

    fn classify(&self, error: Error) -> EtcdError {
        let url = &self.url;
        match error {
            // The codes of gRPC that an etcd without leader, or one that goes down, answers with.
            Error::GRpcStatus(status) if !matches!(status.code() as i32, 1 | 2 | 4 | 13 | 14) => {
                EtcdError::Refused(format!("{} (from {url})", status.message()))
            }
            Error::GRpcStatus(status) => EtcdError::Unreachable(format!("{url}: {}", status.message())),
            other => EtcdError::Unreachable(format!("{url}: {other}")),
        }
    }
}

impl Etcd {
    /// Reads certificates, keys and the password once; connects when first used. `prefix` is the pipeline's own, without a
    /// slash at its end.
    pub fn new(config: &CoordinationConfig, prefix: String) -> Result<Self, EtcdError> {
        let options = etcd_options(config).map_err(|broken| EtcdError::Setup(broken.text))?;
        Ok(Etcd::renewed(config, Renewed::fixed(options), prefix))
    }

    /// The same with credentials that may change: new ones are used for new connections, as soon as etcd takes them.
    pub fn renewed(config: &CoordinationConfig, options: Renewed<ConnectOptions>, prefix: String) -> Self {
        let endpoint = |url: &String| Endpoint { url: url.clone(), client: Mutex::new(None) };
        let endpoints = config.endpoints.iter().map(endpoint).collect();
        Etcd { endpoints, options, at: AtomicUsize::new(0), prefix }
    }

    /// A key of the pipeline.
    pub fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// A client of the endpoint in use, connected lazily, and which endpoint that is.
    pub async fn client(&self) -> (usize, Result<Client, EtcdError>) {
        let at = self.at.load(Ordering::Relaxed);
        let endpoint = &self.endpoints[at];
        let mut held = endpoint.client.lock().await;
        let options = self.options.get();
        let Some(connected) = &mut *held else {
            let client = endpoint.connect(&options).await;
            if let Ok(client) = &client {
                *held = Some(Connected { client: client.clone(), options, refused_at: None });
            }
            return (at, client);
        };
        let due = connected.refused_at.is_none_or(|refused| refused.elapsed() >= NEW_CREDENTIALS_AGAIN);
        if due && !Arc::ptr_eq(&connected.options, &options) {
            match endpoint.replacement(&options, self.key("holder")).await {
                Ok(client) => *connected = Connected { client, options, refused_at: None },
                Err(error) => {
                    if connected.refused_at.replace(Instant::now()).is_none() {
                        warn!(%error, "etcd does not take the new credentials yet, the old ones stay in use");
                    }
                }
            }
        }
        (at, Ok(connected.client.clone()))
    }

    /// Leaves this endpoint for the next one, unless somebody has left it already: two who fail on it at the same time
    /// must not skip the one that works.
    pub async fn leave(&self, at: usize) {
        let next = (at + 1) % self.endpoints.len();
        if self.at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            // A fresh connection next time: the old one may hang on a server that is frozen.
            *self.endpoints[at].client.lock().await = None;
        }
    }

    /// One call on the endpoint in use, bounded; a failure moves on to the next endpoint for whoever calls next.
    pub async fn once<T, F, Fut>(&self, call: F) -> Result<T, EtcdError>
    where
        F: FnOnce(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let (at, client) = self.client().await;
        let answer = match client {
            Ok(client) => match timeout(CALL_TIMEOUT, call(client)).await {
                Ok(answer) => answer.map_err(|error| self.endpoints[at].classify(error)),
                Err(_) => Err(self.endpoints[at].silent()),
            },
            Err(error) => Err(error),
        };
        if matches!(answer, Err(EtcdError::Unreachable(_))) {
            self.leave(at).await;
        }
        answer
    }

    /// A call that may be repeated: tried on every endpoint before it fails.
    pub async fn anywhere<T, F, Fut>(&self, call: F) -> Result<T, EtcdError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let mut last = self.once(&call).await;
        for _ in 1..self.endpoints.len() {
            if !matches!(last, Err(EtcdError::Unreachable(_))) {
                break;
            }
            last = self.once(&call).await;
        }
        last
    }

    /// Grants a lease.
    pub async fn grant(&self, ttl: Duration) -> Result<Granted, EtcdError> {
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        self.anywhere(|mut client| async move {
            let asked_at = boottime();
            let granted = client.lease_grant(seconds, None).await?;
            let ttl = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0));
            Ok(Granted { id: granted.id(), ttl, asked_at })
        })
        .await
    }

    /// Puts the holder key under the lease if there is none, or in the place of the one at mod revision `replacing`.
    /// Answers with its mod revision and etcd's cluster id; none where somebody else has it. Not repeated: after an error
    /// the outcome is unknown.
    pub async fn take_holder(
        &self,
        lease_id: i64,
        value: &HolderValue,
        replacing: Option<i64>,
    ) -> Result<Option<(i64, String)>, EtcdError> {
        let key = self.key("holder");
        let bytes = serde_json::to_vec(value).expect("strings and numbers always serialise");
        let guard = match replacing {
            Some(revision) => Compare::mod_revision(key.clone(), CompareOp::Equal, revision),
            None => Compare::create_revision(key.clone(), CompareOp::Equal, 0),
        };
        let txn =
            Txn::new().when([guard]).and_then([TxnOp::put(key, bytes, Some(PutOptions::new().with_lease(lease_id)))]);
        self.once(|mut client| async move {
            let answer = client.txn(txn).await?;
            let header = answer.header().map(|header| (header.revision(), header.cluster_id()));
            // The put is the last write of its own transaction, so its mod revision is the transaction's.
            Ok(header.filter(|_| answer.succeeded()).map(|(revision, cluster)| (revision, format!("{cluster:x}"))))
        })
        .await
    }

    /// Deletes the holder key if it is still that of the tenure, and leaves a successor key in the same transaction if one is
    /// given (its inner value: nobody in particular).
    pub async fn release_holder(&self, tenure: &Tenure, successor: Option<Option<String>>) -> Result<(), EtcdError> {
        let key = self.key("holder");
        let mut operations = vec![TxnOp::delete(key.clone(), None::<DeleteOptions>)];
        if let Some(worker) = successor {
            let value = SuccessorValue { worker, follows: tenure.revision };
            let bytes = serde_json::to_vec(&value).expect("strings and numbers always serialise");
            operations.push(TxnOp::put(self.key("successor"), bytes, None));
        }
        // The lease as well: an etcd that was restored gives revisions out once more.
        let ours = [
            Compare::mod_revision(key.clone(), CompareOp::Equal, tenure.revision),
            Compare::lease(key, CompareOp::Equal, tenure.lease_id),
        ];
        let txn = Txn::new().when(ours).and_then(operations);
        self.anywhere(|mut client| {
            let txn = txn.clone();
            async move { client.txn(txn).await.map(drop) }
        })
        .await
    }

    /// Ends a lease.
    pub async fn revoke(&self, lease_id: i64) -> Result<(), EtcdError> {
        self.anywhere(|mut client| async move { client.lease_revoke(lease_id).await.map(drop) }).await
    }

    /// All that workers go by, linearizable, at one revision.
    pub async fn view(&self) -> Result<HolderView, EtcdError> {
        let read = |name| TxnOp::get(self.key(name), None);
        let txn = Txn::new().and_then([read("holder"), read("successor"), read("paused"), read("verdict")]);
        let answer = self
            .anywhere(|mut client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            })
            .await?;
        let revision = answer.header().map_or(0, |header| header.revision());
        let mut found = answer.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(get) => get.kvs().first().cloned(),
            _ => None,
        });
        let mut next = || found.next().flatten();
        let holder = next().map(|kv| holder(kv.value(), kv.mod_revision(), kv.lease()));
        let successor = next().and_then(|kv| {
            let SuccessorValue { worker, follows } = serde_json::from_slice(kv.value()).ok()?;
            Some(Successor { worker, follows })
        });
        let paused = next().is_some();
        let verdict = next().and_then(|kv| {
            let VerdictValue { code, from_lsn, to_lsn, accepted, .. } = serde_json::from_slice(kv.value()).ok()?;
            Some(VerdictSeen { code, from_lsn, to_lsn, accepted: accepted.is_some() })
        });
        Ok(HolderView { revision, holder, successor, paused, verdict })
    }

    /// Puts a key in the place of what it was at mod revision `revision`. Answers whether it still was.
    pub async fn replace(&self, name: &str, value: Vec<u8>, revision: i64) -> Result<bool, EtcdError> {
        let key = self.key(name);
        let txn = Txn::new()
            .when([Compare::mod_revision(key.clone(), CompareOp::Equal, revision)])
            .and_then([TxnOp::put(key, value, None)]);
        self.once(|mut client| async move { client.txn(txn).await.map(|answer| answer.succeeded()) }).await
    }

    /// Puts a key; under a lease if one is given.
    pub async fn put(&self, name: &str, value: Vec<u8>, lease_id: Option<i64>) -> Result<(), EtcdError> {
        let key = self.key(name);
        self.anywhere(|mut client| {
            let (key, value) = (key.clone(), value.clone());
            async move {
                let options = lease_id.map(|id| PutOptions::new().with_lease(id));
                client.put(key, value, options).await.map(drop)
            }
        })
        .await
    }

    /// Puts a key only while the holder key is at `revision`.
    pub async fn put_guarded(&self, name: &str, value: Vec<u8>, revision: i64) -> Result<(), EtcdError> {
        let txn = Txn::new()
            .when([Compare::mod_revision(self.key("holder"), CompareOp::Equal, revision)])
            .and_then([TxnOp::put(self.key(name), value, None)]);
        self.anywhere(|mut client| {
            let txn = txn.clone();
            async move { client.txn(txn).await.map(drop) }
        })
        .await
    }

    /// Deletes a key.
    pub async fn delete(&self, name: &str) -> Result<(), EtcdError> {
        let key = self.key(name);
        self.anywhere(|mut client| {
            let key = key.clone();
            async move { client.delete(key, None).await.map(drop) }
        })
        .await
    }

    /// Reads a key, linearizable; with `below`, all keys that begin with its name.
    pub async fn get(&self, name: &str, below: bool) -> Result<Vec<Stored>, EtcdError> {
        let key = self.key(name);
        let answer = self
            .anywhere(|mut client| {
                let key = key.clone();
                async move { client.get(key, below.then(|| GetOptions::new().with_prefix())).await }
            })
            .await?;
        let stored = |kv: &etcd_client::KeyValue| Stored { value: kv.value().to_vec(), revision: kv.mod_revision() };
        Ok(answer.kvs().iter().map(stored).collect())
    }
}

fn holder(value: &[u8], revision: i64, lease_id: i64) -> Holder {
    match serde_json::from_slice::<HolderValue>(value) {
        Ok(value) => Holder {
            fenced: value.is_fenced(),
            worker: value.worker,
            nonce: value.nonce,
            url: value.url,
            revision,
            lease_id,
            tenures: value.tenures,
        },
        // Written by hand: somebody holds it all the same, and it is not us.
        Err(_) => Holder {
            worker: "unknown".into(),
            nonce: String::new(),
            url: String::new(),
            revision,
            lease_id,
            fenced: false,
            tenures: 1,
        },
    }
}

/// What clients connect with, from the files as they are now.
pub fn etcd_options(config: &CoordinationConfig) -> Result<ConnectOptions, Broken> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|error| Broken::tls(format_args!("{}: {error}", path.display())));
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CALL_TIMEOUT)
        .with_keep_alive(Duration::from_secs(2), Duration::from_secs(3))
        .with_require_leader(true);
    if let Some(user) = &config.user {
        let password = match &user.password_file {
            Some(file) => Secret::read(file).map_err(|error| Broken::secret(file, &error))?,
            None => user.password.clone(),
        };
        options = options.with_user(&user.username, password.expose()).with_auto_token_refresh(true);
    }
    // All alike.
    if config.endpoints.iter().any(|url| url.starts_with("https://")) {
        // The library would find out at its first connection, which is too late to keep what works.
        tls::check(config.ca_file.as_deref(), config.certificate.as_ref())?;
        let mut tls = TlsOptions::new();
        tls = match &config.ca_file {
            Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
            None => tls.with_native_roots(),
        };
        if let Some(certificate) = &config.certificate {
            tls = tls.identity(Identity::from_pem(read(&certificate.cert_file)?, read(&certificate.key_file)?));
        }
        options = options.with_tls(tls);
    }
    Ok(options)
}
