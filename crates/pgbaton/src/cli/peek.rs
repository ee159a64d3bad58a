//! `pgbaton peek`: what the slot would give next, without taking it.

use clap::Args;
use pgbaton_core::Lsn;
use pgbaton_postgres::{SimpleRow, Sql};
use postgres_protocol::escape::{escape_identifier, escape_literal};

use super::pipeline::{Meant, Refusal, Which};
use super::{FAILED, complain, say, slot::in_use};
use crate::tail::Lines;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// End after so many changes; the transaction that they are in is read whole
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// One JSON object per change, as of tail
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> u8 {
    match peek(&arguments).await {
        Ok(0) => {
            complain("nothing waits in the slot");
            0
        }
        Ok(_) => 0,
        Err(refusal) => refusal.code(),
    }
}

async fn peek(arguments: &Arguments) -> Result<u32, Refusal> {
    let meant = arguments.which.meant()?;
    let (client, _task) = meant.client().await?;
    let rows = (&client).rows(&statement(&meant, arguments.limit)).await.map_err(|error| {
        let in_use = error.db_error().is_some_and(in_use);
        let fix = if in_use { "; a worker reads it: tail shows what comes, peek only what waits" } else { "" };
        Refusal(FAILED, format!("peek into slot {}: {error}{fix}", meant.slot()))
    })?;
    let mut lines = Lines::new(arguments.json);
    let mut shown = 0;
    for row in &rows {
        let (lsn, data) = read(row).ok_or_else(|| Refusal::failed("the server answered with something else"))?;
        for line in lines.of(lsn, &data).map_err(Refusal::failed)? {
            if shown < arguments.limit {
                say(line);
                shown += 1;
            }
        }
    }
    Ok(shown)
}

fn statement(meant: &Meant, limit: u32) -> String {
    let slot = escape_literal(meant.slot());
    let publications = escape_literal(&escape_identifier(&meant.settings().postgres.publication));
    // The server counts messages, of which a transaction has three beside its changes, and ends at a commit.
    format!(
        "SELECT lsn, pg_catalog.encode(data, 'hex') FROM pg_catalog.pg_logical_slot_peek_binary_changes({slot}, NULL, {limit}, \
         'proto_version', '1', 'publication_names', {publications})"
    )
}

fn read(row: &SimpleRow) -> Option<(Lsn, Vec<u8>)> {
    let (lsn, hex) = (row.at(0)?, row.at(1)?.as_bytes());
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let bytes = hex.chunks(2).map(|pair| {
        let [high, low] = pair else { return None };
        u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
    });
    Some((lsn.parse().ok()?, bytes.collect::<Option<_>>()?))
}
