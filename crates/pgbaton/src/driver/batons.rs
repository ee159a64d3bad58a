//! The batons of one worker: what each of its pipelines has in hand, so that it does not take all of them from the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use pgbaton_core::Hand;

/// Shared by the loops of one worker. Held for a decision and never across an await.
pub struct Batons(Mutex<BTreeMap<String, bool>>);

impl Batons {
    /// Nothing is in hand.
    pub fn of<'p>(pipelines: impl IntoIterator<Item = &'p String>) -> Arc<Self> {
        Arc::new(Batons(Mutex::new(pipelines.into_iter().map(|name| (name.clone(), false)).collect())))
    }

    /// Lets a pipeline decide by what the others have in hand, while none of them decides; it answers whether it has its
    /// own from now on.
    pub fn decide(&self, pipeline: &str, decide: impl FnOnce(Hand) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = all.iter().filter(|(name, in_hand)| **in_hand && *name != pipeline).count();
        let in_hand = decide(Hand { others, pipelines: all.len() });
        all.insert(pipeline.to_owned(), in_hand);
    }
}
