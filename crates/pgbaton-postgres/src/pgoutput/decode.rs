//! From the bytes of one pgoutput message to a [`Message`] that borrows them.

use pgbaton_core::{Column, Lsn, Relation, ReplicaIdentity};

use super::{Message, OldImage, OldKind, Tuple};
use crate::malformed::{Malformed, Problem, Reader};

/// Bit of a truncate's options: CASCADE.
const TRUNCATE_CASCADE: u8 = 1;
/// Bit of a truncate's options: RESTART IDENTITY.
const TRUNCATE_RESTART_IDENTITY: u8 = 2;
/// Bit of a logical message's flags: it belongs to a transaction.
const MESSAGE_TRANSACTIONAL: u8 = 1;
/// Bit of a column's flags: part of the replica identity.
const COLUMN_IDENTITY: u8 = 1;

/// Decodes one whole message. Copies no column bytes; of a [`Message::Relation`] it copies the names.
///
/// # Errors
/// The bytes are not one message of protocol version 1: they end too early, go on after the end, carry an impossible
/// count, an unknown tag, a name that is not UTF-8, or a column in binary form.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let (tag, body) =
        bytes.split_first().ok_or(Malformed { message: "pgoutput message", problem: Problem::Truncated })?;
    let mut reader = Reader::new(name_of(*tag)?, body);
    let message = read(*tag, &mut reader)?;
    reader.end()?;
    Ok(message)
}

fn name_of(tag: u8) -> Result<&'static str, Malformed> {
    Ok(match tag {
        b'B' => "Begin",
        b'C' => "Commit",
        b'O' => "Origin",
        b'R' => "Relation",
        b'Y' => "Type",
        b'I' => "Insert",
        b'U' => "Update",
        b'D' => "Delete",
        b'T' => "Truncate",
        b'M' => "Message",
        _ => return Err(Malformed { message: "pgoutput message", problem: Problem::UnknownTag(tag) }),
    })
}

fn read<'a>(tag: u8, reader: &mut Reader<'a>) -> Result<Message<'a>, Malformed> {
    Ok(match tag {
        b'B' => Message::Begin { final_lsn: lsn(reader)?, commit_time: reader.i64()?, xid: reader.u32()? },
        b'C' => Message::Commit {
            flags: reader.u8()?,
            commit_lsn: lsn(reader)?,
            end_lsn: lsn(reader)?,
            commit_time: reader.i64()?,
        },
        b'O' => Message::Origin { lsn: lsn(reader)?, name: reader.text()? },
        b'R' => Message::Relation(relation(reader)?),
        b'Y' => Message::Type { oid: reader.u32()?, schema: reader.text()?, name: reader.text()? },
        b'I' => Message::Insert { relation: reader.u32()?, new: new_row(reader)? },
        b'U' => Message::Update { relation: reader.u32()?, old: old_row(reader)?, new: new_row(reader)? },
        b'D' => Message::Delete {
            relation: reader.u32()?,
            old: old_row(reader)?.ok_or_else(|| reader.problem(Problem::UnknownTag(b'N')))?,
        },
        b'T' => truncate(reader)?,
        b'M' => {
            let (flags, lsn, prefix) = (reader.u8()?, lsn(reader)?, reader.text()?);
            let length = reader.count32()?;
            Message::Message {
                transactional: flags & MESSAGE_TRANSACTIONAL != 0,
                lsn,
                prefix,
                content: reader.take(length)?,
            }
        }
        unknown => return Err(reader.problem(Problem::UnknownTag(unknown))),
    })
}

fn lsn(reader: &mut Reader<'_>) -> Result<Lsn, Malformed> {
    reader.u64().map(Lsn)
}

fn new_row<'a>(reader: &mut Reader<'a>) -> Result<Tuple<'a>, Malformed> {
    match reader.u8()? {
        b'N' => Tuple::read(reader),
        tag => Err(reader.problem(Problem::UnknownTag(tag))),
    }
}

/// The old image, or `None` where the new one follows at once (its tag is left unread).
fn old_row<'a>(reader: &mut Reader<'a>) -> Result<Option<OldImage<'a>>, Malformed> {
    let kind = match reader.rest().first() {
        Some(b'K') => OldKind::Key,
        Some(b'O') => OldKind::Full,
        Some(b'N') => return Ok(None),
        Some(tag) => return Err(reader.problem(Problem::UnknownTag(*tag))),
        None => return Err(reader.problem(Problem::Truncated)),
    };
    reader.u8()?;
    Ok(Some(OldImage { kind, tuple: Tuple::read(reader)? }))
}

fn relation(reader: &mut Reader<'_>) -> Result<Relation, Malformed> {
    let oid = reader.u32()?;
    // An empty schema stands for pg_catalog.
    let schema = match reader.text()? {
        "" => "pg_catalog",
        schema => schema,
    };
    let table = reader.text()?;
    let identity = match reader.u8()? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        tag => return Err(reader.problem(Problem::UnknownTag(tag))),
    };
    let columns = (0..reader.count16()?).map(|_| column(reader)).collect::<Result<_, _>>()?;
    Ok(Relation { oid, schema: schema.to_owned(), table: table.to_owned(), identity, columns })
}

fn column(reader: &mut Reader<'_>) -> Result<Column, Malformed> {
    Ok(Column {
        identity: reader.u8()? & COLUMN_IDENTITY != 0,
        name: reader.text()?.to_owned(),
        type_oid: reader.u32()?,
        type_modifier: reader.i32()?,
    })
}

fn truncate<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, Malformed> {
    let count = reader.count32()?;
    let options = reader.u8()?;
    // `take` compares the count with what has come before anything is allocated for it.
    let oids = reader.take(count.checked_mul(4).ok_or_else(|| reader.problem(Problem::Truncated))?)?;
    let relations = oids.chunks_exact(4).map(|oid| u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]])).collect();
    Ok(Message::Truncate {
        relations,
        cascade: options & TRUNCATE_CASCADE != 0,
        restart_identity: options & TRUNCATE_RESTART_IDENTITY != 0,
    })
}
