//! Layers of a real node, before registries that do what a test says.

#[allow(dead_code, reason = "the daemon's tests use the rest of it")]
#[path = "../../tests/daemon/origin.rs"]
pub(crate) mod origin;
mod passwords;
mod promises;
mod resolving;

use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use hawker_config::NodeConfig;
use hawker_identity::{ClusterCa, Subject};
use hawker_model::{Digest, HostId, Role, TaskId};
use hawker_p2p::{Node, Verdict};
use hawker_snapshotter::{ChainId, DiffId, LayerSource, chain_ids};
use hawker_swarm::{Secret, Source};
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use self::origin::{Origin, Part, Reply, Seen, noise};
use super::{ImageIndex, ImageName, LayerError, Layers, NodeLayer};
use crate::{
    access::Access,
    content::ContentStore,
    metrics::Metrics,
    mirror::Mirror,
    promiser::Promiser,
    settings::{layers_settings, mirror_settings, node_settings, rights_settings},
};

/// ann:pw
const ANN: &str = "YW5uOnB3";

/// A node with a mirror before it, and what it gives the snapshotter.
pub(crate) struct Bed {
    mirror: Mirror,
    layers: Layers,
    images: ImageIndex,
    node: Node,
    dir: TempDir,
}

impl Bed {
    /// Beside `origin`, where Docker's file says `docker`.
    async fn start(origin: &Origin, docker: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), docker).unwrap();
        let text = settings(dir.path(), origin);
        Self::with(dir, &text).await
    }

    /// With these settings, in `dir`.
    async fn with(dir: TempDir, text: &str) -> Self {
        let config = NodeConfig::parse(text, Path::new("test.toml"), Some(Role::Node)).unwrap();
        let starting = Node::start(node_settings(&config).unwrap());
        let node = Box::pin(starting).await.unwrap();
        let patience = config.mirror.origin_timeout.duration();
        let metrics = Metrics::new();
        let access = Access::new(
            node.clone(),
            patience,
            rights_settings(&config),
            metrics.add_access(),
        );
        let layers = Layers::new(node.clone(), access, layers_settings(&config));
        let images = ImageIndex::new(layers.clone());
        let mirror = Mirror::new(
            node.clone(),
            layers.clone(),
            images.clone(),
            None,
            mirror_settings(&config),
            metrics.mirror,
        );
        Self {
            mirror,
            layers,
            images,
            node,
            dir,
        }
    }

    /// A client of the mirror asks.
    async fn ask(&self, method: Method, path: &str, credential: Option<&str>) -> (u16, Bytes) {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header("host", "127.0.0.1");
        if let Some(credential) = credential {
            request = request.header("authorization", credential);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let (head, body) = self.mirror.answer(request).await.into_parts();
        (
            head.status.as_u16(),
            body.collect().await.unwrap().to_bytes(),
        )
    }

    async fn get(&self, path: &str, credential: Option<&str>) -> (u16, Bytes) {
        self.ask(Method::GET, path, credential).await
    }

    /// A manifest that names the layer was given to somebody.
    fn saw(&self, image: &ImageName, layer: &Bytes) {
        self.layers.note_named(image, &[Digest::of(layer)]);
    }

    async fn read(&self, image: &ImageName, digest: Digest) -> Result<Bytes, String> {
        let layer = self.layers.open(image, digest).await;
        read(layer.map_err(|error| error.to_string())?).await
    }
}

impl Bed {
    /// A bed whose mirror promises what passes to containerd.
    async fn promising(origin: &Origin) -> (Self, ContentStore) {
        let mut bed = Self::start(origin, "").await;
        let content = ContentStore::open(
            bed.dir.path().join("content"),
            bed.node.clone(),
            bed.layers.clone(),
            bed.images.clone(),
        );
        let content = content.await.unwrap();
        let stop = CancellationToken::new();
        let promiser = Promiser::new(content.clone(), bed.images.clone(), stop);
        let text = settings(bed.dir.path(), origin);
        let config = NodeConfig::parse(&text, Path::new("test.toml"), Some(Role::Node)).unwrap();
        bed.mirror = Mirror::new(
            bed.node.clone(),
            bed.layers.clone(),
            bed.images.clone(),
            Some(promiser),
            mirror_settings(&config),
            Metrics::new().mirror,
        );
        (bed, content)
    }
}

/// An index beside a node that knows no registry, which ends with the directory.
pub(crate) async fn lone_index() -> (Bed, ImageIndex) {
    let origin = Origin::start(|_| Reply::status(404)).await;
    let bed = Bed::start(&origin, "").await;
    let images = bed.images.clone();
    (bed, images)
}

fn settings(dir: &Path, origin: &Origin) -> String {
    let (dir, registry) = (dir.display(), origin.address);
    format!(
        r#"
        [node]
        name = "tested"
        [store]
        dir = "{dir}/store"
        quota = ""
        [mirror]
        default_registry = "{registry}"
        allow_private = ["127.0.0.0/8"]
        origin_timeout = "10s"
        network_timeout = "10s"
        [origin]
        retries = 1
        [credentials]
        docker_config = "{dir}/config.json"
        "#
    )
}

