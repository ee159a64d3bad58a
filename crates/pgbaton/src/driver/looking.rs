//! What the ordinary connection shows, as the core knows it.

use pgbaton_core::{Lsn, Observation, SlotFacts, SystemIdentifier};
use pgbaton_postgres::catalog::{self, Claimant, SlotReader, SlotRow};
use pgbaton_postgres::{Conninfo, QueryError, Sql, connect_client};
use std::time::Duration;

/// Shown in status, and no decision depends on it.
#[derive(Debug, Clone)]
pub struct Extra {
    /// `server_version_num`.
    pub version: u32,
    /// WAL that the slot keeps.
    pub retained_bytes: Option<u64>,
    /// Where the server's WAL ends.
    pub write_position: Lsn,
    /// PostgreSQL itself holds the slot's reader back: `synchronized_standby_slots`, from 17 on.
    pub waits_for_standbys: bool,
}

/// The slot's row as facts.
pub fn facts(row: SlotRow) -> SlotFacts {
    SlotFacts {
        plugin: row.plugin,
        database: row.database,
        temporary: row.temporary,
        two_phase: row.two_phase,
        active_pid: row.active_pid,
        restart_lsn: row.restart_lsn,
        confirmed_flush_lsn: row.confirmed_flush_lsn,
        wal_status: row.wal_status,
        safe_wal_bytes: row.safe_wal_size,
        failover: row.failover.unwrap_or(false),
        invalidation_reason: row.invalidation_reason,
    }
}

/// One look.
pub async fn observe(mut sql: impl Sql, slot: &str, publication: &str) -> Result<(Observation, Extra), QueryError> {
    let seen = catalog::observe(&mut sql, slot).await?;
    let publication = catalog::membership(&mut sql, publication).await?;
    let extra = Extra {
        version: u32::try_from(seen.server_version).unwrap_or(0),
        retained_bytes: seen.retained_bytes(),
        write_position: seen.wal_lsn.unwrap_or(Lsn::INVALID),
        waits_for_standbys: seen.reader.as_ref().is_some_and(SlotReader::waits_for_standbys),
    };
    let observation = Observation {
        system_identifier: SystemIdentifier(seen.system_identifier),
        timeline: seen.timeline,
        in_recovery: seen.in_recovery,
        postmaster_started: seen.postmaster_start,
        write_position: extra.write_position,
        slot: seen.slot.map(facts),
        reader_waits: seen.reader.as_ref().is_some_and(SlotReader::has_nothing_to_send),
        reader_name: seen.reader.filter(|reader| reader.walsender).and_then(|reader| reader.application_name),
        publication_oid: publication.as_ref().map(|publication| publication.oid),
        members: publication.map_or_else(String::new, |publication| publication.members),
    };
    Ok((observation, extra))
}

/// Asks an older session's walsender to go, if it is safe to. Answers whether it was told.
pub async fn free_slot(conninfo: &Conninfo, slot: &str, claimant: &Claimant<'_>) -> Result<bool, String> {
    let connecting = connect_client(conninfo, "pgbaton", Some(Duration::from_secs(3)));
    let (client, _task) = connecting.await.map_err(|error| error.to_string())?;
    let found = catalog::terminate_stale(&mut &client, slot, claimant).await.map_err(|error| error.to_string())?;
    Ok(found.is_some_and(|reader| reader.terminated == Some(true)))
}
