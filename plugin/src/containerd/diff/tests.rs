//! The service as containerd calls it: on real directories, beside containerd's own differ.

mod differ;
#[path = "../../../../snapshotter/tests/layer/mod.rs"]
mod layer;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use containerd_client::{
    services::v1::ApplyRequest,
    types::{Descriptor, Mount},
};
use hawker_model::Digest;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use self::layer::{Item, describe, gzip, tar, zstd};
use super::{DiffMetrics, DiffService, metrics::How};
use crate::containerd::{
    client::ContainerdClient,
    doubles::{Image, Shelf, snapshots},
    metrics::SnapshotMetrics,
    stager::{Stager, StagerSettings},
};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

struct Bench {
    shelf: Arc<Shelf>,
    service: DiffService,
    dir: TempDir,
}

impl Bench {
    /// Beside a containerd that is not there.
    fn new() -> Self {
        Self::beside(Path::new("/nowhere/containerd.sock"))
    }

    fn beside(containerd: &Path) -> Self {
        let (dir, snapshots) = snapshots();
        let shelf = Arc::new(Shelf::default());
        let settings = StagerSettings {
            linger_done: Duration::from_secs(600),
            ..StagerSettings::default()
        };
        let stager = Stager::new(
            snapshots.clone(),
            Arc::clone(&shelf) as _,
            settings,
            SnapshotMetrics::new(),
            CancellationToken::new(),
        );
        let service = DiffService::new(
            snapshots,
            Arc::clone(&shelf) as _,
            stager,
            ContainerdClient::new(containerd),
            DiffMetrics::new(),
        );
        Self {
            shelf,
            service,
            dir,
        }
    }

    /// An image that containerd has in its content store.
    fn commit(&self, blobs: Vec<Vec<u8>>) -> Image {
        let blobs = blobs.into_iter().map(Bytes::from).collect();
        let image = self.shelf.put_blobs("r.io/a", blobs);
        self.shelf.commit(&image);
        image
    }

    /// An empty directory on the snapshots' file system, as a snapshotter makes it.
    fn place(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join("other").join(name).join("fs");
        fs::create_dir_all(&path).unwrap();
        path
    }

    async fn apply(&self, request: ApplyRequest) -> Result<Descriptor, Status> {
        let applied = self.service.answer(Request::new(request)).await?;
        Ok(applied.applied.unwrap())
    }

    fn count(&self, how: How) -> u64 {
        self.service.metrics.count(how)
    }
}

fn request(media_type: &str, layer: Digest, mount: Mount) -> ApplyRequest {
    ApplyRequest {
        diff: Some(Descriptor {
            media_type: media_type.to_owned(),
            digest: layer.to_string(),
            size: 0,
            annotations: HashMap::new(),
        }),
        mounts: vec![mount],
        payloads: HashMap::new(),
        sync_fs: false,
    }
}

fn bind(path: &Path) -> Mount {
    Mount {
        r#type: "bind".to_owned(),
        source: path.display().to_string(),
        target: String::new(),
        options: vec!["rw".to_owned(), "rbind".to_owned()],
    }
}

fn overlay(upper: &Path, lowers: &[&Path]) -> Mount {
    let lowers: Vec<_> = lowers
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let work = upper.with_file_name("work");
    Mount {
        r#type: "overlay".to_owned(),
        source: "overlay".to_owned(),
        target: String::new(),
        options: vec![
            "index=off".to_owned(),
            format!("workdir={}", work.display()),
            format!("upperdir={}", upper.display()),
            format!("lowerdir={}", lowers.join(":")),
        ],
    }
}

