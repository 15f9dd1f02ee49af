use std::{
    num::NonZero,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hawker_snapshotter::{LayerKind, Limits, Snapshots};
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{StageError, Stager, StagerSettings, Tickets};
use crate::{
    containerd::{
        doubles::{Image, Shelf, snapshots},
        metrics::SnapshotMetrics,
    },
    control::LayerState,
};

const LINGER_UNDER_WAY: Duration = Duration::from_millis(200);
const LINGER_DONE: Duration = Duration::from_millis(400);

struct Bench {
    shelf: Arc<Shelf>,
    stager: Stager,
    snapshots: Snapshots,
    stop: CancellationToken,
    dir: TempDir,
}

impl Bench {
    /// Unpacks one layer at a time, and opens two of an image.
    fn new() -> Self {
        Self::with_open(64)
    }

    /// The same, with so many places for layers that are open.
    fn with_open(open: usize) -> Self {
        let (dir, snapshots) = snapshots();
        let shelf = Arc::new(Shelf::default());
        let stop = CancellationToken::new();
        let settings = StagerSettings {
            limits: Limits::default(),
            unpacks: NonZero::new(1),
            open,
            linger_under_way: LINGER_UNDER_WAY,
            linger_done: LINGER_DONE,
        };
        let metrics = SnapshotMetrics::new();
        let supply = Arc::clone(&shelf);
        let stager = Stager::new(snapshots.clone(), supply, settings, metrics, stop.clone());
        Self {
            shelf,
            stager,
            snapshots,
            stop,
            dir,
        }
    }

    fn ask(&self, image: &Image, position: usize) -> Tickets {
        let kind = match position {
            0 => LayerKind::Base,
            _ => LayerKind::Upper,
        };
        self.stager.ask(&image.from(position), kind).unwrap()
    }

    async fn commit(&self, tickets: &Tickets, image: &Image) -> bool {
        let reference = image.chains[0];
        let labels = image.labels(0);
        let committed = tickets.first.commit(reference, String::new(), labels);
        committed.await.unwrap()
    }

    /// How far the layer at `position` is.
    fn state(&self, image: &Image, position: usize) -> Option<LayerState> {
        let digest = image.layers[position];
        let report = self.stager.report();
        let found = report.iter().find(|layer| layer.digest == digest);
        found.map(|layer| layer.state)
    }

    async fn reaches(&self, image: &Image, position: usize, state: Option<LayerState>) {
        while self.state(image, position) != state {
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn stages(&self) -> usize {
        let staging = self.dir.path().join("staging");
        std::fs::read_dir(staging).map_or(0, Iterator::count)
    }
}

#[tokio::test]
async fn layers_take_their_turns_from_the_bottom() {
    let bench = Bench::new();
    let image = bench.shelf.put("r.io/a", &["1", "2", "3", "4"]);
    let gate = bench.shelf.hold(image.layers[0]);
    let tickets = bench.ask(&image, 0);
    bench.reaches(&image, 0, Some(LayerState::Unpacking)).await;
    bench.reaches(&image, 1, Some(LayerState::Waiting)).await;
    // Two are open, and no more.
    assert_eq!(bench.shelf.opened(), image.layers[..2]);
    assert_eq!(bench.state(&image, 2), Some(LayerState::Queued));
    gate.add_permits(1);
    tickets.first.staged().await.unwrap();
    bench.reaches(&image, 3, Some(LayerState::Staged)).await;
    assert_eq!(bench.shelf.opened(), image.layers);
}

#[tokio::test]
async fn one_layer_is_opened_once_for_all_who_wait() {
    let bench = Bench::new();
    let image = bench.shelf.put("r.io/a", &["1"]);
    let gate = bench.shelf.hold(image.layers[0]);
    let (one, two) = (bench.ask(&image, 0), bench.ask(&image, 0));
    gate.add_permits(1);
    let found = tokio::join!(one.first.staged(), two.first.staged());
    assert_eq!(found.0.unwrap(), found.1.unwrap());
    assert_eq!(bench.shelf.opened().len(), 1);
    // The files are for one; the other finds the snapshot.
    assert!(bench.commit(&one, &image).await);
    assert!(!bench.commit(&two, &image).await);
    assert!(bench.snapshots.find_layer(&image.chains[0], "").is_some());
}

#[tokio::test]
async fn bottom_and_upper_kind_of_one_layer_are_two() {
    let bench = Bench::new();
    let image = bench.shelf.put("r.io/a", &["1"]);
    let wanted = image.from(0);
    let base = bench.stager.ask(&wanted, LayerKind::Base).unwrap();
    let upper = bench.stager.ask(&wanted, LayerKind::Upper).unwrap();
    base.first.staged().await.unwrap();
    upper.first.staged().await.unwrap();
    assert_eq!(bench.shelf.opened().len(), 2);
}

#[tokio::test]
async fn pull_that_is_tried_again_goes_on_where_it_was() {
    let bench = Bench::new();
    let image = bench.shelf.put("r.io/a", &["1"]);
    let gate = bench.shelf.hold(image.layers[0]);
    drop(bench.ask(&image, 0));
    sleep(LINGER_UNDER_WAY / 4).await;
    let again = bench.ask(&image, 0);
    sleep(LINGER_UNDER_WAY * 3).await;
    gate.add_permits(1);
    again.first.staged().await.unwrap();
    assert_eq!(bench.shelf.opened().len(), 1);
}

#[tokio::test]
async fn what_nobody_wants_any_more_ends_and_leaves_nothing() {
    let bench = Bench::new();
    let image = bench.shelf.put("r.io/a", &["1", "2", "3"]);
    bench.shelf.hold(image.layers[0]);
    let tickets = bench.ask(&image, 0);
    while bench.stages() != 1 {
        sleep(Duration::from_millis(5)).await;
    }
    drop(tickets);
    for position in 0..3 {
        bench.reaches(&image, position, None).await;
    }
    while bench.stages() > 0 {
        sleep(Duration::from_millis(5)).await;
    }
    // The threads are free again.
    let other = bench.shelf.put("r.io/b", &["4"]);
    bench.ask(&other, 0).first.staged().await.unwrap();
}

#[tokio::test]
async fn files_that_nobody_comes_for_are_dropped() {
    let bench = Bench::new();
    let image = bench.shelf.put("r.io/a", &["1", "2"]);
    let tickets = bench.ask(&image, 0);
    bench.reaches(&image, 1, Some(LayerState::Staged)).await;
    sleep(LINGER_DONE * 2).await;
    assert_eq!(bench.state(&image, 1), Some(LayerState::Staged));
    drop(tickets);
    sleep(LINGER_DONE / 4).await;
    assert_eq!(bench.state(&image, 1), Some(LayerState::Staged));
    bench.reaches(&image, 1, None).await;
    while bench.stages() > 0 {
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn layer_is_tried_once_per_pull_and_again_by_the_next() {
    let bench = Bench::new();
    let image = bench.shelf.put("r.io/a", &["1", "2"]);
    bench.shelf.lose(&image.layers[1]);
    let first = bench.ask(&image, 0);
    first.first.staged().await.unwrap();
    bench.reaches(&image, 1, Some(LayerState::Failed)).await;
    drop(first);
    for opened in [2, 3] {
        let tickets = bench.ask(&image, 1);
        let error = tickets.first.staged().await.unwrap_err();
        assert!(error.to_string().contains("it is lost"), "{error}");
        assert_eq!(bench.shelf.opened().len(), opened);
    }
}

#[tokio::test]
async fn all_who_wait_for_a_layer_are_told_that_it_failed() {
    let bench = Bench::new();
    let image = bench.shelf.put("r.io/a", &["1"]);
    bench.shelf.lose(&image.layers[0]);
    let (one, two) = (bench.ask(&image, 0), bench.ask(&image, 0));
    one.first.staged().await.unwrap_err();
    let error = two.first.staged().await.unwrap_err();
    assert!(matches!(*error, StageError::Open(_)), "{error}");
    assert_eq!(bench.shelf.opened().len(), 1);
}

#[tokio::test]
async fn registry_that_hangs_holds_up_its_own_layers_only() {
    let bench = Bench::new();
    let hanging = bench.shelf.put("hangs.io/a", &["1", "2", "3", "4"]);
    let gates: Vec<_> = hanging
        .layers
        .iter()
        .map(|layer| bench.shelf.hold(*layer))
        .collect();
    let stuck = bench.ask(&hanging, 0);
    bench.reaches(&hanging, 1, Some(LayerState::Waiting)).await;
    let image = bench.shelf.put("r.io/b", &["5", "6"]);
    let tickets = bench.ask(&image, 0);
    let patience = Duration::from_secs(10);
    let staged = tokio::time::timeout(patience, tickets.first.staged());
    staged.await.unwrap().unwrap();
    // It is not lost itself.
    for gate in gates {
        gate.add_permits(1);
    }
    stuck.first.staged().await.unwrap();
    bench.reaches(&hanging, 3, Some(LayerState::Staged)).await;
}

#[tokio::test]
async fn where_places_starve_further_layers_are_left_to_containerd() {
    let bench = Bench::with_open(2);
    let hanging = bench.shelf.put("hangs.io/a", &["1", "2"]);
    for layer in &hanging.layers {
        bench.shelf.hold(*layer);
    }
    let stuck = bench.ask(&hanging, 0);
    bench.reaches(&hanging, 1, Some(LayerState::Waiting)).await;
    let image = bench.shelf.put("r.io/b", &["3"]);
    let tickets = bench.ask(&image, 0);
    let patience = Duration::from_secs(10);
    let staged = tokio::time::timeout(patience, tickets.first.staged());
    let error = staged.await.unwrap().unwrap_err();
    assert!(matches!(*error, StageError::Full), "{error}");
    // As soon as they end there is place again.
    drop((stuck, tickets));
    bench.reaches(&hanging, 0, None).await;
    bench.reaches(&hanging, 1, None).await;
    bench.ask(&image, 0).first.staged().await.unwrap();
    let (open, starving) = (&bench.stager.0.open, &bench.stager.0.starving);
    while (open.available_permits(), starving.load(Ordering::Relaxed)) != (2, 0) {
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn whoever_shares_a_layer_must_be_granted_it() {
    let bench = Bench::new();
    let image = bench.shelf.put("r.io/a", &["1"]);
    let theirs = bench.shelf.put("evil.io/a", &["1"]);
    bench.shelf.deny(&theirs.name);
    let mine = bench.ask(&image, 0);
    let shared = bench.ask(&theirs, 0);
    mine.first.staged().await.unwrap();
    let error = shared.first.staged().await.unwrap_err();
    assert!(error.to_string().contains("not yours"), "{error}");
    // Nothing is lost for the first.
    assert!(bench.commit(&mine, &image).await);
}

#[tokio::test]
async fn stop_ends_everything() {
    let bench = Bench::new();
    let image = bench.shelf.put("r.io/a", &["1", "2", "3"]);
    bench.shelf.hold(image.layers[0]);
    let tickets = bench.ask(&image, 0);
    bench.reaches(&image, 0, Some(LayerState::Unpacking)).await;
    bench.stop.cancel();
    bench.stager.ended().await;
    tickets.first.staged().await.unwrap_err();
    assert!(bench.stager.ask(&image.from(0), LayerKind::Base).is_err());
}
