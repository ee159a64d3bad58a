//! Several pipelines in one worker, each with its own baton: who has enough of them lets the others go first. Nothing is moved
//! by it; it only orders who contends for what nobody holds, or what is to be taken over.

use std::time::Duration;

use super::{PEER_MOVES, Worker};
use crate::Moment;

/// Whoever has its share lets the others go first for this long.
pub(super) const OTHERS_FIRST: Duration = Duration::from_secs(2);

/// The batons of one worker, as one of its pipelines sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hand {
    /// How many it holds, or tries to hold, of other pipelines.
    pub others: usize,
    /// Pipelines that it has.
    pub pipelines: usize,
}

impl Default for Hand {
    fn default() -> Self {
        Hand { others: 0, pipelines: 1 }
    }
}

impl Hand {
    /// Would one more be more than the share: pipelines by live workers, rounded up?
    pub fn is_full(self, workers: usize) -> bool {
        self.others >= self.pipelines.div_ceil(workers.max(1))
    }
}

impl Worker {
    /// Has it as many as it should, with the workers that live? One that is to be replaced does not. Before anybody was
    /// seen to hold this one at least one other worker is reckoned with: it may just be starting, too.
    pub(super) fn has_its_share(&self, now: Moment, replaced: Option<&str>) -> bool {
        let live = |seen: &&super::Peer| now.since(seen.seen.moved_at) < PEER_MOVES;
        let others = self.peers.iter().filter(live).filter(|peer| replaced != Some(peer.seen.worker.as_str())).count();
        let unseen = self.last_holder.is_none() && others == 0;
        self.hand.is_full(1 + others + usize::from(unseen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_pipelines_by_workers_rounded_up() {
        let full = |others, pipelines, workers| Hand { others, pipelines }.is_full(workers);
        assert!(!full(1, 4, 2) && full(2, 4, 2), "two of four for each of two");
        assert!(!full(2, 5, 2) && full(3, 5, 2), "three of five");
        assert!(!full(3, 4, 1), "who is alone takes all");
        assert!(!full(0, 2, 5) && full(1, 2, 5), "one each, as long as there are some");
        assert!(!full(0, 1, 1) && !full(0, 1, 0), "a worker with one pipeline always tries");
    }
}
