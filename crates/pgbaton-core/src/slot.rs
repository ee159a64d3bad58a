//! What PostgreSQL says of the slot and of who sits on it, and what that means to us.

use crate::{Code, Lsn};

/// The slot as one row of `pg_replication_slots`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotFacts {
    /// Output plugin; none for a physical slot.
    pub plugin: Option<String>,
    /// Database; none for a physical slot.
    pub database: Option<String>,
    /// Dropped at the end of the session that made it.
    pub temporary: bool,
    /// Decodes prepared transactions.
    pub two_phase: bool,
    /// Pid of its reader.
    pub active_pid: Option<i32>,
    /// Oldest WAL it needs.
    pub restart_lsn: Option<Lsn>,
    /// What its consumer has confirmed.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes that may still be written before the slot can be lost.
    pub safe_wal_bytes: Option<i64>,
    /// A native failover slot (PostgreSQL 17).
    pub failover: bool,
    /// Why it was invalidated (PostgreSQL 16 and later tell).
    pub invalidation_reason: Option<String>,
}

/// Whether the slot can serve us at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotState {
    /// There is none of that name.
    Missing,
    /// It cannot be read any more.
    Unreadable {
        /// `slot_lost` or `slot_invalidated`.
        code: Code,
        /// What the server says of it.
        detail: String,
    },
    /// It is not a slot for us.
    WrongKind {
        /// What is wrong, with what was found and what is needed.
        detail: String,
    },
    /// It can be streamed from this position on.
    Usable {
        /// Its confirmed position.
        confirmed_flush_lsn: Lsn,
    },
}

impl SlotState {
    /// Reads the row (or its absence) for a pipeline that streams `database` with pgoutput.
    pub fn of(slot: Option<&SlotFacts>, database: &str) -> SlotState {
        let Some(slot) = slot else { return SlotState::Missing };
        let wrong = |field: &str, found: &str, wanted: &str| SlotState::WrongKind {
            detail: format!("the slot's {field} is {found}; needed is {wanted}"),
        };
        match slot.plugin.as_deref() {
            None => return wrong("type", "physical", "logical"),
            Some("pgoutput") => {}
            Some(other) => return wrong("plugin", other, "pgoutput"),
        }
        if slot.database.as_deref() != Some(database) {
            return wrong("database", slot.database.as_deref().unwrap_or("none"), database);
        }
        if slot.temporary {
            return wrong("persistence", "temporary", "permanent");
        }
        if slot.two_phase {
            return wrong("two_phase", "on", "off");
        }
        if slot.wal_status.as_deref() == Some("lost") {
            let reason = slot.invalidation_reason.as_deref().unwrap_or("wal_removed");
            let code = if reason == "wal_removed" { Code::SlotLost } else { Code::SlotInvalidated };
            return SlotState::Unreadable { code, detail: format!("wal_status is lost, reason {reason}") };
        }
        if let Some(reason) = &slot.invalidation_reason {
            return SlotState::Unreadable {
                code: Code::SlotInvalidated,
                detail: format!("invalidated, reason {reason}"),
            };
        }
        match slot.confirmed_flush_lsn {
            Some(confirmed_flush_lsn) => SlotState::Usable { confirmed_flush_lsn },
            // A logical slot without one is still being built: nothing can be streamed from it yet.
            None => wrong("confirmed_flush_lsn", "null", "a position"),
        }
    }
}

/// The name that a walsender of ours carries: `pgbaton/PIPELINE/WORKER/NONCE/t=TERM/r=REVISION`, the first three hashed
/// to eight hexadecimal digits so that it fits the 63 bytes PostgreSQL keeps. Other roles can read it: it holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderName {
    /// Hash of the pipeline's name.
    pub pipeline: String,
    /// Hash of the worker's name.
    pub worker: String,
    /// The worker's boot nonce.
    pub nonce: String,
    /// Its term.
    pub term: u64,
    /// Its lease revision.
    pub revision: i64,
}

impl ReaderName {
    /// Reads an `application_name`; none if it is not ours, or was not set beyond the start-up name yet.
    pub fn parse(application_name: &str) -> Option<ReaderName> {
        let mut fields = application_name.split('/');
        let mut field = || fields.next();
        (field()? == "pgbaton").then_some(())?;
        let (pipeline, worker, nonce) = (field()?.to_owned(), field()?.to_owned(), field()?.to_owned());
        let term = field()?.strip_prefix("t=")?.parse().ok()?;
        let revision = field()?.strip_prefix("r=")?.parse().ok()?;
        Some(ReaderName { pipeline, worker, nonce, term, revision })
    }
}

