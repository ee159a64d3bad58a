//! Names of topics, and the partition of a record. Not for creating topics or knowing which exist.
//!
//! Both are for ever: a record that moved to another partition would lose its order, and a topic that changed its
//! name its history. So neither is left to a library's default.

/// Kafka's limit, in bytes; a legal name is ASCII.
const MAX_LENGTH: usize = 249;

/// The name made from prefix, schema and table is longer than Kafka allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("topic name {name} has {} characters, Kafka allows {MAX_LENGTH}; shorten the topic prefix", name.len())]
pub struct TopicNameTooLong {
    /// The name that would be needed.
    pub name: String,
}

/// The data topic of a table, `PREFIX.SCHEMA.TABLE`, each character that Kafka does not allow replaced by `_`.
///
/// Two tables can meet in one name; whoever opens the topics has to refuse that.
pub fn table_topic(prefix: &str, schema: &str, table: &str) -> Result<String, TopicNameTooLong> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = format!("{prefix}.{schema}.{table}").chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    if name.len() > MAX_LENGTH {
        return Err(TopicNameTooLong { name });
    }
    Ok(name)
}

/// The progress topic of a pipeline. The prefix is taken as it is: two pipelines must never meet here, so an
/// unusable prefix has to be refused where it is configured, not bent.
pub fn progress_topic(prefix: &str) -> String {
    format!("__pgbaton.{prefix}.progress")
}

/// The topic that tells consumers of gaps, divergences and acceptances. The prefix is taken as it is.
pub fn markers_topic(prefix: &str) -> String {
    format!("__pgbaton.{prefix}.markers")
}

/// The partition, below `partitions`, of a record with this key. Without a key it is chosen by the topic's name,
/// so that a table without a key keeps its order.
///
/// With a key it is the one that Java's default partitioner chooses.
///
/// # Panics
///
/// If `partitions` is 0 or less: no topic has so few.
pub fn partition(topic: &str, key: Option<&[u8]>, partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has at least one partition");
    let hash = murmur2(key.unwrap_or(topic.as_bytes()));
    (hash & 0x7FFF_FFFF) as i32 % partitions
}

/// The 32-bit hash of Kafka's Java client (`Utils.murmur2`), which fixes the seed.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_B28C;
    const M: u32 = 0x5BD1_E995;
    const R: u32 = 24;

    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values from the tests of Kafka's Java client. Consumers that join topics by key rely on them.
    #[test]
    fn the_hash_is_that_of_the_java_client() {
        for (text, hash) in [
            ("21", -973932308),
            ("foobar", -790332482),
            ("a-little-bit-long-string", -985981536),
            ("a-little-bit-longer-string", -1486304829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
            ("abc", 479470107),
        ] {
            assert_eq!(murmur2(text.as_bytes()) as i32, hash, "{text}");
        }
    }

    #[test]
    fn a_negative_hash_still_gives_a_partition() {
        let positive = (-973932308_i32 & i32::MAX) % 7;
        assert_eq!(partition("t", Some(b"21"), 7), positive);
        for partitions in [1, 2, 3, 12, 100] {
            for key in 0..200 {
                let chosen = partition("t", Some(format!("{{\"id\":{key}}}").as_bytes()), partitions);
                assert!((0..partitions).contains(&chosen));
            }
        }
    }

    #[test]
    fn all_records_without_a_key_go_to_one_partition() {
        assert_eq!(partition("p.s.t", None, 12), partition("p.s.t", Some(b"p.s.t"), 12));
    }

    #[test]
    fn what_kafka_does_not_allow_in_a_name_becomes_an_underscore() {
        assert_eq!(table_topic("srv", "inv", "cust").unwrap(), "srv.inv.cust");
        assert_eq!(table_topic("srv", "my schema", "Tä\"b.l\ne-1$").unwrap(), "srv.my_schema.T__b.l_e-1_");
    }

    #[test]
    fn a_name_too_long_for_kafka_is_refused() {
        let prefix = "p".repeat(MAX_LENGTH - 4);
        assert_eq!(table_topic(&prefix, "s", "t").unwrap().len(), MAX_LENGTH);
        assert!(table_topic(&prefix, "s", "tt").is_err());
    }

    #[test]
    fn own_topics_carry_the_prefix() {
        assert_eq!(progress_topic("orders"), "__pgbaton.orders.progress");
        assert_eq!(markers_topic("orders"), "__pgbaton.orders.markers");
    }
}
