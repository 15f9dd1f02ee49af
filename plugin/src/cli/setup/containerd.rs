//! `hawker setup containerd`.

mod recover;
mod standing;
mod switch;
mod undo;
mod wait;

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use hawker_config::NodeConfig;
use hawker_model::Reference;

use self::{
    standing::Standing,
    switch::Switch,
    wait::{STOP_TIME, until_up},
};
use super::{
    CONTAINERD_CONFIG, CliError, CommonArgs, absolute, confirmed, list, mirror_url, restart_hint,
    show,
};
use crate::setup::{
    containerd::{self, CERTS_D, CriSnapshotter, Profile, Target},
    content::Pending,
    dump,
    machine::{self, Containerd, Plugin},
    plan::Plan,
    restart::Restart,
    settings::Settings,
    transaction::Transaction,
    verify::{self, Route, VerifyError, Wanted, content},
};

/// What puts new settings into use.
const RESTART: &str = "systemctl restart containerd";

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
    /// What containerd is to use; what an earlier run set up beyond that is taken out
    #[arg(long, value_enum, default_value_t = ProfileArg::Default)]
    profile: ProfileArg,
    /// Leave CRI's snapshotter as it is; images are then unpacked for ours only where a client names
    /// it
    #[arg(long, conflicts_with = "undo")]
    keep_snapshotter: bool,
    /// Where hosts.toml files go, when containerd's settings name no place
    #[arg(long, value_name = "DIR", default_value = CERTS_D)]
    certs_dir: PathBuf,
    /// Restart containerd (systemctl restart containerd); running containers go on
    #[arg(long)]
    restart: bool,
    /// Then pull this image, and take everything back when that fails
    #[arg(long, value_name = "IMAGE", conflicts_with = "undo")]
    verify: Option<Reference>,
    /// With --undo: also where hawkerd cannot give containerd's content back; images are to be pulled
    /// again then
    #[arg(long, requires = "undo")]
    without_content: bool,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProfileArg {
    /// The mirror only: containerd unpacks by itself
    Mirror,
    /// Mirror and snapshotter: layers are fetched and unpacked all at once
    #[value(alias = "snapshotter")]
    Default,
    /// Content store and differ as well: every client profits, and containerd needs hawkerd
    Full,
}

