//! A witness that reads the topics names what it must, and nothing in what a pipeline writes by itself.

use std::time::Duration;

use pgbaton_core::audit::{Delivery, Fault, Rule};
use pgbaton_core::{
    History, Journal, Lsn, Marks, Position, ProgressRecord, PublicationMark, Reached, Resume, SessionFacts,
    SystemIdentifier, Term, Timeline, Watermark, first_open, hash_of,
};
use pgbaton_sinks::kafka::{Accepted, DataRecord, Fenced, KafkaAudit, KafkaSession, KafkaTarget};
use pgbaton_sinks::{partition, progress_topic};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::broker::Broker;
use crate::world::{LIMIT, committed, target};

/// A session that writes what the worker would.
struct Writer {
    target: KafkaTarget,
    topic: String,
    session: KafkaSession,
    journal: Journal,
}

fn reached(lsn: u64) -> Reached {
    let position = Position { system_identifier: SystemIdentifier(7), timeline: Timeline(1), lsn: Lsn(lsn) };
    let watermark = Watermark { timeline: Timeline(1), lsn: Lsn(lsn) };
    Reached { position, watermark, last: None, partial: None }
}

impl Writer {
    async fn claim(prefix: &str, name: &str, term: u64, at: u64, before: Option<&ProgressRecord>) -> Self {
        let (target, topic) = (target(Broker::shared(), prefix), format!("{prefix}.public.items"));
        let Fenced { mut session, .. } = KafkaSession::fence(&target, &first_open(name, "w")).await.unwrap();
        let facts = SessionFacts {
            session: name.to_owned(),
            worker: "w".to_owned(),
            history: History::new(vec![], Timeline(1)),
            publication: PublicationMark { oid: 1, tables_hash: String::new() },
            config_hash: String::new(),
            kafka_cluster: None,
            lease: None,
        };
        let Reached { position, watermark, last, partial } = reached(at);
        let resume = Resume { position, watermark, start_at: position.lsn, continuity: None, last, partial };
        let mut journal = Journal::new(facts, Term(term), before.map(|record| hash_of(&record.to_bytes())));
        let records = journal.claim(&resume, before.is_none(), Marks::default(), vec![topic.clone()]);
        session.claim(&records.progress, &records.markers, LIMIT).await.unwrap();
        session.prepare_topics(&[&topic]).await.unwrap();
        Writer { target, topic, session, journal }
    }

    /// One row in a transaction of its own, and the progress behind it.
    async fn publish(&mut self, commit: u64, key: &str, position: u64) -> ProgressRecord {
        let open = self.journal.open(vec![]);
        self.session.begin(&open).unwrap();
        let (id, term) = (id(commit), self.journal.term().to_string());
        let headers: [(&str, &[u8]); 2] = [("pgbaton.id", id.as_bytes()), ("pgbaton.term", term.as_bytes())];
        let (topic, key) = (self.topic.clone(), key.as_bytes());
        let record = DataRecord { topic: &topic, key: Some(key), value: Some(b"{}"), headers: &headers };
        while self.session.write(&record).unwrap() == Accepted::QueueFull {
            self.session.event().await;
        }
        let close = self.journal.close(&reached(position));
        self.session.commit(&close, LIMIT);
        committed(&mut self.session).await;
        close
    }

    /// What somebody else writes there, past all rules.
    fn forge(&self, topic: &str, key: &str, value: &[u8], headers: &[(&str, &str)]) {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &self.target.brokers).create().unwrap();
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(*value) }));
        let partition = if topic == self.topic { partition(topic, Some(key.as_bytes()), 3) } else { 0 };
        let record = BaseRecord::to(topic).partition(partition).key(key).payload(value).headers(headers);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(LIMIT).unwrap();
    }

    fn forge_row(&self, key: &str, commit: u64, term: &str) {
        self.forge(&self.topic, key, b"{}", &[("pgbaton.id", &id(commit)), ("pgbaton.term", term)]);
    }
}

fn id(commit: u64) -> String {
    format!("7/1/{}/0", Lsn(commit))
}

fn rules(faults: &[Fault]) -> Vec<Rule> {
    faults.iter().map(|fault| fault.rule).collect()
}

