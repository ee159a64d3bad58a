//! Asks every server, each within its time. What does not answer is a fact like any other.

use std::future::Future;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::{join, join_all, join3};
use pgbaton_postgres::{Address, Conninfo, Meaning, QueryError, ReplicationConnection, Sql, catalog, connect_client};
use pgbaton_sinks::kafka::{KafkaFacts, KafkaFault, examine};
use pgbaton_sinks::table_topic;
use serde_json::Value;
use tokio::time::timeout;

use super::facts::{
    EtcdFacts, EtcdMember, Facts, PatroniFacts, PipelineFacts, PostgresFacts, Refused, ServerFacts, Wanted,
};
use crate::cli::client::Client;
use crate::config::{Backend, Config, CoordinationConfig, PipelineConfig, PostgresConfig};
use crate::coordination::{Etcd, EtcdError};
use crate::servers;

/// No server may take longer.
const LIMIT: Duration = Duration::from_secs(10);
/// Before something that failed in passing is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// Kafka's first answer; what follows is bounded by the client.
const KAFKA_FIRST_ANSWER: Duration = Duration::from_secs(10);
const KAFKA_LIMIT: Duration = Duration::from_secs(30);

/// Collects everything, all servers at the same time.
pub async fn collect(config: &Config) -> Facts {
    let pipelines = join_all(config.pipelines.iter().map(|(name, settings)| pipeline(config, name, settings)));
    let coordination = async {
        match config.coordination.backend {
            Backend::Etcd => Some(etcd(&config.coordination).await),
            Backend::None => None,
        }
    };
    let (etcd, pipelines) = join(coordination, pipelines).await;
    Facts { etcd, pipelines }
}

async fn pipeline(config: &Config, name: &str, settings: &PipelineConfig) -> PipelineFacts {
    let conninfo = servers::conninfo(&settings.postgres);
    let wanted = wanted(settings, conninfo.as_ref().ok());
    let unusable = |reason: &String| Refused { meaning: Meaning::Unexpected, text: reason.clone() };
    let ordinary = async {
        let conninfo = conninfo.as_ref().map_err(unusable)?;
        within(postgres(conninfo, settings)).await
    };
    let replication = async {
        let conninfo = conninfo.as_ref().map_err(unusable)?;
        within(async {
            let connection = ReplicationConnection::connect(conninfo, "pgbaton doctor")
                .await
                .map_err(|error| Refused { meaning: error.meaning(), text: error.to_string() })?;
            connection.close().await;
            Ok(())
        })
        .await
    };
    let patroni = async {
        match settings.postgres.patroni.as_slice() {
            [] => None,
            urls => Some(patroni(urls).await),
        }
    };
    // Kafka is asked for the topics of the tables, so it comes after the publication is known.
    let both = async {
        let postgres = ordinary.await;
        let tables = postgres.as_ref().ok().and_then(|facts| facts.publication.as_ref());
        let topics = tables
            .into_iter()
            .flat_map(|publication| &publication.tables)
            .filter_map(|table| table_topic(&settings.kafka.topic_prefix, &table.schema, &table.table).ok());
        let kafka = kafka(config, settings, topics.collect()).await;
        (postgres, kafka)
    };
    let ((postgres, kafka), replication, patroni) = join3(both, replication, patroni).await;
    PipelineFacts { name: name.to_owned(), wanted, postgres, replication, patroni, kafka }
}

fn wanted(settings: &PipelineConfig, conninfo: Option<&Conninfo>) -> Wanted {
    let is_local = |address: &Address| match address {
        Address::Unix(_) => true,
        Address::Tcp { name, addr } => {
            let ip = addr.or_else(|| name.parse().ok());
            name == "localhost" || ip.is_some_and(|ip| ip.is_loopback())
        }
    };
    let first = conninfo.and_then(|conninfo| conninfo.hosts.first());
    Wanted {
        slot: settings.postgres.slot.clone(),
        publication: settings.postgres.publication.clone(),
        database: conninfo.map(|conninfo| conninfo.dbname.clone()).unwrap_or_default(),
        role: conninfo.map(|conninfo| conninfo.user.clone()).unwrap_or_default(),
        topic_prefix: settings.kafka.topic_prefix.clone(),
        local: conninfo.is_some_and(|conninfo| conninfo.hosts.iter().all(|host| is_local(&host.address))),
        port: first.filter(|host| matches!(host.address, Address::Tcp { .. })).map(|host| host.port),
    }
}

async fn within<T>(asking: impl Future<Output = Result<T, Refused>>) -> Result<T, Refused> {
    let silent = || Refused { meaning: Meaning::Retry, text: format!("no answer within {} s", LIMIT.as_secs()) };
    timeout(LIMIT, asking).await.unwrap_or_else(|_| Err(silent()))
}

async fn postgres(conninfo: &Conninfo, settings: &PipelineConfig) -> Result<PostgresFacts, Refused> {
    let PostgresConfig { slot, publication, .. } = &settings.postgres;
    let (client, task) = connect_client(conninfo, "pgbaton doctor", Some(LIMIT))
        .await
        .map_err(|error| Refused { meaning: error.meaning(), text: error.to_string() })?;
    let asked = async {
        let before = SystemTime::now();
        let server = server(&mut &client).await?;
        let took = before.elapsed().unwrap_or_default();
        let ours = (before + took / 2).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let standbys = match servers::waiting(settings) {
            Some(waiting) => Some((waiting, catalog::standbys(&mut &client, waiting).await?)),
            None => None,
        };
        Ok(PostgresFacts {
            seen: catalog::observe(&mut &client, slot).await?,
            standbys,
            publication: catalog::publication(&mut &client, publication).await?,
            clock_ahead_seconds: server.now - ours,
            server,
        })
    };
    let asked: Result<PostgresFacts, QueryError> = asked.await;
    drop(client);
    let _ = task.await;
    asked.map_err(|error| Refused { meaning: error.meaning(), text: error.to_string() })
}

