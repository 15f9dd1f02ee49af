//! What a call of `Apply` asks for, where that is something that is done here: a plain, gzip or
//! zstd layer into the one directory that a mount writes to.
//!
//! Everything else is left to containerd's own differ, which knows processors, other mounts and
//! user namespaces. Nothing is guessed: the files must be those that it would make.

use std::path::{Path, PathBuf};

use containerd_client::{services::v1::ApplyRequest, types::Mount};
use hawker_model::Digest;
use hawker_snapshotter::{LayerKind, Rights, Target};

use super::media_type::{self, Form};

/// What containerd's CRI sends with every layer, in case it is encrypted (imgcrypt). It is for those
/// alone, and their media types are not known here.
const DECRYPTION: &str = "io.containerd.ocicrypt.v1.";

/// One layer into one directory.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) layer: Digest,
    pub(super) form: Form,
    pub(super) place: Place,
    /// Whether the file system is to be on the disk before the answer.
    pub(super) sync: bool,
}

/// Where a layer goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) target: Target,
    pub(super) kind: LayerKind,
    /// Whether the layers above will lie in overlays.
    pub(super) is_of_stack: bool,
}

/// Why a layer is containerd's own differ's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsuited {
    #[error("the request names no layer")]
    NoLayer,
    #[error("layers of type {0:?} are not known here")]
    MediaType(String),
    #[error("it comes with data for the processor {0:?}")]
    Payload(String),
    #[error("{0} mounts make up its place")]
    Mounts(usize),
    #[error("its place is a mount of type {0:?}")]
    MountType(String),
    #[error("its place is mounted with {0:?}")]
    Option(String),
    #[error("nothing can be written to its place")]
    ReadOnly,
    #[error("hawkerd runs in a user namespace")]
    UserNamespace,
}

impl Order {
    pub(super) fn parse(request: &ApplyRequest) -> Result<Self, Unsuited> {
        let layer = request.diff.as_ref().ok_or(Unsuited::NoLayer)?;
        let form = media_type::form(&layer.media_type);
        let form = form.ok_or_else(|| Unsuited::MediaType(layer.media_type.clone()))?;
        let mut payloads = request.payloads.keys();
        if let Some(payload) = payloads.find(|payload| !payload.starts_with(DECRYPTION)) {
            return Err(Unsuited::Payload(payload.clone()));
        }
        Ok(Self {
            layer: Digest::parse(&layer.digest).map_err(|_| Unsuited::NoLayer)?,
            form,
            place: Place::parse(&request.mounts, Rights::of_this_process())?,
            sync: request.sync_fs,
        })
    }
}

impl Place {
    fn parse(mounts: &[Mount], rights: Rights) -> Result<Self, Unsuited> {
        let [mount] = mounts else {
            return Err(Unsuited::Mounts(mounts.len()));
        };
        if rights == Rights::UserNamespace {
            return Err(Unsuited::UserNamespace);
        }
        if !mount.target.is_empty() {
            return Err(Unsuited::Option(format!("target={}", mount.target)));
        }
        if let Some(option) = mount.options.iter().find(|option| is_unsuited(option)) {
            return Err(Unsuited::Option(option.clone()));
        }
        match mount.r#type.as_str() {
            "overlay" => Self::of_overlay(&mount.options),
            "bind" => Self::of_bind(&mount.source),
            other => Err(Unsuited::MountType(other.to_owned())),
        }
    }

    /// The upper directory, as containerd's differ takes it: whiteouts become the overlay's.
    fn of_overlay(options: &[String]) -> Result<Self, Unsuited> {
        let value = |key: &str| {
            let mut values = options.iter().filter_map(|option| option.strip_prefix(key));
            values.next_back()
        };
        let upper = value("upperdir=").ok_or(Unsuited::ReadOnly)?;
        let lowers = value("lowerdir=").map_or_else(Vec::new, |lowers| {
            lowers.split(':').map(PathBuf::from).collect()
        });
        absolute(upper)?;
        Ok(Self {
            target: Target::new(upper, lowers),
            kind: LayerKind::Upper,
            is_of_stack: true,
        })
    }

    /// The directory itself. An empty one is what a bottom layer goes to: whiteouts find there what
    /// the layer itself brought, and nothing else. That it is empty is looked at later.
    fn of_bind(source: &str) -> Result<Self, Unsuited> {
        let path = absolute(source)?;
        Ok(Self {
            target: Target::new(path, Vec::new()),
            kind: LayerKind::Base,
            // As overlay snapshotters call it; `native` copies what is below instead.
            is_of_stack: path.ends_with("fs"),
        })
    }
}

fn absolute(path: &str) -> Result<&Path, Unsuited> {
    let path = Path::new(path);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(Unsuited::ReadOnly),
    }
}

