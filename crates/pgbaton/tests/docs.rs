//! What the pages and the schema say of commands, keys and defaults is what the program knows.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
};

use serde_json::Value;

const MINIMAL: &str = r#"
[coordination]
endpoints = ["http://127.0.0.1:2379"]
[pipelines.orders.postgres]
url = "postgresql://pgbaton@127.0.0.1/appdb"
slot = "orders"
publication = "orders"
[pipelines.orders.kafka]
brokers = "127.0.0.1:9092"
topic_prefix = "orders"
"#;

/// Heading on the page, table in the file.
const TABLES: [(&str, &str); 6] = [
    ("[http]", "http"),
    ("[coordination]", "coordination"),
    ("[pipelines.NAME]", "pipelines.orders"),
    ("[pipelines.NAME.postgres]", "pipelines.orders.postgres"),
    ("[pipelines.NAME.kafka]", "pipelines.orders.kafka"),
    ("[log]", "log"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn pgbaton(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgbaton"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PGBATON_")) {
        command.env_remove(name);
    }
    let output = command.args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn config(arguments: &[&str], text: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.toml");
    fs::write(&file, text).unwrap();
    let (_, out) = pgbaton(&[arguments, &["--json", "-c", file.to_str().unwrap()]].concat());
    serde_json::from_str(&out).unwrap()
}

fn schema() -> Value {
    let (code, out) = pgbaton(&["config", "schema"]);
    assert_eq!(code, Some(0));
    serde_json::from_str(&out).unwrap()
}

/// The keys of a table, those that are tables themselves left out.
fn keys<'s>(schema: &'s Value, table: &str) -> BTreeMap<&'s str, &'s Value> {
    let table = table.split('.').fold(schema, |above, name| {
        let named = &above["properties"][name];
        if named.is_null() { &above["additionalProperties"] } else { named }
    });
    let keys = table["properties"].as_object().unwrap().iter().filter(|(_, key)| key["type"] != "object");
    keys.map(|(name, key)| (name.as_str(), key)).collect()
}

/// What the program itself says is allowed in a table.
fn known(table: &str) -> BTreeSet<String> {
    let wrong = if MINIMAL.contains(&format!("[{table}]\n")) {
        MINIMAL.replace(&format!("[{table}]\n"), &format!("[{table}]\nzzz = 1\n"))
    } else {
        format!("{MINIMAL}\n[{table}]\nzzz = 1\n")
    };
    let found = config(&["config", "check"], &wrong);
    let problem = found["mistakes"][0]["problem"].as_str().unwrap();
    let allowed = problem.split_once("allowed here: ").unwrap_or_else(|| panic!("{table}: {problem}")).1;
    // Tables inside this one have headings of their own.
    let nested = ["postgres", "kafka", "properties"];
    allowed.split(", ").filter(|key| !nested.contains(key)).map(str::to_owned).collect()
}

#[test]
fn the_configuration_page_says_what_the_program_says() {
    let page = fs::read_to_string(root().join(xtask::docs::PAGE)).unwrap();
    let made = xtask::docs::filled(&page, &schema()).unwrap();
    assert!(page == made, "{} is stale: run `cargo xtask docs`", xtask::docs::PAGE);
    for (heading, table) in TABLES {
        let section =
            page.split("\n### `").find(|part| part.starts_with(heading)).unwrap_or_else(|| panic!("{heading}"));
        let keys = keys(&schema(), table).into_keys().map(|key| format!("\n| `{key}` |")).collect::<Vec<_>>();
        assert!(keys.iter().all(|key| section.contains(key)), "{heading}");
    }
}

#[test]
fn the_schema_has_every_key_and_no_other() {
    let schema = schema();
    for (_, table) in TABLES {
        let described: BTreeSet<_> = keys(&schema, table).into_keys().map(str::to_owned).collect();
        assert_eq!(described, known(table), "{table}");
    }
}

#[test]
fn the_schema_has_the_defaults_that_take_effect() {
    let (schema, effective) = (schema(), config(&["config", "print"], MINIMAL));
    let mut compared = 0;
    for (_, table) in TABLES {
        let section = table.split('.').fold(&effective, |value, key| &value[key]);
        for (name, key) in keys(&schema, table) {
            let Some(default) = key.get("default") else { continue };
            assert_eq!(&section[name], default, "{table}.{name}");
            compared += 1;
        }
    }
    assert!(compared >= 10, "only {compared} defaults were compared");
}

/// Every `pgbaton ...` on the pages: the command is there, and so are its flags.
#[test]
fn the_commands_on_the_pages_are_there_with_their_flags() {
    let mut pages = vec![root().join("README.md")];
    pages.extend(fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let mut checked = 0;
    for page in pages.iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(page).unwrap();
        for command in commands(&text) {
            check(&command, page.to_str().unwrap());
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} commands were found");
}

/// Code spans and lines of code that begin with `pgbaton `.
fn commands(page: &str) -> Vec<String> {
    let spans = page.split('`').skip(1).step_by(2);
    let lines = page.lines().map(|line| line.split(" #").next().unwrap_or_default());
    let found = spans.chain(lines).filter(|text| text.starts_with("pgbaton ") && !text.contains('\n'));
    // A sentence of the text may begin a line with the program's name, too: a command goes on with a word of its own.
    let is_command = |text: &&str| pgbaton(&["help", text.split_whitespace().nth(1).unwrap_or_default()]).0 == Some(0);
    found.filter(is_command).map(str::to_owned).collect()
}

fn check(command: &str, page: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let verb = words[1];
    let (_, mut help) = pgbaton(&["help", verb]);
    if help.contains("\nCommands:") {
        let alternatives = words.get(2).map(|word| word.replace('\\', "")).unwrap_or_default();
        for sub in alternatives.split('|').filter(|sub| sub.chars().all(|letter| letter.is_ascii_lowercase())) {
            let (code, _) = pgbaton(&["help", verb, sub]);
            assert_eq!(code, Some(0), "{page}: {command}");
        }
        let listed = help.split_once("\nCommands:").unwrap().1.split("\n\n").next().unwrap().to_owned();
        for sub in listed.lines().filter_map(|line| line.split_whitespace().next()) {
            help.push_str(&pgbaton(&["help", verb, sub]).1);
        }
    }
    let letters = |c: char| !(c.is_ascii_lowercase() || c == '-');
    for flag in command.split(letters).filter(|word| word.starts_with("--") && word.len() > 2) {
        assert!(help.contains(flag), "{page}: {command}: there is no {flag}");
    }
}

/// Who is woken by a code finds what happens meanwhile, whether it passes, and what to do.
#[test]
fn every_code_has_its_page_with_what_to_do() {
    let page = fs::read_to_string(root().join("docs/codes.md")).unwrap();
    let mut codes = 0;
    for section in page.split("\n### ").skip(1) {
        let section = section.split("\n## ").next().unwrap();
        let code = section.lines().next().unwrap();
        for part in ["*Meanwhile:*", "*By itself:*", "*Do:*"] {
            assert!(section.contains(part), "{code} lacks {part}");
        }
        codes += 1;
    }
    assert!(codes > 25, "only {codes} codes");
}
