//! The blocks of code that `README.md` and `docs/*.md` show, and where each is tried: nothing is shown that nobody has typed.
//!
//! A block of `sh` or `sql` is run beside the cluster of the end-to-end tests, as it stands, unless it is listed in [`APART`].

use std::fs;

use anyhow::{Context, Result};
use xtask::lab::Lab;

/// A block of code on a page.
#[derive(Clone, Debug)]
pub struct Block {
    /// `docs/codes.md`
    pub page: String,
    /// The line on which its text begins.
    pub line: usize,
    /// `sh`, `sql`, `toml`.
    pub language: String,
    /// What is in it.
    pub text: String,
}

/// Where a block is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// Beside the cluster of the end-to-end tests, which streams.
    Cluster,
    /// On a pipeline that has lost its slot.
    Gap,
    /// To give a worker its rights, on servers that allow nothing else.
    Rights,
    /// Where what it makes is not there yet, and taken back.
    Afresh,
    /// On the newest PostgreSQL that set-up can have.
    Newest,
    /// Nowhere, for this reason.
    Nowhere(&'static str),
}

const CHORE: &str = "a chore: hours long, or it changes the checkout, or is what runs the tests";
const DOCKER: &str = "needs a container engine: `cargo xtask compose-test` does the same";
const MACHINE: &str = "changes the machine: the unit is judged by systemd's own tools in tests/tests/deploy.rs";
const KUBERNETES: &str = "needs a Kubernetes: the manifests are judged by its schemas in tests/tests/deploy.rs";
const TLS: &str = "needs certificates of the reader's: crates/pgbaton/tests has workers with some";
const HANGING: &str = "ends a transaction that hangs, and none does";

/// What is not run beside the cluster: the page, how the block begins, where it is tried.
const APART: &[(&str, &str, Tried)] = &[
    ("README.md", "cargo xtask demo", Tried::Nowhere(CHORE)),
    ("README.md", "CREATE ROLE pgbaton", Tried::Afresh),
    ("README.md", "pgbaton run -c worker-1.toml", Tried::Nowhere("does not return: the cluster's workers are run so")),
    ("docs/certificates.md", "pgbaton status https://", Tried::Nowhere(TLS)),
    ("docs/checking.md", "cargo xtask load", Tried::Nowhere(CHORE)),
    ("docs/codes.md", "pgbaton gap show http://10.0.0.5:8080      # with", Tried::Gap),
    ("docs/codes.md", "pgbaton gap show http://10.0.0.5:8080      # read", Tried::Gap),
    ("docs/codes.md", "SELECT pg_drop_replication_slot", Tried::Gap),
    ("docs/codes.md", "kafka-transactions.sh --bootstrap-server kafka-1:9092 abort", Tried::Nowhere(HANGING)),
    ("docs/codes.md", "CREATE PUBLICATION orders", Tried::Afresh),
    ("docs/codes.md", "acls=", Tried::Rights),
    ("docs/deploy.md", "docker compose -f docker-compose.patroni.yml up", Tried::Nowhere(DOCKER)),
    ("docs/deploy.md", "docker compose kill", Tried::Nowhere(DOCKER)),
    ("docs/deploy.md", "docker compose -f docker-compose.patroni.yml -f", Tried::Nowhere(DOCKER)),
    ("docs/deploy.md", "SELECT pg_drop_replication_slot", Tried::Newest),
    ("docs/deploy.md", "docker build", Tried::Nowhere(DOCKER)),
    ("docs/deploy.md", "install -m 755", Tried::Nowhere(MACHINE)),
    ("docs/deploy.md", "kubectl create secret", Tried::Nowhere(KUBERNETES)),
    ("docs/development.md", "cargo xtask cluster up", Tried::Nowhere(CHORE)),
    ("docs/development.md", "cargo test -p pgbaton-core", Tried::Nowhere(CHORE)),
    ("docs/failover.md", "SELECT slot_name, synced", Tried::Newest),
    ("docs/how-it-works.md", "cargo xtask bench", Tried::Nowhere(CHORE)),
    ("docs/model.md", "cargo test -p pgbaton-sim", Tried::Nowhere(CHORE)),
    ("docs/proof.md", "cargo xtask scenario", Tried::Nowhere(CHORE)),
    ("docs/proof.md", "cargo xtask chaos --minutes 20", Tried::Nowhere(CHORE)),
    ("docs/proof.md", "cargo xtask chaos --minutes 38", Tried::Nowhere(CHORE)),
    ("docs/security.md", "CREATE ROLE pgbaton", Tried::Rights),
    ("docs/security.md", "CREATE PUBLICATION orders", Tried::Rights),
    ("docs/security.md", "kafka-acls.sh", Tried::Rights),
    ("docs/security.md", "etcdctl role add", Tried::Rights),
    ("docs/simulator.md", "cargo xtask simulate", Tried::Nowhere(CHORE)),
];

