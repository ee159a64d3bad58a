//! etcd: the lease that chooses who should try, and the tasks that keep us informed of it.

mod checkpoint;
mod etcd;
mod follow;
mod keepalive;
mod peers;
mod watch;

pub use checkpoint::{Checkpointed, Kept, KeptError};
pub use etcd::{Accepted, CALL_TIMEOUT, Etcd, EtcdError, Granted, HolderValue, VerdictValue, etcd_options};
pub use follow::{Followed, follow};
pub use keepalive::keep_alive;
pub use peers::{Peers, WorkerValue, exchange};
pub use watch::watch_holder;

#[cfg(test)]
mod tests;
