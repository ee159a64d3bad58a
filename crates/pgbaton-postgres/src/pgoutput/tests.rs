//! Messages are put together by an encoder of the tests' own; nothing of the decoder is used for it.

use bytes::BufMut;
use pgbaton_core::{Column, Datum, ReplicaIdentity, Row};
use proptest::prelude::*;

use super::*;
use crate::malformed::Problem;

/// A column value with its bytes.
#[derive(Debug, Clone)]
enum Value {
    Null,
    Unchanged,
    Text(Vec<u8>),
}

/// A message with its bytes, to be encoded and compared with what was decoded.
#[derive(Debug, Clone)]
enum Sent {
    Begin(u64, i64, u32),
    Commit(u64, u64, i64),
    Origin(u64, String),
    Relation(Relation),
    Type(u32, String, String),
    Insert(u32, Vec<Value>),
    Update(u32, Option<(OldKind, Vec<Value>)>, Vec<Value>),
    Delete(u32, OldKind, Vec<Value>),
    Truncate(Vec<u32>, bool, bool),
    Message(bool, u64, String, Vec<u8>),
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn put_row(out: &mut Vec<u8>, tag: u8, row: &[Value]) {
    out.put_u8(tag);
    out.put_u16(row.len() as u16);
    for value in row {
        match value {
            Value::Null => out.put_u8(b'n'),
            Value::Unchanged => out.put_u8(b'u'),
            Value::Text(bytes) => {
                out.put_u8(b't');
                out.put_u32(bytes.len() as u32);
                out.put_slice(bytes);
            }
        }
    }
}

fn put_old(out: &mut Vec<u8>, kind: OldKind, row: &[Value]) {
    put_row(out, if kind == OldKind::Key { b'K' } else { b'O' }, row);
}

impl Sent {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Sent::Begin(lsn, time, xid) => {
                out.put_u8(b'B');
                out.put_u64(*lsn);
                out.put_i64(*time);
                out.put_u32(*xid);
            }
            Sent::Commit(lsn, end, time) => {
                out.put_slice(b"C\0");
                out.put_u64(*lsn);
                out.put_u64(*end);
                out.put_i64(*time);
            }
            Sent::Origin(lsn, name) => {
                out.put_u8(b'O');
                out.put_u64(*lsn);
                put_text(&mut out, name);
            }
            Sent::Relation(relation) => put_relation(&mut out, relation),
            Sent::Type(oid, schema, name) => {
                out.put_u8(b'Y');
                out.put_u32(*oid);
                put_text(&mut out, schema);
                put_text(&mut out, name);
            }
            Sent::Insert(relation, new) => {
                out.put_u8(b'I');
                out.put_u32(*relation);
                put_row(&mut out, b'N', new);
            }
            Sent::Update(relation, old, new) => {
                out.put_u8(b'U');
                out.put_u32(*relation);
                if let Some((kind, row)) = old {
                    put_old(&mut out, *kind, row);
                }
                put_row(&mut out, b'N', new);
            }
            Sent::Delete(relation, kind, old) => {
                out.put_u8(b'D');
                out.put_u32(*relation);
                put_old(&mut out, *kind, old);
            }
            Sent::Truncate(relations, cascade, restart) => {
                out.put_u8(b'T');
                out.put_u32(relations.len() as u32);
                out.put_u8(u8::from(*cascade) | u8::from(*restart) << 1);
                relations.iter().for_each(|oid| out.put_u32(*oid));
            }
            Sent::Message(transactional, lsn, prefix, content) => {
                out.put_u8(b'M');
                out.put_u8(u8::from(*transactional));
                out.put_u64(*lsn);
                put_text(&mut out, prefix);
                out.put_u32(content.len() as u32);
                out.put_slice(content);
            }
        }
        out
    }

    fn is(&self, message: &Message<'_>) -> bool {
        match (self, message) {
            (Sent::Begin(lsn, time, id), Message::Begin { final_lsn, commit_time, xid }) => {
                (*lsn, time, id) == (final_lsn.0, commit_time, xid)
            }
            (Sent::Commit(lsn, end, time), Message::Commit { flags: 0, commit_lsn, end_lsn, commit_time }) => {
                (*lsn, *end, time) == (commit_lsn.0, end_lsn.0, commit_time)
            }
            (Sent::Origin(at, from), Message::Origin { lsn, name }) => (*at, from.as_str()) == (lsn.0, *name),
            (Sent::Relation(sent), Message::Relation(relation)) => sent == relation,
            (Sent::Type(id, of, called), Message::Type { oid, schema, name }) => {
                (id, of.as_str(), called.as_str()) == (oid, *schema, *name)
            }
            (Sent::Insert(id, row), Message::Insert { relation, new }) => id == relation && same(row, new),
            (Sent::Update(id, before, after), Message::Update { relation, old, new }) => {
                let same_old = match (before, old) {
                    (None, None) => true,
                    (Some((kind, row)), Some(old)) => *kind == old.kind && same(row, &old.tuple),
                    _ => false,
                };
                id == relation && same_old && same(after, new)
            }
            (Sent::Delete(id, kind, row), Message::Delete { relation, old }) => {
                id == relation && *kind == old.kind && same(row, &old.tuple)
            }
            (Sent::Truncate(ids, c, r), Message::Truncate { relations, cascade, restart_identity }) => {
                (ids, c, r) == (relations, cascade, restart_identity)
            }
            (Sent::Message(t, at, what, bytes), Message::Message { transactional, lsn, prefix, content }) => {
                (t, *at, what.as_str(), bytes.as_slice()) == (transactional, lsn.0, *prefix, *content)
            }
            _ => false,
        }
    }
}

