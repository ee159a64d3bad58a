//! Keeps one tenure alive: a timer and a channel of its own, never behind data work.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Error, LeaseKeepAliveStream, LeaseKeeper};
use pgbaton_core::{Input, Tenure};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::etcd::{CALL_TIMEOUT, Etcd};
use crate::clock::boottime;

/// How often the lease is renewed.
const PERIOD: Duration = Duration::from_secs(2);

/// Renews the lease and reads the holder key in every round until `tell` answers false or the lease is lost. Ended by
/// dropping it.
pub async fn keep_alive(etcd: Arc<Etcd>, tenure: Tenure, tell: impl Fn(Input) -> bool) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut channel = None;
    loop {
        ticks.tick().await;
        // A failed round is repeated at once on the next endpoint: the tenure's own arithmetic says when to stop.
        for _ in 0..3 {
            match round(&etcd, tenure, &mut channel).await {
                Round::Alive(input) | Round::Lost(input @ Input::LeaseLost(_)) => {
                    let lost = matches!(input, Input::LeaseLost(_));
                    if !tell(input) || lost {
                        return;
                    }
                    break;
                }
                Round::Lost(_) | Round::Failed => {
                    // A reply names no request: a late one must not be taken for the answer to the next.
                    channel = None;
                    etcd.rotate().await;
                }
            }
        }
    }
}

enum Round {
    Alive(Input),
    Lost(Input),
    Failed,
}

type Channel = (LeaseKeeper, LeaseKeepAliveStream);

async fn round(etcd: &Etcd, tenure: Tenure, channel: &mut Option<Channel>) -> Round {
    let asked_at = boottime();
    let Ok(mut client) = etcd.client().await else { return Round::Failed };
    let renewed = match timeout(CALL_TIMEOUT, renew(&mut client, tenure.lease_id, channel)).await {
        Ok(Ok(ttl)) => ttl,
        Ok(Err(Error::LeaseKeepAliveError(_))) => Duration::ZERO,
        Ok(Err(_)) | Err(_) => return Round::Failed,
    };
    if renewed.is_zero() {
        return Round::Lost(Input::LeaseLost("etcd says that the lease has ended".to_owned()));
    }
    match timeout(CALL_TIMEOUT, client.get(etcd.key("holder"), None)).await {
        Ok(Ok(answer)) if answer.kvs().first().is_some_and(|kv| kv.mod_revision() == tenure.revision) => {
            Round::Alive(Input::KeptAlive { asked_at, ttl: renewed })
        }
        Ok(Ok(_)) => Round::Lost(Input::LeaseLost("the holder key is not the one that this worker wrote".to_owned())),
        Ok(Err(_)) | Err(_) => Round::Failed,
    }
}

async fn renew(client: &mut Client, lease_id: i64, channel: &mut Option<Channel>) -> Result<Duration, Error> {
    if channel.is_none() {
        *channel = Some(client.lease_keep_alive(lease_id).await?);
    }
    let Some((keeper, replies)) = channel else { return Ok(Duration::ZERO) };
    keeper.keep_alive().await?;
    let reply = replies.message().await?.ok_or_else(|| Error::WatchError("the keepalive stream ended".to_owned()))?;
    Ok(Duration::from_secs(u64::try_from(reply.ttl()).unwrap_or(0)))
}
