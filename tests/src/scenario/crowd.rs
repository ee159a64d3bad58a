//! Clients that begin a request and do not end it, hundreds at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Play;
use crate::check::resources;
use crate::check::staged::Timed;
use crate::http;

/// More than a worker keeps connections, where this process may have as many open.
const CROWD: u64 = 1_200;
const PROBES: usize = 200;
/// Between two probes: as a supervisor would ask who is in a hurry.
const PAUSE: Duration = Duration::from_millis(25);
/// Before a client that was closed comes again: it is slow, and what is tried is no flood of connections.
const AGAIN: Duration = Duration::from_secs(2);
const WITHIN: Duration = Duration::from_secs(1);
/// One that took longer was no answer.
const LIMIT: Duration = Duration::from_secs(5);

/// A worker answers about its health and streams, however many clients hold its port half open. Whether the owner changes for nothing is
/// the checker's to judge, as always.
pub(super) async fn slow_clients(play: &mut Play) -> Result<()> {
    let (before, since) = (play.stage.standing().await?, Instant::now());
    let workers = play.stage.target().workers.clone();
    let files = resources::look(std::process::id()).context("look at this process")?.most_files;
    let crowd = CROWD.min(files / 2 / workers.len() as u64);
    let (mut clients, waiting) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for (_, url) in &workers {
        let address = url.trim_start_matches("http://").to_owned();
        for _ in 0..crowd {
            clients.spawn(half_ask(address.clone(), Arc::clone(&waiting)));
        }
    }
    // As many as a worker keeps at least, which is an eighth of its files.
    while waiting.load(Ordering::Relaxed) < usize::try_from(crowd)? / 4 {
        ensure!(since.elapsed() < LIMIT * 4, "no crowd comes together");
        tokio::time::sleep(PAUSE).await;
    }
    for _ in 0..PROBES {
        for (worker, url) in &workers {
            let asked = Instant::now();
            let answer = http::get(&format!("{url}/health"), LIMIT).await;
            let took = if answer.is_some() { asked.elapsed() } else { LIMIT };
            let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let probe = Timed { what: format!("{worker}'s /health"), ms: ms(took), within_ms: ms(WITHIN) };
            play.stage.note(|staged| staged.probes.push(probe));
        }
        tokio::time::sleep(PAUSE).await;
    }
    play.fact("clients", crowd * workers.len() as u64);
    play.fact("half_open_at_once", waiting.load(Ordering::Relaxed));
    let flowed = play.stage.flows().await.context("beside the crowd")?;
    play.fact("flowed_ms", u64::try_from(flowed.as_millis())?);
    clients.shutdown().await;
    let now = play.stage.standing().await?;
    play.fact("owner_changed", now.worker != before.worker);
    Ok(())
}

/// Holds a connection with half a request, and the next one when it is closed.
async fn half_ask(address: String, waiting: Arc<AtomicUsize>) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(&address).await
            && stream.write_all(b"GET /health HTTP/1.1\r\nHost: worker\r\nX-Slow: ").await.is_ok()
        {
            waiting.fetch_add(1, Ordering::Relaxed);
            let _ = stream.read(&mut [0; 64]).await;
            waiting.fetch_sub(1, Ordering::Relaxed);
        }
        tokio::time::sleep(AGAIN).await;
    }
}
