//! A TCP proxy that disturbs what passes: one stands on each way of a proxied cluster, and is told what to do while it runs.
//!
//! A proxy cannot lose packets; it holds bytes back, as TCP would while packets are lost. What was sent into a black hole arrives
//! when the hole closes, if somebody still listens: so old requests do turn up late here, as they do in life. Only a connect
//! succeeds here where a real hole would swallow it.

mod carry;
mod frames;
mod links;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::watch;

pub use links::Links;

/// What happens to all that passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// Nothing.
    #[default]
    None,
    /// Connections are closed, and new ones as soon as they stand.
    Cut,
    /// Nothing arrives, and nobody is told.
    BlackHole,
    /// What the server sends arrives, what the client sends does not.
    ClientUnheard,
    /// What the client sends arrives, what the server sends does not.
    ServerUnheard,
    /// Every piece arrives that much later.
    Delay(Duration),
    /// A few bytes at a time, some 7 kB a second.
    Dribble,
    /// Kafka only: the client loses its connection when it ends a transaction, and the broker hears the request that much later. What
    /// the client sends next to end it passes, every second request does.
    LateEnd(Duration),
}

impl Trouble {
    fn stops_client(self) -> bool {
        matches!(self, Trouble::BlackHole | Trouble::ClientUnheard)
    }

    fn stops_server(self) -> bool {
        matches!(self, Trouble::BlackHole | Trouble::ServerUnheard)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::None => f.write_str("none"),
            Trouble::Cut => f.write_str("cut"),
            Trouble::BlackHole => f.write_str("black-hole"),
            Trouble::ClientUnheard => f.write_str("client-unheard"),
            Trouble::ServerUnheard => f.write_str("server-unheard"),
            Trouble::Delay(by) => write!(f, "delay {} ms", by.as_millis()),
            Trouble::Dribble => f.write_str("dribble"),
            Trouble::LateEnd(by) => write!(f, "late-end {} ms", by.as_millis()),
        }
    }
}

/// What every connection looks at.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    trouble: Trouble,
    /// Counts the resets.
    resets: u64,
}

/// Whom a proxy leads to, at which port of loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Bytes are bytes.
    Any(u16),
    /// Requests can be told apart, which [`Trouble::LateEnd`] needs.
    Kafka(u16),
}

impl Server {
    fn port(self) -> u16 {
        let (Server::Any(port) | Server::Kafka(port)) = self;
        port
    }
}

/// One proxy. Dropped, it closes all its connections.
#[derive(Debug)]
pub struct Proxy {
    weather: watch::Sender<Weather>,
}

impl Proxy {
    /// Listens on `port` of loopback and hands everything on; its tasks run on `runtime`.
    pub fn start(runtime: &Handle, port: u16, to: Server) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let _entered = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (weather, seen) = watch::channel(Weather::default());
        runtime.spawn(carry::accept(listener, to, seen));
        Ok(Proxy { weather })
    }

    /// From now on this happens to what passes.
    pub fn set(&self, trouble: Trouble) {
        self.weather.send_modify(|weather| weather.trouble = trouble);
    }

    /// Resets every connection there is, once.
    pub fn reset(&self) {
        self.weather.send_modify(|weather| weather.resets += 1);
    }
}
