//! One connection to a broker, made secure as the settings say, with one request under way at a time.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::frame::{Malformed, Reply, Request};
use super::scram::Scram;
use super::security::{Mechanism, Sasl, Security};

/// The most bytes that an answer may have: metadata of very many topics.
const MOST_BYTES: usize = 64 << 20;
/// How long a broker may take to be connected to, where there are others to ask.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// Failures are texts: nobody chooses by them, the next broker is asked.
pub(super) struct Connection<'a> {
    stream: Box<dyn Stream>,
    client: &'a str,
    sent: i32,
}

impl<'a> Connection<'a> {
    /// Connects to `broker`, `HOST:PORT`. Each read and write ends at the latest so much later as is left now.
    pub fn open(broker: &str, security: &Security, client: &'a str, deadline: Instant) -> Result<Self, String> {
        let (host, port) = broker.rsplit_once(':').unwrap_or((broker, "9092"));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port: u16 = port.parse().map_err(|_| "no port".to_owned())?;
        let mut failure = "it has no address".to_owned();
        for address in (host, port).to_socket_addrs().map_err(text)? {
            let left = left(deadline)?;
            match TcpStream::connect_timeout(&address, left.min(CONNECT_LIMIT)) {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(text)?;
                    stream.set_read_timeout(Some(left)).map_err(text)?;
                    stream.set_write_timeout(Some(left)).map_err(text)?;
                    return Connection::secured(stream, host, security, client);
                }
                Err(error) => failure = error.to_string(),
            }
        }
        Err(failure)
    }

    fn secured(stream: TcpStream, host: &str, security: &Security, client: &'a str) -> Result<Self, String> {
        let stream: Box<dyn Stream> = match &security.tls {
            None => Box::new(stream),
            Some(config) => {
                let name = ServerName::try_from(host.to_owned()).map_err(text)?;
                let tls = ClientConnection::new(config.clone(), name).map_err(text)?;
                Box::new(StreamOwned::new(tls, stream))
            }
        };
        let mut connection = Connection { stream, client, sent: 0 };
        if let Some(sasl) = &security.sasl {
            connection.authenticate(sasl)?;
        }
        Ok(connection)
    }

    /// Sends a request and returns the answer without its length and number.
    pub fn ask(&mut self, request: &Request) -> Result<Vec<u8>, String> {
        self.sent += 1;
        self.stream.write_all(&request.frame(self.sent, self.client)).map_err(text)?;
        self.stream.flush().map_err(text)?;
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).map_err(text)?;
        let length = usize::try_from(i32::from_be_bytes(head)).unwrap_or(0);
        if !(4..=MOST_BYTES).contains(&length) {
            return Err(format!("an answer of {length} bytes"));
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).map_err(text)?;
        let body = answer.split_off(4);
        if answer != self.sent.to_be_bytes() {
            return Err("an answer to something else".to_owned());
        }
        Ok(body)
    }

    fn authenticate(&mut self, sasl: &Sasl) -> Result<(), String> {
        let mut handshake = Request::plain(17, 1);
        handshake.text(sasl.mechanism.name());
        let answer = self.ask(&handshake)?;
        if Reply(&answer).i16().map_err(malformed)? != 0 {
            return Err(format!("the broker does not take {}", sasl.mechanism.name()));
        }
        let (user, password) = (&sasl.user, &sasl.password);
        match sasl.mechanism {
            Mechanism::Plain => drop(self.exchange(&format!("\0{user}\0{password}"))?),
            Mechanism::Scram(hash) => {
                let mut scram = Scram::new(hash, user, password, nonce()?);
                let first = self.exchange(&scram.first())?;
                let proof = scram.answer(&first).ok_or("the broker's SCRAM message makes no sense")?;
                let last = self.exchange(&proof)?;
                if !scram.is_server(&last) {
                    return Err("the broker does not know the password".to_owned());
                }
            }
        }
        Ok(())
    }

    /// One message of the mechanism there, one back.
    fn exchange(&mut self, message: &str) -> Result<String, String> {
        let mut request = Request::plain(36, 0);
        request.bytes(message.as_bytes());
        let answer = self.ask(&request)?;
        let mut reply = Reply(&answer);
        let error = reply.i16().map_err(malformed)?;
        let reason = reply.text().map_err(malformed)?;
        if error != 0 {
            return Err(format!("the credentials were refused: {reason}"));
        }
        Ok(String::from_utf8_lossy(reply.bytes().map_err(malformed)?).into_owned())
    }
}

fn nonce() -> Result<String, String> {
    let mut bytes = [0; 18];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(text)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn left(deadline: Instant) -> Result<Duration, String> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err("no answer in time".to_owned()) } else { Ok(left) }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn malformed(_: Malformed) -> String {
    "the answer makes no sense".to_owned()
}
