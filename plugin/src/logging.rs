//! The log, on standard error.
//!
//! Of the libraries nothing below INFO is logged, whatever is asked for: what they tell of HTTP and
//! TLS at DEBUG and TRACE is not written with secrets in mind.

use std::io::IsTerminal as _;

use hawker_config::{LogFormat, LogSettings};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::FilterExt as _, filter::filter_fn, fmt,
    layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// The variable that overrides `log.level`, in the syntax of tracing's `EnvFilter`, for Hawker's own
/// crates.
pub const FILTER_VARIABLE: &str = "HAWKER_LOG";

/// Starts to log as the settings say. A second call does nothing.
pub fn start(settings: &LogSettings) {
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE)
        // Of the libraries only what is wrong.
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,hawker={}", settings.level.as_str())));
    let text = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let filter = filter.and(filter_fn(is_fit));
    let registry = tracing_subscriber::registry();
    let started = match settings.format {
        LogFormat::Text => registry.with(text.with_filter(filter)).try_init(),
        LogFormat::Json => {
            let json = text.json().flatten_event(true);
            registry.with(json.with_filter(filter)).try_init()
        }
    };
    // Fails only where somebody else, such as a test, logs already.
    drop(started);
}

/// Whether something may be logged at all.
fn is_fit(what: &Metadata<'_>) -> bool {
    what.target().starts_with("hawker") || *what.level() <= Level::INFO
}
