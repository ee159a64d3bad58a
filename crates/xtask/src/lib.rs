//! Chores: set-up, the local cluster, the demo, tests and benchmarks.
