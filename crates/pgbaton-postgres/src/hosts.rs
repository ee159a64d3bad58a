//! Several servers in one connection text: which is tried next, which will do, and what is reported when none will.

use tokio::time::Instant;

use crate::connect_error::{ConnectError, ConnectFailure};
use crate::conninfo::{Conninfo, Host, TargetSessionAttrs};
use crate::error::Meaning;

/// Tries the servers in their order, each under its own `connect_timeout`.
pub(crate) async fn first<'c, T, F>(
    conninfo: &'c Conninfo,
    open: impl Fn(&'c Host, Instant) -> F,
) -> Result<T, ConnectError>
where
    F: Future<Output = Result<T, ConnectFailure>>,
{
    let mut failures: Vec<(&Host, ConnectFailure)> = Vec::new();
    for host in &conninfo.hosts {
        match open(host, Instant::now() + conninfo.connect_timeout).await {
            Ok(connection) => return Ok(connection),
            Err(failure) => {
                let refused = is_refusal(&failure);
                failures.push((host, failure));
                if refused {
                    break;
                }
            }
        }
    }
    Err(report(conninfo, failures))
}

/// A wrong password is wrong everywhere, and trying on would lock the role out faster.
fn is_refusal(failure: &ConnectFailure) -> bool {
    matches!(failure, ConnectFailure::Server(error) if error.meaning() == Meaning::AuthFailed)
}

fn report(conninfo: &Conninfo, mut failures: Vec<(&Host, ConnectFailure)>) -> ConnectError {
    let name = |host: &Host| format!("{}@{host}/{}", conninfo.user, conninfo.dbname);
    let furthest = (0..failures.len()).rev().max_by_key(|i| failures[*i].1.rank());
    let (host, failure) = match furthest {
        Some(index) => failures.remove(index),
        None => return ConnectError { server: conninfo.to_string(), failure: ConnectFailure::Closed, others: vec![] },
    };
    let others = failures.iter().map(|(host, failure)| format!("{}: {failure}", name(host))).collect();
    ConnectError { server: name(host), failure, others }
}

/// Whether a session is of the wanted kind, by what the server (14 and newer) reports at start-up.
pub(crate) fn check<'a>(
    wanted: TargetSessionAttrs,
    parameter: impl Fn(&str) -> Option<&'a str>,
) -> Result<(), ConnectFailure> {
    let on = |name: &str| parameter(name) == Some("on");
    let wrong = |found, wanted| Err(ConnectFailure::WrongSession { found, wanted });
    match wanted {
        TargetSessionAttrs::Any => Ok(()),
        TargetSessionAttrs::Primary if on("in_hot_standby") => wrong("a standby", "primary"),
        TargetSessionAttrs::ReadWrite if on("in_hot_standby") => wrong("a standby", "read-write"),
        TargetSessionAttrs::ReadWrite if on("default_transaction_read_only") => wrong("read-only", "read-write"),
        TargetSessionAttrs::Primary | TargetSessionAttrs::ReadWrite => Ok(()),
    }
}
