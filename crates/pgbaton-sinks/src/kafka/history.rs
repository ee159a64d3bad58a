//! Reads everything that a pipeline has committed to its topics, in rounds, and has it judged. Writes nothing.
//!
//! A round: the markers; the progress up to what was written when it began; of each data partition what was written by
//! then, all partitions merged by rank, so that memory is bounded by the number of partitions; and the progress once more.
//! Records that the progress did not know yet wait for the next round. What is "written by then" is asked uncommitted, and
//! read when all transactions below have ended: a marker of a transaction reaches the partitions one after the other.
//!
//! At least once the progress of a round is the checkpoint that the caller read before. What a partition tells again is judged when
//! it is read and does not take part in the merge: what is left rises.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgbaton_core::ProgressRecord;
use pgbaton_core::audit::{Audit, Content, Delivery, Fault, Looked, Place, Published, Rank};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::metadata::Metadata;
use rdkafka::{Message, Offset, TopicPartitionList};
use serde_json::value::RawValue;

use super::calls::{Calls, Cancelled};
use super::fault::KafkaFault;
use super::reader::{ADMIN_LIMIT, ASK_AGAIN, SLICE, passing};
use super::target::KafkaTarget;
use super::told::Told;
use super::witness::is_table_topic;
use crate::topic::{markers_topic, progress_topic};

/// A transaction may stay open for its time-out; whoever waits behind it waits longer.
const PATIENCE: Duration = Duration::from_secs(90);

/// An audit of a pipeline's topics that runs on a thread of its own.
pub struct KafkaAudit {
    /// Taken while a round runs, and by `drop`.
    history: Option<History>,
    calls: Calls,
}

impl KafkaAudit {
    /// Everything that the topics hold. Makes the clients; they connect by themselves. `dense`: see [`Audit::new`].
    ///
    /// # Errors
    /// Settings that cannot be used.
    pub fn new(target: &KafkaTarget, delivery: Delivery, dense: bool) -> Result<Self, KafkaFault> {
        Self::start(target, delivery, dense, Begin::AtTheStart)
    }

    /// What comes from now on, the whole progress, and of each data partition so much of its end that what comes can be
    /// compared with it. Fetches little at once: others need Kafka more.
    ///
    /// # Errors
    /// Settings that cannot be used.
    pub fn of_what_comes(target: &KafkaTarget, delivery: Delivery) -> Result<Self, KafkaFault> {
        Self::start(target, delivery, true, Begin::NearTheEnd)
    }

    fn start(target: &KafkaTarget, delivery: Delivery, dense: bool, begin: Begin) -> Result<Self, KafkaFault> {
        target.check()?;
        let calls = Calls::start()?;
        let history = Some(History::new(target, delivery, dense, begin, calls.cancelled().clone())?);
        Ok(KafkaAudit { history, calls })
    }

    /// Reads and judges what is new since the last round, and tells what is wrong with it. At least once as far as the checkpoint,
    /// if there is one. Whoever drops the future drops the audit, too: what runs then ends by itself.
    ///
    /// # Errors
    /// Kafka does not answer, or a transaction hangs. The next round goes on where this one ended.
    ///
    /// # Panics
    /// If an earlier round was dropped before its end.
    pub async fn round(&mut self, checkpoint: Option<ProgressRecord>) -> Result<Vec<Fault>, KafkaFault> {
        let mut history = self.history.take().expect("a round is not dropped half-way");
        let (history, outcome) = self
            .calls
            .run(move || {
                let outcome = history.round(checkpoint);
                (history, outcome)
            })
            .await;
        let faults = self.history.insert(history).audit.take_faults();
        outcome.map(|()| faults)
    }

    /// The next offset of the progress topic.
    pub fn progress_offset(&self) -> i64 {
        self.history.as_ref().map_or(0, History::progress_offset)
    }

    /// What was looked at so far.
    pub fn looked(&self) -> Looked {
        self.history.as_ref().map(|history| history.audit.looked()).unwrap_or_default()
    }
}

/// The clients are let go on their thread, where the library may take its time.
impl Drop for KafkaAudit {
    fn drop(&mut self) {
        let history = self.history.take();
        self.calls.submit(move || drop(history));
    }
}

/// Where an audit begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    AtTheStart,
    /// Until the first round is over.
    NearTheEnd,
}

/// How many offsets before the end of a data partition an audit of what comes begins.
const TAIL: i64 = 1000;