impl std::fmt::Display for ReaderName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ReaderName { pipeline, worker, nonce, term, revision } = self;
        write!(f, "pgbaton/{pipeline}/{worker}/{nonce}/t={term}/r={revision}")
    }
}

/// Who reads the slot, seen by the holder of revision `ours` before it starts to stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Nobody.
    Nobody,
    /// An older session of this pipeline, ours or another worker's: it may be asked to go.
    Stale,
    /// A session of a newer holder: we are the stale ones.
    Newer,
    /// Not ours: never terminated.
    Foreign,
}

impl Reader {
    /// Judges the reader of a slot by its `application_name` (none: the pid is not to be found in `pg_stat_replication`).
    pub fn of(active: bool, application_name: Option<&str>, pipeline: &str, ours: i64) -> Reader {
        if !active {
            return Reader::Nobody;
        }
        match application_name.and_then(ReaderName::parse) {
            Some(name) if name.pipeline != pipeline => Reader::Foreign,
            Some(name) if name.revision > ours => Reader::Newer,
            Some(_) => Reader::Stale,
            None => Reader::Foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable() -> SlotFacts {
        SlotFacts {
            plugin: Some("pgoutput".into()),
            database: Some("appdb".into()),
            confirmed_flush_lsn: Some(Lsn(16)),
            ..SlotFacts::default()
        }
    }

    #[test]
    fn a_slot_that_is_not_for_us_is_refused_by_the_field_that_is_wrong() {
        type Change = fn(&mut SlotFacts);
        let cases: [(Change, &str); 6] = [
            (|s| s.plugin = None, "type is physical"),
            (|s| s.plugin = Some("test_decoding".into()), "plugin is test_decoding"),
            (|s| s.database = Some("other".into()), "database is other"),
            (|s| s.temporary = true, "temporary"),
            (|s| s.two_phase = true, "two_phase is on"),
            (|s| s.confirmed_flush_lsn = None, "confirmed_flush_lsn is null"),
        ];
        for (change, says) in cases {
            let mut slot = usable();
            change(&mut slot);
            match SlotState::of(Some(&slot), "appdb") {
                SlotState::WrongKind { detail } => assert!(detail.contains(says), "{detail:?} does not say {says:?}"),
                other => panic!("{says}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_lost_slot_and_an_invalidated_slot_are_told_apart() {
        let lost = SlotFacts { wal_status: Some("lost".into()), ..usable() };
        assert!(matches!(SlotState::of(Some(&lost), "appdb"), SlotState::Unreadable { code: Code::SlotLost, .. }));
        let idle = SlotFacts { invalidation_reason: Some("idle_timeout".into()), ..usable() };
        assert!(matches!(
            SlotState::of(Some(&idle), "appdb"),
            SlotState::Unreadable { code: Code::SlotInvalidated, .. }
        ));
        assert_eq!(SlotState::of(None, "appdb"), SlotState::Missing);
        assert_eq!(SlotState::of(Some(&usable()), "appdb"), SlotState::Usable { confirmed_flush_lsn: Lsn(16) });
    }

    #[test]
    fn only_an_older_session_of_this_pipeline_is_stale() {
        let name = |pipeline: &str, revision| {
            let name =
                ReaderName { pipeline: pipeline.into(), worker: "b".into(), nonce: "c".into(), term: 3, revision };
            name.to_string()
        };
        assert_eq!(Reader::of(false, None, "a", 9), Reader::Nobody);
        assert_eq!(Reader::of(true, Some(&name("a", 8)), "a", 9), Reader::Stale);
        assert_eq!(Reader::of(true, Some(&name("a", 9)), "a", 9), Reader::Stale);
        assert_eq!(Reader::of(true, Some(&name("a", 10)), "a", 9), Reader::Newer);
        assert_eq!(Reader::of(true, Some(&name("z", 8)), "a", 9), Reader::Foreign);
        assert_eq!(Reader::of(true, Some("pgbaton/"), "a", 9), Reader::Foreign);
        assert_eq!(Reader::of(true, Some("pg_recvlogical"), "a", 9), Reader::Foreign);
        assert_eq!(Reader::of(true, None, "a", 9), Reader::Foreign);
    }
}
