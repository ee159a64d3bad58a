//! What a change becomes where Debezium's recorded events do not say, and what happens to changes that make no sense.

#![expect(clippy::unwrap_used, reason = "in a test, its helpers included, a panic is the report")]

mod rows;

use pgbaton_core::{Datum, Lsn, ReplicaIdentity};
use pgbaton_sinks::debezium::{ChangeContext, CompileError, EncodeError, Records, Source, TableEncoder};
use rows::{NULL, TestRow, UNCHANGED, relation, row, text};
use serde_json::{Value, json};

const CONTEXT: ChangeContext =
    ChangeContext { xid: 7, lsn: Lsn(100), last_commit_lsn: None, commit_time_micros: 1, now_nanos: 2 };

/// Columns of an integer `id`, which is the identity where it may be, and two texts.
const COLUMNS: [(&str, u32, i32, bool); 3] = [("id", 23, -1, true), ("a", 25, -1, false), ("b", 25, -1, false)];

fn source() -> Source {
    Source { name: "p".to_owned(), database: "d".to_owned(), version: "v".to_owned() }
}

fn by_default() -> TableEncoder {
    compiled(ReplicaIdentity::Default, &COLUMNS, None)
}

fn by_full(key: Option<&[String]>) -> TableEncoder {
    compiled(ReplicaIdentity::Full, &COLUMNS.map(|(name, oid, modifier, _)| (name, oid, modifier, true)), key)
}

fn compiled(identity: ReplicaIdentity, columns: &[(&str, u32, i32, bool)], key: Option<&[String]>) -> TableEncoder {
    TableEncoder::compile(&relation("s", "t", identity, columns), key, &source()).unwrap().0
}

fn id() -> [String; 1] {
    ["id".to_owned()]
}

fn json_of(bytes: Option<&[u8]>) -> Value {
    serde_json::from_slice(bytes.unwrap_or(b"null")).unwrap()
}

#[test]
fn a_changed_key_under_a_full_identity_keeps_all_that_is_known() {
    let table = by_full(Some(&id()));
    let mut records = Records::default();
    let old = row([text("1"), text("long"), NULL]);
    let new = row([text("2"), UNCHANGED, text("x")]);
    table.update(&CONTEXT, Some(&old), false, &new, &mut records).unwrap();
    let records: Vec<_> = records.iter().collect();
    let [deleted, tombstone, created] = records[..] else { panic!("{records:?}") };
    assert_eq!(json_of(deleted.key), json!({"id": 1}));
    assert_eq!(json_of(deleted.value)["op"], "d");
    assert_eq!(json_of(deleted.value)["before"], json!({"id": 1, "a": "long", "b": null}));
    assert_eq!(json_of(deleted.value)["after"], Value::Null);
    assert_eq!((tombstone.key, tombstone.value), (deleted.key, None));
    assert_eq!(tombstone.header, Some(("__debezium.newkey", &b"{\"id\":2}"[..])));
    assert_eq!(json_of(created.key), json!({"id": 2}));
    assert_eq!(json_of(created.value)["op"], "c");
    assert_eq!(json_of(created.value)["before"], Value::Null);
    assert_eq!(json_of(created.value)["after"], json!({"id": 2, "a": "long", "b": "x"}));
    assert_eq!(created.header, Some(("__debezium.oldkey", &b"{\"id\":1}"[..])));
    assert_eq!([deleted.part, tombstone.part, created.part], [None, Some(1), Some(2)]);
}

