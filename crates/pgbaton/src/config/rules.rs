//! What a single value may be. Each rule takes the text as it stands and gives the checked value, or what is allowed.

use std::{collections::BTreeMap, fs::File, net::SocketAddr, path::PathBuf, time::Duration};

use hyper::Uri;

use super::reader::{Checked, Wrong};
use crate::secret::{HIDDEN, Secret};

/// A time as a number and a unit.
pub(super) fn duration(range: std::ops::RangeInclusive<Duration>) -> impl FnOnce(&str) -> Checked<Duration> {
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
    // Below 7 s PostgreSQL's wal_sender_timeout of 5 s could not cut a frozen worker before its lease ends.
    let ttl = duration(Duration::from_secs(7)..=Duration::from_secs(600))(text)?;
    if ttl.subsec_millis() == 0 { Ok(ttl) } else { Err(Wrong::allowed("whole seconds from 7s to 600s")) }
}

/// A worker's name: part of an etcd key, of headers and of log lines.
pub(super) fn worker_name(text: &str) -> Checked<String> {
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && text != "."
        && text != "..";
    fits.then(|| text.to_owned()).ok_or_else(|| Wrong::allowed("1 to 63 of the characters A-Z a-z 0-9 . _ -"))
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
    fits.then(|| text.to_owned()).ok_or_else(|| Wrong::allowed("1 to 63 of the characters a-z 0-9 _"))
}

/// A publication's name: any PostgreSQL identifier.
pub(super) fn publication_name(text: &str) -> Checked<String> {
    let fits = (1..=63).contains(&text.len()) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned()).ok_or_else(|| Wrong::allowed("1 to 63 bytes without control characters"))
}

/// The beginning of every topic's name.
pub(super) fn topic_prefix(text: &str) -> Checked<String> {
    let fits = (1..=100).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && !text.starts_with("__");
    fits.then(|| text.to_owned()).ok_or_else(|| {
        Wrong::allowed("1 to 100 of the characters A-Z a-z 0-9 . _ -, not beginning with __ (Kafka allows 249 in a topic)")
    })
}

/// Kafka's brokers to begin with.
pub(super) fn brokers(text: &str) -> Checked<String> {
    let brokers: Vec<&str> = text.split(',').map(str::trim).collect();
    if brokers.iter().all(|broker| is_host_and_port(broker)) {
        Ok(brokers.join(","))
    } else {
        Err(Wrong::allowed("HOST:PORT, several separated by commas"))
    }
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let bracketed = bare.len() != host.len();
    let host_fits = !bare.is_empty()
        && bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte) || (bracketed && byte == b':'));
    host_fits && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Where we listen; port 0 lets the system choose.
pub(super) fn listen(text: &str) -> Checked<SocketAddr> {
    text.parse().map_err(|_| Wrong::allowed("IP:PORT, as in 0.0.0.0:8080 or [::1]:8080"))
}

/// A URL of a server: scheme, host and perhaps a port; nothing else would be used.
pub(super) fn server_url<'a>(schemes: &'a [&'a str]) -> impl Fn(&str) -> Checked<String> + 'a {
    move |text| {
        let fits = text.parse::<Uri>().ok().is_some_and(|url| {
            let plain = url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
            url.scheme_str().is_some_and(|scheme| schemes.contains(&scheme)) && plain && url.path() == "/" && url.query().is_none()
        });
        match fits {
            true => Ok(text.trim_end_matches('/').to_owned()),
            false => Err(Wrong::allowed(format!("{}://HOST:PORT without user, password or path", schemes.join(":// or ")))),
        }
    }
}

/// A server's URL as it may be shown: whatever stands before the `@` may hold a password.
pub(super) fn without_user(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}://{HIDDEN}{}", &text[..scheme], &text[at..]),
        (_, Some(_)) => HIDDEN.to_owned(),
        _ => text.to_owned(),
    }
}

/// The beginning of every key in etcd.
pub(super) fn etcd_prefix(text: &str) -> Checked<String> {
    let fits = text.len() <= 200
        && text.starts_with('/')
        && text.len() > 1
        && text[1..].split('/').all(|part| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        });
    fits.then(|| text.to_owned()).ok_or_else(|| {
        Wrong::allowed("a path that begins with / and does not end with it, of the characters A-Z a-z 0-9 . _ -")
    })
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
        Err(error) => Err(Wrong::allowed(format!("a file with a secret that can be read; {error}"))),
    }
}

/// The filter of the log.
pub(super) fn log_level(text: &str) -> Checked<String> {
    let parsed = tracing_subscriber::EnvFilter::builder().parse(text);
    match parsed {
        Ok(_) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(Wrong::allowed("error, warn, info, debug or trace, also per module as in info,pgbaton=debug")),
    }
}

