//! What may stand in a partition again where delivery is at least once: behind the checkpoint that a session begins at, it tells
//! as before what was told before.
//!
//! The last first occurrences are remembered, all partitions together. They are far more than a session can have told behind a
//! checkpoint; what lies before them cannot be compared, and is no repeat that was to be expected.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::{Place, Published, Rank, Rule};
use crate::Term;

/// Some 30 MiB of them.
const REMEMBERED: usize = 1 << 18;

/// What a record holds, as a hash: two records of the same content tell the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content([u8; 16]);

impl Content {
    /// Of these parts; a part that is not there is another than an empty one.
    pub fn of(parts: &[Option<&[u8]>]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            hash.update(length.to_be_bytes());
            hash.update(part.unwrap_or_default());
        }
        let mut content = [0; 16];
        content.copy_from_slice(&hash.finalize()[..16]);
        Content(content)
    }
}

/// Where a record was told first.
#[derive(Debug)]
struct Told {
    place: Place,
    content: Content,
    /// The last session that told it.
    term: Term,
}

#[derive(Debug, Default)]
pub(super) struct Repeats {
    told: BTreeMap<Rank, Told>,
    /// The greatest that is not remembered any more.
    forgotten: Option<Rank>,
    count: u64,
}

impl Repeats {
    pub fn count(&self) -> u64 {
        self.count
    }

    /// A first occurrence.
    pub fn remember(&mut self, place: &Place, published: &Published, rank: Rank, content: Content) {
        self.told.insert(rank, Told { place: place.clone(), content, term: published.term });
        if self.told.len() > REMEMBERED {
            self.forgotten = self.forgotten.max(self.told.pop_first().map(|(rank, _)| rank));
        }
    }

    /// A record that is no greater than the greatest of its partition. What is below `cut` may have been told where nobody looked.
    pub fn judge(
        &mut self,
        place: &Place,
        published: &Published,
        rank: Rank,
        content: Content,
        cut: Option<Rank>,
    ) -> Result<(), (Rule, String)> {
        let Published { id, term, .. } = *published;
        let Some(told) = self.told.get_mut(&rank) else {
            return match (cut, self.forgotten) {
                (Some(cut), _) if rank <= cut => Ok(()),
                (_, Some(forgotten)) if rank <= forgotten => {
                    Err((Rule::OutOfOrder, format!("{id} stands behind so much that it is not remembered any more")))
                }
                _ => Err((Rule::OutOfOrder, format!("{id} stands behind greater ones, and was not told before"))),
            };
        };
        let before = &told.place;
        if (&before.topic, before.partition) != (&place.topic, place.partition) {
            return Err((Rule::Duplicate, format!("{id} stands at {before}, too")));
        }
        if told.term == term {
            return Err((Rule::Duplicate, format!("{id} stands here a second time, both of term {term}")));
        }
        self.count += 1;
        told.term = told.term.max(term);
        if told.content != content {
            return Err((Rule::Altered, format!("{id} was told otherwise at {before}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Audit;
    use crate::audit::Delivery;

    #[test]
    fn what_is_too_far_back_to_be_compared_is_named() {
        let audit = Audit::new("progress", Delivery::AtLeastOnce, false);
        let mut repeats = Repeats::default();
        let place = Place { topic: "t".into(), partition: 0, offset: 0 };
        let content = Content::of(&[]);
        let record = |number: usize, term: &str| {
            let id = format!("7/1/0/90/{number}");
            let published = Published::read(Some(id.as_bytes()), Some(term.as_bytes()), None).unwrap();
            (published, audit.rank(&published))
        };
        for number in 0..=REMEMBERED {
            let (published, rank) = record(number, "1");
            repeats.remember(&place, &published, rank, content);
        }
        let mut judge = |number| {
            let (published, rank) = record(number, "2");
            repeats.judge(&place, &published, rank, content, None).map_err(|(rule, _)| rule)
        };
        assert_eq!((judge(0), judge(1)), (Err(Rule::OutOfOrder), Ok(())));
        assert_eq!(repeats.count(), 1);
    }

    #[test]
    fn content_is_told_apart_by_its_parts() {
        let [one, other] = [[Some(&b"ab"[..]), Some(b"c")], [Some(b"a"), Some(b"bc")]];
        assert_ne!(Content::of(&one), Content::of(&other));
        assert_ne!(Content::of(&[None]), Content::of(&[Some(b"")]));
        assert_eq!(Content::of(&one), Content::of(&one));
    }
}
