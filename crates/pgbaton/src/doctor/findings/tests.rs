//! A fixture for every finding: one thing is made wrong, and exactly that is found, with what mends it.

use std::time::Duration;

use pgbaton_core::{Lsn, ReplicaIdentity, Timeline};
use pgbaton_postgres::Meaning;
use pgbaton_postgres::catalog::{Observation, Publication, PublishedTable, SlotReader, SlotRow, Standbys, Waiting};
use pgbaton_sinks::kafka::{KafkaFacts, KafkaFault, KafkaRights, TopicFacts, TopicInvalid};
use serde_json::json;

use super::super::facts::{
    EtcdFacts, EtcdMember, Facts, PatroniFacts, PipelineFacts, PostgresFacts, Refused, ServerFacts, Wanted,
};
use super::super::{Finding, Level};
use super::judge;

fn healthy() -> Facts {
    let member = EtcdMember {
        version: "3.5.30".into(),
        latency: Duration::from_millis(2),
        has_leader: true,
        alarms: vec![],
        members: 3,
    };
    let etcd = EtcdFacts {
        endpoints: (1..=3).map(|n| (format!("http://etcd-{n}:2379"), Ok(member.clone()))).collect(),
        wanted_ttl: Duration::from_secs(10),
        granted_ttl: Ok(Duration::from_secs(10)),
        prefix: "/pgbaton".into(),
    };
    let wanted = Wanted {
        slot: "orders".into(),
        publication: "orders".into(),
        database: "appdb".into(),
        role: "pgbaton".into(),
        topic_prefix: "orders".into(),
        local: false,
        port: Some(5000),
    };
    let pipeline = PipelineFacts {
        name: "orders".into(),
        wanted,
        postgres: Ok(postgres()),
        replication: Ok(()),
        patroni: Some(patroni()),
        kafka: Ok(kafka()),
    };
    Facts { etcd: Some(etcd), pipelines: vec![pipeline] }
}

fn postgres() -> PostgresFacts {
    let slot = SlotRow {
        slot_name: "orders".into(),
        plugin: Some("pgoutput".into()),
        slot_type: "logical".into(),
        database: Some("appdb".into()),
        temporary: false,
        two_phase: false,
        active: true,
        active_pid: Some(7),
        restart_lsn: Some(Lsn(1)),
        confirmed_flush_lsn: Some(Lsn(1)),
        wal_status: Some("reserved".into()),
        safe_wal_size: None,
        failover: Some(false),
        synced: Some(false),
        conflicting: Some(false),
        invalidation_reason: None,
    };
    let reader = SlotReader {
        pid: 7,
        application_name: Some("pgbaton/abc".into()),
        user: None,
        walsender: true,
        sent_lsn: None,
        write_lsn: None,
        wait_event: None,
    };
    let seen = Observation {
        system_identifier: 7,
        server_version: 170_011,
        in_recovery: false,
        postmaster_start: String::new(),
        timeline: Some(Timeline(1)),
        wal_lsn: Some(Lsn(9)),
        slot: Some(slot),
        reader: Some(reader),
    };
    let table = |oid, name: &str| PublishedTable {
        oid,
        schema: "public".into(),
        table: name.into(),
        identity: ReplicaIdentity::Default,
        has_primary_key: true,
        has_identity_index: false,
    };
    let publication = Publication {
        oid: 1,
        puballtables: false,
        pubinsert: true,
        pubupdate: true,
        pubdelete: true,
        pubtruncate: true,
        pubviaroot: false,
        tables: vec![table(1, "items"), table(2, "ledger")],
    };
    let settings = [
        ("wal_level", "logical"),
        ("max_replication_slots", "20"),
        ("max_wal_senders", "20"),
        ("max_slot_wal_keep_size", "-1"),
        ("idle_replication_slot_timeout", "0"),
        ("server_encoding", "UTF8"),
    ];
    let server = ServerFacts {
        settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        slots: 3,
        senders: 3,
        standbys: 2,
        encrypted: Some(true),
        reads_stats: true,
        port: Some(5432),
        publications: vec!["orders".into()],
        now: 0.0,
    };
    let standbys = Standbys {
        system_identifier: 7,
        timeline: Some(Timeline(1)),
        insert_lsn: Some(Lsn(0x2000)),
        flushed: Some(Lsn(0x2000)),
        hidden: false,
    };
    let standbys = Some((Waiting::ForSynchronous, standbys));
    PostgresFacts { seen, server, standbys, publication: Some(publication), clock_ahead_seconds: 0.1 }
}

