//! What lies in a partition whether it was committed or not: the heads of all record batches, read over Kafka's own protocol,
//! because a client library hides producers, aborted records and the marks that end transactions.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use serde::{Deserialize, Serialize};

use super::read::consumer;

const LIMIT: Duration = Duration::from_secs(10);
const MAX_BYTES: i32 = 8 << 20;

/// What a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// Records.
    Data,
    /// The mark that commits the producer's transaction.
    Commit,
    /// The mark that aborts it.
    Abort,
}

/// The head of a record batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Offset of its first record.
    pub first: i64,
    /// Offset of its last record.
    pub last: i64,
    /// Its producer; -1 for none.
    pub producer: i64,
    /// The producer's epoch.
    pub epoch: i16,
    /// What it is.
    pub sort: Sort,
}

/// The batches of each partition, in offset order, by topic and partition.
pub type Batches = BTreeMap<(String, i32), Vec<Batch>>;

/// Reads all batches of these partitions up to where they end now. Speaks to brokers without encryption only.
pub fn read(bootstrap: &str, partitions: &[(String, i32)]) -> io::Result<Batches> {
    let consumer = consumer(bootstrap).map_err(io::Error::other)?;
    let metadata = consumer.fetch_metadata(None, LIMIT).map_err(io::Error::other)?;
    let mut connections: BTreeMap<i32, TcpStream> = BTreeMap::new();
    let mut found = Batches::new();
    for (topic, partition) in partitions {
        let described = metadata.topics().iter().find(|described| described.name() == topic);
        let leader = described
            .and_then(|topic| topic.partitions().iter().find(|described| described.id() == *partition))
            .map(|partition| partition.leader());
        let broker = metadata.brokers().iter().find(|broker| Some(broker.id()) == leader);
        let broker = broker.ok_or_else(|| io::Error::other(format!("{topic}/{partition} has no leader")))?;
        let connection = match connections.entry(broker.id()) {
            std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::btree_map::Entry::Vacant(none) => {
                let port = u16::try_from(broker.port()).map_err(io::Error::other)?;
                let stream = TcpStream::connect((broker.host(), port))?;
                stream.set_read_timeout(Some(LIMIT))?;
                stream.set_nodelay(true)?;
                none.insert(stream)
            }
        };
        let mut batches = Vec::new();
        let mut offset = 0;
        loop {
            let (end, bytes) = fetch(connection, topic, *partition, offset)?;
            heads(&bytes, offset, &mut batches);
            let next = batches.last().map_or(offset, |batch: &Batch| batch.last + 1);
            if next >= end || next == offset {
                break;
            }
            offset = next;
        }
        found.insert((topic.clone(), *partition), batches);
    }
    Ok(found)
}

/// One request for one partition, read_uncommitted; the high watermark and the bytes of whole and cut batches.
fn fetch(stream: &mut TcpStream, topic: &str, partition: i32, offset: i64) -> io::Result<(i64, Vec<u8>)> {
    let mut body = Vec::new();
    // Fetch, version 4, correlation 0, client "lab"; no replica, at most 500 ms, at least 1 byte.
    body.extend([0, 1, 0, 4, 0, 0, 0, 0, 0, 3]);
    body.extend(b"lab");
    for number in [-1, 500, 1, MAX_BYTES] {
        body.extend(i32::to_be_bytes(number));
    }
    body.push(0);
    body.extend(1i32.to_be_bytes());
    body.extend(u16::try_from(topic.len()).map_err(io::Error::other)?.to_be_bytes());
    body.extend(topic.as_bytes());
    body.extend(1i32.to_be_bytes());
    body.extend(partition.to_be_bytes());
    body.extend(offset.to_be_bytes());
    body.extend(MAX_BYTES.to_be_bytes());
    stream.write_all(&u32::try_from(body.len()).map_err(io::Error::other)?.to_be_bytes())?;
    stream.write_all(&body)?;

    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer)?;
    let mut answer = Cursor(&answer);
    // Correlation, throttle time, one topic with its name, one partition with its number.
    let parsed = (|| {
        answer.take(4 + 4 + 4)?;
        let name = answer.number::<2>()?;
        answer.take(usize::try_from(name).ok()? + 4 + 4)?;
        let error = answer.number::<2>()?;
        let high_watermark = answer.number::<8>()?;
        answer.take(8)?;
        let aborted = answer.number::<4>()?.max(0);
        answer.take(usize::try_from(aborted).ok()? * 16)?;
        let length = answer.number::<4>()?.max(0);
        Some((error, high_watermark, answer.take(usize::try_from(length).ok()?)?.to_vec()))
    })();
    match parsed {
        Some((0, high_watermark, bytes)) => Ok((high_watermark, bytes)),
        Some((error, ..)) => Err(io::Error::other(format!("fetch of {topic}/{partition} is refused with {error}"))),
        None => Err(io::Error::other(format!("fetch of {topic}/{partition} has an unreadable answer"))),
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A big-endian number of N bytes with a sign.
    fn number<const N: usize>(&mut self) -> Option<i64> {
        let bytes = self.take(N)?;
        let start = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
        Some(bytes.iter().fold(start, |number: i64, byte| (number << 8) | i64::from(*byte)))
    }

    /// A zigzag number of variable length.
    fn varint(&mut self) -> Option<i64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some((number >> 1) as i64 ^ -((number & 1) as i64));
            }
        }
        None
    }
}

/// Adds the heads of the whole batches in `bytes` that reach `from` or beyond.
fn heads(bytes: &[u8], from: i64, batches: &mut Vec<Batch>) {
    let mut rest = Cursor(bytes);
    while let Some((batch, sort)) = head(&mut rest) {
        if batch.last >= from {
            batches.push(Batch { sort, ..batch });
        }
    }
}

fn head(rest: &mut Cursor<'_>) -> Option<(Batch, Sort)> {
    let first = rest.number::<8>()?;
    let length = usize::try_from(rest.number::<4>()?).ok()?;
    let mut body = Cursor(rest.take(length)?);
    // Leader epoch, magic, checksum.
    body.take(4 + 1 + 4)?;
    let attributes = body.number::<2>()?;
    let last = first + body.number::<4>()?;
    body.take(8 + 8)?;
    let producer = body.number::<8>()?;
    let epoch = body.number::<2>()? as i16;
    body.take(4 + 4)?;
    let sort = if attributes & 0x20 == 0 {
        Sort::Data
    } else {
        // A control record: length, attributes, time, offset, length of the key, the key's version and type.
        body.varint()?;
        body.take(1)?;
        body.varint()?;
        body.varint()?;
        body.varint()?;
        body.take(2)?;
        if body.number::<2>()? == 1 { Sort::Commit } else { Sort::Abort }
    };
    Some((Batch { first, last, producer, epoch, sort }, sort))
}
