//! Events against those of a Debezium 3.6.3 engine that ran the same SQL on PostgreSQL 15 (`golden/events.jsonl`).
//!
//! All bytes are compared but for what differs on purpose, which each test names. The engine had its transaction
//! blocks switched on; they are taken out first.

#![expect(clippy::unwrap_used, reason = "in a test, its helpers included, a panic is the report")]

mod rows;

use pgbaton_core::{Lsn, Relation, ReplicaIdentity};
use pgbaton_sinks::debezium::{ChangeContext, EncodeError, Records, Source, TableEncoder};
use rows::{NULL, TestRow, UNCHANGED, relation, row, text};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Event {
    topic: String,
    key: Box<RawValue>,
    value: Box<RawValue>,
    headers: Vec<Header>,
}

#[derive(Deserialize)]
struct Header {
    key: String,
    value: Box<RawValue>,
}

fn events() -> Vec<Event> {
    let lines = include_str!("golden/events.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

impl Event {
    fn parsed(&self) -> Value {
        serde_json::from_str(self.value.get()).unwrap()
    }

    /// The value as it would be without transaction blocks.
    fn bytes(&self) -> String {
        let value = self.value.get();
        let Some(start) = value.find(r#""transaction":{"#) else {
            return value.to_owned();
        };
        let end = start + value[start..].find('}').unwrap();
        format!("{}\"transaction\":null{}", &value[..start], &value[end + 1..])
    }

    fn context(&self) -> ChangeContext {
        let value = self.parsed();
        let sequence: Vec<Option<String>> =
            serde_json::from_str(value["source"]["sequence"].as_str().unwrap()).unwrap();
        ChangeContext {
            xid: value["source"]["txId"].as_u64().unwrap() as u32,
            lsn: Lsn(value["source"]["lsn"].as_u64().unwrap()),
            last_commit_lsn: sequence[0].as_ref().map(|lsn| Lsn(lsn.parse().unwrap())),
            commit_time_micros: value["source"]["ts_us"].as_i64().unwrap(),
            now_nanos: value["ts_ns"].as_i64().unwrap(),
        }
    }
}

/// The events of a table with that transaction id, in order. A tombstone belongs to the event before it.
fn of_transaction(topic: &str, xid: u64) -> Vec<Event> {
    let mut current = None;
    let mut found = Vec::new();
    for event in events().into_iter().filter(|event| event.topic == topic) {
        if event.value.get() != "null" {
            current = event.parsed()["source"]["txId"].as_u64();
        }
        if current == Some(xid) {
            found.push(event);
        }
    }
    assert!(!found.is_empty(), "no event of {topic} in transaction {xid}");
    found
}

fn encoder(relation: &Relation, key: Option<&[String]>) -> TableEncoder {
    let source = Source { name: "srv".to_owned(), database: "dbz".to_owned(), version: "3.6.3.Final".to_owned() };
    TableEncoder::compile(relation, key, &source).unwrap().0
}

/// Encodes with the times and positions of the expected events and compares every record. `expected_but` replaces what
/// differs on purpose.
fn assert_events(
    encoder: &TableEncoder,
    expected: &[Event],
    expected_but: impl Fn(String) -> String,
    encode: impl Fn(&ChangeContext, &mut Records) -> Result<(), EncodeError>,
) {
    let mut records = Records::default();
    encode(&expected[0].context(), &mut records).unwrap();
    assert_eq!(records.iter().len(), expected.len());
    for (index, (record, expected)) in records.iter().zip(expected).enumerate() {
        assert_eq!(encoder.topic(), expected.topic);
        assert_eq!(record.part, (index > 0).then_some(index as u8));
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or(b"null").to_vec()).unwrap();
        assert_eq!(text(record.key), expected.key.get());
        // The three times of processing are the only thing in which two records of one change differ by nature.
        let processed = |value: String| match value.find(r#","op":"#) {
            Some(end) => value[..end + 9].to_owned(),
            None => value,
        };
        assert_eq!(processed(text(record.value)), processed(expected_but(expected.bytes())));
        if index == 0 {
            assert_eq!(text(record.value), expected_but(expected.bytes()));
        }
        let is_ours = |header: &&Header| !header.key.starts_with("__debezium.context.");
        let header = expected.headers.iter().find(is_ours);
        let header = header.map(|header| (header.key.as_str(), header.value.get().as_bytes()));
        assert_eq!(record.header, header);
    }
}

fn unaltered(expected: String) -> String {
    expected
}

fn cust() -> TableEncoder {
    let columns = [("id", 23, -1, true), ("name", 1043, 44, false), ("big", 25, -1, false), ("note", 25, -1, false)];
    encoder(&relation("inv", "cust", ReplicaIdentity::Default, &columns), None)
}

fn full_t() -> TableEncoder {
    let columns = [("id", 23, -1, true), ("name", 25, -1, true), ("big", 25, -1, true)];
    encoder(&relation("inv", "full_t", ReplicaIdentity::Full, &columns), Some(&["id".to_owned()]))
}

#[test]
fn inserts_are_debeziums() {
    let table = cust();
    let new = row([text("3"), text("a"), text("xxxxxxxxxxxxxxxxxxxx"), text("n1")]);
    let expected = of_transaction("srv.inv.cust", 747);
    assert_events(&table, &expected, unaltered, |context, out| table.insert(context, &new, out));

    let new = row([text("4"), text("t1"), NULL, NULL]);
    let expected = of_transaction("srv.inv.cust", 756);
    assert_events(&table, &expected, unaltered, |context, out| table.insert(context, &new, out));

    let columns = [("a", 23, -1, false), ("b", 25, -1, false)];
    let table = encoder(&relation("inv", "nopk", ReplicaIdentity::Default, &columns), None);
    let new = row([text("1"), text("z")]);
    let expected = of_transaction("srv.inv.nopk", 754);
    assert_events(&table, &expected, unaltered, |context, out| table.insert(context, &new, out));

    let columns = [("id", 23, -1, true), ("k", 23, -1, true), ("v", 25, -1, false)];
    let table = encoder(&relation("inv", "part_1", ReplicaIdentity::Default, &columns), None);
    let new = row([text("1"), text("1"), text("p")]);
    let expected = of_transaction("srv.inv.part_1", 755);
    assert_events(&table, &expected, unaltered, |context, out| table.insert(context, &new, out));
}

#[test]
fn texts_within_texts_are_escaped_as_debezium_escapes_them() {
    let columns = [
        ("id", 2950, -1, true),
        ("aggregatetype", 1043, 259, false),
        ("aggregateid", 1043, 259, false),
        ("type", 1043, 259, false),
        ("payload", 3802, -1, false),
    ];
    let table = encoder(&relation("inv", "outbox", ReplicaIdentity::Default, &columns), None);
    let new = row([
        text("aaaaaaaa-0000-0000-0000-000000000001"),
        text("order"),
        text("42"),
        text("OrderCreated"),
        text(r#"{"x": 1}"#),
    ]);
    let expected = of_transaction("srv.inv.outbox", 757);
    assert_events(&table, &expected, unaltered, |context, out| table.insert(context, &new, out));
}

#[test]
fn an_update_without_the_old_row_shows_what_was_not_sent() {
    let table = cust();
    let new = row([text("3"), text("a"), UNCHANGED, text("n2")]);
    let expected = of_transaction("srv.inv.cust", 748);
    assert_events(&table, &expected, unaltered, |context, out| {
        table.update(context, None::<&TestRow>, false, &new, out)
    });
}

/// On purpose: the name of the deleted row is unknown, Debezium invents its default.
fn without_invented_name(expected: String) -> String {
    expected.replace(r#""name":"anon""#, r#""name":null"#)
}

#[test]
fn a_changed_key_is_a_delete_a_tombstone_and_a_create() {
    let table = cust();
    let old = row([text("3"), NULL, NULL, NULL]);
    let new = row([text("1000"), text("a"), UNCHANGED, text("n2")]);
    let expected = of_transaction("srv.inv.cust", 749);
    assert_eq!(expected.len(), 3);
    assert_events(&table, &expected, without_invented_name, |context, out| {
        table.update(context, Some(&old), true, &new, out)
    });
}

#[test]
fn a_delete_is_followed_by_a_tombstone() {
    let table = cust();
    let old = row([text("1000"), NULL, NULL, NULL]);
    let expected = of_transaction("srv.inv.cust", 750);
    assert_eq!(expected.len(), 2);
    assert_events(&table, &expected, without_invented_name, |context, out| table.delete(context, &old, out));
}

#[test]
fn a_full_identity_shows_both_rows_whole_and_the_key_of_the_catalogue() {
    let table = full_t();
    let big = "yyyyyyyyyyyyyyyyyyyy";
    let first = row([text("1"), text("f"), text(big)]);
    let second = row([text("1"), text("g"), text(big)]);
    let sent = row([text("1"), text("g"), UNCHANGED]);
    let expected = of_transaction("srv.inv.full_t", 751);
    assert_events(&table, &expected, unaltered, |context, out| table.insert(context, &first, out));
    let expected = of_transaction("srv.inv.full_t", 752);
    assert_events(&table, &expected, unaltered, |context, out| table.update(context, Some(&first), false, &sent, out));
    let expected = of_transaction("srv.inv.full_t", 753);
    assert_events(&table, &expected, unaltered, |context, out| table.delete(context, &second, out));
}

#[test]
fn a_truncate_has_neither_key_nor_rows() {
    let columns = [("a", 23, -1, false), ("b", 25, -1, false)];
    let table = encoder(&relation("inv", "nopk", ReplicaIdentity::Default, &columns), None);
    let expected = of_transaction("srv.inv.nopk", 758);
    assert_events(&table, &expected, unaltered, |context, out| {
        table.truncate(context, out);
        Ok(())
    });
}

/// Name, OID, modifier and text of each column of `inv.types`, as PostgreSQL 15 has and prints them.
const TYPES: [(&str, u32, i32, &str); 47] = [
    ("id", 20, -1, "1"),
    ("b", 16, -1, "t"),
    ("i2", 21, -1, "1"),
    ("i4", 23, -1, "2"),
    ("i8", 20, -1, "3"),
    ("f4", 700, -1, "1.5"),
    ("f8", 701, -1, "2.25"),
    ("n102", 1700, 655366, "123.45"),
    ("nfree", 1700, -1, "987.6543210"),
    ("mon", 790, -1, "$12.34"),
    ("c5", 1042, 9, "ab   "),
    ("vc", 1043, 24, "vc"),
    ("tx", 25, -1, "tx"),
    ("ci", 16514, -1, "CiTx"),
    ("by", 17, -1, "\\x00ff10"),
    ("dt", 1082, -1, "2024-02-29"),
    ("t0", 1083, 0, "01:02:03"),
    ("t6", 1083, -1, "04:05:06.789012"),
    ("ttz", 1266, -1, "01:02:03.5+02"),
    ("ts3", 1114, 3, "2024-02-29 01:02:03.123"),
    ("ts6", 1114, -1, "2024-02-29 01:02:03.123456"),
    ("tstz", 1184, -1, "2024-02-28 23:02:03.123456+00"),
    ("iv", 1186, -1, "1 year 2 mons 3 days 04:05:06.78"),
    ("js", 114, -1, "{\"a\": 1}"),
    ("jb", 3802, -1, "{\"b\": [1, 2]}"),
    ("xm", 142, -1, "<a>1</a>"),
    ("uu", 2950, -1, "11111111-2222-3333-4444-555555555555"),
    ("pt", 600, -1, "(1,2)"),
    ("bx", 603, -1, "(3,4),(1,2)"),
    ("inet_", 869, -1, "10.0.0.1/24"),
    ("cid", 650, -1, "10.1.0.0/16"),
    ("mac", 829, -1, "08:00:2b:01:02:03"),
    ("b1", 1560, 1, "1"),
    ("b5", 1560, 5, "10110"),
    ("vb", 1562, 12, "101"),
    ("en", 16804, -1, "ok"),
    ("dm", 16812, -1, "7"),
    ("hs", 16386, -1, "\"k\"=>\"v\", \"n\"=>NULL"),
    ("lt", 16619, -1, "Top.Science"),
    ("tsv", 3614, -1, "'fox' 'quick' 'the'"),
    ("r4", 3904, -1, "[1,5)"),
    ("rts", 3910, -1, "[\"2024-01-01 00:00:00+00\",\"2024-02-01 00:00:00+00\")"),
    ("ai", 1007, -1, "{1,NULL,3}"),
    ("at", 1009, -1, "{a,NULL,\"c d\"}"),
    ("an", 1231, -1, "{1.5,2}"),
    ("ats", 1185, -1, "{\"2024-02-29 01:02:03+00\"}"),
    ("o", 26, -1, "42"),
];

#[test]
fn every_type_is_written_as_debezium_writes_it_or_differs_on_purpose() {
    let columns = TYPES.map(|(name, oid, modifier, _)| (name, oid, modifier, name == "id"));
    let relation = relation("inv", "types", ReplicaIdentity::Default, &columns);
    let source = Source { name: "srv".to_owned(), database: "dbz".to_owned(), version: "3.6.3.Final".to_owned() };
    let (table, unmapped) = TableEncoder::compile(&relation, None, &source).unwrap();
    let unmapped: Vec<_> = unmapped.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(unmapped, ["mon", "ci", "bx", "en", "dm", "hs", "lt"]);

    let expected = &events()[0];
    let context = expected.context();
    let mut records = Records::default();
    table.insert(&context, &row(TYPES.map(|(.., value)| text(value))), &mut records).unwrap();
    let record = records.iter().next().unwrap();
    let written: Value = serde_json::from_slice(record.value.unwrap()).unwrap();
    let expected = expected.parsed();
    for (name, ..) in TYPES {
        let on_purpose = match name {
            // All digits that PostgreSQL prints: 9876543210 at scale 7.
            "nfree" => Some(r#"{"scale":7,"value":"AkywFuo="}"#),
            // Text, because the stream alone does not say what they are.
            "mon" => Some(r#""$12.34""#),
            "bx" => Some(r#""(3,4),(1,2)""#),
            "dm" => Some(r#""7""#),
            "hs" => Some(r#""\"k\"=>\"v\", \"n\"=>NULL""#),
            _ => None,
        };
        match on_purpose {
            Some(json) => assert_eq!(written["after"][name], serde_json::from_str::<Value>(json).unwrap()),
            None => assert_eq!(written["after"][name], expected["after"][name], "{name}"),
        }
    }

    let nulls = TYPES.map(|(name, ..)| if name == "id" { text("2") } else { NULL });
    table.insert(&context, &row(nulls), &mut records).unwrap();
    let written: Value = serde_json::from_slice(records.iter().next().unwrap().value.unwrap()).unwrap();
    for (name, value) in events()[1].parsed()["after"].as_object().unwrap() {
        assert_eq!(written["after"][name], *value, "{name}");
    }
}
