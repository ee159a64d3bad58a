//! Reads the tables of a publication from the database: columns, keys, rows, all of one snapshot.

use tokio_postgres::SimpleQueryMessage;

use super::table::{Column, Database, Table};
use super::value::Kind;
use crate::database::{Connection, DatabaseError};

/// A column of a published table, a line each: what is published, its key columns marked.
const COLUMNS: &str = "
    select p.schemaname, p.tablename, coalesce(p.rowfilter, 'true'), c.relreplident = 'f', a.attname,
           coalesce(base.typname, t.typname), coalesce(base.typtype, t.typtype) = 'e',
           case when t.typtype = 'd' then t.typtypmod else a.atttypmod end,
           case when a.atthasmissing then (a.attmissingval::text::text[])[1] end,
           array_position(k.indkey::int2[], a.attnum)
    from pg_publication_tables p
    join pg_namespace n on n.nspname = p.schemaname
    join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
         and a.attname = any (p.attnames)
    join pg_type t on t.oid = a.atttypid
    left join pg_type base on base.oid = t.typbasetype
    left join lateral (
        select indkey from pg_index i
        where i.indrelid = c.oid and (i.indisprimary or i.indisreplident) and c.relreplident <> 'n'
        order by i.indisprimary desc limit 1
    ) k on true
    where p.pubname = ";

/// The published tables, once with all of their rows.
pub async fn database(dsn: &str, publication: &str) -> Result<Database, DatabaseError> {
    let connection = Connection::open(dsn, super::run::CONNECT_LIMIT).await?;
    connection.batch_execute("set timezone = 'UTC'; begin isolation level repeatable read read only").await?;
    let mut found: Database = Database::new();
    let mut queries: Vec<(String, String)> = Vec::new();
    let mut keys: Vec<(String, usize, String)> = Vec::new();
    let sql = format!("{COLUMNS}'{}' order by 1, 2, a.attnum", publication.replace('\'', "''"));
    for answer in connection.simple_query(&sql).await? {
        let SimpleQueryMessage::Row(row) = answer else { continue };
        let text = |column: usize| row.get(column).unwrap_or_default();
        let place: String = format!("{}.{}", text(0), text(1))
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' })
            .collect();
        if !found.contains_key(&place) {
            let table = format!("{}.{}", quoted(text(0)), quoted(text(1)));
            // The row as text values by column name: jsonb prints each value in one way only.
            let rows = format!(
                "select (select jsonb_object_agg(key, value) from jsonb_each_text(to_jsonb(t))) from only {table} t where {}",
                text(2)
            );
            queries.push((place.clone(), rows));
        }
        let table = found.entry(place.clone()).or_insert_with(|| Table { full: text(3) == "t", ..Table::default() });
        let kind = Kind::of(text(5), text(6) == "t", text(7).parse().unwrap_or(-1));
        table.columns.push(Column { name: text(4).into(), kind, missing: row.get(8).map(str::to_owned) });
        if let Some(position) = row.get(9).and_then(|position| position.parse().ok()) {
            keys.push((place, position, text(4).into()));
        }
    }
    keys.sort();
    for (place, _, column) in keys {
        found.entry(place).or_default().key.push(column);
    }
    for (place, sql) in queries {
        let table = found.entry(place).or_default();
        for answer in connection.simple_query(&sql).await? {
            let SimpleQueryMessage::Row(row) = answer else { continue };
            let told: serde_json::Map<String, serde_json::Value> =
                row.get(0).and_then(|row| serde_json::from_str(row).ok()).unwrap_or_default();
            let value = |column: &Column| told.get(&column.name).and_then(|value| value.as_str()).map(str::to_owned);
            table.rows.push(table.columns.iter().map(value).collect());
        }
    }
    Ok(found)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
