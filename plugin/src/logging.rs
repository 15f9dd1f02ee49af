//! The log, on standard error.

use std::io::IsTerminal as _;

use hawker_config::{LogFormat, LogSettings};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// The variable that overrides `log.level`, in the syntax of tracing's `EnvFilter`.
pub const FILTER_VARIABLE: &str = "HAWKER_LOG";

/// Starts to log as the settings say. A second call does nothing.
pub fn start(settings: &LogSettings) {
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE)
        // Of the libraries only what is wrong.
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,hawker={}", settings.level.as_str())));
    let text = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    let started = match settings.format {
        LogFormat::Text => registry.with(text).try_init(),
        LogFormat::Json => registry.with(text.json().flatten_event(true)).try_init(),
    };
    // Fails only where somebody else, such as a test, logs already.
    drop(started);
}
