//! Inspect: the replication connection itself is asked who it is. A worker never trusts the route to it.

use std::collections::HashMap;
use std::time::Duration;

use pgbaton_core::{Code, Failure, Inspection, Lsn, ReplicaIdentity, Server, SlotState, SystemIdentifier, hash_of};
use pgbaton_postgres::{Conninfo, QueryError, ReplicationConnection, catalog};
use pgbaton_sinks::table_topic;
use tokio::time::timeout;

use super::eager::eagerly;
use super::{failures, looking};
use crate::config::PostgresConfig;
use crate::renewal::Broken;
use crate::secret::Secret;

/// Connect, authenticate and look: the first try. Behind a proxy a connection may hang on a server that has just gone.
pub const FIRST_LIMIT: Duration = Duration::from_secs(1);
/// The limit doubles with every try that it ends, up to this.
pub const LAST_LIMIT: Duration = Duration::from_secs(10);

/// While a connection hangs, another one is tried beside it after so long.
const EAGER: Duration = Duration::from_millis(250);

/// What a pipeline reads from.
pub struct Wanted {
    /// The slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// The database.
    pub database: String,
    /// Topics begin with it.
    pub topic_prefix: String,
}

/// The connection string with its password, which is read from its file now.
pub fn conninfo(settings: &PostgresConfig) -> Result<Conninfo, Broken> {
    let conninfo = Conninfo::parse(settings.url.expose())
        .map_err(|error| Broken { code: Code::ConfigInvalid, text: error.to_string() })?;
    let password = match &settings.password_file {
        Some(file) => Some(Secret::read(file).map_err(|error| Broken::secret(file, &error))?),
        None => settings.password.clone(),
    };
    Ok(conninfo.with_password(password.map(|password| pgbaton_postgres::Secret::new(password.expose()))))
}

type Found = (ReplicationConnection, Inspection, HashMap<u32, Vec<String>>);

/// Opens the replication connection and looks at everything that a verdict needs.
pub async fn inspect(conninfo: &Conninfo, wanted: &Wanted, limit: Duration) -> Result<Found, Failure> {
    let attempt = async || {
        let mut connection =
            ReplicationConnection::connect(conninfo, "pgbaton/").await.map_err(|error| failures::connect(&error))?;
        let (inspection, keys) = look(&mut connection, wanted).await?;
        Ok((connection, inspection, keys))
    };
    match timeout(limit, eagerly(EAGER, attempt)).await {
        Ok(found) => found,
        Err(_) => {
            let detail = format!("connecting and looking took more than {} s", limit.as_secs());
            Err(failures::passing(Code::PostgresUnreachable, detail))
        }
    }
}

async fn look(
    connection: &mut ReplicationConnection,
    wanted: &Wanted,
) -> Result<(Inspection, HashMap<u32, Vec<String>>), Failure> {
    let refused = |error: QueryError| failures::query(&error);
    let identity = connection.identify_system().await.map_err(refused)?;
    let history = connection.timeline_history(identity.timeline).await.map_err(refused)?;
    let seen = catalog::observe(connection, &wanted.slot).await.map_err(refused)?;
    // Before the tables: what is altered in between shows when the stream is looked at.
    let membership = catalog::membership(connection, &wanted.publication).await.map_err(refused)?;
    let publication = catalog::publication(connection, &wanted.publication).await.map_err(refused)?;
    let backend_pid = connection.backend_pid();

    let mut keys = HashMap::new();
    let (mut tables, mut topics) = (String::new(), Vec::new());
    for table in publication.iter().flat_map(|publication| &publication.tables) {
        tables.push_str(&format!("{}\0{}\n", table.schema, table.table));
        let topic = table_topic(&wanted.topic_prefix, &table.schema, &table.table)
            .map_err(|error| failures::passing(Code::ConfigInvalid, error.to_string()))?;
        if topics.contains(&topic) {
            let detail =
                format!("table {}.{} and another one would both be written to {topic}", table.schema, table.table);
            return Err(failures::passing(Code::TopicCollision, detail));
        }
        topics.push(topic);
        if matches!(table.identity, ReplicaIdentity::Full | ReplicaIdentity::Nothing) {
            let key = match table.has_primary_key {
                true => catalog::primary_key(connection, table.oid).await.map_err(refused)?,
                false => Vec::new(),
            };
            keys.insert(table.oid, key);
        }
    }
    let slot = seen.slot.map(looking::facts);
    let inspection = Inspection {
        server: Server {
            system_identifier: SystemIdentifier(identity.system_identifier),
            history,
            write_position: identity.xlogpos.max(seen.wal_lsn.unwrap_or(Lsn::INVALID)),
            publication_oid: publication.as_ref().map(|publication| publication.oid),
        },
        in_recovery: seen.in_recovery,
        slot: SlotState::of(slot.as_ref(), &wanted.database),
        reader_pid: slot.as_ref().and_then(|slot| slot.active_pid),
        reader_name: seen.reader.filter(|reader| reader.walsender).and_then(|reader| reader.application_name),
        postmaster_started: seen.postmaster_start,
        backend_pid,
        tables_hash: hash_of(tables.as_bytes()),
        members: membership.map_or_else(String::new, |publication| publication.members),
        topics,
    };
    Ok((inspection, keys))
}
