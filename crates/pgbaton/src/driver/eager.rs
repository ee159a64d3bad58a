//! One patient attempt, and short ones beside it: for connections that may hang where the next one would get through.
//!
//! A proxy that has not yet noticed that a leader has gone holds a connection for as long as its own retries take (HAProxy:
//! a second for each, measured); meanwhile the next leader is there. On a slow network only the patient attempt succeeds.

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// The outcome of whichever attempt ends first. The first one is given all the time there is, which the caller limits; beside
/// it, every `pace`, another one is begun and the one before given up.
pub async fn eagerly<A, T>(pace: Duration, attempt: impl Fn() -> A) -> T
where
    A: Future<Output = T>,
{
    let eager = async {
        sleep(pace).await;
        loop {
            if let Ok(outcome) = timeout(pace, attempt()).await {
                return outcome;
            }
        }
    };
    tokio::select! {
        outcome = attempt() => outcome,
        outcome = eager => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use tokio::sync::Notify;

    use super::*;

    const PACE: Duration = Duration::from_millis(10);

    #[tokio::test]
    async fn a_later_attempt_gets_through_where_the_first_hangs() {
        let begun = Cell::new(0);
        let attempt = || async {
            match begun.replace(begun.get() + 1) {
                3 => 3,
                _ => pending().await,
            }
        };
        assert_eq!(eagerly(PACE, attempt).await, 3);
    }

    #[tokio::test]
    async fn on_a_slow_network_the_patient_attempt_succeeds() {
        let (begun, answer) = (Cell::new(0), Notify::new());
        let attempt = || async {
            match begun.replace(begun.get() + 1) {
                0 => answer.notified().await,
                3 => {
                    answer.notify_one();
                    pending().await
                }
                _ => pending().await,
            }
        };
        eagerly(PACE, attempt).await;
        assert!(begun.get() >= 4, "others were tried beside it");
    }
}
