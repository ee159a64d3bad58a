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

/// After a failed round the next endpoint is asked, this soon.
const AGAIN: Duration = Duration::from_millis(100);

/// Renews the lease and reads the holder key in every round until `tell` answers false or the lease is lost. Ended by
/// dropping it. `etcd` is this task's own: nobody else's failures move it from an endpoint that works.
pub async fn keep_alive(etcd: Arc<Etcd>, tenure: Tenure, tell: impl Fn(Input) -> bool) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut channel = None;
    loop {
        ticks.tick().await;
        // The tenure's own arithmetic says when to stop; until then every endpoint gets its turn.
        let (input, goes_on) = loop {
            match round(&etcd, tenure, &mut channel).await {
                Round::Alive(input) => break (input, true),
                Round::Lost(input) => break (input, false),
                Round::Failed { at } => {
                    // A reply names no request: a late one must not be taken for the answer to the next.
                    channel = None;
                    etcd.leave(at).await;
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        if !tell(input) || !goes_on {
            return;
        }
    }
}

enum Round {
    Alive(Input),
    Lost(Input),
    Failed { at: usize },
}

/// An open stream of renewals. It stays on its connection when others begin to use newer credentials.
struct Channel {
    keeper: LeaseKeeper,
    replies: LeaseKeepAliveStream,
    /// Keeps the connection.
    _client: Client,
}

async fn round(etcd: &Etcd, tenure: Tenure, channel: &mut Option<Channel>) -> Round {
    let asked_at = boottime();
    let (at, client) = etcd.client().await;
    let Ok(mut client) = client else { return Round::Failed { at } };
    let renewed = match timeout(CALL_TIMEOUT, renew(&mut client, tenure.lease_id, channel)).await {
        Ok(Ok(ttl)) => ttl,
        Ok(Err(_)) | Err(_) => return Round::Failed { at },
    };
    if renewed.is_zero() {
        return Round::Lost(Input::LeaseLost("etcd says that the lease has ended".to_owned()));
    }
    match timeout(CALL_TIMEOUT, client.get(etcd.key("holder"), None)).await {
        Ok(Ok(answer))
            if answer
                .kvs()
                .first()
                .is_some_and(|kv| (kv.mod_revision(), kv.lease()) == (tenure.revision, tenure.lease_id)) =>
        {
            Round::Alive(Input::KeptAlive { asked_at, ttl: renewed })
        }
        Ok(Ok(_)) => Round::Lost(Input::LeaseLost("the holder key is not the one that this worker wrote".to_owned())),
        Ok(Err(_)) | Err(_) => Round::Failed { at },
    }
}

/// The TTL after the renewal; zero where the lease has ended.
async fn renew(client: &mut Client, lease_id: i64, channel: &mut Option<Channel>) -> Result<Duration, Error> {
    let Channel { keeper, replies, .. } = match channel {
        Some(open) => open,
        None => match client.lease_keep_alive(lease_id).await {
            Ok((keeper, replies)) => channel.insert(Channel { keeper, replies, _client: client.clone() }),
            // The library says so, with this error and on opening alone, for a reply without a TTL.
            Err(Error::LeaseKeepAliveError(_)) => return Ok(Duration::ZERO),
            Err(error) => return Err(error),
        },
    };
    // The same error on an open channel means that its connection is gone, and nothing about the lease.
    keeper.keep_alive().await?;
    let reply = replies.message().await?.ok_or_else(|| Error::WatchError("the keepalive stream ended".to_owned()))?;
    Ok(Duration::from_secs(u64::try_from(reply.ttl()).unwrap_or(0)))
}
