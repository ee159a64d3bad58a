//! A TOML or YAML file as a tree of values, and the line of a key in it. What the keys mean is not known here.
//!
//! Neither parser hands out positions with its values, but both put one on an error. So the line of a key is found by
//! reading the text again along the path to the key and failing there on purpose.

use std::{fmt, marker::PhantomData};

use figment::value::{Dict, Value};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Toml,
    Yaml,
}

/// Why a text is no tree of values, and the line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub line: Option<usize>,
    pub message: String,
}

impl Syntax {
    /// The tree in `text`. A key that stands twice is malformed in both syntaxes.
    pub fn parse(self, text: &str) -> Result<Dict, Malformed> {
        match self.read(text, PhantomData::<Tree>)?.0 {
            Value::Dict(_, dict) => Ok(dict),
            // An empty YAML file.
            Value::Empty(..) => Ok(Dict::new()),
            _ => Err(Malformed { line: Some(1), message: "expected keys with values".to_owned() }),
        }
    }

    /// The line of the key at `path`, if it is there.
    pub fn line_of(self, text: &str, path: &[String]) -> Option<usize> {
        match self.read(text, Walk(path)) {
            Err(Malformed { line, message }) if message.contains(FOUND) => line,
            _ => None,
        }
    }

    fn read<'de, S: DeserializeSeed<'de>>(self, text: &'de str, seed: S) -> Result<S::Value, Malformed> {
        match self {
            Syntax::Toml => seed.deserialize(toml::Deserializer::new(text)).map_err(|error| Malformed {
                line: error.span().map(|span| 1 + text[..span.start].matches('\n').count()),
                // Not its `Display`: that quotes the line, which may hold a secret.
                message: error.message().replace('\n', "; "),
            }),
            Syntax::Yaml => seed.deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| Malformed {
                line: error.location().map(|location| location.line()),
                message: error.to_string().replace('\n', "; "),
            }),
        }
    }
}

/// Any value, with every key of a table once.
struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor).map(Tree)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::from(figment::value::Empty::Unit))
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Tree(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut dict = Dict::new();
        while let Some(key) = entries.next_key_seed(NewKey(&dict))? {
            let Tree(value) = entries.next_value()?;
            dict.insert(key, value);
        }
        Ok(dict.into())
    }
}

/// A key that its table has not yet. It is refused while it is read, so that the error has its line.
struct NewKey<'d>(&'d Dict);

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NewKey<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        match self.0.contains_key(key) {
            true => Err(E::custom(format_args!("the key {key:?} stands here twice"))),
            false => Ok(key.to_owned()),
        }
    }
}

/// The message of the error that marks the key.
const FOUND: &str = "the key looked for";

/// Goes down a path and fails at its last key.
struct Walk<'p>(&'p [String]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.0.split_first() else { return Ok(()) };
        while let Some(here) = entries.next_key_seed(Key { wanted: first, last: rest.is_empty() })? {
            match here {
                true => entries.next_value_seed(Walk(rest))?,
                false => drop(entries.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Whether a key is the wanted one; an error if it is the one that the walk is for.
struct Key<'p> {
    wanted: &'p str,
    last: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        match key == self.wanted {
            true if self.last => Err(E::custom(FOUND)),
            here => Ok(here),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn a_key_is_found_at_its_line_in_either_syntax() {
        let toml = "name = \"a\"\r\n\r\n[pipelines.orders.kafka]\r\n# why\r\nbrokers = \"b\"\r\n\
                    [pipelines.orders.kafka.properties]\r\n\"linger.ms\" = 5\r\n";
        assert_eq!(Syntax::Toml.line_of(toml, &path(&["name"])), Some(1));
        assert_eq!(Syntax::Toml.line_of(toml, &path(&["pipelines", "orders", "kafka"])), Some(3));
        assert_eq!(Syntax::Toml.line_of(toml, &path(&["pipelines", "orders", "kafka", "brokers"])), Some(5));
        let linger = path(&["pipelines", "orders", "kafka", "properties", "linger.ms"]);
        assert_eq!(Syntax::Toml.line_of(toml, &linger), Some(7));
        assert_eq!(Syntax::Toml.line_of(toml, &path(&["pipelines", "nobody"])), None);

        let yaml = "name: a\npipelines:\n  orders:\n    kafka: {brokers: b,\n      topic_prefix: t}\n";
        assert_eq!(Syntax::Yaml.line_of(yaml, &path(&["pipelines", "orders"])), Some(3));
        assert_eq!(Syntax::Yaml.line_of(yaml, &path(&["pipelines", "orders", "kafka", "topic_prefix"])), Some(5));
        assert_eq!(Syntax::Yaml.line_of(yaml, &path(&["pipelines", "orders", "postgres"])), None);
    }

    #[test]
    fn a_malformed_text_is_refused_at_its_line_without_being_quoted() {
        for (syntax, text, line) in [
            (Syntax::Toml, "name = \"a\"\npassword = \"hunter2\nx = 1\n", 2),
            (Syntax::Toml, "password = \"hunter2\"\n\npassword = \"hunter2\"\n", 3),
            (Syntax::Yaml, "password: hunter2\npassword: hunter2\n", 2),
            (Syntax::Yaml, "name: a\n  password: hunter2\n", 2),
            (Syntax::Yaml, "hunter2", 1),
        ] {
            let malformed = syntax.parse(text).unwrap_err();
            assert_eq!(malformed.line, Some(line), "{text:?}: {}", malformed.message);
            assert!(!malformed.message.contains("hunter2"), "{}", malformed.message);
            assert!(!malformed.message.contains('\n'), "{}", malformed.message);
        }
    }

    #[test]
    fn an_empty_text_is_an_empty_tree() {
        for (syntax, text) in [(Syntax::Toml, ""), (Syntax::Yaml, ""), (Syntax::Yaml, "# nothing\n")] {
            assert_eq!(syntax.parse(text), Ok(Dict::new()));
        }
    }
}
