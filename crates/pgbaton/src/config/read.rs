//! Which keys there are, their defaults, and what must fit together.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    Backend, Certificate, Compat, Config, CoordinationConfig, Delivery, EtcdUser, Format, Given, HttpConfig, Invalid,
    KafkaConfig, Loaded, LogConfig, LogFormat, OnGap, OnLoss, OnPublicationShrink, PipelineConfig, PostgresConfig,
    StandbyBarrier, VerifyClient, defaults,
    effective::{Effective, Shown},
    properties::{self, PASSWORD_PROPERTY},
    reader::Reader,
    rules,
    section::Section,
    sources::Sources,
    urls,
};
use crate::secret::{HIDDEN, Secret};
use crate::tls::{self, UnusableFile};

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
    let certificate = certificate(&mut section);
    let verify_client = section.or("verify_client", defaults::VERIFY_CLIENT.as_str(), VerifyClient::parse);
    let client_ca_file = section.optional("client_ca_file", rules::readable_file);
    let ca_file = section.optional("ca_file", rules::readable_file);
    let asked = verify_client.is_some_and(|verify| verify != VerifyClient::None);
    if asked && !section.has("client_ca_file") {
        section.refuse("client_ca_file", "missing; verify_client is set and needs it");
    }
    if section.has("client_ca_file") && !asked {
        section.refuse(
            "client_ca_file",
            "would not be looked at; allowed: with verify_client = \"optional\" or \"required\"",
        );
    }
    if asked && !section.has("cert_file") {
        section.refuse("cert_file", "missing; verify_client is set, and only TLS asks clients for certificates");
    }
    if section.has("cert_file")
        && let Some(url) = advertise.as_ref().filter(|url| url.starts_with("http://"))
    {
        section
            .refuse("advertise", format!("found {url:?} beside cert_file; allowed: https://, as the port speaks TLS"));
    }
    let own = certificate.as_ref();
    let server = own.zip(verify_client).map(|(own, verify)| tls::server(own, verify, client_ca_file.as_deref()));
    if let Some(error) = server.and_then(Result::err).or_else(|| tls::check(ca_file.as_deref(), own).err()) {
        let authorities = [("client_ca_file", client_ca_file.as_ref()), ("ca_file", ca_file.as_ref())];
        refuse_file(&section, &error, own, &authorities);
    }
    Some(HttpConfig {
        listen: listen?,
        advertise,
        token_file,
        certificate,
        verify_client: verify_client?,
        client_ca_file,
        ca_file,
    })
}

/// Notes a file of TLS that holds something else, at the key that names it.
fn refuse_file(
    section: &Section<'_>,
    error: &UnusableFile,
    own: Option<&Certificate>,
    authorities: &[(&str, Option<&PathBuf>)],
) {
    let own = own.map(|own| [("cert_file", Some(&own.cert_file)), ("key_file", Some(&own.key_file))]);
    let mut keys = own.iter().flatten().chain(authorities);
    let key = keys.find(|(_, file)| *file == Some(&error.file)).map_or("cert_file", |(key, _)| key);
    let allowed = match key {
        "key_file" => "a PEM file with the key of cert_file, not encrypted",
        "cert_file" => {
            "a PEM file with a certificate, those that lead to its authority behind it, and its key in key_file"
        }
        _ => "a PEM file with certificates of authorities",
    };
    section.refuse(key, format!("{error}; allowed: {allowed}"));
}

/// `cert_file` and `key_file`.
fn certificate(section: &mut Section<'_>) -> Option<Certificate> {
    let cert_file = section.optional("cert_file", rules::readable_file);
    let key_file = section.optional("key_file", rules::readable_file);
    both(section, ("cert_file", cert_file), ("key_file", key_file))
        .map(|(cert_file, key_file)| Certificate { cert_file, key_file })
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
    let certificate = certificate(&mut section);
    https_where_certificates_are_given(&section, endpoints.as_deref().unwrap_or_default());
    let username = section.optional("username", rules::not_empty);
    let (password, password_file) = password(&mut section);
    if section.has("username") && !(section.has("password") || section.has("password_file")) {
        section.refuse("username", "is set without a password; allowed: with password or password_file");
    }
    if !section.has("username") && (section.has("password") || section.has("password_file")) {
        section.refuse("username", "missing; allowed: the user whose password is set");
    }
    let own = certificate.as_ref();
    if let Err(error) = tls::check(ca_file.as_deref(), own) {
        refuse_file(&section, &error, own, &[("ca_file", ca_file.as_ref())]);
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
    let on_publication_shrink =
        section.or("on_publication_shrink", defaults::ON_PUBLICATION_SHRINK.as_str(), OnPublicationShrink::parse);
    let standby_barrier = section.or("standby_barrier", defaults::STANDBY_BARRIER.as_str(), StandbyBarrier::parse);
    let takeover_grace = section.or("takeover_grace", defaults::TAKEOVER_GRACE, rules::takeover_grace);
    let audit = section.flag("audit", defaults::AUDIT);
    let postgres = postgres(section.section("postgres"));
    let kafka = kafka(section.section("kafka"), backend);
    Some(PipelineConfig {
        on_gap: on_gap?,
        on_publication_shrink: on_publication_shrink?,
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
    let password_file = section.optional("password_file", rules::secret_file);
    let properties = section.section("properties").all(|name, text| {
        let property = properties::property(name, text)?;
        Ok((Shown::Text(properties::shown_property(name, text)), property))
    });
    let mut properties: BTreeMap<_, _> = properties.into_iter().collect();
    if password_file.is_some() && properties.contains_key(PASSWORD_PROPERTY) {
        section.refuse("password_file", format!("is set beside {PASSWORD_PROPERTY:?}; allowed: one of the two"));
    }
    let password = password_file.as_ref().and_then(|file| Secret::read(file).ok());
    properties.extend(password.map(|password| (PASSWORD_PROPERTY.to_owned(), password)));
    Some(KafkaConfig {
        brokers: brokers?,
        topic_prefix: topic_prefix?,
        delivery: delivery?,
        format: format?,
        compat: compat?,
        atomic_up_to: atomic_up_to?,
        password_file,
        properties,
    })
}

fn log(mut section: Section<'_>) -> Option<LogConfig> {
    let format = section.or("format", defaults::LOG_FORMAT.as_str(), LogFormat::parse);
    let level = section.or("level", defaults::LOG_LEVEL, rules::log_level);
    Some(LogConfig { format: format?, level: level? })
}
