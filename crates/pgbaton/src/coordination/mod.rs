//! etcd: the lease that chooses who should try, and the tasks that keep us informed of it.

mod etcd;
mod keepalive;
mod peers;
mod watch;

pub use etcd::{Etcd, EtcdError, HolderValue};
pub use keepalive::keep_alive;
pub use peers::{Peers, WorkerValue, exchange};
pub use watch::watch_holder;
