//! How the library's properties say that a connection is made secure: as much of it as is spoken here.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::TopicIdsError;
use super::scram::Hash;
use crate::kafka::fault::KafkaFault;

/// What a connection needs beside TCP.
pub(super) struct Security {
    pub tls: Option<Arc<ClientConfig>>,
    pub sasl: Option<Sasl>,
}

/// Credentials.
pub(super) struct Sasl {
    pub mechanism: Mechanism,
    pub user: String,
    pub password: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    Plain,
    Scram(Hash),
}

impl Mechanism {
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Scram(Hash::Sha256) => "SCRAM-SHA-256",
            Mechanism::Scram(Hash::Sha512) => "SCRAM-SHA-512",
        }
    }
}

/// Beginnings of the properties that concern security.
const CONCERNED: &[&str] = &["security.", "sasl.", "ssl.", "https.", "enable.sasl", "enable.ssl"];

/// Those that are understood.
const SPOKEN: &[&str] = &[
    "security.protocol",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.key.location",
    "ssl.key.pem",
];

impl Security {
    pub fn of(properties: &BTreeMap<String, String>) -> Result<Self, TopicIdsError> {
        let concerns_us = |name: &&String| CONCERNED.iter().any(|beginning| name.starts_with(beginning));
        if let Some(name) = properties.keys().filter(concerns_us).find(|name| !SPOKEN.contains(&name.as_str())) {
            return Err(TopicIdsError::NotSpoken(name.clone()));
        }
        let property = |name: &str| properties.get(name).map(String::as_str);
        let (tls, sasl) = match property("security.protocol").unwrap_or("plaintext").to_ascii_lowercase().as_str() {
            "plaintext" => (false, false),
            "ssl" => (true, false),
            "sasl_plaintext" => (false, true),
            "sasl_ssl" => (true, true),
            other => return Err(TopicIdsError::NotSpoken(format!("security.protocol {other}"))),
        };
        let sasl = match sasl {
            false => None,
            true => Some(Sasl {
                mechanism: match property("sasl.mechanism").or(property("sasl.mechanisms")).unwrap_or("GSSAPI") {
                    "PLAIN" => Mechanism::Plain,
                    "SCRAM-SHA-256" => Mechanism::Scram(Hash::Sha256),
                    "SCRAM-SHA-512" => Mechanism::Scram(Hash::Sha512),
                    other => return Err(TopicIdsError::NotSpoken(format!("sasl.mechanism {other}"))),
                },
                user: property("sasl.username").unwrap_or_default().to_owned(),
                password: property("sasl.password").unwrap_or_default().to_owned(),
            }),
        };
        let tls = match tls {
            false => None,
            true => Some(Arc::new(tls_config(property).map_err(|reason| KafkaFault::TlsFailed { reason })?)),
        };
        Ok(Security { tls, sasl })
    }
}

/// Certificates are checked against the broker's name, as the library does by default.
fn tls_config<'a>(property: impl Fn(&'a str) -> Option<&'a str>) -> Result<ClientConfig, String> {
    // The value of one of two properties, and which: the text itself, or a file that holds it.
    let pem = |text: &'a str, file: &'a str| match (property(text), property(file)) {
        (Some(text), _) => Ok(Some(text.as_bytes().to_vec())),
        (None, Some(path)) => std::fs::read(path).map(Some).map_err(|error| format!("{file}: {error}")),
        (None, None) => Ok(None),
    };
    let certificates = |name: &str, pem: &[u8]| -> Result<Vec<CertificateDer<'static>>, String> {
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| format!("{name}: {error}"))
    };
    let mut roots = RootCertStore::empty();
    let trusted = match pem("ssl.ca.pem", "ssl.ca.location")? {
        Some(pem) => certificates("ssl.ca", &pem)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    if roots.add_parsable_certificates(trusted).0 == 0 {
        return Err("there are no certificates of authorities".to_owned());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let certificate = pem("ssl.certificate.pem", "ssl.certificate.location")?;
    let key = pem("ssl.key.pem", "ssl.key.location")?;
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| format!("ssl.key: {error}"))?;
            let chain = certificates("ssl.certificate", &certificate)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(properties: &[(&str, &str)]) -> Result<Security, TopicIdsError> {
        Security::of(&properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn what_is_not_spoken_is_not_guessed() {
        for (name, value) in [
            ("ssl.key.password", "secret"),
            ("enable.ssl.certificate.verification", "false"),
            ("ssl.endpoint.identification.algorithm", "none"),
            ("sasl.oauthbearer.config", "x"),
            ("security.protocol", "sasl_plaintext"),
        ] {
            assert!(matches!(of(&[(name, value)]), Err(TopicIdsError::NotSpoken(_))), "{name}");
        }
    }

    #[test]
    fn mechanisms_are_those_of_the_library() {
        let with = |mechanism| of(&[("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", mechanism)]);
        for name in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            assert_eq!(with(name).ok().and_then(|security| security.sasl).unwrap().mechanism.name(), name);
        }
        assert!(matches!(with("OAUTHBEARER"), Err(TopicIdsError::NotSpoken(_))));
    }
}
