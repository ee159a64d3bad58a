//! Which keys there are, their defaults, and what must fit together.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    Backend, ClientCertificate, Compat, Config, CoordinationConfig, Delivery, EtcdUser, Format, Given, HttpConfig,
    Invalid, KafkaConfig, Loaded, LogConfig, LogFormat, OnGap, OnLoss, PipelineConfig, PostgresConfig, StandbyBarrier,
    defaults,
    effective::{Effective, Shown},
    properties,
    reader::Reader,
    rules,
    section::Section,
    sources::Sources,
    urls,
};
use crate::secret::{HIDDEN, Secret};

pub(super) fn load(given: &Given) -> Result<Loaded, Invalid> {
    let mut mistakes = Vec::new();
    let sources = Sources::gather(given, &mut mistakes);
    // A file that could not be read would make every key in it "missing": say only what is certain.
    if !mistakes.is_empty() {
        return Err(Invalid(mistakes));
    }
    let reader = Reader::new(&sources);
    let config = config(Section::root(&reader));
    let effective = Effective::new(reader.finish()?, sources);
    let config = config.expect("a value is missing only where a mistake was noted");
    Ok(Loaded { config, effective })
}

/// The host's name, as `uname` has it.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

// Everywhere below: ask for every key before the first `?`, so that all mistakes are found.

fn config(mut root: Section<'_>) -> Option<Config> {
    let name = root.or("name", &host_name(), rules::worker_name);
    if name.is_none() && !root.has("name") {
        root.refuse("name", format!("missing, and the host's name cannot serve; allowed: {}", rules::WORKER_NAME));
    }
    let http = http(root.section("http"));
    // What a lease has to keep apart depends on the pipelines.
    let unfenced = root.tables_with("pipelines", "kafka.delivery", Delivery::AtLeastOnce.as_str());
    let coordination = coordination(root.section("coordination"), &unfenced);
    let backend = coordination.as_ref().map(|coordination| coordination.backend);
    let pipelines = pipelines(&mut root, backend);
    let log = log(root.section("log"));
    Some(Config { name: name?, http: http?, coordination: coordination?, pipelines: pipelines?, log: log? })
}

fn http(mut section: Section<'_>) -> Option<HttpConfig> {
    let listen = section.or("listen", defaults::LISTEN, rules::listen);
    let advertise = url(&mut section, "advertise");
    let token_file = section.optional("token_file", rules::secret_file);
    let listen = listen?;
    Some(HttpConfig { listen, advertise, token_file })
}

fn url(section: &mut Section<'_>, key: &str) -> Option<String> {
    section.secret(key, urls::without_user, |url| urls::server_url(&["http", "https"])(url.expose()))
}

fn coordination(mut section: Section<'_>, unfenced: &[(String, bool)]) -> Option<CoordinationConfig> {
    let backend = section.or("backend", defaults::BACKEND.as_str(), Backend::parse);
    let endpoints = section.urls("endpoints", urls::server_url(&["http", "https"]));
    if backend != Some(Backend::None) && endpoints.as_ref().is_some_and(Vec::is_empty) {
        section.refuse("endpoints", "missing; allowed: a list of etcd's URLs, as in [\"http://127.0.0.1:2379\"]");
    }
    let ca_file = section.optional("ca_file", rules::readable_file);
    let cert_file = section.optional("cert_file", rules::readable_file);
    let key_file = section.optional("key_file", rules::readable_file);
    let certificate = both(&section, ("cert_file", cert_file), ("key_file", key_file))
        .map(|(cert_file, key_file)| ClientCertificate { cert_file, key_file });
    https_where_certificates_are_given(&section, endpoints.as_deref().unwrap_or_default());
    let username = section.optional("username", rules::not_empty);
    let (password, password_file) = password(&mut section);
    if section.has("username") && !(section.has("password") || section.has("password_file")) {
        section.refuse("username", "is set without a password; allowed: with password or password_file");
    }
    if !section.has("username") && (section.has("password") || section.has("password_file")) {
        section.refuse("username", "missing; allowed: the user whose password is set");
    }
    let prefix = section.or("prefix", defaults::ETCD_PREFIX, rules::etcd_prefix);
    let lease_ttl = section.or("lease_ttl", defaults::LEASE_TTL, rules::lease_ttl);
    let on_loss = on_loss(&mut section, unfenced);
    Some(CoordinationConfig {
        backend: backend?,
        endpoints: endpoints?,
        ca_file,
        certificate,
        user: username.zip(password).map(|(username, password)| EtcdUser { username, password, password_file }),
        prefix: prefix?,
        lease_ttl: lease_ttl?,
        on_loss: on_loss?,
    })
}

