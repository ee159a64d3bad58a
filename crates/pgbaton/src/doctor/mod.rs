//! Everything that a pipeline needs, looked at before it is missed. Facts are collected first, each within its time; what
//! they mean is a plain function of them ([`judge`]), so that every finding can be shown to fire.
//!
//! Changes nothing that lasts: a lease and a key in etcd that go at once, nothing in PostgreSQL, nothing in Kafka.

mod collect;
pub mod facts;
mod findings;

use serde::Serialize;

pub use collect::collect;
pub use findings::judge;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and will hurt one day.
    Warning,
    /// It does not work, or what is promised cannot be kept.
    Error,
}

impl Level {
    /// As it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at; the same for ever.
    pub id: &'static str,
    /// How it is.
    pub level: Level,
    /// Whose; `None` for what all pipelines share.
    pub pipeline: Option<String>,
    /// What was found.
    pub what: String,
    /// Why it matters; empty where all is well.
    pub why: String,
    /// The statement, setting or command that mends it; empty where all is well.
    pub fix: String,
}

impl Finding {
    fn ok(id: &'static str, what: impl Into<String>) -> Self {
        let (why, fix) = (String::new(), String::new());
        Finding { id, level: Level::Ok, pipeline: None, what: what.into(), why, fix }
    }

    fn warning(id: &'static str, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        let (what, why, fix) = (what.into(), why.into(), fix.into());
        Finding { id, level: Level::Warning, pipeline: None, what, why, fix }
    }

    fn error(id: &'static str, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding { level: Level::Error, ..Finding::warning(id, what, why, fix) }
    }
}