/// A key too long to be stored in line is sent with the old image even when it stays the same.
#[test]
fn a_long_key_that_did_not_change_is_taken_from_the_old_image() {
    let table = by_default();
    let mut records = Records::default();
    let old = row([text("1"), NULL, NULL]);
    let new = row([UNCHANGED, text("x"), UNCHANGED]);
    table.update(&CONTEXT, Some(&old), true, &new, &mut records).unwrap();
    assert_eq!(records.iter().len(), 1);
    let record = records.iter().next().unwrap();
    assert_eq!(json_of(record.key), json!({"id": 1}));
    let value = json_of(record.value);
    assert_eq!(value["before"], Value::Null);
    let after = json!({"id": 1, "a": "x", "b": "__debezium_unavailable_value"});
    assert_eq!((&value["after"], &value["op"]), (&after, &json!("u")));

    let unsent = table.update(&CONTEXT, None::<&TestRow>, false, &new, &mut records).unwrap_err();
    let (table, column) = ("s.t".to_owned(), "id".to_owned());
    assert_eq!(unsent, EncodeError::KeyUnavailable { table, column });
}

#[test]
fn a_table_without_a_key_has_no_tombstones() {
    let table = by_full(None);
    let mut records = Records::default();
    let old = row([text("1"), text("x"), NULL]);
    table.delete(&CONTEXT, &old, &mut records).unwrap();
    assert_eq!(records.iter().len(), 1);
    assert_eq!(records.iter().next().unwrap().key, None);

    let new = row([text("2"), text("x"), NULL]);
    table.update(&CONTEXT, Some(&old), false, &new, &mut records).unwrap();
    let record = records.iter().next().unwrap();
    assert_eq!((records.iter().len(), record.key), (1, None));
    assert_eq!(json_of(record.value)["before"], json!({"id": 1, "a": "x", "b": null}));
}

