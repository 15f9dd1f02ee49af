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

struct Places {
    ours: [PathBuf; 2],
    theirs: [PathBuf; 2],
}

impl Places {
    fn below(dir: &Path) -> Self {
        let make = |whose: &str| {
            ["1", "2"].map(|at| {
                let path = dir.join(whose).join(at).join("fs");
                fs::create_dir_all(&path).unwrap();
                path
            })
        };
        Self {
            ours: make("ours"),
            theirs: make("theirs"),
        }
    }
}

async fn compare(dir: &Path, pack: impl Fn(&[u8]) -> Vec<u8>, media_type: &str, how: How) {
    let containerd = Containerd::start().await;
    let bench = Bench::beside(&containerd.socket());
    let tars = [everything::base(), everything::upper()].map(|items| {
        // What follows the end of a tar is part of its digest.
        [tar(&items), vec![0; 10_240]].concat()
    });
    let blobs = tars.each_ref().map(|tar| pack(tar));
    for blob in &blobs {
        containerd.commit(blob).await;
    }
    let image = bench.commit(blobs.to_vec());
    let places = Places::below(dir);
    for at in 0..2 {
        let mount = |of: &[PathBuf; 2]| match at {
            0 => bind(&of[0]),
            _ => overlay(&of[1], &[&of[0]]),
        };
        let order = |mount| request(media_type, image.layers[at], mount);
        let theirs = containerd
            .apply(order(mount(&places.theirs)))
            .await
            .unwrap();
        let ours = bench.apply(order(mount(&places.ours))).await.unwrap();
        assert_eq!(ours, theirs);
        let [ours, theirs] = comparable(&places.ours[at], &places.theirs[at]);
        assert_eq!(ours, theirs);
    }
    assert_eq!(bench.count(how), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_that_are_moved_are_those_of_containerds_differ() {
    let dir = tempfile::tempdir().unwrap();
    compare(dir.path(), gzip, GZIP, How::Moved).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_that_are_unpacked_on_the_spot_are_those_of_containerds_differ() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    compare(dir.path(), <[u8]>::to_vec, PLAIN, How::Unpacked).await;
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