/// Mapped owners, other attributes, and what cannot be written to.
fn is_unsuited(option: &str) -> bool {
    matches!(option, "userxattr" | "ro")
        || ["uidmap=", "gidmap="]
            .iter()
            .any(|mapping| option.starts_with(mapping))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use containerd_client::types::Descriptor;
    use proptest::prelude::*;

    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            r#type: kind.to_owned(),
            source: source.to_owned(),
            target: String::new(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    fn request(mounts: Vec<Mount>) -> ApplyRequest {
        ApplyRequest {
            diff: Some(Descriptor {
                media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
                digest: Digest::of(b"layer").to_string(),
                size: 5,
                annotations: HashMap::new(),
            }),
            mounts,
            payloads: HashMap::new(),
            sync_fs: false,
        }
    }

    fn unsuited(request: &ApplyRequest) -> Unsuited {
        Order::parse(request).unwrap_err()
    }

    #[test]
    fn overlays_upper_directory_is_the_place_and_whiteouts_are_the_overlays() {
        let options = [
            "index=off",
            "workdir=/s/2/work",
            "upperdir=/s/2/fs",
            "lowerdir=/s/1/fs:/s/0/fs",
        ];
        let order = Order::parse(&request(vec![mount("overlay", "overlay", &options)])).unwrap();
        let lowers = vec!["/s/1/fs".into(), "/s/0/fs".into()];
        assert_eq!(
            order.place,
            Place {
                target: Target::new("/s/2/fs", lowers),
                kind: LayerKind::Upper,
                is_of_stack: true,
            }
        );
    }

    #[test]
    fn bound_directory_is_for_a_bottom_layer() {
        for (source, is_of_stack) in [("/s/1/fs", true), ("/native/snapshots/1", false)] {
            let mounts = vec![mount("bind", source, &["rw", "rbind"])];
            let order = Order::parse(&request(mounts)).unwrap();
            assert_eq!(order.place.kind, LayerKind::Base);
            assert_eq!(order.place.is_of_stack, is_of_stack);
        }
    }

    #[test]
    fn mounts_of_other_kinds_are_containerds() {
        let upper = "upperdir=/s/2/fs";
        for (mounts, why) in [
            (vec![], Unsuited::Mounts(0)),
            (vec![mount("bind", "/a", &[]); 2], Unsuited::Mounts(2)),
            (
                vec![mount("ext4", "/dev/x", &[])],
                Unsuited::MountType("ext4".to_owned()),
            ),
            (
                vec![mount("overlay", "overlay", &["lowerdir=/a:/b"])],
                Unsuited::ReadOnly,
            ),
            (vec![mount("bind", "relative", &[])], Unsuited::ReadOnly),
            (
                vec![mount("bind", "/a", &["ro", "rbind"])],
                Unsuited::Option("ro".to_owned()),
            ),
            (
                vec![mount("overlay", "overlay", &[upper, "uidmap=0:1000:1"])],
                Unsuited::Option("uidmap=0:1000:1".to_owned()),
            ),
            (
                vec![mount("overlay", "overlay", &[upper, "userxattr"])],
                Unsuited::Option("userxattr".to_owned()),
            ),
        ] {
            assert_eq!(unsuited(&request(mounts)), why);
        }
        let overlay = [mount("overlay", "overlay", &[upper])];
        assert_eq!(
            Place::parse(&overlay, Rights::UserNamespace),
            Err(Unsuited::UserNamespace)
        );
    }

    #[test]
    fn payloads_are_for_processors_but_for_the_one_that_cri_always_sends() {
        let mut request = request(vec![mount("bind", "/s/1/fs", &["rw"])]);
        let mut send = |id: &str| {
            let any = prost_types::Any::default();
            request.payloads.insert(id.to_owned(), any);
            Order::parse(&request)
        };
        assert!(send("io.containerd.ocicrypt.v1.Payload").is_ok());
        let error = send("my.processor").unwrap_err();
        assert_eq!(error, Unsuited::Payload("my.processor".to_owned()));
    }

    proptest! {
        #[test]
        fn any_mount_is_survived(
            kind in "overlay|bind|\\PC{0,9}", source in "\\PC{0,30}",
            options in prop::collection::vec("(upperdir=|lowerdir=|uidmap=)?\\PC{0,30}", 0..6),
        ) {
            let options: Vec<_> = options.iter().map(String::as_str).collect();
            let place = Place::parse(&[mount(&kind, &source, &options)], Rights::Full);
            // What is filled is one place that the mount names.
            if place.is_ok() {
                prop_assert!(kind == "overlay" || kind == "bind");
            }
        }
    }

    #[test]
    fn what_names_no_layer_is_containerds() {
        let mut request = request(vec![mount("bind", "/s/1/fs", &["rw"])]);
        let layer = request.diff.as_mut().unwrap();
        layer.digest = "sha512:00".to_owned();
        assert_eq!(unsuited(&request), Unsuited::NoLayer);
        request.diff = None;
        assert_eq!(unsuited(&request), Unsuited::NoLayer);
    }
}
