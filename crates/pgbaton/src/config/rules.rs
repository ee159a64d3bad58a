//! What a single value may be. Each rule takes the text as it stands and gives the checked value, or what is allowed.

use std::{collections::BTreeMap, fs::File, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use super::mistake::{Checked, Wrong};
use crate::secret::Secret;

// What is allowed, in words: for mistakes, and for the reference. Patterns are the schema's.

pub(super) const WORKER_NAME: &str = "1 to 63 of the characters A-Z a-z 0-9 . _ -";
pub(super) const WORKER_NAME_PATTERN: &str = "^[A-Za-z0-9._-]{1,63}$";
pub(super) const PIPELINE_NAME: &str = "1 to 63 of the characters a-z 0-9 _ -";
pub(super) const PIPELINE_NAME_PATTERN: &str = "^[a-z0-9_-]{1,63}$";
pub(super) const SLOT_NAME: &str = "1 to 63 of the characters a-z 0-9 _";
pub(super) const SLOT_NAME_PATTERN: &str = "^[a-z0-9_]{1,63}$";
pub(super) const PUBLICATION_NAME: &str = "1 to 63 bytes without control characters";
pub(super) const TOPIC_PREFIX: &str =
    "1 to 100 of the characters A-Z a-z 0-9 . _ -, not beginning with __ (Kafka allows 249 in a topic)";
pub(super) const TOPIC_PREFIX_PATTERN: &str = "^(?!__)[A-Za-z0-9._-]{1,100}$";
pub(super) const BROKERS: &str = "HOST:PORT, several separated by commas";
pub(super) const LISTEN: &str = "IP:PORT, as in 0.0.0.0:8080 or [::1]:8080";
pub(super) const ETCD_PREFIX: &str =
    "a path that begins with / and does not end with it, of the characters A-Z a-z 0-9 . _ -, at most 200";
pub(super) const ETCD_PREFIX_PATTERN: &str = "^(/[A-Za-z0-9._-]+)+$";
pub(super) const TIME_PATTERN: &str = "^[0-9]+ *(ms|s|m|h)$";
pub(super) const LEASE_TTL: &str = "whole seconds from 7s to 600s";
pub(super) const TAKEOVER_GRACE: &str = "a time from 100ms to 300s";
pub(super) const SECRET_FILE: &str = "a file with a secret that can be read";
pub(super) const PEM_FILE: &str = "a PEM file that can be read";
pub(super) const LOG_LEVEL: &str = "error, warn, info, debug or trace, also per module as in info,pgbaton=debug";
pub(super) const ATOMIC_UP_TO: RangeInclusive<u64> = 1..=10_000_000;

/// A time as a number and a unit.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl FnOnce(&str) -> Checked<Duration> {
    move |text| {
        let allowed = || {
            Wrong::allowed(format!(
                "a time from {:?} to {:?} as a whole number and a unit (ms, s, m, h), as in 500ms or 10s",
                range.start(),
                range.end()
            ))
        };
        let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| allowed())?;
        let milliseconds = match unit.trim_start() {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(allowed()),
        };
        let duration = Duration::from_millis(number.checked_mul(milliseconds).ok_or_else(allowed)?);
        if range.contains(&duration) { Ok(duration) } else { Err(allowed()) }
    }
}

/// A time that etcd can count: leases are whole seconds there.
pub(super) fn lease_ttl(text: &str) -> Checked<Duration> {
    // Below 7 s a keepalive that is late and the time to close everything do not fit into what the lease leaves.
    let ttl = duration(Duration::from_secs(7)..=Duration::from_secs(600))(text)?;
    if ttl.subsec_millis() == 0 { Ok(ttl) } else { Err(Wrong::allowed(LEASE_TTL)) }
}

/// How long a slot must be idle.
pub(super) fn takeover_grace(text: &str) -> Checked<Duration> {
    duration(Duration::from_millis(100)..=Duration::from_secs(300))(text)
}

/// A worker's name: part of an etcd key, of headers and of log lines.
pub(super) fn worker_name(text: &str) -> Checked<String> {
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && text != "."
        && text != "..";
    fits.then(|| text.to_owned()).ok_or_else(|| Wrong::allowed(WORKER_NAME))
}

/// A pipeline's name: part of URLs, etcd keys and metric labels.
pub(super) fn is_pipeline_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte))
}

/// A slot's name by PostgreSQL's own rule.
pub(super) fn slot_name(text: &str) -> Checked<String> {
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    fits.then(|| text.to_owned()).ok_or_else(|| Wrong::allowed(SLOT_NAME))
}

/// A publication's name: any PostgreSQL identifier.
pub(super) fn publication_name(text: &str) -> Checked<String> {
    let fits = (1..=63).contains(&text.len()) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned()).ok_or_else(|| Wrong::allowed(PUBLICATION_NAME))
}

