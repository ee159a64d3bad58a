//! What a person sees of a long run: finished steps as lines, the moving part as one line that a terminal keeps rewriting.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The screen; on standard error, plain lines where that is no terminal.
#[derive(Clone)]
pub struct Screen {
    bar: ProgressBar,
    started: Instant,
}

impl Screen {
    /// A screen without anything moving yet.
    pub fn new() -> Self {
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {elapsed:>4} {wide_msg}") {
            bar.set_style(style);
        }
        Screen { bar, started: Instant::now() }
    }

    /// A line that stays.
    pub fn step(&self, text: &str) {
        let line = format!("[{:>5.1} s] {text}", self.started.elapsed().as_secs_f64());
        if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
    }

    /// The line that moves; nothing where there is no terminal.
    pub fn live(&self, text: String) {
        self.bar.enable_steady_tick(Duration::from_millis(100));
        self.bar.set_message(text);
    }

    /// Ends the moving line.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}
