//! PostgreSQL itself: the way in, version and settings, rights.

use pgbaton_postgres::Meaning;
use pgbaton_postgres::catalog::{Standbys, Waiting};

use super::super::facts::{PostgresFacts, Refused, Wanted};
use super::{Finding, identifier};

/// Ten seconds of our clock and the server's apart make a log of both hard to read.
const CLOCKS_APART: f64 = 5.0;

/// Both kinds of connection.
pub(super) fn way_in(
    wanted: &Wanted,
    ordinary: &Result<PostgresFacts, Refused>,
    replication: &Result<(), Refused>,
) -> Vec<Finding> {
    let mut findings = vec![match ordinary {
        Ok(_) => Finding::ok("postgres_connect", format!("{} logs in to {}", wanted.role, wanted.database)),
        Err(refused) => no_way_in("postgres_connect", wanted, refused),
    }];
    match replication {
        Ok(()) => findings.push(Finding::ok("replication_connect", format!("{} may replicate", wanted.role))),
        // The same reason twice helps nobody.
        Err(refused) if ordinary.is_ok() => findings.push(no_way_in("replication_connect", wanted, refused)),
        Err(_) => {}
    }
    findings
}

fn no_way_in(id: &'static str, wanted: &Wanted, refused: &Refused) -> Finding {
    let Refused { meaning, text } = refused;
    let (role, database) = (identifier(&wanted.role), identifier(&wanted.database));
    let (why, fix) = match meaning {
        _ if text.contains("unsupported startup parameter") => (
            "a pooler such as PgBouncer stands in the way; replication cannot go through it".to_owned(),
            "let postgres.url name the server itself, or a proxy that passes connections on as HAProxy does".to_owned(),
        ),
        Meaning::AuthFailed => (
            "the server does not take the credentials, or pg_hba.conf has no line for them".to_owned(),
            format!(
                "set postgres.password_file; CREATE ROLE {role} LOGIN REPLICATION PASSWORD '...'; pg_hba.conf: host \
                 {database} {role} ADDRESS scram-sha-256"
            ),
        ),
        Meaning::TlsFailed => (
            "a weaker mode is never tried".to_owned(),
            "set sslrootcert in postgres.url to the authority that signed the server's certificate; sslmode=verify-full \
             needs the host's name in it"
                .to_owned(),
        ),
        Meaning::PermissionDenied => (
            "without the right to replicate nothing can be read from the slot".to_owned(),
            format!("ALTER ROLE {role} REPLICATION; on managed servers GRANT rds_replication TO {role} or its like"),
        ),
        Meaning::DatabaseMissing => {
            ("a slot belongs to one database".to_owned(), "correct the database in postgres.url".to_owned())
        }
        Meaning::InRecovery => (
            "a pipeline reads from the leader".to_owned(),
            "let postgres.url lead to the leader: HAProxy's port for it, or several hosts with \
             target_session_attrs=read-write"
                .to_owned(),
        ),
        _ => (
            "nothing can be read".to_owned(),
            "start the server, or correct host and port in postgres.url; look at firewalls".to_owned(),
        ),
    };
    Finding::error(id, text.clone(), why, fix)
}

