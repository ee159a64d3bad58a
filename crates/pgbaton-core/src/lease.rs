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

/// A sink that fences nobody is given records for so long after the last good keepalive was sent: by then the next one has
/// been answered, or something is wrong.
const HANDED_OVER: Duration = KEEPALIVE_PERIOD.saturating_add(KEEPALIVE_TIMEOUT);

/// How long a record may be under way where the sink fences nobody: what was handed over last is delivered or given up when
/// the tenure has to be closed, also by a process that stood still meanwhile.
pub fn delivery_patience(ttl: Duration) -> Duration {
    ttl.mul_f64(CLOSED_AT).saturating_sub(HANDED_OVER)
}

/// The part of the TTL after which no new work is taken.
const STOP_AT: f64 = 0.60;
/// The part of the TTL by which everything is closed. The rest tolerates clocks whose rates differ by 1.36.
const CLOSED_AT: f64 = 0.73;

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

    /// Until then a sink that fences nobody is given records. Moves on with each good keepalive.
    pub fn hands_over_until(&self) -> Moment {
        if self.has_lease() { self.asked_at + HANDED_OVER } else { self.ends_at() }
    }

    /// From here on no new work is taken (Ds).
    pub fn stop_at(&self) -> Moment {
        self.asked_at + self.ttl.mul_f64(STOP_AT)
    }

    /// By then everything is closed (Dh).
    pub fn closed_by(&self) -> Moment {
        self.asked_at + self.ttl.mul_f64(CLOSED_AT)
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
    fn what_was_handed_over_last_is_given_up_when_the_tenure_has_to_be_closed() {
        for ttl in [7, 10, 30].map(Duration::from_secs) {
            let tenure = Tenure::new(1, 7, ttl, at(100));
            assert!(tenure.hands_over_until() < tenure.stop_at());
            assert_eq!(tenure.hands_over_until() + delivery_patience(ttl), tenure.closed_by());
            assert!(delivery_patience(ttl) > Duration::from_millis(1900), "Kafka has time to answer");
        }
    }

    #[test]
    fn handing_over_goes_on_with_each_good_keepalive() {
        let mut tenure = Tenure::new(1, 7, Duration::from_secs(10), at(100));
        let until = tenure.hands_over_until();
        tenure.renewed(at(102), Duration::from_secs(10));
        assert_eq!(tenure.hands_over_until(), until + Duration::from_secs(2));
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
