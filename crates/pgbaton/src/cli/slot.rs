//! `pgbaton slot`: shows the pipeline's slot, makes it before the first start, drops it when the pipeline is over. A slot
//! is where nothing may be lost, so each of the two asks first what it would cost.

use clap::Subcommand;
use pgbaton_postgres::catalog::{self, Observation};
use pgbaton_postgres::{DbError, Meaning, Sql};
use pgbaton_sinks::kafka::read_progress;
use postgres_protocol::escape::escape_literal;
use serde_json::json;

use super::pipeline::{Meant, Refusal, Which, nobody_holds};
use super::{UNHEALTHY, USAGE, say};
use crate::servers;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// How it is, and who reads it
    Show {
        #[command(flatten)]
        which: Which,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Make it, before the pipeline's first start
    Create {
        #[command(flatten)]
        which: Which,
        /// Make it although the pipeline has run: changes since its last position are then missing
        #[arg(long)]
        force: bool,
    },
    /// Drop it: what it holds back is gone
    Drop {
        #[command(flatten)]
        which: Which,
        /// The slot's name, so that the right one is dropped
        #[arg(long, value_name = "NAME")]
        yes: Option<String>,
    },
}

pub(super) async fn run(verb: Verb) -> u8 {
    let done = match verb {
        Verb::Show { which, json } => show(&which, json).await,
        Verb::Create { which, force } => create(&which, force).await.map(|()| 0),
        Verb::Drop { which, yes } => drop_it(&which, yes.as_deref()).await.map(|()| 0),
    };
    done.unwrap_or_else(Refusal::code)
}

async fn look(meant: &Meant) -> Result<Observation, Refusal> {
    let (client, _task) = meant.client().await?;
    catalog::observe(&mut &client, meant.slot()).await.map_err(Refusal::failed)
}

async fn show(which: &Which, as_json: bool) -> Result<u8, Refusal> {
    let meant = which.meant()?;
    let seen = look(&meant).await?;
    let name = meant.slot();
    let Some(slot) = &seen.slot else {
        say(if as_json { json!({"slot": null}).to_string() } else { format!("there is no slot {name}") });
        return Ok(UNHEALTHY);
    };
    let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let reader = seen.reader.as_ref().map(|reader| {
        let whose = reader.application_name.clone().unwrap_or_default();
        format!("process {} {:?} of role {}", reader.pid, whose, text(reader.user.clone()))
    });
    if as_json {
        say(format_args!(
            "{:#}",
            json!({"slot": {
                "name": slot.slot_name, "type": slot.slot_type, "plugin": slot.plugin, "database": slot.database,
                "active": slot.active, "active_pid": slot.active_pid, "wal_status": slot.wal_status,
                "restart_lsn": slot.restart_lsn, "confirmed_flush_lsn": slot.confirmed_flush_lsn,
                "retained_bytes": seen.retained_bytes(), "safe_wal_bytes": slot.safe_wal_size,
                "two_phase": slot.two_phase, "failover": slot.failover, "invalidation_reason": slot.invalidation_reason,
            }})
        ));
        return Ok(0);
    }
    let lines = [
        ("slot", format!("{name}, {}, {}", slot.slot_type, text(slot.plugin.clone()))),
        ("database", text(slot.database.clone())),
        ("read by", reader.unwrap_or_else(|| "nobody".to_owned())),
        ("confirmed up to", text(slot.confirmed_flush_lsn.map(|lsn| lsn.to_string()))),
        ("keeps WAL from", text(slot.restart_lsn.map(|lsn| lsn.to_string()))),
        ("holds back", text(seen.retained_bytes().map(|bytes| format!("{bytes} bytes")))),
        ("WAL", text(slot.invalidation_reason.clone().or(slot.wal_status.clone()))),
    ];
    for (label, value) in lines {
        say(format_args!("{label:<16} {value}"));
    }
    Ok(0)
}

async fn create(which: &Which, force: bool) -> Result<(), Refusal> {
    let meant = which.meant()?;
    let (name, settings) = (meant.slot(), meant.settings());
    if !settings.postgres.patroni.is_empty() {
        let database = &meant.conninfo.dbname;
        return Err(Refusal::failed(format!(
            "Patroni keeps the slots of this cluster and drops those that it does not know; declare it: patronictl \
             edit-config: slots: {{{name}: {{type: logical, database: {database}, plugin: pgoutput}}}}"
        )));
    }
    let seen = look(&meant).await?;
    if seen.in_recovery {
        return Err(Refusal::failed("the server is a standby; let postgres.url lead to the leader"));
    }
    if seen.slot.is_some() {
        return Err(Refusal::failed(format!("slot {name} is there already; pgbaton slot show tells how it is")));
    }
    let progress = read_progress(&servers::kafka_target(&meant.config, settings)).await.map_err(|fault| {
        Refusal::failed(format!("whether the pipeline has run cannot be told: {fault}; make Kafka reachable"))
    })?;
    let last = progress.as_ref().and_then(|read| read.position.as_ref()?.record.position);
    let begun =
        progress.is_some_and(|read| !read.log_starts_at_zero || read.last_open.is_some() || read.position.is_some());
    if begun && !force {
        let at = last.map(|at| format!(" up to timeline {}, {}", at.timeline, at.lsn)).unwrap_or_default();
        return Err(Refusal::failed(format!(
            "the pipeline has published{at}; a new slot does not have the changes since. If they are to be given up, --force \
             makes one, and the workers then ask for the gap to be accepted (slot_ahead)"
        )));
    }
    let (client, _task) = meant.client().await?;
    let statement =
        format!("SELECT lsn FROM pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput')", escape_literal(name));
    let rows = (&client).rows(&statement).await.map_err(Refusal::failed)?;
    let at = rows.first().and_then(|row| row.at(0)).unwrap_or("unknown").to_owned();
    say(format_args!("made slot {name}; it has every change that commits after {at}"));
    if let Some(last) = last {
        say(format_args!("missing: what committed in ({}, {at}] of timeline {}", last.lsn, last.timeline));
    }
    Ok(())
}

async fn drop_it(which: &Which, yes: Option<&str>) -> Result<(), Refusal> {
    let meant = which.meant()?;
    let name = meant.slot();
    if yes != Some(name) {
        let reason = format!("what slot {name} holds back is gone when it is dropped; say --yes {name}");
        return Err(Refusal(USAGE, reason));
    }
    nobody_holds(meant.etcd()?.as_ref()).await?;
    let seen = look(&meant).await?;
    if seen.slot.is_none() {
        return Err(Refusal::failed(format!("there is no slot {name}")));
    }
    if let Some(reader) = &seen.reader {
        let whose = reader.application_name.as_deref().unwrap_or("unknown");
        return Err(Refusal::failed(format!("process {}, {whose:?}, reads slot {name}; end it first", reader.pid)));
    }
    let (client, _task) = meant.client().await?;
    let statement = format!("SELECT pg_catalog.pg_drop_replication_slot({})", escape_literal(name));
    // PostgreSQL refuses by itself where somebody came to read it meanwhile.
    (&client).rows(&statement).await.map_err(Refusal::failed)?;
    say(format_args!("dropped slot {name}"));
    if !meant.settings().postgres.patroni.is_empty() {
        say("Patroni makes a declared slot again within seconds, without what this one held back");
    }
    Ok(())
}

/// A slot that somebody reads, in words of this command.
pub(super) fn in_use(error: &DbError) -> bool {
    matches!(error.meaning(), Meaning::SlotInUse { .. })
}
