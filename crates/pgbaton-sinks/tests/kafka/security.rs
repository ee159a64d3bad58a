//! What Kafka refuses is told as what it is, so that somebody can mend it, and passwords are not told at all.

use std::sync::OnceLock;
use std::time::Duration;

use pgbaton_sinks::kafka::{FenceError, KafkaFault, KafkaProbe, KafkaSession, KafkaTarget, SessionError};

use crate::broker::{Broker, free_ports};
use crate::world::{LIMIT, claimed, open, target, with};

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

fn as_user(prefix: &str, user: &str, password: &str) -> KafkaTarget {
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
    let fault = KafkaProbe::new(&target).unwrap().check(Duration::from_secs(5)).await.unwrap_err();
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
    let fault = KafkaProbe::new(&target).unwrap().check(Duration::from_secs(1)).await.unwrap_err();
    assert!(fault.to_string().contains("SSL handshake failed"), "{fault}");
}
