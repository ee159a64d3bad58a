//! Replicates row changes out of PostgreSQL with workers that stand in for one another.

pub mod cli;
pub mod clock;
pub mod config;
mod coordination;
pub mod doctor;
pub mod driver;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod renewal;
pub mod secret;
mod servers;
pub mod status;
pub mod tail;
pub mod tls;
