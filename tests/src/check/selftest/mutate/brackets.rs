//! Mutilations: the progress topic.

use super::*;

fn remove(recording: &mut Recording, rng: &mut Rng, kind: &str) -> bool {
    progress(recording, rng, kind, |_| true).map(|index| recording.records.remove(index)).is_some()
}

pub(super) fn remove_open(recording: &mut Recording, rng: &mut Rng) -> bool {
    remove(recording, rng, "open")
}

pub(super) fn remove_close(recording: &mut Recording, rng: &mut Rng) -> bool {
    remove(recording, rng, "close")
}

pub(super) fn remove_claim(recording: &mut Recording, rng: &mut Rng) -> bool {
    remove(recording, rng, "claim")
}

pub(super) fn remove_divergence(recording: &mut Recording, rng: &mut Rng) -> bool {
    remove(recording, rng, "divergence")
}

/// The place of a record among those of the progress topic, and all of them.
fn among(recording: &Recording, index: usize) -> (usize, Vec<usize>) {
    let all = all_progress(recording);
    (all.iter().position(|other| *other == index).unwrap_or(0), all)
}

pub(super) fn remove_bracket(recording: &mut Recording, rng: &mut Rng) -> bool {
    // One that nothing was told in, and nothing follows in its session, leaves no trace.
    let Some(index) = progress(recording, rng, "close", |value| {
        recording.records.iter().any(|record| {
            let next = value_of(record);
            next["type"] == "close"
                && next["session"] == value["session"]
                && next["number"].as_u64() > value["number"].as_u64()
        })
    }) else {
        return false;
    };
    let (place, all) = among(recording, index);
    recording.records.remove(all[place]);
    recording.records.remove(all[place - 1]);
    true
}

pub(super) fn repeat_bracket(recording: &mut Recording, rng: &mut Rng) -> bool {
    let Some(index) = progress(recording, rng, "close", |_| true) else { return false };
    let (place, all) = among(recording, index);
    let claims: Vec<usize> =
        all[place..].iter().filter(|index| value_of(&recording.records[**index])["type"] == "claim").copied().collect();
    let Some(behind) = some(claims, rng) else { return false };
    let pair = [recording.records[all[place - 1]].clone(), recording.records[all[place]].clone()];
    recording.records.splice(behind + 1..behind + 1, pair);
    true
}

fn with_progress(
    recording: &mut Recording,
    rng: &mut Rng,
    kind: &str,
    wanted: impl Fn(&Value) -> bool,
    change: impl FnOnce(&mut Value),
) -> bool {
    let Some(index) = progress(recording, rng, kind, wanted) else { return false };
    rewrite(&mut recording.records[index], change);
    true
}

pub(super) fn lower_claim(recording: &mut Recording, rng: &mut Rng) -> bool {
    let lower = |value: &mut Value| value["term"] = json!(value["term"].as_u64().unwrap_or(1) - 1);
    with_progress(recording, rng, "claim", |_| true, lower)
}

pub(super) fn alter_close_term(recording: &mut Recording, rng: &mut Rng) -> bool {
    with_progress(
        recording,
        rng,
        "close",
        |_| true,
        |value| value["term"] = json!(value["term"].as_u64().unwrap_or(1) + 1),
    )
}

pub(super) fn alter_close_number(recording: &mut Recording, rng: &mut Rng) -> bool {
    with_progress(
        recording,
        rng,
        "close",
        |_| true,
        |value| value["number"] = json!(value["number"].as_u64().unwrap_or(0) + 1),
    )
}

pub(super) fn alter_close_session(recording: &mut Recording, rng: &mut Rng) -> bool {
    with_progress(recording, rng, "close", |_| true, |value| value["session"] = json!("somebody else's"))
}

pub(super) fn lower_position(recording: &mut Recording, rng: &mut Rng) -> bool {
    with_progress(recording, rng, "close", |_| true, |value| value["position"]["lsn"] = json!("0/1"))
}

pub(super) fn raise_position(recording: &mut Recording, rng: &mut Rng) -> bool {
    with_progress(recording, rng, "close", |_| true, |value| value["position"]["lsn"] = json!("FFFFFFFF/0"))
}

pub(super) fn lower_watermark(recording: &mut Recording, rng: &mut Rng) -> bool {
    with_progress(recording, rng, "close", |_| true, |value| value["watermark"]["lsn"] = json!("0/1"))
}

pub(super) fn raise_watermark(recording: &mut Recording, rng: &mut Rng) -> bool {
    let left = |value: &Value| {
        let timeline = &value["watermark"]["timeline"];
        value["history"].as_array().into_iter().flatten().any(|left| left[0] == *timeline)
    };
    with_progress(recording, rng, "claim", left, |value| value["watermark"]["lsn"] = json!("FFFFFFFF/0"))
}

pub(super) fn forget_torn(recording: &mut Recording, rng: &mut Rng) -> bool {
    with_progress(recording, rng, "claim", |value| value["torn"].is_object(), |value| value["torn"] = Value::Null)
}

pub(super) fn lower_chunk(recording: &mut Recording, rng: &mut Rng) -> bool {
    let later = |value: &Value| value["partial"]["chunks"].as_u64() > Some(1);
    with_progress(recording, rng, "close", later, |value| value["partial"]["changes_done"] = json!(1))
}

pub(super) fn forget_chunk(recording: &mut Recording, rng: &mut Rng) -> bool {
    let later = |value: &Value| value["partial"]["chunks"].as_u64() > Some(1);
    with_progress(recording, rng, "close", later, |value| value["partial"] = Value::Null)
}

pub(super) fn alter_tenure(recording: &mut Recording, rng: &mut Rng) -> bool {
    let known = recording.ownership.since;
    let known = |value: &Value| value["lease"]["revision"].as_i64() >= Some(known);
    with_progress(recording, rng, "claim", known, |value| value["lease"]["revision"] = json!(999_999_999))
}

pub(super) fn alter_hash(recording: &mut Recording, rng: &mut Rng) -> bool {
    let chained = |value: &Value| value["previous_hash"].is_string();
    with_progress(recording, rng, "close", chained, |value| value["previous_hash"] = json!("00"))
}

pub(super) fn alter_written(recording: &mut Recording, rng: &mut Rng) -> bool {
    let Some(last) = all_progress(recording).last().copied() else { return false };
    let last = value_of(&recording.records[last]);
    with_progress(recording, rng, "close", |value| *value != last, |value| value["config_hash"] = json!("another"))
}
