//! `pgbaton position`: what the pipeline's progress says and what follows from it; and where to begin, when a person has to
//! say so. `init` is a claim like a worker's: it fences, reads, and writes a genesis in the claim's transaction.

use std::time::{Duration, Instant};

use clap::Subcommand;
use pgbaton_core::{
    Gap, Inspection, Journal, LeaseMark, Marks, ProgressRecord, PublicationMark, Recorded, SessionFacts, Term, Verdict,
    first_open, judge, judge_first_start,
};
use pgbaton_sinks::kafka::{Fenced, KafkaSession, KafkaTarget, read_progress};
use serde_json::{Value, json};

use super::pipeline::{Meant, Refusal, Which, nobody_holds};
use super::{UNHEALTHY, USAGE, say};
use crate::coordination::Etcd;
use crate::driver::{LAST_LIMIT, inspect};
use crate::servers;

/// The coordinator's part of the commit.
const COMMIT_LIMIT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// The last progress record, the slot, and whether the stream can go on from them
    Show {
        #[command(flatten)]
        which: Which,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Begin where the slot stands, whatever the progress says; all workers of the pipeline are stopped before
    Init {
        #[command(flatten)]
        which: Which,
        /// Yes: what committed before and is not in the topics will not come
        #[arg(long)]
        from_slot: bool,
    },
}

pub(super) async fn run(verb: Verb) -> u8 {
    let done = match verb {
        Verb::Show { which, json } => show(&which, json).await,
        Verb::Init { which, from_slot } => init(&which, from_slot).await.map(|()| 0),
    };
    done.unwrap_or_else(Refusal::code)
}

async fn look(meant: &Meant) -> Result<Inspection, Refusal> {
    let wanted = servers::wanted(meant.settings(), &meant.conninfo);
    let (connection, inspection, _) =
        inspect(&meant.conninfo, &wanted, LAST_LIMIT).await.map_err(|failure| Refusal::failed(failure.detail))?;
    connection.close().await;
    if inspection.in_recovery {
        return Err(Refusal::failed("the server is a standby; let postgres.url lead to the leader"));
    }
    Ok(inspection)
}

async fn show(which: &Which, as_json: bool) -> Result<u8, Refusal> {
    let meant = which.meant()?;
    let target = servers::kafka_target(&meant.config, meant.settings());
    let read = read_progress(&target).await.map_err(Refusal::failed)?.unwrap_or_default();
    let record = read.position.map(|stored| stored.record);
    let inspection = look(&meant).await?;
    let recorded = record.as_ref().and_then(Recorded::of);
    let verdict = match &recorded {
        Some(recorded) => judge(recorded, &inspection.server, &inspection.slot),
        None => judge_first_start(&inspection.server, &inspection.slot),
    };
    let torn = record
        .as_ref()
        .zip(read.last_open.as_ref())
        .is_some_and(|(record, open)| (&open.session, open.number) != (&record.session, record.number));
    if as_json {
        say(format_args!("{:#}", as_document(record.as_ref(), &inspection, &verdict, torn)));
    } else {
        in_words(&meant, record.as_ref(), &inspection, &verdict, torn);
    }
    Ok(if matches!(verdict, Verdict::Continue(..)) { 0 } else { UNHEALTHY })
}

fn as_document(record: Option<&ProgressRecord>, seen: &Inspection, verdict: &Verdict, torn: bool) -> Value {
    let verdict = match verdict {
        Verdict::Continue(resume, divergence) => json!({
            "goes_on": true, "timeline": resume.position.timeline, "lsn": resume.position.lsn, "divergence": divergence,
        }),
        Verdict::Quarantine(Gap { code, timeline, from_lsn, to_lsn, text }) => json!({
            "goes_on": false, "code": code, "timeline": timeline, "from_lsn": from_lsn, "to_lsn": to_lsn, "text": text,
        }),
    };
    let server = json!({
        "system_identifier": seen.server.system_identifier, "timeline": seen.server.history.current(),
        "wal_lsn": seen.server.write_position,
    });
    json!({"progress": record, "torn": torn, "server": server, "verdict": verdict})
}

fn in_words(meant: &Meant, record: Option<&ProgressRecord>, seen: &Inspection, verdict: &Verdict, torn: bool) {
    let line = |label: &str, value: String| say(format_args!("{label:<16} {value}"));
    match record {
        None => line("progress", "none: the pipeline has never run".to_owned()),
        Some(record) => {
            let term = record.term.map_or(0, |term| term.0);
            line(
                "progress",
                format!(
                    "term {term}, transaction {} of session {}, written by {}",
                    record.number, record.session, record.worker
                ),
            );
            if let Some(position) = record.position {
                line("published", format!("up to timeline {}, {}", position.timeline, position.lsn));
            }
            if let Some(watermark) = record.watermark {
                line("acknowledged", format!("at most timeline {}, {}", watermark.timeline, watermark.lsn));
            }
            if let Some(last) = &record.last {
                line("last", format!("transaction {}, committed {}", last.xid, last.committed_at));
            }
            if let Some(partial) = &record.partial {
                line("in part", format!("transaction {}, {} changes so far", partial.xid, partial.changes_done));
            }
        }
    }
    if torn {
        line("torn", "the last transaction was committed in part; the next worker reads back what is there".to_owned());
    }
    let server = &seen.server;
    line(
        "server",
        format!(
            "cluster {}, timeline {}, WAL up to {}",
            server.system_identifier,
            server.history.current(),
            server.write_position
        ),
    );
    let reader = seen.reader_pid.map_or("nobody".to_owned(), |pid| format!("process {pid}"));
    line("slot", format!("{}, read by {reader}", meant.slot()));
    match verdict {
        Verdict::Continue(resume, divergence) => {
            let position = resume.position;
            line("verdict", format!("goes on behind timeline {}, {}", position.timeline, position.lsn));
            if let Some(mark) = divergence {
                line(
                    "",
                    format!(
                        "the database forked at {}: what was published up to {} is marked as phantoms",
                        mark.from_lsn, mark.to_lsn
                    ),
                );
            }
        }
        Verdict::Quarantine(gap) => line("verdict", format!("stops, {}: {}", gap.code.as_str(), gap.text)),
    }
}

