//! Rows on their way: one pgoutput message in, its records handed to the sink. Nothing here waits: what the sink does not take
//! yet is held, and goes on in a later turn.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use pgbaton_core::{Code, EventId, Lsn, Moment, Publish, Relation, ReplicaIdentity, SessionEnd};
use pgbaton_postgres::pgoutput::{Message, OldKind, decode};
use pgbaton_sinks::debezium::{ChangeContext, EncodeError, Records, TableEncoder};
use pgbaton_sinks::kafka::{Accepted, DataRecord};
use tracing::warn;

use super::super::failures;
use super::{Publishing, TransactionFacts, broken, is_commit, out_of_order};
use crate::clock::boottime;
use crate::metrics::Operation;

/// Making or finding a topic in the middle of a stream.
const TOPIC_LIMIT: Duration = Duration::from_secs(4);
/// PostgreSQL counts microseconds from 2000-01-01, Unix from 1970.
const UNIX_TO_POSTGRES_MICROS: i64 = 946_684_800_000_000;

/// What comes next and the sink does not take yet.
pub(super) enum Held {
    /// The topic of this table is being found or made, until then at the longest.
    Topic { oid: u32, encoder: Box<TableEncoder>, by: Moment },
    /// Some records of this change: the sink is full, or the begin of its transaction is not acknowledged.
    Change(Change),
}

/// A change on its way.
pub(super) struct Change {
    id: EventId,
    lsn: Lsn,
    data: Bytes,
    /// So many of its records were handed over.
    written: usize,
}

/// How far a change has come in this turn.
#[derive(Default)]
struct Progress {
    /// Records that were looked at.
    records: usize,
    /// The next free part.
    part: u16,
}

impl Publishing {
    /// Works on what is held, or on the next message. False if there is nothing that could be worked on.
    pub(super) fn step(&mut self) -> Result<bool, SessionEnd> {
        match self.held.take() {
            Some(Held::Change(change)) => self.hand_over(change)?,
            Some(Held::Topic { encoder, by, .. }) if boottime() >= by => {
                let detail = format!("topic {} could not be found or made in time", encoder.topic());
                return Err(SessionEnd::Stalled(detail));
            }
            Some(topic) => self.held = Some(topic),
            None => match self.has_work().then(|| self.intake.pop()).flatten() {
                Some((lsn, data)) => self.message(lsn, data)?,
                None => return Ok(false),
            },
        }
        Ok(self.held.is_none())
    }

    fn message(&mut self, lsn: Lsn, data: Bytes) -> Result<(), SessionEnd> {
        match decoded(&data)? {
            Message::Begin { final_lsn, commit_time, xid } => {
                let unix = commit_time + UNIX_TO_POSTGRES_MICROS;
                self.transaction = Some(TransactionFacts { xid, commit_time_micros: unix });
                self.last_commit_time =
                    u64::try_from(unix).ok().map(|micros| UNIX_EPOCH + Duration::from_micros(micros));
                if self.remains.as_ref().is_some_and(|remains| remains.end_before(final_lsn)) {
                    self.remains = None;
                }
                self.stream.begin(xid, final_lsn, failures::rfc3339_micros(unix)).map_err(broken)
            }
            Message::Commit { end_lsn, .. } => {
                self.stream.commit(end_lsn).map_err(broken)?;
                self.counters.transactions += u64::from(std::mem::take(&mut self.published_some));
                self.last_commit_lsn = Some(end_lsn);
                self.transaction = None;
                Ok(())
            }
            Message::Relation(relation) => self.relation(&relation),
            Message::Insert { .. } | Message::Update { .. } | Message::Delete { .. } | Message::Truncate { .. } => {
                match self.stream.change(&data).map_err(broken)? {
                    Some(publish) => self.publish(publish, lsn, data),
                    None => Ok(()),
                }
            }
            Message::Origin { .. } | Message::Type { .. } | Message::Message { .. } => Ok(()),
        }
    }

