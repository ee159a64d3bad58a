//! Servers that break the protocol: an error each time, and memory by what they sent, not by what they said.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::BufMut;
use pgbaton_core::Lsn;
use pgbaton_postgres::{ConnectFailure, Conninfo, Meaning, QueryError, ReplicationConnection, StreamError, TlsError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);

/// One message: tag, length, body.
fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.put_u32(body.len() as u32 + 4);
    out.put_slice(body);
    out
}

/// A header that claims what it likes.
fn header(tag: u8, length: i32) -> Vec<u8> {
    let mut out = vec![tag];
    out.put_i32(length);
    out
}

/// AuthenticationOk, BackendKeyData, ReadyForQuery.
fn let_in() -> Vec<u8> {
    [message(b'R', &[0; 4]), message(b'K', &[0; 8]), message(b'Z', b"I")].concat()
}

/// CopyBothResponse.
fn copy_both() -> Vec<u8> {
    message(b'W', &[0; 3])
}

/// Serves connections for ever: to each message from the client it sends the next of `answers`, then closes or holds still.
async fn serve(answers: Vec<Vec<u8>>, hold: bool) -> Conninfo {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, answers.clone(), hold));
        }
    });
    Conninfo::parse(&format!("host=127.0.0.1 port={port} user=u password=p sslmode=disable connect_timeout=5")).unwrap()
}

