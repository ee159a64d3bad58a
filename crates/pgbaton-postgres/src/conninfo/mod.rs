//! Where a server is and how to be let in, as libpq's connection texts say it: `postgresql://...` or `key=value ...`.
//!
//! Stricter than libpq in three ways: an unknown parameter is an error, no mode of `sslmode` may end up weaker than it
//! reads (`allow` and `prefer` are refused), and host and user must be named. Environment variables other than
//! `PGPASSWORD` and `PGPASSFILE` are not looked at.

mod params;
mod passfile;
mod text;
mod url;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::secret::Secret;
use crate::tls::{KeptTls, TlsError};

/// How long one server may take to let us in, where the text does not say (`connect_timeout`).
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A checked connection text. Neither `{}` nor `{:?}` shows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Conninfo {
    /// The servers, tried in this order; at least one.
    pub hosts: Vec<Host>,
    /// The role to log in as.
    pub user: String,
    /// The database; the name of the user where the text names none.
    pub dbname: String,
    /// What TLS has to prove on TCP connections.
    pub sslmode: SslMode,
    /// Whom to trust for certificates.
    pub sslrootcert: Option<RootCert>,
    /// Our own certificate and its key, both PEM files.
    pub identity: Option<ClientCert>,
    /// Whether authentication must be bound to the TLS connection.
    pub channel_binding: ChannelBinding,
    /// Bound on everything from the look-up of the name to the end of authentication, for one server.
    pub connect_timeout: Duration,
    /// `application_name` of the text. The connections of pgbaton carry their own names instead.
    pub application_name: Option<String>,
    /// Command line options for the server, put before our own.
    pub options: Option<String>,
    /// Which of several servers will do.
    pub target_session_attrs: TargetSessionAttrs,
    password: Option<Secret>,
    given_password: Option<Secret>,
    passfile: Option<PathBuf>,
    /// What TLS is spoken with, if it was read already.
    pub(crate) kept_tls: Option<KeptTls>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The way to it.
    pub address: Address,
    /// TCP port, or the number in the name of the Unix socket.
    pub port: u16,
}

/// The way to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP to a name or address.
    Tcp {
        /// What certificates are checked against, and looked up unless `addr` is known.
        name: String,
        /// `hostaddr`: where to connect without looking the name up.
        addr: Option<IpAddr>,
    },
    /// The directory of a Unix socket.
    Unix(PathBuf),
}

/// What TLS has to prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// Encrypted; the certificate is not checked (unless `sslrootcert` is given: then as verify-ca, as libpq does).
    Require,
    /// The certificate comes from a trusted authority, whatever name it is for.
    VerifyCa,
    /// The certificate comes from a trusted authority and is for this host.
    VerifyFull,
}

/// Whose certificates are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    /// The operating system's authorities.
    System,
    /// The authorities in this PEM file.
    File(PathBuf),
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCert {
    /// PEM file of the certificate (chain).
    pub cert: PathBuf,
    /// PEM file of its key, not encrypted.
    pub key: PathBuf,
}

/// Whether SCRAM is bound to the TLS connection, so that nobody in between can pass it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where the server offers it.
    Prefer,
    /// Always: any other authentication is refused.
    Require,
}

/// Which of several servers will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSessionAttrs {
    /// The first that lets us in.
    Any,
    /// The first whose transactions may write.
    ReadWrite,
    /// The first that is not in recovery.
    Primary,
}

/// A connection text that cannot be used, in one line without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidConninfo(pub(crate) String);

impl Conninfo {
    /// Reads a libpq URL or key=value text.
    ///
    /// # Errors
    /// One line that names the parameter, what was found and what is allowed. It never repeats a password, nor text
    /// that might be a part of one.
    pub fn parse(text: &str) -> Result<Self, InvalidConninfo> {
        let text = text.trim();
        let params = match text.split_once("://") {
            Some(("postgresql" | "postgres", rest)) => url::parse(rest)?,
            _ => text::parse(text)?,
        };
        params.check()
    }

    /// The same with a password from elsewhere (`password`, `password_file`). One in the text itself goes before it.
    pub fn with_password(self, password: Option<Secret>) -> Self {
        Conninfo { given_password: password, ..self }
    }

    /// Reads the files of TLS now and keeps what is in them for every connection; without this they are read anew at each.
    pub fn with_certificates_read(self) -> Result<Self, TlsError> {
        if self.certificate_files().is_empty() {
            return Ok(self);
        }
        Ok(Conninfo { kept_tls: Some(KeptTls::read(&self)?), ..self })
    }

    /// The files that connections with TLS need; those of the operating system's authorities do not count.
    pub fn certificate_files(&self) -> Vec<PathBuf> {
        if self.sslmode == SslMode::Disable {
            return Vec::new();
        }
        let root = match &self.sslrootcert {
            Some(RootCert::File(file)) => Some(file),
            Some(RootCert::System) | None => None,
        };
        let own = self.identity.iter().flat_map(|identity| [&identity.cert, &identity.key]);
        root.into_iter().chain(own).cloned().collect()
    }

    /// The password for one of the hosts: the text's own, the given one, `PGPASSWORD`, the password file.
    pub(crate) fn password_for(&self, host: &Host) -> Option<Secret> {
        self.password
            .clone()
            .or_else(|| self.given_password.clone())
            .or_else(|| std::env::var("PGPASSWORD").ok().filter(|text| !text.is_empty()).map(Secret::new))
            .or_else(|| passfile::look_up(&self.passfile()?, host, &self.dbname, &self.user))
    }

    fn passfile(&self) -> Option<PathBuf> {
        let from_environment = || std::env::var_os("PGPASSFILE").filter(|path| !path.is_empty()).map(PathBuf::from);
        let at_home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".pgpass"));
        self.passfile.clone().or_else(from_environment).or_else(at_home)
    }
}

impl Host {
    /// The name that certificates are checked against, and that a password file knows it by.
    pub(crate) fn name(&self) -> &str {
        match &self.address {
            Address::Tcp { name, .. } => name,
            Address::Unix(directory) => directory.to_str().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp { name, .. } if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Address::Tcp { name, .. } => write!(f, "{name}:{}", self.port),
            Address::Unix(directory) => write!(f, "{}", directory.join(format!(".s.PGSQL.{}", self.port)).display()),
        }
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SslMode::Disable => "disable",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        })
    }
}

impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.hosts.iter().map(Host::to_string).collect();
        write!(f, "{}@{}/{} sslmode={}", self.user, hosts.join(","), self.dbname, self.sslmode)
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conninfo({self})")
    }
}

#[cfg(test)]
mod tests;
