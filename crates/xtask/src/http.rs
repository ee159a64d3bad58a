//! Plain HTTP on loopback, for Patroni's REST interface and health pages. Not for anything beyond this machine.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// An answer: its status code and its body.
pub(crate) struct Answer {
    pub status: u16,
    pub body: String,
}

/// GET with a short bound: health pages answer at once or are of no use.
pub(crate) fn get(port: u16, path: &str) -> Result<Answer> {
    request(port, &format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"), Duration::from_secs(2))
}

/// POST of a JSON document; the answer may take as long as `bound`.
pub(crate) fn post(port: u16, path: &str, json: &str, bound: Duration) -> Result<Answer> {
    let length = json.len();
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}"
    );
    request(port, &format!("{head}\r\n\r\n{json}"), bound)
}

fn request(port: u16, text: &str, bound: Duration) -> Result<Answer> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, bound)?;
    stream.set_read_timeout(Some(bound))?;
    stream.write_all(text.as_bytes())?;
    // HTTP/1.0: the end of the stream is the end of the answer.
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("read an HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("read an HTTP status")?;
    Ok(Answer { status, body: body.to_owned() })
}
