//! Does Kafka answer? For a stalled sink that waits to go on, and for a standby that says whether it could take over.

use std::sync::Arc;
use std::time::Duration;

use super::calls::Calls;
use super::fault::KafkaFault;
use super::reader::Reader;
use super::target::KafkaTarget;
use crate::topic::progress_topic;

/// A client of its own that only asks.
pub struct KafkaProbe {
    /// Taken by `drop` only.
    reader: Option<Arc<Reader>>,
    calls: Calls,
    topic: String,
}

impl KafkaProbe {
    /// Creates the client; it connects by itself. Fails only on settings that cannot be used.
    pub fn new(target: &KafkaTarget) -> Result<Self, KafkaFault> {
        target.check()?;
        let calls = Calls::start("kafka-probe")
            .map_err(|error| KafkaFault::Failed { doing: "start a thread".to_owned(), reason: error.to_string() })?;
        let reader = Some(Arc::new(Reader::connect(target, calls.cancelled().clone())?));
        let topic = progress_topic(&target.topic_prefix);
        Ok(KafkaProbe { reader, calls, topic })
    }

    /// Asks for the progress topic, whether it is there or not, at most for `limit`.
    pub async fn check(&self, limit: Duration) -> Result<(), KafkaFault> {
        let reader = Arc::clone(self.reader.as_ref().expect("it is taken by drop only"));
        let topic = self.topic.clone();
        self.calls.run(move || reader.metadata_within(&topic, limit).map(drop)).await
    }
}

/// The client is let go on its thread, where the library may take its time.
impl Drop for KafkaProbe {
    fn drop(&mut self) {
        let reader = self.reader.take();
        self.calls.submit(move || drop(reader));
    }
}

impl std::fmt::Debug for KafkaProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaProbe").field("topic", &self.topic).finish_non_exhaustive()
    }
}