    fn relation(&mut self, relation: &Relation) -> Result<(), SessionEnd> {
        let keys = self.keys.get(&relation.oid).map(Vec::as_slice);
        if keys.is_none() && matches!(relation.identity, ReplicaIdentity::Full | ReplicaIdentity::Nothing) {
            // It joined the publication, or changed its identity, after Inspect had looked.
            let table = format!("{}.{}", relation.schema, relation.table);
            return Err(SessionEnd::KeyUnknown { oid: relation.oid, table });
        }
        let keys = keys.filter(|key| !key.is_empty());
        let (encoder, unmapped) =
            TableEncoder::compile(relation, keys, &self.source).map_err(|error| SessionEnd::Sink {
                code: Code::ConfigInvalid,
                detail: format!("table {}.{}: {error}", relation.schema, relation.table),
            })?;
        if let Some((oid, _)) =
            self.tables.iter().find(|(oid, table)| **oid != relation.oid && table.topic() == encoder.topic())
        {
            return Err(SessionEnd::Sink {
                code: Code::TopicCollision,
                detail: format!(
                    "table {}.{} would be written to topic {}, as the table with OID {oid} is",
                    relation.schema,
                    relation.table,
                    encoder.topic()
                ),
            });
        }
        if !self.tables.contains_key(&relation.oid) {
            for column in &unmapped {
                warn!(
                    schema = relation.schema,
                    table = relation.table,
                    column = column.name,
                    type_oid = column.type_oid,
                    "column is sent as text: its type has no mapping"
                );
            }
        }
        let by = boottime() + TOPIC_LIMIT;
        self.held = Some(Held::Topic { oid: relation.oid, encoder: Box::new(encoder), by });
        Ok(())
    }

    /// The topic that was held for is there.
    pub(super) fn topic_is_ready(&mut self) -> Result<(), SessionEnd> {
        let Some(Held::Topic { oid, encoder, .. }) = self.held.take() else { return Ok(()) };
        if !self.named.contains(encoder.topic()) {
            let topic = encoder.topic().to_owned();
            if self.stream.is_filling() && !self.sink.may_repeat() {
                // The open transaction has not named it, and whoever reads back a torn one must know where to look.
                return Err(SessionEnd::TopicAdded(topic));
            }
            self.new_topics.push(topic.clone());
            self.topic_watch.add(topic.clone());
            self.named.insert(topic);
        }
        self.tables.insert(oid, *encoder);
        Ok(())
    }

    fn publish(&mut self, publish: Publish, lsn: Lsn, data: Bytes) -> Result<(), SessionEnd> {
        if !self.stream.is_filling() {
            self.begin()?;
        }
        if let Some(chunk) = publish.chunk {
            let last = self.intake.front().is_some_and(|next| is_commit(next));
            self.scratch.chunk = if last { format!("{chunk}/last") } else { chunk.to_string() };
        } else {
            self.scratch.chunk.clear();
        }
        self.hand_over(Change { id: publish.id, lsn, data, written: 0 })
    }