/// Otherwise ALTER TABLE ... REPLICA IDENTITY FULL would move keys to other partitions.
#[test]
fn a_key_has_the_same_bytes_under_every_identity() {
    let columns = |b| [("id", 23, -1, true), ("a", 25, -1, b), ("b", 25, -1, true)];
    let key = ["b".to_owned(), "id".to_owned()];
    let tables = [
        compiled(ReplicaIdentity::Default, &columns(false), None),
        compiled(ReplicaIdentity::Default, &columns(false), Some(&key)),
        compiled(ReplicaIdentity::Index, &columns(false), None),
        compiled(ReplicaIdentity::Full, &columns(true), Some(&key)),
        compiled(ReplicaIdentity::Nothing, &columns(false), Some(&key)),
    ];
    for table in tables {
        let mut records = Records::default();
        table.insert(&CONTEXT, &row([text("1"), text("x"), text("y")]), &mut records).unwrap();
        assert_eq!(records.iter().next().unwrap().key.unwrap(), br#"{"id":1,"b":"y"}"#);
    }
}

#[test]
fn a_key_column_that_the_stream_does_not_know_is_refused() {
    let relation = relation("s", "t", ReplicaIdentity::Full, &COLUMNS);
    let refused = TableEncoder::compile(&relation, Some(&["id".to_owned(), "c".to_owned()]), &source()).unwrap_err();
    let (table, column) = ("s.t".to_owned(), "c".to_owned());
    assert_eq!(refused, CompileError::KeyColumnMissing { table, column });
}

#[test]
fn names_are_escaped() {
    let columns = [("a\"\n", 23, -1, true), ("ö,{", 25, -1, false)];
    let relation = relation("s \"", "t\\", ReplicaIdentity::Default, &columns);
    let (table, _) = TableEncoder::compile(&relation, None, &source()).unwrap();
    assert_eq!(table.topic(), "p.s__.t_");
    let mut records = Records::default();
    table.insert(&CONTEXT, &row([text("1"), text("x")]), &mut records).unwrap();
    let record = records.iter().next().unwrap();
    assert_eq!(json_of(record.key), json!({"a\"\n": 1}));
    let value = json_of(record.value);
    assert_eq!(value["after"], json!({"a\"\n": 1, "ö,{": "x"}));
    assert_eq!(value["source"]["schema"], "s \"");
    assert_eq!(value["source"]["table"], "t\\");
}

#[test]
fn a_value_that_cannot_be_encoded_is_named_by_its_column_and_never_shown() {
    let table = by_default();
    let mut records = Records::default();
    table.insert(&CONTEXT, &row([text("1"), NULL, NULL]), &mut records).unwrap();
    let latin1 = row([text("1"), NULL, Datum::Text(b"secret\xFC")]);
    let error = table.insert(&CONTEXT, &latin1, &mut records).unwrap_err();
    assert_eq!(error.to_string(), "table s.t, column b: the text is not UTF-8");
    assert_eq!(records.iter().len(), 0, "half a change was left behind");

    let error = table.insert(&CONTEXT, &row([text("secret"), NULL, NULL]), &mut records).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret"));
    assert!(matches!(error, EncodeError::Malformed { type_oid: 23, .. }));
}

#[test]
fn a_row_of_another_version_of_the_table_is_refused() {
    let table = by_default();
    let mut records = Records::default();
    for row in [row([text("1"), NULL]).0, row([text("1"), NULL, NULL, NULL]).0] {
        let found = row.len();
        let error = table.insert(&CONTEXT, &TestRow(row), &mut records).unwrap_err();
        let (table, expected) = ("s.t".to_owned(), 3);
        assert_eq!(error, EncodeError::ColumnCount { table, expected, found });
    }
}

#[test]
fn a_table_without_columns_has_empty_rows() {
    let table = compiled(ReplicaIdentity::Default, &[], None);
    let mut records = Records::default();
    table.insert(&CONTEXT, &row([]), &mut records).unwrap();
    let record = records.iter().next().unwrap();
    assert_eq!(record.key, None);
    assert_eq!(json_of(record.value)["after"], json!({}));
}

/// A server that is broken, or no server at all, can send anything as the text of any type.
#[test]
fn random_bytes_are_an_error_or_json_whatever_the_type() {
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % limit as u64) as usize
    };
    let oids = [
        16, 17, 18, 20, 25, 26, 114, 600, 650, 700, 790, 1001, 1007, 1009, 1017, 1021, 1042, 1082, 1083, 1114, 1115,
        1184, 1185, 1186, 1187, 1231, 1266, 1270, 1560, 1561, 1562, 1700, 2951, 3614, 3802, 99_999,
    ];
    let alphabet = b"0123456789-+:. {}[]\",\\()=NULLBCTtfinytyearmonsdaxe\x00\xFF\xC3\xA9";
    let seeds: [&[u8]; 12] = [
        b"2024-02-29 01:02:03.123456+00",
        b"0044-03-15 12:34:56+00:01:02 BC",
        b"24:00:00+15:59:59",
        b"1 year 2 mons -3 days +04:05:06.78",
        b"{1,NULL,{3}}",
        b"[0:2]={\"a\\\"b\",\\}",
        b"-0.000e-12",
        b"\\x00ff1",
        b"(1,2e3)",
        b"-123456789012345678901234567890123456789.000",
        b"10110",
        b"\"a\"=>NULL",
    ];
    let mut records = Records::default();
    let mut encoded = 0;
    for oid in oids {
        for modifier in [-1, 0, 1, 3, 6, 655_366, 329_730, i32::MAX, i32::MIN] {
            let table = compiled(ReplicaIdentity::Default, &[("c", oid, modifier, true)], None);
            for _ in 0..300 {
                let mut bytes = seeds[random(seeds.len())].to_vec();
                for _ in 0..random(4) {
                    let at = random(bytes.len() + 1);
                    match random(3) {
                        0 => bytes.insert(at, alphabet[random(alphabet.len())]),
                        1 if at < bytes.len() => drop(bytes.remove(at)),
                        _ => bytes.truncate(at),
                    }
                }
                let row = TestRow(vec![Datum::Text(bytes.leak())]);
                if table.insert(&CONTEXT, &row, &mut records).is_ok() {
                    let record = records.iter().next().unwrap();
                    assert_eq!(json_of(record.key), json_of(record.value)["after"]);
                    encoded += 1;
                }
            }
        }
    }
    assert!(encoded > 1000, "only {encoded} of the texts made sense, so little was tested");
}
