//! `hawker-scheduler`: who has what, who fetches, who connects to whom.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use clap::Parser;
use hawker_config::{LogFormat, LogSettings, SchedulerConfig};
use hawker_scheduler::{Scheduler, Settings, StartError};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::FilterExt as _, filter::filter_fn, fmt,
    layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// `sysexits.h`: wrong configuration, or what it names.
const EX_CONFIG: u8 = 78;
/// A port or another service is not to be had.
const EX_UNAVAILABLE: u8 = 69;
/// A part of the scheduler ended by itself.
const EX_SOFTWARE: u8 = 70;

/// Hands out neighbours and keeps account of who has what, so that each blob leaves its registry
/// once per cluster.
#[derive(Debug, Parser)]
#[command(name = "hawker-scheduler", version, after_help = EXIT_CODES)]
struct Arguments {
    /// The config file. Default: /etc/hawker/scheduler.toml, if it is there.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the settings in force as a documented config file, and stop.
    #[arg(long)]
    print_config: bool,
}

const EXIT_CODES: &str = "Exit codes: 0 stopped by SIGTERM or SIGINT; 2 wrong arguments; \
    69 a port is not to be had; 70 internal error; 78 wrong configuration or certificates\n\
    HAWKER_LOG overrides log.level, for instance HAWKER_LOG=hawker_scheduler=debug. \
    HAWKER_CORE_DUMPS=1 lets it leave core files, which hold its secrets.";

/// The variable that overrides `log.level`, in the syntax of tracing's `EnvFilter`.
const FILTER_VARIABLE: &str = "HAWKER_LOG";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let path = arguments.config.as_deref();
    if arguments.print_config {
        return match SchedulerConfig::read(path) {
            Ok(config) => {
                print!("{}", config.to_documented_toml());
                ExitCode::SUCCESS
            }
            Err(error) => fail(EX_CONFIG, &error),
        };
    }
    // Before a secret is read.
    if let Err(error) = hawker_identity::forbid_core_dumps() {
        eprintln!("hawker-scheduler: cannot forbid core files: {error}");
    }
    let config = match SchedulerConfig::load(path) {
        Ok(config) => config,
        Err(error) => return fail(EX_CONFIG, &error),
    };
    log_to_stderr(&config.log);
    let settings = match Settings::from_config(&config) {
        Ok(settings) => settings,
        Err(error) => return fail(EX_CONFIG, &error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(settings)),
        Err(error) => fail(EX_UNAVAILABLE, &error),
    }
}

/// From start to signal.
async fn run(settings: Settings) -> ExitCode {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return fail(EX_UNAVAILABLE, &error),
    };
    tracing::info!(name = %settings.name, version = env!("CARGO_PKG_VERSION"), "starting");
    let mut scheduler = match Scheduler::start(settings).await {
        Ok(scheduler) => scheduler,
        Err(error @ (StartError::Certificate { .. } | StartError::Issuer(_))) => {
            return fail(EX_CONFIG, &error);
        }
        Err(error) => return fail(EX_UNAVAILABLE, &error),
    };
    notify(NotifyState::Ready);
    let name = loop {
        tokio::select! {
            _ = signals.terminate.recv() => break "SIGTERM",
            _ = signals.interrupt.recv() => break "SIGINT",
            _ = signals.hangup.recv() => scheduler.reload(),
            () = scheduler.failed() => {
                tracing::error!("a part of the scheduler ended by itself");
                return ExitCode::from(EX_SOFTWARE);
            }
        }
    };
    tracing::info!(signal = name, "stopping");
    notify(NotifyState::Stopping);
    scheduler.stop().await;
    tracing::info!("stopped");
    ExitCode::SUCCESS
}

/// SIGHUP reads the certificate files again; the others stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "cannot tell systemd");
    }
}

/// Logs as hawkerd does.
fn log_to_stderr(log: &LogSettings) {
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE)
        // Of the libraries only what is wrong.
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,hawker={}", log.level.as_str())));
    // What libraries tell of HTTP and TLS below INFO is not written with secrets in mind.
    let is_fit = filter_fn(|what: &Metadata<'_>| {
        what.target().starts_with("hawker") || *what.level() <= Level::INFO
    });
    let filter = filter.and(is_fit);
    let text = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry();
    match log.format {
        LogFormat::Text => registry.with(text.with_filter(filter)).init(),
        LogFormat::Json => {
            let json = text.json().flatten_event(true);
            registry.with(json.with_filter(filter)).init();
        }
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("hawker-scheduler: {error}");
    ExitCode::from(code)
}
