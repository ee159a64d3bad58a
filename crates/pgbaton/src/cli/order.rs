//! `pgbaton pause`, `resume` and `gap`: what an operator decides for a pipeline, told to any of its workers.

use clap::{Args, Subcommand};
use pgbaton_core::{Code, can_be_accepted};
use serde_json::{Value, json};

use super::addressed::{Addressed, Failure};
use super::{UNHEALTHY, complain, say};

/// An order that has no more to say.
#[derive(Debug, Args)]
pub(super) struct Order {
    #[command(flatten)]
    to: Addressed,
    /// The result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum GapVerb {
    /// Say what is missing, where, and what can be done; exit code 3 if something is
    Show(Order),
    /// Go on behind what is missing: the markers topic says which changes consumers did not get
    Accept(Order),
}

pub(super) async fn pause(order: Order) -> u8 {
    ended(tell(&order, "pause", "paused").await)
}

pub(super) async fn resume(order: Order) -> u8 {
    ended(tell(&order, "resume", "resumed").await)
}

pub(super) async fn gap(verb: GapVerb) -> u8 {
    ended(match verb {
        GapVerb::Show(order) => show(&order).await,
        GapVerb::Accept(order) => tell(&order, "gap/accept", "gap accepted").await,
    })
}

fn ended(outcome: Result<u8, Failure>) -> u8 {
    outcome.unwrap_or_else(|Failure(code, text)| {
        complain(text);
        code
    })
}

async fn tell(order: &Order, verb: &str, done: &str) -> Result<u8, Failure> {
    let resolved = order.to.resolve().await?;
    resolved.order(&resolved.url, verb, &json!({})).await??;
    match order.json {
        true => say(json!({"pipeline": resolved.pipeline, "done": done})),
        false => say(format_args!("{}: {done}", resolved.pipeline)),
    }
    Ok(0)
}

async fn show(order: &Order) -> Result<u8, Failure> {
    let resolved = order.to.resolve().await?;
    let view = resolved.view();
    let (gap, divergences) = (&view["gap"], &view["divergences"]);
    let next = serde_json::from_value::<Code>(gap["code"].clone()).ok().map(can_be_accepted);
    if order.json {
        let accept = next.map(|next| next.is_ok());
        say(json!({"pipeline": resolved.pipeline, "gap": gap, "acceptable": accept, "divergences": divergences}));
    } else {
        for mark in divergences.as_array().into_iter().flatten() {
            say(format_args!(
                "{}: published on timeline {} from {} to {}, and not on timeline {} that goes on: marked",
                resolved.pipeline,
                mark["old_timeline"],
                text(&mark["from_lsn"]),
                text(&mark["to_lsn"]),
                mark["new_timeline"]
            ));
        }
        match next {
            None => say(format_args!("{}: no gap", resolved.pipeline)),
            Some(next) => {
                let to = gap["to_lsn"].as_str().unwrap_or("an end that nothing is left to tell");
                say(format_args!(
                    "{}: {}: changes that committed on timeline {} after {} up to {to} may be missing, since {}\n{}\n{}",
                    resolved.pipeline,
                    text(&gap["code"]),
                    gap["timeline"],
                    text(&gap["from_lsn"]),
                    text(&gap["since"]),
                    text(&gap["text"]),
                    match next {
                        Ok(()) => "pgbaton gap accept lets the stream go on behind it",
                        Err(fix) => fix,
                    }
                ));
            }
        }
    }
    Ok(if gap.is_null() { 0 } else { UNHEALTHY })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
