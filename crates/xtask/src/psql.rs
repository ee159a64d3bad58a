//! SQL by `psql`, so that this crate needs no client library.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Runs `sql` and returns what `psql -At` prints. The connection must stand within 3 s.
pub(crate) fn run(bin: &Path, dsn: &str, sql: &str) -> Result<String> {
    let mut command = Command::new(bin.join("psql"));
    command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, "-d", dsn]).env("PGCONNECT_TIMEOUT", "3");
    let output = command.output().context("run psql")?;
    ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}
