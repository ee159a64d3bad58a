//! The decisions of the core, run in worlds that go wrong: development only, never part of a worker.

mod audit;
mod bus;
mod etcd;
mod genesis;
mod kafka;
mod message;
pub mod model;
mod mutant;
mod postgres;
mod process;
mod run;
mod scenario;
mod story;
mod swarm;
mod time;
mod world;

pub use run::{Found, Tally, Told, model_of, mutants, script, shrink, sweep, tell};
