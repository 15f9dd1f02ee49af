//! The command `hawker`.

mod ca;
pub(crate) mod client;
mod doctor;
mod get;
mod join;
mod limits;
mod login;
mod progress;
mod rights;
mod save;
mod scheduler;
mod setup;
mod status;
mod table;
mod token;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

/// Where `hawkerd` listens when nothing else is configured.
pub const DEFAULT_SOCKET: &str = "/run/hawker/hawkerd.sock";

/// Hawker: peer-to-peer distribution of container images.
#[derive(Debug, Parser)]
#[command(
    name = "hawker",
    version,
    about,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the bytes do not have the digest, \
                  4 hawkerd is not reachable, 130 interrupted."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Download a file through the piece network.
    Get(get::GetArgs),
    /// Show what this host's hawkerd is doing.
    Status(status::StatusArgs),
    /// Show or forget what this host's hawkerd remembers of its clients' rights.
    Rights(rights::RightsArgs),
    /// Show or change how much of the network this host's hawkerd takes.
    Limits(limits::LimitsArgs),
    /// Make the cluster's certificate authority and the hosts' certificates.
    Ca(ca::CaArgs),
    /// Let new hosts get their certificate from a scheduler.
    Token(token::TokenArgs),
    /// Get this host's certificate from a scheduler, with a token.
    Join(join::JoinArgs),
    /// Look for what is wrong on this host, and say how to mend it.
    Doctor(doctor::DoctorArgs),
    /// Let containerd or Docker on this host pull through Hawker, and take it back.
    Setup(setup::SetupArgs),
}

/// How to reach `hawkerd`.
#[derive(Clone, Debug, Args)]
struct SocketArgs {
    /// The socket of hawkerd (`control.socket` in its settings)
    #[arg(long, value_name = "PATH", env = "HAWKER_SOCKET", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    WrongDigest(String),
    #[error("{0}")]
    Unreachable(String),
    /// What was asked for cannot be put where it was asked for: no other way to it helps.
    #[error("{0}")]
    NotSaved(String),
    #[error("interrupted: nothing was saved")]
    Interrupted,
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::NotSaved(_) => 1,
            Self::WrongDigest(_) => 3,
            Self::Unreachable(_) => 4,
            // As shells say it of SIGINT.
            Self::Interrupted => 130,
        }
    }

    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Cli {
    /// Does what was asked and says how the process is to end.
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Ca(args) => ca::run(args),
            Command::Token(args) => block_on(token::run(args)),
            Command::Join(args) => block_on(join::run(args)),
            Command::Doctor(args) => block_on(doctor::run(args)),
            Command::Get(args) => block_on(get::run(args)),
            Command::Limits(args) => block_on(limits::run(args)),
            Command::Rights(args) => block_on(rights::run(args)),
            Command::Setup(args) => setup::run(args),
            Command::Status(args) => block_on(status::run(args)),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("hawker: {error}");
                ExitCode::from(error.exit_code())
            }
        }
    }
}

fn block_on(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::failed)?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