/// Settings of librdkafka that the protocol depends on, and why they cannot be chosen.
const OWNED_PROPERTIES: &[(&str, &str)] = &[
    ("bootstrap.servers", "it is made from brokers"),
    ("metadata.broker.list", "it is made from brokers"),
    ("transactional.id", "it is made from topic_prefix, so that every worker fences the one before it"),
    ("transaction.timeout.ms", "the bound on a dead worker's transaction depends on it"),
    ("socket.timeout.ms", "what counts as a doubtful commit depends on it"),
    ("statistics.interval.ms", "doubtful producers are recognised by the statistics"),
    ("enable.idempotence", "transactions need it"),
    ("enable.gapless.guarantee", "transactions imply it"),
    ("acks", "transactions need all"),
    ("request.required.acks", "transactions need all"),
    ("max.in.flight", "order depends on it"),
    ("max.in.flight.requests.per.connection", "order depends on it"),
    ("retries", "transactions need them"),
    ("message.send.max.retries", "transactions need them"),
    ("message.timeout.ms", "it follows from the transaction's time-out"),
    ("delivery.timeout.ms", "it follows from the transaction's time-out"),
    ("partitioner", "the partition of a record must never change"),
    ("isolation.level", "progress is read committed"),
    ("group.id", "no consumer group is used"),
    ("enable.auto.commit", "no consumer group is used"),
    ("enable.auto.offset.store", "no consumer group is used"),
    ("auto.offset.reset", "progress is read from offsets of our own"),
    ("enable.partition.eof", "the end of the progress topic is recognised by it"),
    ("allow.auto.create.topics", "topics are made with settings that the protocol needs"),
];

/// Settings for librdkafka, as they are.
pub(super) fn property(name: &str, text: &str) -> Checked<Secret> {
    match OWNED_PROPERTIES.iter().find(|(owned, _)| *owned == name) {
        Some((_, why)) => Err(Wrong { remark: "cannot be set here: ", allowed: (*why).to_owned() }),
        None => Ok(Secret::new(text)),
    }
}

/// A property's value as it may be shown. Names decide, on the safe side: librdkafka's secrets are passwords, keys and
/// what OAUTHBEARER is configured with.
pub(super) fn shown_property(name: &str, text: &str) -> String {
    const SECRET: &[&str] = &["password", "secret", "token", "oauthbearer", "pem", "jaas", "credential"];
    let name = name.to_lowercase();
    if SECRET.iter().any(|word| name.contains(word)) { HIDDEN.to_owned() } else { text.to_owned() }
}

/// A libpq URL or key=value text as it may be shown: passwords and whatever might be one are hidden.
pub(super) fn shown_connection(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        // In key=value text a password may be quoted and escaped: where there is one, nothing is shown.
        return if sounds_secret(text) { HIDDEN.to_owned() } else { text.to_owned() };
    };
    // The last @: in a malformed URL a password may contain one.
    let rest = match rest.rsplit_once('@') {
        Some((user, rest)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:{HIDDEN}@{rest}"),
            None => format!("{user}@{rest}"),
        },
        None => rest.to_owned(),
    };
    let Some((address, query)) = rest.split_once('?') else { return format!("{scheme}://{rest}") };
    let settings: Vec<String> = query
        .split('&')
        .map(|setting| match setting.split_once('=') {
            Some((key, _)) if sounds_secret(key) || key.contains('%') => format!("{key}={HIDDEN}"),
            _ => setting.to_owned(),
        })
        .collect();
    format!("{scheme}://{address}?{}", settings.join("&"))
}

fn sounds_secret(text: &str) -> bool {
    let text = text.to_lowercase();
    text.contains("password") || text.contains("secret")
}

/// The first two names of `values` that have the same value, as (later, earlier).
pub(super) fn same_value<'a, V: Ord>(values: impl IntoIterator<Item = (&'a str, V)>) -> Vec<(&'a str, &'a str)> {
    let mut seen = BTreeMap::new();
    values.into_iter().filter_map(|(name, value)| Some((name, *seen.entry(value).or_insert(name)))).filter(|(a, b)| a != b).collect()
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
    fn a_connection_is_shown_without_anything_that_may_be_a_password() {
        for (text, shown) in [
            ("postgresql://app@db:5432/orders?sslmode=require", "postgresql://app@db:5432/orders?sslmode=require"),
            ("postgresql://app:hunter2@db/orders", "postgresql://app:***@db/orders"),
            ("postgresql://app:p@hunter2/x?y@db/orders", "postgresql://app:***@db/orders"),
            ("postgresql://db/orders?password=hunter2&sslmode=require", "postgresql://db/orders?password=***&sslmode=require"),
            ("postgresql://db/orders?pass%77ord=hunter2", "postgresql://db/orders?pass%77ord=***"),
            ("postgresql://db/orders?sslpassword=hunter2", "postgresql://db/orders?sslpassword=***"),
            ("host=db dbname=orders", "host=db dbname=orders"),
            ("host=db PassWord = 'hunter2'", "***"),
        ] {
            assert_eq!(shown_connection(text), shown);
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
        assert!(server_url(&["http", "https"])("https://etcd-1:2379/").is_ok_and(|url| url == "https://etcd-1:2379"));
        for wrong in ["etcd-1:2379", "ftp://a", "http://u:p@a", "http://a/x", "http://", ""] {
            assert!(server_url(&["http", "https"])(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["", "/", "pgbaton", "/pgbaton/", "/a//b", "/a b"] {
            assert!(etcd_prefix(wrong).is_err(), "{wrong:?}");
        }
    }
}
