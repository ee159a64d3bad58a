//! The publications that a tail needs: one that is there, or two of its own, made and dropped again.
//!
//! Two, because a publication of updates makes PostgreSQL *refuse* updates and deletes of tables without a replica
//! identity. A tool that looks must not do that: inserts of every table, updates and deletes only of those that can.

use std::time::Duration;

use pgbaton_postgres::{Conninfo, Meaning, QueryError, ReplicationConnection, SimpleRow, Sql, catalog, connect_client};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio::time::sleep;

use super::Watched;

/// Waiting for somebody's lock on a table is no reason to hold up others behind us for long.
const LOCK_TIMEOUT: &str = "3s";

/// Why there is no publication to read.
#[derive(Debug, thiserror::Error)]
pub enum Unmade {
    /// No such publication.
    #[error("there is no publication {0:?} in this database{1}")]
    Missing(String, String),
    /// No such table.
    #[error("there is no table {0} in this database; name it as in SQL: schema.table")]
    NoTable(String),
    /// The right to make one is missing.
    #[error("{reason}; let its owner, or a superuser, run: {statement}; and then: --publication watched")]
    Denied {
        /// What the server said.
        reason: String,
        /// What has to be run.
        statement: String,
    },
    /// A standby cannot make one.
    #[error("the server is a standby, where no publication can be made; name one by --publication")]
    Standby,
    /// Anything else.
    #[error("make a publication: {0}")]
    Query(#[from] QueryError),
}

/// What is read, and what of it is ours to drop.
pub(super) struct Publications {
    name: String,
    watched: Watched,
    /// From just before they are made on: a statement whose answer was not awaited may still have made them.
    made: bool,
}

impl Publications {
    pub fn new(name: &str, watched: &Watched) -> Self {
        Publications { name: name.to_owned(), watched: watched.clone(), made: false }
    }

    /// For `publication_names`.
    pub async fn make(
        &mut self,
        connection: &mut ReplicationConnection,
        note: &mut (dyn FnMut(String) + Send),
    ) -> Result<String, Unmade> {
        if let Watched::Publication(name) = &self.watched {
            if catalog::publication(connection, name).await?.is_none() {
                return Err(Unmade::Missing(name.clone(), others(connection).await?));
            }
            return Ok(escape_identifier(name));
        }
        sweep(connection, note).await?;
        let (subject, without_identity, keyed) = self.subject(connection).await?;
        if !without_identity.is_empty() {
            note(format!(
                "no updates and deletes are shown of tables without replica identity: {}",
                without_identity.join(", ")
            ));
        }
        // A wait for a lock ends by itself, and so does the whole where we went away.
        let settings = format!("SET lock_timeout = '{LOCK_TIMEOUT}'");
        connection.query(&settings).await?;
        let name = &self.name;
        let mut statement = format!("CREATE PUBLICATION {name} FOR {subject} WITH (publish = 'insert, truncate')");
        let mut names = name.clone();
        if !keyed.is_empty() {
            let tables = keyed.join(", ");
            statement.push_str(&format!(
                "; CREATE PUBLICATION {name}_keyed FOR TABLE {tables} WITH (publish = 'update, delete')"
            ));
            names.push_str(&format!(",{name}_keyed"));
        }
        self.made = true;
        match connection.query(&statement).await {
            Ok(_) => Ok(names),
            Err(error) => Err(match error.meaning() {
                Meaning::PermissionDenied => {
                    let statement = format!("CREATE PUBLICATION watched FOR {subject}");
                    Unmade::Denied { reason: error.to_string(), statement }
                }
                Meaning::InRecovery => Unmade::Standby,
                _ => error.into(),
            }),
        }
    }

