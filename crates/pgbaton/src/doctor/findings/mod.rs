//! What the facts mean. One file for each topic; the tests have a fixture for every finding.

mod etcd;
mod kafka;
mod patroni;
mod publication;
mod server;
mod slot;

#[cfg(test)]
mod tests;

use super::Finding;
use super::facts::{Facts, PipelineFacts};

/// All findings: etcd's first, then each pipeline's.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<_> = facts.etcd.iter().flat_map(etcd::judge).collect();
    for pipeline in &facts.pipelines {
        let of_pipeline = judge_pipeline(pipeline).into_iter();
        findings.extend(of_pipeline.map(|finding| Finding { pipeline: Some(pipeline.name.clone()), ..finding }));
    }
    findings
}

fn judge_pipeline(facts: &PipelineFacts) -> Vec<Finding> {
    let mut findings = server::way_in(&facts.wanted, &facts.postgres, &facts.replication);
    if let Ok(postgres) = &facts.postgres {
        findings.extend(server::judge(&facts.wanted, postgres));
        findings.extend(publication::judge(&facts.wanted, postgres));
        findings.extend(slot::judge(&facts.wanted, postgres, facts.patroni.is_some()));
    }
    if let Some(patroni) = &facts.patroni {
        findings.extend(patroni::judge(&facts.wanted, patroni, facts.postgres.as_ref().ok()));
    }
    findings.extend(kafka::judge(&facts.wanted.topic_prefix, &facts.kafka));
    findings
}

/// Well, where nothing is wrong.
fn unless(findings: Vec<Finding>, id: &'static str, well: String) -> Vec<Finding> {
    if findings.is_empty() { vec![Finding::ok(id, well)] } else { findings }
}

/// `"name"` as SQL wants it.
fn identifier(name: &str) -> String {
    postgres_protocol::escape::escape_identifier(name)
}
