//! The HTTP interface over real sockets: what each path answers, who may do what, and what slow clients cannot do.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::OnceLock,
    time::{Duration, Instant},
};

use metrics_exporter_prometheus::PrometheusHandle;
use pgbaton::{
    clock::{Timestamp, boottime},
    config::VerifyClient,
    http::{Command, Refused, Server, Service, bind},
    metrics::{self, Meters, Operation},
    status::{Board, Publisher, Reason, Role, State},
};
use pgbaton_core::{Code, Moment, Term};
use tokio::sync::mpsc;

/// A worker that answers; its driver is the test.
struct Worker {
    address: SocketAddr,
    board: Board,
    commands: BTreeMap<String, mpsc::Receiver<Command>>,
    _server: Server,
}

fn recorder() -> PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| metrics::install(std::iter::empty()).unwrap()).clone()
}

impl Worker {
    fn start(pipelines: &[&str], token_file: Option<PathBuf>) -> Self {
        let board = Board::new("worker-1", "etcd", pipelines.iter().copied());
        let channels = pipelines.iter().map(|name| (String::from(*name), mpsc::channel(1)));
        let (senders, commands) = channels.map(|(name, (tx, rx))| ((name.clone(), tx), (name, rx))).unzip();
        let bound = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = bound.address();
        let service = Service {
            board: board.clone(),
            commands: senders,
            token_file,
            tls: None,
            verify_client: VerifyClient::None,
            metrics: recorder(),
        };
        Worker { address, board, commands, _server: bound.serve(service).unwrap() }
    }

    fn driver(&self, pipeline: &str) -> Publisher {
        self.board.publisher(pipeline).unwrap()
    }

    fn get(&self, path: &str) -> Answer {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n"))
    }

