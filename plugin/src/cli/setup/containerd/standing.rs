//! How containerd stands before a run changes anything.

use std::path::{Path, PathBuf};

use hawker_config::NodeConfig;

use super::{CliError, ContainerdArgs, address_of};
use crate::setup::{
    content,
    machine::{self, Containerd, Plugin},
    settings::Settings,
    version::ContainerdVersion,
};

pub(super) struct Standing {
    /// Where it listens.
    pub(super) address: PathBuf,
    /// `None` where nothing answers there.
    pub(super) running: Option<Containerd>,
    pub(super) plugins: Option<Vec<Plugin>>,
    /// Whether it keeps its content in hawkerd.
    pub(super) is_ours: bool,
    /// Where its own content store is or would be.
    pub(super) local_dir: PathBuf,
}

impl Standing {
    pub(super) async fn find(args: &ContainerdArgs, config: &Path, hawkerd: &NodeConfig) -> Self {
        let settings = settings(config);
        let settings = settings.as_ref();
        let address = match &args.address {
            Some(address) => address.clone(),
            None => address_of(settings, hawkerd),
        };
        let running = Containerd::connect(&address).await.ok();
        let plugins = match &running {
            Some(containerd) => containerd.plugins().await.ok(),
            None => None,
        };
        Self {
            is_ours: content::is_ours(plugins.as_deref(), settings),
            local_dir: content::local_dir(plugins.as_deref(), settings),
            address,
            running,
            plugins,
        }
    }

    pub(super) async fn version(
        &self,
        args: &ContainerdArgs,
    ) -> Result<ContainerdVersion, CliError> {
        if let Some(text) = &args.containerd_version {
            return ContainerdVersion::parse(text).ok_or_else(|| {
                CliError::Failed(format!("{text:?} is no version, such as 1.7.24"))
            });
        }
        if let Some(containerd) = &self.running {
            return containerd.version().await.map_err(CliError::failed);
        }
        machine::installed_version().ok_or_else(|| {
            CliError::Failed(format!(
                "containerd does not answer on {} and is not in the PATH: start it, name its \
                 socket with --address, or give --containerd-version",
                self.address.display()
            ))
        })
    }
}

/// Whether containerd will keep its content in hawkerd after its next start.
pub(super) fn is_ours_next(config: &Path) -> bool {
    content::is_ours(None, settings(config).as_ref())
}

/// What is wrong with the settings is said when they are edited.
fn settings(config: &Path) -> Option<Settings> {
    Settings::load(config, ContainerdVersion::new(2, 0, 0)).ok()
}
