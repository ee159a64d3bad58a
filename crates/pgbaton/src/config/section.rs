//! One table of the tree, read key by key: the right kind of value, through its rule, or a mistake.

use std::{collections::BTreeSet, ops::RangeInclusive};

use figment::value::{Dict, Num, Value};

use super::{
    effective::{Entry, Shown},
    mistake::{Checked, quoted},
    reader::Reader,
    sources::Origin,
    urls::without_user,
};
use crate::secret::{HIDDEN, Secret};

/// One table of the tree. Drop it when all its keys were asked for: what remains is unknown.
pub(super) struct Section<'r> {
    reader: &'r Reader<'r>,
    path: Vec<String>,
    dict: Option<&'r Dict>,
    known: Vec<String>,
}

impl<'r> Section<'r> {
    /// The whole tree.
    pub fn root(reader: &'r Reader<'r>) -> Self {
        Section { reader, path: Vec::new(), dict: reader.sources().tree().as_dict(), known: Vec::new() }
    }

    /// The full path of a key of this table.
    pub fn path_of(&self, key: &str) -> Vec<String> {
        let mut path = self.path.clone();
        path.push(key.to_owned());
        path
    }

    /// Whether the key was given at all.
    pub fn has(&self, key: &str) -> bool {
        self.dict.is_some_and(|dict| dict.contains_key(key))
    }

