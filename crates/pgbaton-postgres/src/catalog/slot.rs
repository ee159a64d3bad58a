//! A row of `pg_replication_slots`, of any version from 14 on.

use pgbaton_core::Lsn;
use serde::Deserialize;

use super::{ask, literal};
use crate::sql::{QueryError, Sql};

/// A row of `pg_replication_slots`. What a version does not have reads as `None` or `false`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SlotRow {
    /// Its name.
    pub slot_name: String,
    /// The output plugin; `None` for a physical slot.
    pub plugin: Option<String>,
    /// `logical` or `physical`.
    pub slot_type: String,
    /// The database that it decodes; `None` for a physical slot.
    pub database: Option<String>,
    /// It goes with the session that made it.
    pub temporary: bool,
    /// It decodes prepared transactions before they are committed.
    #[serde(default)]
    pub two_phase: bool,
    /// Somebody reads it. On a standby this flickers: Patroni advances its copies.
    pub active: bool,
    /// The backend that reads it.
    pub active_pid: Option<i32>,
    /// The oldest WAL that it keeps.
    pub restart_lsn: Option<Lsn>,
    /// Everything that committed below was confirmed, and is not sent again unless asked for.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes of WAL that may still be written before it may be lost.
    pub safe_wal_size: Option<i64>,
    /// Synchronised to standbys by PostgreSQL itself (17 on).
    pub failover: Option<bool>,
    /// A copy that PostgreSQL itself synchronised (17 on).
    pub synced: Option<bool>,
    /// Invalidated by a conflict with recovery (16 on).
    pub conflicting: Option<bool>,
    /// Why it was invalidated (17 on).
    pub invalidation_reason: Option<String>,
}

/// The slot of that name, whatever its kind and database.
///
/// # Errors
/// See [`QueryError`].
pub async fn slot(sql: &mut impl Sql, name: &str) -> Result<Option<SlotRow>, QueryError> {
    let statement = format!("SELECT {} ", row_of(name));
    ask(sql, &statement, "pg_replication_slots").await
}

/// An expression: the slot's row as JSON, or NULL.
pub(super) fn row_of(name: &str) -> String {
    let name = literal(name);
    format!("(SELECT pg_catalog.to_jsonb(s) FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = {name})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_an_old_and_of_a_new_version_are_both_read() {
        let old = r#"{"slot_name":"s","plugin":"pgoutput","slot_type":"logical","database":"app","temporary":false,
            "active":false,"active_pid":null,"restart_lsn":"0/1","confirmed_flush_lsn":"0/2","wal_status":"reserved",
            "safe_wal_size":null,"datoid":5,"xmin":null,"catalog_xmin":"739"}"#;
        let slot: SlotRow = serde_json::from_str(old).unwrap();
        assert_eq!(slot.confirmed_flush_lsn, Some(Lsn(2)));
        assert_eq!((slot.two_phase, slot.failover, slot.invalidation_reason), (false, None, None));
        let new = old.replace("\"datoid\":5", r#""failover":true,"synced":false,"invalidation_reason":"wal_removed""#);
        let slot: SlotRow = serde_json::from_str(&new).unwrap();
        assert_eq!(slot.invalidation_reason.as_deref(), Some("wal_removed"));
    }
}
