//! `hawker setup docker`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    CliError, CommonArgs, absolute, confirmed, list, mirror_url, recover, restart_hint, show, undo,
};
use crate::setup::{
    docker::{self, DAEMON_JSON},
    hosts::same_url,
    http,
    restart::Restart,
    transaction::Transaction,
};

const SOCKET: &str = "/var/run/docker.sock";
/// How long Docker may take to read its settings again.
const RELOAD_TIME: Duration = Duration::from_secs(15);
/// Docker takes new mirrors without a restart.
const RELOAD: &str = "systemctl reload docker";

#[derive(Debug, Args)]
pub(super) struct DockerArgs {
    /// Docker's settings; made when they are not there
    #[arg(long, value_name = "FILE", default_value = DAEMON_JSON)]
    config: PathBuf,
    /// Docker's socket
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    address: PathBuf,
    /// Let Docker read its settings again (systemctl reload docker), and see that it has
    #[arg(long)]
    restart: bool,
    #[command(flatten)]
    common: CommonArgs,
}

pub(super) async fn run(args: DockerArgs) -> Result<(), CliError> {
    let restart = args
        .common
        .restart(args.restart.then_some(Restart::Systemd {
            verb: "reload",
            unit: "docker",
        }));
    if args.common.undo {
        let restored = undo(&args.common.transaction("docker")?, args.common.foreign())?;
        return match restart {
            _ if restored.is_empty() => Ok(()),
            Some(restart) => restart.run().map_err(CliError::failed),
            None => {
                restart_hint(RELOAD);
                Ok(())
            }
        };
    }
    let mirror = mirror_url(&args.common.hawkerd()?)?;
    if args.common.dry_run {
        let plan = docker::plan(&absolute(&args.config)?, &mirror).map_err(CliError::failed)?;
        if !show(&plan) {
            println!("nothing to change");
        }
        return Ok(());
    }
    let transaction = args.common.transaction("docker")?;
    recover(&transaction)?;
    change(&args, &transaction, &mirror, restart).await
}

async fn change(
    args: &DockerArgs,
    transaction: &Transaction<'_>,
    mirror: &str,
    restart: Option<Restart>,
) -> Result<(), CliError> {
    let plan = docker::plan(&absolute(&args.config)?, mirror).map_err(CliError::failed)?;
    if !show(&plan) {
        println!("nothing to change: Docker's settings know Hawker already");
        return Ok(());
    }
    if !confirmed(&args.common)? {
        println!("nothing was changed");
        return Ok(());
    }
    transaction.apply(&plan.changes).map_err(CliError::failed)?;
    let files: Vec<_> = plan.changes.into_iter().map(|c| c.path).collect();
    println!("changed: {}", list(&files));
    let used = match &restart {
        Some(restart) => put_into_use(args, restart, mirror).await,
        None => {
            restart_hint(RELOAD);
            Ok(())
        }
    };
    let Err(error) = used else {
        return transaction.finish().map_err(CliError::failed);
    };
    let taken_back = transaction.take_back();
    taken_back.map_err(|failure| CliError::Failed(format!("{error}; {failure}")))?;
    // It may be what failed before; Docker then goes on with what it has.
    let _ = restart.map(|restart| restart.run());
    Err(CliError::Failed(format!(
        "{error}; everything is as it was before"
    )))
}

async fn put_into_use(args: &DockerArgs, restart: &Restart, mirror: &str) -> Result<(), CliError> {
    println!("reloading: {}", restart.line());
    restart.run().map_err(CliError::failed)?;
    // It reads them after the command has ended.
    let deadline = Instant::now() + RELOAD_TIME;
    loop {
        let failure = match lists(&args.address, mirror).await {
            Ok(true) => return Ok(()),
            Ok(false) => CliError::Failed(format!(
                "Docker does not list the mirror {mirror}: does it read {}?",
                args.config.display()
            )),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(failure);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Whether Docker says that it uses the mirror.
async fn lists(socket: &Path, mirror: &str) -> Result<bool, CliError> {
    let answer = http::get_unix(socket, "/info").await;
    let body = answer.map_err(CliError::failed)?.body;
    let info: Value = serde_json::from_slice(&body).map_err(CliError::failed)?;
    let mirrors = info["RegistryConfig"]["Mirrors"].as_array();
    let mut mirrors = mirrors.into_iter().flatten().filter_map(Value::as_str);
    Ok(mirrors.any(|there| same_url(there, mirror)))
}
