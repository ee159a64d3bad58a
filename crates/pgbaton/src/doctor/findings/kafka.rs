//! Kafka: brokers, the protocol's topics, what is promised of acknowledged records, transactions.

use pgbaton_sinks::kafka::{KafkaFacts, KafkaFault, TopicFacts};

use super::{Finding, unless};

pub(super) fn judge(prefix: &str, facts: &Result<KafkaFacts, KafkaFault>) -> Vec<Finding> {
    let facts = match facts {
        Ok(facts) => facts,
        Err(fault) => return vec![no_way_in(fault)],
    };
    let mut findings = vec![match facts.brokers {
        3.. => Finding::ok("kafka_brokers", format!("{} brokers", facts.brokers)),
        count => Finding::warning(
            "kafka_brokers",
            format!("{count} brokers"),
            "fewer than three cannot lose one and go on taking acknowledged writes",
            "run three brokers or more",
        ),
    }];
    let topics: Vec<_> = facts.topics.iter().flat_map(|topic| topic_findings(topic, facts.brokers)).collect();
    findings.extend(unless(topics, "kafka_topic", format!("{} topics of the pipeline exist", facts.topics.len())));
    findings.push(match &facts.may_create {
        None | Some(Ok(())) => Finding::ok("kafka_create", "topics may be made"),
        Some(Err(reason)) => Finding::warning(
            "kafka_create",
            format!("topics may not be made: {reason}"),
            "the topic of a new table, and those of the protocol at the first start, have to be there before",
            "kafka-acls.sh --add --allow-principal User:NAME --operation Create --topic PREFIX --resource-pattern-type \
             prefixed; or make them by hand",
        ),
    });
    findings.extend(rights(prefix, facts));
    findings.extend(settings(facts));
    findings
}

/// What we may do with what exists, and the transactional id.
fn rights(prefix: &str, facts: &KafkaFacts) -> Vec<Finding> {
    let Some(rights) = &facts.rights else {
        return vec![Finding::ok(
            "kafka_rights",
            "rights cannot be asked over this kind of connection; they are not judged",
        )];
    };
    let add = "kafka-acls.sh --add --allow-principal User:NAME";
    let mut findings = Vec::new();
    if rights.transactional_id_denied {
        findings.push(Finding::error(
            "kafka_rights",
            format!("no right to write under the transactional id pgbaton.{prefix}"),
            "without transactions nothing can be published",
            format!("{add} --operation Write --operation Describe --transactional-id pgbaton.{prefix}"),
        ));
    }
    for (topic, denied) in &rights.topics_denied {
        let operations: Vec<String> = denied.iter().map(|operation| format!("--operation {operation}")).collect();
        findings.push(Finding::error(
            "kafka_rights",
            format!("no right to {} topic {topic}", denied.join(", ")),
            "the pipeline writes there, and reads back what a torn transaction has left",
            format!("{add} {} --topic {topic}", operations.join(" ")),
        ));
    }
    unless(findings, "kafka_rights", "the rights that are needed are there".to_owned())
}

fn no_way_in(fault: &KafkaFault) -> Finding {
    let (why, fix) = match fault {
        KafkaFault::AuthFailed { .. } => (
            "Kafka does not take the credentials",
            "correct sasl.mechanism, sasl.username and sasl.password in kafka.properties",
        ),
        KafkaFault::TlsFailed { .. } => (
            "no secure connection",
            "set ssl.ca.location in kafka.properties to the authority that signed the brokers' certificates",
        ),
        KafkaFault::PermissionDenied { .. } => (
            "a right is missing",
            "kafka-acls.sh --add --allow-principal User:NAME --operation All --topic PREFIX --resource-pattern-type prefixed",
        ),
        KafkaFault::ConfigInvalid { .. } => ("the client cannot be made", "correct kafka.properties"),
        KafkaFault::Unreachable { .. } | KafkaFault::Failed { .. } => (
            "nothing can be published",
            "start Kafka, or correct kafka.brokers and security.protocol; the brokers' advertised.listeners must be \
             reachable from here, too",
        ),
    };
    Finding::error("kafka_connect", fault.to_string(), why, fix)
}

