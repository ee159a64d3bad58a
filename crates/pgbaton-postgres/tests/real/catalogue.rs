//! The questions to the catalogue, each over both kinds of connections.

use pgbaton_core::{Lsn, ReplicaIdentity, Timeline};
use pgbaton_postgres::catalog::{
    Claimant, Waiting, membership, observe, primary_key, publication, slot, standbys, terminate_stale,
};
use pgbaton_postgres::{Frame, Meaning, ReplicationConnection, TargetSessionAttrs, connect_client};

use crate::server::{Server, connect_with_slot, execute};

/// Far beyond anything that should happen.
const LONG: std::time::Duration = std::time::Duration::from_secs(20);
const OPTIONS: [(&str, &str); 2] = [("proto_version", "1"), ("publication_names", "\"pub\"")];

#[tokio::test]
async fn an_observation_tells_server_slot_and_reader_at_once() {
    let server = Server::shared();
    let conninfo = server.database("observed");
    let mut connection = connect_with_slot(&conninfo, "observed").await;
    let identity = connection.identify_system().await.unwrap();
    let seen = observe(&mut connection, "observed").await.unwrap();
    assert_eq!((seen.system_identifier, seen.timeline), (identity.system_identifier, Some(Timeline(1))));
    assert!(!seen.in_recovery && seen.wal_lsn >= Some(identity.xlogpos) && seen.server_version >= 140000);
    let row = seen.slot.as_ref().unwrap();
    assert_eq!((row.plugin.as_deref(), row.slot_type.as_str(), row.active), (Some("pgoutput"), "logical", false));
    assert_eq!((row.database.as_deref(), row.wal_status.as_deref()), (Some("observed"), Some("reserved")));
    assert!(!row.temporary && !row.two_phase && row.confirmed_flush_lsn > row.restart_lsn);
    assert!(seen.retained_bytes() > Some(0));
    assert_eq!(seen.reader, None);

    connection.query("SET application_name = 'pgbaton/a name'").await.unwrap();
    connection.start_replication("observed", Lsn::INVALID, &OPTIONS).await.unwrap();
    // Before its first frame a walsender has sent nothing.
    connection.next_frame().await.unwrap();
    let (mut client, _task) = connect_client(&conninfo, "test", None).await.unwrap();
    let again = observe(&mut client, "observed").await.unwrap();
    assert_eq!(again.postmaster_start, seen.postmaster_start);
    let (row, reader) = (again.slot.unwrap(), again.reader.unwrap());
    assert_eq!((row.active, row.active_pid), (true, Some(connection.backend_pid())));
    assert_eq!((reader.pid, reader.walsender), (connection.backend_pid(), true));
    assert_eq!(reader.application_name.as_deref(), Some("pgbaton/a name"));
    assert_eq!(reader.user.as_deref(), Some("postgres"));
    assert!(reader.sent_lsn.is_some());

    let missing = observe(&mut client, "it's \\ missing").await.unwrap();
    assert_eq!((missing.slot, missing.reader), (None, None));
    assert_eq!(slot(&mut client, "missing").await.unwrap(), None);
    connection.close().await;
}

/// A walsender of a logical slot is none: ours would wait for itself.
#[tokio::test]
async fn standbys_are_those_that_stream_wal_itself() {
    let server = Server::start();
    let conninfo = server.database("standbys");
    let mut logical = connect_with_slot(&conninfo, "standbys").await;
    logical.start_replication("standbys", Lsn::INVALID, &OPTIONS).await.unwrap();
    let (mut client, _task) = connect_client(&conninfo, "test", None).await.unwrap();
    let alone = standbys(&mut client, Waiting::ForAll).await.unwrap();
    assert_eq!((alone.flushed, alone.hidden, alone.timeline), (None, false, Some(Timeline(1))));

    server.receive_wal();
    let wanted = alone.insert_lsn;
    let flushes = async {
        while standbys(&mut client, Waiting::ForAll).await.unwrap().flushed < wanted {
            // What is written is what makes it flush.
            execute(&conninfo, "SELECT pg_logical_emit_message(true, '', '')").await;
        }
    };
    tokio::time::timeout(LONG, flushes).await.expect("the WAL is flushed elsewhere");
    assert_eq!(standbys(&mut client, Waiting::ForSynchronous).await.unwrap().flushed, None, "nobody is synchronous");
    let plain = server.conninfo(&format!("host={} user=plain dbname=standbys", server.path().display()));
    let (mut plain, _task) = connect_client(&plain, "test", None).await.unwrap();
    assert!(standbys(&mut plain, Waiting::ForAll).await.unwrap().hidden);
    logical.close().await;
}

