//! What a worker is for a pipeline, as others care.

use serde::Serialize;

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
