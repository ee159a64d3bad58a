//! Time of the simulated world, and the clocks that its machines have instead of it.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

use pgbaton_core::Moment;

/// True time since the world began, in microseconds. No worker ever sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Time(pub u64);

impl Time {
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, time: Duration) -> Time {
        Time(self.0 + u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 4))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000);
        f.pad(&text)
    }
}

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// CLOCK_BOOTTIME of one machine, and its CLOCK_MONOTONIC, which stands still during suspend and on which timers run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    offset: u64,
    /// How much faster than true time it runs, in millionths.
    rate_ppm: i64,
    /// Time spent in suspend, on this clock.
    suspended: u64,
}

impl Clock {
    pub fn new(offset: Duration, rate_ppm: i64) -> Self {
        let offset = u64::try_from(offset.as_micros()).unwrap_or(0);
        Clock { offset, rate_ppm, suspended: 0 }
    }

    pub fn boottime(&self, now: Time) -> Moment {
        Moment(Duration::from_micros(self.micros(now)))
    }

    pub fn monotonic(&self, now: Time) -> u64 {
        self.micros(now) - self.suspended
    }

    /// The machine slept from `since` until now.
    pub fn slept(&mut self, since: Time, now: Time) {
        self.suspended += self.micros(now) - self.micros(since);
    }

    /// True time that passes while `local` passes here.
    pub fn true_time(&self, local: Duration) -> Duration {
        let micros = i128::try_from(local.as_micros()).unwrap_or(i128::MAX / 2_000_000);
        let micros = micros * 1_000_000 / (1_000_000 + i128::from(self.rate_ppm));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX / 4))
    }

    fn micros(&self, now: Time) -> u64 {
        let now = i128::from(now.0);
        let local = now + now * i128::from(self.rate_ppm) / 1_000_000;
        self.offset + u64::try_from(local).unwrap_or(0)
    }
}
