//! `pgbaton tail` on a real PostgreSQL: what it shows, and that it leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use rustix::process::{Pid, Signal, kill_process};
use xtask::single::{Postgres, PostgresOptions};

/// The server that tests share while any of them runs.
fn server() -> Arc<Postgres> {
    static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Postgres::start(&PostgresOptions::default()).unwrap());
        *shared = Arc::downgrade(&server);
        server
    })
}

/// A database of a test's own, with `items` that has a key and `notes` that has none.
struct Database {
    server: Arc<Postgres>,
    name: &'static str,
}

impl Database {
    fn new(name: &'static str) -> Self {
        let server = server();
        server.sql("postgres", &format!("CREATE DATABASE {name}")).unwrap();
        server
            .sql(
                name,
                "CREATE TABLE items (id int PRIMARY KEY, name text, price numeric(8,2), sold bool);
                 CREATE TABLE notes (text text)",
            )
            .unwrap();
        Database { server, name }
    }

    fn sql(&self, sql: &str) -> String {
        self.server.sql(self.name, sql).unwrap()
    }

    fn url(&self) -> String {
        format!("{}?sslmode=disable", self.server.dsn(self.name))
    }

    /// Slots and publications of this database.
    fn left(&self) -> String {
        self.sql(
            "SELECT slot_name FROM pg_replication_slots WHERE database = current_database() \
             UNION ALL SELECT pubname FROM pg_publication",
        )
    }

    fn tail(&self, arguments: &[&str]) -> Tail {
        let mut child = command(&self.url(), arguments).spawn().unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut notes = String::new();
        while !notes.contains("watching") {
            assert_ne!(errors.read_line(&mut notes).unwrap(), 0, "it ended: {notes}");
        }
        let out = child.stdout.take().map(BufReader::new);
        Tail { child, out, errors: Box::new(errors), notes }
    }

    /// Runs one that is to fail at once: its exit code and its complaint.
    fn refused(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = command(&self.url(), arguments).output().unwrap();
        assert!(output.stdout.is_empty());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgbaton"));
    command.arg("tail").arg(url).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A tail that watches.
struct Tail {
    child: Child,
    out: Option<BufReader<ChildStdout>>,
    errors: Box<dyn Read>,
    notes: String,
}

impl Tail {
    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.out.as_mut().unwrap().read_line(&mut line).unwrap(), 0, "it ended");
        line.trim_end().to_owned()
    }

    fn json(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.line()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit code and what it complained of after "watching".
    fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        let mut errors = String::new();
        self.errors.read_to_string(&mut errors).unwrap();
        (code, errors)
    }
}

