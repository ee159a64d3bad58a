//! How each kind of server is started: its ports, its command line, its environment. The configuration files themselves are
//! `patroni/` and `haproxy/` of the checkout.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::state::{HaproxyPorts, Kind, Node};
use crate::instance::Instance;
use crate::kafka::Broker;
use crate::lab::{Lab, machine_program, open_folder};
use crate::launch::Launch;
use crate::ports::Ports;
use crate::setup;

/// How many Patroni nodes there are; `haproxy.cfg` names each.
pub(super) const PATRONI_NODES: usize = 3;

/// The lab's roles and their passwords, as in `patroni/`.
fn password(role: &str) -> String {
    format!("{role}-lab")
}

pub(super) fn dsn(role: &str, port: u16) -> String {
    format!("postgresql://{role}:{}@127.0.0.1:{port}/appdb", password(role))
}

/// The workers read their password from a file.
pub(super) fn worker_password() -> String {
    password("pgbaton")
}

pub(super) fn etcd(lab: &Lab, instance: &Instance, members: usize, ports: &mut Ports) -> Vec<(String, Node)> {
    let members: Vec<_> = (1..=members).map(|i| (format!("etcd-{i}"), ports.free(), ports.free())).collect();
    let peers: Vec<_> = members.iter().map(|(name, _, peer)| format!("{name}=http://127.0.0.1:{peer}")).collect();
    let node = |(name, client, peer): &(String, u16, u16)| {
        let data = instance.data().join(name).display().to_string();
        let (client_url, peer_url) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let args = [
            ("--name", name.as_str()),
            ("--data-dir", &data),
            ("--listen-client-urls", &client_url),
            ("--advertise-client-urls", &client_url),
            ("--listen-peer-urls", &peer_url),
            ("--initial-advertise-peer-urls", &peer_url),
            ("--initial-cluster", &peers.join(",")),
            ("--initial-cluster-token", instance.name()),
            ("--initial-cluster-state", "new"),
            ("--logger", "zap"),
            ("--log-level", "warn"),
        ];
        let args = args.into_iter().flat_map(|(key, value)| [key.to_owned(), value.to_owned()]).collect();
        let launch =
            Launch { program: lab.etcd(), args, env: BTreeMap::new(), dir: instance.data(), log: instance.log(name) };
        (name.clone(), Node { kind: Kind::Etcd, port: *client, rest: None, data: None, launch, process: None })
    };
    members.iter().map(node).collect()
}

/// The checkout may lie where the servers' user cannot read, so they get copies of the files.
pub(super) fn copy_configuration(lab: &Lab, instance: &Instance) -> Result<()> {
    for folder in ["patroni", "haproxy"] {
        let to = instance.conf().join(folder);
        open_folder(&to)?;
        for entry in fs::read_dir(lab.repo().join(folder)).with_context(|| format!("read folder {folder}"))?.flatten() {
            let copy = to.join(entry.file_name());
            fs::copy(entry.path(), &copy).context("copy a configuration file")?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).context("open a configuration file")?;
        }
    }
    Ok(())
}

pub(super) fn patroni(
    lab: &Lab,
    instance: &Instance,
    bin: &Path,
    etcd: &[(String, Node)],
    ports: &mut Ports,
) -> Vec<(String, Node)> {
    let hosts: Vec<_> = etcd.iter().map(|(_, node)| format!("'127.0.0.1:{}'", node.port)).collect();
    let mut node = |i: usize| {
        let (name, port, rest) = (format!("pg-{i}"), ports.free(), ports.free());
        let data = instance.data().join(&name);
        let (postgres, api) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{rest}"));
        let env = [
            ("PATRONI_NAME", name.clone()),
            ("PATRONI_ETCD3_HOSTS", hosts.join(",")),
            ("PATRONI_RESTAPI_LISTEN", api.clone()),
            ("PATRONI_RESTAPI_CONNECT_ADDRESS", api),
            ("PATRONI_POSTGRESQL_LISTEN", postgres.clone()),
            ("PATRONI_POSTGRESQL_CONNECT_ADDRESS", postgres),
            ("PATRONI_POSTGRESQL_DATA_DIR", data.display().to_string()),
            ("PATRONI_POSTGRESQL_BIN_DIR", bin.display().to_string()),
            ("PATRONI_POSTGRESQL_PGPASS", data.with_extension("pgpass").display().to_string()),
            ("PATH", format!("{}:/usr/bin:/bin", bin.display())),
        ];
        let launch = Launch {
            program: lab.patroni(),
            args: vec!["patroni.yml".to_owned()],
            env: env.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            dir: instance.conf().join("patroni"),
            log: instance.log(&name),
        };
        (name, Node { kind: Kind::Postgres, port, rest: Some(rest), data: Some(data), launch, process: None })
    };
    (1..=PATRONI_NODES).map(&mut node).collect()
}

