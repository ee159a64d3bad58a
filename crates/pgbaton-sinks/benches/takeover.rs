//! What the take-over of a dead worker's pipeline costs at Kafka: from the fence until the claim is committed.
//!
//! ```text
//! cargo test -p pgbaton-sinks --bench takeover -- [BROKERS] [ROUNDS]
//! ```
//!
//! One broker or three, on this machine; needs `cargo xtask setup`. Not for throughput.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on shall panic")]
#![allow(dead_code, reason = "the world is that of the tests")]

#[path = "../tests/kafka/broker.rs"]
mod broker;
#[path = "../tests/kafka/world.rs"]
mod world;

use std::time::{Duration, Instant};

use broker::Broker;
use pgbaton_sinks::kafka::{Fenced, KafkaSession, KafkaStandby, KafkaTarget};
use world::{LIMIT, claim, claimed, open, target, write};

const TOPIC: &str = "takeover.public.items";

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1).filter_map(|arg| arg.parse::<usize>().ok());
    let (count, rounds) = (args.next().unwrap_or(1), args.next().unwrap_or(30));
    let brokers: Vec<Broker> =
        if count == 3 { Broker::start_three("takeover").into() } else { vec![Broker::start("takeover")] };
    let mut target = target(&brokers[0], "takeover");
    target.brokers = brokers.iter().map(|broker| broker.bootstrap.clone()).collect::<Vec<_>>().join(",");
    drop(dead(&target, true).await);

    println!("{} broker(s), {rounds} rounds, milliseconds                    min    p50    p90    max", brokers.len());
    for (warm, open_transaction) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut fences, mut claims) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let standby = KafkaStandby::new(&target).unwrap();
            if warm {
                standby.check(LIMIT).await.unwrap();
                // A standby of a few seconds' age: the library's first statistics have come.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            let dead = dead(&target, open_transaction).await;
            let began = Instant::now();
            let Fenced { mut session, .. } = standby.fence(&open("new", 0, 2)).await.unwrap();
            fences.push(began.elapsed());
            session.claim(&[claim("new", 2)], &[], LIMIT).await.unwrap();
            claims.push(began.elapsed());
            drop(dead);
        }
        let how = if warm { "warm" } else { "cold" };
        let of = if open_transaction { "its transaction open" } else { "nothing open" };
        print(&format!("{how}, {of}: fenced"), fences);
        print(&format!("{how}, {of}: claimed"), claims);
    }
}

/// A session that nobody hears of again.
async fn dead(target: &KafkaTarget, open_transaction: bool) -> KafkaSession {
    let mut dead = claimed(target, "dead", 1).await;
    if open_transaction {
        dead.prepare_topics(&[TOPIC]).await.unwrap();
        dead.begin(&open("dead", 1, 1)).unwrap();
        write(&mut dead, TOPIC, "1", "lost").await;
        while dead.in_flight() > 0 {
            dead.event().await;
        }
    }
    dead
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("{what:<50} {:>6.1} {:>6.1} {:>6.1} {:>6.1}", at(0.0), at(0.5), at(0.9), at(1.0));
}
