//! From what Fence read to what the claim says, or why there must be none.

use super::facts::{ClaimPlan, FenceRead, Inspection, VerdictSeen};
use crate::torn::torn;
use crate::{
    Accepted, Code, Fork, Gap, Journal, Known, LeaseMark, Lsn, Marks, Position, ProgressRecord, PublicationMark,
    ReadFrom, Recorded, Server, SessionFacts, Term, Verdict, accept, accepts, judge, judge_first_start,
    without_contradiction,
};

/// Who claims, under which lease.
#[derive(Debug, Clone)]
pub(super) struct Claimant<'a> {
    pub worker: &'a str,
    pub config_hash: &'a str,
    /// etcd's cluster id and the lease revision; none where there is no etcd.
    pub lease: Option<(&'a str, i64)>,
    pub in_chunks: bool,
    /// The verdict that somebody has accepted.
    pub accepted: Option<&'a VerdictSeen>,
    /// Gaps are accepted without asking.
    pub accept_gaps: bool,
    /// Tables that are not published any more stop the stream.
    pub halt_on_shrink: bool,
}

impl Claimant<'_> {
    fn accepts(&self, gap: &Gap) -> bool {
        accepts(self.accept_gaps, self.accepted, gap)
    }
}

/// Without etcd nothing but progress itself could tell a first start from one whose progress is lost.
const NO_GENESIS: &str = "there is no progress, and without etcd nothing else tells whether there once was: say where to \
                          begin with pgbaton position init --from-slot, all workers of the pipeline stopped";

/// The outcome of Fence.
#[derive(Debug)]
pub(super) enum Claiming {
    /// Write this, if the holder key still is ours.
    Claim { plan: Box<ClaimPlan>, reset: Option<EtcdReset> },
    /// Something was published that progress does not tell of: what, has to be read back before there is a verdict.
    ReadBack(Known),
    /// Stop and tell a human. With what was recorded, to see when the cause is gone.
    Quarantine(Box<(Gap, Option<Recorded>)>),
}

/// What says that etcd has been restored, wiped or replaced since the last claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EtcdReset {
    /// A greater lease revision than ours has claimed: either the holder key is not ours any more, or etcd counts anew.
    CountsAnew,
    /// It is another cluster.
    AnotherCluster,
}

impl EtcdReset {
    pub fn as_str(self) -> &'static str {
        match self {
            EtcdReset::CountsAnew => {
                "a greater lease revision than ours has claimed before: etcd was restored or wiped"
            }
            EtcdReset::AnotherCluster => "the last claim was made under another etcd cluster",
        }
    }
}

