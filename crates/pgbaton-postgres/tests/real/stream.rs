//! The replication stream of a real server.

use std::time::Duration;

use pgbaton_core::{Datum, Lsn, Relation, Row, Timeline};
use pgbaton_postgres::pgoutput::{Message, OldKind, Tuple, decode};
use pgbaton_postgres::{Conninfo, Frame, Meaning, ReplicationConnection, StreamError, catalog, connect_client};
use tokio::time::timeout;

use crate::proxy::dribble;
use crate::server::{Server, connect_with_slot, execute};

const OPTIONS: [(&str, &str); 3] = [("proto_version", "1"), ("publication_names", "\"pub\""), ("messages", "true")];
/// Far beyond anything that should happen.
const LONG: Duration = Duration::from_secs(20);

async fn next(connection: &mut ReplicationConnection) -> Frame {
    timeout(LONG, connection.next_frame()).await.unwrap().unwrap()
}

/// Reads until `count` transactions have come, one line of text for every message.
async fn read_transactions(connection: &mut ReplicationConnection, count: usize) -> Vec<String> {
    let (mut lines, mut commits) = (Vec::new(), 0);
    while commits < count {
        let Frame::XLogData { data, .. } = next(connection).await else { continue };
        let message = decode(&data).unwrap();
        commits += usize::from(matches!(message, Message::Commit { .. }));
        lines.push(describe(&message));
    }
    lines
}

fn describe(message: &Message<'_>) -> String {
    match message {
        Message::Begin { .. } => "begin".to_owned(),
        Message::Commit { .. } => "commit".to_owned(),
        Message::Relation(relation) => describe_relation(relation),
        Message::Type { schema, name, .. } => format!("type {schema}.{name}"),
        Message::Insert { new, .. } => format!("insert {}", describe_row(new)),
        Message::Update { old, new, .. } => {
            let old = old.map(|old| format!("{}{} -> ", describe_kind(old.kind), describe_row(&old.tuple)));
            format!("update {}{}", old.unwrap_or_default(), describe_row(new))
        }
        Message::Delete { old, .. } => format!("delete {}{}", describe_kind(old.kind), describe_row(&old.tuple)),
        Message::Truncate { relations, cascade, restart_identity } => {
            format!("truncate {} cascade={cascade} restart={restart_identity}", relations.len())
        }
        Message::Message { transactional, prefix, content, .. } => {
            format!("message {prefix}={} transactional={transactional}", String::from_utf8_lossy(content))
        }
        Message::Origin { name, .. } => format!("origin {name}"),
    }
}

fn describe_kind(kind: OldKind) -> &'static str {
    match kind {
        OldKind::Key => "key ",
        OldKind::Full => "full ",
    }
}

fn describe_relation(relation: &Relation) -> String {
    let column = |column: &pgbaton_core::Column| format!("{}{}", column.name, if column.identity { "*" } else { "" });
    let columns: Vec<_> = relation.columns.iter().map(column).collect();
    format!("relation {}.{} {:?} ({})", relation.schema, relation.table, relation.identity, columns.join(", "))
}

fn describe_row(tuple: &Tuple<'_>) -> String {
    let columns = tuple.columns().map(|datum| match datum {
        Datum::Null => "NULL".to_owned(),
        Datum::Unchanged => "UNCHANGED".to_owned(),
        Datum::Text(text) if text.len() > 20 => format!("{} bytes", text.len()),
        Datum::Text(text) => String::from_utf8_lossy(text).into_owned(),
    });
    format!("({})", columns.collect::<Vec<_>>().join(", "))
}

async fn confirmed(conninfo: &Conninfo, slot: &str) -> Lsn {
    let (mut client, _task) = connect_client(conninfo, "test", None).await.unwrap();
    catalog::slot(&mut client, slot).await.unwrap().unwrap().confirmed_flush_lsn.unwrap()
}

