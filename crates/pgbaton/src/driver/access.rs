//! What a pipeline reaches its servers with: made of files that may change while it runs, and then made again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcd_client::ConnectOptions;
use pgbaton_postgres::Conninfo;
use pgbaton_sinks::kafka::KafkaTarget;

use super::batons::Batons;
use super::{Error, inspecting};
use crate::config::{Config, PASSWORD_PROPERTY, PipelineConfig};
use crate::coordination::etcd_options;
use crate::renewal::{Broken, Renewal, Renewed, Scope};
use crate::secret::Secret;
use crate::servers;
use crate::tls::{self, HttpTls};

/// Properties that name files of the library's own reading. What a key or a key store holds may be encrypted: only that it
/// can be read is looked at.
const CERTIFICATES: &[&str] = &["ssl.ca.location", "ssl.certificate.location"];
const OTHER_FILES: &[&str] = &["ssl.key.location", "ssl.keystore.location", "ssl.crl.location"];

/// What all pipelines share.
#[derive(Clone)]
pub struct Shared {
    /// For etcd.
    pub etcd: Renewed<ConnectOptions>,
    /// For other workers.
    pub http_tls: Renewed<HttpTls>,
    /// Which of them this worker holds.
    pub batons: Arc<Batons>,
}

impl Shared {
    /// From the configuration.
    pub fn new(config: &Config, http_tls: Renewed<HttpTls>, renewal: &mut Renewal) -> Result<Self, Error> {
        let refused = |broken: Broken| Error::Files(broken.text);
        let coordination = config.coordination.clone();
        let identity = coordination.certificate.iter().flat_map(|own| [&own.cert_file, &own.key_file]);
        let password = coordination.user.iter().filter_map(|user| user.password_file.as_ref());
        let files: Vec<_> = coordination.ca_file.iter().chain(identity).chain(password).cloned().collect();
        let make = move || etcd_options(&coordination);
        let etcd = renewal.keep("coordination", Scope(None), files, make).map_err(refused)?;
        Ok(Shared { etcd, http_tls, batons: Batons::of(config.pipelines.keys()) })
    }
}

/// What one pipeline needs.
pub struct Access {
    /// What it shares.
    pub shared: Shared,
    /// For PostgreSQL.
    pub conninfo: Renewed<Conninfo>,
    /// For Kafka.
    pub kafka: Renewed<KafkaTarget>,
}

impl Access {
    /// From the pipeline's configuration.
    pub fn new(config: &Config, name: &str, shared: &Shared, renewal: &mut Renewal) -> Result<Self, Error> {
        let pipeline = || name.to_owned();
        let conninfo = postgres(name, &config.pipelines[name], renewal)
            .map_err(|broken| Error::Conninfo { pipeline: pipeline(), reason: broken.text })?;
        let kafka = kafka(name, config, renewal)
            .map_err(|broken| Error::Kafka { pipeline: pipeline(), reason: broken.text })?;
        Ok(Access { shared: shared.clone(), conninfo, kafka })
    }
}

/// The server's text, its password and its certificates. A worker also starts while certificates are missing, and says
/// `tls_failed` until they are there.
fn postgres(pipeline: &str, settings: &PipelineConfig, renewal: &mut Renewal) -> Result<Renewed<Conninfo>, Broken> {
    let settings = settings.postgres.clone();
    let plain = inspecting::conninfo(&settings)?;
    let files = settings.password_file.iter().cloned().chain(plain.certificate_files());
    let scope = Scope(Some(pipeline.to_owned()));
    let mut starting = true;
    renewal.keep("postgres", scope, files.collect::<Vec<_>>(), move || {
        let plain = inspecting::conninfo(&settings)?;
        let read = plain.clone().with_certificates_read();
        match std::mem::take(&mut starting) {
            true => Ok(read.unwrap_or(plain)),
            false => read.map_err(Broken::tls),
        }
    })
}

/// The brokers, and the properties with the password of its file. The library reads certificates itself, when a session
/// begins: that they are whole is seen to here, so that a session is not begun for half a file.
fn kafka(pipeline: &str, config: &Config, renewal: &mut Renewal) -> Result<Renewed<KafkaTarget>, Broken> {
    let settings = &config.pipelines[pipeline];
    let target = servers::kafka_target(config, settings);
    let password_file = settings.kafka.password_file.clone();
    let named = |names: &[&str]| -> Vec<PathBuf> {
        let files = names.iter().filter_map(|name| target.properties.get(*name)).map(PathBuf::from);
        // The library takes directories as well.
        files.filter(|file| !file.is_dir()).collect()
    };
    let (certificates, others) = (named(CERTIFICATES), named(OTHER_FILES));
    let files = password_file.iter().chain(&certificates).chain(&others).cloned().collect::<Vec<_>>();
    let scope = Scope(Some(pipeline.to_owned()));
    let mut starting = true;
    renewal.keep("kafka", scope, files, move || {
        let mut target = target.clone();
        if let Some(file) = &password_file {
            let password = Secret::read(file).map_err(|error| Broken::secret(file, &error))?;
            target.properties.insert(PASSWORD_PROPERTY.to_owned(), password.expose().to_owned());
        }
        let whole = whole(&certificates, &others);
        match std::mem::take(&mut starting) {
            true => Ok(target),
            false => whole.map(|()| target),
        }
    })
}

fn whole(certificates: &[PathBuf], others: &[PathBuf]) -> Result<(), Broken> {
    for file in certificates {
        tls::authorities(file)?;
    }
    let readable = |file: &Path| fs::read(file).map(drop);
    for file in others {
        readable(file).map_err(|error| Broken::tls(format_args!("{}: {error}", file.display())))?;
    }
    Ok(())
}
