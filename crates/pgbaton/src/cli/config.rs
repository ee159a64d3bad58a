//! `pgbaton config check`, `print` and `schema`.

use serde_json::json;

use super::{USAGE, complain, say};
use crate::config::{self, Given, Invalid, load};

pub(super) fn check(given: &Given, json: bool) -> u8 {
    match (load(given), json) {
        (Ok(_), false) => {
            say("the configuration is valid");
            0
        }
        (Ok(_), true) => {
            say(json!({"valid": true, "mistakes": []}));
            0
        }
        (Err(Invalid(mistakes)), true) => {
            let mistakes: Vec<_> = mistakes
                .iter()
                .map(|mistake| json!({"place": mistake.place.to_string(), "key": mistake.key, "problem": mistake.problem}))
                .collect();
            say(json!({"valid": false, "mistakes": mistakes}));
            USAGE
        }
        (Err(invalid), false) => refuse(&invalid),
    }
}

pub(super) fn print(given: &Given, json: bool) -> u8 {
    match load(given) {
        Ok(loaded) if json => say(format_args!("{:#}", loaded.effective.to_json())),
        Ok(loaded) => say(loaded.effective.to_toml().trim_end()),
        Err(invalid) => return refuse(&invalid),
    }
    0
}

pub(super) fn schema() -> u8 {
    say(format_args!("{:#}", config::schema()));
    0
}

/// One line per mistake.
pub(super) fn refuse(invalid: &Invalid) -> u8 {
    for mistake in &invalid.0 {
        complain(mistake);
    }
    USAGE
}
