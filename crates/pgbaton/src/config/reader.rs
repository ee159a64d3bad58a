//! Reads the merged tree key by key, noting every mistake instead of stopping at the first, and every value that takes
//! effect. Which keys there are is not known here.

use std::{borrow::Cow, cell::RefCell, collections::BTreeSet};

use figment::value::{Dict, Value};

use super::{
    effective::{Entry, Shown},
    mistake::{Invalid, Mistake, Place, nearest, quoted},
    rules::without_user,
    sources::{Origin, Sources},
};
use crate::secret::{HIDDEN, Secret};

/// Beyond this many mistakes only their number is reported: each costs a look through its file.
const MOST_MISTAKES: usize = 100;

/// One reading of the tree.
pub(super) struct Reader<'s> {
    sources: &'s Sources,
    notes: RefCell<Notes>,
}

#[derive(Default)]
struct Notes {
    mistakes: Vec<Mistake>,
    more: usize,
    effective: Vec<Entry>,
    /// Every key that is known, as full paths: a misplaced key is recognised by its last word.
    known: Vec<Vec<String>>,
    /// With its origin and its table's keys.
    unknown: Vec<(Vec<String>, Origin, Vec<String>)>,
}

impl<'s> Reader<'s> {
    pub fn new(sources: &'s Sources, mistakes: Vec<Mistake>) -> Self {
        Reader { sources, notes: RefCell::new(Notes { mistakes, ..Notes::default() }) }
    }

    /// The whole tree.
    pub fn root(&self) -> Section<'_> {
        Section { reader: self, path: Vec::new(), dict: self.sources.tree().as_dict(), known: Vec::new() }
    }

    /// Notes that something about `path` is wrong: where, and what.
    fn mistake(&self, path: &[String], what: impl FnOnce(&Sources) -> (Place, String)) {
        if self.notes.borrow().mistakes.len() >= MOST_MISTAKES {
            self.notes.borrow_mut().more += 1;
            return;
        }
        let (place, problem) = what(self.sources);
        self.notes.borrow_mut().mistakes.push(Mistake { place, key: path.join("."), problem });
    }

    /// The values that take effect, or all mistakes.
    pub fn finish(self) -> Result<Vec<Entry>, Invalid> {
        let unknown = std::mem::take(&mut self.notes.borrow_mut().unknown);
        for (path, origin, siblings) in unknown {
            self.mistake(&path, |sources| (sources.place(&path, origin), self.unknown_key(&path, &siblings)));
        }
        let Notes { mut mistakes, more, effective, .. } = self.notes.into_inner();
        if mistakes.is_empty() {
            return Ok(effective);
        }
        if more > 0 {
            let problem = format!("and {more} more mistakes");
            mistakes.push(Mistake { place: Place::Default, key: String::new(), problem });
        }
        Err(Invalid(mistakes))
    }

    fn unknown_key(&self, path: &[String], siblings: &[String]) -> String {
        let word = path.last().map(String::as_str).unwrap_or_default();
        let notes = self.notes.borrow();
        let meant = match nearest(word, siblings.iter().map(String::as_str)) {
            Some(sibling) => Some(sibling.to_owned()),
            None => notes.known.iter().find(|known| known.last().is_some_and(|last| last == word)).map(|p| p.join(".")),
        };
        let allowed = siblings.join(", ");
        match meant {
            Some(meant) => format!("unknown key; did you mean {meant:?}? allowed here: {allowed}"),
            None => format!("unknown key; allowed here: {allowed}"),
        }
    }
}