impl Block {
    /// `docs/codes.md:31`
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}", self.page, self.line)
    }

    fn is_listed_as(&self, page: &str, begins: &str) -> bool {
        self.page == page && self.text.starts_with(begins)
    }

    fn is_to_be_typed(&self) -> bool {
        ["sh", "sql"].contains(&self.language.as_str())
    }

    fn tried(&self) -> Tried {
        let listed = APART.iter().find(|(page, begins, _)| self.is_listed_as(page, begins));
        listed.map_or(Tried::Cluster, |(_, _, tried)| *tried)
    }
}

/// All blocks that are tried there, in the order of their pages.
pub fn of(lab: &Lab, tried: Tried) -> Result<Vec<Block>> {
    let all = all(lab)?.into_iter();
    Ok(all.filter(|block| block.is_to_be_typed() && block.tried() == tried).collect())
}

/// All blocks of code.
pub fn all(lab: &Lab) -> Result<Vec<Block>> {
    let mut pages = vec!["README.md".to_owned()];
    for entry in fs::read_dir(lab.repo().join("docs")).context("list the pages")? {
        pages.push(format!("docs/{}", entry?.file_name().to_string_lossy()));
    }
    pages.sort();
    let mut found = Vec::new();
    for page in pages.iter().filter(|page| page.ends_with(".md")) {
        let text = fs::read_to_string(lab.repo().join(page)).with_context(|| format!("read {page}"))?;
        found.extend(blocks(page, &text));
    }
    Ok(found)
}

fn blocks(page: &str, text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut is_open = false;
    for (line, content) in (1..).zip(text.lines()) {
        match content.trim_start().strip_prefix("```") {
            Some(_) if is_open => is_open = false,
            Some(language) => {
                is_open = true;
                let (page, language) = (page.to_owned(), language.to_owned());
                found.push(Block { page, line: line + 1, language, text: String::new() });
            }
            None => {
                if let Some(block) = found.last_mut().filter(|_| is_open) {
                    block.text += content;
                    block.text.push('\n');
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A language that nobody looks at would hide a block from all tests.
    const LANGUAGES: [&str; 6] = ["", "json", "sh", "sql", "toml", "yaml"];

    #[test]
    fn every_block_is_found_and_what_is_listed_is_one() {
        let all = all(&Lab::open().unwrap()).unwrap();
        for block in &all {
            assert!(LANGUAGES.contains(&block.language.as_str()), "{}: {:?}", block.place(), block.language);
        }
        for (page, begins, _) in APART {
            let count = all.iter().filter(|block| block.is_to_be_typed() && block.is_listed_as(page, begins)).count();
            assert_eq!(count, 1, "{page}: {begins}");
        }
    }

    #[test]
    fn a_page_is_taken_apart() {
        let found = blocks("p", "text\n```sh\none\ntwo\n```\n\n```\nplain\n```\n");
        let found: Vec<_> = found.iter().map(|block| (block.line, &*block.language, &*block.text)).collect();
        assert_eq!(found, [(3, "sh", "one\ntwo\n"), (8, "", "plain\n")]);
    }
}
