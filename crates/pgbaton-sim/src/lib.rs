//! The decisions of the core, run in worlds that go wrong: development only, never part of a worker.
