//! A thread for the library's blocking calls, so that they never stand on the executor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use tokio::sync::oneshot;

use super::fault::KafkaFault;

/// Set once nobody waits for the calls any more; the loops inside them look at it.
#[derive(Debug, Clone, Default)]
pub(super) struct Cancelled(Arc<AtomicBool>);

impl Cancelled {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Runs one job after the other on a thread of its own. Dropping it lets the thread finish what is queued, cancelled,
/// and end by itself: nobody waits for a broker in a destructor.
#[derive(Debug)]
pub(super) struct Calls {
    jobs: mpsc::Sender<Job>,
    cancelled: Cancelled,
}

impl Calls {
    pub fn start() -> Result<Self, KafkaFault> {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("kafka-calls".to_owned())
            .spawn(move || queue.into_iter().for_each(|job| job()))
            .map_err(|error| KafkaFault::Failed { doing: "start a thread".to_owned(), reason: error.to_string() })?;
        Ok(Calls { jobs, cancelled: Cancelled::default() })
    }

    pub fn cancelled(&self) -> &Cancelled {
        &self.cancelled
    }

    /// Queues a job and returns at once.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) {
        self.jobs
            .send(Box::new(job))
            .expect("the thread ends only after the sender is dropped, or by a panic that is told there");
    }

    /// Runs a job and waits for its value. If the caller goes away, the value is dropped on the thread.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.ask(job).value().await
    }

    /// Queues a job whose value is asked for later.
    pub fn ask<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Asked<T> {
        let (done, value) = oneshot::channel();
        self.submit(move || drop(done.send(job())));
        Asked(value)
    }
}

/// A job under way. Dropping it drops its value.
#[derive(Debug)]
pub(super) struct Asked<T>(oneshot::Receiver<T>);

impl<T> Asked<T> {
    /// Waits for the value, which can be had once. Cancel-safe: a value that was not returned is there for the next call.
    pub async fn value(&mut self) -> T {
        (&mut self.0).await.expect("the job always sends its value, but for a panic that is told there")
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.cancelled.set();
    }
}