/// What goes on without etcd needs a sink that keeps others away. A pipeline whose sink does not is strict in any case.
fn on_loss(section: &mut Section<'_>, unfenced: &[(String, bool)]) -> Option<OnLoss> {
    let some = unfenced.iter().find(|(_, unfenced)| *unfenced);
    let all = some.is_some() && unfenced.iter().all(|(_, unfenced)| *unfenced);
    let default = if all { OnLoss::Strict } else { defaults::ON_LOSS };
    let on_loss = section.or("on_loss", default.as_str(), OnLoss::parse);
    if let Some((name, _)) = some
        && on_loss == Some(OnLoss::SlotGuarded)
        && section.has("on_loss")
    {
        let problem = format!(
            "found \"slot-guarded\" beside pipelines.{name}.kafka.delivery = \"at-least-once\": without transactions Kafka \
             refuses nobody, and only the lease keeps two workers from publishing at once; allowed: \"strict\""
        );
        section.refuse("on_loss", problem);
    }
    on_loss
}

/// Two keys that only make sense together.
fn both<T>(section: &Section<'_>, one: (&str, Option<T>), other: (&str, Option<T>)) -> Option<(T, T)> {
    for (here, there) in [(one.0, other.0), (other.0, one.0)] {
        if section.has(here) && !section.has(there) {
            section.refuse(there, format!("missing; {here} is set and needs it"));
        }
    }
    one.1.zip(other.1)
}

/// Certificates beside a plain endpoint would promise a protection that is not there.
fn https_where_certificates_are_given(section: &Section<'_>, endpoints: &[String]) {
    let secured = ["ca_file", "cert_file"].iter().any(|key| section.has(key));
    let plain = endpoints.iter().find(|url| url.starts_with("http://"));
    let https = endpoints.iter().any(|url| url.starts_with("https://"));
    match plain {
        Some(url) if secured => {
            section.refuse("endpoints", format!("found {url:?} beside certificates; allowed: https://"))
        }
        Some(url) if https => section.refuse("endpoints", format!("found {url:?} beside https; allowed: all alike")),
        _ => {}
    }
}

/// The password and the file it came from, if it did.
fn password(section: &mut Section<'_>) -> (Option<Secret>, Option<PathBuf>) {
    let here = section.secret("password", |_| HIDDEN.to_owned(), rules::some_secret);
    let file = section.optional("password_file", rules::secret_file);
    if section.has("password") && section.has("password_file") {
        section.refuse("password_file", "is set beside password; allowed: one of the two");
    }
    let read = file.as_ref().and_then(|file| Secret::read(file).ok());
    (here.or(read), file)
}

fn pipelines(root: &mut Section<'_>, backend: Option<Backend>) -> Option<BTreeMap<String, PipelineConfig>> {
    let mut all = root.section("pipelines");
    let names = all.names();
    if names.is_empty() {
        root.refuse("pipelines", "missing; allowed: at least one table [pipelines.NAME]");
        return None;
    }
    let mut pipelines = BTreeMap::new();
    for name in &names {
        let pipeline = pipeline(all.section(name), backend);
        if !rules::is_pipeline_name(name) {
            all.refuse(name, format!("not a pipeline's name; allowed: {}", rules::PIPELINE_NAME));
        }
        if let Some(pipeline) = pipeline {
            pipelines.insert(name.clone(), pipeline);
        }
    }
    let prefixes = pipelines.iter().map(|(name, pipeline)| (name.as_str(), &pipeline.kafka.topic_prefix));
    for (later, earlier) in rules::same_value(prefixes) {
        let problem = format!("has the same topic_prefix as pipelines.{earlier}; allowed: one of its own");
        all.refuse(later, problem);
    }
    let slots = pipelines
        .iter()
        .map(|(name, pipeline)| (name.as_str(), (pipeline.postgres.url.expose(), &pipeline.postgres.slot)));
    for (later, earlier) in rules::same_value(slots) {
        all.refuse(later, format!("has the same url and slot as pipelines.{earlier}; allowed: a slot of its own"));
    }
    (pipelines.len() == names.len()).then_some(pipelines)
}

