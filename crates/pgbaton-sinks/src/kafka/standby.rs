//! What a worker holds ready while another one streams, and what tells it whether Kafka answers at all.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgbaton_core::ProgressRecord;
use tokio::runtime::Handle;

use super::calls::Calls;
use super::clients::Clients;
use super::fault::KafkaFault;
use super::fence::FenceError;
use super::session::{Fenced, KafkaSession};
use super::target::KafkaTarget;
use super::told::lock;

/// Clients that are connected and know the cluster, so that a fence begins at once, and does not fence anybody yet.
///
/// ```text
/// check, every few seconds            fence
/// ------------------------>  warm  ---------->  a session, and nothing warm until the next check
/// ```
pub struct KafkaStandby {
    target: Mutex<Arc<KafkaTarget>>,
    kept: Mutex<Option<Kept>>,
    /// Held by the one check that may work at a time.
    checking: tokio::sync::Mutex<()>,
}

/// Clients and the thread of their calls.
struct Kept {
    /// What the clients were made for.
    target: Arc<KafkaTarget>,
    calls: Option<Calls>,
    clients: Option<Clients>,
}

impl KafkaStandby {
    /// Connects nothing yet. Fails only on settings that cannot be used.
    pub fn new(target: &KafkaTarget) -> Result<Self, KafkaFault> {
        target.check()?;
        let target = Mutex::new(Arc::new(target.clone()));
        Ok(KafkaStandby { target, kept: Mutex::default(), checking: tokio::sync::Mutex::default() })
    }

    /// From now on clients are made for this target; those that were kept for another allocation are let go, be it equal or
    /// not: files that it names may hold something else. A session that is there stays.
    pub fn aim_at(&self, target: Arc<KafkaTarget>) {
        *lock(&self.target) = target;
    }

    /// Where it aims now.
    pub fn target(&self) -> Arc<KafkaTarget> {
        lock(&self.target).clone()
    }

    /// Asks for the progress topic, whether it is there or not, at most for `limit`; and makes ready what a fence needs, or
    /// sees to it that it stays so. To be called every few seconds while no session is there. Makes no progress topic.
    ///
    /// If the future is dropped, nothing is warm until the next call.
    pub async fn check(&self, limit: Duration) -> Result<(), KafkaFault> {
        let _turn = self.checking.lock().await;
        let mut kept = self.take()?;
        let (calls, clients) = kept.parts();
        let (made_for, runtime, cancelled) = (kept.target.clone(), Handle::current(), calls.cancelled().clone());
        let target = made_for.clone();
        let work = move || {
            let mut clients = match clients {
                Some(clients) => clients,
                None => match Clients::connect(&target, runtime, cancelled) {
                    Ok(clients) => clients,
                    Err(fault) => return (None, Err(fault)),
                },
            };
            let answer = clients.warm(&target, limit);
            (Some(clients), answer)
        };
        let (clients, answer) = calls.run(work).await;
        *lock(&self.kept) = Some(Kept { target: made_for, calls: Some(calls), clients });
        answer
    }

    /// The same as [`KafkaSession::fence`], with what is warm, if anything is.
    pub async fn fence(&self, open: &ProgressRecord) -> Result<Fenced, FenceError> {
        let mut kept = self.take()?;
        let (calls, clients) = kept.parts();
        KafkaSession::fence_with(&kept.target, open, calls, clients).await
    }

    /// What is kept, or the beginning of it. While a check works nothing is kept: nobody waits for it.
    fn take(&self) -> Result<Kept, KafkaFault> {
        let target = Arc::clone(&lock(&self.target));
        let kept = lock(&self.kept).take().filter(|kept| Arc::ptr_eq(&kept.target, &target));
        match kept {
            Some(kept) => Ok(kept),
            None => Ok(Kept { target, calls: Some(Calls::start()?), clients: None }),
        }
    }
}

impl Kept {
    fn parts(&mut self) -> (Calls, Option<Clients>) {
        (self.calls.take().expect("it is taken once, with the whole"), self.clients.take())
    }
}

/// The clients are let go on their thread, where the library may take its time.
impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(calls) = &self.calls {
            let clients = self.clients.take();
            calls.submit(move || drop(clients));
        }
    }
}

impl std::fmt::Debug for KafkaStandby {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaStandby").field("target", &lock(&self.target)).finish_non_exhaustive()
    }
}
