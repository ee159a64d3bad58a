//! Being let in, or told clearly why not.

use std::net::Ipv4Addr;
use std::time::Duration;

use pgbaton_postgres::{
    AuthProblem, ConnectError, ConnectFailure, Conninfo, Meaning, Phase, ReplicationConnection, Secret, Sql, TlsError,
    connect_client,
};
use tokio::net::TcpListener;

use crate::server::{Server, execute};

const PASSWORD: &str = "s3cret ä";

/// Whether this session is encrypted, as the server sees it.
const IS_ENCRYPTED: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

async fn is_encrypted(sql: &mut impl Sql) -> bool {
    sql.rows(IS_ENCRYPTED).await.unwrap()[0].get("ssl") == Some("t")
}

/// Connects both kinds and says whether both are encrypted.
async fn both(conninfo: &Conninfo) -> Result<bool, ConnectError> {
    let mut replication = ReplicationConnection::connect(conninfo, "pgbaton/").await?;
    assert!(replication.backend_pid() > 0);
    assert!(replication.parameter("server_version").is_some());
    let (mut client, task) = connect_client(conninfo, "pgbaton/", None).await?;
    let encrypted = is_encrypted(&mut replication).await;
    assert_eq!(encrypted, is_encrypted(&mut client).await);
    replication.close().await;
    drop(client);
    task.await.unwrap().unwrap();
    Ok(encrypted)
}

async fn both_refused(conninfo: &Conninfo) -> [ConnectError; 2] {
    let replication = ReplicationConnection::connect(conninfo, "pgbaton/").await.err().unwrap();
    let client = connect_client(conninfo, "pgbaton/", None).await.err().unwrap();
    [replication, client]
}

#[tokio::test]
async fn passwords_are_proved_by_scram_md5_and_in_the_clear() {
    let server = Server::shared();
    for (user, password) in [("cdc", PASSWORD), ("hashed", "hash"), ("plain", "clear")] {
        let text = format!("host=127.0.0.1 user={user} dbname=postgres sslmode=disable");
        let conninfo = server.conninfo(&text).with_password(Some(Secret::new(password)));
        assert!(!both(&conninfo).await.unwrap(), "{user}");
    }
}

