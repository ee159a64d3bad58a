//! A broker from the jars of the lab, on a free port, that ends with this process however it ends.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use xtask::lab::Lab;

pub struct Broker {
    pub bootstrap: String,
    pid: u32,
    shell: Child,
    /// The shell waits for its end, then kills the broker and removes its folder: also when this process is killed.
    leash: Option<ChildStdin>,
    dir: PathBuf,
}

impl Broker {
    /// The broker that all tests share.
    pub fn shared() -> &'static Broker {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| Broker::start("shared"))
    }

    /// A broker of its own, for a test that harms it.
    pub fn start(name: &str) -> Broker {
        Broker::start_with(name, |_, _| String::new())
    }

    /// The same with more properties, made from the ports of its two listeners; they win over the usual ones.
    pub fn start_with(name: &str, more: impl FnOnce(u16, u16) -> String) -> Broker {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kafka-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let [port, controller] = free_ports();
        let conf = dir.join("server.properties");
        let text = properties(port, controller, &dir.join("data")) + &more(port, controller);
        std::fs::write(&conf, text).unwrap();
        let classes = format!("{}/*", jars().display());
        let format = Command::new("java")
            .args(["-XX:TieredStopAtLevel=1", "-cp", &classes, "kafka.tools.StorageTool", "format"])
            .args(["-t", "pgbatonSinksTest000001", "--standalone", "-c"])
            .arg(&conf)
            .output()
            .unwrap();
        assert!(format.status.success(), "{}", String::from_utf8_lossy(&format.stderr));
        let mut shell = Command::new("sh")
            .args([
                "-c",
                r#""$@" </dev/null >"$DIR/log" 2>&1 & echo $!; read -r _; kill -9 $!; wait; rm -rf "$DIR""#,
                "sh",
                "java",
            ])
            .args(["-Xms256m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", &classes])
            .arg("kafka.Kafka")
            .arg(&conf)
            .env("DIR", &dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let leash = shell.stdin.take().unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let broker = Broker {
            bootstrap: format!("127.0.0.1:{port}"),
            pid: line.trim().parse().unwrap(),
            shell,
            leash: Some(leash),
            dir,
        };
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &broker.bootstrap)
            .set("reconnect.backoff.max.ms", "100")
            .create()
            .unwrap();
        let ready = client.fetch_metadata(None, Duration::from_secs(60));
        assert!(ready.is_ok(), "the broker does not start, see {}", broker.dir.join("log").display());
        broker
    }

    /// Freezes the broker.
    pub fn stop(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub fn cont(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid.to_string()]).status().unwrap().success());
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.leash.take());
        let _ = self.shell.wait();
    }
}

/// All are held until all are known, so that they differ.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

fn jars() -> PathBuf {
    let jars = Lab::open().unwrap().kafka_jars();
    assert!(jars.is_dir(), "no kafka in {}: run `cargo xtask setup`", jars.display());
    jars
}

fn properties(port: u16, controller: u16, data: &Path) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
num.network.threads=2
num.io.threads=2
auto.create.topics.enable=true
num.partitions=3
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=2097152
log.segment.bytes=67108864
",
        data = data.display()
    )
}
