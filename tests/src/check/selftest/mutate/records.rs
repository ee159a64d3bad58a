//! Mutilations: what consumers read.

use super::*;
use crate::load::NEVER_SEEN;

pub(super) fn drop_record(recording: &mut Recording, rng: &mut Rng) -> bool {
    data(recording, rng, |_, _| true).map(|index| recording.records.remove(index)).is_some()
}

pub(super) fn drop_transaction(recording: &mut Recording, rng: &mut Rng) -> bool {
    let Some(index) = data(recording, rng, |record, _| record.topic.ends_with(".public.ledger")) else { return false };
    let transaction = id_of(&recording.records[index]).map(EventId::transaction);
    recording.records.retain(|record| id_of(record).map(EventId::transaction) != transaction);
    true
}

pub(super) fn drop_tail(recording: &mut Recording, rng: &mut Rng) -> bool {
    let Some(index) = data(recording, rng, |_, _| true) else { return false };
    let from = id_of(&recording.records[index]);
    let same = |id: Option<EventId>| id.map(EventId::transaction) == from.map(EventId::transaction);
    recording.records.retain(|record| !same(id_of(record)) || id_of(record) < from);
    true
}

pub(super) fn repeat_record(recording: &mut Recording, rng: &mut Rng) -> bool {
    let Some(index) = data(recording, rng, |_, _| true) else { return false };
    let again = recording.records[index].clone();
    let place = rng.usize(index + 1..=recording.records.len());
    recording.records.insert(place, again);
    true
}

pub(super) fn repeat_transaction(recording: &mut Recording, rng: &mut Rng) -> bool {
    let Some(index) = data(recording, rng, |record, _| record.topic.ends_with(".public.ledger")) else { return false };
    let transaction = id_of(&recording.records[index]).map(EventId::transaction);
    let same: Vec<Record> = recording
        .records
        .iter()
        .filter(|record| id_of(record).map(EventId::transaction) == transaction)
        .cloned()
        .collect();
    for mut record in same {
        if let Some(id) = id_of(&record) {
            set_id(&mut record, EventId { lsn: id.lsn + 8, ..id });
        }
        recording.records.push(record);
    }
    true
}

pub(super) fn swap_records(recording: &mut Recording, rng: &mut Rng) -> bool {
    let same = |a: &Record, b: &Record| (&a.topic, a.partition) == (&b.topic, b.partition);
    let Some(first) = data(recording, rng, |record, _| {
        recording.records.iter().any(|later| same(later, record) && later.offset > record.offset)
    }) else {
        return false;
    };
    let later =
        (first + 1..recording.records.len()).find(|index| same(&recording.records[*index], &recording.records[first]));
    let Some(second) = later else { return false };
    recording.records.swap(first, second);
    true
}

/// Alters one cell of a row image; false if there is none that can be.
fn alter_cell(image: &mut Value, rng: &mut Rng) -> bool {
    let Value::Object(cells) = image else { return false };
    let unsent = |value: &Value| value.as_str().is_some_and(|text| text.contains("unavailable"));
    let found = cells.iter().filter(|(name, value)| *name != "id" && !unsent(value)).map(|(name, _)| name.clone());
    let Some(name) = some(found.collect(), rng) else { return false };
    let cell = &mut cells[&name];
    *cell = match (&*cell, rng.u8(..3)) {
        (Value::Null, _) => json!("AQI="),
        (_, 0) => Value::Null,
        (Value::String(text), 1) if !text.is_empty() => json!(text[..text.floor_char_boundary(text.len() - 1)]),
        (Value::Number(number), _) => json!(number.as_i64().unwrap_or(0) + 1),
        (Value::Bool(known), _) => json!(!known),
        (Value::String(text), _) => json!(format!("A{text}")),
        _ => Value::Null,
    };
    true
}

pub(super) fn alter_after(recording: &mut Recording, rng: &mut Rng) -> bool {
    let Some(index) = data(recording, rng, |_, value| value["after"].is_object()) else { return false };
    let mut done = false;
    rewrite(&mut recording.records[index], |value| done = alter_cell(&mut value["after"], rng));
    done
}

pub(super) fn alter_before(recording: &mut Recording, rng: &mut Rng) -> bool {
    let full: Vec<String> =
        recording.database.iter().filter(|(_, table)| table.full).map(|(name, _)| format!(".{name}")).collect();
    let is_full = |record: &Record| full.iter().any(|name| record.topic.ends_with(name.as_str()));
    let Some(index) = data(recording, rng, |record, value| is_full(record) && value["before"].is_object()) else {
        return false;
    };
    let mut done = false;
    rewrite(&mut recording.records[index], |value| done = alter_cell(&mut value["before"], rng));
    done
}

pub(super) fn lose_value(recording: &mut Recording, rng: &mut Rng) -> bool {
    let Some(index) = data(recording, rng, |record, value| {
        value["op"] == "c" && value["after"]["note"].is_string() && record.headers.len() == 2
    }) else {
        return false;
    };
    rewrite(&mut recording.records[index], |value| value["after"]["note"] = json!("__debezium_unavailable_value"));
    true
}

pub(super) fn alter_key(recording: &mut Recording, rng: &mut Rng) -> bool {
    let Some(index) = data(recording, rng, |record, value| record.key.is_some() && value.is_object()) else {
        return false;
    };
    recording.records[index].key = Some(json!({"id": 987_654_321}).to_string());
    true
}

