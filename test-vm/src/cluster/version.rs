//! The versions of containerd that the testbed runs, and how each wants to be told things.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{ContainerdSetup, settings::PAUSE};
use crate::tools::{CONTAINERD_1, CONTAINERD_2};

/// Which containerd a node runs.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    clap::ValueEnum,
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
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// By the snapshotter and the mirror.
    #[default]
    Snapshotter,
    /// By the mirror alone; containerd unpacks itself.
    Mirror,
    /// By the mirror, the content store, the diff service where containerd takes one, and the
    /// snapshotter.
    Full,
    /// The same with containerd's own overlayfs as the snapshotter.
    FullOverlayfs,
}

impl Profile {
    pub const ALL: [Self; 4] = [
        Self::Snapshotter,
        Self::Mirror,
        Self::Full,
        Self::FullOverlayfs,
    ];

    /// As people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Snapshotter => "snapshotter",
            Self::Mirror => "mirror",
            Self::Full => "full",
            Self::FullOverlayfs => "full with overlayfs",
        }
    }

    /// Where images are unpacked to.
    #[must_use]
    pub fn snapshotter(self) -> &'static str {
        match self {
            Self::Snapshotter | Self::Full => "hawker",
            Self::Mirror | Self::FullOverlayfs => "overlayfs",
        }
    }

    /// Whether containerd's content is Hawker's.
    #[must_use]
    pub fn has_content(self) -> bool {
        matches!(self, Self::Full | Self::FullOverlayfs)
    }

    /// Whether containerd asks hawkerd for anything but what the mirror has.
    #[must_use]
    pub fn has_socket(self) -> bool {
        self != Self::Mirror
    }
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

    /// Whether it takes a diff service of another process.
    #[must_use]
    pub fn takes_a_diff_service(self) -> bool {
        self != Self::Debian
    }

    /// `config.toml`.
    pub(super) fn settings(self, setup: &ContainerdSetup) -> String {
        let proxies = match setup.profile {
            Some(profile) => self.proxies(profile),
            None => String::new(),
        };
        // What is at the top stands before every table.
        let top = match setup.profile.is_some_and(Profile::has_content) {
            true => WITHOUT_OWN_CONTENT,
            false => "",
        };
        let own = match self {
            Self::Debian | Self::V1_7 => version_1(setup, top),
            Self::V2 => version_2(setup, top),
        };
        let policy = match setup.is_isolated {
            true => ISOLATED,
            false => "",
        };
        own + policy + &proxies
    }

    /// The parts of Hawker that a profile has.
    fn proxies(self, profile: Profile) -> String {
        let mut text = String::new();
        if profile.snapshotter() == "hawker" {
            text += SNAPSHOTTER;
            text += match self {
                Self::Debian => "",
                Self::V1_7 => EXPORTS_1,
                Self::V2 => EXPORTS_2,
            };
        }
        if profile.has_content() {
            text += CONTENT;
            if self.takes_a_diff_service() {
                text += DIFF;
            }
        }
        text
    }
}

/// Where the testbed itself runs in a container, it may make nothing less likely to be killed.
const NO_OOM: &str = "restrict_oom_score_adj = true\n";
const SNAPSHOTTER: &str = "\
[proxy_plugins.hawker]
type = \"snapshot\"
address = \"/run/hawker/containerd.sock\"
";
/// CRI gives up the layers' content once they are unpacked.
const DISCARD: &str = "discard_unpacked_layers = true\n";
/// There is one content store, or containerd takes any of them.
const WITHOUT_OWN_CONTENT: &str = "disabled_plugins = [\"io.containerd.content.v1.content\"]\n";
const CONTENT: &str = "\
[proxy_plugins.hawker-content]
type = \"content\"
address = \"/run/hawker/containerd.sock\"
";
/// No namespace sees what another has.
const ISOLATED: &str = "\
[plugins.\"io.containerd.metadata.v1.bolt\"]
content_sharing_policy = \"isolated\"
";
const DIFF: &str = "\
[proxy_plugins.hawker-diff]
type = \"diff\"
address = \"/run/hawker/containerd.sock\"
[plugins.\"io.containerd.service.v1.diff-service\"]
default = [\"hawker-diff\", \"walking\"]
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

fn version_1(setup: &ContainerdSetup, top: &str) -> String {
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    let is_hawker = setup.profile.is_some_and(|it| it.snapshotter() == "hawker");
    let mut text = format!("version = 2\n{top}[{cri}]\nsandbox_image = \"{PAUSE}\"\n{NO_OOM}");
    if is_hawker || setup.discards_layers {
        text += &format!("[{cri}.containerd]\n");
    }
    if setup.discards_layers {
        text += DISCARD;
    }
    if is_hawker {
        text += "snapshotter = \"hawker\"\ndisable_snapshot_annotations = false\n";
    }
    text + &format!("[{cri}.registry]\nconfig_path = \"/etc/containerd/certs.d\"\n")
}

fn version_2(setup: &ContainerdSetup, top: &str) -> String {
    let cri = "plugins.\"io.containerd.cri.v1.images\"";
    let mut text = format!("version = 3\n{top}[{cri}]\n");
    if setup.discards_layers {
        // The transfer service knows no such thing.
        text += DISCARD;
        text += "use_local_image_pull = true\ndisable_snapshot_annotations = false\n";
    }
    let snapshotter = setup.profile.map_or("overlayfs", Profile::snapshotter);
    text += &format!("snapshotter = \"{snapshotter}\"\n");
    text += &format!("[plugins.\"io.containerd.cri.v1.runtime\"]\n{NO_OOM}");
    text += &format!("[{cri}.pinned_images]\nsandbox = \"{PAUSE}\"\n");
    text += &format!("[{cri}.registry]\nconfig_path = \"/etc/containerd/certs.d\"\n");
    let Some(profile) = setup.profile.filter(|it| it.has_socket()) else {
        return text;
    };
    let differ = match profile.has_content() {
        true => "hawker-diff",
        false => "walking",
    };
    // What is named here replaces the defaults.
    let mut snapshotters = vec!["overlayfs"];
    snapshotters.extend((profile.snapshotter() == "hawker").then_some("hawker"));
    for snapshotter in snapshotters {
        text += &format!(
            "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n\
             platform = \"linux\"\nsnapshotter = \"{snapshotter}\"\ndiffer = \"{differ}\"\n"
        );
    }
    text
}