#[tokio::test]
async fn scram_is_bound_to_a_verified_tls_connection() {
    let server = Server::shared();
    let ca = server.path().join("ca.crt");
    for (host, more) in [
        ("localhost", format!("sslmode=verify-full sslrootcert={} channel_binding=require", ca.display())),
        ("127.0.0.1", format!("sslmode=verify-ca sslrootcert={} channel_binding=require", ca.display())),
        ("127.0.0.1", "sslmode=require channel_binding=require".to_owned()),
        ("127.0.0.1", "channel_binding=disable".to_owned()),
    ] {
        let conninfo = server.conninfo(&format!("host={host} user=cdc dbname=postgres password='{PASSWORD}' {more}"));
        assert!(both(&conninfo).await.unwrap(), "{more}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_to_be_trusted_is_refused() {
    let server = Server::shared();
    let (ca, other) = (server.path().join("ca.crt"), server.path().join("other.crt"));
    for (host, mode, root) in [
        ("localhost", "verify-full", &other),
        ("localhost", "verify-ca", &other),
        // With an authority, `require` verifies it, as libpq does.
        ("localhost", "require", &other),
        // The certificate is for localhost by name only.
        ("127.0.0.1", "verify-full", &ca),
    ] {
        let root = root.display();
        let text =
            format!("host={host} user=cdc dbname=postgres password='{PASSWORD}' sslmode={mode} sslrootcert={root}");
        for error in both_refused(&server.conninfo(&text)).await {
            assert!(matches!(error.failure, ConnectFailure::Tls(TlsError::Handshake(_))), "{mode}: {error}");
            assert_eq!(error.meaning(), Meaning::TlsFailed);
        }
    }
    let missing = format!("host=localhost user=cdc sslmode=verify-full sslrootcert={}/none", server.path().display());
    for error in both_refused(&server.conninfo(&missing)).await {
        assert!(error.to_string().contains("sslrootcert") && error.to_string().contains("/none"), "{error}");
    }
}

#[tokio::test]
async fn a_unix_socket_needs_no_tls() {
    let server = Server::shared();
    let conninfo = server.conninfo(&format!("host={} user=cdc dbname=postgres", server.path().display()));
    assert!(!both(&conninfo).await.unwrap());
}

#[tokio::test]
async fn a_refusal_names_server_and_user_and_never_the_password() {
    let server = Server::shared();
    let text = "host=127.0.0.1 user=cdc dbname=postgres sslmode=disable";
    let wrong = server.conninfo(text).with_password(Some(Secret::new("hunter2")));
    for error in both_refused(&wrong).await {
        let line = format!("{error} {error:?}");
        assert!(line.contains(&format!("cdc@127.0.0.1:{}/postgres", server.port)) && line.contains("28P01"), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
        assert_eq!(error.meaning(), Meaning::AuthFailed);
    }
    for error in both_refused(&server.conninfo(&format!("{text} passfile=/dev/null"))).await {
        assert!(matches!(error.failure, ConnectFailure::Auth(AuthProblem::NoPassword)), "{error}");
    }
    let no_tls = server.conninfo(&format!("{text} password='{PASSWORD}' channel_binding=require"));
    for error in both_refused(&no_tls).await {
        assert!(matches!(error.failure, ConnectFailure::Auth(_)), "{error}");
    }
    let missing = server.conninfo(&format!("host={} user=cdc dbname=nope", server.path().display()));
    for error in both_refused(&missing).await {
        assert_eq!(error.meaning(), Meaning::DatabaseMissing, "{error}");
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_given_up_in_time() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = silent.local_addr().unwrap().port();
    for (mode, phase) in [("disable", Phase::Startup), ("require", Phase::Tls)] {
        let text = format!("host=127.0.0.1 port={port} user=u sslmode={mode} connect_timeout=1");
        let started = std::time::Instant::now();
        for error in both_refused(&Conninfo::parse(&text).unwrap()).await {
            assert!(matches!(error.failure, ConnectFailure::Timeout(in_phase) if in_phase == phase), "{error}");
            assert_eq!(error.meaning(), Meaning::Retry);
        }
        assert!(started.elapsed() < Duration::from_secs(4));
    }
}

#[tokio::test]
async fn of_several_servers_the_first_fitting_one_is_taken() {
    let server = Server::shared();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port();
    let path = server.path().display();
    let text = |attrs: &str| {
        let ports = format!("{closed},{}", server.port);
        let text = format!("host=127.0.0.1,{path} port={ports} user=cdc dbname=read_only sslmode=disable");
        Conninfo::parse(&format!("{text} target_session_attrs={attrs}")).unwrap()
    };
    let admin = server.database("read_only");
    execute(&admin, "ALTER DATABASE read_only SET default_transaction_read_only = on").await;
    both(&text("any")).await.unwrap();
    both(&text("primary")).await.unwrap();
    for error in both_refused(&text("read-write")).await {
        assert!(matches!(error.failure, ConnectFailure::WrongSession { .. }), "{error}");
        assert_eq!(error.others.len(), 1, "{error}");
        assert!(error.to_string().contains(&format!("127.0.0.1:{closed}")), "{error}");
    }
}

#[tokio::test]
async fn values_have_the_same_text_form_whatever_the_database_is_set_to() {
    let server = Server::shared();
    let conninfo = server.database("odd_forms");
    execute(
        &conninfo,
        "ALTER DATABASE odd_forms SET DateStyle = 'German'; ALTER DATABASE odd_forms SET TimeZone = 'Asia/Tokyo';
         ALTER DATABASE odd_forms SET IntervalStyle = 'iso_8601'; ALTER DATABASE odd_forms SET bytea_output = 'escape';
         ALTER DATABASE odd_forms SET extra_float_digits = 0",
    )
    .await;
    let select = "SELECT timestamptz '2026-01-02 03:04:05.6+00' AS t, interval '1 month 2 days' AS i,
                  '\\xff'::bytea AS b, 0.1::float8 + 0.2 AS f";
    let mut replication = ReplicationConnection::connect(&conninfo, "pgbaton/").await.unwrap();
    let (mut client, _task) = connect_client(&conninfo, "pgbaton/", Some(Duration::from_secs(3))).await.unwrap();
    for row in [replication.rows(select).await.unwrap(), client.rows(select).await.unwrap()] {
        let values: Vec<_> = row[0].columns().iter().map(|column| row[0].get(column).unwrap()).collect();
        assert_eq!(values, ["2026-01-02 03:04:05.6+00", "1 mon 2 days", "\\xff", "0.30000000000000004"]);
    }
    assert_eq!(client.rows("SHOW statement_timeout").await.unwrap()[0].at(0), Some("3s"));
}
