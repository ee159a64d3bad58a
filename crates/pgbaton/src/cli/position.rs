//! `pgbaton position`: what the pipeline's progress says and what follows from it; and where to begin, when a person has to
//! say so. `init` is a claim like a worker's: it fences, reads, and writes a genesis in the claim's transaction; where the
//! checkpoint is the progress, a genesis and a claim there, while nobody holds the baton.

use std::time::{Duration, Instant};

use clap::Subcommand;
use pgbaton_core::{
    Checkpoint, Gap, Inspection, Journal, LeaseMark, Marks, ProgressRecord, PublicationMark, ReadFrom, Recorded,
    SessionFacts, Term, Verdict, first_open, judge, judge_first_start, newer,
};
use pgbaton_sinks::kafka::{Begun, Fenced, KafkaSession, KafkaTarget, PlainSession, read_progress};
use serde_json::{Value, json};

use super::pipeline::{Meant, Refusal, Which, nobody_holds};
use super::{UNHEALTHY, USAGE, complain, say};
use crate::clock::Timestamp;
use crate::config::Delivery;
use crate::coordination::{Checkpointed, Etcd, Kept, KeptError};
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
    // A stream that goes on moves both: the slot as it was before the progress is not ahead of it, and the server as it is after has
    // all that was published.
    let slot = look(&meant).await?.slot;
    let read = read_progress(&target).await.map_err(Refusal::failed)?.unwrap_or_default();
    let kept = match kept(meant.etcd()?.as_ref(), &target).await {
        Ok(kept) => kept,
        Err(error) if meant.settings().kafka.delivery == Delivery::AtLeastOnce => return Err(Refusal::failed(error)),
        Err(error) => {
            complain(error);
            Kept::default()
        }
    };
    let progress = read.position.map(|stored| (stored.record, stored.hash));
    let (record, read_from) = newer(kept.record.as_ref(), progress);
    let record = record.map(|(record, _)| record);
    let inspection = look(&meant).await?;
    let recorded = record.as_ref().and_then(Recorded::of);
    let verdict = match &recorded {
        Some(recorded) => judge(recorded, &inspection.server, &slot),
        None => judge_first_start(&inspection.server, &slot),
    };
    let torn = record
        .as_ref()
        .filter(|_| read_from == ReadFrom::Progress)
        .zip(read.last_open.as_ref())
        .is_some_and(|(record, open)| (&open.session, open.number) != (&record.session, record.number));
    if as_json {
        say(format_args!("{:#}", as_document(record.as_ref(), read_from, &inspection, &verdict, torn)));
    } else {
        in_words(&meant, record.as_ref(), read_from, &inspection, &verdict, torn);
    }
    Ok(if matches!(verdict, Verdict::Continue(..)) { 0 } else { UNHEALTHY })
}

/// What etcd says of progress, where there is one.
async fn kept(etcd: Option<&Etcd>, target: &KafkaTarget) -> Result<Kept, KeptError> {
    match etcd {
        Some(etcd) => etcd.checkpoint(&target.topic_prefix).await,
        None => Ok(Kept::default()),
    }
}

fn as_document(
    record: Option<&ProgressRecord>,
    read_from: ReadFrom,
    seen: &Inspection,
    verdict: &Verdict,
    torn: bool,
) -> Value {
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
    let read_from = record.map(|_| if read_from == ReadFrom::Checkpoint { "checkpoint" } else { "progress" });
    json!({"progress": record, "read_from": read_from, "torn": torn, "server": server, "verdict": verdict})
}

