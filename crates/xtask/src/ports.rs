//! Free ports on loopback, for servers that cannot be told "any".

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

/// Below the kernel's range for outgoing connections (32768 and up): a port from there could be taken by any client of
/// the lab while its server is down, and the server would not come back.
const RANGE: Range<u16> = 10_000..32_000;

/// Hands out ports that were free a moment ago, each once.
#[derive(Debug, Default)]
pub struct Ports {
    given: HashSet<u16>,
}

impl Ports {
    /// Never gives any of `taken`, whose servers may be down just now.
    pub fn without(taken: impl IntoIterator<Item = u16>) -> Self {
        Self { given: taken.into_iter().collect() }
    }

    /// Never gives this one from now on.
    pub fn keep(&mut self, port: u16) {
        self.given.insert(port);
    }

    /// A port nobody listens on. Random, so that two labs that start at once do not meet.
    pub fn free(&mut self) -> u16 {
        loop {
            let random = RandomState::new().hash_one(self.given.len());
            let port = RANGE.start + (random % u64::from(RANGE.end - RANGE.start)) as u16;
            if !self.given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                self.given.insert(port);
                return port;
            }
        }
    }
}
