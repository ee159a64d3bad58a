//! What pgbaton asks PostgreSQL's catalogue. Every question is one statement and works on both kinds of connection.
//!
//! Answers come as one JSON text, read by name: columns that a version does not have are absent, not errors.

mod observation;
mod publication;
mod slot;
mod stale;
mod standbys;

pub use observation::{Observation, SlotReader, observe};
pub use publication::{Membership, Publication, PublishedTable, membership, primary_key, publication};
pub use slot::{SlotRow, slot};
pub use stale::{Claimant, StaleReader, terminate_stale};
pub use standbys::{Standbys, Waiting, standbys};

use postgres_protocol::escape::escape_literal;
use serde::de::DeserializeOwned;

use crate::malformed::{Malformed, Problem};
use crate::sql::{QueryError, Sql};

/// Asks for one JSON text; `None` when there is no row, or NULL in it.
async fn ask<T: DeserializeOwned>(
    sql: &mut impl Sql,
    statement: &str,
    question: &'static str,
) -> Result<Option<T>, QueryError> {
    let rows = sql.rows(statement).await?;
    let Some(json) = rows.first().and_then(|row| row.at(0)) else { return Ok(None) };
    match serde_json::from_str(json) {
        Ok(answer) => Ok(Some(answer)),
        Err(error) => {
            tracing::debug!(question, %error, "answer of the catalogue cannot be read");
            Err(Malformed { message: question, problem: Problem::Value }.into())
        }
    }
}

/// The one answer to a question that always has one.
async fn ask_one<T: DeserializeOwned>(
    sql: &mut impl Sql,
    statement: &str,
    question: &'static str,
) -> Result<T, QueryError> {
    let answer = ask(sql, statement, question).await?;
    answer.ok_or(Malformed { message: question, problem: Problem::Truncated }.into())
}

fn literal(text: &str) -> String {
    escape_literal(text)
}