pub(super) fn decide(claimant: &Claimant<'_>, inspection: &Inspection, read: &FenceRead) -> Claiming {
    let server = &inspection.server;
    let last_record = read.position.as_ref().map(|(record, _)| record);
    // A newer holder has claimed, or etcd was reset and counts anew under the same cluster id. The read of the holder key
    // that follows tells: it is linearizable and comes after this record was committed.
    let etcd_counts_anew = last_record
        .and_then(|record| record.lease.as_ref())
        .zip(claimant.lease)
        .is_some_and(|(last, (cluster_id, revision))| last.cluster_id == cluster_id && last.revision > revision);
    let lease = match lease_mark(claimant, last_record) {
        Ok(lease) => lease,
        Err(gap) => return stop(gap, None),
    };
    let reset = match last_record.and_then(|record| record.lease.as_ref()).zip(claimant.lease) {
        _ if etcd_counts_anew => Some(EtcdReset::CountsAnew),
        Some((last, (cluster_id, _))) if last.cluster_id != cluster_id => Some(EtcdReset::AnotherCluster),
        _ => None,
    };

    // Another Kafka has the data that a checkpoint tells of; the progress topic lies beside its own.
    let elsewhere =
        last_record.filter(|_| read.from == ReadFrom::Checkpoint).and_then(|record| record.kafka_cluster.as_ref());
    if let (Some(recorded), Some(found)) = (elsewhere, &read.kafka_cluster)
        && recorded != found
    {
        return stop(missing(&format!("the checkpoint is of Kafka cluster {recorded}, this is {found}")), None);
    }

    let recorded = match (last_record, &read.witness, &read.last_open) {
        (Some(record), _, _) => match Recorded::of(record) {
            Some(recorded) => match (unrecorded(record, &recorded, server, read), &read.remains) {
                (None, _) => Some(Recorded { torn: None, ..recorded }),
                (Some((session, number)), Some(remains)) => {
                    Some(Recorded { torn: Some(remains.mark(&session, number)), ..recorded })
                }
                (Some(_), None) => {
                    let known = Known::new(recorded.position, recorded.partial.as_ref(), &record.phantoms);
                    return Claiming::ReadBack(known);
                }
            },
            None => return stop(missing("the last progress record carries no position"), None),
        },
        (None, None, None) if lease.is_none() => return stop(progress_missing(NO_GENESIS.to_owned()), None),
        (None, None, None) => None,
        (None, Some(witness), _) => return stop(missing(witness), None),
        (None, None, Some(_)) => {
            return stop(missing("an open transaction is recorded without any position"), None);
        }
    };
    let verdict = match &recorded {
        Some(recorded) => judge(recorded, server, &inspection.slot),
        None => judge_first_start(server, &inspection.slot),
    };
    let (resume, mut marks) = match verdict {
        Verdict::Continue(mut resume, divergence) => {
            let accepted = claimant.accepted.and_then(|accepted| without_contradiction(&mut resume, accepted));
            let accepted = accepted.map(|mark| Accepted { mark, topics: Vec::new() });
            (resume, Marks { divergence, accepted: accepted.into_iter().collect() })
        }
        Verdict::Quarantine(gap) if claimant.accepts(&gap) => {
            match accept(&gap, recorded.as_ref(), server, &inspection.slot) {
                Verdict::Continue(resume, divergence) => {
                    (resume, Marks { divergence, accepted: vec![Accepted::from(&gap)] })
                }
                Verdict::Quarantine(gap) => return stop(gap, recorded),
            }
        }
        Verdict::Quarantine(gap) => return stop(gap, recorded),
    };
    let recreated = read.topic_ids.recreated(&inspection.topics);
    if let Some(recorded) = recorded.as_ref().filter(|_| !recreated.is_empty()) {
        let gap = read.topic_ids.gap(&recreated, recorded.position);
        if !marks.accepted.is_empty() || !claimant.accepts(&gap) {
            return stop(gap, Some(recorded.clone()));
        }
        marks.accepted.push(Accepted { topics: recreated, ..Accepted::from(&gap) });
    }
    if let Some((recorded, topics)) = recorded.as_ref().zip(unpublished(recorded.as_ref(), inspection, read)) {
        let gap = shrunk(&topics, recorded.position);
        if claimant.halt_on_shrink && !claimant.accepts(&gap) {
            return stop(gap, Some(recorded.clone()));
        }
        marks.accepted.push(Accepted { topics, ..Accepted::from(&gap) });
    }
    let Some(oid) = server.publication_oid else {
        return stop(missing("the publication does not exist"), recorded);
    };

    let term = Term(last_record.and_then(|record| record.term).map_or(1, |term| term.0 + 1));
    let facts = SessionFacts {
        session: read.session.clone(),
        worker: claimant.worker.to_owned(),
        history: server.history.clone(),
        publication: PublicationMark { oid, tables_hash: inspection.tables_hash.clone() },
        config_hash: claimant.config_hash.to_owned(),
        kafka_cluster: read.kafka_cluster.clone(),
        lease,
    };
    // What is beyond a checkpoint is no torn transaction: it has served to name the phantoms, and the rest comes again.
    let beside = read.from != ReadFrom::Checkpoint;
    let remains = read.remains.clone().filter(|_| beside);
    let remains = match marks.divergence {
        Some(mark) => remains.map(|remains| remains.before(mark.from_lsn)),
        None => remains,
    };
    let torn = recorded.as_ref().and_then(|recorded| recorded.torn.clone()).filter(|_| beside);
    let phantoms = last_record.map_or_else(Vec::new, |record| record.phantoms.clone());
    let mut journal = Journal::new(facts, term, read.position.as_ref().map(|(_, hash)| hash.clone()))
        .after(torn, phantoms)
        .writing_to(read.topic_ids.current(&inspection.topics));
    let records = journal.claim(&resume, recorded.is_none(), marks, inspection.topics.clone());
    let plan = Box::new(ClaimPlan {
        records,
        journal,
        resume,
        history: server.history.clone(),
        in_chunks: claimant.in_chunks,
        remains,
        backend_pid: inspection.backend_pid,
    });
    Claiming::Claim { plan, reset }
}