/// A role that may only replicate must see enough.
#[tokio::test]
async fn an_observation_needs_no_right_beyond_logging_in() {
    let server = Server::shared();
    let admin = server.database("unprivileged");
    let mut reader = connect_with_slot(&admin, "unprivileged").await;
    reader.start_replication("unprivileged", Lsn::INVALID, &OPTIONS).await.unwrap();
    let path = server.path().display();
    let plain = server.conninfo(&format!("host={path} user=plain dbname=unprivileged"));
    let mut connection = ReplicationConnection::connect(&plain, "pgbaton/").await.unwrap();
    let seen = observe(&mut connection, "unprivileged").await.unwrap();
    assert_eq!(seen.slot.unwrap().active_pid, Some(reader.backend_pid()));
    let seen = seen.reader.unwrap();
    assert_eq!((seen.application_name.as_deref(), seen.walsender), (Some("pgbaton/"), true));
    assert_eq!((seen.sent_lsn, seen.wait_event), (None, None));
    assert!(publication(&mut connection, "pub").await.unwrap().unwrap().puballtables);
    reader.close().await;
}

#[tokio::test]
async fn a_publication_tells_its_tables_and_what_identifies_their_rows() {
    let server = Server::shared();
    let conninfo = server.database("published");
    execute(
        &conninfo,
        "CREATE TABLE keyed (b int, a text, c int, PRIMARY KEY (c, a) INCLUDE (b));
         CREATE TABLE keyless (a int);
         CREATE TABLE whole (a int); ALTER TABLE whole REPLICA IDENTITY FULL;
         CREATE TABLE nothing (a int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
         CREATE TABLE indexed (a int NOT NULL UNIQUE); ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_a_key;
         CREATE SCHEMA \"odd \"\" schema\"; CREATE TABLE \"odd \"\" schema\".\"t.'\" (id int PRIMARY KEY);
         CREATE PUBLICATION \"the \"\" one\" FOR TABLE keyed, keyless, whole, nothing, indexed, \"odd \"\" schema\".\"t.'\";
         CREATE PUBLICATION inserts FOR TABLE keyless WITH (publish = 'insert'); CREATE PUBLICATION empty",
    )
    .await;
    let mut replication = ReplicationConnection::connect(&conninfo, "pgbaton/").await.unwrap();
    let (mut client, _task) = connect_client(&conninfo, "test", None).await.unwrap();
    let found = publication(&mut replication, "the \" one").await.unwrap().unwrap();
    assert_eq!(publication(&mut client, "the \" one").await.unwrap().as_ref(), Some(&found));
    let names: Vec<_> = found.tables.iter().map(|table| format!("{}.{}", table.schema, table.table)).collect();
    let expected =
        ["odd \" schema.t.'", "public.indexed", "public.keyed", "public.keyless", "public.nothing", "public.whole"];
    assert_eq!(names, expected);
    let bad: Vec<_> = found.without_identity().map(|table| table.table.as_str()).collect();
    assert_eq!(bad, ["keyless", "nothing"]);
    let keyed = &found.tables[2];
    assert_eq!((keyed.identity, keyed.has_primary_key), (ReplicaIdentity::Default, true));
    assert_eq!(primary_key(&mut replication, keyed.oid).await.unwrap(), ["c", "a"]);
    assert_eq!(primary_key(&mut client, found.tables[5].oid).await.unwrap(), Vec::<String>::new());

    let inserts = publication(&mut client, "inserts").await.unwrap().unwrap();
    assert_eq!(inserts.without_identity().count(), 0);
    assert_eq!(publication(&mut client, "empty").await.unwrap().unwrap().tables, []);
    assert_eq!(publication(&mut client, "pub").await.unwrap(), None);
}

#[tokio::test]
async fn a_publication_that_is_altered_or_made_again_names_something_else_and_a_table_taken_out_and_in_again_too() {
    let server = Server::shared();
    let conninfo = server.database("altered");
    execute(
        &conninfo,
        "CREATE TABLE one (id int PRIMARY KEY); CREATE TABLE two (id int PRIMARY KEY); CREATE SCHEMA more;
         CREATE PUBLICATION altered FOR TABLE one, two; CREATE PUBLICATION other FOR TABLE one",
    )
    .await;
    let (mut client, _task) = connect_client(&conninfo, "test", None).await.unwrap();
    let mut replication = ReplicationConnection::connect(&conninfo, "pgbaton/").await.unwrap();
    let first = membership(&mut client, "altered").await.unwrap().unwrap();
    assert_eq!(membership(&mut replication, "altered").await.unwrap(), Some(first.clone()));
    assert_eq!(first.oid, publication(&mut client, "altered").await.unwrap().unwrap().oid);
    execute(&conninfo, "ALTER PUBLICATION other DROP TABLE one; INSERT INTO one VALUES (1)").await;
    assert_eq!(membership(&mut client, "altered").await.unwrap(), Some(first.clone()));
    let mut seen = vec![first];
    for change in [
        "ALTER PUBLICATION altered DROP TABLE two",
        "ALTER PUBLICATION altered ADD TABLE two",
        "ALTER PUBLICATION altered ADD TABLES IN SCHEMA more",
        "DROP TABLE two",
        "DROP PUBLICATION altered; CREATE PUBLICATION altered FOR ALL TABLES",
    ] {
        execute(&conninfo, change).await;
        let now = membership(&mut client, "altered").await.unwrap().unwrap();
        assert!(!seen.contains(&now), "{change}: {now:?}");
        seen.push(now);
    }
    assert_eq!(membership(&mut client, "none").await.unwrap(), None);
}

#[tokio::test]
async fn only_an_older_session_of_ours_that_has_read_everything_is_ended() {
    let server = Server::shared();
    let conninfo = server.database("stale");
    let mut old = connect_with_slot(&conninfo, "stale").await;
    let ours = Claimant { pipeline: "0123abcd", nonce: "aaaaaaaa", revision: 50, backend_pid: 1 };
    let mut asking = ReplicationConnection::connect(&conninfo, "pgbaton/").await.unwrap();
    assert_eq!(terminate_stale(&mut asking, "stale", &ours).await.unwrap(), None);

    old.query("SET application_name = 'pgbaton/0123abcd/11111111/bbbbbbbb/t=9/r=49'").await.unwrap();
    old.start_replication("stale", Lsn::INVALID, &OPTIONS).await.unwrap();
    let own = Claimant { backend_pid: old.backend_pid(), ..ours };
    for not_stale in [
        Claimant { pipeline: "ffffffff", ..ours },
        Claimant { revision: 49, ..ours },
        Claimant { revision: 48, ..ours },
        own,
    ] {
        let found = terminate_stale(&mut asking, "stale", &not_stale).await.unwrap().unwrap();
        assert_eq!((found.pid, found.stale, found.terminated), (old.backend_pid(), false, None), "{not_stale:?}");
    }
    // Its client has not said that it has read anything: a signal might wedge it.
    let found = terminate_stale(&mut asking, "stale", &ours).await.unwrap().unwrap();
    assert_eq!((found.stale, found.terminated), (true, None));

    // It catches up, and then it is ended.
    let catches_up = async {
        loop {
            match old.next_frame().await {
                Ok(Frame::Keepalive { wal_end, .. }) => {
                    old.send_status(wal_end, Lsn::INVALID, Lsn::INVALID, false).unwrap();
                }
                Ok(_) => {}
                Err(error) => break error,
            }
        }
    };
    let ends_it = async {
        while terminate_stale(&mut asking, "stale", &ours).await.unwrap().unwrap().terminated != Some(true) {
            tokio::task::yield_now().await;
        }
    };
    let (error, ()) = tokio::time::timeout(LONG, async { tokio::join!(catches_up, ends_it) }).await.unwrap();
    assert_eq!(error.meaning(), Meaning::ShuttingDown, "{error}");
}

#[tokio::test]
async fn a_foreign_or_cut_name_is_never_ended() {
    let server = Server::shared();
    let conninfo = server.database("foreign_names");
    let mut reader = connect_with_slot(&conninfo, "foreign_names").await;
    let ours = Claimant { pipeline: "0123abcd", nonce: "aaaaaaaa", revision: i64::MAX, backend_pid: 1 };
    let mut asking = ReplicationConnection::connect(&conninfo, "pgbaton/").await.unwrap();
    for name in [
        "psql",
        "pgbaton/",
        "pgbaton/0123abcd/11111111/bbbbbbbb/t=9/r=",
        "xpgbaton/0123abcd/11111111/bbbbbbbb/t=9/r=49",
        // 63 bytes: what follows may have been cut off, and the revision with it.
        "pgbaton/0123abcd/11111111/bbbbbbbb/t=1234567890123/r=1234567890",
    ] {
        reader.query(&format!("SET application_name = '{name}'")).await.unwrap();
        reader.start_replication("foreign_names", Lsn::INVALID, &OPTIONS).await.unwrap();
        let found = terminate_stale(&mut asking, "foreign_names", &ours).await.unwrap().unwrap();
        assert_eq!((found.application_name.as_deref(), found.stale, found.terminated), (Some(name), false, None));
        reader.close().await;
        reader = ReplicationConnection::connect(&conninfo, "pgbaton/").await.unwrap();
    }
}

#[tokio::test]
async fn a_promoted_standby_tells_how_it_came_to_its_timeline() {
    let server = Server::start();
    let conninfo = server.database("promoted");
    connect_with_slot(&conninfo, "promoted").await.close().await;
    server.stop("fast");
    server.start_as_standby();
    let mut standby = ReplicationConnection::connect(&conninfo, "pgbaton/").await.unwrap();
    assert_eq!(standby.parameter("in_hot_standby"), Some("on"));
    let seen = observe(&mut standby, "promoted").await.unwrap();
    assert_eq!((seen.in_recovery, seen.timeline, seen.wal_lsn), (true, None, None));
    if seen.server_version < 160000 {
        let error = standby.start_replication("promoted", Lsn::INVALID, &OPTIONS).await.unwrap_err();
        assert_eq!(error.meaning(), Meaning::InRecovery, "{error}");
    }
    let mut primary = conninfo.clone();
    primary.target_session_attrs = TargetSessionAttrs::Primary;
    let error = ReplicationConnection::connect(&primary, "pgbaton/").await.err().unwrap();
    assert_eq!(error.meaning(), Meaning::InRecovery, "{error}");

    standby.query("SELECT pg_promote()").await.unwrap();
    let identity = standby.identify_system().await.unwrap();
    assert_eq!(identity.timeline, Timeline(2));
    let history = standby.timeline_history(Timeline(2)).await.unwrap();
    assert_eq!(history.current(), Timeline(2));
    let [(Timeline(1), switch)] = history.left() else { panic!("{history:?}") };
    assert!(*switch > Lsn::INVALID && *switch <= identity.xlogpos);
    assert_eq!(observe(&mut standby, "promoted").await.unwrap().timeline, Some(Timeline(2)));
    assert_eq!(standby.timeline_history(Timeline(7)).await.unwrap_err().meaning(), Meaning::WalRemoved);
    ReplicationConnection::connect(&primary, "pgbaton/").await.unwrap();
}
