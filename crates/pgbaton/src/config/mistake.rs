//! What is wrong with a configuration, said so that a person finds the place and knows what to write there.

use std::{borrow::Cow, fmt, path::PathBuf};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file, and the line where the key stands (from 1) if it could be told.
    File(PathBuf, Option<usize>),
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(&'static str),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path, Some(line)) => write!(f, "{}:{line}", path.display()),
            Place::File(path, None) => write!(f, "{}", path.display()),
            Place::Variable(name) => write!(f, "variable {name}"),
            Place::Flag(name) => write!(f, "flag {name}"),
            Place::Default => f.write_str("configuration"),
        }
    }
}

/// One mistake; prints as one line and never shows a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where it stands.
    pub place: Place,
    /// The key, as a dotted path; empty if the whole file is meant.
    pub key: String,
    /// What was found and what is allowed.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

/// All mistakes of a configuration, at least one; prints one per line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Invalid(pub Vec<Mistake>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Mistake::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// What is wrong with a value: a remark on what was found (may be empty) and what is allowed.
pub(super) struct Wrong {
    pub remark: Cow<'static, str>,
    pub allowed: String,
}

impl Wrong {
    pub fn allowed(allowed: impl Into<String>) -> Self {
        Wrong { remark: Cow::Borrowed(""), allowed: allowed.into() }
    }
}

/// The result of a rule for a value.
pub(super) type Checked<T> = Result<T, Wrong>;

/// The known word that was most likely meant, if any is near.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, best) = known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word.to_lowercase(), candidate), candidate))
        .min()?;
    // Half the letters may differ at most: beyond that a suggestion misleads.
    (distance <= 3 && distance * 2 <= best.len().max(2)).then_some(best)
}

/// A found value on one line: quoted, control characters escaped, cut when long.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}
