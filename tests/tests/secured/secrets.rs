//! Secrets are given to workers and commands in every way there is, right ones and wrong ones, and are looked for in all that
//! comes out.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use pgbaton_tests::check::read::consumer;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use xtask::wait;

use crate::ground::{Ground, Kind, LIMIT, Passwords, Worker};

/// With letters that URLs, JSON and base64 treat in their own ways.
const POSTGRES: &str = "pg-S3cret/+%&e6b4";
const ETCD: &str = "etcd-S3cret/+9a2c";
const KAFKA: &str = "kafka-S3cret/+7d1f";
const KEY: &str = "key-S3cret/+51aa";
const TOKEN: &str = "token-S3cret/+c3d0";
/// A wrong one is as secret: it may be right elsewhere.
const WRONG: &str = "wrong-S3cret/+0b77";

const ALL: [&str; 6] = [POSTGRES, ETCD, KAFKA, KEY, TOKEN, WRONG];

/// Every form in which a secret could be seen.
fn forms(secret: &str) -> Vec<String> {
    let percent = |lower: bool| {
        let byte = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => char::from(byte).to_string(),
            other if lower => format!("%{other:02x}"),
            other => format!("%{other:02X}"),
        };
        secret.bytes().map(byte).collect::<String>()
    };
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut forms =
        vec![secret.to_owned(), percent(true), percent(false), secret.replace('/', "\\/"), hex.to_uppercase(), hex];
    // In base64 it looks otherwise at each of three places, and its edges depend on what stands beside it.
    for before in 0..3 {
        let text = ["x".repeat(before), secret.to_owned()].concat();
        let whole = text.len() / 3 * 4;
        for engine in [STANDARD, URL_SAFE] {
            forms.push(engine.encode(&text)[if before == 0 { 0 } else { 4 }..whole].to_owned());
        }
    }
    forms
}

/// What was looked through, and what was found where.
#[derive(Default)]
struct Search {
    looked_at: RefCell<usize>,
    leaks: RefCell<Vec<String>>,
}

impl Search {
    fn look(&self, place: &str, text: impl AsRef<[u8]>) {
        let text = String::from_utf8_lossy(text.as_ref());
        *self.looked_at.borrow_mut() += text.len();
        for (secret, form) in ALL.iter().flat_map(|secret| forms(secret).into_iter().map(move |form| (secret, form))) {
            if let Some(at) = text.find(&form) {
                let around = &text.as_bytes()[at.saturating_sub(120)..(at + form.len() + 40).min(text.len())];
                self.leaks.borrow_mut().push(format!("{secret} in {place}: {}", String::from_utf8_lossy(around)));
            }
        }
    }

