//! URLs and connection texts: which are allowed, and how much of them may be seen.

use hyper::Uri;
use pgbaton_postgres::Conninfo;

use super::mistake::{Checked, Wrong};
use crate::secret::{HIDDEN, Secret};

/// What [`server_url`] allows for `http` and `https`.
pub(super) const SERVER: &str = "http:// or https://HOST:PORT without user, password or path";
/// A list of them.
pub(super) const SERVERS: &str = "a list of http:// or https://HOST:PORT, without user, password or path";

/// A URL of a server: scheme, host and perhaps a port; nothing else would be used.
pub(super) fn server_url<'a>(schemes: &'a [&'a str]) -> impl Fn(&str) -> Checked<String> + 'a {
    move |text| {
        let fits = text.parse::<Uri>().ok().is_some_and(|url| {
            let plain = url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
            url.scheme_str().is_some_and(|scheme| schemes.contains(&scheme))
                && plain
                && url.path() == "/"
                && url.query().is_none()
        });
        match fits {
            true => Ok(text.trim_end_matches('/').to_owned()),
            false => {
                Err(Wrong::allowed(format!("{}://HOST:PORT without user, password or path", schemes.join(":// or "))))
            }
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

/// libpq's URL or key=value text.
pub(super) fn connection(text: &Secret) -> Checked<Secret> {
    match Conninfo::parse(text.expose()) {
        Ok(_) => Ok(text.clone()),
        Err(error) => Err(Wrong { remark: format!(" ({error})").into(), allowed: CONNECTION.to_owned() }),
    }
}

/// What [`connection`] allows.
pub(super) const CONNECTION: &str =
    "a libpq URL or key=value text, as in postgresql://user@host:5432/database?sslmode=verify-full";

/// A libpq URL or key=value text as it may be shown: passwords and whatever might be one are hidden.
pub(super) fn shown_connection(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        // In key=value text a password may be quoted and escaped: nothing is shown but what is plain to the last word.
        let is_plain = |word: &str| word.split_once('=').is_some_and(|(key, _)| SHOWN.contains(&key));
        return if text.split_whitespace().all(is_plain) { text.to_owned() } else { HIDDEN.to_owned() };
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
            Some((key, _)) if !SHOWN.contains(&key) => format!("{key}={HIDDEN}"),
            _ => setting.to_owned(),
        })
        .collect();
    format!("{scheme}://{address}?{}", settings.join("&"))
}

/// Parameters whose values may be seen. Any other may be a password, a mistyped one, too.
const SHOWN: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "user",
    "dbname",
    "passfile",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "channel_binding",
    "connect_timeout",
    "target_session_attrs",
    "options",
    "application_name",
    "client_encoding",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_shown_without_anything_that_may_be_a_password() {
        for (text, shown) in [
            ("postgresql://app@db:5432/orders?sslmode=require", "postgresql://app@db:5432/orders?sslmode=require"),
            ("postgresql://app:hunter2@db/orders", "postgresql://app:***@db/orders"),
            ("postgresql://app:p@hunter2/x?y@db/orders", "postgresql://app:***@db/orders"),
            (
                "postgresql://db/orders?password=hunter2&sslmode=require",
                "postgresql://db/orders?password=***&sslmode=require",
            ),
            ("postgresql://db/orders?pass%77ord=hunter2", "postgresql://db/orders?pass%77ord=***"),
            ("postgresql://db/orders?sslpassword=hunter2", "postgresql://db/orders?sslpassword=***"),
            ("host=db dbname=orders", "host=db dbname=orders"),
            ("host=db PassWord = 'hunter2'", "***"),
            ("postgresql://db/orders?pasword=hunter2", "postgresql://db/orders?pasword=***"),
            ("host=db pasword=hunter2", "***"),
        ] {
            assert_eq!(shown_connection(text), shown);
        }
    }

    #[test]
    fn a_server_is_named_by_scheme_and_address_alone() {
        assert!(server_url(&["http", "https"])("https://etcd-1:2379/").is_ok_and(|url| url == "https://etcd-1:2379"));
        for wrong in ["etcd-1:2379", "ftp://a", "http://u:p@a", "http://a/x", "http://", ""] {
            assert!(server_url(&["http", "https"])(wrong).is_err(), "{wrong:?}");
        }
    }
}
