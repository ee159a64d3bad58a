//! One Kafka broker.

use anyhow::Result;

use super::{Server, instance};
use crate::kafka::{self, Broker};
use crate::lab::Lab;
use crate::ports::Ports;

/// One Kafka broker that creates no topic by itself.
#[derive(Debug)]
pub struct Kafka {
    server: Server,
    port: u16,
}

impl Kafka {
    /// Makes a new one and returns when it answers.
    pub fn start() -> Result<Self> {
        let lab = Lab::open()?;
        let instance = instance(&lab, "kafka")?;
        let mut ports = Ports::default();
        let broker = Broker { id: 1, port: ports.free(), controller_port: ports.free(), side_doors: Vec::new() };
        broker.format(&lab, &instance, std::slice::from_ref(&broker), &kafka::cluster_id())?;
        let launch = broker.launch(&lab, &instance)?;
        let kafka = Self { server: Server::start(lab, instance, launch, None)?, port: broker.port };
        kafka.wait()?;
        Ok(kafka)
    }

    /// Starts it again after it ended, with the same data and port.
    pub fn start_again(&mut self) -> Result<()> {
        self.server.restart()?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        self.server.wait("Kafka to answer", || kafka::known_brokers(self.port).is_ok_and(|known| known == 1))
    }

    /// Its process.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}
