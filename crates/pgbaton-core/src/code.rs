//! The closed list of reasons that pgbaton gives. Each has its page in the operating guide.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// Why something is not as it should be.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &[Code] = &[$(Code::$variant),*];

            /// The code as it stands in JSON, metrics and logs.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text,)* }
            }
        }
    };
}

codes! {
    /// The slot does not exist.
    SlotMissing = "slot_missing",
    /// The slot's confirmed position is beyond what is durable: changes between are gone.
    SlotAhead = "slot_ahead",
    /// The slot's WAL was removed (`wal_status = lost`).
    SlotLost = "slot_lost",
    /// The slot was invalidated for another reason.
    SlotInvalidated = "slot_invalidated",
    /// WAL was removed under a valid slot.
    WalRemoved = "wal_removed",
    /// Progress existed once and is not to be found.
    ProgressMissing = "progress_missing",
    /// The progress topic could not be read up to our own record.
    ProgressBlocked = "progress_blocked",
    /// A transaction read again is not the transaction that was published in part.
    ReplayMismatch = "replay_mismatch",
    /// A data topic was deleted and created again.
    TopicRecreated = "topic_recreated",
    /// Another PostgreSQL cluster answers.
    WrongCluster = "wrong_cluster",
    /// The server's history has no timeline in common with ours.
    TimelineUnknown = "timeline_unknown",
    /// The server is on an older timeline than our progress.
    TimelineBackwards = "timeline_backwards",
    /// The server is a standby.
    InRecovery = "in_recovery",
    /// The server's history contradicts what was published.
    Diverged = "diverged",
    /// The slot has another plugin, database or kind.
    SlotWrongKind = "slot_wrong_kind",
    /// A consumer that is not ours reads the slot.
    SlotForeignHolder = "slot_foreign_holder",
    /// The publication does not exist.
    PublicationMissing = "publication_missing",
    /// The publication was dropped and created again.
    PublicationChanged = "publication_changed",
    /// Tables are not in the publication any more.
    PublicationShrunk = "publication_shrunk",
    /// The progress topic has settings that would lose progress, or holds what we cannot read.
    ProgressTopicInvalid = "progress_topic_invalid",
    /// Two tables would be written to one topic.
    TopicCollision = "topic_collision",
    /// A right is missing.
    PermissionDenied = "permission_denied",
    /// A password or user was refused.
    AuthFailed = "auth_failed",
    /// TLS could not be agreed on.
    TlsFailed = "tls_failed",
    /// The configuration is not valid.
    ConfigInvalid = "config_invalid",
    /// Another process uses this worker's name.
    DuplicateWorker = "duplicate_worker",
    /// PostgreSQL does not answer.
    PostgresUnreachable = "postgres_unreachable",
    /// Kafka does not answer.
    KafkaUnreachable = "kafka_unreachable",
    /// etcd does not answer.
    EtcdUnreachable = "etcd_unreachable",
    /// The sink accepts nothing; the stream is closed on purpose until it does.
    SinkStalled = "sink_stalled",
    /// Waiting for standbys to flush.
    BarrierWait = "barrier_wait",
    /// The sink refused our session for a newer one.
    Fenced = "fenced",
    /// etcd was restored or wiped.
    EtcdReset = "etcd_reset",
    /// Somebody has paused the pipeline.
    Paused = "paused",
    /// A Kafka transaction became visible in part.
    TornTransaction = "torn_transaction",
    /// What stands in the topics is not as it should be, as a standby that reads them has found.
    AuditViolation = "audit_violation",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
