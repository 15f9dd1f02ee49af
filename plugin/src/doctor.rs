//! What is wrong on this machine, and how to mend it.
//!
//! Each part looks at one side and adds [`Finding`]s; none changes anything but trials that it
//! removes again. Works without root and without hawkerd as far as it can: what cannot be looked at
//! is said so, and is no failure. Called by `hawker doctor`.

mod containerd;
mod content;
mod docker;
mod finding;
mod hawkerd;
mod machine;
mod network;
mod registries;

use std::path::PathBuf;

use hawker_config::NodeConfig;

pub(crate) use self::finding::{Finding, Findings, Verdict};

/// Where to look.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// hawkerd's settings; `None` is the usual place.
    pub(crate) hawkerd_config: Option<PathBuf>,
    /// hawkerd's control socket; `None` is what its settings say.
    pub(crate) control: Option<PathBuf>,
    /// containerd's settings.
    pub(crate) containerd_config: PathBuf,
    /// containerd's socket; `None` is what its settings say.
    pub(crate) containerd: Option<PathBuf>,
    /// Where hosts.toml files lie, when containerd's settings name no place.
    pub(crate) certs_d: PathBuf,
    /// Docker's settings.
    pub(crate) docker_config: PathBuf,
}

/// Looks at everything.
pub(crate) async fn examine(places: &Places) -> Findings {
    let mut findings = Findings::default();
    let config = settings(places, &mut findings);
    let status = hawkerd::examine(places, &config, &mut findings).await;
    network::examine(&config, status.as_ref(), &mut findings).await;
    registries::examine(&config, &mut findings).await;
    containerd::examine(places, &config, status.as_ref(), &mut findings).await;
    docker::examine(places, &config, &mut findings);
    machine::examine(&config, &mut findings).await;
    findings
}

/// hawkerd's settings; the defaults where they are wrong, so that the rest can be looked at.
fn settings(places: &Places, findings: &mut Findings) -> NodeConfig {
    match NodeConfig::read(places.hawkerd_config.as_deref(), None) {
        Ok(config) => {
            findings.ok("settings", "hawkerd's settings are sound");
            config
        }
        Err(error) => {
            let remedy = "mend them; hawkerd --check-config tells whether they are sound";
            findings.fail("settings", error, remedy);
            NodeConfig::default()
        }
    }
}
