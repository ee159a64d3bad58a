//! Chores: set-up, the local cluster, the demo, tests and benchmarks.
//!
//! The crate is light on purpose: it compiles where there is nothing but Rust and a C linker, because it is what installs the
//! rest. So no Kafka, etcd or PostgreSQL client is in it; it drives the servers by their processes, `psql` and plain HTTP.
//!
//! - [`lab`]: the folder where everything lives, and who the servers run as;
//! - [`setup`]: what the machine lacks;
//! - [`cluster`]: etcd, Patroni, HAProxy, Kafka and workers as processes, by name;
//! - [`compose`]: the same in containers, as `docker-compose.patroni.yml` says;
//! - [`single`]: one PostgreSQL, one etcd, one Kafka, for tests that need no cluster;
//! - [`chores`]: commands that build and run the rest of the workspace;
//! - [`docs`]: the parts of the pages that the program writes;
//! - [`suite`]: `cargo xtask test`.
//!
//! Deliberately absent: anything that judges pgbaton. That is the package `pgbaton-tests`.

pub mod build;
pub mod chores;
pub mod cluster;
pub mod compose;
pub mod docs;
mod http;
pub mod instance;
mod kafka;
pub mod lab;
mod launch;
pub mod owner;
pub mod ports;
pub mod process;
pub mod progress;
mod psql;
pub mod setup;
pub mod single;
pub mod suite;
pub mod wait;
