//! One etcd member, or a few that make a cluster.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::{Server, instance};
use crate::http;
use crate::instance::Instance;
use crate::lab::Lab;
use crate::launch::Launch;
use crate::ports::Ports;

/// One etcd member.
#[derive(Debug)]
pub struct Etcd {
    server: Server,
    port: u16,
    /// Where it says how it is, whatever is spoken on `port`.
    health_port: u16,
    tls: bool,
}

/// What an etcd with TLS shows and asks for, as PEM.
#[derive(Clone, Debug)]
pub struct EtcdTls {
    /// Its certificate, read anew at each handshake.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// Who signs the certificates that clients have to show.
    pub client_authorities: String,
}

impl Etcd {
    /// Makes a new one and returns when it is healthy.
    pub fn start() -> Result<Self> {
        Self::start_as(1, None)?.pop().context("one member was asked for")
    }

    /// The same with TLS, where clients have to show a certificate.
    pub fn start_with_tls(tls: &EtcdTls) -> Result<Self> {
        Self::start_as(1, Some(tls))?.pop().context("one member was asked for")
    }

    /// Makes a new cluster of so many members and returns when all are healthy.
    pub fn start_members(count: usize) -> Result<Vec<Self>> {
        Self::start_as(count, None)
    }

    fn start_as(count: usize, tls: Option<&EtcdTls>) -> Result<Vec<Self>> {
        let mut ports = Ports::default();
        let peers: Vec<_> = (0..count).map(|_| endpoint(false, ports.free())).collect();
        let cluster = peers.iter().enumerate().map(|(member, peer)| format!("etcd-{member}={peer}"));
        let cluster = cluster.collect::<Vec<_>>().join(",");
        let member =
            |(member, peer): (usize, &String)| Self::member(&mut ports, &format!("etcd-{member}"), peer, &cluster, tls);
        let members = peers.iter().enumerate().map(member).collect::<Result<Vec<_>>>()?;
        members.iter().try_for_each(Self::wait)?;
        Ok(members)
    }

    fn member(ports: &mut Ports, name: &str, peer: &str, cluster: &str, tls: Option<&EtcdTls>) -> Result<Self> {
        let lab = Lab::open()?;
        let instance = instance(&lab, "etcd")?;
        let (port, health_port) = (ports.free(), ports.free());
        let (client, health) = (endpoint(tls.is_some(), port), endpoint(false, health_port));
        let secured = tls.map(|tls| secured(&lab, &instance, tls)).transpose()?.unwrap_or_default();
        let data = instance.data().join("etcd").display().to_string();
        let args = ["--name", name, "--data-dir", &data, "--logger", "zap", "--log-level", "warn"]
            .into_iter()
            .chain(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .chain(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster])
            .chain(["--listen-metrics-urls", &health])
            .chain(secured.iter().map(String::as_str));
        let launch = Launch {
            program: lab.etcd(),
            args: args.map(str::to_owned).collect(),
            env: BTreeMap::new(),
            dir: instance.data(),
            log: instance.log("etcd"),
        };
        Ok(Self { server: Server::start(lab, instance, launch, None)?, port, health_port, tls: tls.is_some() })
    }

    /// Starts it again after it ended, with the same data and port.
    pub fn start_again(&mut self) -> Result<()> {
        self.server.restart()?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        let healthy = || http::get(self.health_port, "/health").is_ok_and(|answer| answer.body.contains("\"true\""));
        self.server.wait("etcd to be healthy", healthy)
    }

    /// Gives it other files: the certificate is shown from now on, the authorities count from the next start on.
    pub fn set_tls(&self, tls: &EtcdTls) -> Result<()> {
        secured(&self.server.lab, &self.server.instance, tls).map(drop)
    }

    /// Its process.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// `http://127.0.0.1:PORT`, or `https`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        endpoint(self.tls, self.port)
    }
}

fn endpoint(tls: bool, port: u16) -> String {
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://127.0.0.1:{port}")
}

/// Writes its files, and says so in arguments.
fn secured(lab: &Lab, instance: &Instance, tls: &EtcdTls) -> Result<Vec<String>> {
    let mut arguments = vec!["--client-cert-auth".to_owned()];
    for (argument, name, text) in [
        ("--cert-file", "server.crt", &tls.certificate),
        ("--key-file", "server.key", &tls.key),
        ("--trusted-ca-file", "clients.crt", &tls.client_authorities),
    ] {
        let file = instance.conf().join(name);
        lab.owner().write(&file, text)?;
        arguments.extend([argument.to_owned(), file.display().to_string()]);
    }
    Ok(arguments)
}
