//! One Kafka broker.

use anyhow::Result;

use super::{Server, instance};
use crate::kafka::{self, Broker, Guarded};
use crate::lab::Lab;
use crate::ports::Ports;

/// One Kafka broker that creates no topic by itself.
#[derive(Debug)]
pub struct Kafka {
    server: Server,
    broker: Broker,
}

impl Kafka {
    /// Makes a new one and returns when it answers.
    pub fn start() -> Result<Self> {
        Self::start_as(None, None)
    }

    /// The same with a listener that asks for a user and password by SCRAM-SHA-512, and one user.
    pub fn start_with_user(user: &str, password: &str) -> Result<Self> {
        let kafka = Self::start_as(Some(Ports::default().free()), None)?;
        kafka.set_password(user, password)?;
        Ok(kafka)
    }

    /// The same with one more listener ([`Kafka::guarded`]) for these users, names and passwords, who may do nothing until they
    /// are allowed. Whoever comes by the usual one may do everything.
    pub fn start_guarded(users: &[(&str, &str)]) -> Result<Self> {
        let users = users.iter().map(|(name, password)| ((*name).to_owned(), (*password).to_owned())).collect();
        Self::start_as(None, Some(Guarded { port: Ports::default().free(), users }))
    }

    fn start_as(login_port: Option<u16>, guarded: Option<Guarded>) -> Result<Self> {
        let lab = Lab::open()?;
        let instance = instance(&lab, "kafka")?;
        let mut ports = Ports::without(login_port.into_iter().chain(guarded.as_ref().map(|guarded| guarded.port)));
        let broker = Broker {
            id: 1,
            port: ports.free(),
            controller_port: ports.free(),
            side_doors: Vec::new(),
            login_port,
            guarded,
        };
        broker.format(&lab, &instance, std::slice::from_ref(&broker), &kafka::cluster_id())?;
        let launch = broker.launch(&lab, &instance)?;
        let kafka = Self { server: Server::start(lab, instance, launch, None)?, broker };
        kafka.wait()?;
        Ok(kafka)
    }

    /// Starts it again after it ended, with the same data and port.
    pub fn start_again(&mut self) -> Result<()> {
        self.server.restart()?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        self.server.wait("Kafka to answer", || kafka::known_brokers(self.broker.port).is_ok_and(|known| known == 1))
    }

    /// Sets the password of a user of [`Kafka::login`]. Connections that are open stay.
    pub fn set_password(&self, user: &str, password: &str) -> Result<()> {
        self.broker.set_password(&Lab::open()?, user, password)
    }

    /// Its process.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// `127.0.0.1:PORT` of the listener with SASL, if it has one.
    #[must_use]
    pub fn guarded(&self) -> Option<String> {
        self.broker.guarded.as_ref().map(|guarded| format!("127.0.0.1:{}", guarded.port))
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.broker.port)
    }

    /// Where a user and password are asked for, if they are anywhere.
    #[must_use]
    pub fn login(&self) -> Option<String> {
        Some(format!("127.0.0.1:{}", self.broker.login_port?))
    }
}
