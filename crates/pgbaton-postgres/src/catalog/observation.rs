//! Everything that polling and inspecting look at, in one round trip and as of one moment.

use pgbaton_core::{Lsn, Timeline};
use serde::Deserialize;

use super::slot::{SlotRow, row_of};
use super::{ask_one, literal};
use crate::sql::{QueryError, Sql};

/// A server and the slot on it, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Observation {
    /// Identifies the cluster.
    pub system_identifier: u64,
    /// `server_version_num`: 150018 is 15.18.
    pub server_version: i32,
    /// It is a standby. Then `slot` is only a copy, and nothing of it may be trusted.
    pub in_recovery: bool,
    /// When the postmaster started, as text to be compared: a restart in between makes process ids mean others.
    pub postmaster_start: String,
    /// The timeline that is written; `None` on a standby.
    #[serde(deserialize_with = "hexadecimal")]
    pub timeline: Option<Timeline>,
    /// How far WAL has been written; `None` on a standby.
    pub wal_lsn: Option<Lsn>,
    /// The slot; `None` when there is none of that name.
    pub slot: Option<SlotRow>,
    /// Who sits on the slot; `None` when nobody does.
    pub reader: Option<SlotReader>,
}

/// The process that has a slot acquired.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SlotReader {
    /// Its process id.
    pub pid: i32,
    /// The name that it gave itself. Every role may read it.
    pub application_name: Option<String>,
    /// The role that it logged in as.
    pub user: Option<String>,
    /// It is listed in `pg_stat_replication`. An ordinary backend that reads the slot by SQL is not.
    pub walsender: bool,
    /// How far it has sent; `None` without pg_monitor, even for one's own role.
    pub sent_lsn: Option<Lsn>,
    /// How far its client says that it has received; as `sent_lsn`.
    pub write_lsn: Option<Lsn>,
    /// What it waits for; `None` when it does not, or without pg_monitor when the role is another one.
    pub wait_event: Option<String>,
}

impl SlotReader {
    /// A walsender that has sent all there is. Up to 16 the last letters of `WalSenderWaitForWAL` are large, from 17 on they are not.
    pub fn has_nothing_to_send(&self) -> bool {
        let waits = self.wait_event.as_deref().unwrap_or_default();
        waits == "WalSenderMain" || waits.eq_ignore_ascii_case("WalSenderWaitForWAL")
    }

    /// PostgreSQL holds it back until the standbys of `synchronized_standby_slots` have flushed what it would send: 17 and later.
    pub fn waits_for_standbys(&self) -> bool {
        self.wait_event.as_deref() == Some("WaitForStandbyConfirmation")
    }
}

impl Observation {
    /// WAL that the slot keeps from being removed, in bytes.
    pub fn retained_bytes(&self) -> Option<u64> {
        Some(self.wal_lsn?.bytes_since(self.slot.as_ref()?.restart_lsn?))
    }
}

/// Looks at the server and at the slot of that name. Needs no right beyond logging in; without pg_monitor some facts
/// about the reader are `None`.
///
/// # Errors
/// See [`QueryError`].
pub async fn observe(sql: &mut impl Sql, slot: &str) -> Result<Observation, QueryError> {
    ask_one(sql, &statement(slot), "observation of the slot").await
}

fn statement(slot: &str) -> String {
    let (row, name) = (row_of(slot), literal(slot));
    // The timeline is in the name of the WAL file. `pg_control_checkpoint` would lag behind it until the first
    // checkpoint after a promotion.
    format!(
        "SELECT pg_catalog.jsonb_build_object(\
           'system_identifier', (SELECT system_identifier FROM pg_catalog.pg_control_system()), \
           'server_version', pg_catalog.current_setting('server_version_num')::int, \
           'in_recovery', now.in_recovery, \
           'postmaster_start', pg_catalog.pg_postmaster_start_time()::text, \
           'timeline', CASE WHEN NOT now.in_recovery \
             THEN pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8) END, \
           'wal_lsn', CASE WHEN NOT now.in_recovery THEN pg_catalog.pg_current_wal_lsn() END, \
           'slot', {row}, \
           'reader', (SELECT pg_catalog.jsonb_build_object(\
               'pid', s.active_pid, 'application_name', a.application_name, 'user', a.usename, \
               'walsender', r.pid IS NOT NULL, 'sent_lsn', r.sent_lsn, 'write_lsn', r.write_lsn, \
               'wait_event', a.wait_event) \
             FROM pg_catalog.pg_replication_slots s \
             LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid \
             LEFT JOIN pg_catalog.pg_stat_replication r ON r.pid = s.active_pid \
             WHERE s.slot_name = {name} AND s.active_pid IS NOT NULL)) \
         FROM (SELECT pg_catalog.pg_is_in_recovery() AS in_recovery) AS now"
    )
}

pub(super) fn hexadecimal<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Timeline>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| u32::from_str_radix(&text, 16).map(Timeline).map_err(serde::de::Error::custom)).transpose()
}
