//! The files below `deploy/` are what they say: judged by the tools of those who will read them (promtool, Kubernetes' schemas,
//! systemd) and by the worker itself. Containers are run by `cargo xtask compose-test`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pgbaton_tests::http;
use serde_yaml::Value;
use xtask::lab::{Lab, machine_program};
use xtask::{build, ports::Ports, wait};

fn lab() -> Result<Lab> {
    let lab = Lab::open()?;
    ensure!(lab.promtool().exists() && lab.kubernetes_validate().exists(), "run `cargo xtask setup`");
    Ok(lab)
}

fn read(lab: &Lab, path: &str) -> Result<String> {
    fs::read_to_string(lab.repo().join(path)).with_context(|| format!("read {path}"))
}

fn documents(text: &str) -> Result<Vec<Value>> {
    use serde::Deserialize;
    serde_yaml::Deserializer::from_str(text).map(|it| Ok(Value::deserialize(it)?)).collect()
}

fn passes(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("run {command:?}"))?;
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    ensure!(status.success(), "{command:?} ({status}):\n{said}");
    Ok(said)
}

fn scratch(name: &str) -> Result<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

#[test]
fn prometheus_takes_the_example_and_the_rules_fire_when_they_should() -> Result<()> {
    let lab = lab()?;
    let promtool = |arguments: &[&str]| {
        passes(Command::new(lab.promtool()).args(arguments).current_dir(lab.repo().join("deploy/prometheus")))
    };
    promtool(&["check", "config", "prometheus.yml"])?;
    promtool(&["test", "rules", "alerts_test.yml"])?;
    Ok(())
}

#[test]
fn every_rule_is_tested_and_leads_to_a_page_that_exists() -> Result<()> {
    let lab = lab()?;
    let rules: Value = serde_yaml::from_str(&read(&lab, "deploy/prometheus/alerts.yml")?)?;
    let tests = read(&lab, "deploy/prometheus/alerts_test.yml")?;
    let codes = anchors(&read(&lab, "docs/codes.md")?);
    let rules = rules["groups"][0]["rules"].as_sequence().context("read the rules")?;
    assert!(!rules.is_empty());
    for rule in rules {
        let name = rule["alert"].as_str().context("read a rule's name")?;
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} is not seen to fire by a test");
        let url = rule["annotations"]["runbook_url"].as_str().with_context(|| format!("{name} leads nowhere"))?;
        let (page, anchor) = url.split_once('#').context("find the anchor")?;
        if anchor == "{{ $labels.code }}" {
            let missing: Vec<_> = all_codes(&lab)?.into_iter().filter(|code| !codes.contains(code)).collect();
            assert_eq!(missing, Vec::<String>::new(), "codes without a section of {page}");
        } else {
            assert!(anchors(&read(&lab, page)?).contains(anchor), "{name}: {page} has no section {anchor}");
        }
    }
    Ok(())
}

/// The anchors that a page's headings have.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let text = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        text.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
    };
    headings.map(anchor).collect()
}

/// As the worker's own page of metrics has them.
fn all_codes(lab: &Lab) -> Result<BTreeSet<String>> {
    let mut worker = Worker::start(lab, "codes")?;
    let codes = worker.metrics()?;
    let codes = codes.lines().filter_map(|line| line.strip_prefix("pgbaton_reason{")?.split("code=\"").nth(1));
    let codes: BTreeSet<_> = codes.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect();
    ensure!(codes.len() > 20, "only {codes:?}");
    Ok(codes)
}

#[test]
fn a_workers_metrics_are_sound_and_are_all_that_board_and_rules_use() -> Result<()> {
    let lab = lab()?;
    let metrics = Worker::start(&lab, "metrics")?.metrics()?;
    let file = scratch("metrics")?.join("scrape");
    fs::write(&file, &metrics)?;
    passes(Command::new(lab.promtool()).args(["check", "metrics"]).stdin(fs::File::open(&file)?))?;

    let mut known: BTreeSet<_> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    // Comes with the first takeover.
    known.insert("pgbaton_takeovers_total");
    let used = names(&(read(&lab, "deploy/prometheus/alerts.yml")? + &read(&lab, "deploy/grafana/pgbaton.json")?));
    assert!(used.len() > 5, "{used:?}");
    let unknown: Vec<_> =
        used.iter().map(|name| name.trim_end_matches("_bucket")).filter(|name| !known.contains(name)).collect();
    assert_eq!(unknown, Vec::<&str>::new(), "known are {known:?}");
    Ok(())
}

fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("pgbaton_")).map(str::to_owned).collect()
}

#[test]
fn every_query_of_the_board_is_one() -> Result<()> {
    let lab = lab()?;
    let board: serde_json::Value = serde_json::from_str(&read(&lab, "deploy/grafana/pgbaton.json")?)?;
    let panels = board["panels"].as_array().context("read the panels")?;
    let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let rules: Vec<_> = queries
        .filter_map(|target| target["expr"].as_str())
        .map(|query| query.replace("$pipeline", ".*").replace("$__rate_interval", "1m"))
        .enumerate()
        .map(|(i, expr)| serde_json::json!({"record": format!("query:{i}"), "expr": expr}))
        .collect();
    assert!(rules.len() > 10);
    let file = scratch("board")?.join("rules.yml");
    fs::write(&file, serde_json::json!({"groups": [{"name": "board", "rules": rules}]}).to_string())?;
    passes(Command::new(lab.promtool()).args(["check", "rules"]).arg(&file))?;
    Ok(())
}

#[test]
fn kubernetes_takes_the_manifests() -> Result<()> {
    let lab = lab()?;
    passes(
        Command::new(lab.kubernetes_validate()).arg("--strict").arg(lab.repo().join("deploy/kubernetes/pgbaton.yaml")),
    )?;
    Ok(())
}

#[test]
fn kubernetes_workers_are_two_that_do_not_share_a_node_and_get_no_variables_of_services() -> Result<()> {
    let lab = lab()?;
    let all = documents(&read(&lab, "deploy/kubernetes/pgbaton.yaml")?)?;
    let deployment = all.iter().find(|it| it["kind"] == "Deployment").context("find the Deployment")?;
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(pod["enableServiceLinks"], false);
    let apart = &pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(apart["topologyKey"], "kubernetes.io/hostname");
    // All of them mean the same pods.
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let budget = all.iter().find(|it| it["kind"] == "PodDisruptionBudget").context("find the budget")?;
    let service = all.iter().find(|it| it["kind"] == "Service").context("find the Service")?;
    for selector in [
        &apart["labelSelector"]["matchLabels"],
        &budget["spec"]["selector"]["matchLabels"],
        &deployment["spec"]["selector"]["matchLabels"],
        &service["spec"]["selector"],
    ] {
        assert_eq!(selector, labels);
    }
    Ok(())
}

#[test]
fn the_worker_takes_the_configurations_of_compose_and_kubernetes() -> Result<()> {
    let lab = lab()?;
    let folder = scratch("configurations")?;
    let all = documents(&read(&lab, "deploy/kubernetes/pgbaton.yaml")?)?;
    let map = all.iter().find(|it| it["kind"] == "ConfigMap").context("find the ConfigMap")?;
    let kubernetes = map["data"]["worker.toml"].as_str().context("read the ConfigMap")?;
    // Files are looked at; these are where the test can put them.
    let secrets = folder.join("secrets");
    fs::create_dir_all(&secrets)?;
    fs::write(secrets.join("postgres-password"), "secret\n")?;
    authority(&secrets.join("ca.crt"))?;
    let kubernetes = kubernetes.replace("/run/secrets/pgbaton", &secrets.display().to_string());
    for (name, text) in [("compose", read(&lab, "deploy/compose/worker.toml")?), ("kubernetes", kubernetes)] {
        let file = folder.join(format!("{name}.toml"));
        fs::write(&file, text)?;
        let mut check = Command::new(build::worker(&lab)?);
        passes(
            check.args(["config", "check", "-c"]).arg(&file).env("PGBATON_HTTP__ADVERTISE", "http://10.0.0.7:8080"),
        )?;
    }
    Ok(())
}