struct History {
    audit: Audit,
    delivery: Delivery,
    begin: Begin,
    committed: Arc<BaseConsumer<Told>>,
    /// Told of what is written and not yet committed; reads nothing.
    written: BaseConsumer<Told>,
    prefix: String,
    progress: String,
    markers: String,
    /// The next offset of each partition that was begun; the protocol's topics, too.
    next: BTreeMap<(String, i32), i64>,
    cancelled: Cancelled,
}

/// What is new in a data partition.
struct Span {
    topic: String,
    partition: i32,
    next: i64,
    end: i64,
    /// Kafka has removed what was before.
    is_cut: bool,
}

/// A data partition in a round.
struct Source {
    topic: String,
    partition: i32,
    /// Where this round ends.
    end: i64,
    /// Kafka has removed what was before.
    is_cut: bool,
    queue: PartitionQueue<Told>,
    head: Option<Head>,
    over: bool,
}

/// The next record of a partition.
struct Head {
    rank: Rank,
    place: Place,
    published: Published,
    /// Where it may stand there again.
    content: Option<Content>,
}

impl History {
    fn new(
        target: &KafkaTarget,
        delivery: Delivery,
        dense: bool,
        begin: Begin,
        cancelled: Cancelled,
    ) -> Result<Self, KafkaFault> {
        let failed = |error: KafkaError| KafkaFault::from_error(&error, "create a reader");
        let mut reader = target.reader();
        // What is fetched ahead is all that takes memory here.
        reader.set("queued.max.messages.kbytes", "1024").set("queued.min.messages", "1000");
        if begin == Begin::NearTheEnd {
            reader.set("fetch.message.max.bytes", "65536").set("fetch.max.bytes", "1048576");
        }
        let mut ends = target.reader();
        ends.set("isolation.level", "read_uncommitted");
        let progress = progress_topic(&target.topic_prefix);
        Ok(History {
            audit: Audit::new(&progress, delivery, dense),
            delivery,
            begin,
            committed: Arc::new(reader.create_with_context(Told::default()).map_err(failed)?),
            written: ends.create_with_context(Told::default()).map_err(failed)?,
            prefix: target.topic_prefix.clone(),
            progress,
            markers: markers_topic(&target.topic_prefix),
            next: BTreeMap::new(),
            cancelled,
        })
    }

    fn progress_offset(&self) -> i64 {
        self.next.get(&(self.progress.clone(), 0)).copied().unwrap_or(0)
    }

    fn round(&mut self, checkpoint: Option<ProgressRecord>) -> Result<(), KafkaFault> {
        if let Some(record) = checkpoint {
            self.audit.checkpoint(record);
        }
        let (progress, markers) = (self.progress.clone(), self.markers.clone());
        let metadata = self.metadata()?;
        if metadata.topics().iter().any(|topic| topic.name() == markers && !topic.partitions().is_empty()) {
            self.read_log(&markers, |audit, offset, value| audit.marker(&markers, offset, value))?;
        }
        self.read_progress(&progress)?;
        if self.begin == Begin::NearTheEnd {
            self.audit.cut_here();
        }
        let held = self.read_data(&metadata)?;
        self.begin = Begin::AtTheStart;
        self.read_progress(&progress)?;
        self.audit.progress_is_whole();
        for (place, published) in held {
            if !self.audit.is_recorded(&published) {
                self.audit.unrecorded(&place, &published);
            }
        }
        Ok(())
    }

    /// The topic of a pipeline that has none, or did not always have one, says nothing of what came later.
    fn read_progress(&mut self, topic: &str) -> Result<(), KafkaFault> {
        match self.delivery {
            Delivery::ExactlyOnce => self.read_log(topic, Audit::progress),
            Delivery::AtLeastOnce => Ok(()),
        }
    }

