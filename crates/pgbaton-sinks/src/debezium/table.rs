//! The encoder of one version of a table: which records a change becomes, and what is in them.

use std::ops::Range;

use pgbaton_core::{Datum, Relation, ReplicaIdentity, Row};

use super::error::{CompileError, EncodeError, UnmappedColumn};
use super::records::{Layout, Records};
use super::source::{ChangeContext, Operation, Source, Trailer};
use super::types::{Kind, Scalar};
use super::value::{self, Fault};
use crate::topic::table_topic;

/// Encodes the changes of one version of a table.
///
/// Every change replaces what the [`Records`] held. After an error they hold nothing.
#[derive(Debug)]
pub struct TableEncoder {
    /// Schema and name, for errors.
    table: String,
    topic: String,
    columns: Vec<ColumnPlan>,
    has_key: bool,
    trailer: Trailer,
}

#[derive(Debug)]
struct ColumnPlan {
    name: String,
    type_oid: u32,
    kind: Kind,
    /// `{"name":` for the first column of a row, `,"name":` for the others.
    row_prefix: Vec<u8>,
    /// The same within the key; None for a column that is not in it.
    key_prefix: Option<Vec<u8>>,
}

/// The images of a row around a change, of which the old one may be missing or partial.
struct Images<'a, R> {
    old: Option<&'a R>,
    new: &'a R,
}

impl<'a, R> Images<'a, R> {
    /// Of a row that is seen from one side only.
    fn of(row: &'a R) -> Self {
        Images { old: None, new: row }
    }
}

impl TableEncoder {
    /// Prepares for the changes of a table.
    ///
    /// The key consists of the columns that the stream flags as replica identity. Where that does not name the key
    /// (identity FULL flags all columns, NOTHING none) it is `key_columns`, the primary key from the catalogue, if
    /// any. The key's columns stand in the order of the table, so that a change of identity leaves the key's bytes,
    /// and thereby its partition, as they were.
    pub fn compile(
        relation: &Relation,
        key_columns: Option<&[String]>,
        source: &Source,
    ) -> Result<(TableEncoder, Vec<UnmappedColumn>), CompileError> {
        let table = format!("{}.{}", relation.schema, relation.table);
        let identity_is_key = matches!(relation.identity, ReplicaIdentity::Default | ReplicaIdentity::Index);
        let key_columns = key_columns.filter(|_| !identity_is_key).unwrap_or_default();
        if let Some(column) =
            key_columns.iter().find(|name| relation.columns.iter().all(|column| column.name != **name))
        {
            let column = column.clone();
            return Err(CompileError::KeyColumnMissing { table, column });
        }

        let mut columns: Vec<ColumnPlan> = Vec::with_capacity(relation.columns.len());
        let mut unmapped = Vec::new();
        let mut has_key = false;
        for column in &relation.columns {
            let kind = Kind::of(column.type_oid, column.type_modifier).unwrap_or_else(|| {
                unmapped.push(UnmappedColumn { name: column.name.clone(), type_oid: column.type_oid });
                Kind::Scalar(Scalar::Text)
            });
            let in_key = if identity_is_key { column.identity } else { key_columns.contains(&column.name) };
            columns.push(ColumnPlan {
                name: column.name.clone(),
                type_oid: column.type_oid,
                kind,
                row_prefix: prefix(columns.is_empty(), &column.name),
                key_prefix: in_key.then(|| prefix(!has_key, &column.name)),
            });
            has_key |= in_key;
        }
        let encoder = TableEncoder {
            topic: table_topic(&source.name, &relation.schema, &relation.table)?,
            trailer: Trailer::new(source, &relation.schema, &relation.table),
            table,
            columns,
            has_key,
        };
        Ok((encoder, unmapped))
    }

