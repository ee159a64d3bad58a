//! The command line: what can be asked, and the exit code of each answer. Output that was asked for goes to standard
//! output, everything else to standard error.

mod addressed;
pub(crate) mod client;
mod config;
mod doctor;
mod handover;
mod health;
mod order;
mod peek;
mod pipeline;
mod position;
mod run;
mod signals;
mod slot;
mod status;
mod table;
mod tail;
mod verify;

use std::{
    ffi::OsString,
    fmt::Display,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

pub use run::{Driver, Start};

use crate::config::Given;

/// It failed while running.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
const USAGE: u8 = 2;
/// What was looked at is not healthy.
const UNHEALTHY: u8 = 3;
/// Ended by Ctrl-C.
const INTERRUPTED: u8 = 130;
/// Ended by a second SIGTERM.
const TERMINATED: u8 = 143;

/// Replicates row changes out of PostgreSQL with workers that stand in for one another: of several that watch one
/// logical replication slot exactly one streams, and the next takes over when it dies.
#[derive(Debug, Parser)]
#[command(
    name = "pgbaton",
    version,
    after_help = "\
Examples:
  pgbaton config check -c worker.toml           is this configuration right?
  pgbaton doctor -c worker.toml                 are PostgreSQL, etcd and Kafka as they have to be?
  pgbaton run -c worker.toml                    be a worker; start two or more, on different machines
  pgbaton status http://10.0.0.5:8080           who streams, who stands by?
  pgbaton handover http://10.0.0.5:8080         let another worker stream, before maintenance
  pgbaton tail postgresql://me@db/app           show changes of any PostgreSQL, without any of this

Exit codes: 0 done; 1 failed while running; 2 usage or configuration; 3 not healthy; 130 after Ctrl-C."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Be a worker, until SIGTERM or Ctrl-C: then hand over and end; a second signal ends at once
    Run {
        #[command(flatten)]
        files: Files,
        /// This worker's name, unique in the cluster [default: the host's name]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Where health, status and metrics are answered [default: 0.0.0.0:8080]
        #[arg(long, value_name = "IP:PORT")]
        listen: Option<String>,
        /// What is logged, in the syntax of RUST_LOG [default: info]
        #[arg(long, value_name = "LEVEL")]
        log_level: Option<String>,
    },
    /// Look at the configuration without starting anything
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Show all workers of a cluster in a table
    #[command(after_help = "One URL is enough: the other workers are found through it.\n\
        Exit code 3: a pipeline has no active worker or is quarantined; 1: no worker could be reached.")]
    Status {
        /// Workers to ask, as in http://10.0.0.5:8080
        #[arg(value_name = "URL", default_value = "http://127.0.0.1:8080")]
        urls: Vec<String>,
        /// One JSON object per look instead of a table
        #[arg(long)]
        json: bool,
        /// Look again every second until Ctrl-C
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        trust: client::Trust,
    },
    /// Whether a worker says that it is well, for container health checks: exit code 0, or 3 and why
    Health(health::Arguments),
    /// Let another worker stream; returns when it does
    #[command(
        after_help = "Exit code 3: nobody streams when the time is up; 1: refused, or the worker could not be reached."
    )]
    Handover(handover::Request),
    /// Stop a pipeline on every worker, until somebody resumes it
    Pause(order::Order),
    /// Let a paused pipeline go on
    Resume(order::Order),
    /// What has stopped a pipeline, and what an operator may accept
    #[command(subcommand)]
    Gap(order::GapVerb),
    /// Look at all that the pipelines need: PostgreSQL, slot, publication, Patroni, etcd, Kafka, and say what mends it
    #[command(after_help = "Changes nothing that lasts. Exit code 3: something is an error.")]
    Doctor {
        #[command(flatten)]
        files: Files,
        /// All findings as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the changes of any PostgreSQL as they happen; needs no etcd and no Kafka
    #[command(
        after_help = "Needs wal_level = logical and a role that may replicate. Reads a temporary slot, which goes with \
        the command, and where no publication is named two of its own, which are dropped at the end."
    )]
    Tail(tail::Arguments),
    /// Judge the topics of a pipeline without a database: ids, terms, transactions, progress, markers
    #[command(
        after_help = "Exit code 0: sound; 3: not, and what is wrong is named with topic, partition and offset; 1: Kafka \
        could not be read."
    )]
    Verify(verify::Arguments),
    /// The pipeline's slot: show it, make it before the first start, drop it at the end
    #[command(subcommand)]
    Slot(slot::Verb),
    /// Show the changes that wait in the slot, without taking them
    Peek(peek::Arguments),
    /// How far the pipeline is, and where it begins
    #[command(subcommand)]
    Position(position::Verb),
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Name every mistake, with its place
    Check {
        #[command(flatten)]
        files: Files,
        /// The mistakes as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the values that take effect and where each came from, secrets hidden
    Print {
        #[command(flatten)]
        files: Files,
        /// As JSON, without the places
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema (draft 2020-12) of the configuration, for editors and checks
    Schema,
}

#[derive(Debug, Args)]
struct Files {
    /// A TOML or YAML file; may be repeated, later files win, PGBATON_ variables win over files
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Files {
    fn given(&self) -> Given {
        Given { files: self.files.clone(), variables: std::env::vars_os().collect(), flags: Vec::new() }
    }
}

/// Does what the command line says. `driver` makes the loop that `run` runs.
pub fn main(arguments: impl IntoIterator<Item = OsString>, driver: impl Driver) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // --help and --version are no mistakes; a closed terminal is none of ours.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
    };
    ExitCode::from(match cli.command {
        Verb::Run { files, name, listen, log_level } => {
            let mut given = files.given();
            let flags = [
                ("--name", "name", name),
                ("--listen", "http.listen", listen),
                ("--log-level", "log.level", log_level),
            ];
            let flags = flags.into_iter().filter_map(|(flag, key, value)| Some((flag, key, value?)));
            given.flags = flags.collect();
            run::run(&given, driver)
        }
        Verb::Config(ConfigVerb::Check { files, json }) => config::check(&files.given(), json),
        Verb::Config(ConfigVerb::Print { files, json }) => config::print(&files.given(), json),
        Verb::Config(ConfigVerb::Schema) => config::schema(),
        Verb::Status { urls, json, watch, trust } => on_small_runtime(status::status(&urls, &trust, json, watch)),
        Verb::Health(arguments) => on_small_runtime(health::run(arguments)),
        Verb::Handover(request) => on_small_runtime(handover::handover(request)),
        Verb::Pause(order) => on_small_runtime(order::pause(order)),
        Verb::Resume(order) => on_small_runtime(order::resume(order)),
        Verb::Gap(verb) => on_small_runtime(order::gap(verb)),
        Verb::Doctor { files, json } => on_small_runtime(doctor::run(&files.given(), json)),
        Verb::Slot(verb) => on_small_runtime(slot::run(verb)),
        Verb::Peek(arguments) => on_small_runtime(peek::run(arguments)),
        Verb::Position(verb) => on_small_runtime(position::run(verb)),
        Verb::Verify(arguments) => on_small_runtime(verify::run(arguments)),
        Verb::Tail(arguments) => on_runtime(tail::run(arguments)),
    })
}

/// For work that Ctrl-C may simply drop.
fn on_small_runtime(work: impl Future<Output = u8>) -> u8 {
    on_runtime(async {
        tokio::select! {
            code = work => code,
            // A signal that cannot be caught ends the process by itself.
            Ok(()) = tokio::signal::ctrl_c() => INTERRUPTED,
        }
    })
}

/// For work that looks after signals itself.
fn on_runtime(work: impl Future<Output = u8>) -> u8 {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(work);
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            complain(format_args!("start the runtime: {error}"));
            FAILED
        }
    }
}

/// Prints what was asked for. A reader that went away (`| head`) is no failure.
fn say(text: impl Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn complain(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "pgbaton: {text}");
}

/// An error with all its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors print their cause themselves.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
