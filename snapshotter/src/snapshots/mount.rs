//! How a snapshot is mounted: overlay, or a bind where one directory is all there is.
//!
//! The options are those of containerd's overlayfs snapshotter, whose clients read some of them
//! (`upperdir=`, `lowerdir=`).

use std::path::Path;

use super::{
    directories::Directories,
    idmap::IdMapping,
    info::{Kind, Row},
};

/// One mount, as containerd performs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `overlay` or `bind`.
    pub kind: String,
    pub source: String,
    /// Below the mount point; always empty.
    pub target: String,
    pub options: Vec<String>,
}

/// What every mount of a store has in common.
#[derive(Clone, Debug, Default)]
pub(super) struct MountOptions {
    /// For overlays.
    pub(super) overlay: Vec<String>,
    /// Whether the kernel maps the ids of an overlay's layers.
    pub(super) maps_ids: bool,
}

impl MountOptions {
    /// The mounts of an active snapshot or a view on `lowers` (nearest first).
    pub(super) fn mounts(&self, dirs: &Directories, row: &Row, lowers: &[u64]) -> Vec<Mount> {
        let maps_ids = self.maps_ids && !row.is_shifted;
        let mapping = IdMapping::of(&row.labels).filter(|_| maps_ids);
        let mut options: Vec<_> = mapping.iter().flat_map(IdMapping::options).collect();
        let mount = match (row.kind, lowers) {
            (Kind::View, []) => bind(&dirs.fs(row.id), "ro", options),
            (_, []) => bind(&dirs.fs(row.id), "rw", options),
            (Kind::View, [parent]) => bind(&dirs.fs(*parent), "ro", options),
            (kind, lowers) => {
                if kind == Kind::Active {
                    options.push(format!("workdir={}", dirs.work(row.id).display()));
                    options.push(format!("upperdir={}", dirs.fs(row.id).display()));
                }
                options.push(lower_option(dirs, lowers));
                options.extend_from_slice(&self.overlay);
                overlay(options)
            }
        };
        vec![mount]
    }
}

/// All paths share everything but the short id, so that containerd can shorten them: a mount's
/// options must fit one page.
fn lower_option(dirs: &Directories, lowers: &[u64]) -> String {
    let paths: Vec<_> = lowers
        .iter()
        .map(|id| dirs.fs(*id).display().to_string())
        .collect();
    format!("lowerdir={}", paths.join(":"))
}

fn bind(source: &Path, access: &str, mut options: Vec<String>) -> Mount {
    options.extend([access.to_owned(), "rbind".to_owned()]);
    Mount {
        kind: "bind".to_owned(),
        source: source.display().to_string(),
        target: String::new(),
        options,
    }
}

fn overlay(options: Vec<String>) -> Mount {
    Mount {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        target: String::new(),
        options,
    }
}
