//! What a walsender sends in a replication stream, and the status that is sent back.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use pgbaton_core::Lsn;

use crate::malformed::{Malformed, Problem, Reader};

/// Bytes of `XLogData` in front of the data: tag, two positions, a time.
const XLOG_DATA_HEADER: usize = 25;
/// Seconds from 1970 to 2000, where PostgreSQL's time begins.
const POSTGRES_EPOCH: u64 = 946_684_800;

/// One message of a replication stream.
#[derive(Clone, PartialEq, Eq)]
pub enum Frame {
    /// Output of the plugin: one pgoutput message.
    XLogData {
        /// Where the record that this came from starts. Zero for messages that belong to no record (Relation).
        wal_start: Lsn,
        /// The same as `wal_start` in logical replication.
        wal_end: Lsn,
        /// The server's clock, microseconds since 2000-01-01 UTC.
        server_time: i64,
        /// The message, shared with the receive buffer and not copied.
        data: Bytes,
    },
    /// The server is alive, and says how far it has read.
    Keepalive {
        /// How far it has read and sent everything that concerns us.
        wal_end: Lsn,
        /// The server's clock, microseconds since 2000-01-01 UTC.
        server_time: i64,
        /// It wants a status at once.
        reply_requested: bool,
    },
    /// The server ends the stream in order (`COPY 0`): shutdown, restart, switchover. Nothing follows.
    End,
}

impl Frame {
    #[inline]
    pub(crate) fn read(mut body: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new("CopyData", &body);
        match reader.u8()? {
            b'w' => {
                let (wal_start, wal_end, server_time) = (Lsn(reader.u64()?), Lsn(reader.u64()?), reader.i64()?);
                body.advance(XLOG_DATA_HEADER);
                Ok(Frame::XLogData { wal_start, wal_end, server_time, data: body })
            }
            b'k' => {
                let (wal_end, server_time, reply) = (Lsn(reader.u64()?), reader.i64()?, reader.u8()?);
                reader.end()?;
                Ok(Frame::Keepalive { wal_end, server_time, reply_requested: reply != 0 })
            }
            tag => Err(reader.problem(Problem::UnknownTag(tag))),
        }
    }
}

/// Shows no data: rows never reach a log.
impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Frame::XLogData { wal_start, data, .. } => write!(f, "XLogData({wal_start}, {} bytes)", data.len()),
            Frame::Keepalive { wal_end, reply_requested, .. } => {
                write!(f, "Keepalive({wal_end}, reply_requested: {reply_requested})")
            }
            Frame::End => f.write_str("End"),
        }
    }
}

/// Puts a standby status update with these three positions, and nothing else than these, into `out`.
pub(crate) fn write_status(out: &mut BytesMut, write: Lsn, flush: Lsn, apply: Lsn, reply_requested: bool) {
    const BODY: u32 = 1 + 3 * 8 + 8 + 1;
    out.put_u8(b'd');
    out.put_u32(4 + BODY);
    out.put_u8(b'r');
    for position in [write, flush, apply] {
        out.put_u64(position.0);
    }
    out.put_i64(now());
    out.put_u8(reply_requested.into());
}

/// Our clock in PostgreSQL's terms. The server only shows it (`reply_time`); nothing is decided by it.
fn now() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since_2000 = since_1970.saturating_sub(std::time::Duration::from_secs(POSTGRES_EPOCH));
    i64::try_from(since_2000.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_shares_the_received_bytes() {
        let mut body = BytesMut::from(&b"w"[..]);
        body.put_u64(7);
        body.put_u64(8);
        body.put_i64(-9);
        body.put_slice(b"data");
        let body = body.freeze();
        let Frame::XLogData { wal_start, wal_end, server_time, data } = Frame::read(body.clone()).unwrap() else {
            panic!("not XLogData");
        };
        assert_eq!((wal_start, wal_end, server_time), (Lsn(7), Lsn(8), -9));
        assert_eq!(data.as_ptr(), body[XLOG_DATA_HEADER..].as_ptr());
    }

    #[test]
    fn a_frame_that_is_cut_too_long_or_unknown_is_refused() {
        for body in [&b""[..], b"w1234567", b"k", b"k00000000111111112x", b"x"] {
            assert!(Frame::read(Bytes::from_static(body)).is_err(), "{body:?} was accepted");
        }
    }

    #[test]
    fn a_status_says_exactly_what_it_was_told() {
        let mut out = BytesMut::new();
        write_status(&mut out, Lsn(1), Lsn::INVALID, Lsn(u64::MAX), true);
        assert_eq!(out.len(), 39);
        assert_eq!(out[..5], [b'd', 0, 0, 0, 38]);
        assert_eq!(out[5..30], [&b"r"[..], &1_u64.to_be_bytes(), &0_u64.to_be_bytes(), &[255; 8]].concat());
        assert_eq!(out[38], 1);
    }
}