fn put_relation(out: &mut Vec<u8>, relation: &Relation) {
    out.put_u8(b'R');
    out.put_u32(relation.oid);
    put_text(out, &relation.schema);
    put_text(out, &relation.table);
    out.put_u8(match relation.identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    });
    out.put_u16(relation.columns.len() as u16);
    for column in &relation.columns {
        out.put_u8(u8::from(column.identity));
        put_text(out, &column.name);
        out.put_u32(column.type_oid);
        out.put_i32(column.type_modifier);
    }
}

fn same(sent: &[Value], tuple: &Tuple<'_>) -> bool {
    sent.len() == tuple.len()
        && sent.iter().zip(tuple.columns()).all(|(value, datum)| match (value, datum) {
            (Value::Null, Datum::Null) | (Value::Unchanged, Datum::Unchanged) => true,
            (Value::Text(sent), Datum::Text(bytes)) => sent == bytes,
            _ => false,
        })
}

fn name() -> impl Strategy<Value = String> {
    "[^\\x00]{1,12}"
}

fn row() -> impl Strategy<Value = Vec<Value>> {
    let value = prop_oneof![
        Just(Value::Null),
        Just(Value::Unchanged),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Text)
    ];
    prop::collection::vec(value, 0..8)
}

fn kind() -> impl Strategy<Value = OldKind> {
    prop_oneof![Just(OldKind::Key), Just(OldKind::Full)]
}

fn relation() -> impl Strategy<Value = Relation> {
    let column = (any::<bool>(), name(), any::<u32>(), any::<i32>())
        .prop_map(|(identity, name, type_oid, modifier)| Column { name, type_oid, type_modifier: modifier, identity });
    let identity = prop_oneof![
        Just(ReplicaIdentity::Default),
        Just(ReplicaIdentity::Nothing),
        Just(ReplicaIdentity::Full),
        Just(ReplicaIdentity::Index)
    ];
    (any::<u32>(), name(), name(), identity, prop::collection::vec(column, 0..6))
        .prop_map(|(oid, schema, table, identity, columns)| Relation { oid, schema, table, identity, columns })
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        (any::<u64>(), any::<i64>(), any::<u32>()).prop_map(|(l, t, x)| Sent::Begin(l, t, x)),
        (any::<u64>(), any::<u64>(), any::<i64>()).prop_map(|(l, e, t)| Sent::Commit(l, e, t)),
        (any::<u64>(), name()).prop_map(|(l, n)| Sent::Origin(l, n)),
        relation().prop_map(Sent::Relation),
        (any::<u32>(), name(), name()).prop_map(|(o, s, n)| Sent::Type(o, s, n)),
        (any::<u32>(), row()).prop_map(|(r, n)| Sent::Insert(r, n)),
        (any::<u32>(), prop::option::of((kind(), row())), row()).prop_map(|(r, o, n)| Sent::Update(r, o, n)),
        (any::<u32>(), kind(), row()).prop_map(|(r, k, o)| Sent::Delete(r, k, o)),
        (prop::collection::vec(any::<u32>(), 0..5), any::<bool>(), any::<bool>())
            .prop_map(|(r, c, i)| Sent::Truncate(r, c, i)),
        (any::<bool>(), any::<u64>(), name(), prop::collection::vec(any::<u8>(), 0..30))
            .prop_map(|(t, l, p, c)| Sent::Message(t, l, p, c)),
    ]
}

