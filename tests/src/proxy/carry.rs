//! Carries one connection: two pumps that look at the weather before every piece.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::frames::{Frames, Piece};
use super::{Server, Trouble, Weather};

const BUFFER: usize = 16 * 1024;
const DRIBBLE_EVERY: Duration = Duration::from_millis(1);
/// How long a broker may take to answer a request that came late.
const ANSWER: Duration = Duration::from_secs(5);

/// How a connection ended before both sides had closed it.
enum End {
    /// One side is gone, or the weather says so: the other is reset.
    Reset,
    /// The client loses its connection; the server gets this, later.
    Late(Vec<u8>, Duration),
}

/// Counts the ends of transactions that pass a proxy in such trouble: every second one is let through, so that the client's second
/// attempt succeeds before its first one arrives.
#[derive(Clone, Default)]
struct Ends(Arc<AtomicBool>);

impl Ends {
    fn is_struck(&self) -> bool {
        !self.0.fetch_not(Ordering::Relaxed)
    }
}

/// Accepts until the proxy is dropped.
pub(super) async fn accept(listener: TcpListener, to: Server, weather: watch::Receiver<Weather>) {
    let mut gone = weather.clone();
    let ends = Ends::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    tokio::spawn(connect(client, to, ends.clone(), weather.clone()));
                }
            }
            () = dropped(&mut gone) => return,
        }
    }
}

async fn dropped(weather: &mut watch::Receiver<Weather>) {
    while weather.changed().await.is_ok() {}
}

async fn connect(client: TcpStream, to: Server, ends: Ends, mut weather: watch::Receiver<Weather>) {
    // A reset that comes while we connect is meant for this connection, too.
    let resets = weather.borrow().resets;
    let open = |weather: &Weather| !weather.trouble.stops_client() && !weather.trouble.stops_server();
    let arrived = weather.wait_for(open).await.is_ok_and(|weather| weather.trouble != Trouble::Cut);
    let server = if arrived { TcpStream::connect((Ipv4Addr::LOCALHOST, to.port())).await.ok() } else { None };
    match server {
        Some(server) => carry(client, server, matches!(to, Server::Kafka(_)).then_some(ends), resets, weather).await,
        None => reset(client),
    }
}

/// Closes a connection so that the other side gets an error.
fn reset(stream: TcpStream) {
    // Without it the other side would see an orderly end, which is milder and no worse.
    let _ = stream.set_zero_linger();
}

async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    ends: Option<Ends>,
    resets: u64,
    mut weather: watch::Receiver<Weather>,
) {
    // Pieces go off as they come.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let end = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let frames = ends.is_some().then(Frames::default);
        let ends = ends.unwrap_or_default();
        let up = Pump { to: to_server, stops: Trouble::stops_client, ends: ends.clone(), weather: weather.clone() };
        let down = Pump { to: to_client, stops: Trouble::stops_server, ends, weather: weather.clone() };
        let struck = |weather: &Weather| weather.trouble == Trouble::Cut || weather.resets != resets;
        tokio::select! {
            done = async { tokio::try_join!(up.run(from_client, frames), down.run(from_server, None)) } => done.err(),
            _ = weather.wait_for(struck) => Some(End::Reset),
        }
    };
    match end {
        None => {}
        Some(End::Reset) => {
            reset(client);
            reset(server);
        }
        Some(End::Late(frame, by)) => {
            reset(client);
            tokio::time::sleep(by).await;
            if server.write_all(&frame).await.is_ok() {
                // Closed earlier, the broker might never look at it.
                let _ = tokio::time::timeout(ANSWER, server.read(&mut [0; 64])).await;
            }
        }
    }
}

/// One direction of a connection.
struct Pump<'a> {
    to: WriteHalf<'a>,
    /// Whether nothing passes in this direction while there is such trouble.
    stops: fn(Trouble) -> bool,
    ends: Ends,
    weather: watch::Receiver<Weather>,
}

impl Pump<'_> {
    /// Hands on what comes from the source until it ends, then says so to the sink.
    async fn run(mut self, mut from: ReadHalf<'_>, mut frames: Option<Frames>) -> Result<(), End> {
        let mut buffer = vec![0; BUFFER];
        loop {
            self.way_is_free().await?;
            let read = tokio::select! {
                read = from.read(&mut buffer) => read.map_err(|_| End::Reset)?,
                _ = self.weather.changed() => continue,
            };
            // It may have been on its way when the trouble began.
            self.way_is_free().await?;
            if read == 0 {
                return self.to.shutdown().await.map_err(|_| End::Reset);
            }
            let pieces = match &mut frames {
                None => vec![Piece::Bytes(buffer[..read].to_vec())],
                Some(frames) => frames.take(&buffer[..read]),
            };
            for piece in pieces {
                self.deliver(piece).await?;
            }
        }
    }

    async fn way_is_free(&mut self) -> Result<(), End> {
        let stops = self.stops;
        let free = self.weather.wait_for(|weather| !stops(weather.trouble)).await;
        free.map(drop).map_err(|_| End::Reset)
    }

    async fn deliver(&mut self, piece: Piece) -> Result<(), End> {
        let trouble = self.weather.borrow().trouble;
        let bytes = match (piece, trouble) {
            (Piece::EndTxn(frame), Trouble::LateEnd(by)) if self.ends.is_struck() => return Err(End::Late(frame, by)),
            (Piece::EndTxn(bytes) | Piece::Bytes(bytes), _) => bytes,
        };
        if let Trouble::Delay(by) = trouble {
            tokio::time::sleep(by).await;
        }
        if trouble != Trouble::Dribble {
            return self.to.write_all(&bytes).await.map_err(|_| End::Reset);
        }
        let (mut rest, mut size) = (&bytes[..], 0);
        while !rest.is_empty() {
            size = size % 13 + 1;
            // The rest of a long piece goes on at once when the trouble is over.
            let (now, later) = match self.weather.borrow().trouble {
                Trouble::Dribble => rest.split_at(size.min(rest.len())),
                _ => (rest, &[][..]),
            };
            self.to.write_all(now).await.map_err(|_| End::Reset)?;
            tokio::time::sleep(DRIBBLE_EVERY).await;
            rest = later;
        }
        Ok(())
    }
}