fn patroni() -> PatroniFacts {
    let member = |name: &str, role: &str| (name.to_owned(), role.to_owned(), "running".to_owned());
    PatroniFacts {
        nodes: vec![("http://pg-1:8008".into(), Ok("4.1.5".into()))],
        config: Some(json!({
            "failsafe_mode": true,
            "slots": {"orders": {"type": "logical", "database": "appdb", "plugin": "pgoutput"}},
            "postgresql": {"parameters": {"hot_standby_feedback": "on"}},
        })),
        members: vec![member("pg-1", "leader"), member("pg-2", "replica")],
        paused: false,
    }
}

fn kafka() -> KafkaFacts {
    let topic = |name: &str| TopicFacts {
        name: name.into(),
        partitions: 1,
        replicas: 3,
        in_sync: 3,
        settings: [("min.insync.replicas".to_owned(), "2".to_owned())].into(),
        invalid: vec![],
    };
    let settings = [
        ("transaction.partition.verification.enable", "true"),
        ("transaction.max.timeout.ms", "900000"),
        ("transaction.state.log.replication.factor", "3"),
    ];
    KafkaFacts {
        brokers: 3,
        settings: Some(settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
        topics: vec![topic("__pgbaton.orders.progress"), topic("orders.public.items")],
        may_create: Some(Ok(())),
        rights: Some(KafkaRights::default()),
        transaction_timeout: Duration::from_secs(60),
    }
}

type Harm = fn(&mut Facts);

fn pg(facts: &mut Facts) -> &mut PostgresFacts {
    facts.pipelines[0].postgres.as_mut().unwrap()
}

fn waits(facts: &mut Facts) -> &mut Standbys {
    &mut pg(facts).standbys.as_mut().unwrap().1
}

fn set(facts: &mut Facts, name: &str, value: &str) {
    pg(facts).server.settings.insert(name.into(), value.into());
}

fn slot(facts: &mut Facts) -> &mut SlotRow {
    pg(facts).seen.slot.as_mut().unwrap()
}

fn published(facts: &mut Facts) -> &mut Publication {
    pg(facts).publication.as_mut().unwrap()
}

fn pat(facts: &mut Facts) -> &mut PatroniFacts {
    facts.pipelines[0].patroni.as_mut().unwrap()
}

fn kaf(facts: &mut Facts) -> &mut KafkaFacts {
    facts.pipelines[0].kafka.as_mut().unwrap()
}

fn broker(facts: &mut Facts, name: &str, value: &str) {
    kaf(facts).settings.as_mut().unwrap().insert(name.into(), value.into());
}

fn rights(facts: &mut Facts) -> &mut KafkaRights {
    kaf(facts).rights.as_mut().unwrap()
}

fn topic(facts: &mut Facts) -> &mut TopicFacts {
    &mut kaf(facts).topics[1]
}

fn refuse(facts: &mut Facts, meaning: Meaning) {
    facts.pipelines[0].postgres = Err(Refused { meaning, text: "no".into() });
    facts.pipelines[0].replication = Err(Refused { meaning, text: "no".into() });
}

/// What is made wrong, the finding, its level, and a part of what mends it.
const FIXTURES: &[(Harm, &str, Level, &str)] = &[
    // The way in.
    (|f| refuse(f, Meaning::Retry), "postgres_connect", Level::Error, "start the server"),
    (|f| refuse(f, Meaning::AuthFailed), "postgres_connect", Level::Error, "CREATE ROLE \"pgbaton\" LOGIN REPLICATION"),
    (|f| refuse(f, Meaning::TlsFailed), "postgres_connect", Level::Error, "sslrootcert"),
    (|f| refuse(f, Meaning::DatabaseMissing), "postgres_connect", Level::Error, "correct the database"),
    (|f| refuse(f, Meaning::InRecovery), "postgres_connect", Level::Error, "target_session_attrs=read-write"),
    (
        |f| {
            let text = "FATAL 08P01: unsupported startup parameter: options".into();
            f.pipelines[0].postgres = Err(Refused { meaning: Meaning::Retry, text });
        },
        "postgres_connect",
        Level::Error,
        "name the server itself",
    ),
    (
        |f| f.pipelines[0].replication = Err(Refused { meaning: Meaning::PermissionDenied, text: "no".into() }),
        "replication_connect",
        Level::Error,
        "ALTER ROLE \"pgbaton\" REPLICATION",
    ),
    // The server.
    (|f| pg(f).seen.server_version = 130_020, "postgres_version", Level::Error, "upgrade"),
    (|f| pg(f).seen.in_recovery = true, "postgres_leader", Level::Error, "lead to the leader"),
    (|f| set(f, "wal_level", "replica"), "wal_level", Level::Error, "ALTER SYSTEM SET wal_level = 'logical'"),
    (|f| pg(f).server.senders = 20, "wal_senders", Level::Error, "ALTER SYSTEM SET max_wal_senders = 25"),
    (
        |f| {
            pg(f).seen.reader = None;
            pg(f).server.senders = 19;
        },
        "wal_senders",
        Level::Warning,
        "max_wal_senders = 25",
    ),
    (|f| set(f, "max_slot_wal_keep_size", "64"), "slot_wal_limit", Level::Warning, "pgbaton_slot_safe_wal_bytes"),
    (|f| set(f, "idle_replication_slot_timeout", "60"), "slot_idle_timeout", Level::Warning, "ALTER SYSTEM SET"),
    (|f| pg(f).server.reads_stats = false, "stats_right", Level::Warning, "GRANT pg_monitor TO \"pgbaton\""),
    (|f| waits(f).hidden = true, "standby_barrier", Level::Error, "GRANT pg_monitor TO \"pgbaton\""),
    (|f| waits(f).flushed = None, "standby_barrier", Level::Error, "synchronous_mode"),
    (
        |f| {
            waits(f).flushed = None;
            pg(f).standbys.as_mut().unwrap().0 = Waiting::ForAll;
        },
        "standby_barrier",
        Level::Error,
        "standby_barrier = \"off\"",
    ),
    (|f| pg(f).server.encrypted = Some(false), "postgres_tls", Level::Warning, "sslmode=verify-full"),
    (|f| set(f, "server_encoding", "SQL_ASCII"), "encoding", Level::Warning, "UTF8"),
    (|f| pg(f).clock_ahead_seconds = -90.0, "clock", Level::Warning, "chrony"),
    // The publication.
    (|f| pg(f).publication = None, "publication", Level::Error, "CREATE PUBLICATION \"orders\" FOR TABLE"),
    (|f| published(f).tables.clear(), "publication", Level::Warning, "ADD TABLE"),
    (|f| published(f).pubdelete = false, "publication_operations", Level::Warning, "SET (publish ="),
    (
        |f| published(f).tables[1].has_primary_key = false,
        "replica_identity",
        Level::Error,
        "ALTER TABLE \"public\".\"ledger\" ADD PRIMARY KEY",
    ),
    (|f| published(f).tables[1].table = "x".repeat(240), "topic_names", Level::Error, "shorten kafka.topic_prefix"),
    (
        |f| {
            published(f).tables[0].table = "a b".into();
            published(f).tables[1].table = "a_b".into();
        },
        "topic_names",
        Level::Error,
        "rename one of them",
    ),
    // The slot.
    (|f| pg(f).seen.slot = None, "slot", Level::Error, "patronictl edit-config: slots: {orders: {type: logical"),
    (
        |f| {
            pg(f).seen.slot = None;
            f.pipelines[0].patroni = None;
        },
        "slot",
        Level::Error,
        "SELECT pg_create_logical_replication_slot('orders', 'pgoutput')",
    ),
    (
        |f| {
            pg(f).seen.slot = None;
            pg(f).seen.reader = None;
            pg(f).server.slots = 20;
        },
        "replication_slots",
        Level::Error,
        "ALTER SYSTEM SET max_replication_slots = 25",
    ),
    (
        |f| slot(f).plugin = Some("test_decoding".into()),
        "slot_kind",
        Level::Error,
        "pg_drop_replication_slot('orders')",
    ),
    (|f| slot(f).database = Some("other".into()), "slot_kind", Level::Error, "configure another slot"),
    (|f| slot(f).two_phase = true, "slot_kind", Level::Error, "configure another slot"),
    (|f| slot(f).temporary = true, "slot_kind", Level::Error, "configure another slot"),
    (|f| slot(f).wal_status = Some("lost".into()), "slot_wal", Level::Error, "pgbaton gap accept"),
    (|f| slot(f).conflicting = Some(true), "slot_wal", Level::Error, "pgbaton gap accept"),
    (|f| slot(f).invalidation_reason = Some("idle_timeout".into()), "slot_wal", Level::Error, "pgbaton gap accept"),
    (|f| slot(f).wal_status = Some("unreserved".into()), "slot_wal", Level::Error, "let a worker stream now"),
    (
        |f| pg(f).seen.reader.as_mut().unwrap().application_name = Some("pg_recvlogical".into()),
        "slot_reader",
        Level::Error,
        "pg_terminate_backend(7)",
    ),
    (|f| pg(f).seen.wal_lsn = Some(Lsn(20 << 30)), "slot_retained", Level::Warning, "pg_stat_activity"),
    (|f| f.pipelines[0].patroni = None, "slot_failover", Level::Warning, "failover => true"),
    // Patroni.
    (
        |f| pat(f).nodes.push(("http://pg-2:8008".into(), Err("refused".into()))),
        "patroni_node",
        Level::Warning,
        "start",
    ),
    (|f| pat(f).nodes[0].1 = Ok("3.0.2".into()), "patroni_node", Level::Error, "upgrade Patroni"),
    (|f| pat(f).config = None, "patroni_slot", Level::Warning, "reachable"),
    (|f| pat(f).config.as_mut().unwrap()["slots"] = json!({}), "patroni_slot", Level::Error, "slots: {orders:"),
    (
        |f| pat(f).config.as_mut().unwrap()["slots"]["orders"]["plugin"] = "wal2json".into(),
        "patroni_slot",
        Level::Error,
        "plugin: pgoutput",
    ),
    (
        |f| {
            pat(f).config.as_mut().unwrap()["slots"] = json!({});
            pat(f).nodes[0].1 = Ok("4.0.7".into());
            slot(f).failover = Some(true);
        },
        "patroni_slot",
        Level::Error,
        "ignore_slots: [{name: orders, type: logical}]",
    ),
    (
        |f| pat(f).config.as_mut().unwrap()["failsafe_mode"] = false.into(),
        "patroni_failsafe",
        Level::Warning,
        "failsafe_mode: true",
    ),
    (
        |f| pat(f).config.as_mut().unwrap()["postgresql"] = json!({}),
        "patroni_feedback",
        Level::Warning,
        "hot_standby_feedback: 'on'",
    ),
    (|f| pat(f).members[1].2 = "start failed".into(), "patroni_members", Level::Warning, "patronictl reinit"),
    (|f| drop(pat(f).members.pop()), "patroni_members", Level::Warning, "add nodes"),
    (|f| pat(f).paused = true, "patroni_paused", Level::Warning, "patronictl resume"),
    // etcd.
    (|f| etc(f).endpoints[0].1 = Err("refused".into()), "etcd_endpoint", Level::Warning, "coordination.endpoints"),
    (|f| member(f).has_leader = false, "etcd_endpoint", Level::Error, "start the other members"),
    (|f| member(f).alarms.push("NOSPACE".into()), "etcd_endpoint", Level::Error, "etcdctl alarm disarm"),
    (|f| member(f).version = "3.4.23".into(), "etcd_endpoint", Level::Warning, "upgrade etcd"),
    (|f| member(f).latency = Duration::from_millis(400), "etcd_endpoint", Level::Warning, "a disk of its own"),
    (
        |f| etc(f).endpoints.iter_mut().for_each(|(_, member)| member.as_mut().unwrap().members = 2),
        "etcd_members",
        Level::Warning,
        "three members",
    ),
    (|f| etc(f).granted_ttl = Ok(Duration::from_secs(15)), "etcd_lease", Level::Warning, "--election-timeout"),
    (|f| etc(f).granted_ttl = Err("denied".into()), "etcd_lease", Level::Error, "readwrite /pgbaton/"),
    // Kafka.
    (|f| lock_out(f, KafkaFault::Unreachable { reason: "no".into() }), "kafka_connect", Level::Error, "advertised"),
    (|f| lock_out(f, KafkaFault::AuthFailed { reason: "no".into() }), "kafka_connect", Level::Error, "sasl.password"),
    (|f| lock_out(f, KafkaFault::TlsFailed { reason: "no".into() }), "kafka_connect", Level::Error, "ssl.ca.location"),
    (
        |f| lock_out(f, KafkaFault::PermissionDenied { what: "x".into() }),
        "kafka_connect",
        Level::Error,
        "kafka-acls.sh",
    ),
    (|f| kaf(f).brokers = 1, "kafka_brokers", Level::Warning, "three brokers"),
    (|f| kaf(f).may_create = Some(Err("denied".into())), "kafka_create", Level::Warning, "--operation Create"),
    (|f| rights(f).transactional_id_denied = true, "kafka_rights", Level::Error, "--transactional-id pgbaton.orders"),
    (
        |f| drop(rights(f).topics_denied.insert("orders.public.items".into(), vec!["Write"])),
        "kafka_rights",
        Level::Error,
        "--operation Write --topic orders.public.items",
    ),
    (|f| topic(f).invalid.push(invalid()), "kafka_topic", Level::Error, "--add-config cleanup.policy=compact"),
    (|f| topic(f).in_sync = 1, "kafka_min_isr", Level::Error, "start the brokers"),
    (
        |f| drop(topic(f).settings.insert("min.insync.replicas".into(), "4".into())),
        "kafka_min_isr",
        Level::Error,
        "--add-config min.insync.replicas=2",
    ),
    (
        |f| drop(topic(f).settings.insert("min.insync.replicas".into(), "1".into())),
        "kafka_min_isr",
        Level::Warning,
        "--add-config min.insync.replicas=2",
    ),
    (|f| topic(f).replicas = 2, "kafka_replication", Level::Warning, "kafka-reassign-partitions.sh"),
    (
        |f| drop(topic(f).settings.insert("unclean.leader.election.enable".into(), "true".into())),
        "kafka_unclean",
        Level::Error,
        "unclean.leader.election.enable=false",
    ),
    (
        |f| broker(f, "transaction.partition.verification.enable", "false"),
        "kafka_settings",
        Level::Warning,
        "transaction.partition.verification.enable=true",
    ),
    (
        |f| drop(kaf(f).settings.as_mut().unwrap().remove("transaction.partition.verification.enable")),
        "kafka_settings",
        Level::Error,
        "3.6",
    ),
    (
        |f| broker(f, "transaction.max.timeout.ms", "30000"),
        "kafka_transactions",
        Level::Error,
        "transaction.max.timeout.ms=60000",
    ),
    (
        |f| broker(f, "transaction.state.log.replication.factor", "1"),
        "kafka_transactions",
        Level::Warning,
        "__transaction_state",
    ),
];

fn etc(facts: &mut Facts) -> &mut EtcdFacts {
    facts.etcd.as_mut().unwrap()
}

fn member(facts: &mut Facts) -> &mut EtcdMember {
    etc(facts).endpoints[0].1.as_mut().unwrap()
}

fn lock_out(facts: &mut Facts, fault: KafkaFault) {
    facts.pipelines[0].kafka = Err(fault);
}

fn invalid() -> TopicInvalid {
    TopicInvalid {
        topic: "t".into(),
        setting: "cleanup.policy".into(),
        found: "delete".into(),
        wanted: "compact".into(),
    }
}

fn wrong(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|finding| finding.level != Level::Ok).collect()
}

