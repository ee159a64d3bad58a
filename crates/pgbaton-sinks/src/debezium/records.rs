//! The records of one change, in one buffer that is used again for the next.

use std::ops::Range;

/// The records of one change, in the order in which they have to be sent.
#[derive(Debug, Default)]
pub struct Records {
    pub(super) bytes: Vec<u8>,
    pub(super) scratch: Vec<u8>,
    records: Vec<Layout>,
}

/// One record of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodedRecord<'a> {
    /// JSON of the key columns; None for a table without a key, and for a truncate.
    pub key: Option<&'a [u8]>,
    /// JSON of the event; None for a tombstone.
    pub value: Option<&'a [u8]>,
    /// What tells this record from the change's first, which has none: the PART of its id.
    pub part: Option<u8>,
    /// Name and value of the header that ties the two halves of a changed key together.
    pub header: Option<(&'static str, &'a [u8])>,
}

/// Where in the buffer the parts of a record are. Records may share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Layout {
    pub(super) key: Option<Range<usize>>,
    pub(super) value: Option<Range<usize>>,
    pub(super) header: Option<(&'static str, Range<usize>)>,
}

impl Records {
    /// Forgets the records and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
    }

    /// The records, first to last.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = EncodedRecord<'_>> {
        self.records.iter().enumerate().map(|(index, layout)| EncodedRecord {
            key: layout.key.clone().map(|range| &self.bytes[range]),
            value: layout.value.clone().map(|range| &self.bytes[range]),
            part: (index > 0).then_some(index as u8),
            header: layout.header.clone().map(|(name, range)| (name, &self.bytes[range])),
        })
    }

    pub(super) fn push(&mut self, record: Layout) {
        self.records.push(record);
    }
}
