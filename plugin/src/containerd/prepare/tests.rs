use std::{collections::BTreeMap, num::NonZero, path::Path, sync::Arc, time::Duration};

use hawker_snapshotter::{Filter, Mount, Snapshots};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{Preparer, Wish};
use crate::containerd::{
    client::ContainerdClient,
    doubles::{Image, Shelf, snapshots},
    gc_probe::GcProbe,
    gc_probe::tests::FakeContainerd,
    metrics::SnapshotMetrics,
    stager::{Stager, StagerSettings},
};

struct Bench {
    shelf: Arc<Shelf>,
    preparer: Preparer,
    snapshots: Snapshots,
    containerd: FakeContainerd,
    _dir: TempDir,
}

impl Bench {
    async fn new() -> Self {
        let containerd = FakeContainerd::start().await;
        Self::with(containerd, Duration::from_secs(600))
    }

    fn with(containerd: FakeContainerd, patience: Duration) -> Self {
        let (dir, snapshots) = snapshots();
        let shelf = Arc::new(Shelf::default());
        let settings = StagerSettings {
            unpacks: NonZero::new(2),
            ..StagerSettings::default()
        };
        let metrics = SnapshotMetrics::new();
        let stop = CancellationToken::new();
        let stager = Stager::new(
            snapshots.clone(),
            Arc::clone(&shelf) as _,
            settings,
            metrics.clone(),
            stop.clone(),
        );
        let preparer = Preparer {
            snapshots: snapshots.clone(),
            supply: Arc::clone(&shelf) as _,
            stager,
            probe: GcProbe::new(ContainerdClient::new(containerd.path())),
            patience,
            metrics,
            registrar: None,
            stop,
        };
        Self {
            shelf,
            preparer,
            snapshots,
            containerd,
            _dir: dir,
        }
    }

    fn wish(key: &str, parent: &str, labels: BTreeMap<String, String>) -> Wish {
        Wish {
            snapshotter: "hawker".to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels,
        }
    }

    /// What containerd does for one layer: `Prepare`, and where it is answered that the layer is
    /// there, a look for it. Returns the snapshot's name.
    async fn pull(
        &self,
        image: &Image,
        position: usize,
        parent: &str,
    ) -> Result<String, Vec<Mount>> {
        let key = format!("k/1/extract-{position} {}", image.chains[position]);
        let wish = Self::wish(&key, parent, image.labels(position));
        match self.preparer.prepare(wish).await {
            Ok(mounts) => Err(mounts),
            Err(status) => {
                assert_eq!(status.code(), Code::AlreadyExists, "{status}");
                Ok(self.find(image, position, parent))
            }
        }
    }

    fn find(&self, image: &Image, position: usize, parent: &str) -> String {
        let chain = image.chains[position];
        let filter = format!("labels.\"containerd.io/snapshot.ref\"=={chain},parent=={parent:?}");
        let filter = Filter::parse(&format!("{filter},kind==committed")).unwrap();
        let found = self.snapshots.list(&[filter]).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].name.clone()
    }
}

fn is_ordinary(pulled: Result<String, Vec<Mount>>) -> bool {
    pulled.is_err_and(|mounts| mounts.len() == 1)
}

#[tokio::test]
async fn every_layer_is_there_when_containerd_asks() {
    let bench = Bench::new().await;
    let image = bench.shelf.put("r.io/a", &["1", "2", "3"]);
    let mut parent = String::new();
    for position in 0..3 {
        parent = bench.pull(&image, position, &parent).await.unwrap();
    }
    assert_eq!(bench.shelf.opened(), image.layers);
    // A container of it sees all files.
    let wish = Bench::wish("container", &parent, BTreeMap::new());
    let mounts = bench.preparer.prepare(wish).await.unwrap();
    let lower = mounts[0]
        .options
        .iter()
        .find_map(|option| option.strip_prefix("lowerdir="));
    let files = lower
        .unwrap()
        .split(':')
        .rev()
        .map(Path::new)
        .zip(["1", "2", "3"]);
    for (lower, text) in files {
        let file = lower.join(format!("file-{text}"));
        assert_eq!(std::fs::read_to_string(file).unwrap(), text);
    }
}

