//! Debezium's change events as JSON without schemas, so that what reads Debezium 3.6 reads pgbaton.
//! Not for headers of ours, topics that are not tables', or sending anything.
//!
//! A [`TableEncoder`] is compiled from each version of a table; it turns the row images of a change into [`Records`].
//! Names and constants are rendered once, values are copied once from the row into the buffer of the records.
//!
//! # Where the events differ from Debezium's
//!
//! | what | Debezium | here | why |
//! |---|---|---|---|
//! | `before` of a delete, identity not FULL | zero values for NOT NULL columns | null | they were invented |
//! | key, identity USING INDEX | the primary key | the index's columns | deletes carry no others |
//! | a value that was not sent, identity FULL | placeholder | taken from the old image | it is known |
//! | numeric without scale | trailing zeros stripped | as PostgreSQL prints it | `1.50` is not `1.5` |
//! | numeric NaN and infinities | the connector fails | the strings `NaN`, `Infinity`, `-Infinity` | the stream goes on |
//! | infinite dates | two days of the year -5877641 | 2147483647 and -2147483648 | they sort as they should |
//! | `timetz` of 24:00 off UTC, `time` of 24:00 | varies | exact | |
//! | timestamps from 294247, intervals | wrap or saturate at 64 bits | exact integers | |
//! | `transaction` | null unless switched on | null | |
//! | arrays of several dimensions | flattened or refused | nested | |
//! | arrays of interval, xml, varbit, point, name | dropped | as the element | |
//! | money, domains, hstore and other types without a mapping | by the catalogue, or dropped | text, reported once | nothing is lost |
//!
//! Two losses are Debezium's and stay, because its types have no place for more: the length of a `bit varying` (leading
//! zeros), and the lower bounds of an array.

mod array;
mod binary;
mod calendar;
mod civil;
mod decimal;
mod error;
mod interval;
mod reader;
mod records;
#[cfg(test)]
mod sample;
mod source;
mod table;
mod types;
mod value;

pub use error::{CompileError, EncodeError, UnmappedColumn};
pub use records::{EncodedRecord, Records};
pub use source::{ChangeContext, Source};
pub use table::TableEncoder;
