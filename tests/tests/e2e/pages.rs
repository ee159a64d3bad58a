//! The commands on the pages do what the pages say: each block that is marked ```` ```sh run ```` is run beside the cluster, as it stands.
//! Names and addresses of the README's example are the cluster's there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::cluster::Cluster;
use xtask::lab::Lab;
use xtask::wait::until;

use crate::Shared;

const STREAMS: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_that_are_marked_on_the_pages_end_well() -> Result<()> {
    let mut shared = Shared::open().await?;
    shared.ground.arena.act(run_all).await?;
    shared.words.wanted = false;
    Ok(())
}

fn run_all(cluster: &Cluster) -> Result<()> {
    let lab = Lab::open()?;
    // Other tests add workers of other pipelines.
    let mut workers = cluster.workers()?.into_iter();
    let worker = workers.find(|worker| worker.name == "worker-1").context("worker-1 is not there")?;
    until("a worker to stream", STREAMS, || {
        let status = Command::new(cluster.instance().conf().join("pgbaton")).args(["status", &worker.url]).output()?;
        Ok(status.status.success().then_some(()))
    })?;
    let folder = cluster.instance().conf().join("pages");
    fs::create_dir_all(&folder)?;
    fs::copy(&worker.config, folder.join("worker-1.toml"))?;
    let program = folder.join("pgbaton");
    if !program.exists() {
        symlink(cluster.instance().conf().join("pgbaton"), &program)?;
    }
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut ran = 0;
    for (place, block) in marked(&lab)? {
        let script = block.replace("http://10.0.0.5:8080", &worker.url);
        let output = Command::new("sh").args(["-euxc", &script]).current_dir(&folder).env("PATH", &path).output()?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "{place} ({}):\n{}", output.status, String::from_utf8_lossy(&said));
        ran += 1;
    }
    ensure!(ran >= 4, "only {ran} blocks are marked");
    Ok(())
}

/// Every marked block with its place.
fn marked(lab: &Lab) -> Result<Vec<(String, String)>> {
    let mut pages = vec![lab.repo().join("README.md")];
    for entry in fs::read_dir(lab.repo().join("docs"))? {
        pages.push(entry?.path());
    }
    let mut found = Vec::new();
    for page in pages.iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(page)?;
        found.extend(blocks(&text).map(|(line, block)| (format!("{}:{line}", short(page)), block)));
    }
    Ok(found)
}

fn short(page: &Path) -> String {
    page.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The line where it begins, and what is in it.
fn blocks(page: &str) -> impl Iterator<Item = (usize, String)> {
    let ends = |line: &&str| line.trim() != "```";
    let begins = |(line, text): (usize, &str)| (text == "```sh run").then_some(line + 1);
    let beginnings: Vec<usize> = page.lines().enumerate().filter_map(begins).collect();
    beginnings
        .into_iter()
        .map(move |line| (line + 1, page.lines().skip(line).take_while(ends).collect::<Vec<_>>().join("\n")))
}