/// Looks at the slot `status` until what is waited for has come.
async fn observed(
    client: &mut tokio_postgres::Client,
    come: impl Fn(&catalog::Observation) -> bool,
) -> catalog::Observation {
    let looking = async {
        loop {
            let seen = catalog::observe(client, "status").await.unwrap();
            if come(&seen) {
                break seen;
            }
        }
    };
    timeout(LONG, looking).await.unwrap()
}

#[tokio::test]
async fn sql_works_before_the_stream_and_after_a_refused_start() {
    let server = Server::shared();
    let conninfo = server.database("before_start");
    let mut connection = connect_with_slot(&conninfo, "before_start").await;
    let identity = connection.identify_system().await.unwrap();
    assert_eq!((identity.timeline, identity.dbname.as_str()), (Timeline(1), "before_start"));
    assert!(identity.xlogpos > Lsn::INVALID && identity.system_identifier > 0);
    assert_eq!(connection.timeline_history(Timeline(1)).await.unwrap().left(), []);

    let error = connection.start_replication("a\" LOGICAL 0/0 --", Lsn::INVALID, &OPTIONS).await.unwrap_err();
    // Before 18 no slot can have such a name; from 18 on none has.
    assert!(["42601", "42704"].contains(&error.db_error().unwrap().code.as_str()), "{error}");
    let error = connection.start_replication("nope", Lsn::INVALID, &OPTIONS).await.unwrap_err();
    assert_eq!((error.meaning(), error.db_error().unwrap().code.as_str()), (Meaning::NotFound, "42704"), "{error}");
    let error = connection.query("SELECT * FROM nowhere; SELECT 1").await.unwrap_err();
    assert_eq!(error.db_error().unwrap().code, "42P01");
    let rows = connection.query("SET wal_sender_timeout = '5s'; SELECT 1 AS one, NULL AS none").await.unwrap();
    assert_eq!((rows[0].get("one"), rows[0].get("none")), (Some("1"), None));

    connection.start_replication("before_start", Lsn::INVALID, &OPTIONS).await.unwrap();
    assert!(matches!(next(&mut connection).await, Frame::Keepalive { .. }));
    connection.query("SELECT 1").await.unwrap_err();

    let mut second = ReplicationConnection::connect(&conninfo, "pgbaton/").await.unwrap();
    let error = second.start_replication("before_start", Lsn::INVALID, &OPTIONS).await.unwrap_err();
    assert_eq!(error.meaning(), Meaning::SlotInUse { pid: Some(connection.backend_pid()) }, "{error}");
    // Closing waits for the server, so the slot is free at once.
    connection.close().await;
    second.start_replication("before_start", Lsn::INVALID, &OPTIONS).await.unwrap();
}

