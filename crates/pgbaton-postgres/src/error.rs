//! Errors that the server itself reports, and the one place that says what an SQLSTATE means to pgbaton.

use std::fmt;

use crate::malformed::{Malformed, Reader};

/// An ErrorResponse (or notice) of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DbError {
    /// `ERROR`, `FATAL`, `PANIC`, or a notice's level; never localised.
    pub severity: String,
    /// The SQLSTATE, five characters.
    pub code: String,
    /// What went wrong, in the server's words and language.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What the server suggests.
    pub hint: Option<String>,
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for DbError {}

impl DbError {
    /// Reads the fields of an ErrorResponse or a NoticeResponse. Texts may be in any encoding before the server knows
    /// ours (a failed start-up speaks the database's), so they are read leniently.
    pub(crate) fn read(body: &[u8]) -> Result<Self, Malformed> {
        let mut error =
            DbError { severity: String::new(), code: String::new(), message: String::new(), detail: None, hint: None };
        let mut reader = Reader::new("ErrorResponse", body);
        loop {
            let field = reader.u8()?;
            if field == 0 {
                reader.end()?;
                return Ok(error);
            }
            let length = reader.rest().iter().position(|byte| *byte == 0).unwrap_or(usize::MAX);
            let text = String::from_utf8_lossy(reader.take(length)?).into_owned();
            reader.u8()?;
            match field {
                b'S' if error.severity.is_empty() => error.severity = text,
                b'V' => error.severity = text,
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                _ => {}
            }
        }
    }

    /// What this error means to pgbaton.
    pub fn meaning(&self) -> Meaning {
        match self.code.as_str() {
            "57P01" | "57P02" | "57P03" => Meaning::ShuttingDown,
            "0A000" | "25006" => Meaning::InRecovery,
            "55006" => Meaning::SlotInUse { pid: last_number(&self.message) },
            "42704" => Meaning::NotFound,
            "55000" => Meaning::SlotLost,
            "58P01" => Meaning::WalRemoved,
            "28P01" | "28000" => Meaning::AuthFailed,
            "3D000" => Meaning::DatabaseMissing,
            "42501" => Meaning::PermissionDenied,
            // Connection trouble, rolled back, out of resources, cancelled or timed out by somebody, I/O trouble.
            code if ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => Meaning::Retry,
            _ => Meaning::Unexpected,
        }
    }
}

impl From<&tokio_postgres::error::DbError> for DbError {
    fn from(error: &tokio_postgres::error::DbError) -> Self {
        DbError {
            severity: error.severity().to_owned(),
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
        }
    }
}

/// What a failure means to pgbaton: the choice that the caller has to make, not the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Passing trouble: try again after a pause. Lost connections, time-outs and exhausted resources are this.
    Retry,
    /// The server is stopping, has just been told to end this connection, or is not up yet (57P01, 57P02, 57P03).
    ShuttingDown,
    /// The server is a standby (0A000 from START_REPLICATION, 25006 from a write). Other refusals share 0A000, so ask
    /// `pg_is_in_recovery()` where it matters.
    InRecovery,
    /// Somebody else reads the slot (55006).
    SlotInUse {
        /// Who, where the message says so. For logs: decisions read `pg_replication_slots`.
        pid: Option<i32>,
    },
    /// A slot or a publication does not exist (42704). The catalogue tells which.
    NotFound,
    /// The slot can give no more changes: lost, invalidated, or a copy that a standby still synchronises (55000).
    SlotLost,
    /// WAL that is needed has been removed (58P01).
    WalRemoved,
    /// Name or password is wrong, or pg_hba.conf does not let us in (28P01, 28000).
    AuthFailed,
    /// The database does not exist (3D000).
    DatabaseMissing,
    /// A right is missing (42501).
    PermissionDenied,
    /// TLS could not be agreed on, or the certificate is not one to trust. Never answered by a weaker mode.
    TlsFailed,
    /// The server broke the protocol, or sent an error that this list does not know: a person should look.
    Unexpected,
}

/// The last number in a message: `replication slot "s" is active for PID 4799`, in whatever language.
fn last_number(message: &str) -> Option<i32> {
    message.rsplit(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str, message: &str) -> DbError {
        let body = format!("SFEHLER\0VERROR\0C{code}\0M{message}\0Dwhy\0Fslot.c\0L1\0\0");
        DbError::read(body.as_bytes()).unwrap()
    }

    #[test]
    fn the_unlocalised_severity_and_the_known_fields_are_kept() {
        let error = error("42704", "nope");
        assert_eq!(error.to_string(), "ERROR 42704: nope (why)");
    }

    #[test]
    fn every_sqlstate_of_the_laboratory_has_its_meaning() {
        let meaning = |code| error(code, "").meaning();
        for code in ["57P01", "57P03"] {
            assert_eq!(meaning(code), Meaning::ShuttingDown);
        }
        for code in ["0A000", "25006"] {
            assert_eq!(meaning(code), Meaning::InRecovery);
        }
        let in_use = error("55006", "replication slot \"cdc_slot2\" is active for PID 4799");
        assert_eq!(in_use.meaning(), Meaning::SlotInUse { pid: Some(4799) });
        assert_eq!(meaning("42704"), Meaning::NotFound);
        assert_eq!(meaning("55000"), Meaning::SlotLost);
        assert_eq!(meaning("53300"), Meaning::Retry);
        assert_eq!(meaning("57014"), Meaning::Retry);
        assert_eq!(meaning("42601"), Meaning::Unexpected);
    }

    #[test]
    fn a_broken_error_response_is_refused() {
        for body in [&b""[..], b"S", b"SERROR", b"SERROR\0", b"SERROR\0\0x"] {
            assert!(DbError::read(body).is_err(), "{body:?} was accepted");
        }
    }
}
