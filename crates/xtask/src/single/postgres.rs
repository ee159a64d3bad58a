//! One PostgreSQL: plain or with TLS, on TCP and a Unix socket.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Server, instance};
use crate::instance::Instance;
use crate::lab::Lab;
use crate::launch::Launch;
use crate::owner::Owner;
use crate::ports::Ports;
use crate::psql;

/// How a PostgreSQL is to be.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// Major version; `None`: the lab's default.
    pub major: Option<u16>,
    /// With a certificate for `localhost` and 127.0.0.1, signed by an authority of its own ([`Postgres::ca_file`]).
    pub tls: bool,
    /// More settings, `("wal_sender_timeout", "2s")`.
    pub settings: Vec<(String, String)>,
}

/// One PostgreSQL with `wal_level = logical`. Superuser [`Postgres::USER`], SCRAM everywhere, TCP and a Unix socket.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    bin: PathBuf,
    port: u16,
    socket_dir: PathBuf,
    ca_file: Option<PathBuf>,
}

impl Postgres {
    /// The superuser.
    pub const USER: &'static str = "postgres";
    /// The superuser's password.
    pub const PASSWORD: &'static str = "postgres-lab";

    /// Makes a new one and returns when it answers.
    pub fn start(options: &PostgresOptions) -> Result<Self> {
        let lab = Lab::open()?;
        let instance = instance(&lab, "postgres")?;
        let (bin, data, port) = (lab.postgres_bin(options.major)?, instance.data().join("pg"), Ports::default().free());
        initdb(&lab, &instance, &bin, &data)?;
        let ca_file = options.tls.then(|| certificates(&lab, &instance)).transpose()?;
        let socket_dir = socket_dir(&instance);
        let mut settings = settings(port, &socket_dir);
        if options.tls {
            let file = |name: &str| instance.conf().join(name).display().to_string();
            settings.extend([
                ("ssl", "on".to_owned()),
                ("ssl_cert_file", file("server.crt")),
                ("ssl_key_file", file("server.key")),
            ]);
        }
        let settings = settings.iter().map(|(key, value)| (*key, value.as_str()));
        let more = options.settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let data_args = ["-D".to_owned(), data.display().to_string()];
        let args = settings.chain(more).flat_map(|(key, value)| ["-c".to_owned(), format!("{key}={value}")]);
        let launch = Launch {
            program: bin.join("postgres"),
            args: data_args.into_iter().chain(args).collect(),
            env: BTreeMap::new(),
            dir: instance.data(),
            log: instance.log("postgres"),
        };
        let server = Server::start(lab, instance, launch, Some(data))?;
        let postgres = Self { server, bin, port, socket_dir, ca_file };
        postgres.wait()?;
        Ok(postgres)
    }

    /// Starts it again after it ended, with the same data and port.
    pub fn start_again(&mut self) -> Result<()> {
        self.server.restart()?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        self.server.wait("PostgreSQL to answer", || self.sql("postgres", "SELECT 1").is_ok())
    }

    /// Its process.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The port on 127.0.0.1, also part of the socket's name.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its Unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The authority that signed its certificate, if it has one.
    #[must_use]
    pub fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    /// A URL of the superuser.
    #[must_use]
    pub fn dsn(&self, database: &str) -> String {
        format!("postgresql://{}:{}@127.0.0.1:{}/{database}", Self::USER, Self::PASSWORD, self.port)
    }

    /// Runs SQL as the superuser and returns what `psql -At` prints.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String> {
        psql::run(&self.bin, &self.dsn(database), sql)
    }

    /// The folder of its programs (`pg_recvlogical`, `pg_ctl`).
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }
}

fn settings(port: u16, socket_dir: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", port.to_string()),
        ("unix_socket_directories", socket_dir.display().to_string()),
        ("wal_level", "logical".to_owned()),
        ("max_wal_senders", "20".to_owned()),
        ("max_replication_slots", "20".to_owned()),
        // Its data does not outlive the test.
        ("fsync", "off".to_owned()),
    ]
}

/// The kernel limits the path of a socket to 107 bytes.
fn socket_dir(instance: &Instance) -> PathBuf {
    let own = instance.data();
    if own.as_os_str().len() < 80 { own } else { std::env::temp_dir() }
}

fn initdb(lab: &Lab, instance: &Instance, bin: &Path, data: &Path) -> Result<()> {
    let password = instance.conf().join("password");
    lab.owner().write(&password, Postgres::PASSWORD)?;
    let mut command = lab.owner().command(bin.join("initdb"));
    command.args([
        "-A",
        "scram-sha-256",
        "-U",
        Postgres::USER,
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "--no-sync",
        "--pwfile",
    ]);
    Owner::run(command.arg(&password).arg("-D").arg(data).current_dir("/")).context("make a PostgreSQL")?;
    Ok(())
}

/// An authority and a certificate for localhost. Two, because clients refuse an authority as a server.
fn certificates(lab: &Lab, instance: &Instance) -> Result<PathBuf> {
    let conf = instance.conf();
    fs::write(conf.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        .context("write a certificate's names")?;
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for step in [
        format!("req -x509 {key} -keyout ca.key -out ca.crt -days 30 -subj /CN=lab-authority"),
        format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"),
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile names -out server.crt"
            .to_owned(),
    ] {
        Owner::run(Command::new("openssl").args(step.split(' ')).current_dir(&conf)).context("make a certificate")?;
    }
    for name in ["server.key", "server.crt"] {
        lab.owner().keep(&conf.join(name))?;
    }
    Ok(conf.join("ca.crt"))
}