#[test]
fn changes_of_a_table_come_as_json_and_the_limit_ends_it_with_nothing_left() {
    let database = Database::new("as_json");
    let mut tail = database.tail(&["--table", "items", "--json", "--limit", "5"]);
    database.sql("INSERT INTO items VALUES (1, 'a \"b\"', 1.50, NULL); INSERT INTO notes VALUES ('not shown')");
    database.sql("UPDATE items SET sold = true; UPDATE items SET id = 2; DELETE FROM items; TRUNCATE items");
    let insert = tail.json();
    assert_eq!(
        (&insert["op"], &insert["schema"], &insert["table"], &insert["key"], &insert["before"], &insert["after"]),
        (
            &"c".into(),
            &"public".into(),
            &"items".into(),
            &serde_json::json!({"id": 1}),
            &serde_json::Value::Null,
            &serde_json::json!({"id": 1, "name": "a \"b\"", "price": "1.50", "sold": null})
        )
    );
    assert!(insert["xid"].is_u64() && insert["lsn"].is_string() && insert["committed_at"].is_string(), "{insert}");
    let update = tail.json();
    assert_eq!((&update["op"], &update["after"]["sold"]), (&"u".into(), &true.into()));
    let moved = tail.json();
    assert_eq!((&moved["key"]["id"], &moved["before"]), (&2.into(), &serde_json::json!({"id": 1})));
    let delete = tail.json();
    assert_eq!((&delete["op"], &delete["key"]["id"], &delete["after"]), (&"d".into(), &2.into(), &().into()));
    assert_eq!(tail.json()["op"], "t");
    assert_eq!(tail.end(), (Some(0), String::new()));
    assert_eq!(database.left(), "");
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    let database = Database::new("ctrl_c");
    database.sql("CREATE PUBLICATION mine FOR TABLE items");
    for (arguments, left) in [(&["--table", "items"][..], "mine"), (&["--publication", "mine"], "mine"), (&[], "mine")]
    {
        let mut tail = database.tail(arguments);
        database.sql("INSERT INTO items VALUES (1, 'x', 2, false)");
        let line = tail.line();
        assert!(line.ends_with(r#" INSERT public.items id=1 name="x" price="2.00" sold=false"#), "{line}");
        tail.signal(Signal::INT);
        assert_eq!(tail.end(), (Some(130), String::new()));
        assert_eq!(database.left(), left);
        database.sql("DELETE FROM items");
    }
}

/// A publication of updates would make PostgreSQL refuse them for tables that have no replica identity.
#[test]
fn watching_everything_disturbs_no_update_of_a_table_without_identity() {
    let database = Database::new("harmless");
    let mut tail = database.tail(&["--limit", "3"]);
    assert!(tail.notes.contains("without replica identity: public.notes"), "{}", tail.notes);
    database.sql("INSERT INTO notes VALUES ('a'); UPDATE notes SET text = 'b'; DELETE FROM notes");
    database.sql("CREATE TABLE later (text text); INSERT INTO later VALUES ('c'); UPDATE later SET text = 'd'");
    database.sql("INSERT INTO items VALUES (1)");
    for part in [r#"INSERT public.notes text="a""#, r#"INSERT public.later text="c""#, "INSERT public.items id=1"] {
        let line = tail.line();
        assert!(line.contains(part), "{line}");
    }
    assert_eq!(tail.end(), (Some(0), String::new()));
}

#[test]
fn what_a_killed_tail_leaves_is_named_and_the_next_one_drops_it() {
    let database = Database::new("killed");
    let mut tail = database.tail(&["--table", "items"]);
    tail.child.kill().unwrap();
    tail.child.wait().unwrap();
    let left = database.left();
    assert!(left.contains("pgbaton_tail_"), "{left}");
    database.sql(
        "DO $$ BEGIN WHILE EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name LIKE 'pgbaton_tail_%') LOOP PERFORM pg_stat_clear_snapshot(); END LOOP; END $$",
    );
    let tail = database.tail(&["--table", "items"]);
    assert!(tail.notes.contains("which an earlier tail had left behind"), "{}", tail.notes);
    tail.signal(Signal::TERM);
    assert_eq!(tail.end(), (Some(143), String::new()));
    assert_eq!(database.left(), "");
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let database = Database::new("pipe");
    let mut tail = database.tail(&["--table", "items"]);
    drop(tail.out.take());
    database.sql("INSERT INTO items VALUES (1)");
    assert_eq!(tail.end(), (Some(0), String::new()));
    assert_eq!(database.left(), "");
}

#[test]
fn what_is_missing_is_said_with_what_to_do() {
    let database = Database::new("missing");
    database.sql("CREATE PUBLICATION mine FOR TABLE items; CREATE ROLE poor LOGIN PASSWORD 'p'");
    database.sql("CREATE ROLE watcher LOGIN REPLICATION PASSWORD 'p'");
    for (arguments, part) in [
        (&["--publication", "yours"][..], "there is no publication \"yours\" in this database; it has mine"),
        (&["--table", "nothing"], "there is no table nothing"),
        (&["--table", "a..b"], "there is no table a..b"),
    ] {
        let (code, errors) = database.refused(arguments);
        assert_eq!(code, Some(1), "{errors}");
        assert!(errors.contains(part), "{errors}");
    }
    let as_role = |role: &str, arguments: &[&str]| {
        let url = database.url().replace("postgres:postgres-lab", &format!("{role}:p"));
        let output = command(&url, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let errors = as_role("poor", &[]);
    assert!(errors.contains("ALTER ROLE ... REPLICATION"), "{errors}");
    let errors = as_role("watcher", &[]);
    assert!(errors.contains("a superuser, run: CREATE PUBLICATION watched FOR ALL TABLES"), "{errors}");
    let errors = as_role("watcher", &["--table", "items"]);
    assert!(errors.contains("CREATE PUBLICATION watched FOR TABLE public.items"), "{errors}");
    assert_eq!(database.left(), "mine");
    let output = command("nonsense", &[]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(2), true));
}
