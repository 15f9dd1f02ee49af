//! The machine: can it mount what is unpacked, and is there room?

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use hawker_config::NodeConfig;
use indicatif::HumanBytes;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::statvfs::statvfs,
    unistd::Uid,
};

use super::Findings;
use crate::setup::machine;

/// What makes room where snapshots are.
const ROOM_FOR_SNAPSHOTS: &str = "remove images that are not used (crictl rmi --prune), or have snapshotter.dir on a larger \
     file system; a lower store.quota helps only where blobs are on the same one";
/// What makes room where blobs are.
const ROOM_FOR_BLOBS: &str = "make room, or set store.quota lower";

/// Shares of a file system below which its room is worth a word.
const LITTLE_PERCENT: u64 = 10;
const TOO_LITTLE_PERCENT: u64 = 3;

pub(super) async fn examine(config: &NodeConfig, findings: &mut Findings) {
    if config.containerd.enabled {
        let dir = existing(&config.snapshotter.dir);
        let tried = tokio::task::spawn_blocking(move || overlay(&dir)).await;
        match tried {
            Ok(trial) => trial.tell(findings),
            Err(error) => findings.warn("overlay", error, ""),
        }
        mounts(&config.snapshotter.dir, findings);
        let dir = &config.snapshotter.dir;
        room("room for snapshots", dir, ROOM_FOR_SNAPSHOTS, findings);
    }
    room(
        "room for blobs",
        &config.store.dir,
        ROOM_FOR_BLOBS,
        findings,
    );
    kernel(findings);
    unpigz(findings);
}

/// How the trial of an overlay ended.
#[derive(Debug, PartialEq, Eq)]
enum Trial {
    Works(PathBuf),
    NotRoot,
    Failed { dir: PathBuf, why: String },
}

impl Trial {
    fn tell(self, findings: &mut Findings) {
        const CHECK: &str = "overlay";
        match self {
            Self::Works(dir) => {
                findings.ok(CHECK, format!("mounts and writes in {}", dir.display()));
            }
            Self::NotRoot => findings.warn(CHECK, "root alone may mount", "run this as root"),
            Self::Failed { dir, why } => findings.fail(
                CHECK,
                format!("in {}: {why}", dir.display()),
                "snapshotter.dir needs a file system that overlayfs can lie on, such as ext4 or \
                 xfs (ftype=1), and no overlay itself",
            ),
        }
    }
}

/// Mounts an overlay in a mount namespace of its own, writes into it, and removes it all.
fn overlay(dir: &Path) -> Trial {
    if !Uid::effective().is_root() {
        return Trial::NotRoot;
    }
    let trial = dir.join(format!(".hawker-doctor-{}", std::process::id()));
    let work = || -> Result<(), String> {
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("unshare: {error}"))?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .map_err(|error| format!("making mounts private: {error}"))?;
        mount_in(&trial)
    };
    let tried = std::thread::scope(|scope| scope.spawn(work).join());
    let tried = tried.unwrap_or_else(|_| Err("the trial broke off".to_owned()));
    // Nothing is mounted in it here: the other namespace went with its thread.
    let removed = fs::remove_dir_all(&trial);
    let dir = dir.to_owned();
    match (tried, removed) {
        (Ok(()), Ok(())) => Trial::Works(dir),
        (Err(why), _) => Trial::Failed { dir, why },
        (Ok(()), Err(error)) => Trial::Failed {
            dir,
            why: format!("removing the trial: {error}"),
        },
    }
}

fn mount_in(trial: &Path) -> Result<(), String> {
    let make = |name: &str| {
        let path = trial.join(name);
        let made = fs::create_dir_all(&path);
        made.map(|()| path).map_err(|error| error.to_string())
    };
    let (lower, upper) = (make("lower")?, make("upper")?);
    let (work, merged) = (make("work")?, make("merged")?);
    let data = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    fs::write(lower.join("a"), "a").map_err(|error| error.to_string())?;
    let kind = Some("overlay");
    mount(kind, &merged, kind, MsFlags::empty(), Some(data.as_str()))
        .map_err(|error| format!("mount: {error}"))?;
    let written = fs::remove_file(merged.join("a")).and_then(|()| fs::write(merged.join("b"), "b"));
    let unmounted = umount2(&merged, MntFlags::MNT_DETACH);
    written.map_err(|error| format!("writing: {error}"))?;
    unmounted.map_err(|error| format!("unmounting: {error}"))
}