impl From<ProfileArg> for Profile {
    fn from(profile: ProfileArg) -> Self {
        match profile {
            ProfileArg::Mirror => Self::Mirror,
            ProfileArg::Default => Self::Default,
            ProfileArg::Full => Self::Full,
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
    target: Target,
    restart: Option<Restart>,
    /// How it was before anything was changed.
    before: Standing,
    switch: Switch,
}

pub(super) async fn run(args: ContainerdArgs) -> Result<(), CliError> {
    let restart = args
        .common
        .restart(args.restart.then_some(Restart::Systemd {
            verb: "restart",
            unit: "containerd",
        }));
    if args.common.undo {
        return undo::run(&args, restart).await;
    }
    if args.common.dry_run {
        return Setup::prepare(args, restart).await?.show();
    }
    let transaction = args.common.transaction("containerd")?;
    recover::recover(&args, &transaction).await?;
    let setup = Setup::prepare(args, restart).await?;
    setup.change(&transaction).await
}

impl Setup {
    async fn prepare(args: ContainerdArgs, restart: Option<Restart>) -> Result<Self, CliError> {
        let hawkerd = args.common.hawkerd()?;
        let config = absolute(&args.config)?;
        let before = Standing::find(&args, &config, &hawkerd).await;
        let version = before.version(&args).await?;
        let profile = Profile::from(args.profile);
        if profile.has_snapshotter() && !hawkerd.containerd.enabled {
            return Err(CliError::Failed(
                "hawkerd's settings have no snapshotter (containerd.enabled = false): set it, or \
                 give --profile mirror"
                    .to_owned(),
            ));
        }
        let former = args.common.originals("containerd");
        let former = former.iter().rev().find_map(|(path, text)| {
            let settings = Settings::parse(path, text, version).ok()?;
            settings.other_snapshotter()
        });
        let cri = match profile.has_snapshotter() && !args.keep_snapshotter {
            true => CriSnapshotter::Hawker,
            false => CriSnapshotter::Kept { former },
        };
        let target = Target {
            version,
            profile,
            cri,
            mirror: mirror_url(&hawkerd)?,
            socket: hawkerd.containerd.socket.clone(),
            snapshots: hawkerd.snapshotter.dir.clone(),
            platform: machine::platform(),
            remaps_ids: machine::remaps_ids(),
            certs_d: absolute(&args.certs_dir)?,
        };
        let pending = Pending::new(&args.common.state_dir);
        let switch = Switch::new(&config, &before, profile.has_content(), &hawkerd, pending);
        Ok(Self {
            args,
            config,
            target,
            restart,
            before,
            switch,
        })
    }

    /// What a run would do.
    fn show(&self) -> Result<(), CliError> {
        if !show(&self.plan()?) {
            println!("nothing to change");
        }
        self.switch.announce();
        Ok(())
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
        self.switch.announce();
        self.switch.require(self.restart.as_ref()).await?;
        if !confirmed(&self.args.common)? {
            println!("nothing was changed");
            return Ok(());
        }
        if let Err(error) = self.begin(transaction, &plan).await {
            return Err(self.abandon(error).await);
        }
        let files: Vec<_> = plan.changes.into_iter().map(|c| c.path).collect();
        println!("changed: {}", list(&files));
        let taken = dump::check(&self.config, &self.target).map_err(CliError::failed);
        let used = match taken {
            Ok(_) => self.put_into_use(true).await,
            // It was not restarted with them, and needs not be restarted without them.
            Err(error) => return Err(self.give_up_early(transaction, error).await),
        };
        match used {
            Ok(()) => {
                transaction.finish().map_err(CliError::failed)?;
                self.switch.finish().await
            }
            Err(error) => Err(self.give_up(transaction, error).await),
        }
    }

    /// Up to the files being written. Where it fails, they are what they were.
    async fn begin(&self, transaction: &Transaction<'_>, plan: &Plan) -> Result<(), CliError> {
        self.switch.before().await?;
        self.switch.written()?;
        transaction.apply(&plan.changes).map_err(CliError::failed)
    }

    /// A run that finds all done still does what it was asked for beside it, and takes up content
    /// that an earlier one did not get to.
    async fn check_only(&self) -> Result<(), CliError> {
        self.switch.require(self.restart.as_ref()).await?;
        self.switch.before().await?;
        if self.restart.is_some() || self.args.verify.is_some() {
            self.put_into_use(false).await?;
        }
        self.switch.finish().await
    }

    async fn put_into_use(&self, changed: bool) -> Result<(), CliError> {
        match &self.restart {
            Some(restart) => {
                println!("restarting: {}", restart.line());
                restart.run().map_err(CliError::failed)?;
                let found = self.look().await?;
                self.switch.after(&found.containerd).await?;
            }
            None if changed => restart_hint(RESTART),
            None => {}
        }
        match &self.args.verify {
            Some(image) => self.verify(image).await,
            None => Ok(()),
        }
    }

    /// Ends the moving of content, and says both.
    async fn abandon(&self, error: CliError) -> CliError {
        match self.switch.abandon().await {
            Ok(()) => error,
            Err(failure) => CliError::Failed(format!(
                "{error}, but hawkerd keeps its copy of containerd's content ({failure}); the next \
                 run of this has it released"
            )),
        }
    }

    async fn give_up_early(&self, transaction: &Transaction<'_>, error: CliError) -> CliError {
        self.abandon(taken_back(transaction, &error)).await
    }

    /// Takes back what was done, with the content that came meanwhile, restarts again, and says all.
    async fn give_up(&self, transaction: &Transaction<'_>, error: CliError) -> CliError {
        let Some(restart) = &self.restart else {
            return self.give_up_early(transaction, error).await;
        };
        let early = self.switch.back().await;
        let taken_back = taken_back(transaction, &error);
        if let Err(failure) = restart.run() {
            return CliError::Failed(format!(
                "{taken_back}, but containerd did not start again: {failure}"
            ));
        }
        // What came until it was restarted; it needs not be up for that.
        let back = early.and(self.switch.back().await);
        match back.and_then(|()| self.switch.moved_back()) {
            Ok(()) => self.abandon(taken_back).await,
            Err(lost) => CliError::Failed(format!(
                "{taken_back}, but for what was pulled meanwhile: {lost}; the next run gives it \
                 back, else pull it again"
            )),
        }
    }

    /// Waits until containerd is up, and looks whether its plugins are.
    async fn look(&self) -> Result<Found, CliError> {
        let stop_time = self.restart.as_ref().map_or(Duration::ZERO, |_| STOP_TIME);
        let found = until_up(stop_time, || self.found()).await;
        found.map_err(CliError::failed)
    }

    async fn found(&self) -> Result<Found, VerifyError> {
        let containerd = Containerd::connect(&self.before.address).await?;
        let plugins = containerd.plugins().await?;
        let before = self.before.plugins.as_deref();
        verify::plugins(&plugins, before, Wanted::of(&self.target))?;
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
        if self.target.profile.has_snapshotter() {
            verify::snapshot(&containerd)
                .await
                .map_err(CliError::failed)?;
            println!("verified: a snapshot was made, mounted, written to and removed");
        }
        if self.target.profile.has_content() {
            content::trial(&containerd)
                .await
                .map_err(CliError::failed)?;
            println!("verified: content was written, read and deleted");
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
        let crictl = machine::program("crictl").filter(|_| verify::has_cri(plugins));
        if let Some(program) = crictl {
            return Route::Crictl {
                program,
                address: self.before.address.clone(),
            };
        }
        match self.target.version.has_transfer() && self.target.profile.has_snapshotter() {
            true => Route::Transfer {
                certs_d: self.certs_d(),
            },
            false => Route::Mirror {
                url: self.target.mirror.clone(),
            },
        }
    }
}

/// Takes the files back, and says both.
fn taken_back(transaction: &Transaction<'_>, error: &CliError) -> CliError {
    CliError::Failed(match transaction.take_back() {
        Ok(()) => format!("{error}; everything is as it was before"),
        Err(failure) => format!("{error}; {failure}"),
    })
}

/// Where containerd listens, by its own settings, else by hawkerd's.
fn address_of(settings: Option<&Settings>, hawkerd: &NodeConfig) -> PathBuf {
    let address = settings.and_then(Settings::address);
    address.unwrap_or_else(|| hawkerd.containerd.address.clone())
}
