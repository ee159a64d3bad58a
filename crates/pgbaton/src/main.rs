//! `pgbaton`.
fn main() {}
