//! What may be asked of a pipeline's driver, and how it refuses.

use serde::Serialize;
use tokio::sync::oneshot;

/// Something a person asks of a pipeline's driver. It answers at once; what follows shows in the status.
#[derive(Debug)]
pub enum Command {
    /// Give the baton to another worker.
    Handover {
        /// To whom; to any that is able when it is not said.
        to: Option<String>,
        /// Whether it was begun.
        answer: Answer,
    },
    /// Stop the pipeline on every worker, until somebody resumes it.
    Pause(Answer),
    /// Let a paused pipeline go on.
    Resume(Answer),
    /// Accept the verdict that has stopped the pipeline.
    AcceptGap(Answer),
}

/// Tells whether a command was begun.
pub type Answer = oneshot::Sender<Result<(), Refused>>;

/// Why a command was not begun: not a fault, an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Refused {
    /// For programs: `not_holder`, `unknown_worker`, `no_gap`, `not_acceptable`, ...
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// What to do.
    pub fix: String,
    /// With `not_holder`: where the holder answers, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder_url: Option<String>,
}