pub(super) fn alter_operation(recording: &mut Recording, rng: &mut Rng) -> bool {
    let Some(index) = data(recording, rng, |_, value| value["op"].is_string()) else { return false };
    rewrite(&mut recording.records[index], |value| {
        let other = match value["op"].as_str() {
            Some("c") => "u",
            Some("u") => "c",
            _ => "c",
        };
        value["op"] = json!(other);
    });
    true
}

pub(super) fn alter_term(recording: &mut Recording, rng: &mut Rng) -> bool {
    let Some(index) = data(recording, rng, |_, _| true) else { return false };
    let up = rng.bool();
    for header in recording.records[index].headers.iter_mut().filter(|header| header.0 == "pgbaton.term") {
        let term: u64 = header.1.parse().unwrap_or(1);
        header.1 = if up { term + 1 } else { term - 1 }.to_string();
    }
    true
}

fn alter_id(recording: &mut Recording, rng: &mut Rng, alter: impl Fn(EventId) -> EventId) -> bool {
    let Some(index) = data(recording, rng, |_, _| true) else { return false };
    let record = &mut recording.records[index];
    let Some(id) = id_of(record) else { return false };
    set_id(record, alter(id));
    true
}

pub(super) fn alter_timeline(recording: &mut Recording, rng: &mut Rng) -> bool {
    alter_id(recording, rng, |id| EventId { timeline: id.timeline + 1, ..id })
}

pub(super) fn alter_system(recording: &mut Recording, rng: &mut Rng) -> bool {
    alter_id(recording, rng, |id| EventId { system: id.system + 1, ..id })
}

pub(super) fn alter_number(recording: &mut Recording, rng: &mut Rng) -> bool {
    alter_id(recording, rng, |id| EventId { change: id.change + 1, ..id })
}

pub(super) fn lose_header(recording: &mut Recording, rng: &mut Rng) -> bool {
    // The other half of a changed key names the old one, which its delete says anyway.
    let counts = |name: &str| name != "__debezium.oldkey";
    let Some(index) = data(recording, rng, |_, value| !value.is_null()) else { return false };
    let record = &mut recording.records[index];
    let found = (0..record.headers.len()).filter(|header| counts(&record.headers[*header].0)).collect();
    some(found, rng).map(|header| record.headers.remove(header)).is_some()
}

pub(super) fn cut_value(recording: &mut Recording, rng: &mut Rng) -> bool {
    let Some(index) = data(recording, rng, |_, value| value.is_object()) else { return false };
    let value = recording.records[index].value.as_mut().expect("chosen so");
    value.truncate(value.floor_char_boundary(value.len() / 2));
    true
}

/// A record like one that is there, of another key and behind it.
fn similar(
    recording: &mut Recording,
    rng: &mut Rng,
    table: &str,
    id: Value,
    shift: impl Fn(EventId) -> EventId,
) -> bool {
    let topic = format!("{}.public.{table}", recording.topic_prefix);
    let Some(index) = data(recording, rng, |record, value| record.topic == topic && value["op"] == "c") else {
        return false;
    };
    let mut record = recording.records[index].clone();
    record.key = Some(json!({"id": id}).to_string());
    rewrite(&mut record, |value| value["after"]["id"] = id);
    if let Some(id) = id_of(&record) {
        set_id(&mut record, shift(id));
    }
    recording.records.insert(index + 1, record);
    true
}

pub(super) fn phantom_row(recording: &mut Recording, rng: &mut Rng) -> bool {
    similar(recording, rng, "items", json!(987_654_321), |id| EventId { lsn: id.lsn + 1, change: 0, ..id })
}

pub(super) fn phantom_transaction(recording: &mut Recording, rng: &mut Rng) -> bool {
    similar(recording, rng, "ledger", json!("ffffffff-0000-4000-8000-000000000000"), |id| EventId {
        lsn: id.lsn + 1,
        change: 0,
        ..id
    })
}

pub(super) fn taken_back(recording: &mut Recording, rng: &mut Rng) -> bool {
    let topic = format!("{}.public.items", recording.topic_prefix);
    let Some(index) = data(recording, rng, |record, value| record.topic == topic && value["op"] == "c") else {
        return false;
    };
    let Some(id) = id_of(&recording.records[index]) else { return false };
    let same = |other: EventId| other.transaction() == id.transaction();
    let last = recording.records.iter().filter_map(id_of).filter(|other| same(*other)).map(|other| other.change).max();
    for (number, op) in (last.unwrap_or(0) + 1..).zip(["c", "d", "-"]) {
        let mut record = recording.records[index].clone();
        record.key = Some(json!({"id": 987_654_321}).to_string());
        let part = u8::from(op == "-");
        set_id(&mut record, EventId { change: number - u64::from(part), part, ..id });
        record.headers.truncate(2);
        rewrite(&mut record, |value| {
            value["after"]["id"] = json!(987_654_321);
            value["after"]["name"] = json!(NEVER_SEEN);
            value["op"] = json!(op);
            if op == "d" {
                value["before"] = value["after"].take();
            }
        });
        if op == "-" {
            record.value = None;
        }
        recording.records.push(record);
    }
    true
}

pub(super) fn move_record(recording: &mut Recording, rng: &mut Rng) -> bool {
    let twin = |record: &Record| {
        let same = |other: &&Record| (&other.topic, &other.key) == (&record.topic, &record.key) && is_data(other);
        record.key.is_some() && recording.records.iter().filter(same).count() > 1
    };
    let Some(index) = data(recording, rng, |record, _| twin(record)) else { return false };
    recording.records[index].partition += 100;
    true
}
