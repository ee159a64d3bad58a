//! Mutilations: tables and markers.

use super::*;

pub(super) fn lose_row(recording: &mut Recording, rng: &mut Rng) -> bool {
    let tables = recording.database.values_mut().filter(|table| !table.rows.is_empty());
    let Some(table) = some(tables.collect(), rng) else { return false };
    let row = rng.usize(..table.rows.len());
    table.rows.remove(row);
    true
}

pub(super) fn invent_row(recording: &mut Recording, rng: &mut Rng) -> bool {
    let tables = recording.database.values_mut().filter(|table| !table.rows.is_empty());
    let Some(table) = some(tables.collect(), rng) else { return false };
    let mut row = table.rows[rng.usize(..table.rows.len())].clone();
    row[0] = Some("987654321".into());
    table.rows.push(row);
    true
}

pub(super) fn alter_row(recording: &mut Recording, rng: &mut Rng) -> bool {
    let tables = recording.database.values_mut().filter(|table| !table.rows.is_empty());
    let Some(table) = some(tables.collect(), rng) else { return false };
    let row = rng.usize(..table.rows.len());
    let cell = rng.usize(1..table.columns.len().max(2));
    let Some(cell) = table.rows[row].get_mut(cell) else { return false };
    *cell = Some(format!("{}9", cell.as_deref().unwrap_or_default()));
    true
}

pub(super) fn lose_outcome(recording: &mut Recording, rng: &mut Rng) -> bool {
    let Some(table) = recording.database.get_mut("public.ledger").filter(|table| !table.rows.is_empty()) else {
        return false;
    };
    let row = rng.usize(..table.rows.len());
    table.rows.remove(row);
    true
}

fn marker(recording: &Recording, rng: &mut Rng) -> Option<usize> {
    let records = recording.records.iter().enumerate();
    some(records.filter(|(_, record)| record.topic.ends_with(".markers")).map(|(index, _)| index).collect(), rng)
}

pub(super) fn remove_marker(recording: &mut Recording, rng: &mut Rng) -> bool {
    marker(recording, rng).map(|index| recording.records.remove(index)).is_some()
}

pub(super) fn repeat_marker(recording: &mut Recording, rng: &mut Rng) -> bool {
    let Some(index) = marker(recording, rng) else { return false };
    let again = recording.records[index].clone();
    recording.records.insert(index + 1, again);
    true
}

/// Changes a marker, and the divergence in the progress topic with it.
fn with_marker(recording: &mut Recording, rng: &mut Rng, change: impl Fn(&mut Value)) -> bool {
    let Some(index) = marker(recording, rng) else { return false };
    let says = value_of(&recording.records[index])["divergence"].clone();
    for record in recording.records.iter_mut().filter(|record| !is_data(record)) {
        if value_of(record)["divergence"] == says {
            rewrite(record, |value| change(&mut value["divergence"]));
        }
    }
    chain_again(recording);
    true
}

pub(super) fn shrink_marker(recording: &mut Recording, rng: &mut Rng) -> bool {
    with_marker(recording, rng, |says| {
        let to = says["to_lsn"].as_str().and_then(parse_lsn).unwrap_or_default();
        says["from_lsn"] = json!(lsn_text(to + 1));
    })
}

pub(super) fn widen_marker(recording: &mut Recording, rng: &mut Rng) -> bool {
    with_marker(recording, rng, |says| says["from_lsn"] = json!("0/0"))
}

pub(super) fn alter_marker(recording: &mut Recording, rng: &mut Rng) -> bool {
    with_marker(recording, rng, |says| says["old_timeline"] = json!(77))
}
