//! A PostgreSQL server of the tests' own: newest version found, a directory in the temporary one, gone when dropped.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, Weak};

use pgbaton_postgres::{Conninfo, ReplicationConnection, connect_client};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// The unprivileged user that servers run as when the tests run as root.
const UNPRIVILEGED: &str = "postgres";

/// `hostssl` and `hostnossl` are told apart by the tests' own `sslmode`.
const HBA: &str = "\
local all all trust
local replication all trust
host all plain 127.0.0.1/32 password
host all hashed 127.0.0.1/32 md5
host all all 127.0.0.1/32 scram-sha-256
";

const SETTINGS: &str = "\
wal_level = logical
max_wal_senders = 20
max_replication_slots = 40
fsync = off
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
listen_addresses = '127.0.0.1'
log_statement = none
wal_sender_timeout = 10s
";

pub struct Server {
    bin: PathBuf,
    directory: TempDir,
    pub port: u16,
}

impl Server {
    /// The server that tests share while any of them runs: the last one that lets go of it stops it.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Server::start());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// A server of one's own, to be stopped and hurt.
    pub fn start() -> Self {
        let directory = TempDir::with_prefix("pgbaton-").unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Server { bin: newest_bin(), directory, port };
        let data = server.data();
        server.run("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]);
        server.make_certificates();
        server.write("pg_hba.conf", HBA);
        server.write("postgresql.auto.conf", SETTINGS);
        server.launch();
        server.psql(
            "CREATE ROLE cdc LOGIN REPLICATION PASSWORD 's3cret ä'; GRANT pg_monitor TO cdc;
             CREATE ROLE plain LOGIN REPLICATION PASSWORD 'clear';
             SET password_encryption = md5; CREATE ROLE hashed LOGIN REPLICATION PASSWORD 'hash';",
        );
        server
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn data(&self) -> String {
        self.path().join("data").display().to_string()
    }

    /// Makes a database of one's own and returns a connection text for the superuser over the Unix socket.
    pub fn database(&self, name: &str) -> Conninfo {
        self.psql(&format!("CREATE DATABASE {name}"));
        self.conninfo(&format!("user=postgres dbname={name} host={}", self.path().display()))
    }

    /// A connection text with this server's port.
    pub fn conninfo(&self, text: &str) -> Conninfo {
        Conninfo::parse(&format!("{text} port={}", self.port)).unwrap()
    }

    /// Somebody who streams WAL and flushes it, as a physical standby does; ends when the server does.
    pub fn receive_wal(&self) {
        let (directory, port) = (self.path().join("received").display().to_string(), self.port.to_string());
        let path = self.path().display().to_string();
        let streams = format!(
            "mkdir {directory} && {} -D {directory} -h {path} -p {port} -U postgres --synchronous --no-loop >/dev/null 2>&1 &",
            self.bin.join("pg_receivewal").display()
        );
        self.command("sh", &["-c", &streams]);
    }

    fn launch(&self) {
        let options = format!("-p {} -k {}", self.port, self.path().display());
        let log = self.path().join("log").display().to_string();
        self.run("pg_ctl", &["start", "-w", "-D", &self.data(), "-l", &log, "-o", &options]);
    }

    /// Starts the stopped server again as a standby of nobody.
    pub fn start_as_standby(&self) {
        self.write("standby.signal", "");
        self.launch();
    }

    /// Stops the server as `pg_ctl -m MODE` does, and returns when it has ended.
    pub fn stop(&self, mode: &str) {
        self.run("pg_ctl", &["stop", "-w", "-t", "30", "-m", mode, "-D", &self.data()]);
    }

    fn psql(&self, sql: &str) {
        let (directory, port) = (self.path().display().to_string(), self.port.to_string());
        for statement in sql.split_inclusive(';') {
            self.run(
                "psql",
                &[
                    "-X",
                    "-q",
                    "-v",
                    "ON_ERROR_STOP=1",
                    "-h",
                    &directory,
                    "-p",
                    &port,
                    "-U",
                    "postgres",
                    "-c",
                    statement,
                ],
            );
        }
    }

    /// `ca.crt` has signed `server.crt` for localhost; `other.crt` has nothing to do with it.
    fn make_certificates(&self) {
        let authority = |file: &str| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let certificate = params.self_signed(&key).unwrap();
            std::fs::write(self.path().join(file), certificate.pem()).unwrap();
            Issuer::new(params, key)
        };
        let issuer = authority("ca.crt");
        authority("other.crt");
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        self.write("server.crt", &params.signed_by(&key, &issuer).unwrap().pem());
        self.write("server.key", &key.serialize_pem());
    }

    /// Writes a file into the data directory, as its owner wants it.
    fn write(&self, name: &str, text: &str) {
        let (path, source) = (self.path().join("data").join(name), self.path().join(name));
        std::fs::write(&source, text).unwrap();
        let output =
            self.command("install", &["-m", "0600", &source.display().to_string(), &path.display().to_string()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::remove_file(source).unwrap();
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let output = self.command(&self.bin.join(program).display().to_string(), arguments);
        let log = || std::fs::read_to_string(self.path().join("log")).unwrap_or_default();
        assert!(output.status.success(), "{program}: {}\n{}", String::from_utf8_lossy(&output.stderr), log());
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = if rustix::process::getuid().is_root() {
            let mut command = Command::new("setpriv");
            let user = [format!("--reuid={UNPRIVILEGED}"), format!("--regid={UNPRIVILEGED}")];
            command.args(user).args(["--clear-groups", "--", program]);
            command
        } else {
            Command::new(program)
        };
        command.args(arguments).current_dir("/").env("LC_ALL", "C").output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already stopped by its test, or stopped here; a failure leaves nothing that could be done about it.
        self.command(
            &self.bin.join("pg_ctl").display().to_string(),
            &["stop", "-w", "-m", "immediate", "-D", &self.data()],
        );
        // Its files belong to another user, who may also have to remove them.
        self.command("rm", &["-rf", &self.data()]);
    }
}

/// The directory with `initdb`: what the environment says, else the newest version of Debian's layout, else where `pg_config` points.
fn newest_bin() -> PathBuf {
    if let Some(named) = std::env::var_os("XTASK_POSTGRES_BIN") {
        return named.into();
    }
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = installed.filter(|path| path.join("bin/initdb").exists()).max_by_key(|path| version(path));
    newest.map(|path| path.join("bin")).unwrap_or_else(|| {
        let output = Command::new("pg_config").arg("--bindir").output().expect("PostgreSQL's server is installed");
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    })
}

/// Runs statements on an ordinary connection of their own.
pub async fn execute(conninfo: &Conninfo, sql: &str) {
    let (client, task) = connect_client(conninfo, "test", None).await.unwrap();
    client.batch_execute(sql).await.unwrap();
    drop(client);
    task.await.unwrap().unwrap();
}

/// A replication connection whose database has a publication `pub` for all tables and the named slot.
pub async fn connect_with_slot(conninfo: &Conninfo, slot: &str) -> ReplicationConnection {
    execute(conninfo, "CREATE PUBLICATION pub FOR ALL TABLES").await;
    execute(conninfo, &format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    ReplicationConnection::connect(conninfo, "pgbaton/").await.unwrap()
}
