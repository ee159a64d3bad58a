//! What the chores say while they work: a spinner on a terminal, plain lines elsewhere. All of it on stderr.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// One step that takes a while. Dropped without [`Step::done`] it leaves no mark: the error says what happened.
pub struct Step {
    what: String,
    started: Instant,
    spinner: Option<ProgressBar>,
}

impl Step {
    /// Says that `what` begins.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        let what = what.into();
        let spinner = std::io::stderr().is_terminal().then(|| spinner(&what));
        if spinner.is_none() {
            eprintln!("    {what} ...");
        }
        Self { what, started: Instant::now(), spinner }
    }

    /// Says how far it is; shown on a terminal only.
    pub fn note(&self, detail: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(format!("{}: {detail}", self.what));
        }
    }

    /// Says that it is finished, and with what result.
    pub fn done(self, result: &str) {
        let line = format!("ok  {}: {result} ({:.1} s)", self.what, self.started.elapsed().as_secs_f64());
        match &self.spinner {
            Some(spinner) => {
                spinner.finish_and_clear();
                eprintln!("{line}");
            }
            None => eprintln!("{line}"),
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }
}

fn spinner(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let spinner = ProgressBar::new_spinner().with_style(style).with_message(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}
