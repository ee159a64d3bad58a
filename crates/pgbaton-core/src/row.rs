//! What one change of one row is made of, as PostgreSQL describes it and before anything is encoded.

/// One column value of a row image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datum<'a> {
    /// SQL NULL.
    Null,
    /// A TOASTed value that the change did not touch and PostgreSQL did not send.
    Unchanged,
    /// The value in PostgreSQL's text form. Not always UTF-8: a SQL_ASCII database sends what it stores.
    Text(&'a [u8]),
}

/// A row image whose columns can be walked without copying them.
pub trait Row {
    /// The columns in the order of the table's [`Relation`].
    fn columns(&self) -> impl Iterator<Item = Datum<'_>>;
}

/// What identifies a row in the old image of updates and deletes (`REPLICA IDENTITY`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key, if there is one.
    Default,
    /// Nothing: updates and deletes cannot be published.
    Nothing,
    /// The whole old row.
    Full,
    /// The columns of a unique index.
    Index,
}

/// A column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name, unquoted.
    pub name: String,
    /// `pg_type.oid` of its type.
    pub type_oid: u32,
    /// Type modifier (`atttypmod`), -1 for none: precision and scale of a numeric, digits of a timestamp.
    pub type_modifier: i32,
    /// Part of the replica identity. With [`ReplicaIdentity::Full`] every column is.
    pub identity: bool,
}

/// A table as the stream announced it, before the first change that needs it and again whenever it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema name, unquoted.
    pub schema: String,
    /// Table name, unquoted.
    pub table: String,
    /// Its replica identity.
    pub identity: ReplicaIdentity,
    /// Its columns, in the order of row images.
    pub columns: Vec<Column>,
}
