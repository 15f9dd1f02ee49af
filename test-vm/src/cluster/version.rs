//! The versions of containerd that the testbed runs, and how each wants to be told things.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use super::settings::PAUSE;
use crate::tools::{CONTAINERD_1, CONTAINERD_2};

/// Which containerd a node runs.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, clap::ValueEnum,
)]
pub enum ContainerdVersion {
    /// The distribution's: 1.6 on Debian 12.
    #[default]
    Debian,
    /// An upstream 1.7, built by the testbed.
    #[value(name = "1.7")]
    V1_7,
    /// An upstream 2.x, built by the testbed.
    #[value(name = "2")]
    V2,
}

/// How containerd goes through Hawker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Profile {
    /// By the snapshotter and the mirror.
    #[default]
    Snapshotter,
    /// By the mirror alone; containerd unpacks itself.
    Mirror,
}

impl ContainerdVersion {
    pub const ALL: [Self; 3] = [Self::Debian, Self::V1_7, Self::V2];

    /// As people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Debian => "1.6 (Debian)",
            Self::V1_7 => "1.7",
            Self::V2 => "2.3",
        }
    }

    /// Where its programs are; nothing for the distribution's.
    ///
    /// # Errors
    /// When they have to be built and cannot.
    pub fn programs(self) -> Result<Option<PathBuf>> {
        match self {
            Self::Debian => Ok(None),
            Self::V1_7 => CONTAINERD_1.dir().map(Some),
            Self::V2 => CONTAINERD_2.dir().map(Some),
        }
    }

    /// `config.toml`.
    pub(super) fn settings(self, profile: Option<Profile>) -> String {
        let is_hawker = profile == Some(Profile::Snapshotter);
        match self {
            Self::Debian => version_1(is_hawker, ""),
            Self::V1_7 => version_1(is_hawker, EXPORTS_1),
            Self::V2 => version_2(is_hawker),
        }
    }
}

/// Where the testbed itself runs in a container, it may make nothing less likely to be killed.
const NO_OOM: &str = "restrict_oom_score_adj = true\n";
const PROXY: &str = "\
[proxy_plugins.hawker]
type = \"snapshot\"
address = \"/run/hawker/containerd.sock\"
";
/// Where CRI measures the space that images take; 1.6.32 and newer know it.
const EXPORTS_1: &str = "\
[proxy_plugins.hawker.exports]
root = \"/var/lib/hawker/snapshotter\"
";
/// The same, and the labels that tell which layer of which image is wanted.
const EXPORTS_2: &str = "\
[proxy_plugins.hawker.exports]
root = \"/var/lib/hawker/snapshotter\"
enable_remote_snapshot_annotations = \"true\"
";

fn version_1(is_hawker: bool, exports: &str) -> String {
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    let mut text = format!("version = 2\n[{cri}]\nsandbox_image = \"{PAUSE}\"\n{NO_OOM}");
    if is_hawker {
        text += &format!(
            "[{cri}.containerd]\nsnapshotter = \"hawker\"\ndisable_snapshot_annotations = false\n"
        );
    }
    text += &format!("[{cri}.registry]\nconfig_path = \"/etc/containerd/certs.d\"\n");
    if is_hawker {
        text += PROXY;
        text += exports;
    }
    text
}

fn version_2(is_hawker: bool) -> String {
    let cri = "plugins.\"io.containerd.cri.v1.images\"";
    let mut text = format!("version = 3\n[{cri}]\n");
    if is_hawker {
        text += "snapshotter = \"hawker\"\n";
    }
    text += &format!("[plugins.\"io.containerd.cri.v1.runtime\"]\n{NO_OOM}");
    text += &format!("[{cri}.pinned_images]\nsandbox = \"{PAUSE}\"\n");
    text += &format!("[{cri}.registry]\nconfig_path = \"/etc/containerd/certs.d\"\n");
    if is_hawker {
        text += PROXY;
        text += EXPORTS_2;
        // What is named here replaces the defaults.
        for snapshotter in ["overlayfs", "hawker"] {
            text += &format!(
                "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n\
                 platform = \"linux\"\nsnapshotter = \"{snapshotter}\"\ndiffer = \"walking\"\n"
            );
        }
    }
    text
}
