//! The node daemon. Reads its settings whole, starts its parts, and drains them on SIGTERM.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use hawker_config::{ConfigError, LimitSettings, NodeConfig};
use hawker_model::Role;
use hawker_plugin::{App, AppError, logging};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

/// The node daemon of Hawker: a registry mirror for containerd and Docker, and a peer of the piece
/// network.
#[derive(Debug, Parser)]
#[command(
    name = "hawkerd",
    version,
    about,
    after_help = "Exit codes: 0 stopped as asked, 1 could not run, 2 wrong settings or usage.\n\
                  HAWKER_LOG overrides log.level, for instance HAWKER_LOG=hawker_p2p=trace. \
                  HAWKER_CORE_DUMPS=1 lets it leave core files, which hold its secrets."
)]
struct Args {
    /// The settings [default: /etc/hawker/hawkerd.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What this host is; wins over node.role of the settings
    #[arg(long)]
    role: Option<DaemonRole>,
    /// Print the effective settings as documented TOML, and exit
    #[arg(long)]
    print_config: bool,
    /// Check the settings and the files they name, and exit
    #[arg(long, conflicts_with = "print_config")]
    check_config: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DaemonRole {
    /// Runs beside containerd or Docker
    Node,
    /// Goes to the registries for the others
    Seed,
}

impl From<DaemonRole> for Role {
    fn from(role: DaemonRole) -> Self {
        match role {
            DaemonRole::Node => Self::Node,
            DaemonRole::Seed => Self::Seed,
        }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hawkerd: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error("cannot start: {0}")]
    Runtime(#[from] std::io::Error),
    #[error("a part of hawkerd ended that never should; the log says which")]
    Part,
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::App(error) if error.is_config() => 2,
            Self::App(_) | Self::Runtime(_) | Self::Part => 1,
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    // Before a secret is read.
    if let Err(error) = hawker_identity::forbid_core_dumps() {
        eprintln!("hawkerd: cannot forbid core files: {error}");
    }
    let (path, role) = (args.config.as_deref(), args.role.map(Role::from));
    if args.print_config {
        print!("{}", NodeConfig::read(path, role)?.to_documented_toml());
        return Ok(());
    }
    let config = NodeConfig::load_as(path, role)?;
    if args.check_config {
        hawker_plugin::check(&config).map_err(AppError::from)?;
        println!("the settings are sound");
        return Ok(());
    }
    logging::start(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let limits = || match NodeConfig::read(path, role) {
        Ok(config) => Some(config.limits),
        Err(error) => {
            error!(%error, "the limits stay as they are");
            None
        }
    };
    runtime.block_on(live(&config, limits))
}

/// Runs until it is told to stop. `limits` reads those of the settings again.
async fn live(
    config: &NodeConfig,
    limits: impl Fn() -> Option<LimitSettings>,
) -> Result<(), Failure> {
    let (mut terminate, mut interrupt, mut hangup) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    );
    info!(
        version = env!("CARGO_PKG_VERSION"),
        host = %config.node.name,
        role = config.node.role.as_str(),
        "hawkerd starts"
    );
    let mut app = App::start(config).await?;
    notify(&NotifyState::Ready);
    let ended = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok("SIGTERM"),
            _ = interrupt.recv() => break Ok("SIGINT"),
            _ = hangup.recv() => app.reload(limits()),
            () = app.failed() => break Err(Failure::Part),
        }
    };
    notify(&NotifyState::Stopping);
    match &ended {
        Ok(signal) => {
            info!(signal, grace = %config.mirror.stop_grace, "hawkerd drains; a second signal cuts")
        }
        Err(failure) => error!(%failure, "hawkerd stops"),
    }
    tokio::select! {
        () = app.drain() => info!("hawkerd has stopped"),
        _ = terminate.recv() => info!("cut by a second signal"),
        _ = interrupt.recv() => info!("cut by a second signal"),
    }
    ended.map(drop)
}

/// Tells systemd, where it has asked to be told.
fn notify(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        error!(%error, "cannot tell systemd");
    }
}
