//! `cargo xtask docs`: the parts of the pages that are made from the program. A page says where they go, between two
//! comments; all around them is written by hand.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use crate::build;
use crate::lab::Lab;

/// Makes what stands between this and [`END`] on a page: the keys of a table of the configuration, by its dotted path.
const KEYS: &str = "<!-- made by `cargo xtask docs`: keys of ";
/// The same: the properties that are refused.
const REFUSED: &str = "<!-- made by `cargo xtask docs`: refused properties -->";
const END: &str = "<!-- end -->";

/// The page that has such parts, below the checkout.
pub const PAGE: &str = "docs/configuration.md";

/// Writes the page anew, with what the worker says of itself.
pub fn run() -> Result<()> {
    let lab = Lab::open()?;
    let output = Command::new(build::worker(&lab)?).args(["config", "schema"]).output().context("run the worker")?;
    ensure!(output.status.success(), "pgbaton config schema: {}", String::from_utf8_lossy(&output.stderr));
    let schema = serde_json::from_slice(&output.stdout).context("read the schema")?;
    let page = lab.repo().join(PAGE);
    let text = fs::read_to_string(&page).with_context(|| format!("read {PAGE}"))?;
    fs::write(&page, filled(&text, &schema)?).with_context(|| format!("write {PAGE}"))
}

/// The page with its parts as they should be.
///
/// # Errors
/// A part without an end, or about a table that the schema does not have.
pub fn filled(page: &str, schema: &Value) -> Result<String> {
    let mut made = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        made.push_str(line);
        made.push('\n');
        let part = match line.strip_prefix(KEYS) {
            Some(table) => keys(schema, table.trim_end_matches(" -->"))?,
            None if line == REFUSED => refused(schema).context("find the refused properties")?,
            None => continue,
        };
        lines.find(|line| *line == END).with_context(|| format!("{line}: no {END} follows"))?;
        made.push_str(&format!("{part}{END}\n"));
    }
    Ok(made)
}

/// What is required first, the rest by name. Tables inside have parts of their own.
fn keys(schema: &Value, path: &str) -> Result<String> {
    let table = table(schema, path).with_context(|| format!("the schema has no table {path:?}"))?;
    let known = table["properties"].as_object().context("a table has keys")?;
    let is_required = |key: &str| table["required"].as_array().is_some_and(|all| all.iter().any(|name| name == key));
    let mut keys: Vec<(&String, &Value)> = known.iter().filter(|(_, key)| key["type"] != "object").collect();
    keys.sort_by_key(|(name, _)| !is_required(name));
    let mut text = "| key | default | allowed | meaning |\n|---|---|---|---|\n".to_owned();
    for (name, key) in keys {
        let default = match (&key["default"], key["x-default"].as_str()) {
            (Value::String(default), _) => format!("`{default}`"),
            (Value::Null, Some(in_words)) => in_words.to_owned(),
            (Value::Null, None) if is_required(name) => "required".to_owned(),
            (Value::Null, None) => "none".to_owned(),
            (default, _) => format!("`{default}`"),
        };
        let meaning = key["description"].as_str().unwrap_or_default();
        text.push_str(&format!("| `{name}` | {default} | {} | {meaning} |\n", allowed(key)));
    }
    Ok(text)
}

/// The table at a dotted path; `NAME` is any.
fn table<'s>(schema: &'s Value, path: &str) -> Option<&'s Map<String, Value>> {
    let mut table = schema;
    for name in path.split('.').filter(|name| *name != "the whole") {
        table = if name == "NAME" { table.get("additionalProperties")? } else { table.get("properties")?.get(name)? };
    }
    table.as_object()
}

fn allowed(key: &Value) -> String {
    let words = |list: &Value| {
        let words = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
    };
    if let Some(in_words) = key["x-allowed"].as_str() {
        return in_words.to_owned();
    }
    match (words(&key["enum"]), words(&key["x-later"])) {
        (now, later) if !now.is_empty() && !later.is_empty() => return format!("{now} (later: {later})"),
        (now, _) if !now.is_empty() => return now,
        _ => {}
    }
    match (&key["minimum"], &key["maximum"]) {
        (Value::Number(least), Value::Number(most)) => format!("{least} to {most}"),
        _ => "a text that is not empty".to_owned(),
    }
}

fn refused(schema: &Value) -> Option<String> {
    let kafka = table(schema, "pipelines.NAME.kafka.properties")?;
    let names = kafka.get("propertyNames")?.pointer("/not/enum")?.as_array()?;
    let why = kafka.get("x-refused")?;
    let row = |name: &Value| Some(format!("| `{}` | {} |\n", name.as_str()?, why.get(name.as_str()?)?.as_str()?));
    let rows: Option<String> = names.iter().map(row).collect();
    Some(format!("| property | why |\n|---|---|\n{}", rows?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_stands_between_the_comments_is_made_anew() -> Result<()> {
        let schema = json!({"required": ["b"], "properties": {
            "a": {"type": "integer", "minimum": 1, "maximum": 9, "default": 5, "description": "First."},
            "b": {"type": "string", "enum": ["x"], "x-later": ["y"], "description": "Second."},
            "c": {"type": "object"},
        }});
        let page = format!("before\n{KEYS}the whole -->\nold\n{END}\nafter\n");
        let made = filled(&page, &schema)?;
        assert_eq!(
            made,
            format!(
                "before\n{KEYS}the whole -->\n| key | default | allowed | meaning |\n|---|---|---|---|\n\
                 | `b` | required | `x` (later: `y`) | Second. |\n| `a` | `5` | 1 to 9 | First. |\n{END}\nafter\n"
            )
        );
        assert_eq!(filled(&made, &schema)?, made);
        assert!(filled(&page.replace(END, ""), &schema).is_err());
        assert!(filled(&page.replace("the whole", "nothing"), &schema).is_err());
        Ok(())
    }
}
