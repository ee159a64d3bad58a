//! Guards of the protocol, each taken away in turn: by what the simulated driver does or by what it tells the machine,
//! never by a switch in the code that ships.

use crate::model::{Bounds, Defence};

/// A guard that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    NoClaim,
    ReadBeforeInit,
    AckBeforeCommit,
    LsnsAcrossTimelines,
    WatermarkNotCut,
    NoPostStartCheck,
    DeadlineFromReply,
    TransactionalIdPerWorker,
    NoLeaseCheck,
    HighestAckWins,
    TerminateWithoutComparing,
    FencePerTenure,
    GuardByCreateRevision,
    ReuseAfterAbort,
    NoBracket,
    ReadBeforeOpen,
    TornNotRepeated,
    StrictlyBeyondFork,
    IdsByServerTimeline,
    TimelinesByNumber,
    GoneWithoutStream,
    PublishedBeforeFlushed,
}

impl Mutant {
    pub const ALL: [(Mutant, &'static str); 22] = [
        (Mutant::NoClaim, "no_claim"),
        (Mutant::ReadBeforeInit, "read_before_init"),
        (Mutant::AckBeforeCommit, "ack_before_commit"),
        (Mutant::LsnsAcrossTimelines, "compare_lsns_across_timelines"),
        (Mutant::WatermarkNotCut, "watermark_not_cut_at_the_fork"),
        (Mutant::NoPostStartCheck, "no_post_start_slot_check"),
        (Mutant::DeadlineFromReply, "deadline_counted_from_the_reply"),
        (Mutant::TransactionalIdPerWorker, "transactional_id_per_worker"),
        (Mutant::NoLeaseCheck, "no_lease_check"),
        (Mutant::HighestAckWins, "highest_ack_wins"),
        (Mutant::TerminateWithoutComparing, "terminate_without_comparing"),
        (Mutant::FencePerTenure, "fence_per_tenure"),
        (Mutant::GuardByCreateRevision, "guard_by_create_revision"),
        (Mutant::ReuseAfterAbort, "instance_reused_after_an_abort"),
        (Mutant::NoBracket, "no_bracket"),
        (Mutant::ReadBeforeOpen, "progress_read_before_the_open"),
        (Mutant::TornNotRepeated, "torn_not_repeated"),
        (Mutant::StrictlyBeyondFork, "final_lsn_strictly_beyond_the_fork"),
        (Mutant::IdsByServerTimeline, "ids_by_the_servers_timeline"),
        (Mutant::TimelinesByNumber, "timelines_compared_by_number"),
        (Mutant::GoneWithoutStream, "gone_without_having_had_the_stream"),
        (Mutant::PublishedBeforeFlushed, "published_before_standbys_have_flushed"),
    ];

    /// Where it shows in the model: what was removed there, and a world in which that matters.
    pub fn model(self) -> Option<(Bounds, &'static [Defence])> {
        let torn = Bounds { doubled_ends: 1, doubling_is_noticed: false, breaks: 2, streaming: true, ..Bounds::QUIET };
        match self {
            // It takes two sessions that end between a transaction that is torn and the next commit.
            Mutant::TornNotRepeated => Some((torn, &[Defence::TornRepeated])),
            _ => None,
        }
    }

    pub fn parse(name: &str) -> Option<Mutant> {
        Mutant::ALL.iter().find(|(_, known)| *known == name).map(|(mutant, _)| *mutant)
    }
}
