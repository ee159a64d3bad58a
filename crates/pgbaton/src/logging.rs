//! The log: to standard error, as text or JSON, and the last word of a process that panics.

use std::{io, panic, process, thread};

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::config::{LogConfig, LogFormat};

/// Starts the log. `RUST_LOG` is stronger than the configured level. From here on a panic in any task or thread is
/// logged and ends the process: a worker that is half alive would hold its lease and do nothing.
pub fn start(config: &LogConfig) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&config.level));
    let layer = match config.format {
        LogFormat::Text => fmt::layer().with_writer(io::stderr).with_ansi(false).boxed(),
        LogFormat::Json => fmt::layer().with_writer(io::stderr).json().flatten_event(true).boxed(),
    };
    // A second start in one process keeps the first one's log: only tests do that.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
    panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("no message");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let name = thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!(thread = name, place, message, "panicked; the process ends");
        process::abort();
    }));
}
