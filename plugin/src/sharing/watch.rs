//! What happens to the names in a directory of blobs.

use std::{collections::BTreeSet, ffi::OsStr, io, path::Path, time::Duration};

use hawker_model::Digest;
use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent},
};

/// How often the kernel is asked: nothing is done about a blob for seconds anyway.
const ASK: Duration = Duration::from_millis(500);

/// What is known of the names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Something happened to these; what, the directory tells.
    Names(Vec<Digest>),
    /// More happened than could be told.
    Lost,
    /// The directory itself was deleted or renamed.
    Gone,
}

/// Watches one directory.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Inotify,
}

impl Watch {
    /// From now on.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // containerd writes elsewhere and renames; others may link.
        let names = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM;
        let itself =
            AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(dir, names | itself)?;
        Ok(Self { inotify })
    }

    /// What happened since the last call. Cancel safe.
    pub(super) async fn next(&self) -> io::Result<News> {
        loop {
            match self.inotify.read_events() {
                Ok(events) => return Ok(news_of(&events)),
                Err(Errno::EAGAIN) => tokio::time::sleep(ASK).await,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn news_of(events: &[InotifyEvent]) -> News {
    let any = |flags: AddWatchFlags| events.iter().any(|event| event.mask.intersects(flags));
    let gone = AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_UNMOUNT
        | AddWatchFlags::IN_IGNORED;
    if any(gone) {
        return News::Gone;
    }
    if any(AddWatchFlags::IN_Q_OVERFLOW) {
        return News::Lost;
    }
    let names = events.iter().filter_map(|event| event.name.as_deref());
    News::Names(names.filter_map(digest_of).collect())
}

/// The blobs in `dir`. Blocks.
pub(super) fn digests_in(dir: &Path) -> io::Result<BTreeSet<Digest>> {
    let mut digests = BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        digests.extend(digest_of(&entry?.file_name()));
    }
    Ok(digests)
}

fn digest_of(name: &OsStr) -> Option<Digest> {
    let name = name.to_str()?;
    Digest::parse(&format!("sha256:{name}")).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// All names until each of `wanted` was told.
    async fn told(watch: &Watch, wanted: &[Digest]) {
        let mut wanted: BTreeSet<_> = wanted.iter().copied().collect();
        while !wanted.is_empty() {
            match watch.next().await.unwrap() {
                News::Names(names) => names.iter().for_each(|name| _ = wanted.remove(name)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_comes_and_goes_is_told_and_other_names_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = dir.path().join("blobs");
        fs::create_dir(&blobs).unwrap();
        let [a, b] = [b"a", b"b"].map(|bytes| Digest::of(bytes));
        let path = |digest: &Digest| blobs.join(digest.to_hex());
        fs::write(path(&a), b"a").unwrap();
        let watch = Watch::new(&blobs).unwrap();
        assert_eq!(digests_in(&blobs).unwrap(), BTreeSet::from([a]));
        fs::write(dir.path().join("ingest"), b"b").unwrap();
        fs::write(blobs.join("no digest"), b"").unwrap();
        fs::rename(dir.path().join("ingest"), path(&b)).unwrap();
        told(&watch, &[b]).await;
        fs::remove_file(path(&a)).unwrap();
        told(&watch, &[a]).await;
        assert_eq!(digests_in(&blobs).unwrap(), BTreeSet::from([b]));
        fs::remove_dir_all(&blobs).unwrap();
        loop {
            match watch.next().await.unwrap() {
                News::Gone => break,
                other => assert!(matches!(other, News::Names(_)), "{other:?}"),
            }
        }
        assert!(Watch::new(&blobs).is_err());
    }
}
