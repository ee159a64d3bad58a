//! The rights that the pages name are enough, and doctor names each that is missing.

use anyhow::{Context, Result, ensure};
use pgbaton_tests::pages::{self, Tried};
use serde_json::Value;
use xtask::setup;

use crate::ground::{Ground, Kind, Passwords};

fn passwords() -> Passwords {
    Passwords { postgres: "pg-lab".into(), etcd: "etcd-lab".into(), kafka: "kafka-lab".into() }
}

/// Users who have all rights of the page but one.
const WITHOUT_TRANSACTIONS: (&str, &str) = ("untransacted", "u-lab");
const WITHOUT_WRITE: (&str, &str) = ("reader", "r-lab");

#[test]
fn a_worker_with_the_rights_of_the_page_streams_takes_over_and_is_well_and_doctor_names_each_that_is_missing()
-> Result<()> {
    let others = [WITHOUT_TRANSACTIONS, WITHOUT_WRITE];
    let ground = Ground::start("rights", Kind::default(), passwords(), &others)?;
    let config = ground.whole_config();
    streams_takes_over_and_is_well(&ground, &config)?;

    // The topics are there now: a right on one can be missing.
    let lacking = |(user, password): (&str, &str), change: &dyn Fn(&str) -> Option<String>| -> Result<Value> {
        ground.give_in_kafka(user, change)?;
        let mut config = config.clone();
        let properties = &mut config["pipelines"]["orders"]["kafka"]["properties"];
        properties["sasl.username"] = user.into();
        properties["sasl.password"] = password.into();
        Ok(config)
    };
    let no_transactions = |command: &str| (!command.contains("--transactional-id")).then(|| command.to_owned());
    let untransacted = lacking(WITHOUT_TRANSACTIONS, &no_transactions)?;
    names(&ground, &untransacted, "kafka_rights", "transactional id pgbaton.orders")?;
    let no_write = |command: &str| match command.contains("--topic orders.") {
        true => Some(command.replace("--operation Write ", "")),
        false => Some(command.to_owned()),
    };
    let reader = lacking(WITHOUT_WRITE, &no_write)?;
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

/// Roles were given other rights in 16, slots in 17 and 18.
#[test]
fn on_the_newest_postgresql_the_same_rights_are_enough_though_no_superuser_gives_them() -> Result<()> {
    let newest = setup::ensure_newest_postgres()?;
    let kind = Kind { postgres: Some(newest), plain_administrator: newest >= 16, kafka_of_codes: true };
    let ground = Ground::start("newest", kind, passwords(), &[])?;
    let version = ground.postgres.sql("appdb", "SHOW server_version_num")?;
    ensure!(version.starts_with(&newest.to_string()), "{version} is not {newest}");
    streams_takes_over_and_is_well(&ground, &ground.whole_config())?;
    if newest >= 17 {
        for block in pages::of(&ground.lab, Tried::Newest)? {
            ground.postgres.sql("appdb", &block.text).with_context(|| block.place())?;
        }
    }
    Ok(())
}

fn streams_takes_over_and_is_well(ground: &Ground, config: &Value) -> Result<()> {
    let file = ground.write("doctor", config)?;
    ground.make_slot(&file)?;
    is_content(ground, &file)?;

    let mut first = ground.worker("worker-1", config, |_| ())?;
    first.until("the first to stream", |status| status["role"] == "active")?;
    let mut second = ground.worker("worker-2", config, |_| ())?;
    ground.postgres.sql("appdb", "INSERT INTO items VALUES (1, 'a'); INSERT INTO ledger VALUES (1)")?;
    first.until_told(ground)?;
    second.until("the second to stand by", |status| status["role"] == "standby" && status["healthy"] == true)?;
    is_content(ground, &file)?;

    first.kill()?;
    second.until("the second to take over", |status| status["role"] == "active")?;
    ground.postgres.sql("appdb", "UPDATE items SET note = 'b'")?;
    second.until_told(ground)?;
    second.until("it to be well, with the one change of its own", |status| {
        status["healthy"] == true && status["counters"]["changes"] == 1
    })?;
    is_content(ground, &file)
}

/// Doctor has no error.
fn is_content(ground: &Ground, config: &std::path::Path) -> Result<()> {
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
