//! The program from outside: exit codes, and what stands on which stream.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

fn pgbaton(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgbaton"));
    command.args(arguments).env_remove("RUST_LOG");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PGBATON_")) {
        command.env_remove(name);
    }
    command
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A configuration whose servers are not there; nothing listens on port 1.
fn config(folder: &TempDir, listen: &str) -> PathBuf {
    let path = folder.path().join("w.toml");
    let text = format!(
        r#"
name = "worker-1"
[http]
listen = "{listen}"
[coordination]
endpoints = ["http://127.0.0.1:1"]
[pipelines.orders.postgres]
url = "postgresql://pgbaton@127.0.0.1:1/appdb?sslmode=disable"
password = "hunter2"
slot = "orders"
publication = "orders"
[pipelines.orders.kafka]
brokers = "127.0.0.1:1"
topic_prefix = "orders"
"#
    );
    fs::write(&path, text).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn help_and_version_are_output_that_was_asked_for() {
    for (arguments, part) in [
        (&["--help"][..], "pgbaton run -c worker.toml"),
        (&["run", "--help"], "--log-level"),
        (&["handover", "--help"], "--token-file"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
    ] {
        let output = pgbaton(arguments);
        assert_eq!(output.status.code(), Some(0));
        assert!(out(&output).contains(part), "{}", out(&output));
        assert_eq!(err(&output), "");
    }
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    for arguments in [&["fly"][..], &["run", "--fast"], &[], &["config", "check", "extra"], &["handover"]] {
        let output = pgbaton(arguments);
        assert_eq!((output.status.code(), out(&output).as_str()), (Some(2), ""), "{arguments:?}");
        assert!(err(&output).contains("Usage: "), "{}", err(&output));
    }
}

#[test]
fn a_wrong_configuration_is_exit_code_2_with_one_line_per_mistake_and_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(&folder, "127.0.0.1:0");
    let wrong = fs::read_to_string(&file).unwrap().replace("slot =", "slto =").replace("127.0.0.1:0", "nowhere");
    fs::write(&file, wrong).unwrap();
    for arguments in [
        &["run", "-c", text(&file)][..],
        &["config", "check", "-c", text(&file)],
        &["config", "print", "-c", text(&file)],
    ] {
        let output = pgbaton(arguments);
        assert_eq!((output.status.code(), out(&output).as_str()), (Some(2), ""), "{arguments:?}");
        let lines: Vec<String> = err(&output).lines().map(|line| line.replace(text(&file), "w.toml")).collect();
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert!(lines[0].starts_with("pgbaton: w.toml:4: http.listen: found \"nowhere\"; allowed: "), "{lines:#?}");
        assert!(lines[1].starts_with("pgbaton: w.toml:7: pipelines.orders.postgres.slot: missing"), "{lines:#?}");
        assert!(
            lines[2].contains("w.toml:10: pipelines.orders.postgres.slto: unknown key; did you mean \"slot\"?"),
            "{lines:#?}"
        );
    }
    let output = pgbaton(&["config", "check", "--json", "-c", text(&file)]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &json["valid"], json["mistakes"].as_array().unwrap().len()),
        (Some(2), &false.into(), 3)
    );
}

#[test]
fn a_right_configuration_is_printed_without_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(&folder, "127.0.0.1:0");
    let check = pgbaton(&["config", "check", "-c", text(&file)]);
    assert_eq!(
        (check.status.code(), out(&check).as_str(), err(&check).as_str()),
        (Some(0), "the configuration is valid\n", "")
    );
    let print = pgbaton(&["config", "print", "-c", text(&file)]);
    assert_eq!(print.status.code(), Some(0));
    assert!(out(&print).contains("password = \"***\"") && !out(&print).contains("hunter2"), "{}", out(&print));
    let print =
        command(&["config", "print", "--json", "-c", text(&file)]).env("PGBATON_NAME", "other").output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&print.stdout).unwrap();
    assert_eq!((&json["name"], &json["pipelines"]["orders"]["postgres"]["slot"]), (&"other".into(), &"orders".into()));
}

