//! `pgbaton run`: everything that can be wrong is found before anything is started; then the drivers run until a signal.

use std::{collections::BTreeMap, error::Error, future::Future, sync::Arc};

use rustix::process::{Resource, Rlimit};
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info};

use super::{FAILED, INTERRUPTED, chain, complain, config::refuse, signals::Signals};
use crate::{
    config::{self, Config, Given, HttpConfig},
    http::{self, Command, Service},
    logging, metrics,
    renewal::{Broken, Renewal, Renewed, Scope},
    status::Board,
    tls::HttpTls,
};

/// Commands come from people: more than a few at once are a mistake, and are refused.
const WAITING_COMMANDS: usize = 4;

/// What the drivers start from.
pub struct Start {
    /// What the worker is told.
    pub config: Arc<Config>,
    /// Where they publish.
    pub board: Board,
    /// How peers reach this worker.
    pub url: String,
    /// Commands, for every pipeline of the configuration.
    pub commands: BTreeMap<String, mpsc::Receiver<Command>>,
    /// Turns true when they should hand over and end.
    pub shutdown: watch::Receiver<bool>,
    /// What is talked to peers with.
    pub tls: Renewed<HttpTls>,
    /// What is made of files; to be run.
    pub renewal: Renewal,
}

/// The loop that `run` runs: it returns when every pipeline has ended.
pub trait Driver {
    /// Why it ended early.
    type Error: Error;

    /// Runs until `start.shutdown` turns true and everything is handed over.
    fn run(self, start: Start) -> impl Future<Output = Result<(), Self::Error>>;
}

impl<F, R, E> Driver for F
where
    F: FnOnce(Start) -> R,
    R: Future<Output = Result<(), E>>,
    E: Error,
{
    type Error = E;

    fn run(self, start: Start) -> impl Future<Output = Result<(), E>> {
        self(start)
    }
}

pub(super) fn run(given: &Given, driver: impl Driver) -> u8 {
    let config = match config::load(given) {
        Ok(loaded) => Arc::new(loaded.config),
        Err(invalid) => return refuse(&invalid),
    };
    logging::start(&config.log);
    match serve(config, driver) {
        Ok(code) => code,
        Err(error) => {
            complain(chain(&*error));
            FAILED
        }
    }
}

fn serve(config: Arc<Config>, driver: impl Driver) -> Result<u8, Box<dyn Error>> {
    allow_many_files();
    let bound = http::bind(config.http.listen)?;
    let address = bound.address();
    let url = config.http.url(address);
    let board =
        Board::new(&config.name, config.coordination.backend.as_str(), config.pipelines.keys().map(String::as_str));
    let channels = config.pipelines.keys().map(|name| (name.clone(), mpsc::channel(WAITING_COMMANDS)));
    let (senders, commands) = channels.map(|(name, (tx, rx))| ((name.clone(), tx), (name, rx))).unzip();
    let runtime = tokio::runtime::Builder::new_multi_thread().thread_name("pgbaton").enable_all().build()?;
    // Signals are caught from before the first answer on: a supervisor may send one at any moment.
    let (mut signals, mut renewal) =
        runtime.block_on(async { Ok::<_, Box<dyn Error>>((Signals::catch()?, Renewal::new()?)) })?;
    let tls = http_tls(&config.http, &mut renewal)?;
    let service = Service {
        board: board.clone(),
        commands: senders,
        token_file: config.http.token_file.clone(),
        tls: Some(tls.clone()),
        verify_client: config.http.verify_client,
        metrics: metrics::install(config.pipelines.keys().map(String::as_str))?,
    };
    let _server = bound.serve(service)?;
    info!(worker = config.name, %address, url, version = env!("CARGO_PKG_VERSION"), "worker started");

    let (stop, shutdown) = watch::channel(false);
    let ended = runtime.block_on(async {
        let driver = driver.run(Start { config: Arc::clone(&config), board, url, commands, shutdown, tls, renewal });
        tokio::pin!(driver);
        let first = tokio::select! {
            ended = &mut driver => return ended.map(|()| 0),
            code = signals.next() => code,
        };
        info!("asked to stop, handing over; a second signal stops at once");
        stop.send_replace(true);
        tokio::select! {
            // Ctrl-C is an interruption even when it ends well; SIGTERM is how a supervisor says goodbye.
            ended = &mut driver => ended.map(|()| if first == INTERRUPTED { INTERRUPTED } else { 0 }),
            code = signals.next() => Ok(code),
        }
    });
    let code = match ended {
        Ok(code) => code,
        Err(error) => {
            error!(error = chain(&error), "worker failed");
            FAILED
        }
    };
    info!(code, "worker ended");
    // Whatever still runs in the background has no right to delay the end.
    runtime.shutdown_background();
    Ok(code)
}

/// What is spoken with on the HTTP port and with peers.
fn http_tls(http: &HttpConfig, renewal: &mut Renewal) -> Result<Renewed<HttpTls>, Broken> {
    renewal.look_after_token(http)?;
    let (http, files) = (http.clone(), HttpTls::files(http));
    renewal.keep("http", Scope(None), files, move || Ok(HttpTls::read(&http)?))
}

/// As many open files as we may allow ourselves: the usual soft limit of 1024 is for programs that use `select`.
fn allow_many_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        debug!(%error, "the limit of open files stays as it is");
    }
}