    /// A table inside this one; empty if it was not given.
    pub fn section(&mut self, key: &str) -> Section<'r> {
        let path = self.path_of(key);
        let dict = self.given(key).and_then(|value| {
            let dict = value.as_dict();
            if dict.is_none() {
                self.wrong_type(&path, value, "a table of keys", false);
            }
            dict
        });
        Section { reader: self.reader, path, dict, known: Vec::new() }
    }

    /// The names of all tables inside this one, each of which is a table of its own kind.
    pub fn names(&self) -> Vec<String> {
        self.dict.map(|dict| dict.keys().cloned().collect()).unwrap_or_default()
    }

    /// Every table inside the one at `key`, and whether its text at `path` is `text`: a look ahead, which judges nothing.
    pub fn tables_with(&self, key: &str, path: &str, text: &str) -> Vec<(String, bool)> {
        let tables = self.dict.and_then(|dict| dict.get(key)).and_then(Value::as_dict).into_iter().flatten();
        let is = |value: &Value| value.find_ref(path).and_then(Value::as_str) == Some(text);
        tables.map(|(name, value)| (name.clone(), is(value))).collect()
    }

    /// A text that may be absent.
    pub fn optional<T>(&mut self, key: &str, rule: impl FnOnce(&str) -> Checked<T>) -> Option<T> {
        let (value, text) = self.text(key, false)?;
        self.checked(key, value, &text, Shown::Text(text.clone()), rule)
    }

    /// A text that must be there; `allowed` says what would be right.
    pub fn required<T>(&mut self, key: &str, allowed: &str, rule: impl FnOnce(&str) -> Checked<T>) -> Option<T> {
        if !self.has(key) {
            self.missing(key, allowed);
        }
        self.optional(key, rule)
    }

    /// A text with a default.
    pub fn or<T>(&mut self, key: &str, default: &str, rule: impl FnOnce(&str) -> Checked<T>) -> Option<T> {
        if self.has(key) {
            return self.optional(key, rule);
        }
        self.known.push(key.to_owned());
        self.takes_effect(key, None, Shown::Text(default.to_owned()));
        rule(default).ok()
    }

    /// A secret text that may be absent. `mask` says how much of it may be shown.
    pub fn secret<T>(
        &mut self,
        key: &str,
        mask: impl FnOnce(&str) -> String,
        rule: impl FnOnce(&Secret) -> Checked<T>,
    ) -> Option<T> {
        let (value, text) = self.text(key, true)?;
        let secret = Secret::new(text.as_str());
        self.checked(key, value, &text, Shown::Text(mask(&text)), |_| rule(&secret))
    }

    /// A whole number with a default.
    pub fn number(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> Option<u64> {
        let Some(value) = self.given(key) else {
            self.takes_effect(key, None, Shown::Number(default));
            return Some(default);
        };
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        let path = self.path_of(key);
        let found = match value {
            Value::Num(_, number) => number_text(*number).parse().ok(),
            Value::String(_, text) if self.reader.sources().is_only_text(value) => text.parse().ok(),
            _ => None,
        };
        match found.filter(|number| range.contains(number)) {
            Some(number) => {
                self.takes_effect(key, self.reader.sources().origin(value), Shown::Number(number));
                Some(number)
            }
            None => {
                self.wrong_type(&path, value, &allowed, false);
                None
            }
        }
    }

    /// `true` or `false`, with a default.
    pub fn flag(&mut self, key: &str, default: bool) -> Option<bool> {
        let Some(value) = self.given(key) else {
            self.takes_effect(key, None, Shown::Flag(default));
            return Some(default);
        };
        let found = match value {
            Value::Bool(_, flag) => Some(*flag),
            Value::String(_, text) if self.reader.sources().is_only_text(value) => text.parse().ok(),
            _ => None,
        };
        match found {
            Some(flag) => self.takes_effect(key, self.reader.sources().origin(value), Shown::Flag(flag)),
            None => self.wrong_type(&self.path_of(key), value, "true or false", false),
        }
        found
    }

    /// A list of URLs, empty by default. In a variable: separated by commas. What may be a password is hidden.
    pub fn urls<T>(&mut self, key: &str, rule: impl Fn(&str) -> Checked<T>) -> Option<Vec<T>> {
        let Some(value) = self.given(key) else {
            self.takes_effect(key, None, Shown::List(Vec::new()));
            return Some(Vec::new());
        };
        let path = self.path_of(key);
        let texts: Option<Vec<&str>> = match value {
            Value::Array(_, items) => items.iter().map(Value::as_str).collect(),
            Value::String(_, text) if self.reader.sources().is_only_text(value) => {
                Some(text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect())
            }
            _ => None,
        };
        let Some(texts) = texts else {
            self.wrong_type(&path, value, "a list of URLs in quotes", false);
            return None;
        };
        let items: Vec<_> =
            texts.iter().map(|text| self.judged(&path, value, &without_user(text), rule(text))).collect();
        let items: Option<Vec<T>> = items.into_iter().collect();
        let shown = Shown::List(texts.into_iter().map(str::to_owned).collect());
        self.takes_effect(key, self.reader.sources().origin(value), shown);
        items
    }

    /// Every key below this table with its value as text; a nested table counts as a key with dots.
    pub fn all<T>(&mut self, mut rule: impl FnMut(&str, &str) -> Checked<(Shown, T)>) -> Vec<(String, T)> {
        let mut found = Vec::new();
        let mut left: Vec<(Vec<String>, &Value)> = Vec::new();
        let push_all = |left: &mut Vec<(Vec<String>, &'r Value)>, above: &[String], dict: &'r Dict| {
            for (key, value) in dict.iter().rev() {
                left.push(([above, std::slice::from_ref(key)].concat(), value));
            }
        };
        if let Some(dict) = self.dict {
            self.known.extend(dict.keys().cloned());
            push_all(&mut left, &[], dict);
        }
        while let Some((below, value)) = left.pop() {
            let path = [self.path.as_slice(), &below].concat();
            let text = match value {
                Value::Dict(_, dict) => {
                    push_all(&mut left, &below, dict);
                    continue;
                }
                Value::String(_, text) => text.clone(),
                Value::Bool(_, flag) => flag.to_string(),
                Value::Num(_, number) => number_text(*number),
                _ => {
                    self.wrong_type(&path, value, "a text, a number, true or false", true);
                    continue;
                }
            };
            let name = below.join(".");
            match rule(&name, &text) {
                Ok((shown, checked)) => {
                    self.takes_effect(&name, self.reader.sources().origin(value), shown);
                    found.push((name, checked));
                }
                Err(wrong) => {
                    self.mistake(&path, value, format!("{}{}", wrong.remark, wrong.allowed));
                }
            }
        }
        found
    }

    /// Notes a mistake about a key that was given.
    pub fn refuse(&self, key: &str, problem: impl Into<String>) {
        let path = self.path_of(key);
        let value = self.dict.and_then(|dict| dict.get(key));
        self.reader.mistake(&path, |sources| {
            let place = match value {
                Some(value) => sources.place(&path, sources.origin(value)),
                None => sources.place_of_missing(&path),
            };
            (place, problem.into())
        });
    }

    fn missing(&self, key: &str, allowed: &str) {
        self.refuse(key, format!("missing; allowed: {allowed}"));
    }

    fn given(&mut self, key: &str) -> Option<&'r Value> {
        self.known.push(key.to_owned());
        self.dict.and_then(|dict| dict.get(key))
    }

    fn text(&mut self, key: &str, secret: bool) -> Option<(&'r Value, String)> {
        let value = self.given(key)?;
        match value.as_str() {
            Some(text) => Some((value, text.to_owned())),
            None => {
                self.wrong_type(&self.path_of(key), value, "a text in quotes", secret);
                None
            }
        }
    }

    fn checked<T>(
        &self,
        key: &str,
        value: &Value,
        text: &str,
        shown: Shown,
        rule: impl FnOnce(&str) -> Checked<T>,
    ) -> Option<T> {
        let path = self.path_of(key);
        let Shown::Text(visible) = &shown else { return None };
        let checked = self.judged(&path, value, visible, rule(text))?;
        self.takes_effect(key, self.reader.sources().origin(value), shown);
        Some(checked)
    }

    fn judged<T>(&self, path: &[String], value: &Value, visible: &str, checked: Checked<T>) -> Option<T> {
        let wrong = match checked {
            Ok(checked) => return Some(checked),
            Err(wrong) => wrong,
        };
        let found = if visible == HIDDEN { "a hidden value".to_owned() } else { quoted(visible) };
        let problem = format!("found {found}{}; allowed: {}", wrong.remark, wrong.allowed);
        self.mistake(path, value, problem);
        None
    }

    fn wrong_type(&self, path: &[String], value: &Value, allowed: &str, secret: bool) {
        let found = match value {
            Value::String(_, text) if !secret => quoted(text),
            Value::String(..) => "a text".to_owned(),
            Value::Char(..) => "a character".to_owned(),
            Value::Bool(_, flag) if !secret => flag.to_string(),
            Value::Num(_, number) if !secret => format!("the number {}", number_text(*number)),
            Value::Bool(..) | Value::Num(..) => "a number or flag (hidden)".to_owned(),
            Value::Empty(..) => "nothing".to_owned(),
            Value::Dict(..) => "a table".to_owned(),
            Value::Array(..) => "a list".to_owned(),
        };
        let problem = format!("found {found}; allowed: {allowed}");
        self.mistake(path, value, problem);
    }

    fn mistake(&self, path: &[String], value: &Value, problem: String) {
        self.reader.mistake(path, |sources| (sources.place(path, sources.origin(value)), problem));
    }

    fn takes_effect(&self, key: &str, origin: Origin, shown: Shown) {
        self.reader.takes_effect(Entry { path: self.path_of(key), origin, shown });
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let given = self.dict.into_iter().flatten();
        // A set: there may be as many keys as pipelines.
        let expected: BTreeSet<&String> = self.known.iter().collect();
        let unknown: Vec<_> = given
            .filter(|(key, _)| !expected.contains(key))
            .map(|(key, value)| (self.path_of(key), self.reader.sources().origin(value), self.known.clone()))
            .collect();
        let known: Vec<_> = self.known.iter().map(|key| self.path_of(key)).collect();
        self.reader.table(known, unknown);
    }
}

fn number_text(number: Num) -> String {
    let whole = number.to_i128().map(|whole| whole.to_string());
    let whole = whole.or_else(|| number.to_u128().map(|whole| whole.to_string()));
    whole.or_else(|| number.to_f64().map(|fraction| fraction.to_string())).unwrap_or_default()
}
