//! Asks every now and then whether the topics still are those that were written to: one that is deleted and made again takes
//! records as if nothing had happened.

use std::collections::BTreeMap;
use std::time::Duration;

use pgbaton_core::{Code, Ids, SessionEnd};
use pgbaton_sinks::kafka::KafkaTarget;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::super::session::topic_ids;
use crate::renewal::Renewed;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(10);
/// A topic that was made just now may not be known to every broker.
const SOON: Duration = Duration::from_secs(1);

/// Looks for as long as it lives.
pub(super) struct TopicWatch {
    names: watch::Sender<Vec<String>>,
    found: mpsc::Receiver<BTreeMap<String, Option<String>>>,
    task: AbortHandle,
}

impl TopicWatch {
    /// Begins at once.
    pub fn start(target: Renewed<KafkaTarget>, topics: Vec<String>) -> Self {
        let (names, mut wanted) = watch::channel(topics);
        // The next look waits until the last one was taken.
        let (tell, found) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            loop {
                let topics = wanted.borrow_and_update().clone();
                let found = topic_ids(&target.get(), &topics).await;
                let pause = if found.values().any(Option::is_none) { SOON } else { PERIOD };
                if tell.send(found).await.is_err() {
                    return;
                }
                tokio::select! {
                    changed = wanted.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(pause) => {}
                }
            }
        });
        TopicWatch { names, found, task: task.abort_handle() }
    }

    /// One more to look at.
    pub fn add(&self, topic: String) {
        self.names.send_modify(|names| names.push(topic));
    }

    /// What was found since the last call, compared with what is known: topics that have become known.
    ///
    /// # Errors
    /// A topic is not the one that was written to. The next session sees whether that lasts.
    pub fn look(&mut self, known: &Ids) -> Result<Ids, SessionEnd> {
        let mut learned = Ids::new();
        while let Ok(found) = self.found.try_recv() {
            for (topic, id) in found {
                match (known.get(&topic), id) {
                    (Some(known), Some(id)) if *known == id => {}
                    (Some(_), found) => {
                        let what =
                            if found.is_some() { "was deleted and made again" } else { "does not exist any more" };
                        let detail = format!("topic {topic} {what}");
                        return Err(SessionEnd::Sink { code: Code::TopicRecreated, detail });
                    }
                    (None, Some(id)) => drop(learned.insert(topic, id)),
                    (None, None) => {}
                }
            }
        }
        Ok(learned)
    }
}

impl Drop for TopicWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
