//! The HTTP port with TLS, and our own clients on it: who is trusted, and certificates that change while all of it runs.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod pki;

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use pki::Authority;
use rustls::{ClientConnection, StreamOwned};
use tempfile::TempDir;
use xtask::wait::until;

/// Nothing depends on speed: what did not come by then does not come.
const BOUND: Duration = Duration::from_secs(60);

fn pgbaton(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgbaton"));
    command.args(arguments).env_remove("RUST_LOG");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PGBATON_")) {
        command.env_remove(name);
    }
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A worker whose servers are not there: it answers all the same.
struct Worker {
    process: Child,
    folder: TempDir,
    authority: Authority,
    port: u16,
}

impl Worker {
    /// `http` is put into its table, with FOLDER for the folder of the test's files.
    fn start(http: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "authority");
        authority.issue("first").put(folder.path(), "server");
        let path = folder.path().to_str().unwrap();
        let http = http.replace("FOLDER", path);
        let text = format!(
            r#"
name = "worker-1"
[http]
listen = "127.0.0.1:0"
cert_file = "{path}/server.crt"
key_file = "{path}/server.key"
{http}
[coordination]
endpoints = ["http://127.0.0.1:1"]
[pipelines.orders.postgres]
url = "postgresql://pgbaton@127.0.0.1:1/appdb?sslmode=disable"
slot = "orders"
publication = "orders"
[pipelines.orders.kafka]
brokers = "127.0.0.1:1"
topic_prefix = "orders"
"#
        );
        let file = folder.path().join("w.toml");
        fs::write(&file, text).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let arguments = ["run", "-c", file.to_str().unwrap()];
        let process = pgbaton(&arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut worker = Worker { process, folder, authority, port: 0 };
        worker.port = worker.logged("the worker to start", |log| {
            let (_, rest) = log.split_once("https://127.0.0.1:")?;
            rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
        });
        worker
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn logged<T>(&self, what: &str, found: impl Fn(&str) -> Option<T>) -> T {
        let log = self.path().join("log");
        until(what, BOUND, || Ok(found(&fs::read_to_string(&log)?))).unwrap_or_else(|error| {
            panic!("{error:#}: {}", fs::read_to_string(&log).unwrap_or_default());
        })
    }

    /// Asks by the command line; FOLDER as above.
    fn ask(&self, arguments: &[&str]) -> Output {
        let folder = self.path().to_str().unwrap();
        let arguments: Vec<_> = arguments.iter().map(|argument| argument.replace("FOLDER", folder)).collect();
        let mut command = pgbaton(&[]);
        // After the URL: of `gap accept` and the like, too.
        command.args(&arguments).output().unwrap()
    }

    fn trusts(&self, ca_file: &Path) -> bool {
        let ask = ["health", &self.url(), "--path", "/livez", "--ca-file", ca_file.to_str().unwrap()];
        self.ask(&ask).status.success()
    }

    /// A connection of a client that trusts the first authority.
    fn connect(&self) -> StreamOwned<ClientConnection, TcpStream> {
        let config = pgbaton::tls::client(Some(&self.authority.file), None).unwrap();
        let client = ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        StreamOwned::new(client, stream)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn commands_speak_https_and_trust_nobody_whom_they_were_not_told_to() {
    let worker = Worker::start("");
    let (url, plain) = (worker.url(), worker.url().replace("https", "http"));
    let status = worker.ask(&["status", &url, "--ca-file", "FOLDER/authority.pem"]);
    assert_eq!(status.status.code(), Some(3), "nobody streams: {}", said(&status));
    assert!(said(&status).contains("worker-1"), "{}", said(&status));
    for (arguments, code, text) in [
        (&["status", &url][..], 1, "tls_failed"),
        (&["pause", &url], 1, "tls_failed"),
        (&["status", &plain], 1, "http://127.0.0.1"),
        (&["health", &url, "--path", "/livez"], 3, "UnknownIssuer"),
        (&["health", &url, "--ca-file", "FOLDER/server.key"], 2, "server.key: it holds no certificate"),
        (&["health", &url, "--ca-file", "FOLDER/authority.pem", "--path", "/livez"], 0, "/livez: ok"),
        (&["health", &url, "--ca-file", "FOLDER/authority.pem"], 3, "503"),
    ] {
        let output = worker.ask(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(text), "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn a_certificate_is_asked_of_whoever_commands_or_of_everybody() {
    let optional = Worker::start("verify_client = \"optional\"\nclient_ca_file = \"FOLDER/authority.pem\"");
    let url = optional.url();
    let shown = ["--cert-file", "FOLDER/server.crt", "--key-file", "FOLDER/server.key"];
    let to = |url: &str, words: &[&str], more: &[&str]| -> Vec<String> {
        let trust = ["--ca-file", "FOLDER/authority.pem"];
        [words, &[url], &trust, more].concat().into_iter().map(str::to_owned).collect()
    };
    let ask = |worker: &Worker, words: &[&str], more: &[&str]| {
        let arguments = to(&worker.url(), words, more);
        let output = worker.ask(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        (output.status.code().unwrap(), said(&output))
    };
    assert_eq!(ask(&optional, &["health"], &["--path", "/livez"]).0, 0);
    let (code, text) = ask(&optional, &["pause"], &[]);
    assert!(code == 1 && text.contains("this needs a certificate (forbidden)"), "{code} {text}");
    let (code, text) = ask(&optional, &["pause"], &shown);
    assert!(code == 1 && !text.contains("forbidden") && text.contains("etcd"), "{code} {text}");
    // Signed by somebody else.
    let other = Authority::new(optional.path(), "other");
    other.issue("stranger").put(optional.path(), "stranger");
    let stranger = ["--cert-file", "FOLDER/stranger.crt", "--key-file", "FOLDER/stranger.key"];
    let (code, text) = ask(&optional, &["pause"], &stranger);
    assert!(code == 1 && text.contains("tls_failed"), "{code} {text}");
    assert!(url.starts_with("https://"));

    let required = Worker::start("verify_client = \"required\"\nclient_ca_file = \"FOLDER/authority.pem\"");
    let (code, text) = ask(&required, &["health"], &["--path", "/livez"]);
    assert!(code == 3 && text.contains("CertificateRequired"), "{code} {text}");
    let (code, text) = ask(&required, &["health"], &[&["--path", "/livez"], &shown[..]].concat());
    assert_eq!(code, 0, "{text}");
}

#[test]
fn a_changed_certificate_is_shown_to_whoever_comes_and_a_stream_goes_on() {
    let worker = Worker::start("");
    let mut stream = worker.connect();
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: w\r\n\r\n").unwrap();
    let mut events = BufReader::new(stream).lines();
    let mut event = || events.by_ref().map(Result::unwrap).find(|line| line.starts_with("data:")).unwrap();
    event();

    // Of another authority, so that a client sees which one it gets.
    let other = Authority::new(worker.path(), "other");
    assert!(!worker.trusts(&other.file));
    let second = other.issue("second").put(worker.path(), "second");
    fs::rename(&second[1], worker.path().join("server.key")).unwrap();
    fs::rename(&second[0], worker.path().join("server.crt")).unwrap();
    until("the new certificate to be shown", BOUND, || Ok(worker.trusts(&other.file).then_some(()))).unwrap();
    assert!(!worker.trusts(&worker.authority.file));
    event();

    // Half a file: what was read before is shown, and the status says why.
    let third = worker.authority.issue("third");
    fs::write(worker.path().join("server.crt"), &third.chain[..third.chain.len() / 2]).unwrap();
    let health = || said(&worker.ask(&["health", &worker.url(), "--ca-file", other.file.to_str().unwrap()]));
    until("the broken file to be told", BOUND, || Ok(health().contains("tls_failed").then_some(()))).unwrap();
    let told = health();
    assert!(told.contains("server.crt"), "{told}");
    worker.logged("a warning", |log| (log.matches("cannot be used").count() == 1).then_some(()));
    let third = third.put(worker.path(), "server");
    until("the third certificate to be shown", BOUND, || Ok(worker.trusts(&worker.authority.file).then_some(())))
        .unwrap();
    assert!(third[0].exists());
    let status = worker.ask(&["status", &worker.url(), "--json", "--ca-file", "FOLDER/authority.pem"]);
    assert!(!said(&status).contains("tls_failed"), "{}", said(&status));
    event();

    // A signal asks for a look, and the look is told.
    let process = rustix::process::Pid::from_raw(worker.process.id().cast_signed()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::HUP).unwrap();
    worker.logged("the signal to be answered", |log| log.contains("asked by SIGHUP").then_some(()));
    event();
}

#[test]
fn clients_that_do_not_agree_on_tls_do_not_delay_a_probe_and_are_cut_off() {
    let worker = Worker::start("");
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let crowd = if files < 4096 { files / 2 } else { 1300 };
    let mut silent = Vec::new();
    let mut times = Vec::new();
    for number in 0..crowd {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", worker.port)) {
            // The beginning of a ClientHello, or nothing.
            if number % 2 == 0 {
                let _ = stream.write_all(&[0x16, 0x03, 0x01]);
            }
            silent.push(stream);
        }
        if number % 100 == 0 {
            let mut probe = worker.connect();
            let start = Instant::now();
            probe.write_all(b"GET /livez HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").unwrap();
            let mut head = [0; 12];
            probe.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200");
            times.push(start.elapsed());
        }
    }
    times.sort_unstable();
    assert!(*times.last().unwrap() < Duration::from_secs(2), "{times:?}");
    // The newest of them was not pushed out by others.
    let last = silent.last_mut().unwrap();
    last.set_read_timeout(Some(BOUND)).unwrap();
    match last.read(&mut [0]) {
        Ok(0) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        Ok(_) => panic!("a client that said nothing was answered"),
    }
}
