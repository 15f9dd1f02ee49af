//! The same layers as containerd's own differ applies them.

use std::{
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

use containerd_client::services::v1::diff_client::DiffClient;

use super::{layer::everything, *};
use crate::containerd::doubles::{Containerd, named};

impl Containerd {
    async fn apply(&self, request: ApplyRequest) -> Result<Descriptor, Status> {
        let mut client = DiffClient::new(self.client().channel);
        let applied = client.apply(named(request)).await?;
        Ok(applied.into_inner().applied.unwrap())
    }
}

/// Both trees, without the times that are the moment's in one of them: of whiteouts, and of
/// directories that have no entry.
fn comparable(ours: &Path, theirs: &Path) -> [Vec<String>; 2] {
    let trees = [describe(ours), describe(theirs)];
    let mut moments = BTreeSet::new();
    for line in trees.iter().flatten() {
        let mut words = line.split(' ');
        let (name, time) = (words.next().unwrap(), words.nth(2).unwrap());
        let seconds: u64 = time.split('.').next().unwrap().parse().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        if now.as_secs() < seconds + 3600 {
            moments.insert(name.to_owned());
        }
    }
    trees.map(|tree| {
        let without_moment = |line: String| {
            let mut words: Vec<_> = line.split(' ').collect();
            if moments.contains(words[0]) {
                words.remove(3);
            }
            words.join(" ")
        };
        tree.into_iter().map(without_moment).collect()
    })
}

/// Has both apply the same layers, bottom first, and compares what became of them.
async fn compare(dir: &Path, layers: Vec<(String, Vec<u8>)>, how: How) {
    let containerd = Containerd::start().await;
    let bench = Bench::beside(&containerd.socket());
    for (_, blob) in &layers {
        containerd.commit(blob).await;
    }
    let (types, blobs): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
    let image = bench.commit(blobs);
    let place = |whose: &str, at: usize| {
        let path = dir.join(whose).join(at.to_string()).join("fs");
        fs::create_dir_all(&path).unwrap();
        path
    };
    let mount = |whose: &str, at: usize| match at {
        0 => bind(&place(whose, 0)),
        at => {
            let lowers: Vec<_> = (0..at).rev().map(|below| place(whose, below)).collect();
            let lowers: Vec<_> = lowers.iter().map(PathBuf::as_path).collect();
            overlay(&place(whose, at), &lowers)
        }
    };
    for (at, media_type) in types.iter().enumerate() {
        let order = |mount| request(media_type, image.layers[at], mount);
        let theirs = containerd.apply(order(mount("theirs", at))).await.unwrap();
        let ours = bench.apply(order(mount("ours", at))).await.unwrap();
        assert_eq!(ours, theirs);
        let [ours, theirs] = comparable(&place("ours", at), &place("theirs", at));
        assert_eq!(ours, theirs, "layer {at}");
    }
    assert_eq!(bench.count(how), types.len() as u64);
}

/// Layers with everything that layers may have.
fn everything(media_type: &str, pack: impl Fn(&[u8]) -> Vec<u8>) -> Vec<(String, Vec<u8>)> {
    let tars = [everything::base(), everything::upper()].map(|items| {
        // What follows the end of a tar is part of its digest.
        [tar(&items), vec![0; 10_240]].concat()
    });
    let layers = tars.iter().map(|tar| (media_type.to_owned(), pack(tar)));
    layers.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_that_are_moved_are_those_of_containerds_differ() {
    let dir = tempfile::tempdir().unwrap();
    compare(dir.path(), everything(GZIP, gzip), How::Moved).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_that_are_unpacked_on_the_spot_are_those_of_containerds_differ() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let layers = everything(PLAIN, <[u8]>::to_vec);
    compare(dir.path(), layers, How::Unpacked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_here_containerds_own_differ_does() {
    let containerd = Containerd::start().await;
    let bench = Bench::beside(&containerd.socket());
    let twice = gzip(&tar(&[Item::file("a", "1"), Item::file("a", "2")]));
    containerd.commit(&twice).await;
    let image = bench.commit(vec![twice]);
    let place = bench.place("1");
    let order = request(GZIP, image.layers[0], bind(&place));
    let applied = bench.service.answer(named(order)).await.unwrap();
    assert_eq!(applied.applied.unwrap().media_type, PLAIN);
    assert_eq!(fs::read_to_string(place.join("a")).unwrap(), "2");
    assert_eq!(bench.count(How::Left), 1);
}
