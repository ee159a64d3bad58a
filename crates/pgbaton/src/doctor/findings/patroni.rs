//! Patroni: is the slot declared, are the nodes well, does the cluster live through an outage of etcd.

use serde_json::Value;

use super::super::facts::{PatroniFacts, PostgresFacts, Wanted};
use super::Finding;

/// The first version that leaves native failover slots alone.
const LEAVES_FAILOVER_SLOTS: (u32, u32) = (4, 1);
/// Before this one a switchover could go back to an older timeline and lose what was committed.
const SAFE: (u32, u32) = (4, 0);

pub(super) fn judge(wanted: &Wanted, facts: &PatroniFacts, postgres: Option<&PostgresFacts>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (url, node) in &facts.nodes {
        findings.push(match node {
            Ok(version) => version_of(url, version),
            Err(reason) => Finding::warning(
                "patroni_node",
                format!("{url}: {reason}"),
                "what this node knows cannot be seen; fewer nodes are left to fail over to",
                "start Patroni there, or correct postgres.patroni",
            ),
        });
    }
    let Some(config) = &facts.config else {
        findings.push(Finding::warning(
            "patroni_slot",
            "no node told its configuration",
            "whether the slot is declared cannot be seen",
            "make one of postgres.patroni reachable",
        ));
        return findings;
    };
    let failover = postgres.and_then(|facts| facts.seen.slot.as_ref()).is_some_and(|slot| slot.failover == Some(true));
    findings.push(declared(wanted, facts, config, failover));
    findings.push(match config["failsafe_mode"] {
        Value::Bool(true) => Finding::ok("patroni_failsafe", "failsafe_mode is on"),
        _ => Finding::warning(
            "patroni_failsafe",
            "failsafe_mode is off",
            "when etcd does not answer, Patroni takes the database down for everybody",
            "patronictl edit-config: failsafe_mode: true",
        ),
    });
    let parameters = &config["postgresql"]["parameters"];
    let on = |value: &Value| matches!(value.as_str(), Some("on" | "true" | "yes" | "1")) || *value == Value::Bool(true);
    if !on(&parameters["hot_standby_feedback"]) && !failover {
        findings.push(Finding::warning(
            "patroni_feedback",
            "hot_standby_feedback is not set in Patroni's configuration",
            "without it rows of the catalogue that the slot's copies need may be removed, and a copy cannot be used after a \
             failover",
            "patronictl edit-config: postgresql: {parameters: {hot_standby_feedback: 'on'}}",
        ));
    }
    let sick: Vec<_> = facts
        .members
        .iter()
        .filter(|(_, _, state)| !matches!(state.as_str(), "running" | "streaming"))
        .map(|(name, _, state)| format!("{name} is {state}"))
        .collect();
    findings.push(match (sick.is_empty(), facts.members.len()) {
        (true, 2..) => Finding::ok("patroni_members", format!("{} members are well", facts.members.len())),
        (true, count) => Finding::warning(
            "patroni_members",
            format!("{count} member is known"),
            "there is nothing to fail over to",
            "add nodes to the cluster",
        ),
        (false, _) => Finding::warning(
            "patroni_members",
            sick.join(", "),
            "fewer nodes are left to fail over to",
            "patronictl list; patronictl reinit CLUSTER MEMBER where one does not come back",
        ),
    });
    if facts.paused {
        findings.push(Finding::warning(
            "patroni_paused",
            "Patroni is paused",
            "it neither fails over nor keeps slots",
            "patronictl resume",
        ));
    }
    findings
}

fn declared(wanted: &Wanted, facts: &PatroniFacts, config: &Value, failover: bool) -> Finding {
    let (name, database) = (&wanted.slot, &wanted.database);
    let fix =
        format!("patronictl edit-config: slots: {{{name}: {{type: logical, database: {database}, plugin: pgoutput}}}}");
    let slot = &config["slots"][name];
    if slot.is_object() {
        let differs: Vec<_> = [("type", "logical"), ("database", database.as_str()), ("plugin", "pgoutput")]
            .into_iter()
            .filter(|(key, right)| slot[key].as_str().is_some_and(|found| found != *right))
            .map(|(key, _)| format!("{key} {}", slot[key].as_str().unwrap_or_default()))
            .collect();
        if differs.is_empty() {
            return Finding::ok("patroni_slot", format!("slot {name} is declared"));
        }
        return Finding::error(
            "patroni_slot",
            format!("slot {name} is declared with {}", differs.join(", ")),
            "Patroni drops a slot that differs from its declaration, and makes the declared one",
            fix,
        );
    }
    let ignored = config["ignore_slots"].as_array().into_iter().flatten();
    let ignored = ignored.filter(|rule| rule["name"].as_str().is_none_or(|ignored| ignored == name)).count() > 0;
    let leaves = facts.nodes.iter().all(|(_, node)| {
        node.as_ref().is_ok_and(|version| numbers(version).is_some_and(|version| version >= LEAVES_FAILOVER_SLOTS))
    });
    match (failover, ignored || leaves) {
        (true, true) => Finding::ok("patroni_slot", format!("slot {name} is PostgreSQL's own failover slot")),
        (true, false) => Finding::error(
            "patroni_slot",
            format!("slot {name} is a failover slot that this Patroni does not know"),
            "it drops slots that it does not know as soon as nobody reads them",
            format!("patronictl edit-config: ignore_slots: [{{name: {name}, type: logical}}]; or upgrade to 4.1"),
        ),
        (false, _) => Finding::error(
            "patroni_slot",
            format!("slot {name} is not declared"),
            "Patroni drops a slot that it does not know as soon as nobody reads it, and copies it to no standby: the next \
             restart or failover is a gap",
            fix,
        ),
    }
}

fn version_of(url: &str, version: &str) -> Finding {
    match numbers(version) {
        Some(numbers) if numbers < SAFE => Finding::error(
            "patroni_node",
            format!("{url} runs Patroni {version}"),
            "versions before 4.0 can return to an older timeline in a switchover and lose what was committed and streamed",
            "upgrade Patroni to 4.0.7 or later",
        ),
        _ => Finding::ok("patroni_node", format!("{url} runs Patroni {version}")),
    }
}

fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}