    /// The topic of the table's records.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// A new row: one record.
    pub fn insert<R: Row>(&self, context: &ChangeContext, new: &R, out: &mut Records) -> Result<(), EncodeError> {
        self.encode(out, |out| {
            let images = Images::of(new);
            let key = self.write_key(&images, out)?;
            let value = self.write_event(context, Operation::Create, None, Some(&images), out)?;
            out.push(Layout { key, value: Some(value), header: None });
            Ok(())
        })
    }

    /// A changed row: one record, or, if its key changed, the deletion of the old key, its tombstone, and the creation
    /// of the new one.
    ///
    /// `old` is the old image as far as it was sent; with `old_is_key_only` it is not shown as `before`, because its
    /// other columns are unknown and not null. A value that the change left alone and that was not sent is taken from
    /// the old image if that has it, and is Debezium's placeholder otherwise.
    pub fn update<R: Row>(
        &self,
        context: &ChangeContext,
        old: Option<&R>,
        old_is_key_only: bool,
        new: &R,
        out: &mut Records,
    ) -> Result<(), EncodeError> {
        self.encode(out, |out| {
            let images = Images { old, new };
            let key = self.write_key(&images, out)?;
            if let (Some(old), Some(new_key)) = (old, &key) {
                let old_key = self.write_key(&Images::of(old), out)?;
                if let Some(old_key) =
                    old_key.filter(|old_key| out.bytes[old_key.clone()] != out.bytes[new_key.clone()])
                {
                    return self.write_changed_key(context, old_key, new_key.clone(), old, &images, out);
                }
            }
            let before = old.filter(|_| !old_is_key_only);
            let value = self.write_event(context, Operation::Update, before, Some(&images), out)?;
            out.push(Layout { key, value: Some(value), header: None });
            Ok(())
        })
    }

    /// A deleted row, of which `old` is what was sent: the event and, for a table with a key, its tombstone.
    pub fn delete<R: Row>(&self, context: &ChangeContext, old: &R, out: &mut Records) -> Result<(), EncodeError> {
        self.encode(out, |out| {
            let key = self.write_key(&Images::of(old), out)?;
            let value = self.write_event(context, Operation::Delete, Some(old), None, out)?;
            out.push(Layout { key: key.clone(), value: Some(value), header: None });
            if key.is_some() {
                out.push(Layout { key, value: None, header: None });
            }
            Ok(())
        })
    }

    /// A truncated table: one record without a key and without row images.
    pub fn truncate(&self, context: &ChangeContext, out: &mut Records) {
        out.clear();
        out.bytes.extend_from_slice(b"{\"before\":null,\"after\":null");
        self.trailer.write(Operation::Truncate, context, &mut out.bytes);
        let value = Some(0..out.bytes.len());
        out.push(Layout { value, ..Layout::default() });
    }

    fn encode(
        &self,
        out: &mut Records,
        write: impl FnOnce(&mut Records) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        out.clear();
        write(out).inspect_err(|_| out.clear())
    }

    fn write_changed_key<R: Row>(
        &self,
        context: &ChangeContext,
        old_key: Range<usize>,
        new_key: Range<usize>,
        old: &R,
        images: &Images<'_, R>,
        out: &mut Records,
    ) -> Result<(), EncodeError> {
        let deleted = self.write_event(context, Operation::Delete, Some(old), None, out)?;
        let created = self.write_event(context, Operation::Create, None, Some(images), out)?;
        let to_new = Some(("__debezium.newkey", new_key.clone()));
        let from_old = Some(("__debezium.oldkey", old_key.clone()));
        out.push(Layout { key: Some(old_key.clone()), value: Some(deleted), header: to_new.clone() });
        out.push(Layout { key: Some(old_key), value: None, header: to_new });
        out.push(Layout { key: Some(new_key), value: Some(created), header: from_old });
        Ok(())
    }