    /// Runs a command and looks at all it says; returns that.
    fn run(&self, command: &mut Command, what: &str) -> Result<String> {
        let output = command.output().with_context(|| format!("run {what}"))?;
        let said = [output.stdout, output.stderr].concat();
        self.look(what, &said);
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}

#[test]
fn no_secret_is_seen_anywhere() -> Result<()> {
    let passwords = Passwords { postgres: POSTGRES.into(), etcd: ETCD.into(), kafka: KAFKA.into() };
    let ground = Ground::start("secrets", Kind::default(), passwords, &[])?;
    let search = Search::default();
    for file in [("postgres", POSTGRES), ("token", TOKEN), ("wrong", WRONG)] {
        fs::write(ground.folder.join(file.0), format!("{}\n", file.1))?;
    }
    let mut base = ground.config();
    base["http"] = json!({"token_file": ground.folder.join("token")});
    base["log"] = json!({"level": "trace"});
    base["pipelines"]["orders"]["kafka"]["properties"]["ssl.key.password"] = KEY.into();

    let ways = ways(&ground, &base)?;
    ground.make_slot(&ground.write("first", &ways[0].config)?)?;
    for way in &ways {
        let file = ground.write(way.name, &way.config)?;
        let with = |arguments: &[&str]| -> Result<String> {
            let mut command = ground.program()?;
            (way.also)(&mut command);
            let what = format!("{arguments:?} with the password in {}", way.name);
            search.run(command.args(arguments).arg("-c").arg(&file), &what)
        };
        let shown = with(&["slot", "show", "--json"])?;
        ensure!(shown.contains("\"pgoutput\""), "the password in {} was not taken: {shown}", way.name);
        for arguments in [&["config", "print"][..], &["config", "print", "--json"], &["config", "check", "--json"]] {
            with(arguments)?;
        }
    }
    wrong_passwords(&ground, &search, &base)?;
    mistakes(&ground, &search)?;
    a_pipeline_at_work(&ground, &search, &ways)?;

    let looked_at = *search.looked_at.borrow();
    ensure!(looked_at > 100_000, "only {looked_at} bytes were looked at");
    let leaks = search.leaks.into_inner();
    ensure!(leaks.is_empty(), "{}", leaks.join("\n"));
    Ok(())
}

/// A way to give PostgreSQL's password.
struct Way {
    name: &'static str,
    config: Value,
    also: Box<dyn Fn(&mut Command)>,
}

fn ways(ground: &Ground, base: &Value) -> Result<Vec<Way>> {
    let folder = ground.folder.clone();
    let url = base["pipelines"]["orders"]["postgres"]["url"].as_str().context("no URL")?.to_owned();
    let encoded = &forms(POSTGRES)[2];
    let port = ground.postgres.port();
    let with = |key: &str, value: String| {
        let mut config = base.clone();
        config["pipelines"]["orders"]["postgres"][key] = value.into();
        config
    };
    let file_of = |text: String| -> Result<String> {
        use std::os::unix::fs::PermissionsExt;
        let file = folder.join("pgpass");
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        Ok(file.display().to_string())
    };
    let pgpass = file_of(format!("127.0.0.1:{port}:appdb:pgbaton:{POSTGRES}\n"))?;
    let nothing = || -> Box<dyn Fn(&mut Command)> { Box::new(|_: &mut Command| ()) };
    let variable = |name: &'static str, value: String| -> Box<dyn Fn(&mut Command)> {
        Box::new(move |command: &mut Command| {
            command.env(name, &value);
        })
    };
    let text = format!("host=127.0.0.1 port={port} user=pgbaton dbname=appdb sslmode=disable password='{POSTGRES}'");
    Ok(vec![
        Way {
            name: "url",
            config: with("url", url.replace("pgbaton@", &format!("pgbaton:{encoded}@"))),
            also: nothing(),
        },
        Way { name: "query", config: with("url", format!("{url}&password={encoded}")), also: nothing() },
        Way { name: "text", config: with("url", text), also: nothing() },
        Way { name: "key", config: with("password", POSTGRES.into()), also: nothing() },
        Way {
            name: "file",
            config: with("password_file", ground.folder.join("postgres").display().to_string()),
            also: nothing(),
        },
        Way {
            name: "variable",
            config: base.clone(),
            also: variable("PGBATON_PIPELINES__ORDERS__POSTGRES__PASSWORD", POSTGRES.into()),
        },
        Way { name: "pgpassword", config: base.clone(), also: variable("PGPASSWORD", POSTGRES.into()) },
        Way { name: "pgpassfile", config: base.clone(), also: variable("PGPASSFILE", pgpass) },
    ])
}

/// What is said where each of the servers refuses.
fn wrong_passwords(ground: &Ground, search: &Search, base: &Value) -> Result<()> {
    let mut right = base.clone();
    right["pipelines"]["orders"]["postgres"]["password"] = POSTGRES.into();
    for (place, code) in [
        ("/pipelines/orders/postgres/password", "auth_failed"),
        ("/coordination/password", "etcd_unreachable"),
        ("/pipelines/orders/kafka/properties/sasl.password", "auth_failed"),
    ] {
        let mut config = right.clone();
        *config.pointer_mut(place).context("no such key")? = WRONG.into();
        let file = ground.write("wrong", &config)?;
        for arguments in [
            &["doctor"][..],
            &["doctor", "--json"],
            &["slot", "show"],
            &["position", "show"],
            &["verify"],
            &["peek", "--limit", "1"],
        ] {
            search.run(
                ground.program()?.args(arguments).arg("-c").arg(&file),
                &format!("{arguments:?}, {place} wrong"),
            )?;
        }
        let mut worker = ground.worker("refused", &config, |_| ())?;
        worker.until(&format!("{code} for {place}"), |status| {
            status["reasons"].as_array().into_iter().flatten().any(|reason| reason["code"] == code)
        })?;
        pages(&worker, search)?;
        worker.kill()?;
        search.look(&format!("the log of a worker with a wrong {place}"), fs::read(&worker.log)?);
    }
    Ok(())
}

