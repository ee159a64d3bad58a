//! What arrives, what does not, and who is told.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use super::{Proxy, Server, Trouble};

const LONG: Duration = Duration::from_secs(20);
/// For what must not happen: a fault of the proxy may be missed in so short a time, but never be seen wrongly.
const SHORT: Duration = Duration::from_millis(200);

struct Way {
    proxy: Proxy,
    port: u16,
    server: TcpListener,
}

impl Way {
    async fn new(server: fn(u16) -> Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap().port();
        let port = xtask::ports::Ports::default().free();
        let proxy = Proxy::start(&Handle::current(), port, server(to)).unwrap();
        Way { proxy, port, server: listener }
    }

    /// Both ends of a connection through the proxy that has carried a byte each way.
    async fn connection(&self) -> (TcpStream, TcpStream) {
        let mut client = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let (mut server, _) = self.server.accept().await.unwrap();
        pass(&mut client, &mut server, b"a").await;
        pass(&mut server, &mut client, b"b").await;
        (client, server)
    }
}

async fn pass(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).await.unwrap();
    assert_eq!(receive(to, bytes.len()).await, bytes);
}

async fn receive(from: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    tokio::time::timeout(LONG, from.read_exact(&mut bytes)).await.expect("it arrives").unwrap();
    bytes
}

async fn silent(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(SHORT, stream.read(&mut [0; 8])).await.is_err()
}

/// The error that ends the connection.
async fn end(stream: &mut TcpStream) -> io::Result<usize> {
    tokio::time::timeout(LONG, stream.read(&mut [0; 8])).await.expect("it ends")
}

#[tokio::test]
async fn what_is_sent_into_a_black_hole_arrives_when_it_closes() {
    let way = Way::new(Server::Any).await;
    let (mut client, mut server) = way.connection().await;
    way.proxy.set(Trouble::BlackHole);
    client.write_all(b"question").await.unwrap();
    server.write_all(b"answer").await.unwrap();
    assert!(silent(&mut server).await && silent(&mut client).await);
    way.proxy.set(Trouble::None);
    assert_eq!(receive(&mut server, 8).await, b"question");
    assert_eq!(receive(&mut client, 6).await, b"answer");
}

#[tokio::test]
async fn a_one_way_cut_lets_the_other_way_pass() {
    let way = Way::new(Server::Any).await;
    let (mut client, mut server) = way.connection().await;
    way.proxy.set(Trouble::ClientUnheard);
    client.write_all(b"unheard").await.unwrap();
    pass(&mut server, &mut client, b"heard").await;
    assert!(silent(&mut server).await);
    way.proxy.set(Trouble::ServerUnheard);
    assert_eq!(receive(&mut server, 7).await, b"unheard");
    server.write_all(b"unheard").await.unwrap();
    assert!(silent(&mut client).await);
}

#[tokio::test]
async fn a_cut_ends_connections_and_refuses_new_ones_until_it_is_mended() {
    let way = Way::new(Server::Any).await;
    let (mut client, mut server) = way.connection().await;
    way.proxy.set(Trouble::Cut);
    assert!(end(&mut client).await.is_err() && end(&mut server).await.is_err());
    let mut refused = TcpStream::connect(("127.0.0.1", way.port)).await.unwrap();
    assert!(end(&mut refused).await.is_err());
    way.proxy.set(Trouble::None);
    way.connection().await;
}

#[tokio::test]
async fn a_reset_ends_the_connections_there_are_and_no_later_one() {
    let way = Way::new(Server::Any).await;
    let (mut client, mut server) = way.connection().await;
    way.proxy.reset();
    assert!(end(&mut client).await.is_err() && end(&mut server).await.is_err());
    way.connection().await;
}

#[tokio::test]
async fn delayed_and_dribbled_bytes_arrive_whole_and_in_order() {
    let way = Way::new(Server::Any).await;
    let (mut client, mut server) = way.connection().await;
    let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
    way.proxy.set(Trouble::Dribble);
    pass(&mut client, &mut server, &bytes).await;
    let (begun, by) = (Instant::now(), Duration::from_millis(150));
    way.proxy.set(Trouble::Delay(by));
    pass(&mut server, &mut client, &bytes).await;
    assert!(begun.elapsed() >= by);
}

#[tokio::test]
async fn half_a_connection_ends_and_the_other_half_goes_on() {
    let way = Way::new(Server::Any).await;
    let (mut client, mut server) = way.connection().await;
    client.shutdown().await.unwrap();
    assert_eq!(end(&mut server).await.unwrap(), 0);
    pass(&mut server, &mut client, b"late words").await;
}

#[tokio::test]
async fn the_end_of_a_transaction_reaches_the_broker_after_its_client_has_lost_the_connection() {
    const PRODUCE: &[u8] = &[0, 0, 0, 4, 0, 0, 1, 2];
    const END_TXN: &[u8] = &[0, 0, 0, 5, 0, 26, 1, 2, 3];
    let way = Way::new(Server::Kafka).await;
    let mut client = TcpStream::connect(("127.0.0.1", way.port)).await.unwrap();
    let (mut broker, _) = way.server.accept().await.unwrap();
    pass(&mut client, &mut broker, END_TXN).await;
    way.proxy.set(Trouble::LateEnd(SHORT));
    pass(&mut client, &mut broker, PRODUCE).await;
    client.write_all(END_TXN).await.unwrap();
    assert!(end(&mut client).await.is_err());
    let mut again = TcpStream::connect(("127.0.0.1", way.port)).await.unwrap();
    let (mut later, _) = way.server.accept().await.unwrap();
    pass(&mut again, &mut later, END_TXN).await;
    assert_eq!(receive(&mut broker, END_TXN.len()).await, END_TXN);
}
