//! Black-box proof on a real cluster: a writer that knows its outcomes, a checker that compares tables with topics, the
//! demo, the benchmark and the end-to-end tests. Links nothing of the product but the chores that run the cluster.

pub mod arena;
pub mod bench;
pub mod chaos;
pub mod check;
pub mod database;
pub mod http;
pub mod load;
pub mod own;
pub mod pages;
pub mod proxy;
pub mod report;
pub mod sample;
pub mod scenario;
pub mod screen;
pub mod stage;
pub mod target;
pub mod watch;
