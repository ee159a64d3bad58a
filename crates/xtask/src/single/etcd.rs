//! One etcd member.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{Server, instance};
use crate::http;
use crate::lab::Lab;
use crate::launch::Launch;
use crate::ports::Ports;

/// One etcd member.
#[derive(Debug)]
pub struct Etcd {
    server: Server,
    port: u16,
}

impl Etcd {
    /// Makes a new one and returns when it is healthy.
    pub fn start() -> Result<Self> {
        let lab = Lab::open()?;
        let instance = instance(&lab, "etcd")?;
        let mut ports = Ports::default();
        let (port, peer_port) = (ports.free(), ports.free());
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
        let data = instance.data().join("etcd").display().to_string();
        let cluster = format!("default={peer}");
        let args = ["--data-dir", &data, "--listen-client-urls", &client, "--advertise-client-urls", &client]
            .into_iter()
            .chain(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer, "--initial-cluster", &cluster])
            .chain(["--logger", "zap", "--log-level", "warn"]);
        let launch = Launch {
            program: lab.etcd(),
            args: args.map(str::to_owned).collect(),
            env: BTreeMap::new(),
            dir: instance.data(),
            log: instance.log("etcd"),
        };
        let etcd = Self { server: Server::start(lab, instance, launch, None)?, port };
        etcd.wait()?;
        Ok(etcd)
    }

    /// Starts it again after it ended, with the same data and port.
    pub fn start_again(&mut self) -> Result<()> {
        self.server.restart()?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        let healthy = || http::get(self.port, "/health").is_ok_and(|answer| answer.body.contains("\"true\""));
        self.server.wait("etcd to be healthy", healthy)
    }

    /// Its process.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}
