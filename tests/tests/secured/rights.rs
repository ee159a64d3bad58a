//! The rights that docs/security.md names are enough, and doctor names each that is missing.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::acls::{self, Acl};
use crate::ground::{Ground, Passwords};

fn passwords() -> Passwords {
    Passwords { postgres: "pg-lab".into(), etcd: "etcd-lab".into(), kafka: "kafka-lab".into() }
}

/// Users who have all rights of the page but one.
const WITHOUT_TRANSACTIONS: (&str, &str) = ("untransacted", "u-lab");
const WITHOUT_WRITE: (&str, &str) = ("reader", "r-lab");

#[test]
fn a_worker_with_the_rights_of_the_page_streams_takes_over_and_is_well_and_doctor_names_each_that_is_missing()
-> Result<()> {
    let ground = Ground::start("rights", passwords(), &[WITHOUT_TRANSACTIONS, WITHOUT_WRITE])?;
    let config = ground.whole_config();
    let file = ground.write("doctor", &config)?;
    ground.make_slot(&file)?;
    no_errors(&ground, &file)?;

    let mut first = ground.worker("worker-1", &config, |_| ())?;
    first.until("the first to stream", |status| status["role"] == "active")?;
    let mut second = ground.worker("worker-2", &config, |_| ())?;
    ground.postgres.sql("appdb", "INSERT INTO items VALUES (1, 'a'); INSERT INTO ledger VALUES (1)")?;
    first.until_told(&ground)?;
    second.until("the second to stand by", |status| status["role"] == "standby" && status["healthy"] == true)?;
    no_errors(&ground, &file)?;

    first.kill()?;
    second.until("the second to take over", |status| status["role"] == "active")?;
    ground.postgres.sql("appdb", "UPDATE items SET note = 'b'")?;
    second.until_told(&ground)?;
    second.until("it to be well, with the one change of its own", |status| {
        status["healthy"] == true && status["counters"]["changes"] == 1
    })?;
    no_errors(&ground, &file)?;

    // The topics are there now: a right on one can be missing.
    let lacking = |user: (&str, &str), keep: &dyn Fn(&Acl) -> bool| -> Result<Value> {
        let mut acls: Vec<Acl> = ground.acls.iter().filter(|acl| keep(acl)).cloned().collect();
        acls.iter_mut().for_each(|acl| acl.principal = format!("User:{}", user.0));
        acls::add(&ground.kafka.bootstrap(), &acls)?;
        let mut config = config.clone();
        let properties = &mut config["pipelines"]["orders"]["kafka"]["properties"];
        properties["sasl.username"] = user.0.into();
        properties["sasl.password"] = user.1.into();
        Ok(config)
    };
    let untransacted = lacking(WITHOUT_TRANSACTIONS, &|acl| !acl.is_for_transactions())?;
    names(&ground, &untransacted, "kafka_rights", "transactional id pgbaton.orders")?;
    let is_write_of_data = |acl: &Acl| acl.name == "orders." && acl.operation == "Write";
    let reader = lacking(WITHOUT_WRITE, &|acl| !is_write_of_data(acl))?;
    names(&ground, &reader, "kafka_rights", "Write topic orders.public.items")?;

    let mut elsewhere = config.clone();
    elsewhere["coordination"]["prefix"] = "/other".into();
    names(&ground, &elsewhere, "etcd_lease", "/other")?;

    ground.postgres.sql("appdb", "CREATE ROLE poor LOGIN PASSWORD 'p-lab'; GRANT CONNECT ON DATABASE appdb TO poor")?;
    let mut poor = config.clone();
    let postgres = &mut poor["pipelines"]["orders"]["postgres"];
    postgres["url"] = postgres["url"].as_str().context("no URL")?.replace("pgbaton@", "poor@").into();
    postgres["password"] = "p-lab".into();
    names(&ground, &poor, "replication_connect", "replication")?;
    Ok(())
}

fn no_errors(ground: &Ground, config: &std::path::Path) -> Result<()> {
    let found = ground.doctor(config)?;
    ensure!(!found.contains_key("error"), "{:#?}", found["error"]);
    Ok(())
}

/// Doctor has an error of that id that says so, with something that mends it.
fn names(ground: &Ground, config: &Value, id: &str, what: &str) -> Result<()> {
    let found = ground.doctor(&ground.write(id, config)?)?;
    let errors = found.get("error").map(Vec::as_slice).unwrap_or_default();
    let is_named = |finding: &Value| {
        finding["id"] == id
            && finding["what"].as_str().is_some_and(|text| text.contains(what))
            && finding["fix"].as_str().is_some_and(|fix| !fix.is_empty())
    };
    ensure!(errors.iter().any(is_named), "{id}, {what} is not among {errors:#?}");
    Ok(())
}
