//! Freeing a slot from an older session of the same pipeline.

use serde::Deserialize;

use super::{ask, literal};
use crate::sql::{QueryError, Sql};

/// `application_name` holds at most this many bytes; a name that fills them may have been cut, its numbers with it.
const MAX_NAME: usize = 63;

/// Where a walsender waits that a signal ends at once, in small letters: up to 16 the last letters of WalSenderWaitForWAL are large,
/// from 17 on they are not. The last one is where 17 holds it back for standbys.
const HARMLESS: &str = "'walsendermain', 'walsenderwaitforwal', 'waitforstandbyconfirmation'";

/// The holder of the lease, who wants the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimant<'a> {
    /// Hash of the pipeline, eight hexadecimal digits, as in the `application_name` of its sessions.
    pub pipeline: &'a str,
    /// This boot's nonce, eight hexadecimal digits.
    pub nonce: &'a str,
    /// The revision of the lease that is held.
    pub revision: i64,
    /// The backend of the connection that wants to stream; never terminated.
    pub backend_pid: i32,
}

/// Who was found on the slot, and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StaleReader {
    /// The process on the slot.
    pub pid: i32,
    /// The name that it gave itself.
    pub application_name: Option<String>,
    /// It is a session of this pipeline with a smaller lease revision, or of this very boot with another process.
    pub stale: bool,
    /// Its client has read all that was sent, and it waits where a signal does no harm. `None` where pg_monitor would be
    /// needed to know, or its client has never sent a status. A walsender that is blocked on a full socket would be wedged by a signal.
    pub idle: Option<bool>,
    /// It was told to end: `stale` and `idle`. `None` where it was not.
    pub terminated: Option<bool>,
}

/// Ends the walsender on the slot if it is an older session of ours and can be ended safely: judged and done in one
/// statement, so that no process is hit that came in between. `None` when nobody sits on the slot.
///
/// # Errors
/// [`crate::Meaning::PermissionDenied`] when the walsender belongs to another role and pg_signal_backend is missing.
pub async fn terminate_stale(
    sql: &mut impl Sql,
    slot: &str,
    claimant: &Claimant<'_>,
) -> Result<Option<StaleReader>, QueryError> {
    ask(sql, &statement(slot, claimant), "reader of the slot").await
}

fn statement(slot: &str, claimant: &Claimant<'_>) -> String {
    let Claimant { revision, backend_pid, .. } = claimant;
    let (slot, pipeline, nonce) = (literal(slot), literal(claimant.pipeline), literal(claimant.nonce));
    // MATERIALIZED, so that the name is judged once and before anything is done. A pid that is not in
    // pg_stat_replication is no walsender, and never ours.
    format!(
        "WITH reader AS MATERIALIZED (\
           SELECT s.active_pid AS pid, a.application_name, \
             CASE WHEN r.write_lsn IS NOT NULL THEN r.write_lsn = r.sent_lsn \
               AND COALESCE(pg_catalog.lower(a.wait_event) IN ({HARMLESS}), false) END AS idle, \
             CASE WHEN r.pid IS NOT NULL AND pg_catalog.octet_length(a.application_name) < {MAX_NAME} THEN \
               pg_catalog.regexp_match(a.application_name, \
                 '^pgbaton/([0-9a-f]{{8}})/[0-9a-f]{{8}}/([0-9a-f]{{8}})/t=[0-9]+/r=([0-9]+)$') END AS name \
           FROM pg_catalog.pg_replication_slots s \
           LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid \
           LEFT JOIN pg_catalog.pg_stat_replication r ON r.pid = s.active_pid \
           WHERE s.slot_name = {slot} AND s.active_pid IS NOT NULL), \
         judged AS MATERIALIZED (\
           SELECT *, pid <> {backend_pid} AND COALESCE(name[1] = {pipeline} \
             AND (name[3]::numeric < {revision} OR name[2] = {nonce} AND name[3]::numeric = {revision}), false) AS stale \
           FROM reader) \
         SELECT pg_catalog.jsonb_build_object('pid', pid, 'application_name', application_name, 'stale', stale, \
           'idle', idle, 'terminated', CASE WHEN stale AND idle THEN pg_catalog.pg_terminate_backend(pid) END) \
         FROM judged"
    )
}