/// What was published and the position does not tell of, by (session, number): a torn transaction; or, where the server has
/// forked, whatever came after a checkpoint and may have been lost with the old timeline.
fn unrecorded(
    record: &ProgressRecord,
    recorded: &Recorded,
    server: &Server,
    read: &FenceRead,
) -> Option<(String, u64)> {
    match read.from {
        ReadFrom::Progress | ReadFrom::ProgressAlone => torn(record, read.last_open.as_ref()),
        ReadFrom::Checkpoint => matches!(recorded.history.fork_with(&server.history), Fork::At(_))
            .then(|| (record.session.clone(), record.number)),
    }
}

/// Topics whose tables were published when progress was recorded, and are not any more.
fn unpublished(recorded: Option<&Recorded>, inspection: &Inspection, read: &FenceRead) -> Option<Vec<String>> {
    let mark = recorded?.publication.as_ref()?;
    let topics = read.topic_ids.dropped(&inspection.topics);
    (mark.tables_hash != inspection.tables_hash && !topics.is_empty()).then_some(topics)
}

/// From where on is not known: what was committed before the publication was altered still comes.
fn shrunk(topics: &[String], published: Position) -> Gap {
    Gap {
        code: Code::PublicationShrunk,
        timeline: published.timeline,
        from_lsn: published.lsn,
        to_lsn: None,
        text: nothing_more_comes(topics),
    }
}

/// That tables are not published any more, if the claim says so.
pub(super) fn told_of_fewer_tables(plan: &ClaimPlan) -> Option<String> {
    let tells = |mark: &&ProgressRecord| mark.accepted.is_some_and(|mark| mark.code == Code::PublicationShrunk);
    plan.records.markers.iter().find(tells).map(|mark| nothing_more_comes(&mark.topics))
}

fn nothing_more_comes(topics: &[String]) -> String {
    format!("tables were removed from the publication, renamed or dropped: nothing more comes to {}", topics.join(", "))
}

fn stop(gap: Gap, recorded: Option<Recorded>) -> Claiming {
    Claiming::Quarantine(Box::new((gap, recorded)))
}

/// Two etcds with workers in each would fence each other's for ever.
pub(super) fn too_many_resets(reset: EtcdReset) -> Gap {
    Gap {
        code: Code::EtcdReset,
        timeline: crate::Timeline(0),
        from_lsn: Lsn::INVALID,
        to_lsn: None,
        text: format!("{}; it is the third time in ten minutes", reset.as_str()),
    }
}

/// What the claim says of the lease. An etcd cluster that was left once is not returned to without an operator: two of them
/// would fence each other's workers for ever.
fn lease_mark(claimant: &Claimant<'_>, last: Option<&ProgressRecord>) -> Result<Option<LeaseMark>, Gap> {
    let Some((cluster_id, revision)) = claimant.lease else { return Ok(None) };
    let mut left = Vec::new();
    if let Some(lease) = last.and_then(|record| record.lease.as_ref()) {
        left.extend(lease.left.iter().filter(|id| *id != cluster_id).cloned());
        let returned = left.len() < lease.left.len();
        let gap = Gap {
            code: Code::EtcdReset,
            timeline: crate::Timeline(0),
            from_lsn: Lsn::INVALID,
            to_lsn: None,
            text: format!("etcd cluster {cluster_id} was left behind once and answers again"),
        };
        if returned && !claimant.accepts(&gap) {
            return Err(gap);
        }
        if lease.cluster_id != cluster_id && !returned {
            left.push(lease.cluster_id.clone());
        }
    }
    Ok(Some(LeaseMark { cluster_id: cluster_id.to_owned(), revision, left }))
}

fn missing(what: &str) -> Gap {
    progress_missing(format!("progress existed and is not to be found: {what}"))
}

fn progress_missing(text: String) -> Gap {
    Gap { code: Code::ProgressMissing, timeline: crate::Timeline(0), from_lsn: Lsn::INVALID, to_lsn: None, text }
}
