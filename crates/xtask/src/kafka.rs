//! Kafka brokers (KRaft, broker and controller in one process) from the jars: configuration, format, start, and whether they answer.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::instance::Instance;
use crate::lab::{Lab, machine_program};
use crate::launch::Launch;
use crate::owner::Owner;

/// One broker of a cluster of brokers.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    pub id: usize,
    pub port: u16,
    pub controller_port: u16,
    /// Further listeners, each for the clients that come by one way only.
    pub side_doors: Vec<SideDoor>,
    /// A listener that asks for a user and password, by SCRAM.
    pub login_port: Option<u16>,
    /// A listener for those who have to say who they are, and may do only what they were allowed.
    pub guarded: Option<Guarded>,
}

/// SASL with SCRAM-SHA-512, and an authorizer. Whoever comes by the plain listener may do everything.
#[derive(Clone, Debug)]
pub(crate) struct Guarded {
    pub port: u16,
    /// Names and passwords; from the beginning, because the storage is made with them.
    pub users: Vec<(String, String)>,
}

/// A listener that tells its clients another port than its own: whatever stands between them listens there.
#[derive(Clone, Debug)]
pub(crate) struct SideDoor {
    pub port: u16,
    pub advertised: u16,
}

impl Broker {
    pub fn name(&self) -> String {
        format!("kafka-{}", self.id)
    }

    pub fn data(&self, instance: &Instance) -> PathBuf {
        instance.data().join(self.name())
    }

    fn conf(&self, instance: &Instance) -> PathBuf {
        instance.conf().join(format!("{}.properties", self.name()))
    }

    /// Writes its configuration and formats its storage. `cluster` is the id from [`cluster_id`], the same for all.
    pub fn format(&self, lab: &Lab, instance: &Instance, all: &[Broker], cluster: &str) -> Result<()> {
        lab.owner().write(&self.conf(instance), &self.properties(instance, all))?;
        let mut command = lab.owner().command(java()?);
        command.args(["-XX:TieredStopAtLevel=1", "-cp", &class_path(lab), "kafka.tools.StorageTool", "format"]);
        command.args(["-t", cluster, "-c"]).arg(self.conf(instance));
        match all {
            [_] => command.arg("--standalone"),
            _ => command.args(["--initial-controllers", &voters(all)]),
        };
        for (name, password) in self.guarded.iter().flat_map(|guarded| &guarded.users) {
            command.args(["--add-scram", &format!("SCRAM-SHA-512=[name={name},password={password}]")]);
        }
        Owner::run(&mut command).context("format Kafka's storage")?;
        Ok(())
    }

    pub fn launch(&self, lab: &Lab, instance: &Instance) -> Result<Launch> {
        let conf = self.conf(instance).display().to_string();
        // C1 only: a broker of the lab lives for minutes, and starts sooner so.
        let jvm = ["-Xms256m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"];
        let args = jvm.into_iter().map(str::to_owned).chain([class_path(lab), "kafka.Kafka".to_owned(), conf]);
        Ok(Launch {
            program: java()?,
            args: args.collect(),
            env: BTreeMap::new(),
            dir: instance.data(),
            log: instance.log(&self.name()),
        })
    }

    /// Sets the password of a user of the `login_port`; makes the user if there is none.
    pub fn set_password(&self, lab: &Lab, user: &str, password: &str) -> Result<()> {
        let mut command = lab.owner().command(java()?);
        command.args(["-XX:TieredStopAtLevel=1", "-cp", &class_path(lab), "kafka.admin.ConfigCommand"]);
        command.args(["--bootstrap-server", &format!("127.0.0.1:{}", self.port), "--alter"]);
        command.args(["--entity-type", "users", "--entity-name", user]);
        command.args(["--add-config", &format!("SCRAM-SHA-512=[password={password}]")]);
        Owner::run(&mut command).context("set the password of a user of Kafka")?;
        Ok(())
    }

