//! The physical standbys of a primary, and how far they have flushed its WAL.

use pgbaton_core::{Lsn, Timeline};
use serde::Deserialize;

use super::ask_one;
use super::observation::hexadecimal;
use crate::sql::{QueryError, Sql};

/// Which standbys count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Those that commits wait for: `sync_state` is `sync` or `quorum`.
    ForSynchronous,
    /// Every one that streams.
    ForAll,
}

/// What a primary knows of its standbys at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Standbys {
    /// Identifies the cluster.
    pub system_identifier: u64,
    /// The timeline that is written; `None` on a standby.
    #[serde(deserialize_with = "hexadecimal")]
    pub timeline: Option<Timeline>,
    /// Where the next WAL record begins; `None` on a standby.
    pub insert_lsn: Option<Lsn>,
    /// All that count have flushed up to here; `None` when there is none.
    pub flushed: Option<Lsn>,
    /// There are walsenders whose state this role may not see: pg_monitor is missing.
    pub hidden: bool,
}

/// Looks at the standbys of the server. Walsenders that read a logical slot are none: one of ours would wait for itself where
/// `synchronous_standby_names` is `*`.
///
/// # Errors
/// See [`QueryError`].
pub async fn standbys(sql: &mut impl Sql, waiting: Waiting) -> Result<Standbys, QueryError> {
    ask_one(sql, &statement(waiting), "the standbys").await
}

fn statement(waiting: Waiting) -> String {
    let counts = match waiting {
        Waiting::ForSynchronous => "r.sync_state IN ('sync', 'quorum')",
        Waiting::ForAll => "r.state = 'streaming'",
    };
    // The least is taken of what is known: one that counts and has told no position yet has flushed nothing. Where the next
    // record begins is looked at first: a standby that is found behind it is so for good.
    format!(
        "WITH now AS MATERIALIZED (\
           SELECT pg_catalog.pg_is_in_recovery() AS in_recovery, \
             CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_insert_lsn() END AS insert_lsn), \
         standby AS MATERIALIZED (\
           SELECT COALESCE(r.flush_lsn, '0/0'::pg_lsn) AS flush_lsn, COALESCE({counts}, false) AS counts, \
             r.state IS NULL AS hidden \
           FROM pg_catalog.pg_stat_replication r \
           WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s \
             WHERE s.active_pid = r.pid AND s.slot_type = 'logical')) \
         SELECT pg_catalog.jsonb_build_object(\
           'system_identifier', (SELECT system_identifier FROM pg_catalog.pg_control_system()), \
           'timeline', CASE WHEN NOT now.in_recovery \
             THEN pg_catalog.left(pg_catalog.pg_walfile_name(now.insert_lsn), 8) END, \
           'insert_lsn', now.insert_lsn, \
           'flushed', (SELECT pg_catalog.min(flush_lsn) FROM standby WHERE counts), \
           'hidden', (SELECT COALESCE(pg_catalog.bool_or(hidden), false) FROM standby)) \
         FROM now"
    )
}
