//! One copy for two: blobs in containerd's own content store are the node's as well.
//!
//! Where containerd keeps its content itself, the directory of its blobs is watched
//! ([`watch`]; [`root`] asks containerd where it is). What appears there is looked at a little later
//! and one at a time ([`agenda`]), when nobody else wants processor or disk: a blob that the node
//! has gives up its own copy, one that it does not have (pulled before Hawker came, built, imported)
//! becomes a blob of the node without being copied, and peers can have it. What containerd deletes,
//! the node gives up too. How files are shared is the blob store's matter
//! ([`hawker_p2p::Node::adopt_from`]); `docs/sharing.md` tells it to people.

mod agenda;
mod metrics;
mod root;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hawker_model::{Digest, TaskId};
use hawker_p2p::{AdoptError, Node, Otherwise, Owner, Pace, Share, Shared};
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

pub(crate) use self::metrics::SharingMetrics;
use self::{
    agenda::Agenda,
    metrics::Change,
    root::{Home, Root},
    watch::{News, Watch, digests_in},
};

/// Wait before containerd is asked again where its content is.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// How often everything is compared, whatever the watch has told.
const COMPARE: Duration = Duration::from_secs(600);
/// A blob is left alone for so long after it came: the pull that brought it goes on.
const SETTLE: Duration = Duration::from_secs(5);

const IDLE: Share = Share {
    otherwise: Otherwise::InPlace,
    pace: Pace::Idle,
};

/// Shares one node's blobs with one containerd.
#[derive(Debug)]
pub(crate) struct Sharing {
    node: Node,
    root: Root,
    metrics: SharingMetrics,
    settle: Duration,
}

/// Why a directory is no longer watched.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("cannot watch {}: {cause}", dir.display())]
    Watch { dir: PathBuf, cause: io::Error },
    #[error("containerd does not keep its content there any more")]
    Moved,
}

impl Sharing {
    /// With the containerd that listens on `address`. Must be called within a runtime.
    pub(crate) fn new(node: Node, address: &Path, metrics: SharingMetrics) -> Self {
        Self {
            node,
            root: Root::new(address),
            metrics,
            settle: SETTLE,
        }
    }

    /// Goes on until it is dropped.
    pub(crate) async fn run(self) {
        loop {
            let dir = self.find_home().await;
            info!(dir = %dir.display(), "sharing blobs with containerd");
            let ended = self.share(&dir).await;
            warn!(%ended, "sharing no blobs with containerd for the moment");
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn find_home(&self) -> PathBuf {
        let mut told = None;
        loop {
            let home = self.root.home().await;
            match &home {
                Home::Dir(dir) => return dir.clone(),
                Home::None if told != Some(Home::None) => {
                    info!("containerd has no content store of its own: nothing to share");
                }
                Home::Unknown(why) if !matches!(told, Some(Home::Unknown(_))) => {
                    info!(why, "cannot ask containerd for its content store yet");
                }
                Home::None | Home::Unknown(_) => {}
            }
            told = Some(home);
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Keeps to one directory.
    async fn share(&self, dir: &Path) -> Ended {
        let failed = |cause| Ended::Watch {
            dir: dir.to_owned(),
            cause,
        };
        let watch = match Watch::new(dir) {
            Ok(watch) => watch,
            Err(cause) => return failed(cause),
        };
        let mut agenda = Agenda::new(self.settle);
        let mut compare = tokio::time::interval(COMPARE);
        compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                news = watch.next() => match news {
                    Ok(News::Names(names)) => agenda.note_all(names, Instant::now()),
                    Ok(News::Lost) => compare.reset_immediately(),
                    Ok(News::Gone) => return Ended::Moved,
                    Err(cause) => return failed(cause),
                },
                digest = agenda.next() => self.look_at(dir, digest, &mut agenda).await,
                _ = compare.tick() => {
                    if self.root.home().await.is_elsewhere(dir) {
                        return Ended::Moved;
                    }
                    if let Err(cause) = self.compare(dir, &mut agenda).await {
                        return failed(cause);
                    }
                }
            }
        }
    }

    /// Puts on the agenda whatever may have changed since somebody looked.
    async fn compare(&self, dir: &Path, agenda: &mut Agenda) -> io::Result<()> {
        let listed = dir.to_owned();
        let theirs = tokio::task::spawn_blocking(move || digests_in(&listed)).await;
        let theirs = theirs.unwrap_or_else(|_| Ok(Default::default()))?;
        let now = Instant::now();
        let ours = self.node.blobs().into_iter();
        let shared = ours.filter(|blob| blob.owner != Owner::Us);
        for digest in shared.filter_map(|blob| blob.task.digest()) {
            if !theirs.contains(&digest) {
                agenda.note(digest, now);
            }
        }
        for digest in theirs {
            agenda.note(digest, now);
        }
        Ok(())
    }

    /// Does what is to be done about one blob, by how it stands now.
    async fn look_at(&self, dir: &Path, digest: Digest, agenda: &mut Agenda) {
        let file = dir.join(digest.to_hex());
        match self.node.adopt_from(digest, file, IDLE, false).await {
            Ok(Shared::Already) => {}
            Ok(Shared::Shared | Shared::Copied) => {
                debug!(%digest, "shared a blob with containerd");
                self.metrics.count(Change::Shared);
            }
            Err(AdoptError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                self.give_up(digest, agenda).await;
            }
            Err(error) => {
                // A file that is no blob stays what it is; what may pass is tried again with the
                // next comparison.
                match error.is_retryable() {
                    true => debug!(%digest, %error, "a blob of containerd's is not shared yet"),
                    false => warn!(%digest, %error, "a blob of containerd's is not shared"),
                }
                self.metrics.count(Change::Failed);
            }
        }
    }

    /// containerd does not have the blob any more.
    async fn give_up(&self, digest: Digest, agenda: &mut Agenda) {
        let blob = self.node.look_up(&TaskId::Blob(digest));
        let Some(blob) = blob.filter(|blob| blob.owner != Owner::Us && !blob.pinned) else {
            return;
        };
        match self.node.remove(digest).await {
            Ok(true) => {
                debug!(%digest, length = blob.geometry.length(), "gave up a blob of containerd's");
                self.metrics.count(Change::GivenUp);
            }
            Ok(false) => agenda.note(digest, Instant::now()),
            Err(error) => warn!(%digest, %error, "cannot give up a blob that containerd deleted"),
        }
    }
}
