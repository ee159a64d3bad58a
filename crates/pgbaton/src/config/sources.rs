//! Files, variables and flags, laid over one another by figment, each value remembering where it came from. What the
//! keys mean is not known here.

use std::{cell::Cell, ffi::OsString, fs, path::PathBuf};

use figment::{
    Figment, Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};

use super::{
    document::Syntax,
    mistake::{Mistake, Place},
};

/// Variables with this prefix are configuration; `__` nests.
const VARIABLE_PREFIX: &str = "PGBATON_";
/// A larger file is a mistake, and reading it would cost seconds and gigabytes.
const GREATEST_FILE: u64 = 16 << 20;

/// How much text may be read again to find the lines of keys. Beyond it a place is the file alone: a huge file with
/// many mistakes would be read for minutes.
const REREAD: usize = 4 << 20;

/// What the person who starts us has given; later wins: files in their order, variables, flags.
#[derive(Debug, Default)]
pub struct Given {
    /// The files of `-c`, TOML or YAML by their extension.
    pub files: Vec<PathBuf>,
    /// The environment; only variables that begin with `PGBATON_` are looked at.
    pub variables: Vec<(OsString, OsString)>,
    /// Flag, dotted key, value.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

/// The sources, laid over one another.
pub(super) struct Sources {
    sources: Vec<Source>,
    figment: Figment,
    tree: Value,
    reread_left: Cell<usize>,
}

/// A source by its number; none for a default.
pub(super) type Origin = Option<usize>;

enum Source {
    File { path: PathBuf, syntax: Syntax, text: String },
    Variable(String),
    Flag(&'static str),
}

/// One source as figment sees it. The metadata's name is the source's index.
struct Layer {
    index: usize,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.index.to_string())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::default().collect(self.dict.clone()))
    }
}

impl Sources {
    /// Reads all there is. A source that cannot be read is left out and reported.
    pub fn gather(given: &Given, mistakes: &mut Vec<Mistake>) -> Self {
        let mut sources = Vec::new();
        let mut figment = Figment::new();
        let mut lay = |source: Source, dict: Dict| {
            let index = sources.len();
            sources.push(source);
            figment = std::mem::take(&mut figment).merge(Layer { index, dict });
        };
        for path in &given.files {
            match read_file(path.clone()) {
                Ok((source, dict)) => lay(source, dict),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        for (name, value) in &given.variables {
            let name = name.to_string_lossy();
            let Some(key) = name.strip_prefix(VARIABLE_PREFIX) else { continue };
            let place = Place::Variable(name.to_string());
            match value.to_str() {
                Some(value) => {
                    lay(Source::Variable(name.to_string()), nested(key.to_lowercase().split("__").collect(), value));
                }
                None => {
                    mistakes.push(Mistake { place, key: String::new(), problem: "the value is not UTF-8".to_owned() });
                }
            }
        }
        for (flag, key, value) in &given.flags {
            lay(Source::Flag(flag), nested(key.split('.').collect(), value));
        }
        // Nothing is left that could fail: every layer is a dictionary already.
        let tree = figment.find_value("").unwrap_or_else(|_| Dict::new().into());
        Sources { sources, figment, tree, reread_left: Cell::new(REREAD) }
    }

    /// The merged tree.
    pub fn tree(&self) -> &Value {
        &self.tree
    }

    /// Which source a value came from.
    pub fn origin(&self, value: &Value) -> Origin {
        self.figment.get_metadata(value.tag())?.name.parse().ok()
    }

    /// The place of the key at `path` in a source.
    pub fn place(&self, path: &[String], origin: Origin) -> Place {
        match self.source(origin) {
            Some(Source::File { path: file, syntax, text }) => {
                Place::File(file.clone(), self.line_of(*syntax, text, path))
            }
            Some(Source::Variable(name)) => Place::Variable(name.clone()),
            Some(Source::Flag(flag)) => Place::Flag(flag),
            None => Place::Default,
        }
    }

    /// Whether a value is text from a variable or a flag, where everything is text.
    pub fn is_only_text(&self, value: &Value) -> bool {
        matches!(self.source(self.origin(value)), Some(Source::Variable(_) | Source::Flag(_)))
    }

    /// Where a key that nobody gave would be looked for: the table that should hold it, else the nearest one around.
    pub fn place_of_missing(&self, path: &[String]) -> Place {
        (1..path.len())
            .rev()
            .find_map(|length| {
                let table = &path[..length];
                let in_file = self.sources.iter().rev().find_map(|source| match source {
                    Source::File { path: file, syntax, text } => {
                        self.line_of(*syntax, text, table).map(|line| Place::File(file.clone(), Some(line)))
                    }
                    Source::Variable(_) | Source::Flag(_) => None,
                });
                in_file.or_else(|| find(&self.tree, table).map(|value| self.place(table, self.origin(value))))
            })
            .or_else(|| {
                self.sources.iter().rev().find_map(|source| match source {
                    Source::File { path, .. } => Some(Place::File(path.clone(), None)),
                    Source::Variable(_) | Source::Flag(_) => None,
                })
            })
            .unwrap_or(Place::Default)
    }

    fn source(&self, origin: Origin) -> Option<&Source> {
        self.sources.get(origin?)
    }

    fn line_of(&self, syntax: Syntax, text: &str, path: &[String]) -> Option<usize> {
        self.reread_left.set(self.reread_left.get().checked_sub(text.len())?);
        syntax.line_of(text, path)
    }
}

fn find<'v>(tree: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(tree, |value, key| value.as_dict()?.get(key))
}

fn nested(keys: Vec<&str>, value: &str) -> Dict {
    let value =
        keys.iter().rev().fold(Value::from(value), |value, key| Dict::from([((*key).to_owned(), value)]).into());
    value.into_dict().unwrap_or_default()
}

fn read_file(path: PathBuf) -> Result<(Source, Dict), Mistake> {
    let mistake = |line: Option<usize>, problem: String| Mistake {
        place: Place::File(path.clone(), line),
        key: String::new(),
        problem,
    };
    let syntax = match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => Syntax::Toml,
        // JSON is YAML.
        Some("yaml" | "yml" | "json") => Syntax::Yaml,
        _ => return Err(mistake(None, "the name must end in .toml, .yaml or .yml".to_owned())),
    };
    let cannot_read = |error: std::io::Error| mistake(None, format!("cannot be read: {error}"));
    if fs::metadata(&path).map_err(cannot_read)?.len() > GREATEST_FILE {
        return Err(mistake(None, format!("is larger than {} MiB", GREATEST_FILE >> 20)));
    }
    let bytes = fs::read(&path).map_err(cannot_read)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        mistake(Some(line), "is not UTF-8 text".to_owned())
    })?;
    // Editors of some systems put a byte order mark at the start.
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    let dict = syntax
        .parse(&text)
        .map_err(|malformed| mistake(malformed.line, format!("malformed: {}", malformed.message)))?;
    Ok((Source::File { path, syntax, text }, dict))
}