    fn post(&self, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        self.request(&format!(
            "POST {path} HTTP/1.1\r\nHost: w\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        ))
    }

    fn request(&self, text: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

fn streams(publisher: &Publisher, until: Moment) {
    publisher.publish(|status| {
        status.state = State::Stream;
        status.role = Role::Active;
        status.healthy = true;
        status.active_until = Some(until);
    });
}

fn stands_by(publisher: &Publisher) {
    publisher.publish(|status| {
        status.state = State::Standby;
        status.role = Role::Standby;
        status.healthy = true;
        status.able_to_take_over = true;
        status.active_until = None;
    });
}

fn soon() -> Moment {
    boottime() + Duration::from_secs(60)
}

#[test]
fn a_worker_that_has_just_started_lives_but_is_not_ready() {
    let worker = Worker::start(&["orders"], None);
    assert_eq!(worker.get("/livez").status, 200);
    assert_eq!(worker.get("/readyz").status, 503);
    assert_eq!(worker.get("/active").status, 503);
    assert_eq!(worker.get("/standby").status, 503);
    let health = worker.get("/health");
    assert_eq!(health.status, 503);
    assert_eq!(
        health.json(),
        serde_json::json!({"status": "failing", "role": "starting", "worker": "worker-1", "reasons": []})
    );
    assert_eq!(worker.get("/status").json()["pipelines"]["orders"]["state"], "boot");
}

#[test]
fn probes_follow_the_role() {
    let worker = Worker::start(&["orders"], None);
    let driver = worker.driver("orders");
    let answers = || {
        ["/readyz", "/health", "/active", "/active/orders", "/standby", "/standby/orders"]
            .map(|path| worker.get(path).status)
    };

    stands_by(&driver);
    assert_eq!(answers(), [200, 200, 503, 503, 200, 200]);
    streams(&driver, soon());
    assert_eq!(answers(), [200, 200, 200, 200, 503, 503]);
    // Stopped and continued after its time: nothing is claimed before the driver has looked.
    streams(&driver, boottime());
    assert_eq!(answers(), [200, 503, 503, 503, 503, 503]);
    assert_eq!(worker.get("/status").json()["pipelines"]["orders"]["role"], "standby");
    // A standby that could not take over is no standby to rely on.
    driver.publish(|status| {
        status.role = Role::Standby;
        status.able_to_take_over = false;
    });
    assert_eq!(answers(), [200, 503, 503, 503, 503, 503]);
    driver.publish(|status| {
        status.state = State::Quarantine;
        status.role = Role::Quarantined;
        status.healthy = false;
    });
    assert_eq!(answers(), [200, 503, 503, 503, 503, 503]);
    assert_eq!(worker.get("/health").json()["role"], "quarantined");
}

#[test]
fn health_says_why_and_calls_a_worker_that_still_does_its_job_degraded() {
    let worker = Worker::start(&["orders"], None);
    let driver = worker.driver("orders");
    streams(&driver, soon());
    assert_eq!(worker.get("/health").json()["status"], "ok");
    let reason = Reason { code: Code::EtcdUnreachable, since: Timestamp::now(), detail: "no answer".to_owned() };
    driver.publish(|status| status.reasons = vec![reason]);
    let health = worker.get("/health");
    assert_eq!((health.status, &health.json()["status"]), (200, &"degraded".into()));
    assert_eq!(health.json()["reasons"][0]["code"], "etcd_unreachable");
    driver.publish(|status| status.healthy = false);
    let health = worker.get("/health");
    assert_eq!((health.status, &health.json()["status"]), (503, &"failing".into()));
}

#[test]
fn several_pipelines_are_only_as_good_as_the_worst() {
    let worker = Worker::start(&["bills", "orders"], None);
    streams(&worker.driver("bills"), soon());
    assert_eq!(worker.get("/readyz").json()["unconfigured"], serde_json::json!(["orders"]));
    stands_by(&worker.driver("orders"));
    assert_eq!(worker.get("/active/bills").status, 200);
    assert_eq!(worker.get("/active/orders").status, 503);
    assert_eq!(worker.get("/active").status, 503);
    assert_eq!(worker.get("/standby").status, 503);
    assert_eq!(worker.get("/readyz").status, 200);
    let unknown = worker.get("/active/nobody");
    assert_eq!((unknown.status, &unknown.json()["code"]), (404, &"unknown_pipeline".into()));
}

#[test]
fn what_is_not_there_is_refused_as_json() {
    let worker = Worker::start(&["orders"], None);
    let absent = worker.get("/nothing");
    assert_eq!((absent.status, &absent.json()["code"]), (404, &"not_found".into()));
    let wrong = worker.post("/status", "", "");
    assert_eq!((wrong.status, &wrong.json()["code"]), (405, &"method_not_allowed".into()));
    assert!(wrong.head.contains("allow: get"), "{}", wrong.head);
    assert_eq!(worker.get("/api/v1/pipelines/orders/handover").status, 405);
    assert_eq!(worker.request("HEAD /livez HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").status, 200);
}

#[test]
fn metrics_hold_the_gauges_of_the_status_and_the_counters_of_the_driver() {
    let worker = Worker::start(&["measured"], None);
    streams(&worker.driver("measured"), soon());
    worker.driver("measured").publish(|status| status.term = Some(Term(12)));
    let meters = Meters::new("measured");
    meters.changes(Operation::Insert, 40);
    meters.changes(Operation::Delete, 2);
    meters.commit(Duration::from_millis(4));
    meters.takeover(pgbaton::status::Cause::LeaseExpired);
    meters.fenced();
    let text = worker.get("/metrics").body;
    for line in [
        r#"pgbaton_role{pipeline="measured",role="active"} 1"#,
        r#"pgbaton_term{pipeline="measured"} 12"#,
        r#"pgbaton_changes_total{pipeline="measured",op="insert"} 40"#,
        r#"pgbaton_changes_total{pipeline="measured",op="delete"} 2"#,
        r#"pgbaton_takeovers_total{pipeline="measured",cause="lease_expired"} 1"#,
        r#"pgbaton_fenced_total{pipeline="measured"} 1"#,
        r#"pgbaton_commit_seconds_bucket{pipeline="measured",le="0.005"} 1"#,
        r#"pgbaton_commit_seconds_count{pipeline="measured"} 1"#,
        "# TYPE pgbaton_commit_seconds histogram",
        "# HELP pgbaton_changes_total Changes published",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn events_tell_at_once_of_a_change_and_beat_when_nothing_changes() {
    let worker = Worker::start(&["orders"], None);
    let stream = TcpStream::connect(worker.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (&stream).write_all(b"GET /events HTTP/1.1\r\nHost: w\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let mut next = || -> serde_json::Value {
        let line = lines.by_ref().find(|line| line.starts_with("data:")).unwrap();
        serde_json::from_str(line.trim_start_matches("data:")).unwrap()
    };
    assert_eq!(next()["pipelines"]["orders"]["state"], "boot");
    let start = Instant::now();
    assert_eq!(next()["pipelines"]["orders"]["state"], "boot");
    assert!(start.elapsed() < Duration::from_millis(500), "a beat came after {:?}", start.elapsed());
    streams(&worker.driver("orders"), soon());
    let start = Instant::now();
    assert_eq!(next()["pipelines"]["orders"]["state"], "stream");
    assert!(start.elapsed() < Duration::from_millis(300), "news came after {:?}", start.elapsed());
}

#[test]
fn a_handover_reaches_the_driver_and_its_answer_the_client() {
    let mut worker = Worker::start(&["orders"], None);
    let mut commands = worker.commands.remove("orders").unwrap();
    let refused = Refused {
        code: "not_holder",
        message: "worker-2 holds it".to_owned(),
        fix: "ask worker-2".to_owned(),
        holder_url: Some("http://10.0.0.6:8080".to_owned()),
    };
    let driver = std::thread::spawn(move || {
        let Some(Command::Handover { to, answer }) = commands.blocking_recv() else { panic!("no hand-over") };
        assert_eq!(to.as_deref(), Some("worker-2"));
        answer.send(Ok(())).unwrap();
        let Some(Command::Handover { to, answer }) = commands.blocking_recv() else { panic!("no hand-over") };
        assert_eq!(to, None);
        answer.send(Err(refused)).unwrap();
        let Some(Command::Pause(answer)) = commands.blocking_recv() else { panic!("no pause") };
        answer.send(Ok(())).unwrap();
        let Some(Command::Resume(answer)) = commands.blocking_recv() else { panic!("no resume") };
        answer.send(Ok(())).unwrap();
        let Some(Command::AcceptGap(answer)) = commands.blocking_recv() else { panic!("no acceptance") };
        answer.send(Ok(())).unwrap();
    });
    let path = "/api/v1/pipelines/orders/handover";
    let accepted = worker.post(path, "", r#"{"to": "worker-2"}"#);
    assert_eq!((accepted.status, &accepted.json()["worker"]), (202, &"worker-1".into()));
    let refused = worker.post(path, "", "");
    assert_eq!(refused.status, 409);
    assert_eq!(
        refused.json(),
        serde_json::json!({"code": "not_holder", "message": "worker-2 holds it", "fix": "ask worker-2",
            "holder_url": "http://10.0.0.6:8080"})
    );
    for order in ["pause", "resume", "gap/accept"] {
        assert_eq!(worker.post(&format!("/api/v1/pipelines/orders/{order}"), "", "").status, 202, "{order}");
    }
    driver.join().unwrap();
    // The driver is gone.
    assert_eq!(worker.post(path, "", "{}").status, 503);
    assert_eq!(worker.post(path, "", "{\"who\": 1}").status, 400);
    assert_eq!(worker.post(path, "", &"x".repeat(5000)).status, 400);
    assert_eq!(worker.post("/api/v1/pipelines/nobody/handover", "", "").status, 404);
}

#[test]
fn unsafe_methods_need_the_token_and_the_newest_one_counts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "t0k3n\n").unwrap();
    let worker = Worker::start(&["orders"], Some(file.clone()));
    // Who may ask is looked at before what is asked.
    let ask = |headers: &str| worker.post("/api/v1/pipelines/nobody/pause", headers, "");
    let without = ask("");
    assert_eq!(without.status, 401);
    assert!(without.head.contains("www-authenticate: bearer"), "{}", without.head);
    assert_eq!(ask("Authorization: Basic dDprCg==\r\n").status, 401);
    for wrong in ["", "t0k3", "t0k3nn", "T0k3n"] {
        let answer = ask(&format!("Authorization: Bearer {wrong}\r\n"));
        // Without anything after it the scheme is not there.
        assert!(answer.status == 403 || (wrong.is_empty() && answer.status == 401), "{answer:?}");
        assert!(!answer.body.contains("t0k3n"), "{answer:?}");
    }
    assert_eq!(ask("Authorization: Bearer t0k3n\r\n").status, 404);
    std::fs::write(&file, "new").unwrap();
    assert_eq!(ask("Authorization: Bearer t0k3n\r\n").status, 403);
    assert_eq!(ask("Authorization: Bearer new\r\n").status, 404);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(ask("Authorization: Bearer new\r\n").status, 403);
    assert_eq!(worker.get("/status").status, 200);
}

#[test]
fn without_a_token_a_web_page_in_a_local_browser_commands_nothing() {
    let worker = Worker::start(&["orders"], None);
    let answer = worker.post("/api/v1/pipelines/orders/pause", "Origin: http://evil.example\r\n", "");
    assert_eq!(answer.status, 403);
}

#[test]
fn a_crowd_of_slow_clients_does_not_delay_a_probe() {
    let worker = Worker::start(&["orders"], None);
    stands_by(&worker.driver("orders"));
    // More than may be open at once, each with half a request, and event streams that take nothing. What may be open
    // follows from the limit of files, which this process shares with the worker.
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let crowd = if files < 4096 { files / 2 } else { 1300 };
    let mut slow = Vec::new();
    let mut times = Vec::new();
    for number in 0..crowd {
        if let Ok(mut stream) = TcpStream::connect(worker.address) {
            let text: &[u8] = if number % 3 == 0 { b"GET /events HTTP/1.1\r\nHost: w\r\n\r\n" } else { b"GET /live" };
            // It may be pushed out already.
            let _ = stream.write_all(text);
            slow.push(stream);
        }
        if number % 20 == 0 {
            let start = Instant::now();
            assert_eq!(worker.get("/livez").status, 200);
            times.push(start.elapsed());
        }
    }
    times.sort_unstable();
    let slowest = times.last().unwrap();
    assert!(*slowest < Duration::from_secs(1), "{times:?}");
}

#[test]
fn an_endless_head_is_cut_off() {
    let worker = Worker::start(&["orders"], None);
    let mut stream = TcpStream::connect(worker.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: w\r\nX: ").unwrap();
    // The server may end the connection while we still write.
    let _ = stream.write_all(&vec![b'x'; 1 << 20]);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(worker.get("/livez").status, 200);
}

#[test]
fn a_taken_address_is_named() {
    let worker = Worker::start(&["orders"], None);
    let error = bind(worker.address).unwrap_err();
    assert!(error.to_string().starts_with(&format!("listen on {}: Address already in use", worker.address)), "{error}");
}
