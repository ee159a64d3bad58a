//! What a worker says of itself: the JSON of `GET /status`, and the board on which the driver publishes it. Nothing is
//! decided by it here.

mod board;
mod document;
mod parts;
mod role;

pub use board::{Board, Publisher, STILL_AFTER};
pub use document::{Coordination, PipelineStatus, WorkerStatus};
pub(crate) use parts::remaining;
pub use parts::{
    Audit, Counters, Divergence, Gap, Lag, Lease, Peer, Published, Reason, RepeatsFrom, Server, Sink, Slot, Switch,
};
pub use pgbaton_core::{Cause, State};
pub use role::Role;
