//! Listens and keeps a bounded number of connections, whatever clients do. A new connection is always taken: the oldest
//! that is no event stream goes for it, so that thousands of slow clients push out one another and not a probe.

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{Service, router};
use crate::{renewal::Renewed, tls::HttpTls};

/// Far more than any honest crowd of probes and peers needs at once. Under a flood of ten thousand connections a second
/// each still stays for a tenth of a second, time enough for a probe.
const MOST_CONNECTIONS: u64 = 1024;
/// Connections that wait to be taken.
const QUEUE: i32 = 4096;
/// A request's head is sent at once by whoever means it, and so is what a TLS handshake takes.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// The greatest head.
const HEAD_BYTES: usize = 16 << 10;
/// A peer that takes no bytes for so long is gone; its connection would otherwise stay for ever.
const UNREAD_TIME: Duration = Duration::from_secs(10);
/// How often the recorder's samples are put away, so that they stay few when nobody asks for them.
const UPKEEP: Duration = Duration::from_secs(5);

/// The address that could not be listened on, and why.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}: {source}")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// A socket that listens already, with nobody answering yet.
#[derive(Debug)]
pub struct Bound {
    listener: StdListener,
    address: SocketAddr,
}

/// Takes the address, before anything else is started.
///
/// # Errors
/// When the address is taken or not ours.
pub fn bind(address: SocketAddr) -> Result<Bound, BindError> {
    let bound = || {
        let listener = StdListener::bind(address)?;
        // Longer than the standard library's queue: a probe that arrives with a flood must not be dropped and have to
        // try again a second later.
        rustix::net::listen(&listener, QUEUE)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Bound { listener, address })
    };
    bound().map_err(|source| BindError { address, source })
}

impl Bound {
    /// The address, with the port that the system chose if it was asked to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers from now on, on threads of its own.
    ///
    /// # Errors
    /// When the threads cannot be made.
    pub fn serve(self, service: Service) -> io::Result<Server> {
        // Two, so that one long answer does not stand before a probe.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("pgbaton-http")
            .enable_all()
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(self.listener)?
        };
        let most = most_connections();
        let (metrics, tls) = (service.metrics.clone(), service.tls.clone());
        let router = router(service, most / 4);
        runtime.spawn(async move {
            let mut ticks = tokio::time::interval(UPKEEP);
            loop {
                ticks.tick().await;
                metrics.run_upkeep();
            }
        });
        runtime.spawn(accept(listener, tls, router, most));
        Ok(Server { runtime: Some(runtime) })
    }
}

/// Answers until it is dropped; then every connection ends.
#[derive(Debug)]
pub struct Server {
    runtime: Option<Runtime>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A share of the files that we may have open, even when as many again are being closed: the rest is for PostgreSQL,
/// Kafka and etcd.
fn most_connections() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    (files / 8).clamp(8, MOST_CONNECTIONS) as usize
}

/// What a handler knows of the connection.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub peer: SocketAddr,
    /// Whether the client has shown a certificate that was asked for.
    pub certified: bool,
    /// Whether it is an event stream, which stays open by its nature.
    pub streams: Arc<AtomicBool>,
}

/// The open connections, oldest first.
struct Open {
    connections: VecDeque<(AbortHandle, Arc<AtomicBool>)>,
    tasks: JoinSet<()>,
    most: usize,
}

impl Open {
    fn add(&mut self, peer: SocketAddr, stream: TcpStream, tls: Option<Arc<ServerConfig>>, router: Router) {
        if self.connections.len() >= self.most {
            self.end_oldest();
        }
        let connection = Connection { peer, certified: false, streams: Arc::default() };
        let streams = Arc::clone(&connection.streams);
        let task = self.tasks.spawn(answer(stream, tls, connection, router));
        self.connections.push_back((task, streams));
    }

    /// There is always one: event streams are a quarter at most.
    fn end_oldest(&mut self) {
        let oldest = self.connections.iter().position(|(_, streams)| !streams.load(Ordering::Relaxed));
        if let Some((task, _)) = oldest.and_then(|oldest| self.connections.remove(oldest)) {
            task.abort();
        }
    }

    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) {
        let ended = ended.map_or_else(|error| error.id(), |(id, ())| id);
        self.connections.retain(|(task, _)| task.id() != ended);
    }

    /// Gives a file back. Where all are held by others, waits a little rather than spin.
    async fn make_room(&mut self) {
        self.end_oldest();
        match self.tasks.join_next_with_id().await {
            Some(ended) => self.forget(ended),
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn accept(listener: TcpListener, tls: Option<Renewed<HttpTls>>, router: Router, most: usize) {
    let mut open = Open { connections: VecDeque::new(), tasks: JoinSet::new(), most };
    let mut out_of_files = false;
    loop {
        // Those that were ended hold their files until their task is gone; as many again may do so. Both arms may be
        // dropped and tried again.
        tokio::select! {
            Some(ended) = open.tasks.join_next_with_id() => open.forget(ended),
            accepted = listener.accept(), if open.tasks.len() < 2 * most => match accepted {
                Ok((stream, peer)) => {
                    out_of_files = false;
                    open.add(peer, stream, tls.as_ref().and_then(|tls| tls.get().server.clone()), router.clone());
                }
                Err(error) => {
                    // Once, not at every client of a crowd.
                    if !std::mem::replace(&mut out_of_files, true) {
                        tracing::warn!(%error, "an HTTP connection could not be taken");
                    }
                    open.make_room().await;
                }
            },
        }
    }
}

async fn answer(stream: TcpStream, tls: Option<Arc<ServerConfig>>, mut connection: Connection, router: Router) {
    // Neither setting is needed for a right answer.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD_TIME.as_millis() as u32);
    let Some(tls) = tls else { return converse(stream, connection, router).await };
    match timeout(HEAD_TIME, TlsAcceptor::from(tls).accept(stream)).await {
        Ok(Ok(stream)) => {
            connection.certified = stream.get_ref().1.peer_certificates().is_some();
            converse(stream, connection, router).await;
        }
        Ok(Err(error)) => tracing::debug!(peer = %connection.peer, %error, "a client did not agree on TLS"),
        Err(_) => tracing::debug!(peer = %connection.peer, "a client did not agree on TLS in time"),
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, connection: Connection, router: Router) {
    let app = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(connection.clone());
        hyper::service::Service::call(&app, request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}
