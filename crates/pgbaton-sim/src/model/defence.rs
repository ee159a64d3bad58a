//! What can be taken away from the protocol, and how much may go wrong.

use pgbaton_core::Code;

/// One defence of the protocol. Each can be removed, by a patch of the world and never of the shipped code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defence {
    /// An instance whose commit may have been sent twice never begins again.
    InstanceRule,
    /// An instance that has sent an abort never begins again.
    AbortEndsInstance,
    /// Each transaction begins with an `open`.
    Bracket,
    /// The `open` is acknowledged before anything else of its transaction is sent.
    OpenFirst,
    /// Everything else is acknowledged before the `close` is sent.
    CloseLast,
    /// A torn transaction is read back; without it, nobody looks for unclosed `open`s.
    ReadBack,
    /// Every later record repeats `torn` until the position has passed it.
    TornRepeated,
    /// An event is skipped if a greater id of its key was found, too.
    GreaterIdOfKey,
    /// A session commits its claim before it streams.
    Claim,
    /// Progress is read after the producer was initialised.
    ReadAfterInit,
    /// Progress is read until its readable end is the session's own `open`.
    ReadToOwnOpen,
    /// Only what is committed is read.
    ReadCommitted,
    /// A session whose commit went unanswered is over, and its position forgotten.
    FencePerSession,
    /// All workers share one transactional id.
    SharedTransactionalId,
    /// The holder key is read again between progress and claim.
    KeyReadAgain,
    /// Without an answer from etcd a worker goes on only behind a claim of its own tenure.
    LastClaimIsOwn,
    /// A worker that was fenced begins again only when etcd has answered.
    FencedAsksEtcd,
    /// A verdict stops the pipeline only if the holder key is read again, too.
    KeyReadBeforeVerdict,
    /// An etcd that was left is not returned to.
    ClustersLeft,
    /// Brokers verify that a partition belongs to the transaction (Kafka 3.6).
    PartitionVerification,
    /// PostgreSQL is told of a position only when it is durable.
    AckAfterCommit,
}

impl std::fmt::Display for Defence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Defence::InstanceRule => "an instance whose commit may have been sent twice never begins again",
            Defence::AbortEndsInstance => "an instance that has sent an abort never begins again",
            Defence::Bracket => "each transaction begins with an `open`",
            Defence::OpenFirst => "the `open` is acknowledged before anything else of its transaction is sent",
            Defence::CloseLast => "everything else is acknowledged before the `close` is sent",
            Defence::ReadBack => "a torn transaction is looked for and read back",
            Defence::TornRepeated => "`torn` is repeated until the position has passed it",
            Defence::GreaterIdOfKey => "an event is skipped if a greater id of its key was found",
            Defence::Claim => "a session commits its claim before it streams",
            Defence::ReadAfterInit => "progress is read after the producer was initialised",
            Defence::ReadToOwnOpen => "progress is read until its readable end is the session's own `open`",
            Defence::ReadCommitted => "only what is committed is read",
            Defence::FencePerSession => "a session whose commit went unanswered is over, and its position forgotten",
            Defence::SharedTransactionalId => "all workers share one transactional id",
            Defence::KeyReadAgain => "the holder key is read again between progress and claim",
            Defence::LastClaimIsOwn => "without etcd a worker goes on only behind a claim of its own tenure",
            Defence::FencedAsksEtcd => "a worker that was fenced begins again only when etcd has answered",
            Defence::KeyReadBeforeVerdict => "a verdict stops the pipeline only if the holder key is read again",
            Defence::ClustersLeft => "an etcd that was left is not returned to",
            Defence::PartitionVerification => "brokers verify that a partition belongs to the transaction",
            Defence::AckAfterCommit => "PostgreSQL is told of a position only when it is durable",
        })
    }
}

/// How large the world is, and how much may go wrong in it.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// It begins with worker 1 streaming, its claim committed, and not with an empty Kafka.
    pub streaming: bool,
    /// PostgreSQL's transactions, each with the keys of its rows. Key `a` goes to the first data partition, all others to
    /// the second.
    pub log: &'static [&'static [char]],
    /// How many PostgreSQL transactions one Kafka transaction may hold.
    pub batch: u8,
    /// A PostgreSQL transaction of this many rows is cut into chunks.
    pub atomic_up_to: u64,
    /// How often the holder key is lost, to nobody's knowledge.
    pub lease_losses: u8,
    /// How often a session ends without a reason of its own.
    pub breaks: u8,
    /// How often the coordinator finds that a transaction was open for too long.
    pub time_outs: u8,
    /// How often the end of a transaction is sent twice, one copy of it being late.
    pub doubled_ends: u8,
    /// Whether the instance notices that its end was sent twice.
    pub doubling_is_noticed: bool,
    /// How often a reader is served by a leader of the progress partition that is none any more.
    pub stale_progress_reads: u8,
    /// The same for a data partition that is read back.
    pub stale_data_reads: u8,
    /// How often a record gives way to a later one of its key.
    pub compactions: u8,
    /// How often a worker comes to the other etcd, and etcd is restored to a time before the holder's.
    pub etcd_faults: u8,
    /// How often etcd ceases to answer a worker, until it does again.
    pub etcd_cuts: u8,
    /// Whether PostgreSQL is told of positions.
    pub acknowledges: bool,
    /// The verdict that this world may come to; any other is a broken law.
    pub verdict: Option<Code>,
    /// Every record is written in a step of its own, even where nobody can tell.
    pub step_by_step: bool,
    /// No further than this many claims.
    pub claims: usize,
}

impl Bounds {
    /// Two transactions, two data partitions, nothing goes wrong.
    pub const QUIET: Bounds = Bounds {
        streaming: false,
        log: &[&['a'], &['b', 'a']],
        batch: 1,
        atomic_up_to: 100,
        lease_losses: 0,
        breaks: 0,
        time_outs: 0,
        doubled_ends: 0,
        doubling_is_noticed: true,
        stale_progress_reads: 0,
        stale_data_reads: 0,
        compactions: 0,
        etcd_faults: 0,
        etcd_cuts: 0,
        acknowledges: false,
        verdict: None,
        step_by_step: false,
        claims: usize::MAX,
    };
}