#[test]
fn an_address_that_is_taken_is_exit_code_1_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = config(&folder, "127.0.0.1:0");
    let output = pgbaton(&["run", "-c", text(&file), "--listen", &address]);
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(1), ""));
    assert!(err(&output).contains(&format!("listen on {address}: Address already in use")), "{}", err(&output));
}

#[test]
fn status_and_handover_of_a_worker_that_is_not_there_are_exit_code_1() {
    for arguments in [
        &["status", "http://127.0.0.1:1"][..],
        &["status", "--json", "http://127.0.0.1:1"],
        &["handover", "http://127.0.0.1:1"],
    ] {
        let output = pgbaton(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(
            format!("{}{}", out(&output), err(&output)).contains("connect to http://127.0.0.1:1: Connection refused"),
            "{output:?}"
        );
    }
    for arguments in [
        &["status", "ftp://a"][..],
        &["status", "http://a@b"],
        &["handover", "https://a@b"],
        &["status", "https://a", "--ca-file", "/nowhere"],
        &["health", "ftp://a"],
    ] {
        assert_eq!(pgbaton(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

/// Two workers as the command line sees them: documents that change when a command arrives.
mod workers {
    use super::*;
    use std::{
        io::Read,
        net::SocketAddr,
        sync::{Arc, Mutex},
        thread,
    };

    pub struct Pair {
        pub urls: [String; 2],
        pub posts: Arc<Mutex<Vec<String>>>,
        active: Arc<Mutex<Option<usize>>>,
    }

    impl Pair {
        /// `active` streams; a hand-over makes the other one do so.
        pub fn start(active: Option<usize>) -> Pair {
            let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
            let addresses = [0, 1].map(|number| listeners[number].local_addr().unwrap());
            let active = Arc::new(Mutex::new(active));
            let posts = Arc::default();
            for (number, listener) in listeners.into_iter().enumerate() {
                let (active, posts) = (Arc::clone(&active), Arc::clone(&posts));
                // Ends with the test's process.
                thread::spawn(move || {
                    listener.incoming().for_each(|stream| answer(stream.unwrap(), number, addresses, &active, &posts))
                });
            }
            Pair { urls: addresses.map(|address| format!("http://{address}")), posts, active }
        }

        pub fn active(&self) -> Option<usize> {
            *self.active.lock().unwrap()
        }
    }

    fn answer(
        mut stream: std::net::TcpStream,
        number: usize,
        addresses: [SocketAddr; 2],
        active: &Mutex<Option<usize>>,
        posts: &Mutex<Vec<String>>,
    ) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head).unwrap();
        }
        let length = head
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok())
            .unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let mut now = active.lock().unwrap();
        let (mut code, mut holder_url) = ("200 OK", None);
        if head.starts_with("POST") {
            posts.lock().unwrap().push(format!("{} {}", String::from_utf8(body).unwrap(), head));
            match *now == Some(number) {
                true => (code, *now) = ("202 Accepted", Some(1 - number)),
                false => (code, holder_url) = ("409 Conflict", now.map(|holder| addresses[holder].to_string())),
            }
        }
        let other = 1 - number;
        let (role, state) = if *now == Some(number) { ("active", "stream") } else { ("standby", "standby") };
        let answer = match code {
            "409 Conflict" => {
                serde_json::json!({"code": "not_holder", "message": "no", "fix": "", "holder_url": holder_url})
            }
            _ => serde_json::json!({"worker": format!("worker-{number}"), "pipelines": {"orders": {
                "state": state, "role": role, "healthy": true, "term": 7, "reasons": [],
                "position": {"timeline": 1, "lsn": "0/16B3748"}, "lag": {"bytes": 0, "seconds": 0.0}, "later": "key",
                "peers": [{"worker": format!("worker-{other}"), "url": format!("http://{}", addresses[other])}]}}}),
        }
        .to_string();
        write!(stream, "HTTP/1.1 {code}\r\nContent-Length: {}\r\n\r\n{answer}", answer.len()).unwrap();
    }
}

#[test]
fn status_finds_every_worker_through_one_and_is_unhealthy_without_an_active_one() {
    let pair = workers::Pair::start(Some(1));
    let output = pgbaton(&["status", &pair.urls[0]]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let table = out(&output);
    assert!(table.starts_with("WORKER    PIPELINE  ROLE     STATE"), "{table}");
    assert!(table.contains("worker-0  orders    standby  standby  yes      7     1:0/16B3748  0 B, 0.0 s"), "{table}");
    assert!(table.contains("worker-1  orders    active   stream"), "{table}");
    let json = pgbaton(&["status", "--json", &pair.urls[1]]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["healthy"], json["workers"].as_array().unwrap().len()), (&true.into(), 2));
    assert_eq!(json["workers"][0]["status"]["pipelines"]["orders"]["later"], "key");

    let nobody = workers::Pair::start(None);
    assert_eq!(pgbaton(&["status", &nobody.urls[0]]).status.code(), Some(3));
}

#[test]
fn handover_follows_to_the_holder_and_returns_when_the_successor_streams() {
    let pair = workers::Pair::start(Some(1));
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "t0k3n\n").unwrap();
    let output = pgbaton(&["handover", &pair.urls[0], "--to", "worker-0", "--token-file", text(&token)]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(
        out(&output).starts_with("worker-0 streams orders at term 7; worker-1 handed over in "),
        "{}",
        out(&output)
    );
    assert_eq!(pair.active(), Some(0));
    let posts = pair.posts.lock().unwrap();
    assert_eq!(posts.len(), 2, "{posts:#?}");
    assert!(posts[1].starts_with(r#"{"to":"worker-0"} POST /api/v1/pipelines/orders/handover "#), "{posts:#?}");
    assert!(posts[1].contains("authorization: Bearer t0k3n"), "{posts:#?}");
    drop(posts);

    let other = pgbaton(&["handover", &pair.urls[0], "--to", "worker-0"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(err(&other).contains("worker-1 took over, not worker-0"), "{}", err(&other));
}

#[test]
fn a_handover_without_a_holder_is_refused_as_the_worker_says() {
    let pair = workers::Pair::start(None);
    let output = pgbaton(&["handover", &pair.urls[0]]);
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(1), ""));
    assert!(err(&output).contains("refused: no (not_holder)"), "{}", err(&output));
    assert_eq!(pgbaton(&["handover", &pair.urls[0], "--pipeline", "bills"]).status.code(), Some(2));
}

#[test]
fn a_worker_without_its_servers_answers_says_why_and_ends_at_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(&folder, "127.0.0.1:0");
    let mut worker =
        command(&["run", "-c", text(&file)]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(worker.stderr.take().unwrap()).lines().map(Result::unwrap);
    let started = log.by_ref().find(|line| line.contains("worker started")).expect("the worker ended early");
    let address = started.split("address=").nth(1).unwrap().split(' ').next().unwrap();
    let status = pgbaton(&["status", &format!("http://{address}")]);
    assert_eq!(status.status.code(), Some(3), "{}", err(&status));
    assert!(out(&status).contains("worker-1  orders"), "{}", out(&status));
    let pid = worker.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let rest: Vec<String> = log.collect();
    let output = worker.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{rest:#?}");
    assert_eq!(out(&output), "");
    let all = rest.join("\n");
    assert!(!all.contains("hunter2") && !started.contains("hunter2"), "{all}");
}

#[test]
fn ctrl_c_ends_a_watch_with_exit_code_130() {
    let pair = workers::Pair::start(Some(0));
    let mut watch = command(&["status", "--watch", &pair.urls[0]]).stdout(Stdio::piped()).spawn().unwrap();
    let mut table = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert!(table.next().unwrap().unwrap().starts_with("WORKER"));
    let pid = watch.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(watch.wait().unwrap().code(), Some(130));
}

#[test]
fn a_second_signal_ends_a_worker_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(&folder, "127.0.0.1:0");
    let mut worker = command(&["run", "-c", text(&file)]).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(worker.stderr.take().unwrap()).lines().map(Result::unwrap);
    log.by_ref().find(|line| line.contains("worker started")).expect("the worker ended early");
    let pid = worker.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    log.by_ref().find(|line| line.contains("asked to stop")).expect("the worker said nothing");
    // It may have ended by itself already, which is as good.
    let _ = Command::new("kill").args(["-INT", &pid]).stderr(Stdio::null()).status();
    log.for_each(drop);
    assert_eq!(worker.wait().unwrap().code(), Some(130));
}
