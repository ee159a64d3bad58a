//! A row image inside a message: checked once when the message is decoded, walked afterwards without copying.

use pgbaton_core::{Datum, Row};

use crate::malformed::{Malformed, Problem, Reader};

/// A row image. Its bytes were checked when it was decoded, so walking it cannot fail.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    count: usize,
    body: &'a [u8],
}

impl<'a> Tuple<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = reader.count16()?;
        let whole = reader.rest();
        for _ in 0..count {
            match reader.u8()? {
                b'n' | b'u' => {}
                b't' => {
                    let length = reader.count32()?;
                    reader.take(length)?;
                }
                b'b' => return Err(reader.problem(Problem::BinaryColumn)),
                tag => return Err(reader.problem(Problem::UnknownTag(tag))),
            }
        }
        Ok(Tuple { count, body: &whole[..whole.len() - reader.rest().len()] })
    }

    /// How many columns it has.
    pub fn len(&self) -> usize {
        self.count
    }

    /// A row of a table without columns.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Its columns, in the order of the relation, living as long as the received bytes.
    pub fn walk(&self) -> Columns<'a> {
        Columns { left: self.count, body: self.body }
    }
}

impl Row for Tuple<'_> {
    fn columns(&self) -> impl Iterator<Item = Datum<'_>> {
        self.walk()
    }
}

/// Shows the kinds of the columns only: values of rows never reach a log, not even by way of `{:?}`.
impl std::fmt::Debug for Tuple<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds = self.walk().map(|datum| match datum {
            Datum::Null => 'n',
            Datum::Unchanged => 'u',
            Datum::Text(_) => 't',
        });
        write!(f, "Tuple({})", kinds.collect::<String>())
    }
}

/// The columns of a [`Tuple`], one after the other.
#[derive(Clone)]
pub struct Columns<'a> {
    left: usize,
    body: &'a [u8],
}

impl<'a> Iterator for Columns<'a> {
    type Item = Datum<'a>;

    #[inline]
    fn next(&mut self) -> Option<Datum<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (tag, rest) = self.body.split_first()?;
        self.body = rest;
        match tag {
            b'n' => Some(Datum::Null),
            b'u' => Some(Datum::Unchanged),
            _ => {
                let (length, rest) = self.body.split_first_chunk::<4>()?;
                let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
                self.body = rest;
                Some(Datum::Text(value))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Columns<'_> {}