    /// What is published, and of it: tables without and with replica identity.
    async fn subject(
        &self,
        connection: &mut ReplicationConnection,
    ) -> Result<(String, Vec<String>, Vec<String>), Unmade> {
        let (subject, which) = match &self.watched {
            Watched::Tables(tables) => {
                let mut roots = Vec::new();
                for table in tables {
                    roots.push(resolve(connection, table).await?);
                }
                let oids: Vec<_> = roots.iter().map(|(oid, _)| oid.clone()).collect();
                let oids = oids.join(",");
                let leaves = format!(
                    "c.oid IN ({oids}) OR c.oid IN (SELECT t.relid FROM pg_catalog.unnest(ARRAY[{oids}]::oid[]) AS root, \
                     pg_catalog.pg_partition_tree(root::regclass) AS t WHERE t.isleaf)"
                );
                let names: Vec<_> = roots.into_iter().map(|(_, name)| name).collect();
                (format!("TABLE {}", names.join(", ")), leaves)
            }
            _ => ("ALL TABLES".to_owned(), "c.oid >= 16384".to_owned()),
        };
        let rows = connection.query(&tables(&which)).await?;
        let named = |with: &str| {
            let rows = rows.iter().filter(|row| row.at(1) == Some(with));
            rows.filter_map(|row: &SimpleRow| row.at(0).map(str::to_owned)).collect::<Vec<_>>()
        };
        Ok((subject, named("f"), named("t")))
    }

    pub fn drop_statement(&self) -> String {
        format!("DROP PUBLICATION IF EXISTS {0}, {0}_keyed", self.name)
    }

    /// Takes away what was made, once the session that made it has gone.
    pub async fn drop(&self, conninfo: &Conninfo) -> Result<(), String> {
        if !self.made {
            return Ok(());
        }
        let (client, task) = connect_client(conninfo, "pgbaton tail", None).await.map_err(|error| error.to_string())?;
        // It may still be about to make them.
        let ours = format!("FROM pg_catalog.pg_stat_activity WHERE application_name = {}", escape_literal(&self.name));
        let end = format!("SELECT pg_catalog.pg_terminate_backend(pid) {ours}");
        let dropped = async {
            while !(&client).rows(&end).await?.is_empty() {
                sleep(Duration::from_millis(20)).await;
            }
            (&client).rows(&self.drop_statement()).await
        };
        let dropped = dropped.await.map(drop).map_err(|error| error.to_string());
        drop(client);
        let _ = task.await;
        dropped
    }
}

/// OID and quoted name of a table that is named as in SQL.
async fn resolve(connection: &mut ReplicationConnection, table: &str) -> Result<(String, String), Unmade> {
    let statement = format!(
        "SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.oid = pg_catalog.to_regclass({}) AND c.relkind IN ('r', 'p')",
        escape_literal(table)
    );
    let rows = connection.query(&statement).await.map_err(|error| match error.db_error() {
        // Not a name as SQL has them.
        Some(db) if db.code == "42602" || db.code == "42601" => Unmade::NoTable(table.to_owned()),
        _ => error.into(),
    })?;
    let found = rows.first().and_then(|row| Some((row.at(0)?.to_owned(), row.at(1)?.to_owned())));
    found.ok_or_else(|| Unmade::NoTable(table.to_owned()))
}

/// Name, and whether old rows can be told apart, of the tables that hold rows.
fn tables(which: &str) -> String {
    format!(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), \
           c.relreplident = 'f' OR EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisvalid \
             AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE ({which}) AND c.relkind = 'r' AND c.relpersistence = 'p' \
           AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"
    )
}

async fn others(connection: &mut ReplicationConnection) -> Result<String, QueryError> {
    let rows = connection.query("SELECT pubname FROM pg_catalog.pg_publication ORDER BY 1").await?;
    let names: Vec<_> = rows.iter().filter_map(|row| row.at(0)).collect();
    Ok(if names.is_empty() { "; it has none".to_owned() } else { format!("; it has {}", names.join(", ")) })
}

/// Drops what tails that died have left, where we may. Each names its session as it names its publications.
async fn sweep(
    connection: &mut ReplicationConnection,
    note: &mut (dyn FnMut(String) + Send),
) -> Result<(), QueryError> {
    let left = connection
        .query(
            "SELECT pubname FROM pg_catalog.pg_publication \
             WHERE pubname ~ '^pgbaton_tail_[0-9a-f]{8}(_keyed)?$' AND pg_catalog.pg_has_role(pubowner, 'USAGE') \
               AND NOT pg_catalog.pg_is_in_recovery() AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity \
                 WHERE application_name = pg_catalog.left(pubname, 21))",
        )
        .await?;
    for name in left.iter().filter_map(|row| row.at(0)) {
        match connection.query(&format!("DROP PUBLICATION IF EXISTS {}", escape_identifier(name))).await {
            Ok(_) => note(format!("dropped publication {name}, which an earlier tail had left behind")),
            Err(error) => note(format!("publication {name} is left of an earlier tail: {error}")),
        }
    }
    Ok(())
}