async fn answer(mut stream: TcpStream, answers: Vec<Vec<u8>>, hold: bool) {
    let mut buffer = [0; 4096];
    for bytes in answers {
        // Every message of these clients fits one packet.
        if stream.read(&mut buffer).await.is_err() || stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
    if hold {
        std::future::pending::<()>().await;
    }
}

async fn connect(conninfo: &Conninfo) -> Result<ReplicationConnection, ConnectFailure> {
    let connection = timeout(LONG, ReplicationConnection::connect(conninfo, "pgbaton/")).await.unwrap();
    connection.map_err(|error| error.failure)
}

async fn streaming(answers: Vec<u8>, hold: bool) -> ReplicationConnection {
    let conninfo = serve(vec![let_in(), [copy_both(), answers].concat()], hold).await;
    let mut connection = connect(&conninfo).await.unwrap();
    connection.start_replication("s", Lsn::INVALID, &[]).await.unwrap();
    connection
}

/// Reads until the stream gives an error.
async fn error_of(mut connection: ReplicationConnection) -> StreamError {
    loop {
        match timeout(LONG, connection.next_frame()).await.unwrap() {
            Ok(_) => {}
            Err(error) => {
                assert!(matches!(connection.next_frame().await, Err(StreamError::Closed)), "the stream is over");
                return error;
            }
        }
    }
}

/// Messages that no server may send, whatever the state.
fn broken_messages() -> Vec<Vec<u8>> {
    vec![
        header(b'd', 0),
        header(b'd', 3),
        header(b'd', -1),
        header(b'd', i32::MIN),
        header(b'd', i32::MAX),
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![0; 100],
        vec![0xFF; 100],
        message(b'?', b""),
        message(b'E', b""),
        message(b'E', b"SFATAL"),
        message(b'S', b"name\0value"),
        message(b'S', b"na\xFFme\0value\0"),
        message(b'T', b"\xFF\xFF"),
    ]
}

#[tokio::test]
async fn a_stream_with_a_broken_message_ends_with_a_typed_error() {
    let mut broken = broken_messages();
    broken.extend([
        message(b'd', b""),
        message(b'd', b"w123"),
        message(b'd', b"k123"),
        message(b'd', &[b'k'; 30]),
        message(b'd', b"x"),
        message(b'Z', b"I"),
        message(b'R', &[0; 4]),
    ]);
    for bytes in broken {
        let error = error_of(streaming(bytes.clone(), true).await).await;
        assert!(matches!(error, StreamError::Malformed(_)), "{bytes:?} gave {error:?}");
        assert_eq!(error.meaning(), Meaning::Unexpected);
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_ends_as_closed() {
    let whole = message(b'd', &[b'w'; 100]);
    for end in [0, 1, 4, 5, 50, whole.len()] {
        let error = error_of(streaming(whole[..end].to_vec(), false).await).await;
        assert!(matches!(error, StreamError::Closed), "{end} bytes gave {error:?}");
        assert_eq!(error.meaning(), Meaning::Retry);
    }
}

#[tokio::test]
async fn a_broken_start_up_is_a_typed_error() {
    let mut broken = broken_messages();
    broken.extend([
        message(b'R', b""),
        message(b'R', &99_i32.to_be_bytes()),
        message(b'R', &7_i32.to_be_bytes()),
        // SASL: no mechanism, an unknown one, a list without end.
        message(b'R', b"\0\0\0\x0A\0"),
        message(b'R', b"\0\0\0\x0AWHATEVER\0\0"),
        message(b'R', b"\0\0\0\x0ASCRAM-SHA-256"),
        // MD5 with a short salt.
        message(b'R', b"\0\0\0\x05ab"),
        [message(b'R', &[0; 4]), message(b'K', b"")].concat(),
        [message(b'R', &[0; 4]), message(b'D', b"")].concat(),
    ]);
    for bytes in broken {
        let error = connect(&serve(vec![bytes.clone()], true).await).await.err().unwrap();
        let typed = matches!(error, ConnectFailure::Malformed(_) | ConnectFailure::Auth(_));
        assert!(typed, "{bytes:?} gave {error:?}");
    }
    let error = connect(&serve(vec![], false).await).await.err().unwrap();
    assert!(matches!(error, ConnectFailure::Closed | ConnectFailure::Unreachable(_)), "{error:?}");
}

/// Whoever does not know the password cannot show that it does; a client that let that pass could be lured anywhere.
#[tokio::test]
async fn a_server_that_skips_its_own_proof_is_refused() {
    let scram = message(b'R', b"\0\0\0\x0ASCRAM-SHA-256\0\0");
    let error = connect(&serve(vec![scram.clone(), let_in()], true).await).await.err().unwrap();
    assert!(matches!(error, ConnectFailure::Malformed(_)), "{error:?}");
    let challenge = message(b'R', b"\0\0\0\x0Br=not-ours,s=AAAA,i=4096");
    let error = connect(&serve(vec![scram, challenge, let_in()], true).await).await.err().unwrap();
    assert!(matches!(error, ConnectFailure::Auth(_)), "{error:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_in_the_clear() {
    for (answer, offered) in [(&b"N"[..], false), (b"E", true), (b"HTTP/1.1", true)] {
        let mut conninfo = serve(vec![answer.to_vec()], true).await;
        conninfo.sslmode = pgbaton_postgres::SslMode::Require;
        let error = connect(&conninfo).await.err().unwrap();
        match error {
            ConnectFailure::Tls(TlsError::NotOffered(_)) => assert!(!offered),
            ConnectFailure::NotPostgres => assert!(offered),
            other => panic!("{answer:?} gave {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_broken_answer_to_a_query_is_a_typed_error() {
    let names = message(b'T', b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x19\xFF\xFF\xFF\xFF\xFF\xFF\0\0");
    let mut broken = broken_messages();
    broken.extend([
        message(b'D', b"\0\x01\0\0\0\x01x"),
        [names.clone(), message(b'D', b"\0\x02\0\0\0\x01x\0\0\0\x01x")].concat(),
        [names.clone(), message(b'D', b"\0\x01\x7F\xFF\xFF\xFFx")].concat(),
        [names.clone(), message(b'D', b"\0\x01\xFF\xFF\xFF\xFEx")].concat(),
        [names, message(b'D', b"\0\x01\0\0\0\x01\xFF"), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat(),
        message(b'W', &[0; 3]),
        message(b'H', &[0; 3]),
    ]);
    for bytes in broken {
        let mut connection = connect(&serve(vec![let_in(), bytes.clone()], true).await).await.unwrap();
        let error = timeout(LONG, connection.query("SELECT 1")).await.unwrap().unwrap_err();
        assert!(matches!(error, QueryError::Malformed(_)), "{bytes:?} gave {error:?}");
    }
}

#[tokio::test]
async fn a_query_that_was_dropped_half_way_leaves_no_answer_for_the_next() {
    let mut connection = connect(&serve(vec![let_in(), vec![]], true).await).await.unwrap();
    assert!(timeout(Duration::from_millis(10), connection.query("SELECT 1")).await.is_err());
    assert!(matches!(connection.query("SELECT 2").await, Err(QueryError::NotReady)));
}

/// Twenty servers claim a gigabyte each and send a kilobyte.
#[tokio::test]
async fn a_claimed_length_takes_no_memory() {
    let before = resident_bytes();
    let mut held = Vec::new();
    for _ in 0..20 {
        let bytes = [header(b'd', 1 << 30), vec![b'w'; 1024]].concat();
        let mut connection = streaming(bytes, true).await;
        assert!(timeout(Duration::from_millis(20), connection.next_frame()).await.is_err());
        held.push(connection);
    }
    let taken = resident_bytes().saturating_sub(before);
    assert!(taken < 200 << 20, "{taken} bytes for 20 connections");
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A status must neither wait for a server that reads nothing nor pile up for it.
#[tokio::test]
async fn statuses_to_a_server_that_does_not_read_end_in_an_error() {
    let mut connection = streaming(vec![], true).await;
    let sent = (0..10_000_000).map(|_| connection.send_status(Lsn(1), Lsn(1), Lsn(1), false));
    let error = sent.into_iter().find_map(Result::err).unwrap();
    assert!(matches!(error, StreamError::PeerNotReading), "{error:?}");
}
