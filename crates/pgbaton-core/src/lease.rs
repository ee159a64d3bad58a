//! Lease arithmetic: how long we may believe in a lease on our own clock. Stops us *early*; it stops nobody else.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment of CLOCK_BOOTTIME, which goes on during suspend, as the time since boot. The core never reads a clock: every
/// moment is handed in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub Duration);

impl Moment {
    /// Time from `earlier` to here, zero if it is not earlier.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, time: Duration) -> Moment {
        Moment(self.0 + time)
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;

    fn sub(self, time: Duration) -> Moment {
        Moment(self.0.saturating_sub(time))
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", self.0.as_secs_f64())
    }
}

/// As good as for ever.
const WITHOUT_END: Duration = Duration::from_secs(1 << 40);

/// Between two keepalives.
pub const KEEPALIVE_PERIOD: Duration = Duration::from_secs(2);
/// A keepalive is given up after this.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_millis(1200);

/// How long a record may be under way where the sink fences nobody: one that was handed over right after the lease was last
/// found alive is delivered or given up before the tenure stops. `open_time`: how long records are gathered before their
/// outcome is asked for.
pub fn delivery_patience(ttl: Duration, open_time: Duration) -> Duration {
    ttl.mul_f64(STOP_AT).saturating_sub(KEEPALIVE_PERIOD + KEEPALIVE_TIMEOUT + open_time)
}

/// The part of the TTL after which no new work is taken.
const STOP_AT: f64 = 0.60;

/// The time a worker holds the lease, named by the revision of the one write of the holder key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenure {
    /// etcd's id of the lease.
    pub lease_id: i64,
    /// Mod revision of the one write of the holder key: the lease revision.
    pub revision: i64,
    /// The TTL that the server granted, which may differ from the one we asked for.
    ttl: Duration,
    /// Read *before* the request was sent that last renewed the lease. Counted from when we asked, not when we heard:
    /// etcd may have started its clock any time after we asked, so this is the earliest end we must reckon with.
    asked_at: Moment,
}

impl Tenure {
    /// A tenure whose lease was granted on a request sent at `asked_at`.
    pub fn new(lease_id: i64, revision: i64, ttl: Duration, asked_at: Moment) -> Self {
        Tenure { lease_id, revision, ttl, asked_at }
    }

    /// A tenure where there is no etcd: nothing but slot and claim ends it.
    pub fn without_lease() -> Self {
        Tenure { lease_id: 0, revision: 0, ttl: WITHOUT_END, asked_at: Moment::default() }
    }

    /// Does a lease stand behind it?
    pub fn has_lease(&self) -> bool {
        self.lease_id != 0
    }

    /// A good keepalive: the lease lives, and the same round read the holder key at our revision. A late answer to an
    /// older request moves nothing.
    pub fn renewed(&mut self, asked_at: Moment, ttl: Duration) {
        if asked_at > self.asked_at && !ttl.is_zero() {
            self.asked_at = asked_at;
            self.ttl = ttl;
        }
    }

    /// From here on no new work is taken (Ds).
    pub fn stop_at(&self) -> Moment {
        self.asked_at + self.ttl.mul_f64(STOP_AT)
    }

    /// By then everything is closed (Dh). The rest of the TTL tolerates clocks whose rates differ by 1.36.
    pub fn closed_by(&self) -> Moment {
        self.asked_at + self.ttl.mul_f64(0.73)
    }

    /// When etcd may give the lease to somebody else.
    pub fn ends_at(&self) -> Moment {
        self.asked_at + self.ttl
    }

    /// The granted TTL.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    #[test]
    fn a_tenure_stops_before_etcd_can_end_the_lease() {
        let tenure = Tenure::new(1, 7, Duration::from_secs(10), at(100));
        assert_eq!(tenure.stop_at(), at(106));
        assert!(tenure.stop_at() < tenure.closed_by() && tenure.closed_by() < tenure.ends_at());
    }

    #[test]
    fn what_is_under_way_when_the_last_keepalive_fails_has_its_outcome_before_the_tenure_stops() {
        let (ttl, open_time) = (Duration::from_secs(10), Duration::from_millis(50));
        assert_eq!(delivery_patience(ttl, open_time), Duration::from_millis(2750));
        let shortest = Duration::from_secs(7);
        assert!(delivery_patience(shortest, open_time) >= Duration::from_millis(900), "Kafka has time to answer");
    }

    #[test]
    fn only_a_newer_request_with_a_living_lease_renews() {
        let mut tenure = Tenure::new(1, 7, Duration::from_secs(10), at(100));
        tenure.renewed(at(99), Duration::from_secs(10));
        tenure.renewed(at(101), Duration::ZERO);
        assert_eq!(tenure.stop_at(), at(106));
        tenure.renewed(at(102), Duration::from_secs(5));
        assert_eq!(tenure.stop_at(), at(105));
    }
}