fn pipeline(mut section: Section<'_>, backend: Option<Backend>) -> Option<PipelineConfig> {
    let on_gap = section.or("on_gap", defaults::ON_GAP.as_str(), OnGap::parse);
    let standby_barrier = section.or("standby_barrier", defaults::STANDBY_BARRIER.as_str(), StandbyBarrier::parse);
    let takeover_grace = section.or("takeover_grace", defaults::TAKEOVER_GRACE, rules::takeover_grace);
    let audit = section.flag("audit", defaults::AUDIT);
    let postgres = postgres(section.section("postgres"));
    let kafka = kafka(section.section("kafka"), backend);
    if audit == Some(true) && kafka.as_ref().is_some_and(|kafka| kafka.delivery == Delivery::AtLeastOnce) {
        section.refuse(
            "audit",
            "found beside kafka.delivery = \"at-least-once\", whose repeats it would call doubled; allowed: false",
        );
    }
    Some(PipelineConfig {
        on_gap: on_gap?,
        standby_barrier: standby_barrier?,
        takeover_grace: takeover_grace?,
        audit: audit?,
        postgres: postgres?,
        kafka: kafka?,
    })
}

fn postgres(mut section: Section<'_>) -> Option<PostgresConfig> {
    if !section.has("url") {
        section.refuse("url", format!("missing; allowed: {}", urls::CONNECTION));
    }
    let url = section.secret("url", urls::shown_connection, urls::connection);
    let (password, password_file) = password(&mut section);
    let slot = section.required("slot", "the name of a logical slot", rules::slot_name);
    let publication = section.required("publication", "the name of a publication", rules::publication_name);
    let patroni = section.urls("patroni", urls::server_url(&["http", "https"]));
    Some(PostgresConfig {
        url: url?,
        password,
        password_file,
        slot: slot?,
        publication: publication?,
        patroni: patroni?,
    })
}

fn kafka(mut section: Section<'_>, backend: Option<Backend>) -> Option<KafkaConfig> {
    let brokers = section.required("brokers", rules::BROKERS, rules::brokers);
    let topic_prefix = section.required("topic_prefix", "a text unique in the Kafka cluster", rules::topic_prefix);
    let delivery = section.or("delivery", defaults::DELIVERY.as_str(), Delivery::parse);
    if backend == Some(Backend::None) && delivery.is_some_and(|delivery| delivery != Delivery::ExactlyOnce) {
        section.refuse(
            "delivery",
            "found beside coordination.backend = \"none\"; allowed: exactly-once, whose fence is all there is",
        );
    }
    let format = section.or("format", defaults::FORMAT.as_str(), Format::parse);
    let compat = section.or("compat", defaults::COMPAT.as_str(), Compat::parse);
    let atomic_up_to = section.number("atomic_up_to", defaults::ATOMIC_UP_TO, rules::ATOMIC_UP_TO);
    let properties = section.section("properties").all(|name, text| {
        let property = properties::property(name, text)?;
        Ok((Shown::Text(properties::shown_property(name, text)), property))
    });
    Some(KafkaConfig {
        brokers: brokers?,
        topic_prefix: topic_prefix?,
        delivery: delivery?,
        format: format?,
        compat: compat?,
        atomic_up_to: atomic_up_to?,
        properties: properties.into_iter().collect(),
    })
}

fn log(mut section: Section<'_>) -> Option<LogConfig> {
    let format = section.or("format", defaults::LOG_FORMAT.as_str(), LogFormat::parse);
    let level = section.or("level", defaults::LOG_LEVEL, rules::log_level);
    Some(LogConfig { format: format?, level: level? })
}
