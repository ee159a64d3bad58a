//! Finds the place in the replayed stream where publishing goes on: drops what was published, demands the transaction that
//! proves continuity, and skips the published part of a large transaction while its hash is computed again.

use xxhash_rust::xxh3::Xxh3;

use crate::{Code, LastTransaction, Lsn, PartialTransaction, Resume};

/// What is to be done with the changes of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// It was published: drop it.
    Drop,
    /// Its first `skip` changes were published, the rest is new.
    Publish {
        /// Changes to skip.
        skip: u64,
        /// Chunks that they were published in.
        chunks: u64,
    },
}

/// The stream does not go on from where it was left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Discontinuity {
    /// `diverged` or `replay_mismatch`.
    pub code: Code,
    /// Where the contradiction was found.
    pub at: Lsn,
    /// For a person.
    pub text: String,
}

/// Compares the beginning of a stream with what was published.
#[derive(Debug)]
pub struct Replay {
    published_to: Lsn,
    proof: Option<LastTransaction>,
    partial: Option<PartialTransaction>,
}

impl Replay {
    /// The replay that a verdict asks for.
    pub fn new(resume: &Resume) -> Self {
        Replay { published_to: resume.position.lsn, proof: resume.continuity.clone(), partial: resume.partial.clone() }
    }

    /// True once the stream has shown that it holds what was published last.
    pub fn has_proof(&self) -> bool {
        self.proof.is_none()
    }

    /// True once the stream has shown that it goes on where we left it.
    pub fn is_over(&self) -> bool {
        self.proof.is_none() && self.partial.is_none()
    }

    /// A transaction begins, given by its Begin message (`final_lsn` is the start of its commit record).
    pub fn begin(&mut self, xid: u32, final_lsn: Lsn, committed_at: &str) -> Result<Treatment, Discontinuity> {
        if let Some(proof) = self.proof.take() {
            if (proof.xid, proof.final_lsn, proof.committed_at.as_str()) == (xid, final_lsn, committed_at) {
                return Ok(Treatment::Drop);
            }
            return Err(Discontinuity {
                code: Code::Diverged,
                at: final_lsn,
                text: format!(
                    "the last published transaction is {} with its commit at {}, the server has {xid} at {final_lsn} in its place",
                    proof.xid, proof.final_lsn
                ),
            });
        }
        // Commit records do not overlap and a position is the end of one (or a record boundary), so a commit that starts
        // below the position also ends there.
        if final_lsn < self.published_to {
            return Ok(Treatment::Drop);
        }
        match &self.partial {
            None => Ok(Treatment::Publish { skip: 0, chunks: 0 }),
            Some(partial) if (partial.xid, partial.final_lsn) == (xid, final_lsn) => {
                Ok(Treatment::Publish { skip: partial.changes_done, chunks: partial.chunks })
            }
            Some(partial) => Err(mismatch(
                final_lsn,
                format!(
                    "transaction {} with its commit at {} is published in part, but {xid} at {final_lsn} comes in its place",
                    partial.xid, partial.final_lsn
                ),
            )),
        }
    }

    /// The skipped part is complete: its hash must be the published one.
    pub fn skipped(&mut self, hash: &ChangesHash) -> Result<(), Discontinuity> {
        match self.partial.take() {
            Some(partial) if partial.hash != hash.text() => Err(mismatch(
                partial.final_lsn,
                format!(
                    "the first {} changes of transaction {} are not those that were published",
                    partial.changes_done, partial.xid
                ),
            )),
            _ => Ok(()),
        }
    }

    /// A transaction ended. One that should have been finished must not be shorter than what was published of it.
    pub fn commit(&mut self, treatment: Treatment) -> Result<(), Discontinuity> {
        match (&self.partial, treatment) {
            (Some(partial), Treatment::Publish { .. }) => Err(mismatch(
                partial.final_lsn,
                format!(
                    "transaction {} has fewer changes than the {} that were published of it",
                    partial.xid, partial.changes_done
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The server has sent everything that commits before `wal_end`. What must come and did not will not come any more.
    pub fn sent_up_to(&self, wal_end: Lsn) -> Result<(), Discontinuity> {
        if let Some(proof) = &self.proof
            && wal_end > proof.final_lsn
        {
            return Err(Discontinuity {
                code: Code::Diverged,
                at: proof.final_lsn,
                text: format!(
                    "the last published transaction ({} with its commit at {}) is not in the server's WAL",
                    proof.xid, proof.final_lsn
                ),
            });
        }
        match &self.partial {
            Some(partial) if wal_end > partial.final_lsn => Err(mismatch(
                partial.final_lsn,
                format!(
                    "transaction {} with its commit at {} is published in part and is not in the server's WAL",
                    partial.xid, partial.final_lsn
                ),
            )),
            _ => Ok(()),
        }
    }
}

fn mismatch(at: Lsn, text: String) -> Discontinuity {
    Discontinuity { code: Code::ReplayMismatch, at, text }
}

/// Rolling hash over the raw messages of a transaction's changes, before any filter or routing. (Encoded events carry
/// processing times and cannot be compared.) Not cryptographic: it guards against another stream, not against an enemy.
#[derive(Clone, Default)]
pub struct ChangesHash(Box<Xxh3>);

impl ChangesHash {
    /// Adds the next change. Its length goes in too, so that a boundary cannot move unnoticed.
    pub fn add(&mut self, message: &[u8]) {
        self.0.update(&(message.len() as u64).to_le_bytes());
        self.0.update(message);
    }

    /// Starts over.
    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// The hash as progress records carry it.
    pub fn text(&self) -> String {
        format!("{:032x}", self.0.digest128())
    }
}

impl std::fmt::Debug for ChangesHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}
