//! Faults and their undoing, by name: kill, freeze, continue, stop, start, switch over; and the end of a test's cluster.

use std::ops::Deref;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::state::State;
use super::{Cluster, start};
use crate::http;
use crate::instance::Instance;
use crate::process::{self, ProcessId, Signal};
use crate::wait::{until, until_even_if_interrupted};

impl Cluster {
    /// SIGKILL to all that the node consists of (`pg-N`: Patroni and its PostgreSQL). Returns when it is gone.
    pub fn kill(&self, name: &str) -> Result<()> {
        let state = self.state()?;
        ensure_any(signal(&self.instance, &state, name, Signal::KILL)?, name)?;
        process::kill_all(|| processes(&self.instance, &state, name));
        Ok(())
    }

    /// SIGKILL, and the node is none of the cluster's any more: for a worker that was added and has done its work.
    pub fn dismiss(&self, name: &str) -> Result<()> {
        let _lock = self.instance.lock()?;
        let mut state = self.state()?;
        process::kill_all(|| processes(&self.instance, &state, name));
        state.nodes.remove(name).with_context(|| format!("there is no node {name}"))?;
        state.save(&self.instance)
    }

    /// SIGSTOP: the node is frozen, its connections stay open.
    pub fn stop(&self, name: &str) -> Result<()> {
        ensure_any(signal(&self.instance, &self.state()?, name, Signal::STOP)?, name)
    }

    /// SIGCONT: a frozen node goes on.
    pub fn cont(&self, name: &str) -> Result<()> {
        ensure_any(signal(&self.instance, &self.state()?, name, Signal::CONT)?, name)
    }

    /// SIGTERM, and waits until the node has ended in order. Patroni stops its PostgreSQL.
    pub fn term(&self, name: &str) -> Result<()> {
        let state = self.state()?;
        let process = state.node(name)?.process.filter(|process| process.is_alive());
        process.with_context(|| format!("{name} does not run"))?.signal(Signal::TERM);
        until(&format!("{name} to end after SIGTERM"), Duration::from_secs(90), || {
            Ok(processes(&self.instance, &state, name).is_empty().then_some(()))
        })
    }

    /// Starts a dead node again as it was: same ports, same data, same configuration. Does not wait for it to work.
    pub fn start(&self, name: &str) -> Result<()> {
        let _lock = self.instance.lock()?;
        let mut state = self.state()?;
        ensure!(
            processes(&self.instance, &state, name).is_empty(),
            "{name} runs already (or something of it still does)"
        );
        start::launch(self, &mut state, name)
    }

    /// The pids of a node: the process that was started first, then (`pg-N`) PostgreSQL's. Empty while it is dead.
    pub fn pids(&self, name: &str) -> Result<Vec<i32>> {
        Ok(pids(&self.state()?, name))
    }

    /// A planned change of the database's leader, as `patronictl switchover` does it; returns the new leader when Patroni says
    /// that it is done. Without `to` Patroni chooses.
    pub fn switchover(&self, to: Option<&str>) -> Result<String> {
        let leader = self.leader()?;
        let state = self.state()?;
        let request = match to {
            Some(to) => {
                state.node(to)?;
                serde_json::json!({"leader": leader, "candidate": to})
            }
            None => serde_json::json!({"leader": leader}),
        };
        let rest = state.node(&leader)?.rest.context("a leader has a REST interface")?;
        let answer = http::post(rest, "/switchover", &request.to_string(), Duration::from_secs(120))?;
        ensure!(answer.status == 200, "Patroni refused the switchover ({}): {}", answer.status, answer.body);
        until("the new leader to answer", Duration::from_secs(30), || {
            Ok(self.leader().ok().filter(|new| *new != leader))
        })
    }
}

fn processes(instance: &Instance, state: &State, name: &str) -> Vec<ProcessId> {
    let data = state.nodes.get(name).and_then(|node| node.data.as_deref());
    process::of_node(instance.dir(), name, data)
}

/// Returns how many processes it reached.
fn signal(instance: &Instance, state: &State, name: &str, signal: Signal) -> Result<usize> {
    // Patroni first: it would start a PostgreSQL anew that it sees dying.
    let first = state.node(name)?.process.is_some_and(|process| process.signal(signal));
    Ok(usize::from(first) + process::signal_all(|| processes(instance, state, name), signal).len())
}

fn ensure_any(reached: usize, name: &str) -> Result<()> {
    ensure!(reached > 0, "{name} does not run");
    Ok(())
}

pub(super) fn pids(state: &State, name: &str) -> Vec<i32> {
    let Some(node) = state.nodes.get(name) else { return Vec::new() };
    let first = node.process.filter(|process| process.is_alive()).map(|process| process.pid);
    let postmaster = node.data.as_ref().and_then(|data| {
        let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let pid: i32 = text.lines().next()?.parse().ok()?;
        // The file outlives a killed server, and its number may be somebody else's by now.
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        (cwd == *data).then_some(pid)
    });
    first.into_iter().chain(postmaster).collect()
}

/// Asks several nodes to end, and kills what has not ended after `bound`.
pub(super) fn end_together(instance: &Instance, state: &State, names: &[&str], bound: Duration) {
    for name in names {
        // A frozen process handles no SIGTERM.
        process::signal_all(|| processes(instance, state, name), Signal::CONT);
        if let Some(process) = state.nodes.get(*name).and_then(|node| node.process) {
            process.signal(Signal::TERM);
        }
    }
    let left = || names.iter().flat_map(|name| processes(instance, state, name)).collect::<Vec<_>>();
    let ended = until_even_if_interrupted("nodes to end", bound, || Ok(left().is_empty().then_some(())));
    if ended.is_err() {
        eprintln!("    {}: not ended {} s after SIGTERM, killed", names.join(" "), bound.as_secs());
        process::kill_all(left);
    }
}

/// A test's cluster: everything of it is gone when this is dropped. After a panic its logs stay.
#[derive(Debug)]
pub struct Guard(Cluster);

impl Guard {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self(cluster)
    }
}

impl Deref for Guard {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Cluster { lab, instance } = &self.0;
        // A test that failed need not have panicked: its logs stay until the next cluster of this name.
        let cleared = instance.clear(lab, false).and_then(|()| State::remove(instance));
        if std::thread::panicking() {
            eprintln!("logs of the cluster: {}", instance.logs().display());
        }
        if let Err(error) = cleared {
            eprintln!("end the cluster {}: {error:#}", instance.name());
        }
    }
}
