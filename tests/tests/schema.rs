//! The schema of the configuration, judged by a validator that is none of ours: it takes every configuration that we show, and
//! refuses what the worker refuses.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xtask::build;
use xtask::lab::Lab;

/// Reads `[schema, [instances]]`, prints the first mistake of each instance, or null.
const JUDGE: &str = "
import json, sys
from jsonschema import Draft202012Validator as Validator
schema, instances = json.load(sys.stdin)
Validator.check_schema(schema)
judge = Validator(schema)
print(json.dumps([next((f'{e.json_path}: {e.message}' for e in judge.iter_errors(it)), None) for it in instances]))
";

fn lab() -> Result<Lab> {
    let lab = Lab::open()?;
    ensure!(lab.kubernetes_validate().exists(), "run `cargo xtask setup`");
    Ok(lab)
}

fn schema(lab: &Lab) -> Result<Value> {
    let output = Command::new(build::worker(lab)?).args(["config", "schema"]).output().context("run the worker")?;
    ensure!(output.status.success());
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What the validator has against each, beginning with the path to it.
fn judged(lab: &Lab, schema: &Value, instances: &[Value]) -> Result<Vec<Option<String>>> {
    let file = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("schema-{}.json", fastrand::u64(..)));
    fs::write(&file, json!([schema, instances]).to_string())?;
    let python = lab.kubernetes_validate().with_file_name("python");
    let output =
        Command::new(python).args(["-c", JUDGE]).stdin(fs::File::open(&file)?).output().context("run Python")?;
    fs::remove_file(&file)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Every TOML that we show, with its place.
fn examples(lab: &Lab) -> Result<Vec<(String, Value)>> {
    let mut texts = Vec::new();
    let mut pages = vec![lab.repo().join("README.md")];
    for entry in fs::read_dir(lab.repo().join("docs"))? {
        pages.push(entry?.path());
    }
    for page in pages.iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(page)?;
        let blocks = text.split("\n```toml\n").skip(1).filter_map(|rest| rest.split("\n```").next());
        texts.extend(
            blocks.enumerate().map(|(i, block)| (format!("{}, block {}", page.display(), i + 1), block.to_owned())),
        );
    }
    texts.push(("compose".to_owned(), fs::read_to_string(lab.repo().join("deploy/compose/worker.toml"))?));
    let manifests = fs::read_to_string(lab.repo().join("deploy/kubernetes/pgbaton.yaml"))?;
    for document in serde_yaml::Deserializer::from_str(&manifests) {
        use serde::Deserialize;
        let manifest = serde_yaml::Value::deserialize(document)?;
        if let Some(text) = manifest["data"]["worker.toml"].as_str() {
            texts.push(("kubernetes".to_owned(), text.to_owned()));
        }
    }
    let parsed = texts.into_iter().map(|(place, text)| {
        let value = toml::from_str(&text).with_context(|| place.clone())?;
        Ok((place, value))
    });
    parsed.collect()
}

/// What the schema says of one file of several.
fn of_a_part(mut schema: Value) -> Value {
    fn forget_required(schema: &mut Value) {
        match schema {
            Value::Object(keys) => {
                keys.remove("required");
                keys.values_mut().for_each(forget_required);
            }
            Value::Array(items) => items.iter_mut().for_each(forget_required),
            _ => {}
        }
    }
    forget_required(&mut schema);
    schema
}

#[test]
fn every_configuration_that_is_shown_is_one_by_the_schema() -> Result<()> {
    let lab = lab()?;
    let schema = schema(&lab)?;
    let (whole, parts): (Vec<_>, Vec<_>) =
        examples(&lab)?.into_iter().partition(|(_, value)| value["coordination"]["endpoints"].is_array());
    ensure!(whole.len() >= 4 && !parts.is_empty(), "only {} whole examples, {} parts", whole.len(), parts.len());
    for (schema, examples) in [(schema.clone(), whole), (of_a_part(schema), parts)] {
        let (places, values): (Vec<_>, Vec<_>) = examples.into_iter().unzip();
        for (place, mistake) in places.iter().zip(judged(&lab, &schema, &values)?) {
            ensure!(mistake.is_none(), "{place}: {}", mistake.unwrap_or_default());
        }
    }
    Ok(())
}

#[test]
fn the_schema_refuses_what_the_worker_refuses() -> Result<()> {
    let lab = lab()?;
    let good: Value = toml::from_str(&fs::read_to_string(lab.repo().join("deploy/compose/worker.toml"))?)?;
    let changes = [
        ("/zzz", json!(1)),
        ("/name", json!("a b")),
        ("/http/zzz", json!("x")),
        ("/http/listen", json!(8080)),
        ("/coordination/endpoints", json!([])),
        ("/coordination/backend", json!("consul")),
        ("/coordination/lease_ttl", json!("10")),
        ("/coordination/prefix", json!("pgbaton/")),
        ("/pipelines/orders/on_gap", json!("ignore")),
        ("/pipelines/orders/postgres/slot", json!("Orders")),
        ("/pipelines/orders/postgres/slot", json!(null)),
        ("/pipelines/orders/kafka/atomic_up_to", json!(0)),
        ("/pipelines/orders/kafka/atomic_up_to", json!("many")),
        ("/pipelines/orders/kafka/topic_prefix", json!("__orders")),
        ("/pipelines/orders/kafka/properties/acks", json!("1")),
        ("/pipelines/orders/kafka/properties/client.id", json!("x")),
        ("/pipelines/Orders", good["pipelines"]["orders"].clone()),
        ("/log/format", json!("xml")),
    ];
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let worker = build::worker(&lab)?;
    let mut wrong = Vec::new();
    for (path, value) in &changes {
        let mut text = good.clone();
        put(&mut text, path, value.clone());
        let file = folder.join(format!("refused-{}.yaml", fastrand::u64(..)));
        fs::write(&file, text.to_string())?;
        let checked = Command::new(&worker).args(["config", "check", "-c"]).arg(&file).output()?;
        fs::remove_file(&file)?;
        assert_eq!(checked.status.code(), Some(2), "the worker takes {path}: {value}");
        wrong.push(text);
    }
    let verdicts = judged(&lab, &schema(&lab)?, &wrong)?;
    for ((path, value), verdict) in changes.iter().zip(verdicts) {
        assert!(verdict.is_some(), "the schema takes {path}: {value}");
    }
    Ok(())
}

/// Puts a value there, and the tables that lead to it.
fn put(root: &mut Value, path: &str, value: Value) {
    let mut place = root;
    for name in path.trim_start_matches('/').split('/') {
        place = &mut place[name];
    }
    *place = value;
}
