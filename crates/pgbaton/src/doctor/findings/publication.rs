//! The publication: its tables, what of them is published, and whether their old rows can be told apart.

use std::collections::BTreeMap;

use pgbaton_sinks::table_topic;

use super::super::facts::{PostgresFacts, Wanted};
use super::{Finding, identifier, unless};

/// More names than this help nobody.
const SHOWN: usize = 10;

pub(super) fn judge(wanted: &Wanted, facts: &PostgresFacts) -> Vec<Finding> {
    let name = identifier(&wanted.publication);
    let Some(publication) = &facts.publication else {
        let others = match facts.server.publications.as_slice() {
            [] => "the database has none".to_owned(),
            others => format!("the database has {}", others.join(", ")),
        };
        return vec![Finding::error(
            "publication",
            format!("there is no publication {name}; {others}"),
            "it says which tables are streamed",
            format!("CREATE PUBLICATION {name} FOR TABLE ...; as the owner of the tables"),
        )];
    };
    let mut findings = vec![match publication.tables.len() {
        0 => Finding::warning(
            "publication",
            format!("publication {name} has no tables"),
            "nothing will be streamed",
            format!("ALTER PUBLICATION {name} ADD TABLE ..."),
        ),
        count => Finding::ok("publication", format!("publication {name} has {count} tables")),
    }];
    let operations = [
        ("insert", publication.pubinsert),
        ("update", publication.pubupdate),
        ("delete", publication.pubdelete),
        ("truncate", publication.pubtruncate),
    ];
    let missing: Vec<_> = operations.iter().filter(|(_, published)| !published).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        findings.push(Finding::warning(
            "publication_operations",
            format!("publication {name} does not publish {}", missing.join(", ")),
            "consumers that fold the topics to tables end up with other rows than the database has",
            format!("ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate')"),
        ));
    }
    let without: Vec<_> = publication.without_identity().collect();
    if !without.is_empty() {
        let tables = some(without.iter().map(|table| qualified(&table.schema, &table.table)));
        let first = qualified(&without[0].schema, &without[0].table);
        findings.push(Finding::error(
            "replica_identity",
            format!("tables without replica identity: {tables}"),
            "PostgreSQL refuses updates and deletes of them as long as they are published",
            format!(
                "ALTER TABLE {first} ADD PRIMARY KEY (...); or: ALTER TABLE {first} REPLICA IDENTITY FULL; or publish \
                 inserts only"
            ),
        ));
    } else if !publication.tables.is_empty() {
        findings.push(Finding::ok("replica_identity", "old rows of every table can be told apart"));
    }
    findings.extend(topics(wanted, publication));
    findings
}

/// Two tables that meet in one topic, and names that are too long for Kafka.
fn topics(wanted: &Wanted, publication: &pgbaton_postgres::catalog::Publication) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    for table in &publication.tables {
        let name = qualified(&table.schema, &table.table);
        match table_topic(&wanted.topic_prefix, &table.schema, &table.table) {
            Err(error) => findings.push(Finding::error(
                "topic_names",
                format!("table {name}: {error}"),
                "the pipeline refuses to start with it",
                format!("shorten kafka.topic_prefix; or ALTER PUBLICATION ... DROP TABLE {name}"),
            )),
            Ok(topic) => {
                if let Some(other) = taken.insert(topic.clone(), name.clone()) {
                    findings.push(Finding::error(
                        "topic_names",
                        format!("tables {other} and {name} would both be written to topic {topic}"),
                        "the pipeline refuses to start, because their records could not be told apart",
                        format!("rename one of them, or ALTER PUBLICATION ... DROP TABLE {name}"),
                    ));
                }
            }
        }
    }
    let count = publication.tables.len();
    unless(findings, "topic_names", format!("{count} tables have topics of their own"))
}

fn qualified(schema: &str, table: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(table))
}

fn some(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(SHOWN);
    let names: Vec<_> = names.take(SHOWN).collect();
    if more > 0 { format!("{} and {more} more", names.join(", ")) } else { names.join(", ") }
}
