//! `hawker setup containerd`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use hawker_config::NodeConfig;
use hawker_model::Reference;
use tokio::time::{Instant, sleep};

use super::{
    CONTAINERD_CONFIG, CliError, CommonArgs, absolute, confirmed, list, mirror_url, recover,
    restart_hint, show, undo,
};
use crate::setup::{
    containerd::{self, CERTS_D, Profile, Target},
    dump,
    machine::{self, Containerd, Plugin},
    plan::Plan,
    restart::Restart,
    settings::Settings,
    transaction::Transaction,
    verify::{self, Route, VerifyError},
    version::ContainerdVersion,
};

/// How long containerd may take to come up.
const START_TIME: Duration = Duration::from_secs(60);
/// How long the old containerd may still answer after a restart that did not wait for its end.
const STOP_TIME: Duration = Duration::from_secs(10);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct ContainerdArgs {
    /// containerd's settings; made when they are not there
    #[arg(long, value_name = "FILE", default_value = CONTAINERD_CONFIG)]
    config: PathBuf,
    /// containerd's socket [default: what its settings say]
    #[arg(long, value_name = "PATH")]
    address: Option<PathBuf>,
    /// containerd's version [default: that of the running one, else of the installed one]
    #[arg(long, value_name = "VERSION")]
    containerd_version: Option<String>,
    /// What containerd is to use
    #[arg(long, value_enum, default_value_t = ProfileArg::Snapshotter)]
    profile: ProfileArg,
    /// Where hosts.toml files go, when containerd's settings name no place
    #[arg(long, value_name = "DIR", default_value = CERTS_D)]
    certs_dir: PathBuf,
    /// Restart containerd (systemctl restart containerd); running containers go on
    #[arg(long)]
    restart: bool,
    /// Then pull this image, and take everything back when that fails
    #[arg(long, value_name = "IMAGE", conflicts_with = "undo")]
    verify: Option<Reference>,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProfileArg {
    /// Mirror and snapshotter: layers are fetched and unpacked all at once
    Snapshotter,
    /// The mirror only: containerd unpacks by itself
    Mirror,
}

impl From<ProfileArg> for Profile {
    fn from(profile: ProfileArg) -> Self {
        match profile {
            ProfileArg::Snapshotter => Self::Snapshotter,
            ProfileArg::Mirror => Self::Mirror,
        }
    }
}

/// containerd, and what plugins it has.
struct Found {
    containerd: Containerd,
    plugins: Vec<Plugin>,
}

/// One run.
struct Setup {
    args: ContainerdArgs,
    config: PathBuf,
    address: PathBuf,
    target: Target,
    restart: Option<Restart>,
    /// What containerd's plugins said before anything was changed.
    before: Option<Vec<Plugin>>,
}

pub(super) async fn run(args: ContainerdArgs) -> Result<(), CliError> {
    let restart = args
        .common
        .restart(args.restart.then_some(Restart::Systemd {
            verb: "restart",
            unit: "containerd",
        }));
    if args.common.undo {
        return take_back(&args, restart);
    }
    let setup = Setup::prepare(args, restart).await?;
    if setup.args.common.dry_run {
        let plan = setup.plan()?;
        if !show(&plan) {
            println!("nothing to change");
        }
        return Ok(());
    }
    let transaction = setup.args.common.transaction("containerd")?;
    recover(&transaction)?;
    setup.change(&transaction).await
}

fn take_back(args: &ContainerdArgs, restart: Option<Restart>) -> Result<(), CliError> {
    let transaction = args.common.transaction("containerd")?;
    let restored = undo(&transaction, args.common.foreign())?;
    if !restored.is_empty() {
        println!(
            "containers made with the snapshotter go on, and cannot be started again: where there \
             are some, drain the node (kubectl drain)"
        );
    }
    match restart {
        _ if restored.is_empty() => Ok(()),
        Some(restart) => restart.run().map_err(CliError::failed),
        None => {
            restart_hint("systemctl restart containerd");
            Ok(())
        }
    }
}

impl Setup {
    async fn prepare(args: ContainerdArgs, restart: Option<Restart>) -> Result<Self, CliError> {
        let hawkerd = args.common.hawkerd()?;
        let config = absolute(&args.config)?;
        let address = match &args.address {
            Some(address) => address.clone(),
            None => address_of(&config, &hawkerd),
        };
        let running = Containerd::connect(&address).await.ok();
        let version = version(&args, &address, running.as_ref()).await?;
        let before = match &running {
            Some(containerd) => containerd.plugins().await.ok(),
            None => None,
        };
        if args.profile == ProfileArg::Snapshotter && !hawkerd.containerd.enabled {
            return Err(CliError::Failed(
                "hawkerd's settings have no snapshotter (containerd.enabled = false): set it, or \
                 give --profile mirror"
                    .to_owned(),
            ));
        }
        let target = Target {
            version,
            profile: args.profile.into(),
            mirror: mirror_url(&hawkerd)?,
            socket: hawkerd.containerd.socket.clone(),
            snapshots: hawkerd.snapshotter.dir.clone(),
            platform: machine::platform(),
            remaps_ids: machine::remaps_ids(),
            certs_d: absolute(&args.certs_dir)?,
        };
        Ok(Self {
            args,
            config,
            address,
            target,
            restart,
            before,
        })
    }

    fn plan(&self) -> Result<Plan, CliError> {
        containerd::plan(&self.config, &self.target).map_err(CliError::failed)
    }

    async fn change(&self, transaction: &Transaction<'_>) -> Result<(), CliError> {
        let plan = self.plan()?;
        println!(
            "containerd {}, {}",
            self.target.version,
            self.config.display()
        );
        if !show(&plan) {
            println!("nothing to change: containerd's settings know Hawker already");
            return self.check_only().await;
        }
        if !confirmed(&self.args.common)? {
            println!("nothing was changed");
            return Ok(());
        }
        transaction.apply(&plan.changes).map_err(CliError::failed)?;
        let files: Vec<_> = plan.changes.into_iter().map(|c| c.path).collect();
        println!("changed: {}", list(&files));
        let taken = dump::check(&self.config, &self.target).map_err(CliError::failed);
        let used = match taken {
            Ok(_) => self.put_into_use(true).await,
            // It was not restarted with them, and needs not be restarted without them.
            Err(error) => return Err(give_up(transaction, &error, None)),
        };
        match used {
            Ok(()) => transaction.finish().map_err(CliError::failed),
            Err(error) => Err(give_up(transaction, &error, self.restart.as_ref())),
        }
    }

    /// A run that finds all done still does what it was asked for beside it.
    async fn check_only(&self) -> Result<(), CliError> {
        match self.restart.is_some() || self.args.verify.is_some() {
            true => self.put_into_use(false).await,
            false => Ok(()),
        }
    }

    async fn put_into_use(&self, changed: bool) -> Result<(), CliError> {
        match &self.restart {
            Some(restart) => {
                println!("restarting: {}", restart.line());
                restart.run().map_err(CliError::failed)?;
                self.look().await?;
            }
            None if changed => restart_hint("systemctl restart containerd"),
            None => {}
        }
        match &self.args.verify {
            Some(image) => self.verify(image).await,
            None => Ok(()),
        }
    }

    /// Waits until containerd is up, and looks whether its plugins are.
    async fn look(&self) -> Result<Found, CliError> {
        let stop_time = self.restart.as_ref().map_or(Duration::ZERO, |_| STOP_TIME);
        let found = until_up(stop_time, || self.found()).await;
        found.map_err(CliError::failed)
    }

    async fn found(&self) -> Result<Found, VerifyError> {
        let containerd = Containerd::connect(&self.address).await?;
        let plugins = containerd.plugins().await?;
        let snapshotter = self.target.profile == Profile::Snapshotter;
        verify::plugins(&plugins, self.before.as_deref(), snapshotter)?;
        Ok(Found {
            containerd,
            plugins,
        })
    }

    async fn verify(&self, image: &Reference) -> Result<(), CliError> {
        let Found {
            containerd,
            plugins,
        } = self.look().await?;
        if self.target.profile == Profile::Snapshotter {
            verify::snapshot(&containerd)
                .await
                .map_err(CliError::failed)?;
            println!("verified: a snapshot was made, mounted, written to and removed");
        }
        let done = verify::pull(&containerd, image, &self.route(&plugins)).await;
        println!("verified: {}", done.map_err(CliError::failed)?);
        Ok(())
    }

    /// Where hosts.toml files are by now.
    fn certs_d(&self) -> PathBuf {
        let settings = Settings::load(&self.config, self.target.version).ok();
        let named = settings.and_then(|settings| settings.certs_d());
        named.unwrap_or_else(|| self.target.certs_d.clone())
    }

    fn route(&self, plugins: &[Plugin]) -> Route {
        let snapshotter = self.target.profile == Profile::Snapshotter;
        let crictl = program("crictl").filter(|_| verify::has_cri(plugins));
        if let Some(program) = crictl {
            return Route::Crictl {
                program,
                address: self.address.clone(),
            };
        }
        match self.target.version.has_transfer() && snapshotter {
            true => Route::Transfer {
                certs_d: self.certs_d(),
            },
            false => Route::Mirror {
                url: self.target.mirror.clone(),
            },
        }
    }
}

/// Asks until containerd is as it should be, or has had its time. An answer of one without the
/// snapshotter may be the old one's for `stop_time`.
async fn until_up<T>(
    stop_time: Duration,
    mut ask: impl AsyncFnMut() -> Result<T, VerifyError>,
) -> Result<T, VerifyError> {
    let begin = Instant::now();
    loop {
        let error = match ask().await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let patience = match error {
            VerifyError::Containerd(_) => START_TIME,
            VerifyError::NoSnapshotter => stop_time,
            _ => Duration::ZERO,
        };
        if begin.elapsed() >= patience {
            return Err(error);
        }
        sleep(PAUSE).await;
    }
}

/// Takes back what was done, restarts again, and says both.
fn give_up(transaction: &Transaction<'_>, error: &CliError, restart: Option<&Restart>) -> CliError {
    let mut text = match transaction.take_back() {
        Ok(()) => format!("{error}; everything is as it was before"),
        Err(failure) => return CliError::Failed(format!("{error}; {failure}")),
    };
    if let Some(Err(failure)) = restart.map(Restart::run) {
        text += &format!(", but containerd did not start again: {failure}");
    }
    CliError::Failed(text)
}

/// Where containerd listens, by its own settings, else by hawkerd's.
fn address_of(config: &Path, hawkerd: &NodeConfig) -> PathBuf {
    // What is wrong with the settings is said when they are edited.
    let settings = Settings::load(config, ContainerdVersion::new(2, 0, 0)).ok();
    let address = settings.and_then(|settings| settings.address());
    address.unwrap_or_else(|| hawkerd.containerd.address.clone())
}

async fn version(
    args: &ContainerdArgs,
    address: &Path,
    running: Option<&Containerd>,
) -> Result<ContainerdVersion, CliError> {
    if let Some(text) = &args.containerd_version {
        return ContainerdVersion::parse(text)
            .ok_or_else(|| CliError::Failed(format!("{text:?} is no version, such as 1.7.24")));
    }
    if let Some(containerd) = running {
        return containerd.version().await.map_err(CliError::failed);
    }
    machine::installed_version().ok_or_else(|| {
        CliError::Failed(format!(
            "containerd does not answer on {} and is not in the PATH: start it, name its socket \
             with --address, or give --containerd-version",
            address.display()
        ))
    })
}

/// A program in the PATH.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::machine::ContainerdError;

    /// Asks one that gives these answers and then works; says how that ends, and how many are left.
    async fn ask(stop_time: Duration, answers: Vec<VerifyError>) -> (Result<(), String>, usize) {
        let mut answers = answers.into_iter();
        let next = async || answers.next().map_or(Ok(()), Err);
        let found = until_up(stop_time, next).await;
        (found.map_err(|error| error.to_string()), answers.len())
    }

    fn unreachable() -> VerifyError {
        VerifyError::Containerd(ContainerdError::Unreachable {
            address: "/run/x.sock".to_owned(),
            why: "refused".to_owned(),
        })
    }

    #[tokio::test]
    async fn old_containerd_that_still_answers_is_asked_again() {
        let answers = vec![VerifyError::NoSnapshotter, unreachable()];
        assert_eq!(ask(STOP_TIME, answers).await, (Ok(()), 0));
    }

    #[tokio::test]
    async fn containerd_that_was_not_restarted_is_asked_for_the_snapshotter_once() {
        let answers = vec![VerifyError::NoSnapshotter, VerifyError::NoSnapshotter];
        let (found, left) = ask(Duration::ZERO, answers).await;
        assert!(found.unwrap_err().contains("no snapshotter"));
        assert_eq!(left, 1);
    }

    #[tokio::test]
    async fn plugin_that_broke_is_told_at_once() {
        let broken = VerifyError::Plugin {
            plugin: "cri".to_owned(),
            why: "mirrors".to_owned(),
        };
        let (found, left) = ask(STOP_TIME, vec![broken, unreachable()]).await;
        assert!(found.unwrap_err().contains("mirrors"));
        assert_eq!(left, 1);
    }
}
