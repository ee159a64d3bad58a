//! What Kafka refuses is told as what it is, so that somebody can mend it, and passwords are not told at all.

use std::sync::OnceLock;
use std::time::Duration;

use pgbaton_sinks::kafka::{FenceError, Fenced, KafkaFault, KafkaSession, KafkaStandby, KafkaTarget, SessionError};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::broker::{Broker, free_ports};
use crate::world::{LIMIT, claim, claimed, open, target, with};

/// A broker that asks for a password and allows nothing but to its `admin`; and the port of that listener.
fn secured() -> &'static (Broker, u16) {
    static SECURED: OnceLock<(Broker, u16)> = OnceLock::new();
    SECURED.get_or_init(|| {
        let [secured] = free_ports();
        let broker = Broker::start_with("secured", |port, controller| {
            format!(
                r#"listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{secured},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{secured}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_admin="adm1n-secret" user_nobody="n0body-secret";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:admin
"#
            )
        });
        (broker, secured)
    })
}

pub fn as_user(prefix: &str, user: &str, password: &str) -> KafkaTarget {
    let (broker, port) = secured();
    let properties = [
        ("security.protocol", "SASL_PLAINTEXT"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", user),
        ("sasl.password", password),
    ];
    let mut target = with(target(broker, prefix), &properties);
    target.brokers = format!("127.0.0.1:{port}");
    target
}

/// A listener with TLS that asks for SCRAM, the certificate of its authority, and the broker.
fn encrypted() -> &'static (Broker, u16, String) {
    static ENCRYPTED: OnceLock<(Broker, u16, String)> = OnceLock::new();
    ENCRYPTED.get_or_init(|| {
        let [encrypted] = free_ports();
        let (authority, server) = certificates();
        let user = ["--add-scram", "SCRAM-SHA-512=[name=lab,password=s3cret]"];
        let broker = Broker::start_formatted("encrypted", &user, |port, controller| {
            format!(
                r#"listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{encrypted},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://localhost:{encrypted}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
{server}
"#
            )
        });
        (broker, encrypted, authority)
    })
}

/// The certificate of an authority, and properties of a broker with one that it has signed for `localhost`.
fn certificates() -> (String, String) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    // With the same name as what it signs it would be taken for the signed one itself.
    authority.distinguished_name.push(DnType::CommonName, "authority of the tests");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    // A properties file takes a value of several lines with their ends written out.
    let lines = |pem: &str| pem.trim().replace("\r", "").replace('\n', "\\n");
    let (key, chain) = (key.serialize_pem(), server.pem() + &authority_pem);
    let properties = format!("ssl.keystore.key={}\nssl.keystore.certificate.chain={}", lines(&key), lines(&chain));
    (authority_pem, properties)
}

/// A target that reaches the listener with TLS and SCRAM.
pub fn over_tls(prefix: &str, password: &str) -> KafkaTarget {
    let (broker, port, authority) = encrypted();
    let properties = [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("sasl.username", "lab"),
        ("sasl.password", password),
        ("ssl.ca.pem", authority),
    ];
    let mut target = with(target(broker, prefix), &properties);
    target.brokers = format!("localhost:{port}");
    target
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_and_scram_a_warm_standby_takes_over() {
    let target = over_tls("tls", "s3cret");
    drop(claimed(&target, "a", 1).await);
    let standby = KafkaStandby::new(&target).unwrap();
    standby.check(LIMIT).await.unwrap();
    let Fenced { mut session, .. } = standby.fence(&open("b", 0, 2)).await.unwrap();
    session.claim(&[claim("b", 2)], &[], LIMIT).await.unwrap();
}

async fn fence_fault(target: &KafkaTarget) -> KafkaFault {
    let open = open("a", 0, 1);
    let fence = KafkaSession::fence(target, &open);
    match tokio::time::timeout(LIMIT, fence).await.expect("a refusal comes soon").unwrap_err() {
        FenceError::Session(SessionError::Kafka(fault)) => fault,
        error => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_right_password_and_rights_a_session_claims() {
    claimed(&as_user("admins", "admin", "adm1n-secret"), "a", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_refused_credentials_and_is_not_repeated() {
    let target = as_user("wrong", "admin", "wr0ng-secret");
    let fault = fence_fault(&target).await;
    assert!(matches!(fault, KafkaFault::AuthFailed { .. }), "{fault}");
    assert!(!format!("{fault} {fault:?}").contains("wr0ng-secret"));
    let fault = KafkaStandby::new(&target).unwrap().check(Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(fault, KafkaFault::AuthFailed { .. }), "{fault}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_rights_name_the_topic() {
    let fault = fence_fault(&as_user("rightless", "nobody", "n0body-secret")).await;
    let KafkaFault::PermissionDenied { what } = &fault else { panic!("{fault}") };
    assert!(what.contains("__pgbaton.rightless.progress"), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_where_the_broker_speaks_none_says_so() {
    let (broker, _) = secured();
    let target = with(target(broker, "plain"), &[("security.protocol", "SSL")]);
    let fault = KafkaStandby::new(&target).unwrap().check(Duration::from_secs(1)).await.unwrap_err();
    // Which of the two the library notices first is a matter of chance.
    let words = ["SSL handshake failed", "closed by peer (after"];
    assert!(words.iter().any(|words| fault.to_string().contains(words)), "{fault}");
}
