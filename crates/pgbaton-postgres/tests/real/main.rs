//! The crate against a real PostgreSQL that the tests start themselves, and against servers that misbehave.

#![allow(clippy::unwrap_used, reason = "helpers of tests, not only the tests themselves, fail by panicking")]

mod catalogue;
mod connect;
mod hostile;
mod proxy;
mod server;
mod stream;