fn one_file(text: &str) -> Vec<u8> {
    tar(&[Item::file(text, text)])
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_all_forms_fill_directories() {
    let bench = Bench::new();
    let tar = one_file("f");
    for (media_type, blob) in [
        (GZIP, gzip(&tar)),
        (ZSTD, zstd(&tar)),
        (PLAIN, tar.clone()),
        (DOCKER, gzip(&tar)),
        // What the type says of the compression does not count, as with containerd.
        (GZIP, tar.clone()),
        (ZSTD, gzip(&tar)),
    ] {
        let image = bench.commit(vec![blob.clone()]);
        let place = bench.place(&format!("{media_type}-{}", blob.len()).replace('/', "-"));
        let applied = bench.apply(request(media_type, image.layers[0], bind(&place)));
        let applied = applied.await.unwrap();
        assert_eq!(fs::read_to_string(place.join("f")).unwrap(), "f");
        assert_eq!(applied.media_type, PLAIN);
        assert_eq!(applied.digest, Digest::of(&tar).to_string());
        assert_eq!(applied.size, i64::try_from(tar.len()).unwrap());
    }
    assert_eq!(bench.count(How::Moved), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn whiteouts_hide_what_is_below_once_the_overlay_is_mounted() {
    let bench = Bench::new();
    let lower = tar(&[
        Item::file("gone", ""),
        Item::dir("d"),
        Item::file("d/old", ""),
    ]);
    let upper = tar(&[
        Item::file(".wh.gone", ""),
        Item::dir("d"),
        Item::file("d/.wh..wh..opq", ""),
        Item::file("d/new", ""),
    ]);
    let image = bench.commit(vec![lower, upper]);
    let [below, above] = ["1", "2"].map(|name| bench.place(name));
    let [bottom, top] = [image.layers[0], image.layers[1]];
    let mount = overlay(&above, &[&below]);
    bench
        .apply(request(PLAIN, bottom, bind(&below)))
        .await
        .unwrap();
    bench
        .apply(request(PLAIN, top, mount.clone()))
        .await
        .unwrap();
    let mounted = Mounted::new(bench.dir.path(), &above, &mount);
    let names: Vec<_> = describe(&mounted.0)
        .iter()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["d", "d/new"]);
}

/// An overlay, mounted.
struct Mounted(PathBuf);

impl Mounted {
    fn new(dir: &Path, upper: &Path, mount: &Mount) -> Self {
        let point = dir.join("mounted");
        fs::create_dir(&point).unwrap();
        fs::create_dir(upper.with_file_name("work")).unwrap();
        let options = mount.options.join(",");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(
            Some("overlay"),
            &point,
            Some("overlay"),
            flags,
            Some(options.as_str()),
        )
        .unwrap();
        Self(point)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_above_are_staged_meanwhile_and_taken_over() {
    let bench = Bench::new();
    let image = bench.commit(vec![one_file("a"), one_file("b"), one_file("c")]);
    let places: Vec<_> = (0..3).map(|at| bench.place(&at.to_string())).collect();
    bench
        .apply(request(PLAIN, image.layers[0], bind(&places[0])))
        .await
        .unwrap();
    let all_staged = async {
        while bench.shelf.opened().len() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all_staged)
        .await
        .expect("what lies above is not asked for");
    for at in 1..3 {
        let mount = overlay(&places[at], &[&places[at - 1]]);
        bench
            .apply(request(PLAIN, image.layers[at], mount))
            .await
            .unwrap();
    }
    assert_eq!(bench.shelf.opened().len(), 3, "each layer is read once");
    assert!(places[2].join("c").exists());
    assert_eq!(bench.count(How::Moved), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_layer_for_several_snapshots_is_in_each() {
    let bench = Bench::new();
    let image = bench.commit(vec![one_file("a")]);
    let places: Vec<_> = (0..3).map(|at| bench.place(&at.to_string())).collect();
    let applies = places
        .iter()
        .map(|place| bench.apply(request(PLAIN, image.layers[0], bind(place))));
    for applied in futures::future::join_all(applies).await {
        applied.unwrap();
    }
    assert!(places.iter().all(|place| place.join("a").exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_on_another_file_system_is_filled_on_the_spot() {
    let bench = Bench::new();
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let image = bench.commit(vec![gzip(&one_file("a"))]);
    bench
        .apply(request(GZIP, image.layers[0], bind(memory.path())))
        .await
        .unwrap();
    assert!(memory.path().join("a").exists());
    assert_eq!(
        (bench.count(How::Moved), bench.count(How::Unpacked)),
        (0, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_layer_leaves_nothing_and_is_the_next_differs() {
    let bench = Bench::new();
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let twice = tar(&[Item::file("a", "1"), Item::dir("d"), Item::file("a", "2")]);
    let image = bench.commit(vec![gzip(&twice)]);
    for place in [bench.place("1"), memory.path().to_owned()] {
        let refused = bench.apply(request(GZIP, image.layers[0], bind(&place)));
        let refused = refused.await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
        assert!(refused.message().contains("twice"), "{refused}");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    }
    assert_eq!(bench.count(How::Left), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_containerds_differ_would_not_decompress_is_left_to_it() {
    let bench = Bench::new();
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let image = bench.commit(vec![gzip(&one_file("a"))]);
    for place in [bench.place("1"), memory.path().to_owned()] {
        let left = bench.apply(request(PLAIN, image.layers[0], bind(&place)));
        assert_eq!(left.await.unwrap_err().code(), Code::Unimplemented);
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filled_unseen_and_unknown_places_are_the_next_differs() {
    let bench = Bench::new();
    let image = bench.commit(vec![one_file("a")]);
    let filled = bench.place("filled");
    fs::write(filled.join("before"), "").unwrap();
    for path in [filled.as_path(), Path::new("/nowhere/fs")] {
        let left = bench.apply(request(PLAIN, image.layers[0], bind(path)));
        assert_eq!(left.await.unwrap_err().code(), Code::Unimplemented);
    }
    let names: Vec<_> = fs::read_dir(&filled).unwrap().collect();
    assert_eq!(names.len(), 1, "what was there is untouched");
    let unknown = Digest::of(b"of a content store of containerd's own");
    let left = bench.apply(request(PLAIN, unknown, bind(&bench.place("2"))));
    assert_eq!(left.await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn layer_that_cannot_be_had_now_can_be_applied_later() {
    let bench = Bench::new();
    let blob = one_file("a");
    let image = bench.commit(vec![blob.clone()]);
    bench.shelf.lose(&image.layers[0]);
    let place = bench.place("1");
    let order = || request(PLAIN, image.layers[0], bind(&place));
    let error = bench.apply(order()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    bench.shelf.put_blobs("r.io/a", vec![blob.into()]);
    bench.apply(order()).await.unwrap();
    assert!(place.join("a").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn layer_that_is_cut_leaves_nothing() {
    let bench = Bench::new();
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut blob = gzip(&tar(&[Item::file("a", vec![7; 100_000])]));
    blob.truncate(blob.len() / 2);
    let image = bench.commit(vec![blob]);
    for place in [bench.place("1"), memory.path().to_owned()] {
        let cut = bench.apply(request(GZIP, image.layers[0], bind(&place)));
        assert_eq!(cut.await.unwrap_err().code(), Code::Unimplemented);
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layer_whose_bytes_stop_holds_up_no_other() {
    let bench = Bench::new();
    let image = bench.commit(vec![one_file("a"), one_file("b")]);
    let gate = bench.shelf.hold(image.layers[0]);
    let [slow, quick] = ["1", "2"].map(|name| bench.place(name));
    let waiting = bench.apply(request(PLAIN, image.layers[0], bind(&slow)));
    let going = bench.apply(request(PLAIN, image.layers[1], bind(&quick)));
    tokio::select! {
        biased;
        _ = waiting => panic!("its bytes have not come"),
        done = going => drop(done.unwrap()),
    }
    assert!(quick.join("b").exists());
    gate.add_permits(1);
    bench
        .apply(request(PLAIN, image.layers[0], bind(&slow)))
        .await
        .unwrap();
    assert!(slow.join("a").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn sync_is_done_where_it_is_asked_for() {
    let bench = Bench::new();
    let image = bench.commit(vec![one_file("a")]);
    let mut order = request(PLAIN, image.layers[0], bind(&bench.place("1")));
    order.sync_fs = true;
    bench.apply(order).await.unwrap();
}

#[tokio::test]
async fn diffs_are_made_by_containerd() {
    use crate::containerd::api::DiffApi as _;
    let bench = Bench::new();
    let refused = bench.service.diff(Request::new(<_>::default())).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
}