#[tokio::test]
async fn every_kind_of_change_is_read_as_it_was_made() {
    let server = Server::shared();
    let conninfo = server.database("changes");
    execute(
        &conninfo,
        "CREATE TYPE mood AS ENUM ('calm', 'angry');
         CREATE TABLE t (id int PRIMARY KEY, big text, mood mood); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
         CREATE TABLE whole (a int, b text); ALTER TABLE whole REPLICA IDENTITY FULL",
    )
    .await;
    let mut connection = connect_with_slot(&conninfo, "changes").await;
    for sql in [
        "INSERT INTO t VALUES (1, repeat('x', 10000), 'calm'), (2, NULL, NULL)",
        "UPDATE t SET mood = 'angry' WHERE id = 1",
        "UPDATE t SET id = 3 WHERE id = 2",
        "DELETE FROM t WHERE id = 3",
        "BEGIN; INSERT INTO whole VALUES (1, 'ä'); UPDATE whole SET b = NULL; DELETE FROM whole; COMMIT",
        "BEGIN; SELECT pg_logical_emit_message(true, 'in', 'side'); TRUNCATE t, whole RESTART IDENTITY CASCADE; COMMIT",
        "SELECT pg_logical_emit_message(false, 'out', 'side')",
        "INSERT INTO whole VALUES (2, '')",
    ] {
        execute(&conninfo, sql).await;
    }
    connection.start_replication("changes", Lsn::INVALID, &OPTIONS).await.unwrap();
    let expected = "\
begin
type public.mood
relation public.t Default (id*, big, mood)
insert (1, 10000 bytes, calm)
insert (2, NULL, NULL)
commit
begin
update (1, UNCHANGED, angry)
commit
begin
update key (2, NULL, NULL) -> (3, NULL, NULL)
commit
begin
delete key (3, NULL, NULL)
commit
begin
relation public.whole Full (a*, b*)
insert (1, ä)
update full (1, ä) -> (1, NULL)
delete full (1, NULL)
commit
begin
message in=side transactional=true
truncate 2 cascade=true restart=true
commit
message out=side transactional=false
begin
insert (2, )
commit";
    // When a relation is announced again is PostgreSQL's business.
    let mut lines = read_transactions(&mut connection, 7).await;
    let mut announced = std::collections::HashSet::new();
    lines.retain(|line| !line.starts_with("relation") && !line.starts_with("type") || announced.insert(line.clone()));
    assert_eq!(lines.join("\n"), expected);
    connection.close().await;
}

