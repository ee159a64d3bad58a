//! The parameters of a connection text, still as text, and the check that makes a [`Conninfo`] of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{
    Address, ChannelBinding, ClientCert, Conninfo, DEFAULT_CONNECT_TIMEOUT, Host, InvalidConninfo, RootCert, SslMode,
    TargetSessionAttrs,
};
use crate::secret::Secret;

/// Every parameter that is understood.
const KNOWN: [&str; 17] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "passfile",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "channel_binding",
    "connect_timeout",
    "application_name",
    "options",
    "target_session_attrs",
    "client_encoding",
];

/// PostgreSQL's port where the text names none.
const DEFAULT_PORT: u16 = 5432;

/// Parameters by name, each one known; the last of several wins, as in libpq.
#[derive(Default)]
pub(super) struct Params(BTreeMap<&'static str, String>);

impl Params {
    pub(super) fn set(&mut self, name: &str, value: String) -> Result<(), InvalidConninfo> {
        let known = KNOWN.iter().find(|known| **known == name).ok_or_else(|| unknown(name))?;
        self.0.insert(known, value);
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// One of a few words, or the default where the parameter is absent.
    fn word<T: Copy>(&self, name: &str, words: &[(&str, T)], default: T) -> Result<T, InvalidConninfo> {
        let Some(value) = self.get(name) else { return Ok(default) };
        words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let allowed: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            InvalidConninfo(format!("{name} is {value:?}; allowed are {}", allowed.join(", ")))
        })
    }

    pub(super) fn check(&self) -> Result<Conninfo, InvalidConninfo> {
        let hosts = self.hosts()?;
        let user = self.get("user").ok_or_else(|| missing("user", "user=NAME, or postgresql://NAME@..."))?;
        let sslrootcert = self.get("sslrootcert").map(|value| match value {
            "system" => RootCert::System,
            path => RootCert::File(PathBuf::from(path)),
        });
        let identity = match (self.get("sslcert"), self.get("sslkey")) {
            (Some(cert), Some(key)) => Some(ClientCert { cert: cert.into(), key: key.into() }),
            (None, None) => None,
            (Some(_), None) => return Err(missing("sslkey", "the file of the key that belongs to sslcert")),
            (None, Some(_)) => return Err(missing("sslcert", "the file of the certificate that belongs to sslkey")),
        };
        if let Some(encoding) = self.get("client_encoding")
            && !["utf8", "utf-8"].contains(&encoding.to_ascii_lowercase().as_str())
        {
            return Err(InvalidConninfo(format!("client_encoding is {encoding:?}; allowed is UTF8")));
        }
        Ok(Conninfo {
            sslmode: self.sslmode(&hosts, sslrootcert.as_ref())?,
            hosts,
            user: user.to_owned(),
            dbname: self.get("dbname").unwrap_or(user).to_owned(),
            sslrootcert,
            identity,
            channel_binding: self.word(
                "channel_binding",
                &[
                    ("disable", ChannelBinding::Disable),
                    ("prefer", ChannelBinding::Prefer),
                    ("require", ChannelBinding::Require),
                ],
                ChannelBinding::Prefer,
            )?,
            connect_timeout: self.connect_timeout()?,
            application_name: self.get("application_name").map(str::to_owned),
            options: self.get("options").map(str::to_owned),
            target_session_attrs: self.word(
                "target_session_attrs",
                &[
                    ("any", TargetSessionAttrs::Any),
                    ("read-write", TargetSessionAttrs::ReadWrite),
                    ("primary", TargetSessionAttrs::Primary),
                ],
                TargetSessionAttrs::Any,
            )?,
            password: self.get("password").map(Secret::new),
            given_password: None,
            passfile: self.get("passfile").map(PathBuf::from),
            kept_tls: None,
        })
    }

    fn hosts(&self) -> Result<Vec<Host>, InvalidConninfo> {
        let list = |name| self.get(name).map(|value| value.split(',').collect::<Vec<_>>()).unwrap_or_default();
        let (names, addrs, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = names.len().max(addrs.len());
        if count == 0 {
            return Err(missing("host", "a name, an address, or the directory of a Unix socket"));
        }
        for (what, entries) in [("host", &names), ("hostaddr", &addrs)] {
            if !entries.is_empty() && entries.len() != count {
                let found = entries.len();
                return Err(InvalidConninfo(format!("{what} has {found} entries; {count} are needed, one per server")));
            }
        }
        if ports.len() > 1 && ports.len() != count {
            let found = ports.len();
            return Err(InvalidConninfo(format!("port has {found} entries; allowed are 1 or {count}, one per server")));
        }
        (0..count)
            .map(|i| {
                let port = ports.get(i).or(ports.first()).copied().unwrap_or_default();
                host(names.get(i).copied().unwrap_or_default(), addrs.get(i).copied().unwrap_or_default(), port)
            })
            .collect()
    }

    /// Without the parameter: no TLS where every server is a Unix socket, else encryption at least. `allow` and
    /// `prefer` fall back to plain text when told to, by whoever sits in between, so they are not offered.
    fn sslmode(&self, hosts: &[Host], roots: Option<&RootCert>) -> Result<SslMode, InvalidConninfo> {
        let default = match (roots, hosts.iter().all(|host| matches!(host.address, Address::Unix(_)))) {
            (Some(RootCert::System), _) => SslMode::VerifyFull,
            (_, true) => SslMode::Disable,
            (_, false) => SslMode::Require,
        };
        let words = [
            ("disable", SslMode::Disable),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ];
        let mode = self.word("sslmode", &words, default)?;
        match (mode, roots) {
            (SslMode::Require | SslMode::VerifyCa, Some(RootCert::System)) => Err(InvalidConninfo(format!(
                "sslmode is \"{mode}\" with sslrootcert=system; allowed is verify-full: anybody can have a certificate \
                 of a public authority"
            ))),
            (SslMode::VerifyCa, None) => {
                Err(missing("sslrootcert", "the PEM file of the authority that sslmode=verify-ca trusts"))
            }
            _ => Ok(mode),
        }
    }

    fn connect_timeout(&self) -> Result<Duration, InvalidConninfo> {
        let Some(value) = self.get("connect_timeout") else { return Ok(DEFAULT_CONNECT_TIMEOUT) };
        match value.parse::<u32>() {
            Ok(seconds @ 1..=3600) => Ok(Duration::from_secs(seconds.into())),
            _ => Err(InvalidConninfo(format!("connect_timeout is {value:?}; allowed are 1 to 3600 seconds"))),
        }
    }
}

fn host(name: &str, addr: &str, port: &str) -> Result<Host, InvalidConninfo> {
    let port = match port {
        "" => DEFAULT_PORT,
        digits => digits.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(|| {
            // What stands in the port's place of a URL may be the rest of a password, so it is not repeated.
            let what = "the port is not a number from 1 to 65535 (in a URL, write the characters : / @ ? # of a user \
                        name or password as %3A %2F %40 %3F %23)";
            InvalidConninfo(what.to_owned())
        })?,
    };
    let addr = match addr {
        "" => None,
        text => Some(
            text.parse::<IpAddr>()
                .map_err(|_| InvalidConninfo(format!("hostaddr is {text:?}; allowed is an IPv4 or IPv6 address")))?,
        ),
    };
    let address = match (name, addr) {
        ("", None) => return Err(missing("host", "a name, an address, or the directory of a Unix socket")),
        ("", Some(addr)) => Address::Tcp { name: addr.to_string(), addr: Some(addr) },
        (directory, None) if directory.starts_with('/') => Address::Unix(PathBuf::from(directory)),
        (name, addr) => Address::Tcp { name: name.to_owned(), addr },
    };
    Ok(Host { address, port })
}

fn missing(name: &str, what: &str) -> InvalidConninfo {
    InvalidConninfo(format!("{name} is missing: {what}"))
}

fn unknown(name: &str) -> InvalidConninfo {
    let readable = name.len() <= 40 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if !readable {
        return InvalidConninfo(format!("a parameter is unknown; known are {}", KNOWN.join(", ")));
    }
    let nearest = KNOWN.iter().min_by_key(|known| distance(known, name)).filter(|known| distance(known, name) <= 4);
    InvalidConninfo(match nearest {
        Some(nearest) => format!("parameter {name} is unknown; did you mean {nearest}?"),
        None => format!("parameter {name} is unknown; known are {}", KNOWN.join(", ")),
    })
}

/// How many letters have to be put in, taken out or changed to get from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