    /// Asks until it is answered or time is up.
    fn patiently<T>(
        &self,
        doing: &str,
        mut ask: impl FnMut() -> Result<Option<T>, KafkaError>,
    ) -> Result<T, KafkaFault> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let fault = match ask() {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => KafkaFault::Unreachable { reason: format!("{doing}: a transaction stays open") },
                Err(error) => passing(&error, doing)?,
            };
            // Takes what the library has to tell.
            let _ = (self.written.poll(Duration::ZERO), self.committed.poll(Duration::ZERO));
            if self.cancelled.is_set() || Instant::now() >= deadline {
                return Err(fault);
            }
            std::thread::sleep(ASK_AGAIN);
        }
    }

    /// The first offset that is there, and the end of what was written, once all below it is committed or aborted.
    fn span(&self, topic: &str, partition: i32) -> Result<(i64, i64), KafkaFault> {
        let doing = format!("read topic {topic}");
        let (start, end) =
            self.patiently(&doing, || self.written.fetch_watermarks(topic, partition, ADMIN_LIMIT).map(Some))?;
        self.patiently(&doing, || {
            let (_, readable) = self.committed.fetch_watermarks(topic, partition, ADMIN_LIMIT)?;
            Ok((readable >= end).then_some(()))
        })?;
        Ok((start, end))
    }

    fn metadata(&self) -> Result<Metadata, KafkaFault> {
        self.patiently("list the topics", || self.committed.fetch_metadata(None, ADMIN_LIMIT).map(Some))
    }

    /// Hands on what is new in a topic of one partition.
    fn read_log(&mut self, topic: &str, mut take: impl FnMut(&mut Audit, i64, &[u8])) -> Result<(), KafkaFault> {
        let (start, end) = self.span(topic, 0)?;
        let next = self.next.get(&(topic.to_owned(), 0)).copied().unwrap_or(start);
        if next >= end {
            return Ok(());
        }
        let doing = format!("read topic {topic}");
        let failed = |error: KafkaError| KafkaFault::from_error(&error, &doing);
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, 0, Offset::Offset(next)).map_err(failed)?;
        self.committed.assign(&assignment).map_err(failed)?;
        let mut silent_since = Instant::now();
        loop {
            match self.committed.poll(SLICE) {
                Some(Ok(message)) if message.offset() < end => {
                    silent_since = Instant::now();
                    take(&mut self.audit, message.offset(), message.payload().unwrap_or_default());
                }
                Some(Ok(_) | Err(KafkaError::PartitionEOF(0))) => break,
                Some(Err(error)) => drop(passing(&error, &doing)?),
                None => {}
            }
            self.give_up(silent_since, &doing)?;
        }
        self.next.insert((topic.to_owned(), 0), end);
        // Nothing is fetched any more from here on; a failure leaves an idle assignment behind.
        let _ = self.committed.unassign();
        Ok(())
    }

    fn give_up(&self, silent_since: Instant, doing: &str) -> Result<(), KafkaFault> {
        if self.cancelled.is_set() || silent_since.elapsed() > PATIENCE {
            return Err(KafkaFault::Unreachable { reason: format!("{doing}: no answer in time") });
        }
        Ok(())
    }

    /// Judges what the progress knows; returns the first record of each partition that it does not know yet.
    fn read_data(&mut self, metadata: &Metadata) -> Result<Vec<(Place, Published)>, KafkaFault> {
        let spans = self.new_spans(metadata)?;
        if self.begin == Begin::NearTheEnd {
            for Span { topic, partition, next, .. } in &spans {
                self.next.entry((topic.clone(), *partition)).or_insert(*next);
            }
        }
        let mut sources = self.assign(&spans)?;
        self.merge(&mut sources)
    }

    /// The partitions that have something new.
    fn new_spans(&self, metadata: &Metadata) -> Result<Vec<Span>, KafkaFault> {
        let mut spans = Vec::new();
        for topic in metadata.topics().iter().filter(|topic| is_table_topic(topic.name(), &self.prefix)) {
            for partition in topic.partitions() {
                let (topic, partition) = (topic.name().to_owned(), partition.id());
                let (start, end) = self.span(&topic, partition)?;
                // One that ends before what was read of it was made again.
                let begun = self.next.get(&(topic.clone(), partition)).copied().filter(|next| *next <= end);
                let first = match self.begin {
                    Begin::AtTheStart => start,
                    Begin::NearTheEnd => start.max(end - TAIL),
                };
                let next = begun.unwrap_or(first).max(start);
                if next < end {
                    spans.push(Span { topic, partition, next, end, is_cut: begun.is_none() && start > 0 });
                }
            }
        }
        Ok(spans)
    }

    /// A partition has its own queue before anything of it is fetched: what had come by the common one would be passed over.
    fn assign(&self, spans: &[Span]) -> Result<Vec<Source>, KafkaFault> {
        let doing = "read the topics of the tables";
        let failed = |error: KafkaError| KafkaFault::from_error(&error, doing);
        let lost = || KafkaFault::Failed { doing: doing.to_owned(), reason: "a partition has no queue".to_owned() };
        let (mut assignment, mut sources) = (TopicPartitionList::new(), Vec::new());
        for Span { topic, partition, next, end, is_cut } in spans {
            assignment.add_partition_offset(topic, *partition, Offset::Offset(*next)).map_err(failed)?;
            let queue = self.committed.split_partition_queue(topic, *partition).ok_or_else(lost)?;
            let (topic, partition, end, is_cut) = (topic.clone(), *partition, *end, *is_cut);
            sources.push(Source { topic, partition, end, is_cut, queue, head: None, over: false });
        }
        self.committed.assign(&assignment).map_err(failed)?;
        Ok(sources)
    }

    /// Judges all in the order of rank; returns what the progress does not know yet.
    fn merge(&mut self, sources: &mut [Source]) -> Result<Vec<(Place, Published)>, KafkaFault> {
        let mut held = Vec::new();
        let mut first = true;
        loop {
            for source in sources.iter_mut() {
                self.fill(source)?;
            }
            if std::mem::take(&mut first) {
                let cut = sources.iter().filter(|source| source.is_cut);
                let cut = cut.filter_map(|source| source.head.as_ref().map(|head| head.rank)).max();
                if let Some(rank) = cut {
                    self.audit.cut_at(rank);
                }
            }
            let least = sources
                .iter_mut()
                .filter(|source| source.head.is_some())
                .min_by_key(|source| source.head.as_ref().map(|head| head.rank));
            let Some(source) = least else {
                let _ = self.committed.unassign();
                return Ok(held);
            };
            let Some(Head { place, published, content, .. }) = source.head.take() else { continue };
            if self.audit.is_recorded(&published) {
                self.audit.data(&place, &published, content);
                self.next.insert((place.topic, place.partition), place.offset + 1);
            } else {
                // The rest of this partition waits with it.
                source.over = true;
                held.push((place, published));
            }
        }
    }

    /// Gets the partition's next record, or its end in this round.
    fn fill(&mut self, source: &mut Source) -> Result<(), KafkaFault> {
        let doing = format!("read topic {}", source.topic);
        let silent_since = Instant::now();
        while source.head.is_none() && !source.over {
            match source.queue.poll(SLICE) {
                Some(Ok(message)) if message.offset() < source.end => {
                    let place =
                        Place { topic: source.topic.clone(), partition: source.partition, offset: message.offset() };
                    let Some(published) = published(&message) else {
                        self.audit.foreign(&place);
                        continue;
                    };
                    let content = (self.delivery == Delivery::AtLeastOnce).then(|| content(&message));
                    if content.is_some_and(|content| self.audit.repeats(&place, &published, content)) {
                        self.next.insert((place.topic, place.partition), place.offset + 1);
                        continue;
                    }
                    source.head = Some(Head { rank: self.audit.rank(&published), place, published, content });
                }
                Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => {
                    source.over = true;
                    self.next.insert((source.topic.clone(), source.partition), source.end);
                }
                Some(Err(error)) => drop(passing(&error, &doing)?),
                None => match self.committed.poll(Duration::ZERO) {
                    Some(Ok(_)) => {
                        let reason = "a record came past its partition's queue".to_owned();
                        return Err(KafkaFault::Failed { doing, reason });
                    }
                    Some(Err(error)) => drop(passing(&error, &doing)?),
                    None => {}
                },
            }
            self.give_up(silent_since, &doing)?;
        }
        Ok(())
    }
}

fn published(message: &BorrowedMessage<'_>) -> Option<Published> {
    let headers = message.headers()?;
    let header = |name: &str| headers.iter().find(|header| header.key == name).and_then(|header| header.value);
    Published::read(header("pgbaton.id"), header("pgbaton.term"), header("pgbaton.chunk"))
}

/// Key and value, but for what a session adds of its own: when it processed the change, and what it read before.
fn content(message: &BorrowedMessage<'_>) -> Content {
    const OF_THE_SESSION: [&str; 4] = ["source", "ts_ms", "ts_us", "ts_ns"];
    let event =
        message.payload().and_then(|value| serde_json::from_slice::<BTreeMap<Cow<'_, str>, &RawValue>>(value).ok());
    let Some(event) = event else { return Content::of(&[message.key(), message.payload()]) };
    let fields = event.iter().filter(|(name, _)| !OF_THE_SESSION.contains(&name.as_ref()));
    let fields = fields.flat_map(|(name, value)| [Some(name.as_bytes()), Some(value.get().as_bytes())]);
    Content::of(&[message.key()].into_iter().chain(fields).collect::<Vec<_>>())
}
