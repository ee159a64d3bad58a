//! `pgbaton tail`: changes of any PostgreSQL as lines.

use clap::Args;
use pgbaton_postgres::Conninfo;
use tokio::sync::oneshot;

use super::{FAILED, USAGE, chain, complain, signals::Signals};
use crate::tail::{Request, Watched, tail};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The database, as in postgresql://user@host/database; PGPASSWORD and the password file are looked at
    #[arg(value_name = "URL")]
    url: String,
    /// Show the tables of this publication
    #[arg(long, value_name = "NAME", conflicts_with = "tables")]
    publication: Option<String>,
    /// Show this table, named as in SQL; may be repeated. Its owner may; all tables without this, which a superuser may
    #[arg(long = "table", value_name = "T")]
    tables: Vec<String>,
    /// One JSON object per change instead of a line for people
    #[arg(long)]
    json: bool,
    /// End after so many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

pub(super) async fn run(arguments: Arguments) -> u8 {
    let conninfo = match Conninfo::parse(&arguments.url) {
        Ok(conninfo) => conninfo,
        Err(error) => {
            complain(format_args!("{error}; give a URL like postgresql://user@host:5432/database"));
            return USAGE;
        }
    };
    let watched = match arguments.publication {
        Some(name) => Watched::Publication(name),
        None if arguments.tables.is_empty() => Watched::Everything,
        None => Watched::Tables(arguments.tables),
    };
    let request = Request { conninfo, watched, json: arguments.json, limit: arguments.limit };
    let mut signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            complain(format_args!("catch signals: {error}"));
            return FAILED;
        }
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async {
        let _ = stopped.await;
    };
    let mut note = |text: String| complain(text);
    let tailing = tail(&request, stopped, &mut note);
    tokio::pin!(tailing);
    let code = tokio::select! {
        ended = &mut tailing => return code_of(ended, 0),
        code = signals.next() => code,
    };
    let _ = stop.send(());
    tokio::select! {
        ended = &mut tailing => code_of(ended, code),
        // Somebody is in a hurry; the next tail finds what is left.
        code = signals.next() => code,
    }
}

fn code_of(ended: Result<(), crate::tail::TailError>, code: u8) -> u8 {
    match ended {
        Ok(()) => code,
        Err(error) => {
            complain(chain(&error));
            FAILED
        }
    }
}