async fn init(which: &Which, from_slot: bool) -> Result<(), Refusal> {
    let meant = which.meant()?;
    if !from_slot {
        let reason =
            "what committed before the slot's position and is not in the topics will not come; say --from-slot";
        return Err(Refusal(USAGE, reason.to_owned()));
    }
    let etcd = meant.etcd()?;
    nobody_holds(etcd.as_ref()).await?;
    let inspection = look(&meant).await?;
    nobody_reads(&meant, &inspection)?;
    let resume = match judge_first_start(&inspection.server, &inspection.slot) {
        Verdict::Continue(resume, _) => resume,
        Verdict::Quarantine(gap) => return Err(Refusal::failed(format!("{}: {}", gap.code.as_str(), gap.text))),
    };
    let (session, worker) = (random_hex().map_err(Refusal::failed)?, format!("{} (position init)", meant.config.name));
    let target = servers::kafka_target(&meant.config, meant.settings());
    let Fenced { session: mut sink, read } =
        KafkaSession::fence(&target, &first_open(&session, &worker)).await.map_err(Refusal::failed)?;
    // A worker that came meanwhile is fenced by us; it goes first all the same.
    let alone = async {
        nobody_holds(etcd.as_ref()).await?;
        nobody_reads(&meant, &look(&meant).await?)
    };
    if let Err(refusal) = alone.await {
        sink.abort().await;
        return Err(refusal);
    }
    let before = read.position.as_ref().map(|stored| &stored.record);
    let facts = SessionFacts {
        session,
        worker,
        history: inspection.server.history.clone(),
        publication: PublicationMark {
            oid: inspection.server.publication_oid.unwrap_or_default(),
            tables_hash: inspection.tables_hash.clone(),
        },
        config_hash: servers::config_hash(meant.settings()),
        kafka_cluster: read.kafka_cluster.clone(),
        lease: lease(etcd.as_ref()).await?,
    };
    let term = Term(before.and_then(|record| record.term).map_or(1, |term| term.0 + 1));
    let mut journal = Journal::new(facts, term, read.position.as_ref().map(|stored| stored.hash.clone()));
    let records = journal.claim(&resume, true, Marks::default(), inspection.topics.clone());
    let topics: Vec<&str> = inspection.topics.iter().map(String::as_str).collect();
    if let Err(error) = sink.prepare_topics(&topics).await {
        sink.abort().await;
        return Err(Refusal::failed(error));
    }
    sink.claim(&records.progress, &records.markers, COMMIT_LIMIT).await.map_err(Refusal::failed)?;
    until_readable(&target, term).await?;
    let at = resume.position;
    say(format_args!("term {term} begins behind timeline {}, {}; start the workers", at.timeline, at.lsn));
    if let Some(old) = before.and_then(|record| record.position) {
        say(format_args!(
            "before it was timeline {}, {}: changes between are missing, or come once more",
            old.timeline, old.lsn
        ));
    }
    Ok(())
}

fn nobody_reads(meant: &Meant, seen: &Inspection) -> Result<(), Refusal> {
    match seen.reader_pid {
        None => Ok(()),
        Some(pid) => Err(Refusal::failed(format!("process {pid} reads slot {}; end it first", meant.slot()))),
    }
}

/// A commit is decided before its records can be read: who is told that it is done shall see it.
async fn until_readable(target: &KafkaTarget, term: Term) -> Result<(), Refusal> {
    let deadline = Instant::now() + COMMIT_LIMIT;
    loop {
        let read = read_progress(target).await.map_err(Refusal::failed)?.unwrap_or_default();
        if read.position.is_some_and(|stored| stored.record.term >= Some(term)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Refusal::failed("the claim is committed, and cannot be read yet: look with position show"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// No lease stands behind this claim; etcd's own revision orders it before every later holder.
async fn lease(etcd: Option<&Etcd>) -> Result<Option<LeaseMark>, Refusal> {
    let Some(etcd) = etcd else { return Ok(None) };
    let status = etcd.anywhere(|mut client| async move { client.status().await }).await.map_err(Refusal::failed)?;
    let (cluster, revision) = status.header().map_or((0, 0), |header| (header.cluster_id(), header.revision()));
    Ok(Some(LeaseMark { cluster_id: format!("{cluster:x}"), revision, left: Vec::new() }))
}

fn random_hex() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