proptest! {
    #[test]
    fn every_message_is_decoded_as_it_was_sent(sent in sent()) {
        let bytes = sent.encode();
        let message = decode(&bytes).unwrap();
        prop_assert!(sent.is(&message), "{sent:?} was decoded as {message:?}");
    }

    #[test]
    fn a_message_that_is_cut_or_too_long_is_refused(sent in sent(), extra in any::<u8>()) {
        let mut bytes = sent.encode();
        for end in 0..bytes.len() {
            prop_assert!(decode(&bytes[..end]).is_err(), "{sent:?} was accepted with {end} bytes");
        }
        bytes.push(extra);
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn a_damaged_message_does_no_harm(sent in sent(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = sent.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        walk(&bytes);
    }

    #[test]
    fn noise_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), tag in 0..10_usize) {
        walk(&bytes);
        walk(&[&b"BCORYIUDTM"[tag..=tag], &bytes].concat());
    }
}

/// Decodes and reads all of it, whatever it is. Where it was accepted, no column may be missing.
fn walk(bytes: &[u8]) {
    let Ok(message) = decode(bytes) else { return };
    let tuples = match message {
        Message::Insert { new, .. } => vec![new],
        Message::Update { old, new, .. } => old.map(|old| old.tuple).into_iter().chain([new]).collect(),
        Message::Delete { old, .. } => vec![old.tuple],
        _ => vec![],
    };
    for tuple in tuples {
        assert_eq!(tuple.walk().count(), tuple.len());
    }
}

fn problem(bytes: &[u8]) -> Problem {
    decode(bytes).unwrap_err().problem
}

#[test]
fn column_bytes_are_borrowed() {
    let bytes = Sent::Insert(7, vec![Value::Text(b"value".to_vec())]).encode();
    let Message::Insert { new, .. } = decode(&bytes).unwrap() else { panic!("not an insert") };
    let Some(Datum::Text(value)) = new.columns().next() else { panic!("not a text") };
    assert_eq!(value.as_ptr(), bytes[bytes.len() - 5..].as_ptr());
}

#[test]
fn what_cannot_be_is_named() {
    assert_eq!(problem(b""), Problem::Truncated);
    assert_eq!(problem(b"S\0\0\0\x01\x01"), Problem::UnknownTag(b'S'), "streaming was not asked for");
    assert_eq!(problem(b"I\0\0\0\x01N\xFF\xFF"), Problem::Count(-1));
    assert_eq!(problem(b"I\0\0\0\x01N\0\x01t\xFF\xFF\xFF\xFF"), Problem::Count(-1));
    assert_eq!(problem(b"I\0\0\0\x01N\0\x01t\x7F\xFF\xFF\xFF"), Problem::Truncated);
    assert_eq!(problem(b"I\0\0\0\x01N\0\x01b\0\0\0\x01x"), Problem::BinaryColumn);
    assert_eq!(problem(b"I\0\0\0\x01K\0\0"), Problem::UnknownTag(b'K'));
    assert_eq!(problem(b"D\0\0\0\x01N\0\0"), Problem::UnknownTag(b'N'));
    assert_eq!(problem(b"T\x7F\xFF\xFF\xFF\0"), Problem::Truncated);
    assert_eq!(problem(b"T\xFF\xFF\xFF\xFF\0"), Problem::Count(-1));
    assert_eq!(problem(b"M\0\0\0\0\0\0\0\0\x01p\0\x80\0\0\0"), Problem::Count(i32::MIN.into()));
    assert_eq!(problem(b"O\0\0\0\0\0\0\0\x01\xC3\x28\0"), Problem::NotUtf8);
    assert_eq!(problem(b"R\0\0\0\x01s\0t\0x\0\0"), Problem::UnknownTag(b'x'));
}

#[test]
fn no_value_shows_in_a_debug_print() {
    let bytes = Sent::Insert(7, vec![Value::Text(b"hunter2".to_vec()), Value::Null]).encode();
    assert!(format!("{:?}", decode(&bytes).unwrap()).contains("Tuple(tn)"));
}
