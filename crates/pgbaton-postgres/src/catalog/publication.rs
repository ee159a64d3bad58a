//! A publication: which tables it has, and whether their updates and deletes can be told apart.

use pgbaton_core::ReplicaIdentity;
use serde::Deserialize;

use super::{ask, ask_one, literal};
use crate::sql::{QueryError, Sql};

/// A publication and its tables.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Publication {
    /// `pg_publication.oid`: another one under the same name has another.
    pub oid: u32,
    /// FOR ALL TABLES.
    pub puballtables: bool,
    /// Inserts are published.
    pub pubinsert: bool,
    /// Updates are published.
    pub pubupdate: bool,
    /// Deletes are published.
    pub pubdelete: bool,
    /// Truncates are published.
    pub pubtruncate: bool,
    /// Changes of partitions are published as those of their root.
    pub pubviaroot: bool,
    /// Its tables, by schema and name.
    pub tables: Vec<PublishedTable>,
}

/// A table of a publication.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PublishedTable {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema name, unquoted.
    pub schema: String,
    /// Table name, unquoted.
    pub table: String,
    /// Its REPLICA IDENTITY.
    #[serde(deserialize_with = "identity")]
    pub identity: ReplicaIdentity,
    /// It has a primary key.
    pub has_primary_key: bool,
    /// The index that REPLICA IDENTITY names is there.
    pub has_identity_index: bool,
}

impl PublishedTable {
    /// Rows before a change can be told apart. Where they cannot, PostgreSQL refuses updates and deletes of the table
    /// itself as soon as they are published.
    pub fn has_identity(&self) -> bool {
        match self.identity {
            ReplicaIdentity::Default => self.has_primary_key,
            ReplicaIdentity::Nothing => false,
            ReplicaIdentity::Full => true,
            ReplicaIdentity::Index => self.has_identity_index,
        }
    }
}

impl Publication {
    /// The tables whose updates or deletes this publication makes impossible.
    pub fn without_identity(&self) -> impl Iterator<Item = &PublishedTable> {
        let matters = self.pubupdate || self.pubdelete;
        self.tables.iter().filter(move |table| matters && !table.has_identity())
    }
}

/// The publication of that name in this database.
///
/// # Errors
/// See [`QueryError`].
pub async fn publication(sql: &mut impl Sql, name: &str) -> Result<Option<Publication>, QueryError> {
    let name = literal(name);
    let statement = format!(
        "SELECT pg_catalog.to_jsonb(p) || pg_catalog.jsonb_build_object(\
           'oid', p.oid::bigint, \
           'tables', (SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(\
               'oid', c.oid::bigint, 'schema', n.nspname, 'table', c.relname, 'identity', c.relreplident, \
               'has_primary_key', EXISTS (SELECT FROM pg_catalog.pg_index i \
                 WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid), \
               'has_identity_index', EXISTS (SELECT FROM pg_catalog.pg_index i \
                 WHERE i.indrelid = c.oid AND i.indisreplident AND i.indisvalid)) \
               ORDER BY n.nspname, c.relname), '[]') \
             FROM pg_catalog.pg_publication_tables t \
             JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname \
             JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename \
             WHERE t.pubname = p.pubname)) \
         FROM pg_catalog.pg_publication p WHERE p.pubname = {name}"
    );
    ask(sql, &statement, "pg_publication").await
}

/// Which publication it is and what it names, to see that it is another one or was altered.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Membership {
    /// `pg_publication.oid`.
    pub oid: u32,
    /// The rows by which it names tables and schemas, as text to compare. A table that was taken out and put in again has
    /// another row. Those of a publication for all tables are none, whatever tables there are.
    pub members: String,
}

/// What a publication names; cheap, for looks that come often.
///
/// # Errors
/// See [`QueryError`].
pub async fn membership(sql: &mut impl Sql, name: &str) -> Result<Option<Membership>, QueryError> {
    let name = literal(name);
    let rows_of = |table: &str, column: &str| {
        format!(
            "(SELECT pg_catalog.string_agg(m.oid::text, ',' ORDER BY m.oid) \
             FROM pg_catalog.{table} m WHERE m.{column} = p.oid)"
        )
    };
    let (tables, schemas) = (rows_of("pg_publication_rel", "prpubid"), rows_of("pg_publication_namespace", "pnpubid"));
    let statement = format!(
        "SELECT pg_catalog.jsonb_build_object(\
           'oid', p.oid::bigint, \
           'members', pg_catalog.md5(pg_catalog.concat(p.puballtables, '/', {tables}, '/', {schemas}))) \
         FROM pg_catalog.pg_publication p WHERE p.pubname = {name}"
    );
    ask(sql, &statement, "pg_publication").await
}

/// The names of the primary key's columns of a table, in the key's order; empty without a primary key.
///
/// # Errors
/// See [`QueryError`].
pub async fn primary_key(sql: &mut impl Sql, relation: u32) -> Result<Vec<String>, QueryError> {
    // Columns behind `indnkeyatts` are only INCLUDEd.
    let statement = format!(
        "SELECT COALESCE(pg_catalog.jsonb_agg(a.attname ORDER BY k.place), '[]') \
         FROM pg_catalog.pg_index i \
         CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place) \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number \
         WHERE i.indrelid = {relation} AND i.indisprimary AND k.place <= i.indnkeyatts"
    );
    ask_one(sql, &statement, "primary key").await
}

fn identity<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<ReplicaIdentity, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "d" => Ok(ReplicaIdentity::Default),
        "n" => Ok(ReplicaIdentity::Nothing),
        "f" => Ok(ReplicaIdentity::Full),
        "i" => Ok(ReplicaIdentity::Index),
        other => Err(serde::de::Error::custom(format!("unknown replica identity {other:?}"))),
    }
}