#[test]
fn a_healthy_cluster_has_no_finding_that_is_not_ok() {
    let findings = judge(&healthy());
    assert!(wrong(&findings).is_empty(), "{:#?}", wrong(&findings));
    assert!(findings.iter().all(|finding| finding.why.is_empty() && finding.fix.is_empty()));
    assert!(findings.iter().any(|finding| finding.pipeline.as_deref() == Some("orders")));
}

#[test]
fn each_thing_that_is_wrong_is_found_and_what_mends_it_is_said() {
    for (number, (harm, id, level, fix)) in FIXTURES.iter().enumerate() {
        let mut facts = healthy();
        harm(&mut facts);
        let findings = judge(&facts);
        let found = findings.iter().find(|finding| finding.id == *id && finding.level == *level);
        let found = found.unwrap_or_else(|| panic!("fixture {number}, {id}: {:#?}", wrong(&findings)));
        assert!(found.fix.contains(fix), "fixture {number}: {found:#?}");
        assert!(wrong(&findings).iter().all(|finding| !finding.why.is_empty() && !finding.fix.is_empty()), "{id}");
    }
}

/// A connection that stays on the machine needs no TLS; a closed broker configuration is not judged.
#[test]
fn what_is_not_known_or_does_not_matter_is_not_held_against_anybody() {
    let mut facts = healthy();
    facts.pipelines[0].wanted.local = true;
    pg(&mut facts).server.encrypted = Some(false);
    kaf(&mut facts).settings = None;
    topic(&mut facts).settings.clear();
    assert!(wrong(&judge(&facts)).is_empty());
}
