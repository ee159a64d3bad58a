//! A read_committed consumer of the ledger topic that notes when each row of the load became visible: how long a takeover
//! took is measured where it matters, at the far end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::watch;

use crate::check::event::EventId;
use crate::check::read::consumer;
use crate::load::Journal;

/// A ledger row that a consumer saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// When its COMMIT was sent: it was not committed before.
    pub sent: Instant,
    /// When a consumer had it.
    pub seen: Instant,
    /// The timeline that it was committed on.
    pub timeline: u32,
}

/// Watches in a thread of its own until it is dropped.
pub struct Watcher {
    sights: Arc<Mutex<Vec<Sight>>>,
    changed: watch::Receiver<usize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Watches the ledger topic of the pipeline, which need not exist yet, for rows that the journal knows.
    pub fn start(bootstrap: &str, topic_prefix: &str, journal: Journal) -> Self {
        let sights = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (told, changed) = watch::channel(0);
        let topic = format!("{topic_prefix}.public.ledger");
        let thread = std::thread::spawn({
            let (bootstrap, sights, stop) = (bootstrap.to_owned(), Arc::clone(&sights), Arc::clone(&stop));
            move || {
                let running = || !stop.load(Ordering::Relaxed);
                let Some(consumer) = open(&bootstrap, &topic, running) else { return };
                while running() {
                    // Errors of the client are passing; a consumer that sees nothing fails whoever waits for a row.
                    let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else { continue };
                    let seen = Instant::now();
                    let Some((key, timeline)) = row(&message) else { continue };
                    let Some(sent) = journal.sent_at(&key) else { continue };
                    let mut sights = sights.lock().expect("nobody panics holding it");
                    sights.push(Sight { sent, seen, timeline });
                    told.send_replace(sights.len());
                }
            }
        });
        Watcher { sights, changed, stop, thread: Some(thread) }
    }

    /// How many rows were seen.
    pub fn count(&self) -> usize {
        *self.changed.borrow()
    }

    /// All rows that were seen so far.
    pub fn sights(&self) -> Vec<Sight> {
        self.sights.lock().expect("nobody panics holding it").clone()
    }

    /// The longest time from `since` until now in which no row was seen.
    pub fn longest_silence(&self, since: Instant) -> Duration {
        let sights = self.sights.lock().expect("nobody panics holding it");
        let seen = sights.iter().map(|sight| sight.seen).filter(|seen| *seen > since);
        let mut moments: Vec<Instant> = [since, Instant::now()].into_iter().chain(seen).collect();
        moments.sort_unstable();
        moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// The timeline of the last row that was seen, 0 before the first.
    pub fn timeline(&self) -> u32 {
        self.sights.lock().expect("nobody panics holding it").last().map_or(0, |sight| sight.timeline)
    }

    /// The first row seen that was committed after `after`, on a timeline above `timeline`; waits up to `limit` for it.
    pub async fn first(&self, after: Instant, timeline: u32, limit: Duration) -> Option<Sight> {
        let mut changed = self.changed.clone();
        let find = |from: usize| {
            let sights = self.sights.lock().expect("nobody panics holding it");
            let found = sights[from..].iter().find(|sight| sight.sent >= after && sight.timeline > timeline).copied();
            (found, sights.len())
        };
        let wait = async {
            let mut from = 0;
            loop {
                let (found, next) = find(from);
                if found.is_some() {
                    return found;
                }
                from = next;
                changed.changed().await.ok()?;
            }
        };
        tokio::time::timeout(limit, wait).await.ok().flatten()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for the topic and starts at its beginning.
fn open(bootstrap: &str, topic: &str, running: impl Fn() -> bool) -> Option<BaseConsumer> {
    let consumer = consumer(bootstrap).ok()?;
    while running() {
        if let Some(partitions) = partitions(&consumer, topic) {
            let mut all = TopicPartitionList::new();
            for partition in partitions {
                all.add_partition_offset(topic, partition, Offset::Beginning).ok()?;
            }
            consumer.assign(&all).ok()?;
            return Some(consumer);
        }
        // Nothing announces a new topic: it has to be asked for.
        std::thread::sleep(Duration::from_millis(200));
    }
    None
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Option<Vec<i32>> {
    let metadata = consumer.fetch_metadata(None, Duration::from_secs(5)).ok()?;
    let found = metadata.topics().iter().find(|found| found.name() == topic)?;
    Some(found.partitions().iter().map(|partition| partition.id()).collect())
}

/// The key of a created ledger row and the timeline it was committed on.
fn row(message: &impl Message) -> Option<(String, u32)> {
    let headers = message.headers()?;
    let id = headers.iter().find(|header| header.key == "pgbaton.id")?.value?;
    let id = EventId::parse(std::str::from_utf8(id).ok()?)?;
    message.payload()?;
    let key: serde_json::Value = serde_json::from_slice(message.key()?).ok()?;
    Some((key["id"].as_str()?.to_owned(), id.timeline))
}
