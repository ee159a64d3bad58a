//! A proxy between client and server that hands the server's bytes on in small pieces, and knows when to go on.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

/// Starts a proxy for one connection to `127.0.0.1:port`. What the server sends comes in pieces of 1 to 13 bytes, each one
/// sent off before the next.
pub async fn dribble(port: u16) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
        let mut buffer = vec![0; 4096];
        let mut size = 1;
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(size.min(rest.len()));
                if to_client.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
                rest = after;
                size = size % 13 + 1;
            }
        }
    });
    address
}