#[tokio::test]
async fn second_pull_costs_nothing() {
    let bench = Bench::new().await;
    let image = bench.shelf.put("r.io/a", &["1"]);
    let first = bench.pull(&image, 0, "").await.unwrap();
    let second = bench.pull(&image, 0, "").await.unwrap();
    assert_eq!(first, second);
    assert_eq!(bench.shelf.opened().len(), 1);
}

#[tokio::test]
async fn two_pulls_at_once_share_one_layer() {
    let bench = Bench::new().await;
    let image = bench.shelf.put("r.io/a", &["1"]);
    let gate = bench.shelf.hold(image.layers[0]);
    let both = async { tokio::join!(bench.pull(&image, 0, ""), bench.pull(&image, 0, "")) };
    let open = async {
        sleep(Duration::from_millis(100)).await;
        gate.add_permits(1);
    };
    let ((one, two), ()) = tokio::join!(both, open);
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(bench.shelf.opened().len(), 1);
}

#[tokio::test]
async fn refusal_to_one_image_fails_no_other_that_has_the_layer() {
    let bench = Bench::new().await;
    let theirs = bench.shelf.put("evil.io/a", &["1"]);
    let mine = bench.shelf.put("r.io/a", &["1"]);
    bench.shelf.deny(&theirs.name);
    // Theirs comes first, and mine waits for the same layer.
    let both = async { tokio::join!(bench.pull(&theirs, 0, ""), bench.pull(&mine, 0, "")) };
    let (theirs, mine) = both.await;
    assert!(is_ordinary(theirs));
    mine.unwrap();
    assert_eq!(bench.shelf.opened().len(), 2);
}

#[tokio::test]
async fn layer_that_lies_twice_in_an_image_is_made_twice() {
    let bench = Bench::new().await;
    let image = bench.shelf.put("r.io/a", &["1", "e", "2", "e"]);
    let mut parent = String::new();
    for position in 0..4 {
        parent = bench.pull(&image, position, &parent).await.unwrap();
    }
}

#[tokio::test]
async fn pull_without_names_finds_its_layers_in_the_index() {
    let bench = Bench::new().await;
    let image = bench.shelf.put("r.io/a", &["1", "2"]);
    let reference = BTreeMap::from([(
        "containerd.io/snapshot.ref".to_owned(),
        image.chains[0].to_string(),
    )]);
    let wish = || Bench::wish("k", "", reference.clone());
    bench.preparer.prepare(wish()).await.unwrap();
    bench.snapshots.remove("k").unwrap();
    bench.shelf.index(&image);
    let status = bench.preparer.prepare(wish()).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert_eq!(
        bench.find(&image, 0, ""),
        bench.pull(&image, 0, "").await.unwrap()
    );
}

#[tokio::test]
async fn all_that_may_be_the_layer_is_tried() {
    let bench = Bench::new().await;
    let wanted = bench.shelf.put("r.io/wanted", &["1"]);
    let called = |name: &str, texts: &[&str]| {
        let mut image = bench.shelf.put(name, texts);
        image.chains = wanted.chains.clone();
        image
    };
    // One that is lost, one that another repository denies, one with other files.
    let (lost, denied) = (called("r.io/lost", &["2"]), called("r.io/denied", &["3"]));
    let other = called("r.io/other", &["4"]);
    bench.shelf.lose(&lost.layers[0]);
    bench.shelf.deny(&denied.name);
    let reference = ("containerd.io/snapshot.ref", wanted.chains[0].to_string());
    let labels = BTreeMap::from([(reference.0.to_owned(), reference.1)]);
    for image in [&lost, &denied, &other] {
        bench.shelf.index(image);
    }
    let wish = |key| Bench::wish(key, "", labels.clone());
    let mounts = bench.preparer.prepare(wish("first")).await.unwrap();
    assert_eq!(mounts.len(), 1, "none of them is the layer");
    bench.shelf.index(&wanted);
    let status = bench.preparer.prepare(wish("second")).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(bench.snapshots.find_layer(&wanted.chains[0], "").is_some());
}

#[test]
fn namespace_is_what_a_key_begins_with() {
    for (key, namespace) in [
        ("k8s.io/12/extract-1-ab sha256:00", Some("k8s.io")),
        ("default/1/a/b", Some("default")),
        ("extract-1 sha256:00", None),
        ("a/b/c", None),
        ("/1/c", None),
        ("a/1", None),
    ] {
        let wish = Bench::wish(key, "", BTreeMap::new());
        assert_eq!(wish.namespace(), namespace, "{key}");
    }
}