fn in_words(
    meant: &Meant,
    record: Option<&ProgressRecord>,
    read_from: ReadFrom,
    seen: &Inspection,
    verdict: &Verdict,
    torn: bool,
) {
    let line = |label: &str, value: String| say(format_args!("{label:<16} {value}"));
    match record {
        None => line("progress", "none: the pipeline has never run".to_owned()),
        Some(record) => {
            let term = record.term.map_or(0, |term| term.0);
            line(
                "progress",
                format!(
                    "term {term}, transaction {} of session {}, written by {}{}",
                    record.number,
                    record.session,
                    record.worker,
                    if read_from == ReadFrom::Checkpoint { ", the checkpoint in etcd" } else { "" }
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
    let kept = kept(etcd.as_ref(), &target).await.map_err(Refusal::failed)?;
    let mut sink = Beginning::fence(&meant, &target, &first_open(&session, &worker)).await?;
    // A worker that came meanwhile is fenced by us; it goes first all the same.
    let alone = async {
        nobody_holds(etcd.as_ref()).await?;
        nobody_reads(&meant, &look(&meant).await?)
    };
    if let Err(refusal) = alone.await {
        sink.close().await;
        return Err(refusal);
    }
    let (read, kafka_cluster) = sink.read();
    let (before, _) = newer(kept.record.as_ref(), read);
    let facts = SessionFacts {
        session,
        worker,
        history: inspection.server.history.clone(),
        publication: PublicationMark {
            oid: inspection.server.publication_oid.unwrap_or_default(),
            tables_hash: inspection.tables_hash.clone(),
        },
        config_hash: servers::config_hash(meant.settings()),
        kafka_cluster,
        lease: lease(etcd.as_ref()).await?,
    };
    let last = before.as_ref().map(|(record, _)| record);
    let term = Term(last.and_then(|record| record.term).map_or(1, |term| term.0 + 1));
    let mut journal = Journal::new(facts, term, before.as_ref().map(|(_, hash)| hash.clone()));
    let records = journal.claim(&resume, true, Marks::default(), inspection.topics.clone());
    let topics: Vec<&str> = inspection.topics.iter().map(String::as_str).collect();
    if let Err(refusal) = sink.prepare(&topics).await {
        sink.close().await;
        return Err(refusal);
    }
    if let Beginning::Fenced(fenced) = &mut sink {
        fenced.session.claim(&records.progress, &records.markers, COMMIT_LIMIT).await.map_err(Refusal::failed)?;
        until_readable(&target, term).await?;
    }
    if let (Delivery::AtLeastOnce, Some(etcd)) = (meant.settings().kafka.delivery, &etcd) {
        keep(&meant, etcd, kept.revision, &records.progress).await?;
    }
    let before = last;
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

/// What Kafka holds, and the session that read it.
enum Beginning {
    /// There is a progress topic, or there has to be one: its sessions are fenced.
    Fenced(Box<Fenced>),
    /// The checkpoint is all the progress there ever was.
    Plain(Box<Begun>),
}

impl Beginning {
    async fn fence(meant: &Meant, target: &KafkaTarget, open: &ProgressRecord) -> Result<Self, Refusal> {
        let needed = meant.settings().kafka.delivery == Delivery::ExactlyOnce
            || read_progress(target).await.map_err(Refusal::failed)?.is_some();
        if needed {
            let fenced = KafkaSession::fence(target, open).await.map_err(Refusal::failed)?;
            return Ok(Beginning::Fenced(Box::new(fenced)));
        }
        let patience = servers::delivery_patience(&meant.config);
        let begun = PlainSession::begin(target, patience, false).await.map_err(Refusal::failed)?;
        Ok(Beginning::Plain(Box::new(begun)))
    }

    /// The newest progress in Kafka with its hash, and Kafka's cluster id.
    fn read(&self) -> (Option<(ProgressRecord, String)>, Option<String>) {
        match self {
            Beginning::Fenced(fenced) => {
                let stored = fenced.read.position.clone();
                (stored.map(|stored| (stored.record, stored.hash)), fenced.read.kafka_cluster.clone())
            }
            Beginning::Plain(begun) => (None, begun.kafka_cluster.clone()),
        }
    }

    async fn prepare(&mut self, topics: &[&str]) -> Result<(), Refusal> {
        let prepared = match self {
            Beginning::Fenced(fenced) => fenced.session.prepare_topics(topics).await,
            Beginning::Plain(begun) => begun.session.prepare_topics(topics).await,
        };
        prepared.map_err(Refusal::failed)
    }

    async fn close(self) {
        match self {
            Beginning::Fenced(fenced) => fenced.session.abort().await,
            Beginning::Plain(begun) => begun.session.end().await,
        }
    }
}

/// Puts the records, one in the place of the other, while nobody holds the baton.
async fn keep(meant: &Meant, etcd: &Etcd, mut revision: i64, records: &[ProgressRecord]) -> Result<(), Refusal> {
    for record in records {
        let checkpoint = Checkpoint {
            pipeline: meant.name.clone(),
            topic_prefix: meant.settings().kafka.topic_prefix.clone(),
            at: Timestamp::now().to_string(),
            record: record.clone(),
        };
        match etcd.put_checkpoint(checkpoint.to_bytes(), None, revision).await.map_err(Refusal::failed)? {
            Checkpointed::Put(put) => revision = put,
            Checkpointed::NotHolder | Checkpointed::Overtaken => {
                return Err(Refusal::failed("a worker came meanwhile; stop all workers of the pipeline first"));
            }
        }
    }
    Ok(())
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