    fn write_event<R: Row>(
        &self,
        context: &ChangeContext,
        operation: Operation,
        before: Option<&R>,
        after: Option<&Images<'_, R>>,
        out: &mut Records,
    ) -> Result<Range<usize>, EncodeError> {
        let start = out.bytes.len();
        out.bytes.extend_from_slice(b"{\"before\":");
        self.write_row(before.map(Images::of).as_ref(), out)?;
        out.bytes.extend_from_slice(b",\"after\":");
        self.write_row(after, out)?;
        self.trailer.write(operation, context, &mut out.bytes);
        Ok(start..out.bytes.len())
    }

    fn write_row<R: Row>(&self, images: Option<&Images<'_, R>>, out: &mut Records) -> Result<(), EncodeError> {
        let Some(images) = images else {
            out.bytes.extend_from_slice(b"null");
            return Ok(());
        };
        self.for_each_column(images, |column, datum| {
            out.bytes.extend_from_slice(&column.row_prefix);
            match datum {
                Datum::Null => out.bytes.extend_from_slice(b"null"),
                Datum::Unchanged => out.bytes.extend_from_slice(column.kind.placeholder().as_bytes()),
                Datum::Text(text) => self.write_value(column, text, out)?,
            }
            Ok(())
        })?;
        let rest: &[u8] = if self.columns.is_empty() { b"{}" } else { b"}" };
        out.bytes.extend_from_slice(rest);
        Ok(())
    }

    /// The key of a row, or None if the table has none.
    fn write_key<R: Row>(
        &self,
        images: &Images<'_, R>,
        out: &mut Records,
    ) -> Result<Option<Range<usize>>, EncodeError> {
        if !self.has_key {
            return Ok(None);
        }
        let start = out.bytes.len();
        self.for_each_column(images, |column, datum| {
            let Some(prefix) = &column.key_prefix else {
                return Ok(());
            };
            out.bytes.extend_from_slice(prefix);
            match datum {
                Datum::Null => out.bytes.extend_from_slice(b"null"),
                Datum::Unchanged => {
                    return Err(EncodeError::KeyUnavailable { table: self.table.clone(), column: column.name.clone() });
                }
                Datum::Text(text) => self.write_value(column, text, out)?,
            }
            Ok(())
        })?;
        out.bytes.push(b'}');
        Ok(Some(start..out.bytes.len()))
    }

    /// Walks the new image, each value that was not sent taken from the old image if that has it. An old image of the
    /// key alone has null for the rest, which is why only a text counts.
    fn for_each_column<'a, R: Row>(
        &self,
        images: &Images<'a, R>,
        mut each: impl FnMut(&ColumnPlan, Datum<'a>) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let mut old = images.old.map(Row::columns);
        let mut plans = self.columns.iter();
        let mut found = 0;
        for datum in images.new.columns() {
            found += 1;
            let old = old.as_mut().and_then(Iterator::next);
            let Some(column) = plans.next() else { continue };
            match (datum, old) {
                (Datum::Unchanged, Some(Datum::Text(text))) => each(column, Datum::Text(text))?,
                (datum, _) => each(column, datum)?,
            }
        }
        if found != self.columns.len() {
            return Err(EncodeError::ColumnCount { table: self.table.clone(), expected: self.columns.len(), found });
        }
        Ok(())
    }

    fn write_value(&self, column: &ColumnPlan, text: &[u8], out: &mut Records) -> Result<(), EncodeError> {
        value::write(column.kind, text, &mut out.bytes, &mut out.scratch).map_err(|fault| {
            let (table, column, type_oid) = (self.table.clone(), column.name.clone(), column.type_oid);
            match fault {
                Fault::NotUtf8 => EncodeError::InvalidUtf8 { table, column },
                Fault::Malformed => EncodeError::Malformed { table, column, type_oid },
            }
        })
    }
}

fn prefix(first: bool, name: &str) -> Vec<u8> {
    let mut prefix = vec![if first { b'{' } else { b',' }];
    value::escaped(name, &mut prefix);
    prefix.push(b':');
    prefix
}
