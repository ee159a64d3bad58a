//! The checker's reader against a real Kafka: records that a stranger wrote, in transactions, one of them aborted.

use std::time::{Duration, Instant};

use anyhow::Result;
use pgbaton_tests::check::batches::{self, Sort};
use pgbaton_tests::check::read::Reader;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use xtask::single::Kafka;

const LIMIT: Duration = Duration::from_secs(20);

async fn topics(bootstrap: &str, names: &[&str]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let topics: Vec<NewTopic> = names.iter().map(|name| NewTopic::new(name, 2, TopicReplication::Fixed(1))).collect();
    for made in admin.create_topics(&topics, &AdminOptions::new()).await? {
        made.map_err(|(topic, code)| anyhow::anyhow!("make {topic}: {code}"))?;
    }
    Ok(())
}

fn producer(bootstrap: &str) -> Result<BaseProducer> {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("transactional.id", "stranger").create()?;
    producer.init_transactions(LIMIT)?;
    Ok(producer)
}

fn send(producer: &BaseProducer, topic: &str, key: &str, value: Option<&str>, id: &str) -> Result<()> {
    let headers = OwnedHeaders::new()
        .insert(Header { key: "pgbaton.id", value: Some(id) })
        .insert(Header { key: "pgbaton.term", value: Some("3") });
    let record = BaseRecord::to(topic).key(key).headers(headers).partition(1);
    let record = match value {
        Some(value) => record.payload(value),
        None => record,
    };
    Ok(producer.send(record).map_err(|(error, _)| error)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reader_sees_what_was_committed_in_order_and_nothing_that_was_aborted() -> Result<()> {
    xtask::setup::ensure_done()?;
    let kafka = Kafka::start()?;
    let bootstrap = kafka.bootstrap();
    topics(&bootstrap, &["p.public.latest", "__pgbaton.p.progress", "other.public.latest"]).await?;
    let row = |value: u32| format!(r#"{{"before":null,"after":{{"id":7,"value":{value},"note":null}},"op":"u"}}"#);
    let key = r#"{"id":7}"#;
    let producer = producer(&bootstrap)?;
    for (number, commit) in [(0, true), (1, false), (2, true)] {
        producer.begin_transaction()?;
        let progress = format!(r#"{{"v":1,"type":"open","term":3,"session":"s","number":{number},"worker":"w"}}"#);
        send(&producer, "__pgbaton.p.progress", "open", Some(&progress), "")?;
        send(&producer, "p.public.latest", key, Some(&row(number)), &format!("7/1/0/{number}/0"))?;
        send(&producer, "other.public.latest", key, Some("not ours"), "7/1/0/1/0")?;
        producer.flush(LIMIT)?;
        if commit {
            producer.commit_transaction(LIMIT)?;
        } else {
            producer.abort_transaction(LIMIT)?;
        }
    }
    producer.begin_transaction()?;
    send(&producer, "p.public.latest", key, None, "7/1/0/3/0.1")?;
    producer.commit_transaction(LIMIT)?;

    let mut reader = Reader::new(&bootstrap, "p");
    assert!(reader.drain(Duration::from_millis(300), Instant::now() + LIMIT)?, "the end was not met");
    let history = reader.history();
    assert_eq!(history.unreadable, Vec::<String>::new());
    let ids: Vec<String> = history.events.iter().map(|event| event.id.to_string()).collect();
    assert_eq!(ids, ["7/1/0/0/0", "7/1/0/2/0", "7/1/0/3/0.1"]);
    let event = &history.events[1];
    assert_eq!((&*event.table, event.after.as_ref().and_then(|row| row.text("value"))), ("public.latest", Some("2")));
    assert_eq!((history.events[2].op, &history.events[2].after), ('-', &None));
    assert_eq!(history.progress.iter().map(|record| record.says.number).collect::<Vec<_>>(), [0, 2]);

    // As they lie there, each with the mark that ended its transaction.
    let lying = batches::read(&bootstrap, &reader.partitions())?;
    let latest = &lying[&("p.public.latest".to_owned(), 1)];
    let sorts: Vec<Sort> = latest.iter().map(|batch| batch.sort).collect();
    let (data, commit, abort) = (Sort::Data, Sort::Commit, Sort::Abort);
    assert_eq!(sorts, [data, commit, data, abort, data, commit, data, commit]);
    assert!(latest.iter().all(|batch| batch.producer == latest[0].producer && batch.first == batch.last));
    Ok(())
}