#[tokio::test]
async fn only_the_flushed_position_of_a_status_moves_the_slot() {
    let server = Server::shared();
    let conninfo = server.database("status");
    execute(&conninfo, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut connection = connect_with_slot(&conninfo, "status").await;
    let before = confirmed(&conninfo, "status").await;
    execute(&conninfo, "INSERT INTO t VALUES (1)").await;
    connection.start_replication("status", Lsn::INVALID, &OPTIONS).await.unwrap();
    let end = loop {
        let Frame::XLogData { data, .. } = next(&mut connection).await else { continue };
        if let Message::Commit { end_lsn, .. } = decode(&data).unwrap() {
            break end_lsn;
        }
    };
    let (mut client, _task) = connect_client(&conninfo, "test", None).await.unwrap();
    connection.send_status(end, Lsn::INVALID, Lsn::INVALID, false).unwrap();
    let seen = observed(&mut client, |seen| seen.reader.as_ref().is_some_and(|reader| reader.write_lsn == Some(end)));
    assert_eq!(seen.await.slot.unwrap().confirmed_flush_lsn, Some(before));
    connection.send_status(end, end, end, false).unwrap();
    observed(&mut client, |seen| seen.slot.as_ref().unwrap().confirmed_flush_lsn == Some(end)).await;
    connection.close().await;
}

/// In `select!` the read is dropped whenever another branch is ready, at any byte.
#[tokio::test]
async fn a_read_that_is_dropped_half_way_loses_nothing() {
    let server = Server::shared();
    let socket = server.database("dropped_reads");
    execute(&socket, "CREATE TABLE t (id int PRIMARY KEY, text text)").await;
    let mut direct = connect_with_slot(&socket, "dropped_reads").await;
    execute(&socket, "INSERT INTO t SELECT i, repeat('y', i) FROM generate_series(1, 300) i").await;
    direct.start_replication("dropped_reads", Lsn::INVALID, &OPTIONS).await.unwrap();
    let expected = read_transactions(&mut direct, 1).await;
    direct.close().await;

    let address = dribble(server.port).await;
    for (host, mode) in [("localhost", "require"), ("127.0.0.1", "disable")] {
        let address = if host == "localhost" { dribble(server.port).await } else { address };
        let text = format!("host={host} port={} user=cdc dbname=dropped_reads sslmode={mode}", address.port());
        let conninfo = Conninfo::parse(&text).unwrap().with_password(Some(pgbaton_postgres::Secret::new("s3cret ä")));
        let mut connection = ReplicationConnection::connect(&conninfo, "pgbaton/").await.unwrap();
        connection.start_replication("dropped_reads", Lsn::INVALID, &OPTIONS).await.unwrap();
        let (mut lines, mut dropped) = (Vec::new(), 0);
        while lines.last().is_none_or(|line| line != "commit") {
            tokio::select! {
                biased;
                frame = connection.next_frame() => {
                    let Frame::XLogData { data, .. } = frame.unwrap() else { continue };
                    lines.push(describe(&decode(&data).unwrap()));
                }
                () = tokio::task::yield_now() => dropped += 1,
            }
        }
        assert_eq!(lines, expected);
        assert!(dropped > 100, "only {dropped} reads were dropped");
        connection.close().await;
    }
}

/// The keepalive answer of the protocol: the server is let go although nothing was flushed.
#[tokio::test]
async fn a_fast_stop_of_the_server_is_an_orderly_end() {
    let server = std::sync::Arc::new(Server::start());
    let conninfo = server.database("fast_stop");
    execute(&conninfo, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut connection = connect_with_slot(&conninfo, "fast_stop").await;
    execute(&conninfo, "INSERT INTO t SELECT generate_series(1, 1000)").await;
    connection.start_replication("fast_stop", Lsn::INVALID, &OPTIONS).await.unwrap();
    let stopping = tokio::task::spawn_blocking(move || server.stop("fast"));
    loop {
        match next(&mut connection).await {
            Frame::Keepalive { wal_end, reply_requested: true, .. } => {
                connection.send_status(wal_end, Lsn::INVALID, Lsn::INVALID, false).unwrap();
            }
            Frame::Keepalive { .. } | Frame::XLogData { .. } => {}
            Frame::End => break,
        }
    }
    assert!(matches!(connection.next_frame().await, Err(StreamError::Closed)));
    assert!(matches!(connection.try_next_frame(), Err(StreamError::Closed)));
    timeout(LONG, stopping).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_terminated_walsender_says_so() {
    let server = Server::shared();
    let conninfo = server.database("terminated");
    let mut connection = connect_with_slot(&conninfo, "terminated").await;
    connection.start_replication("terminated", Lsn::INVALID, &OPTIONS).await.unwrap();
    execute(&conninfo, &format!("SELECT pg_terminate_backend({})", connection.backend_pid())).await;
    let error = loop {
        match timeout(LONG, connection.next_frame()).await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, StreamError::Server(error) if error.code == "57P01"), "{error}");
    assert_eq!(error.meaning(), Meaning::ShuttingDown);
}

/// Before 18 it ends the stream at its first change. From 18 on the change is passed over without a word, so that somebody has to look
/// whether the publication is there.
#[tokio::test]
async fn a_missing_publication_ends_the_stream_or_is_passed_over_without_a_word() {
    let server = Server::shared();
    let conninfo = server.database("no_publication");
    let mut connection = connect_with_slot(&conninfo, "no_publication").await;
    let options = [("proto_version", "1"), ("publication_names", "\"it's not there\"")];
    connection.start_replication("no_publication", Lsn::INVALID, &options).await.unwrap();
    execute(&conninfo, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let (mut client, _task) = connect_client(&conninfo, "test", None).await.unwrap();
    let seen = catalog::observe(&mut client, "no_publication").await.unwrap();
    let reading = async {
        loop {
            match connection.next_frame().await {
                Ok(Frame::XLogData { .. }) => panic!("a change of no publication"),
                Ok(Frame::Keepalive { wal_end, .. }) if Some(wal_end) >= seen.wal_lsn => break None,
                Ok(_) => {}
                Err(error) => break Some(error),
            }
        }
    };
    match timeout(LONG, reading).await.unwrap() {
        Some(error) => {
            assert_eq!(error.meaning(), Meaning::NotFound, "{error}");
            assert!(error.to_string().contains("it's not there") && seen.server_version < 180_000, "{error}");
        }
        None => assert!(seen.server_version >= 180_000, "{} says nothing", seen.server_version),
    }
}
