//! The crate against a real PostgreSQL that the tests start themselves, and against servers that misbehave.

mod catalogue;
mod connect;
mod hostile;
mod proxy;
mod server;
mod stream;
