//! Report files: `{"kind", "ok", "seconds", "versions", ...}` in JSON.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

/// Writes a report: the common keys and those of `content`.
pub fn write(
    file: &Path,
    kind: &str,
    ok: bool,
    took: Duration,
    versions: Value,
    content: &impl Serialize,
) -> io::Result<()> {
    let mut report = Map::new();
    report.insert("kind".into(), kind.into());
    report.insert("ok".into(), ok.into());
    report.insert("seconds".into(), json!((took.as_secs_f64() * 1000.0).round() / 1000.0));
    report.insert("versions".into(), versions);
    if let Value::Object(content) = serde_json::to_value(content)? {
        report.extend(content);
    }
    let mut text = serde_json::to_string_pretty(&report)?;
    text.push('\n');
    std::fs::write(file, text)
}

/// The versions that every report of the lab names.
pub fn versions() -> Value {
    json!({"pgbaton-tests": env!("CARGO_PKG_VERSION")})
}
