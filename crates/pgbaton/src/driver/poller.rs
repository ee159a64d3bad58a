//! Looks at the slot over an ordinary connection that stays open, about twice a second.

use std::sync::Arc;
use std::time::Duration;

use pgbaton_core::{Code, Input};
use pgbaton_postgres::{Conninfo, connect_client};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::eager::eagerly;
use super::{failures, looking};
use crate::clock::boottime;
use crate::renewal::Renewed;

/// How often, give or take a fifth.
const PERIOD: Duration = Duration::from_millis(500);
/// A look takes no longer than this.
const LIMIT: Duration = Duration::from_secs(3);

/// What a poller looks at.
pub struct Poller {
    /// Where.
    pub conninfo: Renewed<Conninfo>,
    /// The slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// Asks for a look at once.
    pub now: Arc<Notify>,
    /// Spreads the workers' looks.
    pub seed: u64,
}

impl Poller {
    /// Tells `Observed` or `NotObserved` until `tell` answers false.
    pub async fn run(mut self, tell: impl Fn(Input, Option<looking::Extra>) -> bool) {
        let mut client: Option<Client> = None;
        loop {
            let asked_at = boottime();
            let look = timeout(LIMIT, self.look(&mut client)).await;
            let told = match look {
                Ok(Ok((observation, extra))) => {
                    // A standby behind the leader's address: another connection may find the leader.
                    if observation.in_recovery {
                        client = None;
                    }
                    tell(Input::Observed { asked_at, observation, durable: None }, Some(extra))
                }
                Ok(Err(failure)) => {
                    client = None;
                    tell(Input::NotObserved(failure), None)
                }
                Err(_) => {
                    client = None;
                    let detail = format!("no answer within {} s", LIMIT.as_secs());
                    tell(Input::NotObserved(failures::passing(Code::PostgresUnreachable, detail)), None)
                }
            };
            if !told {
                return;
            }
            let pause = self.pause();
            tokio::select! {
                () = self.now.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn look(
        &self,
        client: &mut Option<Client>,
    ) -> Result<(pgbaton_core::Observation, looking::Extra), pgbaton_core::Failure> {
        let client = match client {
            Some(client) => client,
            None => {
                let conninfo = self.conninfo.get();
                let opened = eagerly(PERIOD, || connect_client(&conninfo, "pgbaton", Some(LIMIT))).await;
                // Its task ends with the client.
                let (opened, _task) = opened.map_err(|error| failures::connect(&error))?;
                client.insert(opened)
            }
        };
        looking::observe(&*client, &self.slot, &self.publication).await.map_err(|error| failures::query(&error))
    }

    /// 0.4 to 0.6 s.
    fn pause(&mut self) -> Duration {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        PERIOD.mul_f64(0.8 + 0.4 * f64::from((self.seed >> 40) as u32 & 0xFF) / 255.0)
    }
}