/// Secrets in configurations that are wrong, there or nearby.
fn mistakes(ground: &Ground, search: &Search) -> Result<()> {
    for (name, text) in [
        ("a.toml", format!("[coordination]\npassword = \"{ETCD}\n")),
        ("b.toml", format!("[coordination]\npassword = {ETCD}\n")),
        ("c.yaml", format!("coordination:\n  password: \"{ETCD}\n  username: x\n")),
        ("d.yaml", format!("coordination:\n  password: [{ETCD}]\n")),
        ("e.toml", format!("[coordination]\npasswort = \"{ETCD}\"\nusername = \"x\"\n")),
        ("f.toml", format!("[coordination]\nendpoints = [\"http://u:{ETCD}@127.0.0.1:1\"]\n")),
        ("g.toml", format!("[http]\nadvertise = \"http://u:{TOKEN}@127.0.0.1:1\"\n")),
        ("h.toml", format!("[pipelines.orders.postgres]\nurl = \"postgresql://u:{POSTGRES}@h:1:2/db\"\n")),
        ("i.toml", format!("[pipelines.orders.postgres]\nurl = \"host=h password='{POSTGRES}\"\n")),
        ("j.toml", format!("[pipelines.orders.postgres]\nurl = \"postgresql://h/db?pasword={POSTGRES}\"\n")),
        ("p.toml", format!("[pipelines.orders.postgres]\nurl = \"host=h pasword={POSTGRES}\"\n")),
        ("k.toml", format!("[pipelines.orders.postgres]\npatroni = [\"http://u:{POSTGRES}@h:1\"]\n")),
        ("l.toml", format!("[pipelines.orders.kafka.properties]\n\"sasl.pasword\" = \"{KAFKA}\"\n")),
        ("m.toml", format!("[pipelines.orders.kafka.properties]\n\"sasl.password\" = [\"{KAFKA}\"]\n")),
        ("n.toml", format!("[pipelines.orders.kafka.properties]\n\"ssl.key.pem\" = \"{KEY}\"\n")),
        ("o.toml", format!("[pipelines.orders.kafka]\npassword = \"{KAFKA}\"\n")),
    ] {
        let file = ground.folder.join(name);
        fs::write(&file, &text)?;
        for arguments in [&["config", "check"][..], &["config", "check", "--json"], &["run"], &["doctor"]] {
            let what = format!("{arguments:?} of {}", text.replace('\n', "; "));
            let said = search.run(ground.program()?.args(arguments).arg("-c").arg(&file), &what)?;
            ensure!(!said.is_empty(), "{what}: nothing is said");
        }
    }
    Ok(())
}