pub(super) fn haproxy(
    instance: &Instance,
    patroni: &[(String, Node)],
    ports: &mut Ports,
) -> Result<(HaproxyPorts, (String, Node))> {
    let own = HaproxyPorts { leader: ports.free(), replicas: ports.free(), stats: ports.free() };
    let binds = [("LEADER_BIND", own.leader), ("REPLICAS_BIND", own.replicas), ("STATS_BIND", own.stats)];
    let mut env: BTreeMap<_, _> =
        binds.into_iter().map(|(key, port)| (key.to_owned(), format!("127.0.0.1:{port}"))).collect();
    for (i, (_, node)) in (1..).zip(patroni) {
        env.insert(format!("PG{i}_ADDRESS"), format!("127.0.0.1:{}", node.port));
        env.insert(format!("PG{i}_REST_PORT"), node.rest.unwrap_or_default().to_string());
    }
    let name = "haproxy".to_owned();
    let launch = Launch {
        program: machine_program("haproxy").context("find haproxy: run `cargo xtask setup`")?,
        args: ["-db", "-f", "haproxy.cfg"].map(str::to_owned).to_vec(),
        env,
        dir: instance.conf().join("haproxy"),
        log: instance.log(&name),
    };
    Ok((own, (name, Node { kind: Kind::Haproxy, port: own.leader, rest: None, data: None, launch, process: None })))
}

pub(super) fn brokers(number: usize, ports: &mut Ports) -> Vec<Broker> {
    let mut broker = |id| Broker {
        id,
        port: ports.free(),
        controller_port: ports.free(),
        side_doors: Vec::new(),
        login_port: None,
        guarded: None,
    };
    (1..=number).map(&mut broker).collect()
}

pub(super) fn kafka(lab: &Lab, instance: &Instance, broker: &Broker) -> Result<(String, Node)> {
    let launch = broker.launch(lab, instance)?;
    Ok((broker.name(), Node { kind: Kind::Kafka, port: broker.port, rest: None, data: None, launch, process: None }))
}

/// Versions of everything that takes part, for the report.
pub(super) fn versions(lab: &Lab, bin: &Path) -> BTreeMap<String, String> {
    let programs: [(&str, Option<PathBuf>, &str); 5] = [
        ("postgresql", Some(bin.join("postgres")), "--version"),
        ("patroni", Some(lab.patroni()), "--version"),
        ("etcd", Some(lab.etcd()), "--version"),
        ("haproxy", machine_program("haproxy"), "-v"),
        ("java", machine_program("java"), "-version"),
    ];
    let mut versions: BTreeMap<_, _> = programs
        .into_iter()
        .filter_map(|(name, program, flag)| {
            let output = Command::new(program?).arg(flag).output().ok()?;
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            Some((name.to_owned(), first_number(&text)?))
        })
        .collect();
    versions.insert("kafka".to_owned(), setup::kafka_version().to_owned());
    versions.insert("pgbaton".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    versions
}

/// The first word that begins with a digit.
fn first_number(text: &str) -> Option<String> {
    let mut words = text.split(|c: char| c.is_whitespace() || c == '"' || c == '(');
    words.find(|word| word.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned)
}
