//! Who is at the other end of a replication connection: asked there and nowhere else, since a proxy may send each connection
//! to another server.

use pgbaton_core::{History, Lsn, Timeline};

use super::{ReplicationConnection, malformed};
use crate::malformed::Problem;
use crate::sql::{QueryError, SimpleRow};

/// The answer to IDENTIFY_SYSTEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Identifies the cluster that this server and its standbys belong to.
    pub system_identifier: u64,
    /// The timeline that the server writes, or replays, now.
    pub timeline: Timeline,
    /// How far its WAL is flushed.
    pub xlogpos: Lsn,
    /// The database of this connection.
    pub dbname: String,
}

impl ReplicationConnection {
    /// Which cluster this server belongs to, and where it is.
    ///
    /// # Errors
    /// As for [`Self::query`].
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, QueryError> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        let read = |row: &SimpleRow| {
            Some(SystemIdentity {
                system_identifier: row.get("systemid")?.parse().ok()?,
                timeline: Timeline(row.get("timeline")?.parse().ok()?),
                xlogpos: row.get("xlogpos")?.parse().ok()?,
                dbname: row.get("dbname")?.to_owned(),
            })
        };
        Ok(rows.first().and_then(read).ok_or(malformed("answer to IDENTIFY_SYSTEM", Problem::Value))?)
    }

    /// How the server came to a timeline. The first timeline has no history.
    ///
    /// # Errors
    /// As for [`Self::query`]; 58P01 where the server has no file for that timeline.
    pub async fn timeline_history(&mut self, timeline: Timeline) -> Result<History, QueryError> {
        if timeline == Timeline(1) {
            return Ok(History::new(Vec::new(), timeline));
        }
        const ANSWER: &str = "answer to TIMELINE_HISTORY";
        let answer = self.ask(&format!("TIMELINE_HISTORY {timeline}")).await?;
        // The file comes as it is on disk. Its comments may be in any encoding; what is needed is ASCII.
        let file = answer.first().and_then(|(_, values)| values.get(1)?.as_ref());
        let file = String::from_utf8_lossy(file.ok_or(malformed(ANSWER, Problem::Value))?);
        Ok(History::parse(&file, timeline).map_err(|_| malformed(ANSWER, Problem::Value))?)
    }
}
