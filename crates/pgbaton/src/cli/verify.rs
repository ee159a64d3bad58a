//! `pgbaton verify`: judges what stands in the topics of a pipeline, with nothing but Kafka.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use pgbaton_core::audit::{Fault, Looked};
use pgbaton_sinks::kafka::{KafkaAudit, KafkaFault, KafkaTarget};
use serde_json::json;

use super::{FAILED, Files, UNHEALTHY, USAGE, complain, config::refuse, say};
use crate::{config::load, servers};

/// Between two rounds of `--follow`.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    files: Files,
    /// Which pipeline; needed where the configuration has several
    #[arg(long, value_name = "P")]
    pipeline: Option<String>,
    /// Kafka, HOST:PORT, instead of a configuration
    #[arg(long, value_name = "BROKERS", requires = "topic_prefix", conflicts_with = "files")]
    brokers: Option<String>,
    /// The pipeline's topic prefix, with --brokers
    #[arg(long, value_name = "PREFIX", requires = "brokers")]
    topic_prefix: Option<String>,
    /// The data topics are compacted: changes may be missing within a transaction
    #[arg(long)]
    compacted: bool,
    /// Go on with what comes, until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// One JSON object for each fault, and one at the end
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> u8 {
    let target = match target(&arguments) {
        Ok(target) => target,
        Err(code) => return code,
    };
    match verify(&target, &arguments).await {
        Ok(code) => code,
        Err(fault) => {
            complain(fault);
            FAILED
        }
    }
}

async fn verify(target: &KafkaTarget, arguments: &Arguments) -> Result<u8, KafkaFault> {
    let mut audit = KafkaAudit::new(target, !arguments.compacted)?;
    let mut wrong = 0;
    loop {
        match audit.round().await {
            Ok(faults) => {
                wrong += faults.len();
                faults.iter().for_each(|fault| tell(fault, arguments.json));
            }
            // Kafka comes back; whoever follows waits for it.
            Err(fault) if arguments.follow && fault.is_passing() => complain(fault),
            Err(fault) => return Err(fault),
        }
        if !arguments.follow {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    sum_up(audit.looked(), wrong, arguments.json);
    Ok(if wrong == 0 { 0 } else { UNHEALTHY })
}

fn tell(fault: &Fault, as_json: bool) {
    let Fault { rule, place, text } = fault;
    if as_json {
        say(json!({
            "rule": rule.as_str(), "topic": place.topic, "partition": place.partition, "offset": place.offset, "text": text,
        }));
    } else {
        say(format_args!("{}: {place}: {text}", rule.as_str()));
    }
}

fn sum_up(looked: Looked, wrong: usize, as_json: bool) {
    let Looked { records, transactions, progress, claims, torn, divergences } = looked;
    if as_json {
        say(json!({
            "sound": wrong == 0, "faults": wrong, "records": records, "transactions": transactions,
            "progress_records": progress, "claims": claims, "torn": torn, "divergences": divergences,
        }));
    } else {
        let verdict = if wrong == 0 { "sound".to_owned() } else { format!("not sound, {wrong} faults") };
        say(format_args!(
            "{verdict}: {records} records of {transactions} transactions; {progress} progress records, {claims} claims, \
             {torn} torn and named, {divergences} divergences marked"
        ));
    }
}

fn target(arguments: &Arguments) -> Result<KafkaTarget, u8> {
    if let (Some(brokers), Some(topic_prefix)) = (&arguments.brokers, &arguments.topic_prefix) {
        return Ok(KafkaTarget {
            brokers: brokers.clone(),
            topic_prefix: topic_prefix.clone(),
            properties: BTreeMap::new(),
            client_id: "pgbaton-verify".to_owned(),
        });
    }
    let config = load(&arguments.files.given()).map_err(|invalid| refuse(&invalid))?.config;
    let (_, settings) = servers::pipeline(&config, arguments.pipeline.as_deref()).map_err(|reason| {
        complain(reason);
        USAGE
    })?;
    Ok(servers::kafka_target(&config, settings))
}
