//! The configuration from outside: what a person writes, and what they are told about it.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod pki;

use std::{ffi::OsString, fs, path::PathBuf, time::Duration};

use pgbaton::config::{Backend, Config, Given, Invalid, Loaded, Place, load};
use tempfile::TempDir;

const GOOD: &str = r#"
name = "worker-1"

[coordination]
endpoints = ["http://127.0.0.1:2379"]

[pipelines.orders.postgres]
url = "postgresql://pgbaton@127.0.0.1:5000/appdb?sslmode=disable"
slot = "orders"
publication = "orders"

[pipelines.orders.kafka]
brokers = "127.0.0.1:9092"
topic_prefix = "orders"
"#;

/// Files of a test, in a folder that goes with it.
struct Files {
    folder: TempDir,
    given: Given,
}

impl Files {
    fn new() -> Self {
        Files { folder: tempfile::tempdir().unwrap(), given: Given::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn file(mut self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.put(name, text);
        self.given.files.push(path);
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.given.variables.push((OsString::from(name), OsString::from(value)));
        self
    }

    fn flag(mut self, flag: &'static str, key: &'static str, value: &str) -> Self {
        self.given.flags.push((flag, key, value.to_owned()));
        self
    }

    fn loaded(&self) -> Loaded {
        load(&self.given).unwrap_or_else(|invalid| panic!("{invalid}"))
    }

    fn config(&self) -> Config {
        self.loaded().config
    }

    fn invalid(&self) -> Invalid {
        load(&self.given).expect_err("the configuration was taken")
    }

    /// The mistakes as printed, without the folder.
    fn mistakes(&self) -> Vec<String> {
        let folder = format!("{}/", self.folder.path().display());
        self.invalid().0.iter().map(|mistake| mistake.to_string().replace(&folder, "")).collect()
    }
}

fn with(old: &str, new: &str) -> Vec<String> {
    assert!(GOOD.contains(old), "{old}");
    Files::new().file("w.toml", GOOD.replacen(old, new, 1)).mistakes()
}

#[test]
fn what_is_not_said_has_the_documented_default() {
    let config = Files::new().file("w.toml", GOOD).config();
    assert_eq!(config.http.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.coordination.prefix, "/pgbaton");
    assert_eq!(config.coordination.lease_ttl, Duration::from_secs(10));
    assert_eq!(config.coordination.on_loss.as_str(), "slot-guarded");
    let orders = &config.pipelines["orders"];
    assert_eq!(orders.takeover_grace, Duration::from_secs(1));
    assert_eq!(orders.kafka.atomic_up_to, 100_000);
    assert_eq!(orders.kafka.delivery.as_str(), "exactly-once");
    assert_eq!(config.log.level, "info");
}

#[test]
fn the_example_of_the_interface_is_valid_but_for_its_secret_files_and_slot_guarded() {
    let files = Files::new();
    let (token, password) = (files.put("token", "t0k3n\n"), files.put("pg", "hunter2\r\n"));
    let text = format!(
        r#"
name = "worker-1"

[http]
listen = "0.0.0.0:8080"
advertise = "http://10.0.0.5:8080"
token_file = "{}"

[coordination]
backend = "etcd"
endpoints = ["http://127.0.0.1:2379"]
prefix = "/pgbaton"
lease_ttl = "10s"
on_loss = "strict"

[pipelines.orders]
on_gap = "halt"
on_publication_shrink = "note"
standby_barrier = "off"
takeover_grace = "1s"

[pipelines.orders.postgres]
url = "postgresql://pgbaton@127.0.0.1:5000/appdb?sslmode=verify-full"
password_file = "{}"
slot = "orders"
publication = "orders"
patroni = []

[pipelines.orders.kafka]
brokers = "127.0.0.1:9092"
topic_prefix = "orders"
delivery = "exactly-once"
format = "debezium"
compat = "honest"
atomic_up_to = 100000
[pipelines.orders.kafka.properties]
"security.protocol" = "PLAINTEXT"

[log]
format = "text"
level = "info"
"#,
        token.display(),
        password.display()
    );
    let config = files.file("w.toml", text).config();
    assert_eq!(config.pipelines["orders"].postgres.password.as_ref().unwrap().expose(), "hunter2");
    assert_eq!(config.pipelines["orders"].kafka.properties["security.protocol"].expose(), "PLAINTEXT");
    assert_eq!(config.http.url("0.0.0.0:9".parse().unwrap()), "http://10.0.0.5:8080");
}

#[test]
fn yaml_says_the_same_as_toml() {
    let yaml = "
name: worker-1
coordination:
  endpoints: ['http://127.0.0.1:2379']
  lease_ttl: 20s
pipelines:
  orders:
    standby_barrier: off
    postgres: {url: 'host=db user=app dbname=appdb', slot: orders, publication: orders}
    kafka:
      brokers: 127.0.0.1:9092
      topic_prefix: orders
      properties:
        linger.ms: 5
        ssl:
          endpoint.identification.algorithm: none
";
    let config = Files::new().file("w.yaml", yaml).config();
    assert_eq!(config.coordination.lease_ttl, Duration::from_secs(20));
    let properties = &config.pipelines["orders"].kafka.properties;
    assert_eq!(properties["linger.ms"].expose(), "5");
    assert_eq!(properties["ssl.endpoint.identification.algorithm"].expose(), "none");
}

#[test]
fn later_sources_win_files_then_variables_then_flags() {
    let files = Files::new()
        .file("a.toml", GOOD)
        .file("b.yml", "pipelines: {orders: {kafka: {topic_prefix: from-b, atomic_up_to: 7}}}\nlog: {level: warn}")
        .variable("PGBATON_PIPELINES__ORDERS__KAFKA__ATOMIC_UP_TO", "9")
        .variable("PGBATON_COORDINATION__ENDPOINTS", "http://a:1, http://b:2")
        .variable("PGBATON_LOG__LEVEL", "debug")
        .variable("PGPASSWORD", "not ours")
        .flag("--log-level", "log.level", "trace");
    let config = files.config();
    let orders = &config.pipelines["orders"];
    assert_eq!(orders.kafka.topic_prefix, "from-b");
    assert_eq!(orders.kafka.atomic_up_to, 9);
    assert_eq!(orders.kafka.brokers, "127.0.0.1:9092");
    assert_eq!(config.coordination.endpoints, ["http://a:1", "http://b:2"]);
    assert_eq!(config.log.level, "trace");
}

#[test]
fn variables_alone_are_enough() {
    let files = Files::new()
        .variable("PGBATON_COORDINATION__ENDPOINTS", "http://127.0.0.1:2379")
        .variable("PGBATON_PIPELINES__ORDERS__POSTGRES__URL", "host=db user=app")
        .variable("PGBATON_PIPELINES__ORDERS__POSTGRES__SLOT", "orders")
        .variable("PGBATON_PIPELINES__ORDERS__POSTGRES__PUBLICATION", "orders")
        .variable("PGBATON_PIPELINES__ORDERS__POSTGRES__PASSWORD", "0123")
        .variable("PGBATON_PIPELINES__ORDERS__KAFKA__BROKERS", "k:9092")
        .variable("PGBATON_PIPELINES__ORDERS__KAFKA__TOPIC_PREFIX", "orders");
    // A password of digits stays the text that it is.
    assert_eq!(files.config().pipelines["orders"].postgres.password.as_ref().unwrap().expose(), "0123");
}

#[test]
fn all_mistakes_come_at_once_each_on_one_line_with_its_place() {
    let text = r#"nmae = "worker-1"
[http]
listen = "8080"
[coordination]
endpoints = ["http://127.0.0.1:2379"]
lease_ttl = "10"
on_loss = "loose"
[pipelines.orders]
slot = "orders"
[pipelines.orders.postgres]
url = "postgresql://pgbaton@127.0.0.1:5000/appdb"
publicaton = "orders"
slot = "Orders"
[pipelines.orders.kafka]
brokers = 9092
topic_prefix = "or ders"
atomic_up_to = -1
[pipelines.orders.kafka.properties]
"acks" = 1
"#;
    let files = Files::new().file("w.toml", text).variable("PGBATON_LOG__FORMAT", "xml").flag(
        "--log-level",
        "log.level",
        "loud,,=",
    );
    let mistakes = files.mistakes();
    let expected = [
        r#"w.toml:3: http.listen: found "8080"; allowed: IP:PORT"#,
        r#"w.toml:6: coordination.lease_ttl: found "10"; allowed: a time from 7s to 600s"#,
        r#"w.toml:7: coordination.on_loss: found "loose"; allowed: "slot-guarded", "strict""#,
        r#"w.toml:13: pipelines.orders.postgres.slot: found "Orders"; allowed: 1 to 63 of the characters a-z 0-9 _"#,
        r#"w.toml:10: pipelines.orders.postgres.publication: missing; allowed: the name of a publication"#,
        r#"w.toml:15: pipelines.orders.kafka.brokers: found the number 9092; allowed: a text in quotes"#,
        r#"w.toml:16: pipelines.orders.kafka.topic_prefix: found "or ders"; allowed: 1 to 100 of the characters"#,
        r#"w.toml:17: pipelines.orders.kafka.atomic_up_to: found the number -1; allowed: a whole number from 1 to 10000000"#,
        r#"w.toml:19: pipelines.orders.kafka.properties.acks: cannot be set here: transactions need all"#,
        r#"variable PGBATON_LOG__FORMAT: log.format: found "xml"; allowed: "text", "json""#,
        r#"flag --log-level: log.level: found "loud,,="; allowed: error, warn"#,
        r#"w.toml:12: pipelines.orders.postgres.publicaton: unknown key; did you mean "publication"? allowed here: url,"#,
        r#"w.toml:9: pipelines.orders.slot: unknown key; did you mean "pipelines.orders.postgres.slot"? allowed here:"#,
        r#"w.toml:1: nmae: unknown key; did you mean "name"? allowed here: name, http, coordination, pipelines, log"#,
    ];
    assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
    for (mistake, expected) in mistakes.iter().zip(expected) {
        assert!(mistake.starts_with(expected), "{mistake}\n{expected}");
        assert!(!mistake.contains('\n'), "{mistake}");
    }
}

#[test]
fn an_unknown_variable_is_a_mistake_like_an_unknown_key() {
    let files = Files::new().file("w.toml", GOOD).variable("PGBATON_COORDINATION__LEASE_TLL", "20s");
    assert_eq!(
        files.mistakes(),
        ["variable PGBATON_COORDINATION__LEASE_TLL: coordination.lease_tll: unknown key; did you mean \"lease_ttl\"? \
          allowed here: backend, endpoints, ca_file, cert_file, key_file, username, password, password_file, prefix, \
          lease_ttl, on_loss"]
    );
}

#[test]
fn lines_are_right_in_yaml_too() {
    let yaml = "name: worker-1\r\ncoordination:\r\n  endpoints: 5\r\n\r\n  # why\r\n  prefx: /x\r\npipelines:\r\n  orders:\r\n    kafka: {}\r\n";
    let mistakes = Files::new().file("w.yaml", yaml).mistakes();
    assert!(
        mistakes[0].starts_with("w.yaml:3: coordination.endpoints: found the number 5; allowed: a list"),
        "{mistakes:#?}"
    );
    assert!(
        mistakes.iter().any(|m| m.starts_with("w.yaml:8: pipelines.orders.postgres.url: missing")),
        "{mistakes:#?}"
    );
    assert!(
        mistakes.iter().any(|m| m.starts_with("w.yaml:9: pipelines.orders.kafka.brokers: missing")),
        "{mistakes:#?}"
    );
    assert!(
        mistakes.iter().any(|m| m.starts_with("w.yaml:6: coordination.prefx: unknown key; did you mean \"prefix\"?"))
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_its_reason() {
    for (name, text, start) in [
        ("w.toml", "name = \"a\"\nname = \"b\"\n".as_bytes(), "w.toml:2: malformed: "),
        ("w.toml", b"name = 'a'\n[http\n", "w.toml:2: malformed: "),
        ("w.yaml", b"name: a\nname: b\n", "w.yaml:2: malformed: "),
        ("w.yaml", b"- a\n- b\n", "w.yaml:1: malformed: expected keys"),
        ("w.yaml", b"a: &a [*a]\n", "w.yaml"),
        ("w.toml", b"name = 'a'\n# \xff\n", "w.toml:2: is not UTF-8"),
        ("w.conf", b"", "w.conf: the name must end in .toml"),
    ] {
        let mistakes = Files::new().file(name, text).mistakes();
        assert!(mistakes.len() == 1 && mistakes[0].starts_with(start), "{mistakes:#?}");
    }
    let mut files = Files::new();
    files.given.files = vec![files.path("absent.toml"), files.folder.path().join("x.yaml")];
    fs::create_dir(files.path("x.yaml")).unwrap();
    let mistakes = files.mistakes();
    assert!(mistakes[0].starts_with("absent.toml: cannot be read: No such file"), "{mistakes:#?}");
    assert!(mistakes[1].starts_with("x.yaml: cannot be read: Is a directory"), "{mistakes:#?}");
}

#[test]
fn a_byte_order_mark_and_line_ends_of_another_system_change_nothing() {
    let text = format!("\u{feff}{}", GOOD.replace('\n', "\r\n"));
    let files = Files::new().file("w.toml", &text);
    assert_eq!(files.config().name, "worker-1");
    let mistakes = Files::new().file("w.toml", text.replace("slot =", "slto =")).mistakes();
    assert!(
        mistakes.iter().any(|mistake| mistake.starts_with("w.toml:9: pipelines.orders.postgres.slto: ")),
        "{mistakes:#?}"
    );
}

#[test]
fn without_etcd_no_endpoint_is_needed_and_only_exactly_once_is_allowed() {
    let without = GOOD.replace("[coordination]", "[coordination]\nbackend = \"none\"");
    let lines = without.lines().filter(|line| !line.starts_with("endpoints"));
    let without: String = lines.flat_map(|line| [line, "\n"]).collect();
    assert_eq!(Files::new().file("w.toml", &without).config().coordination.backend, Backend::None);
    let weaker = without.replace("topic_prefix", "delivery = \"at-least-once\"\ntopic_prefix");
    let mistakes = Files::new().file("w.toml", &weaker).mistakes();
    assert!(mistakes.iter().all(|mistake| mistake.contains("orders.kafka.delivery")), "{mistakes:#?}");
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
}

#[test]
fn what_this_version_has_not_is_refused_and_not_ignored() {
    for (old, new, key) in [
        (
            "[pipelines.orders.postgres]",
            "[pipelines.orders]\non_gap = \"resnapshot\"\n[pipelines.orders.postgres]",
            "pipelines.orders.on_gap",
        ),
        ("topic_prefix", "format = \"flat\"\ntopic_prefix", "pipelines.orders.kafka.format"),
        ("topic_prefix", "compat = \"strict\"\ntopic_prefix", "pipelines.orders.kafka.compat"),
    ] {
        let mistakes = with(old, new);
        assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
        assert!(mistakes[0].contains(key) && mistakes[0].contains("not available in this version"), "{mistakes:#?}");
    }
}

#[test]
fn without_a_fence_the_lease_is_kept_to_strictly() {
    let at_least_once = GOOD.replace("topic_prefix", "delivery = \"at-least-once\"\ntopic_prefix");
    let config = Files::new().file("w.toml", &at_least_once).config();
    assert_eq!(config.pipelines["orders"].kafka.delivery.as_str(), "at-least-once");
    assert_eq!(config.coordination.on_loss.as_str(), "strict");
    let guarded = at_least_once.replace("[coordination]", "[coordination]\non_loss = \"slot-guarded\"");
    let mistakes = Files::new().file("w.toml", guarded).mistakes();
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    let expected = "w.toml:5: coordination.on_loss: found \"slot-guarded\" beside pipelines.orders.kafka.delivery";
    assert!(mistakes[0].starts_with(expected) && mistakes[0].contains("only the lease"), "{mistakes:#?}");
}

#[test]
fn settings_that_do_not_fit_together_are_refused() {
    for (old, new, expected) in [
        ("endpoints = [\"http://127.0.0.1:2379\"]", "", "w.toml:4: coordination.endpoints: missing"),
        (
            "slot =",
            "password = 'a'\npassword_file = '/dev/null'\nslot =",
            "postgres.password_file: found \"/dev/null\"; allowed: a file",
        ),
        ("[coordination]", "[coordination]\nusername = 'a'", "coordination.username: is set without a password"),
        ("[coordination]", "[coordination]\npassword = 'a'", "coordination.username: missing"),
        (
            "[coordination]",
            "[coordination]\nca_file = '/etc/hostname'",
            "coordination.endpoints: found \"http://127.0.0.1:2379\" beside certificates",
        ),
        ("slot = \"orders\"", "slot = \"o'; DROP TABLE x\"", "postgres.slot: found \"o'; DROP TABLE x\"; allowed"),
        ("publication = \"orders\"", "publication = \"\"", "postgres.publication: found \"\"; allowed"),
        ("orders.kafka]", "Orders.kafka]", "w.toml:12: pipelines.Orders: not a pipeline's name"),
        ("name = \"worker-1\"", "name = \"a b\"", "w.toml:2: name: found \"a b\"; allowed"),
        ("127.0.0.1:9092", "127.0.0.1", "kafka.brokers: found \"127.0.0.1\"; allowed: HOST:PORT"),
        (
            "\"http://127.0.0.1:2379\"",
            "\"127.0.0.1:2379\"",
            "coordination.endpoints: found \"127.0.0.1:2379\"; allowed: http://",
        ),
    ] {
        let mistakes = with(old, new);
        assert!(mistakes.iter().any(|mistake| mistake.contains(expected)), "{expected}\n{mistakes:#?}");
    }
}

#[test]
fn two_pipelines_need_two_prefixes_and_two_slots() {
    let second = GOOD
        .split("[pipelines")
        .skip(1)
        .map(|part| format!("[pipelines{}", part.replace("orders.", "bills.")))
        .collect::<String>();
    let mistakes = Files::new().file("w.toml", format!("{GOOD}{second}")).mistakes();
    assert_eq!(mistakes.len(), 2, "{mistakes:#?}");
    assert!(mistakes[0].contains("pipelines.orders: has the same topic_prefix as pipelines.bills"), "{mistakes:#?}");
    assert!(mistakes[1].contains("has the same url and slot"), "{mistakes:#?}");
    let distinct =
        second.replace("slot = \"orders\"", "slot = \"bills\"").replace("prefix = \"orders\"", "prefix = \"bills\"");
    assert_eq!(Files::new().file("w.toml", format!("{GOOD}{distinct}")).config().pipelines.len(), 2);
}

#[test]
fn without_a_pipeline_there_is_nothing_to_run() {
    let mistakes = Files::new().file("w.toml", "[coordination]\nendpoints = ['http://a:1']").mistakes();
    assert_eq!(mistakes, ["w.toml: pipelines: missing; allowed: at least one table [pipelines.NAME]"]);
    let Invalid(nothing) = Files::new().invalid();
    assert!(nothing.iter().all(|mistake| mistake.place == Place::Default), "{nothing:?}");
}

#[test]
fn a_secret_is_seen_nowhere() {
    let files = Files::new();
    let file = files.put("secret", "hunter2\n");
    let text = GOOD
        .replace("pgbaton@127", "pgbaton:hunter2@127")
        .replace("[coordination]", "[coordination]\nusername = 'etcd'\npassword = 'hunter2'")
        .replace("slot =", &format!("password_file = \"{}\"\nslot =", file.display()))
        + "[pipelines.orders.kafka.properties]\n\"sasl.password\" = \"hunter2\"\n\"ssl.key.pem\" = \"hunter2\"\n\"linger.ms\" = 3\n";
    let files = files.file("w.toml", text);
    let Loaded { config, effective } = files.loaded();
    assert_eq!(
        config.pipelines["orders"].postgres.url.expose(),
        "postgresql://pgbaton:hunter2@127.0.0.1:5000/appdb?sslmode=disable"
    );
    let shown = [effective.to_toml(), effective.to_json().to_string(), format!("{config:?} {effective:?}")];
    for text in &shown {
        assert!(!text.contains("hunter2"), "{text}");
    }
    assert!(
        shown[0].contains("url = \"postgresql://pgbaton:***@127.0.0.1:5000/appdb?sslmode=disable\""),
        "{}",
        shown[0]
    );
    assert!(shown[0].contains("\"linger.ms\" = \"3\""), "{}", shown[0]);
}

#[test]
fn a_mistake_about_a_secret_does_not_show_it() {
    for (old, new) in [
        ("slot =", "password = 1234567\nslot ="),
        ("slot =", "password = [\"hunter2\"]\nslot ="),
        ("slot =", "pasword = \"hunter2\"\nslot ="),
        ("url = \"postgresql://pgbaton@127.0.0.1:5000/appdb?sslmode=disable\"", "url = [\"hunter2\"]"),
        ("\"http://127.0.0.1:2379\"", "\"http://user:hunter2@127.0.0.1:2379\""),
        ("name =", "http.advertise = \"http://user:hunter2@a\"\nname ="),
        ("slot =", "password = \"hunter2\nslot ="),
    ] {
        let mistakes = with(old, new).join("\n");
        assert!(!mistakes.contains("hunter2") && !mistakes.contains("1234567"), "{mistakes}");
    }
}

#[test]
fn what_is_printed_can_be_read_again_and_says_where_it_came_from() {
    let files = Files::new().file("w.toml", GOOD).variable("PGBATON_LOG__LEVEL", "debug");
    let printed = files.loaded().effective.to_toml();
    assert!(printed.contains("w.toml:9\n"), "{printed}");
    assert!(printed.contains("level = \"debug\"  # variable PGBATON_LOG__LEVEL"), "{printed}");
    assert!(printed.contains("prefix = \"/pgbaton\"  # default"), "{printed}");
    let again = Files::new().file("w.toml", &printed);
    assert_eq!(again.loaded().effective.to_json(), files.loaded().effective.to_json());
}

#[test]
fn a_file_ten_times_as_large_takes_ten_times_the_work_and_not_a_hundred() {
    // The thread's own time: what else runs on the machine does not count.
    let worked = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
    };
    let judge = |pipelines: u32| {
        let mut yaml = String::from("pipelines:\n");
        for number in 0..pipelines {
            yaml +=
                &format!("  p{number}:\n    kafka: {{brokers: 'k:9092', topic_prefix: p{number}}}\n    unknown: 1\n");
        }
        let before = worked();
        let Invalid(mistakes) = Files::new().file("w.yaml", yaml).invalid();
        assert!(mistakes.len() < 200, "{}", mistakes.len());
        worked() - before
    };
    let (small, large) = (judge(5_000), judge(50_000));
    assert!(large < small * 40, "{small:?} and {large:?}");
}

#[test]
fn tls_of_the_http_port_has_to_fit_together_and_its_files_are_looked_into() {
    let files = Files::new();
    let authority = pki::Authority::new(files.folder.path(), "authority");
    let [cert, key] = authority.issue("worker").put(files.folder.path(), "own").map(|file| file.display().to_string());
    let ca = authority.file.display().to_string();
    let empty = files.put("empty", "").display().to_string();
    let both = format!("cert_file = \"{cert}\"\nkey_file = \"{key}\"\n");
    let good = format!("{both}ca_file = \"{ca}\"\nverify_client = \"optional\"\nclient_ca_file = \"{ca}\"\n");
    let load_with = |http: &str| load(&Files::new().file("w.toml", format!("{GOOD}\n[http]\n{http}")).given);
    let config = load_with(&good).unwrap().config;
    assert_eq!(config.http.url("127.0.0.1:9".parse().unwrap()), "https://127.0.0.1:9");
    for (http, problem) in [
        (format!("cert_file = \"{cert}\"\n"), "http.key_file: missing; cert_file is set and needs it".to_owned()),
        (
            format!("{both}advertise = \"http://a:1\"\n"),
            "http.advertise: found \"http://a:1\" beside cert_file".to_owned(),
        ),
        (format!("{both}verify_client = \"required\"\n"), "http.client_ca_file: missing; verify_client".to_owned()),
        (format!("{both}client_ca_file = \"{ca}\"\n"), "http.client_ca_file: would not be looked at".to_owned()),
        (
            format!("verify_client = \"optional\"\nclient_ca_file = \"{ca}\"\n"),
            "http.cert_file: missing; verify_client is set".to_owned(),
        ),
        (format!("cert_file = \"{ca}\"\nkey_file = \"{key}\"\n"), "http.cert_file: ".to_owned()),
        (format!("cert_file = \"{cert}\"\nkey_file = \"{ca}\"\n"), format!("http.key_file: {ca}: ")),
        (format!("{both}ca_file = \"{empty}\"\n"), format!("http.ca_file: {empty}: it holds no certificate; allowed")),
    ] {
        let said = load_with(&http).unwrap_err().to_string();
        assert!(said.contains(&problem), "{http}\n{said}");
    }
}

#[test]
fn the_password_file_of_kafka_stands_for_its_property() {
    let files = Files::new();
    let secret = files.put("secret", "hunter2\n");
    let with = |line: &str| GOOD.replace("topic_prefix =", &format!("{line}\ntopic_prefix ="));
    let text = with(&format!("password_file = \"{}\"", secret.display()));
    let Loaded { config, effective } = load(&Files::new().file("w.toml", &text).given).unwrap();
    assert_eq!(config.pipelines["orders"].kafka.properties["sasl.password"].expose(), "hunter2");
    assert!(!effective.to_toml().contains("hunter2"));
    let twice = format!("{text}\n[pipelines.orders.kafka.properties]\n\"sasl.password\" = \"x\"\n");
    let said = load(&Files::new().file("w.toml", twice).given).unwrap_err().to_string();
    assert!(said.contains("kafka.password_file: is set beside \"sasl.password\"; allowed: one of the two"), "{said}");
}
