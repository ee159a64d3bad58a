//! The words for what a worker does and for how it came to stream, as status, logs and metrics have them.

use serde::Serialize;

/// A state as status shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing is known yet.
    Boot,
    /// Waiting with a hand out.
    Standby,
    /// Trying to take the lease.
    Contend,
    /// Looking at the server.
    Inspect,
    /// Fencing the sink and reading progress.
    Fence,
    /// Starting the stream.
    Recover,
    /// Streaming.
    Stream,
    /// The sink accepts nothing; the stream is closed on purpose, the lease is kept.
    SinkStalled,
    /// Closing.
    Drain,
    /// Waiting before standing by again.
    Cooldown,
    /// Stopped on purpose until the cause is gone or a person decides.
    Quarantine,
    /// Stopped for good: the last anybody sees of it is that it was closing.
    #[serde(rename = "drain")]
    Gone,
}

impl State {
    /// As it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Boot => "boot",
            State::Standby => "standby",
            State::Contend => "contend",
            State::Inspect => "inspect",
            State::Fence => "fence",
            State::Recover => "recover",
            State::Stream => "stream",
            State::SinkStalled => "sink_stalled",
            State::Drain | State::Gone => "drain",
            State::Cooldown => "cooldown",
            State::Quarantine => "quarantine",
        }
    }
}

/// How this worker came to stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nobody held the lease before, as far as this worker has seen.
    Start,
    /// The holder's lease ended.
    LeaseExpired,
    /// The holder handed over.
    Handover,
    /// The holder's connection ended, it does not answer, and the slot is free.
    HolderGone,
    /// The slot was idle, and the holder does not try to stream.
    HolderIdle,
    /// Nothing has been heard of the holder, by any way, while etcd answers.
    HolderSilent,
}

impl Cause {
    /// As it stands in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Start => "start",
            Cause::LeaseExpired => "lease_expired",
            Cause::Handover => "handover",
            Cause::HolderGone => "holder_gone",
            Cause::HolderIdle => "holder_idle",
            Cause::HolderSilent => "holder_silent",
        }
    }
}