    /// Hands over what is left of a change, or holds it.
    fn hand_over(&mut self, mut change: Change) -> Result<(), SessionEnd> {
        let facts = self.transaction.as_ref().ok_or_else(|| out_of_order("a change", "Begin"))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let context = ChangeContext {
            xid: facts.xid,
            lsn: change.lsn,
            last_commit_lsn: self.last_commit_lsn,
            commit_time_micros: facts.commit_time_micros,
            now_nanos: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
        };
        let data = change.data.clone();
        let mut progress = Progress::default();
        let (operation, is_over) = match decoded(&data)? {
            Message::Truncate { relations, .. } => {
                let mut is_over = true;
                for oid in relations {
                    self.encode(oid, |table, out| {
                        table.truncate(&context, out);
                        Ok(())
                    })?;
                    is_over = self.write(&mut change, oid, &mut progress)?;
                    if !is_over {
                        break;
                    }
                }
                (Operation::Truncate, is_over)
            }
            Message::Insert { relation, new } => {
                self.encode(relation, |table, out| table.insert(&context, &new, out))?;
                (Operation::Insert, self.write(&mut change, relation, &mut progress)?)
            }
            Message::Update { relation, old, new } => {
                let key_only = old.as_ref().is_some_and(|old| old.kind == OldKind::Key);
                let tuple = old.as_ref().map(|old| &old.tuple);
                self.encode(relation, |table, out| table.update(&context, tuple, key_only, &new, out))?;
                (Operation::Update, self.write(&mut change, relation, &mut progress)?)
            }
            Message::Delete { relation, old } => {
                self.encode(relation, |table, out| table.delete(&context, &old.tuple, out))?;
                (Operation::Delete, self.write(&mut change, relation, &mut progress)?)
            }
            _ => return Err(out_of_order("another message", "a change")),
        };
        if !is_over {
            self.held = Some(Held::Change(change));
            return Ok(());
        }
        self.meters.changes(operation, 1);
        self.counters.changes += 1;
        self.published_some = true;
        self.stream.written(boottime());
        Ok(())
    }

    fn encode(
        &mut self,
        oid: u32,
        encode: impl FnOnce(&TableEncoder, &mut Records) -> Result<(), EncodeError>,
    ) -> Result<(), SessionEnd> {
        self.records.clear();
        let table = self.tables.get(&oid).ok_or_else(|| out_of_order("a change of an unknown table", "Relation"))?;
        encode(table, &mut self.records)
            .map_err(|error| SessionEnd::Sink { code: Code::ConfigInvalid, detail: error.to_string() })
    }

    /// Hands over the encoded records, but for those that were handed over in an earlier turn. False if the sink takes no more.
    fn write(&mut self, change: &mut Change, oid: u32, progress: &mut Progress) -> Result<bool, SessionEnd> {
        let topic = self.tables[&oid].topic();
        let first_part = progress.part;
        for record in self.records.iter() {
            let part = first_part.saturating_add(u16::from(record.part.unwrap_or(0)));
            progress.part = part.saturating_add(1);
            progress.records += 1;
            let id = EventId { part, ..change.id };
            let is_there = self.remains.as_ref().is_some_and(|remains| remains.hold(topic, record.key, &id));
            if is_there || progress.records <= change.written {
                continue;
            }
            self.scratch.id.clear();
            let _ = write!(self.scratch.id, "{id}");
            let mut headers: [(&str, &[u8]); 4] = [
                ("pgbaton.id", self.scratch.id.as_bytes()),
                ("pgbaton.term", self.scratch.term.as_bytes()),
                ("", b""),
                ("", b""),
            ];
            let mut count = 2;
            if !self.scratch.chunk.is_empty() {
                headers[count] = ("pgbaton.chunk", self.scratch.chunk.as_bytes());
                count += 1;
            }
            if let Some(header) = record.header {
                headers[count] = header;
                count += 1;
            }
            let data = DataRecord { topic, key: record.key, value: record.value, headers: &headers[..count] };
            if self.sink.write(&data)? == Accepted::QueueFull {
                return Ok(false);
            }
            change.written = progress.records;
            let size = record.value.map_or(0, <[u8]>::len) as u64 + record.key.map_or(0, <[u8]>::len) as u64;
            self.average_record = (self.average_record * 63 + size + 128) / 64;
            self.counters.bytes += size;
        }
        self.moved.get_or_insert_with(boottime);
        Ok(true)
    }
}

fn decoded(data: &[u8]) -> Result<Message<'_>, SessionEnd> {
    decode(data).map_err(|malformed| {
        SessionEnd::Stream(failures::passing(
            Code::PostgresUnreachable,
            format!("PostgreSQL sent a message that is none of pgoutput's: {malformed}"),
        ))
    })
}
