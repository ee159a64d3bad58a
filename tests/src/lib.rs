//! Black-box proof on a real cluster.
