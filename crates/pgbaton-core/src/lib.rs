//! Every decision of pgbaton as plain data and plain functions: no clock, no socket, no task.

mod lsn;
mod row;
mod timeline;

pub use lsn::{InvalidLsn, Lsn};
pub use row::{Column, Datum, Relation, ReplicaIdentity, Row};
pub use timeline::{History, MalformedHistory, Timeline};
