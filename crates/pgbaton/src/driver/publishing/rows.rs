//! Rows on their way: one pgoutput message in, its records handed to the sink.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgbaton_core::{Code, EventId, Lsn, Publish, Relation, ReplicaIdentity, SessionEnd};
use pgbaton_postgres::pgoutput::{Message, OldKind, decode};
use pgbaton_sinks::debezium::{ChangeContext, EncodeError, Records, TableEncoder};
use pgbaton_sinks::kafka::{Accepted, DataRecord};
use tracing::warn;

use super::super::failures;
use super::super::sink::Told;
use super::{Publishing, STALLED_AFTER, TransactionFacts, broken, is_commit, out_of_order, stalled};
use crate::clock::boottime;
use crate::metrics::Operation;

/// Making or finding a topic in the middle of a stream.
const TOPIC_LIMIT: Duration = Duration::from_secs(4);
/// PostgreSQL counts microseconds from 2000-01-01, Unix from 1970.
const UNIX_TO_POSTGRES_MICROS: i64 = 946_684_800_000_000;

impl Publishing {
    pub(super) async fn message(&mut self, lsn: Lsn, data: &[u8]) -> Result<(), SessionEnd> {
        let message = decode(data).map_err(|malformed| {
            SessionEnd::Stream(failures::passing(
                Code::PostgresUnreachable,
                format!("PostgreSQL sent a message that is none of pgoutput's: {malformed}"),
            ))
        })?;
        match message {
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
            Message::Relation(relation) => self.relation(&relation).await,
            Message::Insert { .. } | Message::Update { .. } | Message::Delete { .. } | Message::Truncate { .. } => {
                match self.stream.change(data).map_err(broken)? {
                    Some(publish) => self.publish(publish, lsn, &message).await,
                    None => Ok(()),
                }
            }
            Message::Origin { .. } | Message::Type { .. } | Message::Message { .. } => Ok(()),
        }
    }

    async fn relation(&mut self, relation: &Relation) -> Result<(), SessionEnd> {
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
        let topic = [encoder.topic()];
        let preparing = tokio::time::timeout(TOPIC_LIMIT, self.sink.prepare_topics(&topic));
        match self.intake.beside(&mut self.stream, preparing).await? {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(failures::topic(&error)),
            Err(_) => {
                return Err(SessionEnd::Stalled(format!(
                    "topic {} could not be found or made in time",
                    encoder.topic()
                )));
            }
        }
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
        self.tables.insert(relation.oid, encoder);
        Ok(())
    }

    async fn publish(&mut self, publish: Publish, lsn: Lsn, message: &Message<'_>) -> Result<(), SessionEnd> {
        if !self.stream.is_filling() {
            self.begin()?;
        }
        let facts = self.transaction.as_ref().ok_or_else(|| out_of_order("a change", "Begin"))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let context = ChangeContext {
            xid: facts.xid,
            lsn,
            last_commit_lsn: self.last_commit_lsn,
            commit_time_micros: facts.commit_time_micros,
            now_nanos: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
        };
        if let Some(chunk) = publish.chunk {
            let last = self.intake.front().is_some_and(|next| is_commit(next));
            self.scratch.chunk = if last { format!("{chunk}/last") } else { chunk.to_string() };
        } else {
            self.scratch.chunk.clear();
        }
        let mut part = 0;
        match message {
            Message::Truncate { relations, .. } => {
                for oid in relations {
                    self.records.clear();
                    self.table(*oid)?;
                    self.tables[oid].truncate(&context, &mut self.records);
                    part = self.write(publish.id, *oid, part).await?;
                }
                self.meters.changes(Operation::Truncate, 1);
            }
            Message::Insert { relation, new } => {
                self.encode(*relation, |table, out| table.insert(&context, new, out))?;
                self.write(publish.id, *relation, part).await?;
                self.meters.changes(Operation::Insert, 1);
            }
            Message::Update { relation, old, new } => {
                let key_only = old.is_some_and(|old| old.kind == OldKind::Key);
                let tuple = old.as_ref().map(|old| &old.tuple);
                self.encode(*relation, |table, out| table.update(&context, tuple, key_only, new, out))?;
                self.write(publish.id, *relation, part).await?;
                self.meters.changes(Operation::Update, 1);
            }
            Message::Delete { relation, old } => {
                self.encode(*relation, |table, out| table.delete(&context, &old.tuple, out))?;
                self.write(publish.id, *relation, part).await?;
                self.meters.changes(Operation::Delete, 1);
            }
            _ => {}
        }
        self.counters.changes += 1;
        self.published_some = true;
        self.stream.written(boottime());
        Ok(())
    }

    fn table(&self, oid: u32) -> Result<&TableEncoder, SessionEnd> {
        self.tables.get(&oid).ok_or_else(|| out_of_order("a change of an unknown table", "Relation"))
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

    /// Hands the encoded records over. Answers with the next free part.
    async fn write(&mut self, id: EventId, oid: u32, first_part: u16) -> Result<u16, SessionEnd> {
        let mut next = first_part;
        for index in 0..self.records.iter().len() {
            let Some(record) = self.records.iter().nth(index) else { break };
            let part = first_part.saturating_add(u16::from(record.part.unwrap_or(0)));
            next = part.saturating_add(1);
            let id = EventId { part, ..id };
            let topic = self.tables[&oid].topic();
            if self.remains.as_ref().is_some_and(|remains| remains.hold(topic, record.key, &id)) {
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
            let size = record.value.map_or(0, <[u8]>::len) as u64 + record.key.map_or(0, <[u8]>::len) as u64 + 128;
            self.average_record = (self.average_record * 63 + size) / 64;
            self.counters.bytes += size - 128;
            let data = DataRecord {
                topic: self.tables[&oid].topic(),
                key: record.key,
                value: record.value,
                headers: &headers[..count],
            };
            let waiting_since = boottime();
            loop {
                match self.sink.write(&data) {
                    Ok(Accepted::Queued) => break,
                    Ok(Accepted::QueueFull) => {
                        if boottime().since(waiting_since) >= STALLED_AFTER {
                            return Err(stalled());
                        }
                        let event = tokio::time::timeout(STALLED_AFTER, self.sink.event());
                        match self.intake.beside(&mut self.stream, event).await? {
                            Ok(Told::Failed(end)) => return Err(end),
                            Ok(_) => {}
                            Err(_) => return Err(stalled()),
                        }
                    }
                    Err(end) => return Err(end),
                }
            }
        }
        self.moved.get_or_insert_with(boottime);
        Ok(next)
    }
}
