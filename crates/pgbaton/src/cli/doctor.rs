//! `pgbaton doctor`: looks at all that the pipelines need, and says what mends what is wrong.

use serde_json::json;

use super::{UNHEALTHY, config::refuse, say};
use crate::config::{Given, load};
use crate::doctor::{Finding, Level, collect, judge};

pub(super) async fn run(given: &Given, as_json: bool) -> u8 {
    let config = match load(given) {
        Ok(loaded) => loaded.config,
        Err(invalid) => return refuse(&invalid),
    };
    let findings = judge(&collect(&config).await);
    if as_json {
        say(format_args!("{:#}", json!({"findings": findings})));
    } else {
        show(&findings);
    }
    if findings.iter().any(|finding| finding.level == Level::Error) { UNHEALTHY } else { 0 }
}

fn show(findings: &[Finding]) {
    for finding in findings {
        let whose = finding.pipeline.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        say(format_args!("{:<7}  {:<22}  {whose}{}", finding.level.as_str(), finding.id, printable(&finding.what)));
        for (label, text) in [("why", &finding.why), ("fix", &finding.fix)] {
            if !text.is_empty() {
                say(format_args!("         {label}: {}", printable(text)));
            }
        }
    }
    let count = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    say(format_args!("{} errors, {} warnings, {} ok", count(Level::Error), count(Level::Warning), count(Level::Ok)));
}

/// What a server said may not move the cursor of this terminal.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