async fn server(sql: &mut impl Sql) -> Result<ServerFacts, QueryError> {
    const QUESTION: &str = "SELECT pg_catalog.jsonb_build_object(\
        'settings', (SELECT pg_catalog.jsonb_object_agg(name, setting) FROM pg_catalog.pg_settings WHERE name IN \
           ('wal_level', 'max_replication_slots', 'max_wal_senders', 'max_slot_wal_keep_size', 'server_encoding', \
            'idle_replication_slot_timeout', 'hot_standby_feedback', 'sync_replication_slots')), \
        'slots', (SELECT count(*) FROM pg_catalog.pg_replication_slots), \
        'senders', (SELECT count(*) FROM pg_catalog.pg_stat_replication), \
        'standbys', (SELECT count(*) FROM pg_catalog.pg_stat_replication r WHERE NOT EXISTS \
           (SELECT FROM pg_catalog.pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')), \
        'encrypted', (SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()), \
        'reads_stats', pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'), \
        'port', pg_catalog.inet_server_port(), \
        'publications', (SELECT COALESCE(pg_catalog.jsonb_agg(pubname ORDER BY pubname), '[]') \
           FROM pg_catalog.pg_publication), \
        'now', EXTRACT(epoch FROM pg_catalog.clock_timestamp()))";
    let rows = sql.rows(QUESTION).await?;
    let text = rows.first().and_then(|row| row.at(0)).unwrap_or_default();
    serde_json::from_str(text).map_err(|error| QueryError::Io(std::io::Error::other(error)))
}

async fn kafka(config: &Config, settings: &PipelineConfig, topics: Vec<String>) -> Result<KafkaFacts, KafkaFault> {
    let target = servers::kafka_target(config, settings);
    let silent = || KafkaFault::Unreachable { reason: format!("no answer within {} s", KAFKA_LIMIT.as_secs()) };
    timeout(KAFKA_LIMIT, examine(&target, topics, KAFKA_FIRST_ANSWER)).await.unwrap_or_else(|_| Err(silent()))
}

async fn patroni(urls: &[String]) -> PatroniFacts {
    let client = Client::plain();
    let client = &client;
    let ask = |url: String, path: &'static str| async move {
        let client = client.as_ref().map_err(ToString::to_string)?;
        let answer = client.get(&url, path).await.map_err(|error| error.to_string())?;
        Ok::<Value, String>(answer.body)
    };
    let mut facts = PatroniFacts::default();
    let nodes = join_all(urls.iter().map(|url| ask(url.clone(), "/patroni"))).await;
    for (url, answer) in urls.iter().zip(nodes) {
        let version = answer.map(|body| body["patroni"]["version"].as_str().unwrap_or("unknown").to_owned());
        facts.nodes.push((url.clone(), version));
    }
    let Some((url, _)) = facts.nodes.iter().find(|(_, version)| version.is_ok()) else { return facts };
    facts.config = ask(url.clone(), "/config").await.ok();
    let cluster = ask(url.clone(), "/cluster").await.unwrap_or_default();
    let text = |member: &Value, key: &str| member[key].as_str().unwrap_or("unknown").to_owned();
    let members = cluster["members"].as_array().into_iter().flatten();
    facts.members = members.map(|member| (text(member, "name"), text(member, "role"), text(member, "state"))).collect();
    facts.paused = cluster["pause"] == Value::Bool(true);
    facts
}

async fn etcd(config: &CoordinationConfig) -> EtcdFacts {
    let members = join_all(config.endpoints.iter().map(|url| member(config, url))).await;
    let endpoints = config.endpoints.iter().cloned().zip(members).collect();
    let granted_ttl = timeout(LIMIT, lease(config)).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    EtcdFacts { endpoints, wanted_ttl: config.lease_ttl, granted_ttl, prefix: config.prefix.clone() }
}

async fn member(config: &CoordinationConfig, url: &str) -> Result<EtcdMember, String> {
    let alone = CoordinationConfig { endpoints: vec![url.to_owned()], ..config.clone() };
    let etcd = Etcd::new(&alone, config.prefix.clone()).map_err(|error| error.to_string())?;
    let asked = async {
        // The first answer pays for the connection.
        let members = etcd.once(|mut client| async move { client.member_list().await }).await?;
        let members = members.members().iter().filter(|member| !member.is_learner()).count();
        let before = Instant::now();
        let status = etcd.once(|mut client| async move { client.status().await }).await?;
        Ok::<EtcdMember, EtcdError>(EtcdMember {
            version: status.version().to_owned(),
            latency: before.elapsed(),
            has_leader: status.leader() != 0,
            alarms: status.errors().to_vec(),
            members,
        })
    };
    match timeout(LIMIT, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// Grants a lease as a worker would, writes a key that nobody reads under it, and lets both go. A worker tries again when an
/// answer is late, and so does this.
async fn lease(config: &CoordinationConfig) -> Result<Duration, String> {
    let etcd = Etcd::new(config, config.prefix.clone()).map_err(|error| error.to_string())?;
    let started = Instant::now();
    loop {
        let tried = async {
            let granted = etcd.grant(config.lease_ttl).await?;
            let written = etcd.put("doctor", b"{}".to_vec(), Some(granted.id)).await;
            let _ = etcd.revoke(granted.id).await;
            written.map(|()| granted.ttl)
        };
        match tried.await {
            Err(EtcdError::Unreachable(_)) if started.elapsed() < LIMIT / 2 => tokio::time::sleep(AGAIN).await,
            tried => return tried.map_err(|error| error.to_string()),
        }
    }
}
