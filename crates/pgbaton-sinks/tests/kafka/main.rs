//! The Kafka sink against a real Apache Kafka. One broker serves all tests; each has a topic prefix of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic, also in its helpers")]

mod audit;
mod broker;
mod cluster;
mod fencing;
mod late_end;
mod outage;
mod plain;
mod proxy;
mod security;
mod standby;
mod topic_ids;
mod topics;
mod torn;
mod transactions;
mod world;
