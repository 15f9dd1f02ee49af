//! `hawker setup`: tells containerd and Docker of Hawker, and takes it back.

mod containerd;
mod docker;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use hawker_config::NodeConfig;

use super::{CliError, block_on};
use crate::setup::{
    disk::Disk,
    journal::Journal,
    plan::Plan,
    restart::Restart,
    transaction::{Foreign, Transaction},
};

/// Where containerd looks for its settings.
pub(super) const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
const STATE_DIR: &str = "/var/lib/hawker/setup";

#[derive(Debug, Args)]
pub(super) struct SetupArgs {
    #[command(subcommand)]
    command: SetupCommand,
}

#[derive(Debug, Subcommand)]
enum SetupCommand {
    /// Let containerd pull through Hawker: its mirror, its snapshotter, its content store
    ///
    /// Edits containerd's settings and its certs.d, keeping what is there. Shows the edit as a diff
    /// first, keeps a backup of every file beside it, and restarts containerd only when asked. A
    /// second run changes nothing; --undo restores the very bytes. Containers that run keep running.
    /// With --profile full containerd's content goes into Hawker's store, and comes back with --undo
    /// or another profile.
    Containerd(containerd::ContainerdArgs),
    /// Let Docker ask Hawker's mirror for images of docker.io
    Docker(docker::DockerArgs),
}

/// What both have.
#[derive(Debug, Args)]
struct CommonArgs {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Show what would be changed, and change nothing
    #[arg(long, conflicts_with = "undo")]
    dry_run: bool,
    /// Restore what was there before
    #[arg(long)]
    undo: bool,
    /// With --undo: also where files were changed since; what is there now is kept beside them
    #[arg(long, requires = "undo")]
    force: bool,
    /// Put the change into use with this command instead of systemd
    #[arg(long, value_name = "COMMAND", conflicts_with = "restart")]
    restart_command: Option<String>,
    /// hawkerd's settings, which name its addresses [default: /etc/hawker/hawkerd.toml, if it is
    /// there]
    #[arg(long, value_name = "FILE")]
    hawkerd_config: Option<PathBuf>,
    /// Where it is noted what was changed
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
}

impl CommonArgs {
    fn hawkerd(&self) -> Result<NodeConfig, CliError> {
        NodeConfig::read(self.hawkerd_config.as_deref(), None).map_err(CliError::failed)
    }

    fn transaction(&self, name: &str) -> Result<Transaction<'static>, CliError> {
        Transaction::open(&self.state_dir, name, Disk::new()).map_err(CliError::failed)
    }

    /// What files were before the first setup.
    fn originals(&self, name: &str) -> Vec<(PathBuf, String)> {
        // What cannot be read is told when it is used.
        let journal = Journal::load(&self.state_dir.join(format!("{name}.json")));
        journal.map_or(Vec::new(), |journal| journal.originals())
    }

    fn foreign(&self) -> Foreign {
        match self.force {
            true => Foreign::PutAside,
            false => Foreign::Refuse,
        }
    }

    /// How to restart, where that was asked for.
    fn restart(&self, systemd: Option<Restart>) -> Option<Restart> {
        let command = self.restart_command.clone().map(Restart::Command);
        command.or(systemd)
    }
}

pub(super) fn run(args: SetupArgs) -> Result<(), CliError> {
    match args.command {
        SetupCommand::Containerd(args) => block_on(containerd::run(args)),
        SetupCommand::Docker(args) => block_on(docker::run(args)),
    }
}

/// The mirror's URL for clients on this machine.
fn mirror_url(config: &NodeConfig) -> Result<String, CliError> {
    if !config.mirror.enabled {
        return Err(CliError::Failed(
            "hawkerd's settings have no mirror (mirror.enabled = false, or it is a seed): there is \
             nothing to pull through"
                .to_owned(),
        ));
    }
    let mut socket = config.mirror.listen.socket();
    if socket.port() == 0 {
        return Err(CliError::Failed(
            "mirror.listen of hawkerd's settings has no fixed port (0): give it one".to_owned(),
        ));
    }
    if socket.ip().is_unspecified() {
        socket.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    Ok(format!("http://{socket}"))
}

/// Shows a plan. Says whether there is anything to do.
fn show(plan: &Plan) -> bool {
    for change in &plan.changes {
        println!("{}", change.diff());
    }
    for note in &plan.notes {
        println!("note: {note}");
    }
    !plan.changes.is_empty()
}

/// Whether to go on, asked of whoever sits there.
fn confirmed(args: &CommonArgs) -> Result<bool, CliError> {
    if args.yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        return Err(CliError::Failed(
            "nobody is there to be asked: give --yes to make this change".to_owned(),
        ));
    }
    print!("Make this change? [y/N] ");
    io::stdout().flush().map_err(CliError::failed)?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(CliError::failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Takes everything back, and says what.
fn undo(transaction: &Transaction<'_>, foreign: Foreign) -> Result<Vec<PathBuf>, CliError> {
    let restored = transaction.undo(foreign).map_err(CliError::failed)?;
    match restored.is_empty() {
        true => println!("nothing to undo"),
        false => println!("restored: {}", list(&restored)),
    }
    Ok(restored)
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
    paths.join(", ")
}

fn recover(transaction: &Transaction<'_>) -> Result<(), CliError> {
    if transaction.recover().map_err(CliError::failed)? {
        println!(
            "an earlier setup was cut short: its changes are taken back (what was restarted with \
             them keeps them until it is restarted again)"
        );
    }
    Ok(())
}

/// What a run that was not to restart leaves to do.
fn restart_hint(line: &str) {
    println!("it takes effect with: {line}");
}

fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path).map_err(CliError::failed)
}
