//! What happened, one line for each event: hashed always, written down only when somebody will read it.

use std::fmt::Write as _;

use xxhash_rust::xxh3::Xxh3;

use crate::time::Time;

/// The trace of one run.
pub(crate) struct Story {
    hash: Xxh3,
    /// None: only the hash is wanted.
    text: Option<String>,
}

impl Story {
    pub fn new(written: bool) -> Self {
        Story { hash: Xxh3::new(), text: written.then(String::new) }
    }

    /// An event happened. `draws` stands for all the randomness used so far: two runs that differ anywhere differ in it.
    pub fn tell(&mut self, now: Time, draws: u64, who: &str, what: impl FnOnce() -> String) {
        self.hash.update(&now.0.to_le_bytes());
        self.hash.update(&draws.to_le_bytes());
        self.hash.update(who.as_bytes());
        if let Some(text) = &mut self.text {
            let _ = writeln!(text, "{now:>12} {who:<9} {}", what());
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash.digest()
    }

    pub fn into_text(self) -> String {
        self.text.unwrap_or_default()
    }
}
