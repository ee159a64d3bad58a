//! The JSON Schema of the configuration, made from its types: for editors, for checks before a roll-out, and for the
//! reference in the docs. It knows what one value may be; what only a look at the machine or at other keys can tell (files
//! that can be read, two pipelines with one slot) is known by [`load`](super::load) alone.
//!
//! Some keywords are ours, for people: `x-allowed` says in words what is allowed, `x-default` what takes effect where the
//! default is no fixed value, `x-later` the words that a later version will know, `x-refused` why a name is refused.

use schemars::{Schema, SchemaGenerator, generate::SchemaSettings, json_schema, transform::transform_subschemas};
use serde_json::{Map, Value};

use super::{Config, properties};

/// The schema of all sources together (draft 2020-12): one file of several may leave out what another has.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Config>();
    schema.insert("title".to_owned(), "pgbaton's configuration".into());
    as_written(&mut schema);
    schema.to_value()
}

/// The types say what is there after reading; this says what is written: a key with a default may be left out, one that may
/// be left out cannot be null, and no others are known.
fn as_written(schema: &mut Schema) {
    transform_subschemas(&mut as_written, schema);
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    let Some(Value::Object(keys)) = schema.get_mut("properties") else { return };
    keys.values_mut().filter_map(Value::as_object_mut).for_each(never_null);
    let keys = keys.clone();
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    let may_be_left_out = |key: &Value| {
        let key = key.as_str().and_then(|key| keys.get(key)?.as_object());
        key.is_some_and(|key| ["default", "x-default"].iter().any(|has| key.contains_key(*has)) || needs_nothing(key))
    };
    let required: Vec<Value> = required.filter(|key| !may_be_left_out(key)).cloned().collect();
    schema.insert("required".to_owned(), required.into());
    schema.insert("additionalProperties".to_owned(), false.into());
}

/// A table in which nothing is required.
fn needs_nothing(key: &Map<String, Value>) -> bool {
    let required = key.get("required").and_then(Value::as_array).is_some_and(|keys| !keys.is_empty());
    key.get("type").is_some_and(|kind| kind == "object") && !required && !key.contains_key("minProperties")
}

fn never_null(key: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = key.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            key.insert("type".to_owned(), only);
        }
    }
}

/// What is handed to librdkafka: it alone knows the names. A table inside counts as a key with dots.
pub(super) fn properties(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<&str> = properties::owned().map(|(name, _)| name).collect();
    let why: Map<String, Value> = properties::owned().map(|(name, why)| (name.to_owned(), why.into())).collect();
    json_schema!({
        "type": "object",
        "propertyNames": {"not": {"enum": names}},
        "x-refused": why,
        "additionalProperties": {"type": ["string", "number", "boolean", "object"]},
    })
}

/// One word of a few.
pub(super) fn choice(words: &[&str], later: &[&str]) -> Schema {
    let mut schema = json_schema!({"type": "string", "enum": words});
    if !later.is_empty() {
        schema.insert("x-later".to_owned(), later.into());
    }
    schema
}
