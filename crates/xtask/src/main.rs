//! `cargo xtask`: the commands. What they do is in the library.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use xtask::cluster::{Cluster, MAIN, Spec};
use xtask::{chores, docs, setup, suite, wait};

/// pgbaton's chores
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install what the machine lacks; idempotent
    Setup {
        /// Only say what is missing
        #[arg(long)]
        check: bool,
    },
    /// The local cluster: etcd, Patroni, HAProxy, Kafka, workers
    Cluster(ClusterArgs),
    /// Make the parts of the pages that come from the program
    Docs,
    /// Remove all that the chores made
    Clean,
    /// Format, lints, unit tests, real servers, whole clusters; or only the tests whose name contains FILTER
    Test {
        /// Part of a test's name
        filter: Option<String>,
    },
    /// The load generator
    #[command(disable_help_flag = true)]
    Load(ToolArgs),
    /// Compare tables with topics
    #[command(disable_help_flag = true)]
    Check(ToolArgs),
    /// The main job, shown: kill, freeze, switchover, and nothing lost
    #[command(disable_help_flag = true)]
    Demo(ToolArgs),
    /// Random faults on every node and every way, and nothing lost
    #[command(disable_help_flag = true)]
    Chaos(ToolArgs),
    /// One scripted failure by name, or --list
    #[command(disable_help_flag = true)]
    Scenario(ToolArgs),
    /// The compose file, brought up and failed over; needs a container engine, or Debian and root to install one
    #[command(disable_help_flag = true)]
    ComposeTest(ToolArgs),
    /// Figures
    #[command(disable_help_flag = true)]
    Bench(ToolArgs),
    /// Schedules in a world of virtual time in which things go wrong, and the guards that they catch missing
    #[command(disable_help_flag = true)]
    Simulate(ToolArgs),
}

/// Handed on as they are.
#[derive(Args)]
struct ToolArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

#[derive(Args)]
struct ClusterArgs {
    /// Clusters with different names run side by side
    #[arg(long, global = true, env = "XTASK_INSTANCE", default_value = MAIN)]
    instance: String,
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Subcommand)]
enum ClusterCommand {
    /// Start it and wait until all of it works
    Up {
        /// PostgreSQL's major version [default: 15, or the lowest newer one installed]
        #[arg(long)]
        pg: Option<u16>,
        /// Workers of the pipeline `orders`
        #[arg(long, default_value_t = 2)]
        workers: usize,
        /// Kafka brokers, 1 or 3
        #[arg(long, default_value_t = 1)]
        brokers: usize,
        /// etcd members
        #[arg(long, default_value_t = 3)]
        etcd: usize,
        /// The workers deliver at least once
        #[arg(long)]
        at_least_once: bool,
        /// The workers publish only what all standbys have flushed
        #[arg(long)]
        standby_barrier: bool,
        /// Write the report there
        #[arg(long)]
        report: Option<PathBuf>,
    },
    /// Show it
    Status {
        /// Write the report there
        #[arg(long)]
        report: Option<PathBuf>,
    },
    /// End every process of it
    Down,
    /// SIGKILL a node
    Kill {
        /// `pg-1`, `worker-2`, `etcd-3`, `kafka-1`, `haproxy`
        name: String,
    },
    /// SIGSTOP a node
    Stop {
        /// The node
        name: String,
    },
    /// SIGCONT a node
    Cont {
        /// The node
        name: String,
    },
    /// SIGTERM a node and wait for its end
    Term {
        /// The node
        name: String,
    },
    /// Start a dead node again
    Start {
        /// The node
        name: String,
    },
    /// Make another node the database's leader
    Switchover {
        /// The new leader [default: Patroni's choice]
        #[arg(long)]
        to: Option<String>,
    },
    /// psql as the superuser, on the leader through HAProxy or on one node
    Psql {
        /// The node
        #[arg(long)]
        node: Option<String>,
        /// Arguments of psql
        #[arg(last = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    if let Err(error) = interrupt_on_signals() {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    match run(Cli::parse().chore) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            if wait::is_interrupted() { ExitCode::from(130) } else { ExitCode::FAILURE }
        }
    }
}

/// Ctrl-C ends a start in order: what was started is ended where it was started.
fn interrupt_on_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("listen to signals")?;
    std::thread::spawn(move || signals.forever().for_each(|_| wait::interrupt()));
    Ok(())
}

fn run(chore: Chore) -> Result<ExitCode> {
    match chore {
        Chore::Setup { check } => setup::run(check)?,
        Chore::Cluster(args) => return cluster(&args.instance, args.command),
        Chore::Docs => docs::run()?,
        Chore::Clean => chores::clean()?,
        Chore::Test { filter } => {
            let passed = suite::run(filter.as_deref())?;
            return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Chore::Load(tool) => chores::run_tool("load", &tool.args)?,
        Chore::Check(tool) => chores::run_tool("check", &tool.args)?,
        Chore::Demo(tool) => chores::run_tool("demo", &tool.args)?,
        Chore::Chaos(tool) => chores::run_tool("chaos", &tool.args)?,
        Chore::Scenario(tool) => chores::run_tool("scenario", &tool.args)?,
        Chore::ComposeTest(tool) => chores::run_tool("compose-test", &tool.args)?,
        Chore::Bench(tool) => chores::run_tool("bench", &tool.args)?,
        Chore::Simulate(tool) => chores::simulate(&tool.args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn cluster(instance: &str, command: ClusterCommand) -> Result<ExitCode> {
    let attach = || Cluster::attach(instance);
    match command {
        ClusterCommand::Up { pg, workers, brokers, etcd, at_least_once, standby_barrier, report } => {
            setup::ensure_done()?;
            let instance = instance.to_owned();
            let spec = Spec { instance, pg, workers, brokers, etcd, proxied: false, at_least_once, standby_barrier };
            let cluster = Cluster::up(&spec)?;
            println!("{}", cluster.describe()?);
            write_report(&cluster, "cluster-up", report.as_deref())?;
        }
        ClusterCommand::Status { report } => {
            let cluster = attach()?;
            println!("{}", cluster.describe()?);
            write_report(&cluster, "cluster-status", report.as_deref())?;
        }
        ClusterCommand::Down => Cluster::down(instance)?,
        ClusterCommand::Kill { name } => attach()?.kill(&name)?,
        ClusterCommand::Stop { name } => attach()?.stop(&name)?,
        ClusterCommand::Cont { name } => attach()?.cont(&name)?,
        ClusterCommand::Term { name } => attach()?.term(&name)?,
        ClusterCommand::Start { name } => attach()?.start(&name)?,
        ClusterCommand::Switchover { to } => println!("{}", attach()?.switchover(to.as_deref())?),
        ClusterCommand::Psql { node, args } => {
            return Err(attach()?.psql(node.as_deref())?.args(args).exec()).context("run psql");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_report(cluster: &Cluster, kind: &str, file: Option<&Path>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(&cluster.report(kind)?)?;
    std::fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))
}
