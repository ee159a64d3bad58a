//! The slot: is it there, of the right kind, readable, and who reads it.

use pgbaton_postgres::catalog::SlotRow;

use super::super::facts::{PostgresFacts, Wanted};
use super::{Finding, unless};

/// Native failover slots are there from this version on.
const FAILOVER_SLOTS: i32 = 170_000;
/// WAL that is held back beyond this is worth a look.
const MUCH: u64 = 10 << 30;

pub(super) fn judge(wanted: &Wanted, facts: &PostgresFacts, patroni: bool) -> Vec<Finding> {
    let seen = &facts.seen;
    // What a standby shows of a slot is a copy.
    if seen.in_recovery {
        return Vec::new();
    }
    let name = &wanted.slot;
    let Some(slot) = &seen.slot else {
        let fix = if patroni {
            format!(
                "patronictl edit-config: slots: {{{name}: {{type: logical, database: {}, plugin: pgoutput}}}}",
                wanted.database
            )
        } else {
            format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
        };
        return vec![Finding::error(
            "slot",
            format!("there is no slot {name}"),
            "before the first start it has to be made; later its absence means that changes are gone, and a new slot does \
             not bring them back (docs/codes.md, slot_missing)",
            fix,
        )];
    };
    let mut findings = kind(wanted, slot);
    findings.extend(readable(name, slot));
    if let Some(reader) = &seen.reader {
        let whose = reader.application_name.as_deref().unwrap_or("unknown");
        if !(reader.walsender && whose.starts_with("pgbaton/")) {
            let pid = reader.pid;
            findings.push(Finding::error(
                "slot_reader",
                format!("slot {name} is read by {whose:?}, process {pid}, which is no worker"),
                "PostgreSQL admits one reader, and what another one confirms is gone for us",
                format!("end that program; SELECT pg_terminate_backend({pid})"),
            ));
        }
    }
    if let Some(bytes) = seen.retained_bytes().filter(|bytes| *bytes > MUCH) {
        findings.push(Finding::warning(
            "slot_retained",
            format!("slot {name} holds back {} GB of WAL", bytes >> 30),
            "the server's disk fills until the slot is read",
            "let a worker stream; look for a transaction that is open for long: SELECT * FROM pg_stat_activity WHERE \
             backend_xid IS NOT NULL ORDER BY xact_start",
        ));
    }
    if seen.server_version >= FAILOVER_SLOTS && facts.server.standbys > 0 && slot.failover == Some(false) && !patroni {
        findings.push(Finding::warning(
            "slot_failover",
            format!("slot {name} is not synchronised to standbys by PostgreSQL, and no Patroni is configured here"),
            "if nothing else copies it, it is missing after a failover, and with it the changes in it",
            format!(
                "name Patroni's nodes in postgres.patroni, where it is declared; or make the slot with failover: SELECT \
                 pg_create_logical_replication_slot('{name}', 'pgoutput', failover => true), and sync_replication_slots = \
                 on on the standbys"
            ),
        ));
    }
    unless(findings, "slot", format!("slot {name} is sound"))
}

fn kind(wanted: &Wanted, slot: &SlotRow) -> Vec<Finding> {
    let mut wrong = Vec::new();
    if slot.slot_type != "logical" {
        wrong.push(format!("is {}", slot.slot_type));
    }
    if let Some(plugin) = slot.plugin.as_ref().filter(|plugin| *plugin != "pgoutput") {
        wrong.push(format!("has plugin {plugin}"));
    }
    if let Some(database) = slot.database.as_ref().filter(|database| **database != wanted.database) {
        wrong.push(format!("is of database {database}"));
    }
    if slot.two_phase {
        wrong.push("decodes prepared transactions before their commit (two_phase)".to_owned());
    }
    if slot.temporary {
        wrong.push("is temporary".to_owned());
    }
    if wrong.is_empty() {
        return Vec::new();
    }
    let name = &wanted.slot;
    vec![Finding::error(
        "slot_kind",
        format!("slot {name} {}", wrong.join(", ")),
        format!("a pipeline needs a permanent logical slot of plugin pgoutput in database {}", wanted.database),
        format!(
            "configure another slot; or, if nobody needs this one: SELECT pg_drop_replication_slot('{name}'); SELECT \
             pg_create_logical_replication_slot('{name}', 'pgoutput')"
        ),
    )]
}

fn readable(name: &str, slot: &SlotRow) -> Vec<Finding> {
    let lost = slot.wal_status.as_deref() == Some("lost") || slot.conflicting == Some(true);
    match (&slot.invalidation_reason, lost) {
        (Some(reason), _) => vec![gone(name, &format!("was invalidated: {reason}"))],
        (None, true) => vec![gone(name, "is lost: WAL that it needs was removed")],
        (None, false) if matches!(slot.wal_status.as_deref(), Some("unreserved")) => vec![Finding::error(
            "slot_wal",
            format!("slot {name} is about to be lost: the next checkpoint may remove WAL that it needs"),
            "what is removed cannot be streamed any more",
            "let a worker stream now; ALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf()",
        )],
        _ => Vec::new(),
    }
}

fn gone(name: &str, how: &str) -> Finding {
    Finding::error(
        "slot_wal",
        format!("slot {name} {how}"),
        "changes are gone, and no setting brings them back",
        "drop the slot and make one of that name (under Patroni a declared slot is made again by itself); then \
         pgbaton gap show and pgbaton gap accept; docs/codes.md, slot_lost",
    )
}
