//! Messages over a stream: both directions, buffered, owned by one task.
//!
//! Everything that was read or is yet to be written lives in here and not in a future, so a read that is dropped half-way
//! loses nothing. Memory follows the bytes that have arrived, never a length that a header claims.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::malformed::{Malformed, Problem};
use crate::transport::Stream;

/// Room that is made for one read. Big gulps keep the walsender from waking us for every message.
const GULP: usize = 256 * 1024;
/// Less room than this is not worth a read.
const SIP: usize = 16 * 1024;
/// PostgreSQL builds no message beyond 1 GiB (MaxAllocSize), and a frame's header comes on top.
const MAX_MESSAGE: usize = (1 << 30) + 1024;
/// Bytes of a message in front of its body: tag and length, the length counting itself.
const HEADER: usize = 5;

/// The connection broke, or what came over it is not the protocol.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the server closed the connection")]
    Closed,
    #[error("connection lost: {0}")]
    Io(io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// One message of the server.
pub(crate) struct Packet {
    pub(crate) tag: u8,
    pub(crate) body: Bytes,
}

pub(crate) struct Wire {
    stream: Stream,
    inbox: BytesMut,
    outbox: BytesMut,
    /// Bytes went into the stream that it may still hold back (TLS).
    unflushed: bool,
}

impl Wire {
    pub(crate) fn new(stream: Stream) -> Self {
        Wire { stream, inbox: BytesMut::new(), outbox: BytesMut::new(), unflushed: false }
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Where messages to the server are put. They leave while the next packet is waited for, or by `try_flush`.
    pub(crate) fn outbox(&mut self) -> &mut BytesMut {
        &mut self.outbox
    }

    /// The next message that has arrived as a whole.
    #[inline]
    pub(crate) fn take_packet(&mut self) -> Result<Option<Packet>, Malformed> {
        let Some((header, _)) = self.inbox.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [tag, length @ ..] = *header;
        let length = i32::from_be_bytes(length);
        let name = name_of(tag)?;
        // The length counts its own four bytes.
        let whole = usize::try_from(length).ok().filter(|length| (4..=MAX_MESSAGE).contains(length)).map(|l| l + 1);
        let whole = whole.ok_or(Malformed { message: name, problem: Problem::Count(length.into()) })?;
        if self.inbox.len() < whole {
            return Ok(None);
        }
        let mut body = self.inbox.split_to(whole).freeze();
        body.advance(HEADER);
        Ok(Some(Packet { tag, body }))
    }

    /// The next message. Cancel-safe. Writes what is waiting to be written meanwhile, but never waits for that.
    pub(crate) async fn packet(&mut self) -> Result<Packet, WireError> {
        loop {
            if let Some(packet) = self.take_packet()? {
                return Ok(packet);
            }
            poll_fn(|cx| self.poll_exchange(cx)).await?;
        }
    }

    /// Reads once; ready when bytes came.
    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        // A peer that has closed may have left its last words to be read, so a failed write is not the end yet.
        let written = self.poll_flush(cx);
        match self.poll_fill(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome),
            Poll::Pending => match written {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Pending,
            },
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        if self.inbox.capacity() - self.inbox.len() < SIP {
            self.inbox.reserve(GULP);
        }
        let read = pin!(self.stream.read_buf(&mut self.inbox));
        match ready!(read.poll(cx)) {
            Ok(0) => Poll::Ready(Err(WireError::Closed)),
            Ok(_) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(broken(error))),
        }
    }

    /// Writes as much of the outbox as the stream takes.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        while !self.outbox.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.outbox)).map_err(broken)?;
            if count == 0 {
                return Poll::Ready(Err(WireError::Closed));
            }
            self.outbox.advance(count);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(broken)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what can be written at once and leaves the rest to the next read, a failure as well.
    pub(crate) fn try_flush(&mut self) {
        // Nobody is woken by this attempt; `packet` asks again with the waker of its task.
        let _ = self.poll_flush(&mut Context::from_waker(Waker::noop()));
    }

    /// Reads and drops everything until the server closes, writing what is left to be written.
    pub(crate) async fn drain(&mut self) {
        while poll_fn(|cx| self.poll_exchange(cx)).await.is_ok() {
            self.inbox.clear();
        }
    }

    /// How many bytes wait to be written.
    pub(crate) fn unwritten(&self) -> usize {
        self.outbox.len()
    }
}

fn broken(error: io::Error) -> WireError {
    match error.kind() {
        // TLS without its closing message: PostgreSQL just closes.
        io::ErrorKind::UnexpectedEof => WireError::Closed,
        _ => WireError::Io(error),
    }
}

/// Knows every message that a server may send to us, so that noise is refused at its first byte and not after as many
/// bytes as its "length" says.
fn name_of(tag: u8) -> Result<&'static str, Malformed> {
    Ok(match tag {
        b'd' => "CopyData",
        b'c' => "CopyDone",
        b'C' => "CommandComplete",
        b'D' => "DataRow",
        b'E' => "ErrorResponse",
        b'G' => "CopyInResponse",
        b'H' => "CopyOutResponse",
        b'I' => "EmptyQueryResponse",
        b'K' => "BackendKeyData",
        b'N' => "NoticeResponse",
        b'A' => "NotificationResponse",
        b'R' => "Authentication",
        b'S' => "ParameterStatus",
        b'T' => "RowDescription",
        b'W' => "CopyBothResponse",
        b'Z' => "ReadyForQuery",
        _ => return Err(Malformed { message: "message", problem: Problem::UnknownTag(tag) }),
    })
}

impl Packet {
    /// This message has no place where it came.
    pub(crate) fn out_of_place(&self) -> Malformed {
        let message = name_of(self.tag).unwrap_or("message");
        Malformed { message, problem: Problem::OutOfPlace }
    }
}
