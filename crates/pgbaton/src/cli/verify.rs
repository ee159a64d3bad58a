//! `pgbaton verify`: judges what stands in the topics of a pipeline, with nothing but Kafka, and where delivery is at least once with
//! the checkpoint in etcd.

use std::{collections::BTreeMap, time::Duration};

use clap::{Args, ValueEnum};
use pgbaton_core::audit::{self, Fault, Looked};
use pgbaton_sinks::kafka::{KafkaAudit, KafkaFault, KafkaTarget};
use serde_json::json;

use super::{FAILED, Files, UNHEALTHY, USAGE, complain, config::refuse, say};
use crate::{
    config::{self, load},
    coordination::{Etcd, KeptError},
    servers,
};

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
    /// What was promised: at least once records may stand there again [default: as configured, else exactly-once]
    #[arg(long, value_name = "DELIVERY")]
    delivery: Option<Delivery>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Delivery {
    ExactlyOnce,
    AtLeastOnce,
}

/// What is judged, and how.
struct Judged {
    kafka: KafkaTarget,
    delivery: audit::Delivery,
    /// Where the checkpoint is, if it is the progress.
    etcd: Option<Etcd>,
}

pub(super) async fn run(arguments: Arguments) -> u8 {
    let judged = match judged(&arguments) {
        Ok(judged) => judged,
        Err(code) => return code,
    };
    match verify(&judged, &arguments).await {
        Ok(code) => code,
        Err(Failed::Kafka(fault)) => {
            complain(fault);
            FAILED
        }
        Err(Failed::Checkpoint(error)) => {
            complain(error);
            FAILED
        }
    }
}

/// Why nothing can be judged.
enum Failed {
    Kafka(KafkaFault),
    Checkpoint(KeptError),
}

async fn verify(judged: &Judged, arguments: &Arguments) -> Result<u8, Failed> {
    // Without a checkpoint nobody can say up to where all is there.
    let is_dense = !arguments.compacted && (judged.delivery == audit::Delivery::ExactlyOnce || judged.etcd.is_some());
    let mut audit = KafkaAudit::new(&judged.kafka, judged.delivery, is_dense).map_err(Failed::Kafka)?;
    let mut wrong = 0;
    loop {
        match round(&mut audit, judged).await {
            Ok(faults) => {
                wrong += faults.len();
                faults.iter().for_each(|fault| tell(fault, arguments.json));
            }
            // Kafka comes back, and etcd; whoever follows waits for it.
            Err(Failed::Kafka(fault)) if arguments.follow && fault.is_passing() => complain(fault),
            Err(Failed::Checkpoint(KeptError::Etcd(error))) if arguments.follow => complain(error),
            Err(failed) => return Err(failed),
        }
        if !arguments.follow {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    sum_up(audit.looked(), wrong, arguments.json);
    Ok(if wrong == 0 { 0 } else { UNHEALTHY })
}

async fn round(audit: &mut KafkaAudit, judged: &Judged) -> Result<Vec<Fault>, Failed> {
    let checkpoint = match &judged.etcd {
        Some(etcd) => etcd.checkpoint(&judged.kafka.topic_prefix).await.map_err(Failed::Checkpoint)?.record,
        None => None,
    };
    audit.round(checkpoint).await.map_err(Failed::Kafka)
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
    let Looked { records, repeated, transactions, progress, claims, torn, divergences } = looked;
    if as_json {
        say(json!({
            "sound": wrong == 0, "faults": wrong, "records": records, "repeated": repeated, "transactions": transactions,
            "progress_records": progress, "claims": claims, "torn": torn, "divergences": divergences,
        }));
    } else {
        let verdict = if wrong == 0 { "sound".to_owned() } else { format!("not sound, {wrong} faults") };
        say(format_args!(
            "{verdict}: {records} records of {transactions} transactions, {repeated} told again; {progress} progress records, {claims} claims, \
             {torn} torn and named, {divergences} divergences marked"
        ));
    }
}

fn judged(arguments: &Arguments) -> Result<Judged, u8> {
    let usage = |reason: String| {
        complain(reason);
        USAGE
    };
    let is_asked_for = |delivery| arguments.delivery == Some(delivery);
    if let (Some(brokers), Some(topic_prefix)) = (&arguments.brokers, &arguments.topic_prefix) {
        if arguments.follow && is_asked_for(Delivery::AtLeastOnce) {
            let reason = "the checkpoint in etcd tells what of an at-least-once pipeline is whole: --follow needs -c";
            return Err(usage(reason.to_owned()));
        }
        let kafka = KafkaTarget {
            brokers: brokers.clone(),
            topic_prefix: topic_prefix.clone(),
            properties: BTreeMap::new(),
            client_id: "pgbaton-verify".to_owned(),
        };
        return Ok(Judged { kafka, delivery: as_audited(is_asked_for(Delivery::AtLeastOnce)), etcd: None });
    }
    let config = load(&arguments.files.given()).map_err(|invalid| refuse(&invalid))?.config;
    let (name, settings) = servers::pipeline(&config, arguments.pipeline.as_deref()).map_err(usage)?;
    let is_configured = settings.kafka.delivery == config::Delivery::AtLeastOnce;
    let delivery = as_audited(arguments.delivery.map_or(is_configured, |asked| asked == Delivery::AtLeastOnce));
    let etcd = match is_configured && delivery == audit::Delivery::AtLeastOnce {
        true => servers::etcd(&config, name).map_err(|error| usage(error.to_string()))?,
        false => None,
    };
    Ok(Judged { kafka: servers::kafka_target(&config, settings), delivery, etcd })
}

fn as_audited(is_at_least_once: bool) -> audit::Delivery {
    if is_at_least_once { audit::Delivery::AtLeastOnce } else { audit::Delivery::ExactlyOnce }
}
