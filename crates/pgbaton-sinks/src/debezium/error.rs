//! Why a table or a change cannot be encoded. No value of a row is ever part of it.

use crate::topic::TopicNameTooLong;

/// A table that cannot be encoded as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Its topic would have a name that Kafka refuses.
    #[error(transparent)]
    TopicName(#[from] TopicNameTooLong),
    /// The catalogue and the stream do not describe the same version of the table. A key of the columns that are left
    /// would be another key.
    #[error("table {table} has a key column {column} in the catalogue and none in the stream")]
    KeyColumnMissing {
        /// Schema and name of the table.
        table: String,
        /// The column.
        column: String,
    },
}

/// A change that cannot be encoded. None of them names a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A text of a SQL_ASCII database that is not UTF-8.
    #[error("table {table}, column {column}: the text is not UTF-8")]
    InvalidUtf8 {
        /// Schema and name of the table.
        table: String,
        /// The column.
        column: String,
    },
    /// Not what PostgreSQL prints for the column's type under the settings that the stream asks for.
    #[error("table {table}, column {column}: the text is no value of its type (OID {type_oid})")]
    Malformed {
        /// Schema and name of the table.
        table: String,
        /// The column.
        column: String,
        /// `pg_type.oid` of its type.
        type_oid: u32,
    },
    /// The row image does not belong to this version of the table.
    #[error("table {table} has {expected} columns, a row of it {found}")]
    ColumnCount {
        /// Schema and name of the table.
        table: String,
        /// Columns of the table.
        expected: usize,
        /// Columns of the row.
        found: usize,
    },
    /// The change did not carry a key column's value, so its record would have no key or a wrong one.
    #[error("table {table}, column {column}: the change does not carry this part of the key")]
    KeyUnavailable {
        /// Schema and name of the table.
        table: String,
        /// The column.
        column: String,
    },
}

/// A column whose type has no mapping: its values are sent as PostgreSQL's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmappedColumn {
    /// Its name.
    pub name: String,
    /// `pg_type.oid` of its type.
    pub type_oid: u32,
}
