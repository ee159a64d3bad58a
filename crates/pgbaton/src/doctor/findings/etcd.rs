//! etcd: members, versions, latency, the lease that it grants.

use std::time::Duration;

use super::super::facts::{EtcdFacts, EtcdMember};
use super::Finding;

/// Before these, three defects of leases and reads are known: live leases revoked by an old leader, a renewal answered for a
/// revoked lease, a stale answer to a linearizable read.
const SAFE: (u32, u32, u32) = (3, 5, 28);
/// A round of the keepalive has 1.2 s.
const SLOW: Duration = Duration::from_millis(300);

pub(super) fn judge(facts: &EtcdFacts) -> Vec<Finding> {
    let mut findings: Vec<_> = facts.endpoints.iter().map(|(url, member)| endpoint(url, member)).collect();
    let members =
        facts.endpoints.iter().filter_map(|(_, member)| member.as_ref().ok()).map(|member| member.members).max();
    if let Some(members) = members {
        findings.push(match members {
            3.. if members % 2 == 1 => Finding::ok("etcd_members", format!("{members} members")),
            _ => Finding::warning(
                "etcd_members",
                format!("{members} members"),
                "the loss of one member takes the majority away: nobody can take over then",
                "run three members, or five",
            ),
        });
    }
    findings.push(match &facts.granted_ttl {
        Ok(granted) if *granted <= facts.wanted_ttl => {
            Finding::ok("etcd_lease", format!("leases of {} s are granted", granted.as_secs()))
        }
        Ok(granted) => Finding::warning(
            "etcd_lease",
            format!("{} s were asked for, {} s are granted", facts.wanted_ttl.as_secs(), granted.as_secs()),
            "a takeover from a dead worker waits for the longer time",
            "lower etcd's --election-timeout; the least TTL is one and a half times of it",
        ),
        Err(reason) => Finding::error(
            "etcd_lease",
            format!("no lease and key below {}: {reason}", facts.prefix),
            "without a lease no worker streams",
            format!(
                "make etcd reachable; with authentication: etcdctl role grant-permission ROLE --prefix=true readwrite {}/",
                facts.prefix
            ),
        ),
    });
    findings
}

fn endpoint(url: &str, member: &Result<EtcdMember, String>) -> Finding {
    let member = match member {
        Ok(member) => member,
        Err(reason) => {
            return Finding::warning(
                "etcd_endpoint",
                format!("{url}: {reason}"),
                "one member fewer may fail",
                "start the member, or correct coordination.endpoints",
            );
        }
    };
    if !member.has_leader {
        return Finding::error(
            "etcd_endpoint",
            format!("{url} knows no leader"),
            "without a majority no lease is granted or renewed",
            "start the other members; etcdctl endpoint status --cluster",
        );
    }
    if !member.alarms.is_empty() {
        return Finding::error(
            "etcd_endpoint",
            format!("{url} alarms: {}", member.alarms.join(", ")),
            "with NOSPACE every write is refused, leases included",
            "etcdctl compact REVISION; etcdctl defrag; etcdctl alarm disarm; raise --quota-backend-bytes",
        );
    }
    let numbers: Option<Vec<u32>> = member.version.split('.').map(|part| part.parse().ok()).collect();
    if let Some([major, minor, patch]) = numbers.as_deref()
        && (*major, *minor, *patch) < SAFE
    {
        return Finding::warning(
            "etcd_endpoint",
            format!("{url} runs etcd {}", member.version),
            "its leases and reads have known defects: a live lease may be revoked, a revoked one renewed, a read be stale. \
             They cost time and never data, because PostgreSQL and Kafka fence",
            "upgrade etcd to 3.5.28 or later",
        );
    }
    if member.latency > SLOW {
        return Finding::warning(
            "etcd_endpoint",
            format!("{url} answers in {} ms", member.latency.as_millis()),
            "a lease that is renewed late is lost",
            "give etcd a disk of its own, or a nearer network",
        );
    }
    Finding::ok(
        "etcd_endpoint",
        format!("{url} runs etcd {} and answers in {} ms", member.version, member.latency.as_millis()),
    )
}