    fn properties(&self, instance: &Instance, all: &[Broker]) -> String {
        let Self { id, port, controller_port, .. } = self;
        let bootstrap: Vec<_> = all.iter().map(|broker| format!("127.0.0.1:{}", broker.controller_port)).collect();
        let (mut listeners, mut advertised, mut protocols) = (String::new(), String::new(), String::new());
        for (i, door) in self.side_doors.iter().enumerate() {
            listeners += &format!(",SIDE{i}://127.0.0.1:{}", door.port);
            advertised += &format!(",SIDE{i}://127.0.0.1:{}", door.advertised);
            protocols += &format!(",SIDE{i}:PLAINTEXT");
        }
        let mut mechanisms = "";
        if let Some(port) = self.login_port {
            listeners += &format!(",LOGIN://127.0.0.1:{port}");
            advertised += &format!(",LOGIN://127.0.0.1:{port}");
            protocols += ",LOGIN:SASL_PLAINTEXT";
            mechanisms = "sasl.enabled.mechanisms=SCRAM-SHA-512\n\
                listener.name.login.scram-sha-512.sasl.jaas.config=\
                org.apache.kafka.common.security.scram.ScramLoginModule required;\n";
        }
        let mut guard = String::new();
        if let Some(Guarded { port, .. }) = &self.guarded {
            listeners += &format!(",GUARDED://127.0.0.1:{port}");
            advertised += &format!(",GUARDED://127.0.0.1:{port}");
            protocols += ",GUARDED:SASL_PLAINTEXT";
            guard = "sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.guarded.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"
            .to_owned();
        }
        let (copies, in_sync) = if all.len() >= 3 { (3, 2) } else { (1, 1) };
        format!(
            "process.roles=broker,controller
node.id={id}
controller.quorum.bootstrap.servers={bootstrap}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}{listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
num.network.threads=2
num.io.threads=2
num.recovery.threads.per.data.dir=1
num.replica.fetchers=1
auto.create.topics.enable=false
default.replication.factor={copies}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions={copies}
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions={copies}
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=2097152
log.segment.bytes=67108864
{mechanisms}{guard}",
            bootstrap = bootstrap.join(","),
            data = self.data(instance).display(),
        )
    }
}

/// A new cluster id: 16 bytes in URL-safe base64. New each time, because pgbaton has to notice another Kafka at the same address.
pub(crate) fn cluster_id() -> String {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let letter = |i: u32| LETTERS[(RandomState::new().hash_one(i) % LETTERS.len() as u64) as usize] as char;
    // 21 letters are 126 bits; the last one carries two more and may be A, Q, g or w.
    (0..21).map(letter).chain(['A']).collect()
}

/// `id@host:port:directory`; directory ids that begin with many `A` are reserved, Kafka would refuse to start.
fn voters(all: &[Broker]) -> String {
    let voter =
        |broker: &Broker| format!("{0}@127.0.0.1:{1}:pgbatonLabNode{0}AAAAAAA", broker.id, broker.controller_port);
    all.iter().map(voter).collect::<Vec<_>>().join(",")
}

fn class_path(lab: &Lab) -> String {
    format!("{}/*", lab.kafka_jars().display())
}

fn java() -> Result<PathBuf> {
    machine_program("java").context("find java: run `cargo xtask setup`")
}

/// How many brokers the one at `port` knows: a Metadata request (version 1) without topics.
pub(crate) fn known_brokers(port: u16) -> Result<usize> {
    const REQUEST: [u8; 18] = [
        0, 0, 0, 14, // length
        0, 3, 0, 1, // Metadata, version 1
        0, 0, 0, 7, // correlation
        0xff, 0xff, // no client id
        0, 0, 0, 0, // no topics
    ];
    let bound = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), bound)?;
    stream.set_read_timeout(Some(bound))?;
    stream.write_all(&REQUEST)?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    ensure!(number(4) == 7, "Kafka answered something else");
    Ok(number(8) as usize)
}
