//! Standard output on a thread of its own, so that a reader who takes his time does not make us lose the server.

use std::io::{self, Write};

use tokio::sync::{
    mpsc::{self, Permit},
    oneshot,
};

/// Changes that may wait for the reader; the rest waits in the server.
const WAITING: usize = 64;

/// The way to standard output.
pub(super) struct Output {
    lines: mpsc::Sender<String>,
    done: oneshot::Receiver<()>,
}

impl Output {
    /// Starts the thread, which ends with the last line or with the reader.
    pub fn start() -> io::Result<Self> {
        let (lines, mut queue) = mpsc::channel::<String>(WAITING);
        let (done, is_done) = oneshot::channel();
        std::thread::Builder::new().name("output".to_owned()).spawn(move || {
            let mut out = io::stdout().lock();
            while let Some(text) = queue.blocking_recv() {
                // Each change is there for a person or a pipe as soon as it came.
                if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
                    break;
                }
            }
            let _ = done.send(());
        })?;
        Ok(Output { lines, done: is_done })
    }

    /// Waits for room; `None` when the reader has gone away. Cancel-safe.
    pub async fn room(&self) -> Option<Permit<'_, String>> {
        self.lines.reserve().await.ok()
    }

    /// Waits until the reader has gone away.
    pub async fn closed(&self) {
        self.lines.closed().await;
    }

    /// Waits until everything is written or the reader has gone away.
    pub async fn finish(self) {
        drop(self.lines);
        let _ = self.done.await;
    }
}
