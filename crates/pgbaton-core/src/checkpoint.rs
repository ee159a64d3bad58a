//! The checkpoint in etcd. Beside a sink that keeps progress itself it is a witness that progress exists; where the sink
//! cannot (at least once) it *is* the progress: a position record that whoever reads it can go on from.
//!
//! A pipeline may change between the two. Each of its claims takes a greater term than both have recorded, so the greater
//! term is the newer one, wherever it stands.

use serde::{Deserialize, Serialize};

use crate::{InvalidRecord, ProgressRecord, hash_of};

/// The value of the key where the checkpoint is the progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The pipeline's name.
    pub pipeline: String,
    /// The topics that it tells of begin with this.
    pub topic_prefix: String,
    /// When it was written, RFC 3339 in UTC. Shown, and nothing is decided by it.
    pub at: String,
    /// All that a record of the progress topic says.
    #[serde(flatten)]
    pub record: ProgressRecord,
}

impl Checkpoint {
    /// The value as it is written.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record of strings and numbers always serialises")
    }

    /// Reads a value; none for a mere witness.
    pub fn from_bytes(value: &[u8]) -> Result<Option<Self>, InvalidRecord> {
        #[derive(Deserialize)]
        struct Version {
            v: Option<u32>,
        }
        let malformed = |error: serde_json::Error| InvalidRecord::Malformed(error.to_string());
        let Version { v } = serde_json::from_slice(value).map_err(malformed)?;
        match v {
            None => Ok(None),
            Some(crate::PROGRESS_VERSION) => serde_json::from_slice(value).map(Some).map_err(malformed),
            Some(newer) => Err(InvalidRecord::Version(newer)),
        }
    }
}

/// Which of the two places a position was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// From the progress topic; no checkpoint is newer.
    Progress,
    /// From the progress topic; etcd did not answer, so a checkpoint may be newer.
    ProgressAlone,
    /// From the checkpoint. More may have been published than it says.
    Checkpoint,
}

/// The position to go on from: the newer one of what both places hold, with the hash that the next record names.
pub fn newer(
    checkpoint: Option<&ProgressRecord>,
    progress: Option<(ProgressRecord, String)>,
) -> (Option<(ProgressRecord, String)>, ReadFrom) {
    match (checkpoint, progress) {
        // Equal terms: the claim that went to both, and only the checkpoint has moved since.
        (Some(checkpoint), progress) if progress.as_ref().is_none_or(|(record, _)| record.term <= checkpoint.term) => {
            let hash = hash_of(&checkpoint.to_bytes());
            (Some((checkpoint.clone(), hash)), ReadFrom::Checkpoint)
        }
        (_, progress) => (progress, ReadFrom::Progress),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Term, first_open};

    fn of_term(term: u64, session: &str) -> ProgressRecord {
        ProgressRecord { term: Some(Term(term)), ..first_open(session, "w") }
    }

    #[test]
    fn a_checkpoint_reads_as_it_was_written_and_a_witness_is_none() {
        let checkpoint = Checkpoint {
            pipeline: "orders".into(),
            topic_prefix: "shop".into(),
            at: "now".into(),
            record: of_term(3, "s"),
        };
        assert_eq!(Checkpoint::from_bytes(&checkpoint.to_bytes()), Ok(Some(checkpoint)));
        assert_eq!(Checkpoint::from_bytes(br#"{"pipeline":"orders","term":3,"position":null}"#), Ok(None));
        assert_eq!(Checkpoint::from_bytes(br#"{"v":2}"#), Err(InvalidRecord::Version(2)));
        assert!(matches!(Checkpoint::from_bytes(b"by hand"), Err(InvalidRecord::Malformed(_))));
    }

    #[test]
    fn the_greater_term_is_newer_and_of_equal_ones_the_checkpoint() {
        let (old, new) = (of_term(4, "old"), of_term(5, "new"));
        let stored = |record: &ProgressRecord| Some((record.clone(), "hash".to_owned()));
        assert_eq!(newer(Some(&old), stored(&new)), (stored(&new), ReadFrom::Progress));
        assert_eq!(newer(None, None), (None, ReadFrom::Progress));
        for progress in [None, stored(&old), stored(&of_term(5, "other"))] {
            let (found, from) = newer(Some(&new), progress);
            assert_eq!((found.map(|(record, _)| record.session), from), (Some("new".into()), ReadFrom::Checkpoint));
        }
    }
}