/// All of a layer, as an unpacker reads it.
async fn read(mut layer: NodeLayer) -> Result<Bytes, String> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        loop {
            let bytes = layer.next().map_err(|error| error.to_string())?;
            if bytes.is_empty() {
                layer.prove().map_err(|error| error.to_string())?;
                return Ok(all.into());
            }
            all.extend_from_slice(&bytes);
        }
    });
    reading.await.unwrap()
}

/// An image of one layer per part, and what a registry gives for it.
struct Pushed {
    repository: &'static str,
    manifest: Bytes,
    config: Bytes,
    layers: Vec<Bytes>,
}

impl Pushed {
    fn new(repository: &'static str, layers: &[Bytes]) -> Self {
        let diff_ids: Vec<_> = layers
            .iter()
            .map(|layer| diff_id(layer).to_string())
            .collect();
        let config = json!({"rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string();
        let config = Bytes::from(config);
        let descriptor =
            |bytes: &Bytes| json!({"digest": Digest::of(bytes).to_string(), "size": bytes.len()});
        let mut of_config = descriptor(&config);
        of_config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        let of_layers: Vec<_> = layers.iter().map(descriptor).collect();
        let manifest = json!({"config": of_config, "layers": of_layers}).to_string();
        Self {
            repository,
            manifest: manifest.into(),
            config,
            layers: layers.to_vec(),
        }
    }

    /// An image of one layer.
    fn single(repository: &'static str, layer: &Bytes) -> Self {
        Self::new(repository, std::slice::from_ref(layer))
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    fn manifest_path(&self) -> String {
        format!("/v2/{}/manifests/{}", self.repository, self.digest())
    }

    fn blob_path(&self, bytes: &Bytes) -> String {
        format!("/v2/{}/blobs/{}", self.repository, Digest::of(bytes))
    }

    /// As containerd's labels name it.
    fn name(&self, origin: &Origin) -> ImageName {
        let text = format!("{}/{}:1", origin.address, self.repository);
        ImageName::parse(&text)
            .unwrap()
            .with_manifest(self.digest())
    }

    fn chains(&self) -> Vec<ChainId> {
        let ids: Vec<_> = self.layers.iter().map(diff_id).collect();
        chain_ids(&ids)
    }

    fn answer(&self, seen: &Seen) -> Option<Reply> {
        if seen.path == self.manifest_path() {
            return Some(Reply::bytes(self.manifest.clone()));
        }
        let blobs = self.layers.iter().chain([&self.config]);
        let mut blobs = blobs.filter(|blob| seen.path == self.blob_path(blob));
        blobs.next().map(|blob| Reply::file(seen, blob))
    }
}

/// Not what it would be; the registry's config says it.
fn diff_id(layer: &Bytes) -> DiffId {
    Digest::of(&[b"tar of ", &layer[..]].concat()).into()
}

/// A registry of images, each for those who show its credential.
async fn registry(images: Vec<(&'static str, Pushed)>) -> Origin {
    Origin::start(move |seen| {
        let answers = images.iter().filter_map(|(credential, image)| {
            let answer = image.answer(seen)?;
            Some((*credential, answer))
        });
        let shown = seen.header("authorization").unwrap_or_default();
        let mut of_nobody = Reply::status(404);
        for (credential, answer) in answers {
            if credential == shown {
                return answer;
            }
            of_nobody = Reply::status(401).with("www-authenticate", "Basic realm=\"r\"");
        }
        of_nobody
    })
    .await
}

fn shown(origin: &Origin, path: &str) -> Vec<Option<String>> {
    let seen = origin.seen().into_iter().filter(|seen| seen.path == path);
    seen.map(|seen| seen.header("authorization").map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn layer_comes_with_what_was_accepted_for_its_manifest() {
    let layer = noise(3 << 20, 1);
    let image = Pushed::single("team/app", &layer);
    let (manifest, blob) = (image.manifest_path(), image.blob_path(&layer));
    let copy = Pushed::single("team/app", &layer);
    let origin = registry(vec![("Bearer a", image)]).await;
    let bed = Bed::start(&origin, "").await;
    let name = copy.name(&origin);
    let refused = bed.read(&name, Digest::of(&layer)).await.unwrap_err();
    assert!(refused.contains("docker login"), "{refused}");
    assert_eq!(bed.get(&manifest, None).await.0, 401);
    assert!(bed.read(&name, Digest::of(&layer)).await.is_err());

    assert_eq!(bed.get(&manifest, Some("Bearer a")).await.0, 200);
    let read = bed.read(&name, Digest::of(&layer)).await;
    assert_eq!(read.unwrap(), layer);
    assert_eq!(
        shown(&origin, &blob).last().unwrap().as_deref(),
        Some("Bearer a")
    );
}

#[tokio::test]
async fn credential_of_one_tenant_is_never_used_for_another() {
    let layer = noise(200_000, 2);
    // The other names the layer in an image of its own, in its own repository and in the same one.
    let own = || Pushed::single("a/app", &layer);
    let foreign = || Pushed::single("b/app", &layer);
    let beside = || Pushed::new("a/app", &[noise(10, 3), layer.clone()]);
    let origin = registry(vec![
        ("Bearer a", own()),
        ("Bearer b", Pushed::new("b/app", &[noise(10, 4)])),
    ])
    .await;
    let bed = Bed::start(&origin, "").await;
    let digest = Digest::of(&layer);
    assert_eq!(
        bed.get(&own().manifest_path(), Some("Bearer a")).await.0,
        200
    );
    for other in [foreign(), beside()] {
        assert!(bed.read(&other.name(&origin), digest).await.is_err());
    }
    let of_b = Pushed::new("b/app", &[noise(10, 4)]);
    assert_eq!(
        bed.get(&of_b.manifest_path(), Some("Bearer b")).await.0,
        200
    );
    let named = foreign().name(&origin).with_manifest(of_b.digest());
    assert!(bed.read(&named, digest).await.is_err());
    let asked = origin.seen();
    let as_a = asked
        .iter()
        .filter(|s| s.header("authorization") == Some("Bearer a"));
    assert_eq!(as_a.count(), 1, "the manifest that a asked for");

    // Nor does the layer in the store change that.
    assert_eq!(bed.read(&own().name(&origin), digest).await.unwrap(), layer);
    assert!(bed.read(&named, digest).await.is_err());
    let b_in_a = own().name(&origin).with_manifest(beside().digest());
    assert!(bed.read(&b_in_a, digest).await.is_err());
}

#[tokio::test]
async fn children_of_an_index_come_with_what_was_accepted_for_it() {
    let layer = noise(100_000, 5);
    let image = Pushed::single("a", &layer);
    let index = json!({"manifests": [{"digest": image.digest().to_string()}]}).to_string();
    let (name, index) = (Pushed::single("a", &layer), Bytes::from(index));
    let content = index.clone();
    let origin = Origin::start(move |seen| match seen.header("authorization") {
        Some("Bearer a") if seen.path.ends_with("/manifests/t") => Reply::bytes(content.clone())
            .with("docker-content-digest", &Digest::of(&content).to_string()),
        Some("Bearer a") => image.answer(seen).unwrap_or_else(|| Reply::status(404)),
        _ => Reply::status(401),
    })
    .await;
    // A HEAD whose content nobody here knows; a GET; a HEAD of what is known by then.
    let asked = [Method::HEAD, Method::GET];
    for methods in [&asked[..1], &asked[1..], &asked[..]] {
        let bed = Bed::start(&origin, "").await;
        for method in methods {
            let (status, _) = bed
                .ask(method.clone(), "/v2/a/manifests/t", Some("Bearer a"))
                .await;
            assert_eq!(status, 200);
        }
        let name = name.name(&origin);
        assert_eq!(bed.read(&name, Digest::of(&layer)).await.unwrap(), layer);
    }
}

#[tokio::test]
async fn registry_that_wants_nothing_is_asked_for_nothing() {
    let layer = noise(100_000, 6);
    let image = Pushed::single("a", &layer);
    let origin = registry(vec![("", image)]).await;
    let docker = format!(r#"{{"auths":{{"{}":{{"auth":"{ANN}"}}}}}}"#, origin.address);
    let bed = Bed::start(&origin, &docker).await;
    let image = Pushed::single("a", &layer);
    assert_eq!(bed.get(&image.manifest_path(), None).await.0, 200);
    let name = image.name(&origin);
    assert_eq!(bed.read(&name, Digest::of(&layer)).await.unwrap(), layer);
    assert!(
        origin
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
    let missing = bed.layers.open(&name, Digest::of(b"missing")).await;
    assert!(
        matches!(missing, Err(LayerError::NotFound(_))),
        "{missing:?}"
    );
}

/// Takes ann's login in exchange for the token that is good now; the token `good` opens all.
async fn with_tokens(good: Arc<Mutex<String>>, image: Pushed, cut_first: usize) -> Origin {
    let address = Arc::new(Mutex::new(String::new()));
    let (realm, cut) = (Arc::clone(&address), Mutex::new(cut_first));
    let origin = Origin::start(move |seen| {
        let token = good.lock().unwrap().clone();
        if seen.path.starts_with("/token") {
            return match seen.header("authorization") == Some(&format!("Basic {ANN}")) {
                true => Reply::bytes(format!(r#"{{"token":"{token}","expires_in":300}}"#)),
                false => Reply::status(401),
            };
        }
        if seen.header("authorization") != Some(&format!("Bearer {token}")) {
            let realm = format!(r#"Bearer realm="http://{}/token""#, realm.lock().unwrap());
            return Reply::status(401).with("www-authenticate", &realm);
        }
        let cut = match seen.method == Method::GET && seen.path.contains("/blobs/") {
            true => std::mem::take(&mut *cut.lock().unwrap()),
            false => 0,
        };
        if cut == 0 {
            return image.answer(seen).unwrap_or_else(|| Reply::status(404));
        }
        // From here on another token is the good one.
        *good.lock().unwrap() = "t2".to_owned();
        let layer = &image.layers[0];
        Reply::parts(
            layer.len(),
            vec![Part::Bytes(layer.slice(..cut)), Part::Cut],
        )
        .with("etag", "\"1\"")
    })
    .await;
    *address.lock().unwrap() = origin.address.to_string();
    origin
}

#[tokio::test]
async fn login_of_docker_buys_a_token_where_the_mirror_saw_nothing() {
    let layer = noise(300_000, 7);
    let good = Arc::new(Mutex::new("t1".to_owned()));
    let origin = with_tokens(good, Pushed::single("a", &layer), 0).await;
    let name = Pushed::single("a", &layer).name(&origin);
    let docker = format!(r#"{{"auths":{{"{}":{{"auth":"{ANN}"}}}}}}"#, origin.address);
    let bed = Bed::start(&origin, &docker).await;
    bed.saw(&name, &layer);
    assert_eq!(bed.read(&name, Digest::of(&layer)).await.unwrap(), layer);
    let blobs = origin
        .seen()
        .into_iter()
        .filter(|seen| seen.path.contains("/blobs/"));
    let basic = |seen: &Seen| {
        seen.header("authorization")
            .is_some_and(|a| a.contains("Basic"))
    };
    assert_eq!(
        blobs.filter(basic).count(),
        0,
        "the registry sees tokens only"
    );
    // Who logs out has no right any more, though the layer is in the store.
    fs::write(bed.dir.path().join("config.json"), "{}").unwrap();
    assert!(bed.read(&name, Digest::of(&layer)).await.is_err());
}

#[tokio::test]
async fn labels_that_name_a_private_layer_get_no_account_of_the_node() {
    let layer = noise(300_000, 60);
    let image = || Pushed::single("a", &layer);
    let good = Arc::new(Mutex::new("t1".to_owned()));
    let origin = with_tokens(good, image(), 0).await;
    let docker = format!(r#"{{"auths":{{"{}":{{"auth":"{ANN}"}}}}}}"#, origin.address);
    let bed = Bed::start(&origin, &docker).await;
    let name = image().name(&origin);
    let other = ImageName::parse(&format!("{}/b", origin.address)).unwrap();
    // Manifests of other repositories, or that name other layers, prove nothing.
    bed.saw(&other, &layer);
    bed.saw(&name, &noise(10, 61));
    for named in [name.clone(), other.with_manifest(image().digest())] {
        let refused = bed.read(&named, Digest::of(&layer)).await;
        assert!(refused.is_err(), "{named}");
    }
    let unnamed = ImageName {
        manifest: None,
        ..name.clone()
    };
    assert!(bed.read(&unnamed, Digest::of(&layer)).await.is_err());
    let path = image().blob_path(&layer);
    let asked = origin.seen();
    let of_layer = asked.iter().filter(|seen| seen.path == path);
    let mut shown = of_layer.map(|seen| seen.header("authorization"));
    assert!(shown.all(|shown| shown.is_none()), "{asked:?}");
    bed.saw(&name, &layer);
    assert_eq!(bed.read(&name, Digest::of(&layer)).await.unwrap(), layer);
}

#[tokio::test]
async fn credential_that_was_refused_half_way_is_renewed_for_the_same_place_alone() {
    let layer = noise(300_000, 62);
    let image = || Pushed::single("a", &layer);
    let good = Arc::new(Mutex::new("t1".to_owned()));
    let origin = with_tokens(Arc::clone(&good), image(), 0).await;
    let bed = Bed::start(&origin, "").await;
    let task = TaskId::Blob(Digest::of(&layer));
    let manifest = image().manifest_path();
    assert_eq!(bed.get(&manifest, Some("Bearer t1")).await.0, 200);
    let blob = image().blob_path(&layer);
    assert_eq!(bed.get(&blob, Some("Bearer t1")).await.0, 200);
    let refused = Source {
        url: format!("http://{}{blob}", origin.address),
        authorization: Some(Secret::new("Bearer t1")),
    };
    *good.lock().unwrap() = "t2".to_owned();
    assert_eq!(
        bed.layers.renew(task, &refused).await,
        None,
        "nothing newer"
    );
    assert_eq!(bed.get(&manifest, Some("Bearer t2")).await.0, 200);
    let renewed = bed.layers.renew(task, &refused).await.unwrap();
    assert_eq!(renewed.authorization, Some(Secret::new("Bearer t2")));
    assert_eq!(renewed.url, refused.url);
    // What was not handed out from here is nobody's.
    let strange = Source {
        url: refused.url.clone(),
        authorization: Some(Secret::new("Bearer x")),
    };
    assert_eq!(bed.layers.renew(task, &strange).await, None);
}

#[tokio::test]
async fn token_of_an_account_is_renewed_by_the_account() {
    let layer = noise(300_000, 63);
    let image = || Pushed::single("a", &layer);
    let good = Arc::new(Mutex::new("t1".to_owned()));
    let origin = with_tokens(Arc::clone(&good), image(), 0).await;
    let docker = format!(r#"{{"auths":{{"{}":{{"auth":"{ANN}"}}}}}}"#, origin.address);
    let bed = Bed::start(&origin, &docker).await;
    let name = image().name(&origin);
    bed.saw(&name, &layer);
    assert_eq!(bed.read(&name, Digest::of(&layer)).await.unwrap(), layer);
    let refused = Source {
        url: format!("http://{}{}", origin.address, image().blob_path(&layer)),
        authorization: Some(Secret::new("Bearer t1")),
    };
    *good.lock().unwrap() = "t2".to_owned();
    let task = TaskId::Blob(Digest::of(&layer));
    let renewed = bed.layers.renew(task, &refused).await.unwrap();
    assert_eq!(renewed.authorization, Some(Secret::new("Bearer t2")));
}

#[tokio::test]
async fn seed_judges_by_the_credential_shown_alone() {
    let layer = noise(300_000, 64);
    let image = || Pushed::single("a", &layer);
    let origin = registry(vec![("Bearer a", image())]).await;
    let bed = Bed::start(&origin, "").await;
    let access = bed.layers.access();
    let task = TaskId::Blob(Digest::of(&layer));
    let source = |shown: Option<&str>| Source {
        url: format!("http://{}{}", origin.address, image().blob_path(&layer)),
        authorization: shown.map(Secret::new),
    };
    let judge = async |shown| access.judge(task, &source(shown)).await;
    let granted = |held| Verdict::Granted {
        length: Some(300_000),
        held,
    };
    assert_eq!(
        judge(Some("Bearer a")).await,
        granted(false),
        "nothing is here yet"
    );
    assert!(matches!(
        judge(None).await,
        Verdict::Denied { status: 401, .. }
    ));
    assert!(matches!(
        judge(Some("Bearer b")).await,
        Verdict::Denied { .. }
    ));
    let asked = origin.seen().len();
    for _ in 0..20 {
        assert_eq!(judge(Some("Bearer a")).await, granted(false));
    }
    assert_eq!(
        origin.seen().len(),
        asked,
        "asked once for all who show the same"
    );
    assert_eq!(
        bed.get(&image().blob_path(&layer), Some("Bearer a"))
            .await
            .0,
        200
    );
    while bed.node.find(task).await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(judge(Some("Bearer a")).await, granted(true));
    // A registry that merely says so.
    let wrong = noise(300_000, 65);
    let foreign = Origin::start(move |seen| Reply::file(seen, &wrong)).await;
    let elsewhere = Source {
        url: format!("http://{}{}", foreign.address, image().blob_path(&layer)),
        authorization: None,
    };
    assert_eq!(access.judge(task, &elsewhere).await, granted(false));
    let other = TaskId::Blob(Digest::of(b"other"));
    assert!(matches!(
        access.judge(other, &source(None)).await,
        Verdict::Failed(_)
    ));
}

#[tokio::test]
async fn seed_does_not_judge_where_a_header_or_certificate_of_its_own_is_shown() {
    let layer = noise(300_000, 66);
    let all = layer.clone();
    let origin = Origin::start(move |seen| match seen.header("x-key") {
        Some("ours") => Reply::file(seen, &all),
        _ => Reply::status(401),
    })
    .await;
    let (dir, certs_d) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let task = TaskId::Blob(Digest::of(&layer));
    let path = Pushed::single("a", &layer).blob_path(&layer);
    let write = |registry: &str, file: &str, text: &str| {
        let registry = certs_d.path().join(registry);
        fs::create_dir_all(&registry).unwrap();
        fs::write(registry.join(file), text).unwrap();
    };
    let name = origin.address.to_string();
    write(&name, "hosts.toml", "[header]\nx-key = \"ours\"\n");
    let authority = ClusterCa::create("lab", 2).unwrap();
    let subject = Subject {
        host: HostId::parse("seed").unwrap(),
        role: Role::Seed,
        names: Vec::new(),
    };
    let issued = authority.issue(&subject, 1).unwrap();
    write("tls.example", "client.cert", &issued.cert_pem);
    write("tls.example", "client.key", &issued.key_pem);
    let text = settings(dir.path(), &origin);
    let list = format!("[origin]\ncerts_d = [{:?}]", certs_d.path());
    let bed = Bed::with(dir, &text.replace("[origin]", &list)).await;

    // To readers of this host it is open, as it is to containerd's.
    assert_eq!(bed.get(&path, None).await, (200, layer));
    while bed.node.find(task).await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let asked = origin.seen().len();
    for place in [format!("http://{name}"), "https://tls.example".to_owned()] {
        for shown in [None, Some("Bearer bad"), Some("Basic eDp5")] {
            let source = Source {
                url: format!("{place}{path}"),
                authorization: shown.map(Secret::new),
            };
            let verdict = bed.layers.access().judge(task, &source).await;
            let reason = "the seed has a login, header or client certificate of its own there";
            assert_eq!(verdict, Verdict::Failed(reason.to_owned()), "{place}");
        }
    }
    assert_eq!(origin.seen().len(), asked);
}

#[tokio::test]
async fn refused_token_is_forgotten_and_the_next_credential_tried() {
    let layer = noise(300_000, 8);
    let good = Arc::new(Mutex::new("t1".to_owned()));
    let origin = with_tokens(Arc::clone(&good), Pushed::single("a", &layer), 0).await;
    let image = Pushed::single("a", &layer);
    let docker = format!(r#"{{"auths":{{"{}":{{"auth":"{ANN}"}}}}}}"#, origin.address);
    let bed = Bed::start(&origin, &docker).await;
    assert_eq!(
        bed.get(&image.manifest_path(), Some("Bearer t1")).await.0,
        200
    );
    *good.lock().unwrap() = "t2".to_owned();
    let name = image.name(&origin);
    let path = image.blob_path(&layer);
    let stale = || {
        let asked = shown(&origin, &path).into_iter();
        asked.filter(|a| a.as_deref() == Some("Bearer t1")).count()
    };
    assert_eq!(bed.read(&name, Digest::of(&layer)).await.unwrap(), layer);
    let shown_at_first = stale();
    assert_eq!(bed.read(&name, Digest::of(&layer)).await.unwrap(), layer);
    assert_eq!(stale(), shown_at_first);
}

#[tokio::test]
async fn token_that_expires_in_the_middle_of_a_layer_is_replaced() {
    let layer = noise(4 << 20, 9);
    let good = Arc::new(Mutex::new("t1".to_owned()));
    let origin = with_tokens(good, Pushed::single("a", &layer), 1 << 20).await;
    let image = Pushed::single("a", &layer);
    let docker = format!(r#"{{"auths":{{"{}":{{"auth":"{ANN}"}}}}}}"#, origin.address);
    let bed = Bed::start(&origin, &docker).await;
    assert_eq!(
        bed.get(&image.manifest_path(), Some("Bearer t1")).await.0,
        200
    );
    let read = bed.read(&image.name(&origin), Digest::of(&layer)).await;
    assert_eq!(read.unwrap(), layer);
    let last = shown(&origin, &image.blob_path(&layer)).pop().unwrap();
    assert_eq!(last.as_deref(), Some("Bearer t2"));
}

#[tokio::test]
async fn redirect_to_a_store_does_not_carry_the_credential() {
    let layer = noise(300_000, 10);
    let content = layer.clone();
    let store = Origin::start(move |seen| Reply::file(seen, &content)).await;
    let image = Pushed::single("a", &layer);
    let to = format!("http://{}/signed", store.address);
    let origin = Origin::start(move |seen| match seen.header("authorization") {
        Some("Basic YW5uOnB3" | "Bearer a") if seen.path.contains("/blobs/") => {
            Reply::status(307).with("location", &to)
        }
        Some(_) => image.answer(seen).unwrap_or_else(|| Reply::status(404)),
        None => Reply::status(401).with("www-authenticate", "Basic realm=\"r\""),
    })
    .await;
    let docker = format!(r#"{{"auths":{{"{}":{{"auth":"{ANN}"}}}}}}"#, origin.address);
    let image = Pushed::single("a", &layer);
    for credential in [Some("Bearer a"), None] {
        let bed = Bed::start(&origin, &docker).await;
        match credential {
            Some(_) => assert_eq!(bed.get(&image.manifest_path(), credential).await.0, 200),
            None => bed.saw(&image.name(&origin), &layer),
        }
        let read = bed.read(&image.name(&origin), Digest::of(&layer)).await;
        assert_eq!(read.unwrap(), layer);
    }
    assert!(!store.seen().is_empty());
    assert!(
        store
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

#[tokio::test]
async fn waiting_reader_is_stopped_from_elsewhere() {
    let layer = noise(4 << 20, 11);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (content, held) = (layer.clone(), Arc::clone(&gate));
    let origin = Origin::start(move |_| {
        let parts = vec![
            Part::Bytes(content.slice(..1 << 20)),
            Part::Wait(Arc::clone(&held)),
        ];
        Reply::parts(content.len(), parts).with("etag", "\"1\"")
    })
    .await;
    let bed = Bed::start(&origin, "").await;
    let name = Pushed::single("a", &layer).name(&origin);
    let opened = bed.layers.open(&name, Digest::of(&layer)).await.unwrap();
    let stop = opened.stopper();
    let reading = tokio::spawn(read(opened));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!reading.is_finished());
    stop.cancel();
    let error = reading.await.unwrap().unwrap_err();
    assert!(error.contains("stopped"), "{error}");
}

#[tokio::test]
async fn wrong_bytes_are_never_proven() {
    let layer = noise(300_000, 12);
    let wrong = noise(300_000, 13);
    let origin = Origin::start(move |seen| Reply::file(seen, &wrong)).await;
    let bed = Bed::start(&origin, "").await;
    let name = Pushed::single("a", &layer).name(&origin);
    assert!(bed.read(&name, Digest::of(&layer)).await.is_err());
}

#[tokio::test]
async fn stack_is_found_from_the_manifest_that_passed_the_mirror() {
    let layers: Vec<_> = (0..4).map(|i| noise(1000, 20 + i)).collect();
    let image = Pushed::new("a", &layers);
    let (manifest, config) = (image.manifest_path(), image.blob_path(&image.config));
    let (chains, digest) = (image.chains(), image.digest());
    let origin = registry(vec![("Bearer a", image)]).await;
    let bed = Bed::start(&origin, "").await;
    assert_eq!(bed.images.find(&chains[0]).await, []);
    for path in [&manifest, &config] {
        assert_eq!(bed.get(path, Some("Bearer a")).await.0, 200);
    }
    let asked = origin.seen().len();
    for (position, chain) in chains.iter().enumerate() {
        let found = bed.images.find(chain).await.remove(0);
        let above: Vec<_> = layers[position..].iter().map(|l| Digest::of(l)).collect();
        assert_eq!(found.layers, above);
        assert_eq!(found.image.manifest, Some(digest));
        assert_eq!(found.image.repository.as_str(), "a");
    }
    assert_eq!(origin.seen().len(), asked, "the config is in the store");
    assert_eq!(bed.images.find(&ChainId::from(digest)).await, []);
}

#[tokio::test]
async fn newest_manifest_answers_and_an_unread_config_is_fetched() {
    let base = noise(1000, 30);
    let first = || Pushed::new("a", &[base.clone(), noise(1000, 31)]);
    let second = || Pushed::new("b", &[base.clone(), noise(1000, 32)]);
    let origin = registry(vec![("", first()), ("Bearer b", second())]).await;
    let bed = Bed::start(&origin, "").await;
    let chain = first().chains()[0];
    for (image, credential) in [
        (first(), None),
        (second(), Some("Bearer b")),
        (first(), None),
    ] {
        assert_eq!(bed.get(&image.manifest_path(), credential).await.0, 200);
        let found = bed.images.find(&chain).await.remove(0);
        assert_eq!(found.image, image.name(&origin));
    }
}

#[tokio::test]
async fn stack_is_found_after_a_restart() {
    let image = Pushed::new("a", &[noise(1000, 60), noise(1000, 61)]);
    let (manifest, chains) = (image.manifest_path(), image.chains());
    let name = |origin: &Origin| Pushed::new("a", &[noise(1000, 60), noise(1000, 61)]).name(origin);
    let origin = registry(vec![("", image)]).await;
    let dir = tempfile::tempdir().unwrap();
    let mut bed = Bed::start(&origin, "").await;
    bed.images = ImageIndex::open(dir.path(), bed.layers.clone());
    let (code, bytes) = bed.get(&manifest, None).await;
    assert_eq!(code, 200);
    bed.images.note(&name(&origin), Some(&bytes));
    assert_eq!(bed.images.find(&chains[1]).await.len(), 1);
    let stop = CancellationToken::new();
    stop.cancel();
    bed.images.clone().keep(stop).await;
    bed.images = ImageIndex::new(bed.layers.clone());
    // Beside a registry that is gone.
    let other = Bed::start(&Origin::start(|_| Reply::status(404)).await, "").await;
    let again = ImageIndex::open(dir.path(), other.layers.clone());
    let found = again.find(&chains[1]).await.remove(0);
    assert_eq!(found.image, name(&origin));
    assert_eq!(found.layers, [Digest::of(&noise(1000, 61))]);
}

#[tokio::test]
async fn layer_that_is_here_comes_before_the_newest() {
    let (old, new) = (noise(1000, 62), noise(1000, 63));
    // The same stack in other blobs.
    let first = Pushed::new("old", std::slice::from_ref(&old));
    let mut second = Pushed::new("new", &[new]);
    let text = String::from_utf8(second.manifest.to_vec()).unwrap();
    let config = Digest::of(&first.config).to_string();
    let text = text.replace(&Digest::of(&second.config).to_string(), &config);
    second.manifest = text.into();
    second.config = first.config.clone();
    let chain = first.chains()[0];
    let (layer, paths) = (
        first.blob_path(&old),
        [first.manifest_path(), second.manifest_path()],
    );
    let origin = registry(vec![("", first), ("", second)]).await;
    let bed = Bed::start(&origin, "").await;
    for path in &paths {
        assert_eq!(bed.get(path, None).await.0, 200);
    }
    let names = |found: Vec<super::FoundLayer>| -> Vec<String> {
        let name = |found: super::FoundLayer| found.image.repository.to_string();
        found.into_iter().map(name).collect()
    };
    assert_eq!(names(bed.images.find(&chain).await), ["new", "old"]);
    assert_eq!(bed.get(&layer, None).await.0, 200);
    assert_eq!(names(bed.images.find(&chain).await), ["old", "new"]);
}

#[tokio::test]
async fn content_that_containerd_commits_is_known_and_its_place_follows() {
    let image = Pushed::new("a", &[noise(1000, 64), noise(1000, 65)]);
    let (_bed, images) = lone_index().await;
    let (manifest, config) = (Digest::of(&image.manifest), Digest::of(&image.config));
    images.note_content(config, &image.config, &[]);
    images.note_content(manifest, &image.manifest, &[]);
    images.note_content(Digest::of(b"x"), b"x", &[]);
    let [below, above] = [64, 65].map(|seed| Digest::of(&noise(1000, seed)));
    assert_eq!(images.above(&below), Some((manifest, vec![above])));
    assert_eq!(
        images.find(&image.chains()[0]).await,
        [],
        "nobody could be asked"
    );
    assert!(!images.knows(&manifest, &config));
    let place = ImageName::parse("r.io/a").unwrap();
    images.note_content(manifest, &image.manifest, std::slice::from_ref(&place));
    assert!(images.knows(&manifest, &config));
    let found = images.find(&image.chains()[0]).await.remove(0);
    assert_eq!(found.image, place.with_manifest(manifest));
    assert_eq!(found.layers, [below, above]);
    let story = images.story(&above).unwrap();
    assert_eq!(story.images, [found.image]);
    assert_eq!(story.diff_id, Some(diff_id(&image.layers[1])));
}

#[tokio::test]
async fn large_manifests_push_out_older_ones() {
    let origin = registry(Vec::new()).await;
    let bed = Bed::start(&origin, "").await;
    let name = |i: u32| {
        let name = ImageName::parse("r.io/a").unwrap();
        name.with_manifest(Digest::of(&i.to_le_bytes()))
    };
    let layer = json!({"digest": Digest::of(b"layer").to_string()});
    let media_type = "application/vnd.oci.image.config.v1+json";
    let config = json!({"mediaType": media_type, "digest": Digest::of(b"config").to_string()});
    let manifest = json!({"config": config, "layers": vec![layer; 1000]}).to_string();
    for i in 0..70 {
        bed.images.note(&name(i), Some(manifest.as_bytes()));
    }
    // What is not known stands for manifests that are not known either.
    let is_known = |i: &u32| !bed.images.note(&name(*i), None).contains(&None);
    let known: Vec<_> = (0..70).filter(is_known).collect();
    assert_eq!(known, Vec::from_iter(5..70), "65,536 layers");
}

#[tokio::test]
async fn images_that_are_not_sound_are_not_found() {
    let layer = noise(1000, 40);
    let mut more = Pushed::new("more", &[layer.clone(), noise(10, 41)]);
    // Its config tells of one layer, the manifest of two.
    let one = Pushed::single("one", &layer);
    let text = String::from_utf8(more.manifest.to_vec()).unwrap();
    let (two, single) = (Digest::of(&more.config), Digest::of(&one.config));
    more.manifest = text.replace(&two.to_string(), &single.to_string()).into();
    more.config = one.config.clone();
    let empty = Pushed::new("empty", &[]);
    let mut none = Pushed::single("none", &layer);
    let text = String::from_utf8(none.manifest.to_vec()).unwrap();
    let odd = Bytes::from_static(b"[]");
    let (was, is) = (Digest::of(&none.config), Digest::of(&odd));
    none.manifest = text.replace(&was.to_string(), &is.to_string()).into();
    none.config = odd;
    let paths = [
        more.manifest_path(),
        empty.manifest_path(),
        none.manifest_path(),
    ];
    let chain = one.chains()[0];
    let origin = registry(vec![("", more), ("", empty), ("", none)]).await;
    let bed = Bed::start(&origin, "").await;
    for path in &paths {
        assert_eq!(bed.get(path, None).await.0, 200);
    }
    for _ in 0..2 {
        assert_eq!(bed.images.find(&chain).await, []);
    }
    let asked = origin
        .seen()
        .into_iter()
        .filter(|s| s.path.contains("/blobs/"));
    assert!(asked.count() <= 6, "a config is read once");
}

#[tokio::test]
async fn config_that_cannot_be_had_is_asked_for_a_few_times_only() {
    let image = Pushed::new("a", &[noise(1000, 50)]);
    let (manifest, chain) = (image.manifest_path(), image.chains()[0]);
    let origin = Origin::start(move |seen| match seen.path.contains("/blobs/") {
        true => Reply::status(403),
        false => image.answer(seen).unwrap(),
    })
    .await;
    let bed = Bed::start(&origin, "").await;
    assert_eq!(bed.get(&manifest, None).await.0, 200);
    for _ in 0..10 {
        assert_eq!(bed.images.find(&chain).await, []);
    }
    let asked = origin
        .seen()
        .into_iter()
        .filter(|s| s.path.contains("/blobs/"));
    assert!(asked.count() <= 6);
}

/// A log that a test reads.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_log_line_and_no_error_holds_a_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let layer = noise(300_000, 14);
    let good = Arc::new(Mutex::new("hush-t1".to_owned()));
    let origin = with_tokens(Arc::clone(&good), Pushed::single("a", &layer), 0).await;
    let docker = format!(r#"{{"auths":{{"{}":{{"auth":"{ANN}"}}}}}}"#, origin.address);
    let bed = Bed::start(&origin, &docker).await;
    let image = Pushed::single("a", &layer);
    let (name, digest) = (image.name(&origin), Digest::of(&layer));
    let errors = [
        bed.get(&image.manifest_path(), Some("Bearer hush-t1"))
            .await
            .0
            .to_string(),
        bed.read(&name, digest)
            .await
            .map_or_else(|e| e, |_| String::new()),
        {
            *good.lock().unwrap() = "hush-t2".to_owned();
            bed.read(&name, Digest::of(b"hush")).await.unwrap_err()
        },
        format!("{:?} {:?}", bed.layers, bed.images),
        format!("{:?}", Secret::new("hush")),
    ];
    bed.node.shutdown().await;
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(!log.is_empty());
    for secret in ["hush", ANN, "ann:pw"] {
        assert!(!log.contains(secret), "{secret} is in the log");
        assert!(
            errors.iter().all(|text| !text.contains(secret)),
            "{errors:?}"
        );
    }
}
