//! What machine this is, and what its containerd says of itself.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use containerd_client::{
    services::v1::{
        PluginsRequest, introspection_client::IntrospectionClient, version_client::VersionClient,
    },
    types::transfer,
};
use tonic::transport::Channel;

use super::version::ContainerdVersion;

/// How long containerd may take for a short answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// containerd's own API.
#[derive(Clone, Debug)]
pub(crate) struct Containerd {
    channel: Channel,
}

/// A plugin of containerd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plugin {
    /// Such as `io.containerd.snapshotter.v1`.
    pub(crate) kind: String,
    pub(crate) id: String,
    /// What it says of itself, such as its `root`.
    pub(crate) exports: HashMap<String, String>,
    /// Why it did not start.
    pub(crate) error: Option<String>,
}

impl Plugin {
    pub(crate) fn is(&self, kind: &str, id: &str) -> bool {
        self.kind == kind && self.id == id
    }
}

/// containerd does not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerdError {
    #[error("containerd does not answer on {address}: {why}")]
    Unreachable { address: String, why: String },
    #[error("containerd cannot {action}: {why}")]
    Refused { action: &'static str, why: String },
    #[error("containerd calls its version {0:?}, which is none that is known")]
    Version(String),
}

fn refused(action: &'static str) -> impl FnOnce(tonic::Status) -> ContainerdError {
    move |status| ContainerdError::Refused {
        action,
        why: status.message().to_owned(),
    }
}

impl Containerd {
    pub(crate) async fn connect(address: &Path) -> Result<Self, ContainerdError> {
        let unreachable = |why: String| ContainerdError::Unreachable {
            address: address.display().to_string(),
            why,
        };
        // A plain connection first: its error says more than tonic's.
        if let Err(error) = tokio::net::UnixStream::connect(address).await {
            return Err(unreachable(error.to_string()));
        }
        let connecting = tokio::time::timeout(PATIENCE, containerd_client::connect(address)).await;
        match connecting {
            Ok(Ok(channel)) => Ok(Self { channel }),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable("no answer within 10 s".to_owned())),
        }
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) async fn version(&self) -> Result<ContainerdVersion, ContainerdError> {
        let mut client = VersionClient::new(self.channel());
        let answer = within(client.version(())).await;
        let text = answer.map_err(refused("tell its version"))?.version;
        ContainerdVersion::parse(&text).ok_or(ContainerdError::Version(text))
    }

    /// All its plugins.
    pub(crate) async fn plugins(&self) -> Result<Vec<Plugin>, ContainerdError> {
        let mut client = IntrospectionClient::new(self.channel());
        let answer = within(client.plugins(PluginsRequest::default())).await;
        let plugins = answer.map_err(refused("list its plugins"))?.plugins;
        let plugin = |found: containerd_client::services::v1::Plugin| Plugin {
            kind: found.r#type,
            id: found.id,
            exports: found.exports,
            error: found.init_err.map(|error| error.message),
        };
        Ok(plugins.into_iter().map(plugin).collect())
    }
}

/// An answer in time.
pub(crate) async fn within<T>(
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, tonic::Status> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(tonic::Status::deadline_exceeded("no answer within 10 s")),
    }
}

/// What the installed `containerd` says of itself.
pub(crate) fn installed_version() -> Option<ContainerdVersion> {
    let output = Command::new("containerd").arg("--version").output().ok()?;
    ContainerdVersion::parse(&String::from_utf8_lossy(&output.stdout))
}

/// The machine's platform as containerd writes it.
pub(crate) fn platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    format!("linux/{arch}")
}

/// The kernel's version, major and minor.
pub(crate) fn kernel() -> Option<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(['.', '-', '+', '\n']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether the kernel maps owners of overlay mounts (since 5.19).
pub(crate) fn remaps_ids() -> bool {
    kernel().is_some_and(|kernel| kernel >= (5, 19))
}

/// A program in the PATH.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}

/// The platform for the transfer service.
pub(crate) fn transfer_platform() -> containerd_client::types::Platform {
    let platform = platform();
    let (os, architecture) = platform.split_once('/').unwrap_or(("linux", "amd64"));
    containerd_client::types::Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        ..Default::default()
    }
}

/// A pull's destination: an image of that name, unpacked.
pub(crate) fn unpacked_image(name: &str, snapshotter: &str) -> transfer::ImageStore {
    transfer::ImageStore {
        name: name.to_owned(),
        platforms: vec![transfer_platform()],
        unpacks: vec![transfer::UnpackConfiguration {
            platform: Some(transfer_platform()),
            snapshotter: snapshotter.to_owned(),
        }],
        ..Default::default()
    }
}
