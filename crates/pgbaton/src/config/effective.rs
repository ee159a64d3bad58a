//! The configuration that takes effect, as `config print` shows it: every value with its place, secrets hidden.

use std::fmt::{self, Write};

use super::{
    mistake::Place,
    sources::{Origin, Sources},
};

/// A value as it may be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shown {
    Text(String),
    Number(u64),
    Flag(bool),
    List(Vec<String>),
}

/// A value that takes effect.
pub(super) struct Entry {
    pub path: Vec<String>,
    pub origin: Origin,
    pub shown: Shown,
}

/// Every value in the order of the documentation.
pub struct Effective {
    entries: Vec<Entry>,
    sources: Sources,
}

impl fmt::Debug for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The sources hold the files' text, with its secrets.
        f.debug_struct("Effective").field("values", &self.to_json()).finish_non_exhaustive()
    }
}

impl Effective {
    pub(super) fn new(entries: Vec<Entry>, sources: Sources) -> Self {
        Effective { entries, sources }
    }

    /// As TOML that could be read again, apart from the secrets, each line saying where its value came from.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section: &[String] = &[];
        for Entry { path, origin, shown } in &self.entries {
            let Some((key, table)) = path.split_last() else { continue };
            if table != section {
                let names: Vec<String> = table.iter().map(|name| toml_key(name)).collect();
                // Writing to a string cannot fail.
                let _ = writeln!(text, "\n[{}]", names.join("."));
                section = table;
            }
            let place = match self.sources.place(path, *origin) {
                Place::Default => "default".to_owned(),
                place => place.to_string(),
            };
            let _ = writeln!(text, "{} = {}  # {place}", toml_key(key), shown.to_toml());
        }
        text
    }

    /// As one JSON object, without the places.
    pub fn to_json(&self) -> serde_json::Value {
        let mut root = serde_json::Map::new();
        for Entry { path, shown, .. } in &self.entries {
            let Some((key, tables)) = path.split_last() else { continue };
            let table = tables.iter().fold(&mut root, |table, name| {
                let entry = table.entry(name).or_insert_with(|| serde_json::Map::new().into());
                entry.as_object_mut().expect("a path is either a table or a value")
            });
            table.insert(key.clone(), shown.to_json());
        }
        root.into()
    }
}

impl Shown {
    fn to_toml(&self) -> String {
        match self {
            Shown::Text(text) => toml::Value::from(text.as_str()).to_string(),
            Shown::Number(number) => number.to_string(),
            Shown::Flag(flag) => flag.to_string(),
            Shown::List(items) => toml::Value::from(items.clone()).to_string(),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        match self {
            Shown::Text(text) => text.as_str().into(),
            Shown::Number(number) => (*number).into(),
            Shown::Flag(flag) => (*flag).into(),
            Shown::List(items) => items.clone().into(),
        }
    }
}

fn toml_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if bare { key.to_owned() } else { toml::Value::from(key).to_string() }
}