/// The server that let us in.
pub(super) fn judge(wanted: &Wanted, facts: &PostgresFacts) -> Vec<Finding> {
    let (seen, server) = (&facts.seen, &facts.server);
    let setting = |name: &str| server.settings.get(name).map(String::as_str);
    let number = |name: &str| setting(name).and_then(|value| value.parse::<i64>().ok());
    let mut findings = vec![match seen.server_version / 10_000 {
        14.. => Finding::ok("postgres_version", format!("PostgreSQL {}", version(seen.server_version))),
        _ => Finding::error(
            "postgres_version",
            format!("PostgreSQL {}", version(seen.server_version)),
            "versions before 14 are neither supported nor tested",
            "upgrade the server to 14 or later",
        ),
    }];
    findings.push(match seen.in_recovery {
        false => Finding::ok("postgres_leader", "the server is a leader"),
        true => Finding::error(
            "postgres_leader",
            "the server is a standby",
            "a pipeline reads from the leader; a standby's copy of the slot is not to be trusted",
            "let postgres.url lead to the leader: HAProxy's port for it, or several hosts with \
             target_session_attrs=read-write",
        ),
    });
    findings.push(match setting("wal_level") {
        Some("logical") => Finding::ok("wal_level", "wal_level is logical"),
        other => Finding::error(
            "wal_level",
            format!("wal_level is {}", other.unwrap_or("unknown")),
            "without logical WAL there is nothing to decode",
            "ALTER SYSTEM SET wal_level = 'logical'; then restart the server (under Patroni: patronictl edit-config)",
        ),
    });
    findings.push(free(
        "replication_slots",
        "max_replication_slots",
        server.slots,
        number("max_replication_slots"),
        u64::from(seen.slot.is_none()),
    ));
    let streams = seen.reader.as_ref().is_some_and(|reader| reader.walsender);
    let senders = number("max_wal_senders");
    findings.push(free("wal_senders", "max_wal_senders", server.senders, senders, 1 + u64::from(!streams)));
    findings.push(slot_limit(number("max_slot_wal_keep_size")));
    if let Some(seconds) = number("idle_replication_slot_timeout").filter(|seconds| *seconds > 0) {
        findings.push(Finding::warning(
            "slot_idle_timeout",
            format!("idle_replication_slot_timeout is {seconds} s"),
            "a slot that no worker reads for so long is invalidated: what it held back is lost",
            "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf()",
        ));
    }
    findings.push(match server.reads_stats {
        true => Finding::ok("stats_right", "positions of other sessions can be read"),
        false => Finding::warning(
            "stats_right",
            format!("{} may not read positions of other sessions", wanted.role),
            "whether an older session's walsender may be ended cannot be told, so a takeover waits for its time-out, 3 s",
            format!("GRANT pg_monitor TO {}", identifier(&wanted.role)),
        ),
    });
    findings.extend(facts.standbys.as_ref().map(|(waiting, seen)| standby_barrier(*waiting, seen, &wanted.role)));
    findings.push(match server.encrypted {
        Some(true) => Finding::ok("postgres_tls", "the connection is encrypted"),
        _ if wanted.local => Finding::ok("postgres_tls", "the connection is not encrypted, and stays on this machine"),
        _ => Finding::warning(
            "postgres_tls",
            "the connection is not encrypted",
            "rows and, depending on the method, the password can be read on the way",
            "set sslmode=verify-full and sslrootcert in postgres.url; on the server: ssl = on",
        ),
    });
    if setting("server_encoding") == Some("SQL_ASCII") {
        findings.push(Finding::warning(
            "encoding",
            "the database is SQL_ASCII",
            "it stores bytes in any encoding; a value that is not UTF-8 stops the stream",
            "make the database anew with ENCODING 'UTF8', or keep its values UTF-8",
        ));
    }
    if let (Some(ours), Some(theirs)) = (wanted.port, server.port)
        && ours != theirs
    {
        findings.push(Finding::ok(
            "proxy",
            format!(
                "port {ours} leads to a server on port {theirs}: a proxy stands between, and has to let silent \
                     connections live (HAProxy: timeout client and timeout server of 30m)"
            ),
        ));
    }
    let ahead = facts.clock_ahead_seconds;
    findings.push(if ahead.abs() < CLOCKS_APART {
        Finding::ok("clock", "this machine's clock and the server's agree")
    } else {
        Finding::warning(
            "clock",
            format!("the server's clock is {ahead:.0} s ahead of ours"),
            "nothing is decided by it, but lag and logs lie",
            "run an NTP client such as chrony on both machines",
        )
    });
    findings
}

fn version(number: i32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}

/// Whether there is room for as many more as are needed.
fn free(id: &'static str, setting: &str, used: u64, most: Option<i64>, needed: u64) -> Finding {
    let most = most.and_then(|most| u64::try_from(most).ok()).unwrap_or(u64::MAX);
    if used.saturating_add(needed) <= most {
        return Finding::ok(id, format!("{used} of {most} in use"));
    }
    let more = most.saturating_add(5);
    let what = format!("{used} of {most} in use, {needed} more needed");
    let why = format!("beyond {setting} the server refuses");
    let fix =
        format!("ALTER SYSTEM SET {setting} = {more}; then restart the server (under Patroni: patronictl edit-config)");
    // One walsender is ours already while a worker streams; a second one is needed for a takeover.
    if used < most { Finding::warning(id, what, why, fix) } else { Finding::error(id, what, why, fix) }
}

fn slot_limit(megabytes: Option<i64>) -> Finding {
    match megabytes {
        Some(megabytes) if megabytes >= 0 => Finding::warning(
            "slot_wal_limit",
            format!("max_slot_wal_keep_size is {megabytes} MB"),
            "when no worker reads the slot while so much WAL is written, the slot is lost and with it the changes in it. It \
             keeps the server's disk from filling up: know how long it lasts, and alarm before it",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '...'; watch the metric pgbaton_slot_safe_wal_bytes",
        ),
        _ => Finding::ok("slot_wal_limit", "max_slot_wal_keep_size is unlimited: watch the disk, not the slot"),
    }
}

/// Publication waits for standbys: are there some, and can they be seen?
fn standby_barrier(waiting: Waiting, seen: &Standbys, role: &str) -> Finding {
    const ID: &str = "standby_barrier";
    const WHY: &str = "publication waits for standbys: nothing is published, and WAL is kept";
    if seen.hidden {
        let what = format!("{role} may not see how far standbys are");
        return Finding::error(ID, what, WHY, format!("GRANT pg_monitor TO {}", identifier(role)));
    }
    match (seen.flushed, waiting) {
        (Some(flushed), _) => Finding::ok(ID, format!("the standbys have flushed up to {flushed}")),
        (None, Waiting::ForSynchronous) => Finding::error(
            ID,
            "no standby is synchronous",
            WHY,
            "name standbys in synchronous_standby_names (under Patroni: synchronous_mode: true)",
        ),
        (None, Waiting::ForAll) => Finding::error(
            ID,
            "no standby streams",
            WHY,
            "start a standby, or set standby_barrier = \"off\" if what a failover could take back may be published",
        ),
    }
}