/// Rounds until something is found.
async fn next_faults(audit: &mut KafkaAudit) -> Vec<Rule> {
    let find = async {
        loop {
            let faults = audit.round(None).await.unwrap();
            if !faults.is_empty() {
                return rules(&faults);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), find).await.expect("something is found in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forged_into_the_topics_is_named_by_who_reads_all_and_by_who_reads_what_comes() {
    let mut writer = Writer::claim("forged", "s1", 1, 100, None).await;
    let mut all = KafkaAudit::new(&writer.target, Delivery::ExactlyOnce, true).unwrap();
    let mut coming = KafkaAudit::of_what_comes(&writer.target, Delivery::ExactlyOnce).unwrap();
    writer.publish(110, "a", 120).await;
    let last = writer.publish(130, "b", 140).await;
    assert_eq!(rules(&all.round(None).await.unwrap()), []);
    assert_eq!(rules(&coming.round(None).await.unwrap()), []);

    // Once more what stands there.
    writer.forge_row("b", 130, "1");
    assert_eq!(next_faults(&mut all).await, [Rule::Duplicate]);
    assert_eq!(next_faults(&mut coming).await, [Rule::Duplicate]);

    // Of a term that is over.
    let mut writer = Writer::claim("forged", "s2", 2, 140, Some(&last)).await;
    writer.publish(150, "c", 400).await;
    writer.forge_row("c", 300, "1");
    assert_eq!(next_faults(&mut all).await, [Rule::TermFalls]);
    assert_eq!(next_faults(&mut coming).await, [Rule::TermFalls]);

    // Of which no progress knows.
    writer.forge_row("a", 900, "2");
    assert_eq!(next_faults(&mut all).await, [Rule::Unrecorded]);
    assert_eq!(next_faults(&mut coming).await, [Rule::Unrecorded]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_committed_without_its_end_is_named_and_so_is_a_claim_of_an_older_term() {
    let mut writer = Writer::claim("unclosed", "s1", 5, 100, None).await;
    let mut audit = KafkaAudit::of_what_comes(&writer.target, Delivery::ExactlyOnce).unwrap();
    let close = writer.publish(110, "a", 120).await;
    assert_eq!(rules(&audit.round(None).await.unwrap()), []);
    let progress = progress_topic("unclosed");
    let open = writer.journal.open(vec![]);
    writer.forge(&progress, "open", &open.to_bytes(), &[]);
    assert_eq!(next_faults(&mut audit).await, [Rule::Torn]);
    let mut stale = close;
    stale.term = Some(Term(4));
    writer.forge(&progress, "position", &stale.to_bytes(), &[]);
    assert!(next_faults(&mut audit).await.contains(&Rule::TermFalls));
}

/// Records that Kafka answers before a reader has looked are not passed over: eight begin at a time, on however few processors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_audit_of_many_that_begin_at_once_looks_at_every_record() {
    let mut writer = Writer::claim("begun", "s1", 1, 100, None).await;
    for number in 1..=12 {
        writer.publish(100 + 10 * number, &format!("k{number}"), 105 + 10 * number).await;
    }
    for _ in 0..15 {
        let audits: Vec<_> =
            (0..8).map(|_| KafkaAudit::new(&writer.target, Delivery::ExactlyOnce, true).unwrap()).collect();
        let rounds = audits.into_iter().map(|mut audit| {
            tokio::spawn(async move {
                let faults = audit.round(None).await.unwrap();
                (rules(&faults), audit.looked().records)
            })
        });
        for round in rounds.collect::<Vec<_>>() {
            assert_eq!(round.await.unwrap(), (vec![], 12));
        }
    }
}

/// A standby stops at once, in whatever it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_that_is_dropped_inside_a_round_is_not_waited_for() {
    let writer = Writer::claim("dropped", "s1", 1, 100, None).await;
    // Its open transaction holds up every round.
    let mut session = writer.session;
    let mut journal = writer.journal;
    session.begin(&journal.open(vec![])).unwrap();
    while session.in_flight() > 0 {
        session.event().await;
    }
    let mut audit = KafkaAudit::of_what_comes(&writer.target, Delivery::ExactlyOnce).unwrap();
    let round = tokio::time::timeout(Duration::from_millis(500), audit.round(None)).await;
    assert!(round.is_err(), "the round ended while a transaction was open: {round:?}");
    drop(audit);
    let mut next = KafkaAudit::of_what_comes(&writer.target, Delivery::ExactlyOnce).unwrap();
    session.commit(&journal.close(&reached(200)), LIMIT);
    committed(&mut session).await;
    assert_eq!(rules(&next.round(None).await.unwrap()), []);
}
