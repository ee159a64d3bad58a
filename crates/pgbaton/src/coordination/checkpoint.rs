//! The checkpoint key: read as what it says, and put so that it follows from the one before it. What it means is decided by
//! the core.

use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse};
use pgbaton_core::{Checkpoint, InvalidRecord, ProgressRecord, Tenure};

use super::etcd::{Etcd, EtcdError};

/// What etcd says of progress.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// The position to go on from, if the checkpoint is the progress of these topics and no mere witness.
    pub record: Option<ProgressRecord>,
    /// Mod revision of the key; 0: there is none.
    pub revision: i64,
}

impl Kept {
    /// Why this cannot be a first start.
    pub fn witness(&self) -> Option<String> {
        (self.revision > 0).then(|| "etcd holds a checkpoint of this pipeline".to_owned())
    }
}

/// The checkpoint was not read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeptError {
    /// etcd did not answer.
    #[error("whether there was progress could not be asked: {0}")]
    Etcd(#[from] EtcdError),
    /// It is not what this version understands.
    #[error("the checkpoint in etcd: {0}")]
    Invalid(#[from] InvalidRecord),
}

/// What came of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpointed {
    /// It stands, at this mod revision.
    Put(i64),
    /// The holder key is not as it has to be.
    NotHolder,
    /// Another session under the same holder key has written one meanwhile.
    Overtaken,
}

impl Etcd {
    /// Reads the checkpoint, linearizable.
    pub async fn checkpoint(&self, topic_prefix: &str) -> Result<Kept, KeptError> {
        let Some(stored) = self.get("checkpoint", false).await?.into_iter().next() else {
            return Ok(Kept::default());
        };
        let found = Checkpoint::from_bytes(&stored.value)?.filter(|found| found.topic_prefix == topic_prefix);
        Ok(Kept { record: found.map(|found| found.record), revision: stored.revision })
    }

    /// Puts the checkpoint, which was at mod revision `before` (0: there was none), while the holder key is still that of the
    /// tenure; without one, while nobody holds it. May be repeated, and a put that comes late changes nothing: it is not the
    /// one that follows any more.
    pub async fn put_checkpoint(
        &self,
        value: Vec<u8>,
        tenure: Option<&Tenure>,
        before: i64,
    ) -> Result<Checkpointed, EtcdError> {
        let (holder, key) = (self.key("holder"), self.key("checkpoint"));
        // The lease as well: an etcd that was restored gives revisions out once more. Both are 0 where there is no key.
        let (revision, lease) = tenure.map_or((0, 0), |tenure| (tenure.revision, tenure.lease_id));
        let mut guards = vec![
            Compare::mod_revision(holder.clone(), CompareOp::Equal, revision),
            Compare::mod_revision(key.clone(), CompareOp::Equal, before),
        ];
        if tenure.is_some() {
            guards.push(Compare::lease(holder.clone(), CompareOp::Equal, lease));
        }
        let txn = Txn::new()
            .when(guards)
            .and_then([TxnOp::put(key.clone(), value.clone(), None)])
            .or_else([TxnOp::get(holder, None), TxnOp::get(key, None)]);
        let answer = self
            .anywhere(|mut client| {
                let txn = txn.clone();
                async move { client.txn(txn).await }
            })
            .await?;
        if answer.succeeded() {
            return Ok(Checkpointed::Put(answer.header().map_or(0, |header| header.revision())));
        }
        let found = answer.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(get) => get.kvs().first().cloned(),
            _ => None,
        });
        let [holder, checkpoint] = found.collect::<Vec<_>>().try_into().unwrap_or([None, None]);
        let holder = holder.map_or((0, 0), |kv| (kv.mod_revision(), kv.lease()));
        Ok(match checkpoint {
            _ if holder != (revision, lease) => Checkpointed::NotHolder,
            // An earlier try of this very put, whose answer was lost.
            Some(kv) if kv.value() == value => Checkpointed::Put(kv.mod_revision()),
            _ => Checkpointed::Overtaken,
        })
    }
}
