//! The words of the status: states, roles and causes.

use serde::Serialize;

/// Where a pipeline stands in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineState {
    /// Starting.
    Boot,
    /// Waiting with a hand out.
    Standby,
    /// Trying to take the holder key.
    Contend,
    /// Looking at the server.
    Inspect,
    /// Fencing the sink and reading progress.
    Fence,
    /// The claim is committed; opening the stream.
    Recover,
    /// Publishing.
    Stream,
    /// The sink accepts nothing; the stream is closed on purpose, the lease is kept.
    SinkStalled,
    /// Ending what is in flight.
    Drain,
    /// Waiting before it tries again.
    Cooldown,
    /// Stopped on purpose until a person decides.
    Quarantine,
}

impl PipelineState {
    /// The state as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            PipelineState::Boot => "boot",
            PipelineState::Standby => "standby",
            PipelineState::Contend => "contend",
            PipelineState::Inspect => "inspect",
            PipelineState::Fence => "fence",
            PipelineState::Recover => "recover",
            PipelineState::Stream => "stream",
            PipelineState::SinkStalled => "sink_stalled",
            PipelineState::Drain => "drain",
            PipelineState::Cooldown => "cooldown",
            PipelineState::Quarantine => "quarantine",
        }
    }
}

/// What a worker is for a pipeline, as others care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It streams: PostgreSQL itself names it as the slot's reader.
    Active,
    /// It does not.
    Standby,
    /// It has stopped on purpose.
    Quarantined,
    /// It does not know yet.
    Starting,
}

impl Role {
    /// Every role.
    pub const ALL: &[Role] = &[Role::Active, Role::Standby, Role::Quarantined, Role::Starting];

    /// The role as it stands in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Active => "active",
            Role::Standby => "standby",
            Role::Quarantined => "quarantined",
            Role::Starting => "starting",
        }
    }
}

/// Why the streaming worker changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nobody had streamed before.
    Start,
    /// The holder was gone.
    HolderGone,
    /// The holder did not stream.
    HolderIdle,
    /// The holder said nothing.
    HolderSilent,
    /// The holder's lease ended.
    LeaseExpired,
    /// It was handed over.
    Handover,
}

impl Cause {
    /// The cause as it stands in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Start => "start",
            Cause::HolderGone => "holder_gone",
            Cause::HolderIdle => "holder_idle",
            Cause::HolderSilent => "holder_silent",
            Cause::LeaseExpired => "lease_expired",
            Cause::Handover => "handover",
        }
    }
}