/// A certificate of nobody.
fn authority(file: &Path) -> Result<()> {
    let arguments =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=nobody"];
    passes(Command::new("openssl").args(arguments).args(["-keyout", "/dev/null", "-out"]).arg(file)).map(drop)
}

#[test]
fn systemd_takes_the_unit_and_finds_little_exposed() -> Result<()> {
    // Part of systemd itself: where there is none, nobody will use the unit.
    let Some(analyze) = machine_program("systemd-analyze") else { return Ok(()) };
    let lab = lab()?;
    // Under the name of an instance, and with a program that exists here.
    let unit = scratch("systemd")?.join("pgbaton@orders.service");
    let text = read(&lab, "deploy/systemd/pgbaton@.service")?;
    assert!(text.contains("/usr/local/bin/pgbaton "));
    fs::write(&unit, text.replace("/usr/local/bin/pgbaton ", "/bin/true "))?;
    let said = passes(Command::new(&analyze).args(["verify", "--man=no"]).arg(&unit))?;
    assert_eq!(said, "");
    passes(Command::new(&analyze).args(["security", "--no-pager", "--offline=yes", "--threshold=20"]).arg(&unit))?;
    Ok(())
}

/// The commands in the image and in the compose file, given to a worker that lives and is not well.
#[test]
fn the_health_checks_of_the_containers_tell_a_worker_that_lives_from_one_that_is_well() -> Result<()> {
    let lab = lab()?;
    let image = read(&lab, "deploy/Dockerfile")?;
    let check = image.lines().find(|line| line.starts_with("HEALTHCHECK ")).context("find the image's check")?;
    let of_image: Vec<String> = serde_json::from_str(check.split_once(" CMD ").context("read the check")?.1)?;
    let compose: Value = serde_yaml::from_str(&read(&lab, "docker-compose.patroni.yml")?)?;
    let of_compose: Vec<String> = serde_yaml::from_value(compose["x-worker"]["healthcheck"]["test"].clone())?;
    let mut worker = Worker::start(&lab, "health")?;
    worker.metrics()?;
    for (command, code) in [(of_image.as_slice(), 0), (&of_compose[1..], 3)] {
        assert_eq!(command[0], "pgbaton");
        // Their worker listens at the command's own default.
        let asked = Command::new(build::worker(&lab)?).args(&command[1..]).arg(&worker.url).output()?;
        assert_eq!(asked.status.code(), Some(code), "{command:?}: {asked:?}");
    }
    Ok(())
}

/// A worker that reaches nothing: it answers all the same.
struct Worker {
    process: Child,
    log: PathBuf,
    url: String,
}

impl Worker {
    fn start(lab: &Lab, name: &str) -> Result<Self> {
        let folder = scratch(name)?;
        let mut ports = Ports::default();
        let (port, nowhere) = (ports.free(), ports.free());
        let config = read(lab, "deploy/compose/worker.toml")?
            .replace("haproxy:5000", &format!("127.0.0.1:{nowhere}"))
            .replace("kafka-1:9092", &format!("127.0.0.1:{nowhere}"));
        let config =
            (1..=3).fold(config, |text, i| text.replace(&format!("etcd-{i}:2379"), &format!("127.0.0.1:{nowhere}")));
        let (file, log) = (folder.join("worker.toml"), folder.join("log"));
        fs::write(&file, config)?;
        let process = Command::new(build::worker(lab)?)
            .args(["run", "-c"])
            .arg(&file)
            .args(["--name", name, "--listen", &format!("127.0.0.1:{port}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .context("start a worker")?;
        Ok(Self { process, log, url: format!("http://127.0.0.1:{port}") })
    }

    /// What Prometheus would get.
    fn metrics(&mut self) -> Result<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let url = format!("{}/metrics", self.url);
        wait::until("a worker to answer", Duration::from_secs(30), || {
            if let Some(status) = self.process.try_wait()? {
                let said = fs::read_to_string(&self.log)?;
                anyhow::bail!("the worker ended ({status}): {said}");
            }
            let answer = runtime.block_on(http::get(&url, Duration::from_secs(2)));
            Ok(answer.filter(|answer| answer.status == 200).map(|answer| answer.body))
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