/// The beginning of every topic's name.
pub(super) fn topic_prefix(text: &str) -> Checked<String> {
    let fits = (1..=100).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && !text.starts_with("__");
    fits.then(|| text.to_owned()).ok_or_else(|| Wrong::allowed(TOPIC_PREFIX))
}

/// Kafka's brokers to begin with.
pub(super) fn brokers(text: &str) -> Checked<String> {
    let brokers: Vec<&str> = text.split(',').map(str::trim).collect();
    if brokers.iter().all(|broker| is_host_and_port(broker)) {
        Ok(brokers.join(","))
    } else {
        Err(Wrong::allowed(BROKERS))
    }
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let bracketed = bare.len() != host.len();
    let host_fits = !bare.is_empty()
        && bare
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte) || (bracketed && byte == b':'));
    host_fits && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Where we listen; port 0 lets the system choose.
pub(super) fn listen(text: &str) -> Checked<SocketAddr> {
    text.parse().map_err(|_| Wrong::allowed(LISTEN))
}

/// The beginning of every key in etcd.
pub(super) fn etcd_prefix(text: &str) -> Checked<String> {
    let fits = text.len() <= 200
        && text.starts_with('/')
        && text.len() > 1
        && text[1..].split('/').all(|part| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        });
    fits.then(|| text.to_owned()).ok_or_else(|| Wrong::allowed(ETCD_PREFIX))
}

/// Any text that is not empty.
pub(super) fn not_empty(text: &str) -> Checked<String> {
    if text.is_empty() { Err(Wrong::allowed("a text that is not empty")) } else { Ok(text.to_owned()) }
}

/// A secret that is not empty.
pub(super) fn some_secret(secret: &Secret) -> Checked<Secret> {
    if secret.expose().is_empty() { Err(Wrong::allowed("a text that is not empty")) } else { Ok(secret.clone()) }
}

/// A file that can be read now. What it holds is read when it is needed.
pub(super) fn readable_file(text: &str) -> Checked<PathBuf> {
    let opened = File::open(text).and_then(|file| file.metadata());
    match opened {
        Ok(metadata) if metadata.is_file() => Ok(PathBuf::from(text)),
        // A pipe or device is as good as a file; a directory is not.
        Ok(metadata) if !metadata.is_dir() => Ok(PathBuf::from(text)),
        Ok(_) => Err(Wrong::allowed("a file; this is a directory")),
        Err(error) => Err(Wrong::allowed(format!("a file that can be read; {error}"))),
    }
}

/// A file with a secret in it.
pub(super) fn secret_file(text: &str) -> Checked<PathBuf> {
    match Secret::read(text.as_ref()) {
        Ok(_) => Ok(PathBuf::from(text)),
        Err(error) => Err(Wrong::allowed(format!("{SECRET_FILE}; {error}"))),
    }
}

/// The filter of the log.
pub(super) fn log_level(text: &str) -> Checked<String> {
    let parsed = tracing_subscriber::EnvFilter::builder().parse(text);
    match parsed {
        Ok(_) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(Wrong::allowed(LOG_LEVEL)),
    }
}

/// The first two names of `values` that have the same value, as (later, earlier).
pub(super) fn same_value<'a, V: Ord>(values: impl IntoIterator<Item = (&'a str, V)>) -> Vec<(&'a str, &'a str)> {
    let mut seen = BTreeMap::new();
    values.into_iter().map(|(name, value)| (name, *seen.entry(value).or_insert(name))).filter(|(a, b)| a != b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_its_unit_and_stays_in_its_range() {
        let parse = |text| duration(Duration::from_millis(100)..=Duration::from_secs(60))(text).ok();
        assert_eq!(parse("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse("10s"), Some(Duration::from_secs(10)));
        assert_eq!(parse("1 m"), Some(Duration::from_secs(60)));
        for wrong in ["10", "s", "", "-1s", "1.5s", "10 seconds", "99ms", "2m", "18446744073709551615h", "٣s"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn names_follow_the_rules_of_the_systems_that_store_them() {
        assert!(slot_name("orders_1").is_ok());
        for wrong in ["", "Orders", "orders-1", "o'; drop table x; --", "ä", &"x".repeat(64)] {
            assert!(slot_name(wrong).is_err(), "{wrong:?}");
        }
        assert!(brokers("a:9092, [::1]:9093").is_ok_and(|brokers| brokers == "a:9092,[::1]:9093"));
        for wrong in ["", "a", "a:0", "a:99999", "a:9092,", "a b:1", "http://a:1"] {
            assert!(brokers(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["", "/", "pgbaton", "/pgbaton/", "/a//b", "/a b"] {
            assert!(etcd_prefix(wrong).is_err(), "{wrong:?}");
        }
    }
}
