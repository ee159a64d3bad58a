//! Tables and row images for tests, written down as a stream would announce them.

use pgbaton_core::{Column, Datum, Relation, ReplicaIdentity, Row};

/// A row image that is what it says.
pub struct TestRow(pub Vec<Datum<'static>>);

impl Row for TestRow {
    fn columns(&self) -> impl Iterator<Item = Datum<'_>> {
        self.0.iter().copied()
    }
}

/// SQL NULL.
pub const NULL: Datum<'static> = Datum::Null;

/// A value that was not sent.
pub const UNCHANGED: Datum<'static> = Datum::Unchanged;

/// A value.
pub fn text(value: &'static str) -> Datum<'static> {
    Datum::Text(value.as_bytes())
}

/// A row of these values.
pub fn row<const N: usize>(columns: [Datum<'static>; N]) -> TestRow {
    TestRow(columns.to_vec())
}

/// A table of columns given by name, type, modifier, and whether they are part of the identity.
pub fn relation(schema: &str, table: &str, identity: ReplicaIdentity, columns: &[(&str, u32, i32, bool)]) -> Relation {
    Relation {
        oid: 16_384,
        schema: schema.to_owned(),
        table: table.to_owned(),
        identity,
        columns: columns
            .iter()
            .map(|(name, type_oid, type_modifier, identity)| Column {
                name: (*name).to_owned(),
                type_oid: *type_oid,
                type_modifier: *type_modifier,
                identity: *identity,
            })
            .collect(),
    }
}