fn topic_findings(topic: &TopicFacts, brokers: usize) -> Vec<Finding> {
    let name = &topic.name;
    let mut findings = Vec::new();
    let alter = |change: &str| {
        format!("kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config {change}")
    };
    for invalid in &topic.invalid {
        let fix = match invalid.setting.as_str() {
            "partitions" => format!("kafka-topics.sh --delete --topic {name}, only before the first start"),
            setting => alter(&format!("{setting}={}", invalid.wanted.trim_end_matches(" or more"))),
        };
        let why = "what the protocol keeps there would not stay, or not stay in order";
        findings.push(Finding::error("kafka_topic", invalid.to_string(), why, fix));
    }
    let least = topic.settings.get("min.insync.replicas").and_then(|value| value.parse::<usize>().ok());
    if let Some(least) = least {
        if least > topic.in_sync {
            findings.push(Finding::error(
                "kafka_min_isr",
                format!("topic {name} has {} copies in sync and needs {least} for a write", topic.in_sync),
                "every write is refused",
                if least > topic.replicas {
                    alter(&format!("min.insync.replicas={}", topic.replicas.saturating_sub(1).max(1)))
                } else {
                    "start the brokers that are down".to_owned()
                },
            ));
        } else if least < 2 && brokers > 1 {
            findings.push(Finding::warning(
                "kafka_min_isr",
                format!("topic {name} takes a write that one broker alone has (min.insync.replicas = {least})"),
                "when that broker is lost, acknowledged records are",
                alter("min.insync.replicas=2"),
            ));
        }
    }
    if topic.replicas < brokers.min(3) {
        findings.push(Finding::warning(
            "kafka_replication",
            format!("topic {name} has {} copies on {brokers} brokers", topic.replicas),
            "a broker that is lost takes records with it, or stops the pipeline",
            "kafka-reassign-partitions.sh with three replicas for each partition",
        ));
    }
    if topic.settings.get("unclean.leader.election.enable").is_some_and(|value| value == "true") {
        findings.push(Finding::error(
            "kafka_unclean",
            format!("topic {name} lets a broker lead that lacks acknowledged records"),
            "then they are lost, without anybody being told",
            alter("unclean.leader.election.enable=false"),
        ));
    }
    findings
}

/// The settings of a broker.
fn settings(facts: &KafkaFacts) -> Vec<Finding> {
    let Some(settings) = &facts.settings else {
        return vec![Finding::ok("kafka_settings", "the brokers' settings may not be read; they are not judged")];
    };
    let number = |name: &str| settings.get(name).and_then(|value| value.parse::<u64>().ok());
    let mut findings = Vec::new();
    match settings.get("transaction.partition.verification.enable").map(String::as_str) {
        Some("true") => {}
        Some(_) => findings.push(Finding::warning(
            "kafka_settings",
            "transaction.partition.verification.enable is false",
            "a delayed write of a fenced producer can leave a transaction that hangs, and readers wait behind it",
            "set transaction.partition.verification.enable=true on the brokers",
        )),
        None => findings.push(Finding::error(
            "kafka_settings",
            "the brokers are older than Kafka 3.6",
            "they do not verify the partitions of a transaction: a delayed write of a fenced producer can hang there",
            "upgrade Kafka to 3.6 or later",
        )),
    }
    let ours = u64::try_from(facts.transaction_timeout.as_millis()).unwrap_or(u64::MAX);
    if let Some(most) = number("transaction.max.timeout.ms").filter(|most| *most < ours) {
        findings.push(Finding::error(
            "kafka_transactions",
            format!("transaction.max.timeout.ms is {most}, transactions of {ours} ms are asked for"),
            "no producer is initialised",
            format!(
                "set transaction.max.timeout.ms={ours} on the brokers, or transaction.timeout.ms in kafka.properties"
            ),
        ));
    }
    let replicas = number("transaction.state.log.replication.factor");
    if let Some(replicas) = replicas.filter(|replicas| *replicas < 3 && facts.brokers >= 3) {
        findings.push(Finding::warning(
            "kafka_transactions",
            format!("the transaction log has {replicas} copies"),
            "the loss of a broker stops every transaction",
            "kafka-reassign-partitions.sh for __transaction_state; transaction.state.log.replication.factor=3",
        ));
    }
    unless(findings, "kafka_settings", "the brokers' settings suit".to_owned())
}
