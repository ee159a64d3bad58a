//! The notes of one reading of the configuration: every mistake instead of only the first, and every value that takes
//! effect. Which keys there are is not known here.

use std::cell::RefCell;

use super::{
    effective::Entry,
    mistake::{Invalid, Mistake, Place, nearest},
    sources::{Origin, Sources},
};

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
    pub fn new(sources: &'s Sources) -> Self {
        Reader { sources, notes: RefCell::default() }
    }

    /// What is read.
    pub fn sources(&self) -> &'s Sources {
        self.sources
    }

    /// Notes a value that takes effect.
    pub fn takes_effect(&self, entry: Entry) {
        self.notes.borrow_mut().effective.push(entry);
    }

    /// Notes which keys a table knows, as full paths, and which others it has.
    pub fn table(&self, known: Vec<Vec<String>>, unknown: Vec<(Vec<String>, Origin, Vec<String>)>) {
        let notes = &mut *self.notes.borrow_mut();
        notes.known.extend(known);
        notes.unknown.extend(unknown);
    }

    /// Notes that something about `path` is wrong: where, and what.
    pub fn mistake(&self, path: &[String], what: impl FnOnce(&Sources) -> (Place, String)) {
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