#[tokio::test]
async fn layer_on_what_containerd_unpacked_itself_is_there_too() {
    let bench = Bench::new().await;
    let image = bench.shelf.put("r.io/a", &["1", "2"]);
    bench.snapshots.prepare("k", "", BTreeMap::new()).unwrap();
    let parent = format!("k8s.io/7/{}", image.chains[0]);
    bench
        .snapshots
        .commit(&parent, "k", BTreeMap::new())
        .unwrap();
    bench.pull(&image, 1, &parent).await.unwrap();
}

#[tokio::test]
async fn whatever_fails_is_left_to_containerd() {
    let bench = Bench::new().await;
    let lost = bench.shelf.put("r.io/lost", &["1"]);
    bench.shelf.lose(&lost.layers[0]);
    assert!(is_ordinary(bench.pull(&lost, 0, "").await));

    let mut other = bench.shelf.put("r.io/other", &["2"]);
    other.chains = bench.shelf.put("r.io/x", &["3"]).chains;
    assert!(is_ordinary(bench.pull(&other, 0, "").await));
    assert!(bench.snapshots.find_layer(&other.chains[0], "").is_none());

    let upper = bench.shelf.put("r.io/upper", &["4", "5"]);
    bench.snapshots.prepare("u", "", BTreeMap::new()).unwrap();
    bench
        .snapshots
        .commit("nameless", "u", BTreeMap::new())
        .unwrap();
    assert!(is_ordinary(bench.pull(&upper, 1, "nameless").await));
}

#[tokio::test]
async fn container_is_not_asked_about() {
    let bench = Bench::new().await;
    let wish = Bench::wish("c", "", BTreeMap::from([("a".to_owned(), "b".to_owned())]));
    bench.preparer.prepare(wish).await.unwrap();
    assert!(bench.shelf.opened().is_empty());
    assert_eq!(bench.containerd.questions(), 0);
}

#[tokio::test]
async fn no_patience_leaves_all_to_containerd() {
    let bench = Bench::with(FakeContainerd::start().await, Duration::ZERO);
    let image = bench.shelf.put("r.io/a", &["1"]);
    assert!(is_ordinary(bench.pull(&image, 0, "").await));
    assert!(bench.shelf.opened().is_empty());
}

#[tokio::test]
async fn waiting_ends_at_its_limit() {
    let bench = Bench::with(FakeContainerd::start().await, Duration::from_millis(300));
    let image = bench.shelf.put("r.io/a", &["1"]);
    bench.shelf.hold(image.layers[0]);
    let began = Instant::now();
    assert!(is_ordinary(bench.pull(&image, 0, "").await));
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn waiting_collection_is_let_through_and_the_layer_is_there_next_time() {
    let bench = Bench::new().await;
    let image = bench.shelf.put("r.io/a", &["1"]);
    let gate = bench.shelf.hold(image.layers[0]);
    let collect = async {
        sleep(Duration::from_millis(400)).await;
        let began = Instant::now();
        bench.containerd.collect(true);
        began
    };
    let (pulled, began) = tokio::join!(bench.pull(&image, 0, ""), collect);
    let stalled = began.elapsed();
    assert!(is_ordinary(pulled));
    // On a busy machine; a quiet one takes 100 to 200 ms.
    assert!(stalled < Duration::from_secs(2), "{stalled:?}");
    bench.containerd.collect(false);
    gate.add_permits(1);
    bench.pull(&image, 0, "").await.unwrap();
    assert_eq!(bench.shelf.opened().len(), 1);
}

#[tokio::test]
async fn stop_lets_all_go() {
    let bench = Bench::new().await;
    let image = bench.shelf.put("r.io/a", &["1"]);
    bench.shelf.hold(image.layers[0]);
    let stop = async {
        sleep(Duration::from_millis(100)).await;
        bench.preparer.stop.cancel();
    };
    let (pulled, ()) = tokio::join!(bench.pull(&image, 0, ""), stop);
    assert!(is_ordinary(pulled));
}

#[tokio::test]
async fn unknown_parent_is_an_error_as_ever() {
    let bench = Bench::new().await;
    let image = bench.shelf.put("r.io/a", &["1", "2"]);
    let wish = Bench::wish("k", "nowhere", image.labels(1));
    let status: Status = bench.preparer.prepare(wish).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
}
