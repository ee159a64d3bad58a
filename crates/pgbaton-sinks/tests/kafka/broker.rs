//! A broker from the jars of the lab, on a free port, that ends with this process however it ends.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use xtask::lab::Lab;

pub struct Broker {
    pub bootstrap: String,
    /// Its number in the cluster, from 1.
    pub id: i32,
    /// 0 while it is killed.
    pid: u32,
    shell: Child,
    /// Tells the shell to kill the broker and to start it again. At its end the shell kills the broker and removes its
    /// folder: also when this process is killed.
    leash: Option<ChildStdin>,
    /// The process ids that the shell tells.
    pids: Lines<BufReader<ChildStdout>>,
    dir: PathBuf,
}

/// Starts what its arguments say, and does what it is told by lines.
const SHELL: &str = r#"
start() { "$@" </dev/null >>"$DIR/log" 2>&1 & echo $!; pid=$!; }
start "$@"
while read -r word; do
  case $word in
    kill) kill -9 $pid; wait; echo 0 ;;
    start) start "$@" ;;
  esac
done
kill -9 $pid; wait; rm -rf "$DIR"
"#;

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
        Broker::start_formatted(name, &[], more)
    }

    /// The same with more arguments for the formatting of its storage.
    pub fn start_formatted(name: &str, format_args: &[&str], more: impl FnOnce(u16, u16) -> String) -> Broker {
        let [port, controller] = free_ports();
        let text = properties(1, port, &[controller]) + &more(port, controller);
        let broker = Broker::launch(name, 1, port, text, &[&["--standalone"], format_args].concat());
        broker.wait_until_known(1);
        broker
    }

    /// Three brokers with three copies of everything.
    pub fn start_three(name: &str) -> [Broker; 3] {
        let ports = free_ports::<6>();
        let (ports, controllers) = ports.split_at(3);
        let voters: Vec<_> =
            (1..=3).map(|id| format!("{id}@127.0.0.1:{}:pgbatonLabNode{id}AAAAAAA", controllers[id - 1])).collect();
        let brokers = [1, 2, 3].map(|id| {
            let port = ports[id as usize - 1];
            let args = ["--initial-controllers", &voters.join(",")];
            Broker::launch(&format!("{name}-{id}"), id, port, properties(id, port, controllers), &args)
        });
        brokers.iter().for_each(|broker| broker.wait_until_known(3));
        brokers
    }

    fn launch(name: &str, id: i32, port: u16, properties: String, format_args: &[&str]) -> Broker {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kafka-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let conf = dir.join("server.properties");
        std::fs::write(&conf, format!("{properties}log.dirs={}\n", dir.join("data").display())).unwrap();
        let classes = format!("{}/*", jars().display());
        let format = Command::new("java")
            .args(["-XX:TieredStopAtLevel=1", "-cp", &classes, "kafka.tools.StorageTool", "format"])
            .args(["-t", "pgbatonSinksTest000001"])
            .args(format_args)
            .arg("-c")
            .arg(&conf)
            .output()
            .unwrap();
        assert!(format.status.success(), "{}", String::from_utf8_lossy(&format.stderr));
        let mut shell = Command::new("sh")
            .args(["-c", SHELL, "sh", "java"])
            .args(["-Xms256m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", &classes])
            .arg("kafka.Kafka")
            .arg(&conf)
            .env("DIR", &dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let leash = shell.stdin.take();
        let mut pids = BufReader::new(shell.stdout.take().unwrap()).lines();
        let pid = next_pid(&mut pids);
        Broker { bootstrap: format!("127.0.0.1:{port}"), id, pid, shell, leash, pids, dir }
    }

    /// Waits until it answers and knows as many brokers.
    pub fn wait_until_known(&self, brokers: usize) {
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("reconnect.backoff.max.ms", "100")
            .create()
            .unwrap();
        let deadline = Instant::now() + START_LIMIT;
        while !client.fetch_metadata(None, START_LIMIT).is_ok_and(|metadata| metadata.brokers().len() == brokers) {
            assert!(Instant::now() < deadline, "the broker does not start, see {}", self.dir.join("log").display());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.tell("kill");
    }

    /// Starts it again after it was killed, with the same data and port.
    pub fn start_again(&mut self) {
        self.tell("start");
    }

    /// Freezes the broker.
    pub fn stop(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub fn cont(&self) {
        self.signal("-CONT");
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.leash.as_mut().unwrap(), "{word}").unwrap();
        self.pid = next_pid(&mut self.pids);
    }

    fn signal(&self, signal: &str) {
        assert!(self.pid != 0, "the broker was killed");
        assert!(Command::new("kill").args([signal, &self.pid.to_string()]).status().unwrap().success());
    }
}

/// Longer than a start takes on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(90);

fn next_pid(pids: &mut Lines<BufReader<ChildStdout>>) -> u32 {
    pids.next().unwrap().unwrap().trim().parse().unwrap()
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

fn properties(id: i32, port: u16, controllers: &[u16]) -> String {
    let bootstrap: Vec<_> = controllers.iter().map(|controller| format!("127.0.0.1:{controller}")).collect();
    let (copies, in_sync) = if controllers.len() == 1 { (1, 1) } else { (3, 2) };
    format!(
        "process.roles=broker,controller
node.id={id}
controller.quorum.bootstrap.servers={bootstrap}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
num.network.threads=2
num.io.threads=2
num.replica.fetchers=1
auto.create.topics.enable=true
num.partitions=3
default.replication.factor={copies}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=1
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions={copies}
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=2097152
log.segment.bytes=67108864
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
",
        bootstrap = bootstrap.join(","),
        controller = controllers[id as usize - 1],
    )
}