fn mounts(dir: &Path, findings: &mut Findings) {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let ours = dir.join("snapshots");
    let ours = ours.to_string_lossy();
    let count = text
        .lines()
        .filter(|line| line.contains(ours.as_ref()))
        .count();
    findings.info(
        "mounts",
        format!("{count} with snapshots of {}", dir.display()),
    );
}

fn room(check: &'static str, dir: &Path, remedy: &str, findings: &mut Findings) {
    let place = existing(dir);
    let found = match statvfs(&place) {
        Ok(found) => found,
        Err(error) => return findings.warn(check, format!("{}: {error}", place.display()), ""),
    };
    let unit = found.fragment_size();
    let (free, all) = (found.blocks_available() * unit, found.blocks() * unit);
    let percent = |part: u64, whole: u64| match whole {
        // Some file systems count none.
        0 => 100,
        whole => u128::from(part) * 100 / u128::from(whole),
    };
    let least = percent(free, all).min(percent(found.files_available(), found.files()));
    let what = format!(
        "{}: {} of {} free, {}% of its inodes",
        place.display(),
        HumanBytes(free),
        HumanBytes(all),
        percent(found.files_available(), found.files())
    );
    match least {
        least if least < u128::from(TOO_LITTLE_PERCENT) => findings.fail(check, what, remedy),
        least if least < u128::from(LITTLE_PERCENT) => findings.warn(check, what, remedy),
        _ => findings.ok(check, what),
    }
}

/// The directory, or the nearest one above it that is there.
fn existing(dir: &Path) -> PathBuf {
    let found = dir.ancestors().find(|dir| dir.is_dir());
    found.unwrap_or_else(|| Path::new("/")).to_owned()
}

fn kernel(findings: &mut Findings) {
    let Some(kernel) = machine::kernel() else {
        return findings.warn("kernel", "its version is not known", "");
    };
    let file_systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has =
        |name: &str| file_systems.split_whitespace().any(|found| found == name) || has_module(name);
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    if !has("overlay") {
        findings.fail("kernel", "it has no overlayfs", "load it: modprobe overlay");
    }
    findings.info(
        "kernel",
        format!(
            "{}.{}: mapped owners {}, userxattr {}, EROFS {}, FUSE passthrough {}",
            kernel.0,
            kernel.1,
            yes(kernel >= (5, 19)),
            yes(kernel >= (5, 11)),
            yes(has("erofs")),
            yes(kernel >= (6, 9) && has("fuse")),
        ),
    );
}

/// Whether a module of this name could be loaded.
fn has_module(name: &str) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let dir = Path::new("/lib/modules").join(release.trim());
    let module = format!("/{name}.ko");
    ["modules.dep", "modules.builtin"].iter().any(|list| {
        let text = fs::read_to_string(dir.join(list)).unwrap_or_default();
        text.contains(&module)
    })
}

/// containerd unpacks with it where it is; hawkerd needs it not.
fn unpigz(findings: &mut Findings) {
    let found = Command::new("unpigz").arg("--version").output().is_ok();
    let what = match found {
        true => "there: containerd uses it for layers that it unpacks itself",
        false => "not there: containerd unpacks with Go's gzip what it unpacks itself",
    };
    findings.info("unpigz", what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_is_tried_and_nothing_of_it_stays() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let trial = overlay(dir.path());
        assert!(
            matches!(trial, Trial::Works(_) | Trial::NotRoot),
            "{trial:?}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let text = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!text.contains(dir.path().to_str().unwrap()));
    }

    #[test]
    fn directory_that_is_not_there_counts_as_the_one_above_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing(&dir.path().join("a/b")), dir.path());
        let mut findings = Findings::default();
        room(
            "room",
            &dir.path().join("a/b"),
            ROOM_FOR_BLOBS,
            &mut findings,
        );
        assert!(findings.all[0].what.contains("free"), "{findings:?}");
    }
}