/// Two workers, one after the other at work, and all that is asked of them.
fn a_pipeline_at_work(ground: &Ground, search: &Search, ways: &[Way]) -> Result<()> {
    let (by_url, by_file) = (&ways[0], &ways[7]);
    let mut first = ground.worker("worker-1", &by_url.config, |command| (by_url.also)(command))?;
    first.until("the first to stream", |status| status["role"] == "active")?;
    let mut in_json = by_file.config.clone();
    in_json["log"]["format"] = "json".into();
    let mut second = ground.worker("worker-2", &in_json, |command| (by_file.also)(command))?;
    second.until("the second to stand by", |status| status["role"] == "standby" && status["healthy"] == true)?;
    ground.postgres.sql("appdb", "INSERT INTO items VALUES (1, 'a')")?;
    first.until_told(ground)?;

    let file = ground.write("commands", &by_url.config)?;
    let [token, wrong] = ["token", "wrong"].map(|name| ground.folder.join(name).display().to_string());
    for arguments in [
        &["doctor"][..],
        &["doctor", "--json"],
        &["position", "show"],
        &["position", "show", "--json"],
        &["slot", "show"],
        &["peek", "--limit", "1"],
        &["verify"],
        &["verify", "--json"],
    ] {
        search.run(ground.program()?.args(arguments).arg("-c").arg(&file), &format!("{arguments:?}"))?;
    }
    let url = first.url.as_str();
    for arguments in [
        &["status", url][..],
        &["status", "--json", url],
        &["gap", "show", url],
        &["pause", url, "--token-file", &wrong],
        &["pause", url],
        &["handover", url, "--to", "worker-2", "--token-file", &token],
        &["config", "schema"],
        &["--help"],
        &["run", "--help"],
        &["tail", "--help"],
    ] {
        search.run(ground.program()?.args(arguments), &format!("{arguments:?}"))?;
    }
    second.until("the second to stream", |status| status["role"] == "active")?;
    tail(ground, search)?;
    for worker in [&first, &second] {
        pages(worker, search)?;
        search.look("the command line", fs::read(format!("/proc/{}/cmdline", worker.process.id()))?);
    }
    let sessions = "SELECT application_name, query, usename FROM pg_stat_activity";
    search.look("pg_stat_activity", ground.postgres.sql("appdb", sessions)?);
    let keys = ground.etcdctl(["get", "", "--prefix"], true)?;
    ensure!(keys.contains("/pgbaton/orders/holder"), "{keys}");
    search.look("etcd", keys);
    search.look("Kafka", all_of_kafka(&ground.kafka.bootstrap())?);
    for mut worker in [first, second] {
        worker.kill()?;
        let log = fs::read(&worker.log)?;
        ensure!(log.len() > 10_000, "that is no log at trace");
        search.look("a worker's log", log);
    }
    Ok(())
}

/// All that a worker answers to everybody.
fn pages(worker: &Worker, search: &Search) -> Result<()> {
    for path in ["/livez", "/readyz", "/health", "/active", "/standby", "/status", "/metrics", "/nothing"] {
        let answer = worker.get(path).with_context(|| format!("no answer to {path}"))?;
        search.look(path, answer.body);
    }
    let address = worker.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /events HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut events = 0;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        events += usize::from(line.starts_with("data:"));
        search.look("/events", line);
        if events == 3 {
            break;
        }
    }
    ensure!(events == 3, "only {events} events");
    Ok(())
}

/// `tail` with the password in its URL, until it has shown a change.
fn tail(ground: &Ground, search: &Search) -> Result<()> {
    let url = format!(
        "postgresql://pgbaton:{}@127.0.0.1:{}/appdb?sslmode=disable",
        forms(POSTGRES)[2],
        ground.postgres.port()
    );
    let mut command = ground.program()?;
    command.args(["tail", "--publication", "orders", "--limit", "1", &url]);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    wait::until("tail to show a change", LIMIT, || {
        ground.postgres.sql("appdb", "UPDATE items SET note = note || 'x'")?;
        Ok(process.try_wait()?)
    })?;
    let output = process.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    search.look("tail", [output.stdout, output.stderr].concat());
    Ok(())
}

/// Keys, values and headers of every record there is.
fn all_of_kafka(bootstrap: &str) -> Result<Vec<u8>> {
    let consumer = consumer(bootstrap)?;
    let metadata = consumer.fetch_metadata(None, LIMIT)?;
    let mut places = TopicPartitionList::new();
    for topic in metadata.topics().iter().filter(|topic| topic.name() != "__transaction_state") {
        for partition in topic.partitions() {
            places.add_partition_offset(topic.name(), partition.id(), Offset::Beginning)?;
        }
    }
    ensure!(places.count() >= 3, "only {} partitions", places.count());
    consumer.assign(&places)?;
    let (mut left, mut all, mut records) = (places.count(), Vec::new(), 0);
    while left > 0 {
        match consumer.poll(LIMIT).context("Kafka is silent")? {
            Ok(message) => {
                records += 1;
                for part in [message.key(), message.payload()].into_iter().flatten() {
                    all.extend_from_slice(part);
                }
                for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
                    all.extend_from_slice(header.value.unwrap_or_default());
                }
            }
            Err(KafkaError::PartitionEOF(_)) => left -= 1,
            Err(error) => return Err(error.into()),
        }
    }
    ensure!(records > 3, "only {records} records");
    Ok(all)
}
