//! Manifests that one seed asks a registry for, for all hosts of a cluster.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures::future::join_all;
use hawker_config::NodeConfig;
use hawker_identity::{ClusterCa, Identity, Subject, TlsFiles, TlsPem};
use hawker_model::{Digest, HostId, Role};
use hawker_p2p::{
    GivenManifest, Node, NodeRequest, NodeSettings, OriginConfig, Resolution, Security, StoreConfig,
};
use hawker_plugin::App;
use hawker_swarm::SwarmConfig;
use http::Method;
use tempfile::TempDir;

use crate::{
    client::{Answer, fetch, get},
    daemon::settings,
    origin::{Origin, Reply, Seen},
};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

/// The manifest that a tag names: another one for each tag.
fn manifest(tag: &str) -> Bytes {
    format!(r#"{{"mediaType":"{OCI}","layers":[],"annotations":{{"tag":"{tag}"}}}}"#).into()
}

fn digest_path(repository: &str, manifest: &[u8]) -> String {
    format!("/v2/{repository}/manifests/{}", Digest::of(manifest))
}

/// What a registry of the tags v0 to v19 answers.
fn answer(seen: &Seen) -> Reply {
    let (_, wanted) = seen.path.rsplit_once('/').unwrap();
    let tags = (0..20).map(|number| format!("v{number}"));
    let named = tags.map(|tag| (manifest(&tag), tag));
    let mut named =
        named.filter(|(bytes, tag)| wanted == tag || wanted == Digest::of(bytes).to_string());
    named.next().map_or_else(
        || Reply::status(404),
        |(bytes, _)| {
            let digest = Digest::of(&bytes).to_string();
            Reply::bytes(bytes)
                .with("content-type", OCI)
                .with("docker-content-digest", &digest)
        },
    )
}

/// Open for all, but for the repository `private`, which wants some token; nobody gets one here.
async fn registry() -> Origin {
    Origin::start(|seen| {
        if seen.path.starts_with("/token") {
            return Reply::status(401);
        }
        let shown = seen.header("authorization").unwrap_or_default();
        let is_open = !seen.path.starts_with("/v2/private/");
        if is_open || shown.starts_with("Bearer t") {
            return answer(seen);
        }
        let here = seen.header("host").unwrap();
        let challenge = format!("Bearer realm=\"http://{here}/token\",service=\"r\"");
        Reply::status(401).with("www-authenticate", &challenge)
    })
    .await
}

/// A cluster with an authority and a seed.
struct Lab {
    ca: ClusterCa,
    dir: TempDir,
    seed: SocketAddr,
    registry: SocketAddr,
    /// Questions that a lying seed has heard.
    heard: Arc<AtomicUsize>,
    /// How long it thinks about each.
    thinks: Duration,
}

/// A daemon of it.
struct Host {
    app: App,
}

/// An address that nobody else takes before its listener does: no other process or test uses this part
/// of the loopback network.
fn address_of_its_own() -> SocketAddr {
    static TAKEN: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = process::id().to_be_bytes();
    let ip = [127, high | 128, low, TAKEN.fetch_add(1, Ordering::Relaxed)];
    let free = TcpListener::bind(SocketAddr::from((ip, 0))).unwrap();
    free.local_addr().unwrap()
}

impl Lab {
    fn new(registry: &Origin) -> Self {
        Self {
            ca: ClusterCa::create("lab", 1).unwrap(),
            dir: tempfile::tempdir().unwrap(),
            seed: address_of_its_own(),
            registry: registry.address,
            heard: Arc::default(),
            thinks: Duration::ZERO,
        }
    }

    fn issue(&self, name: &str, role: Role) -> (String, String) {
        let subject = Subject {
            host: HostId::parse(name).unwrap(),
            role,
            names: Vec::new(),
        };
        let issued = self.ca.issue(&subject, 1).unwrap();
        (issued.cert_pem, issued.key_pem)
    }

    async fn host(&self, name: &str, role: Role, change: impl FnOnce(String) -> String) -> Host {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        let (cert, key) = self.issue(name, role);
        for (file, text) in [("ca", self.ca.cert_pem()), ("cert", &cert), ("key", &key)] {
            fs::write(dir.join(file), text).unwrap();
        }
        let mut text = settings(&dir, self.registry);
        text = text.replace("\"tested\"", &format!("{name:?}"));
        let listen = match role {
            Role::Seed => self.seed,
            _ => "127.0.0.1:0".parse().unwrap(),
        };
        let at = |file: &str| dir.join(file).display().to_string();
        text += &format!(
            "[tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n[p2p]\nlisten = \"{listen}\"\n",
            at("ca"),
            at("cert"),
            at("key"),
        );
        if role == Role::Node {
            text += &format!(
                "[[p2p.seeds]]\nname = \"seed\"\naddress = \"{}\"\n",
                self.seed
            );
        }
        let config = NodeConfig::parse(&change(text), Path::new("test.toml"), Some(role)).unwrap();
        let app = Box::pin(App::start(&config)).await.unwrap();
        Host { app }
    }

    /// One that keeps what a tag names for as long as may be: so long does a busy machine take.
    async fn seed(&self) -> Host {
        let change = |text: String| text.replace("[mirror]", "[mirror]\nkeep_tags = \"15s\"");
        self.host("seed", Role::Seed, change).await
    }

    async fn node(&self, name: &str) -> Host {
        self.host(name, Role::Node, |text| text).await
    }

    async fn nodes(&self, count: usize) -> Vec<Host> {
        let mut nodes = Vec::new();
        for number in 0..count {
            nodes.push(self.node(&format!("node-{number}")).await);
        }
        nodes
    }

    /// A member with a seed's certificate that says this of every manifest; `None`: nothing, ever.
    async fn lying_seed(&self, says: Option<Resolution>) -> Node {
        let (cert, key) = self.issue("seed", Role::Seed);
        let pem = TlsPem {
            ca: self.ca.cert_pem().as_bytes(),
            cert: cert.as_bytes(),
            key: key.as_bytes(),
        };
        let files = TlsFiles {
            ca: "ca".into(),
            cert: "cert".into(),
            key: "key".into(),
            crl: "crl".into(),
        };
        let own = Identity::from_pem(pem, &files, SystemTime::now()).unwrap();
        let host = HostId::parse("seed").unwrap();
        let seed = Node::start(NodeSettings {
            swarm: SwarmConfig::new(host.clone(), Role::Seed),
            host,
            role: Role::Seed,
            security: Security::Tls(Arc::new(own)),
            peer_listen: Some(self.seed),
            advertise: vec![],
            zone: String::new(),
            schedulers: vec![],
            seeds: vec![],
            store_dir: self.dir.path().join("liar"),
            store: StoreConfig::default(),
            origin: OriginConfig::default(),
        });
        let seed = seed.await.unwrap();
        let mut requests = seed.requests().unwrap();
        let (heard, thinks) = (Arc::clone(&self.heard), self.thinks);
        tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Some(request) = requests.recv().await {
                heard.fetch_add(1, Ordering::Relaxed);
                match (request, says.clone()) {
                    (NodeRequest::Resolve { reply, .. }, Some(says)) => {
                        tokio::time::sleep(thinks).await;
                        let _ = reply.send(says);
                    }
                    (request, _) => unanswered.push(request),
                }
            }
        });
        seed
    }
}

impl Host {
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        fetch(self.app.mirror_addresses()[0], method, path, headers).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[]).await
    }

    /// Manifests that this host asked for beyond itself, and got from there.
    async fn told_by(&self, whom: &str) -> u64 {
        let address = self.app.metrics_address().unwrap();
        let text = get(address, "/metrics").await.body.unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        let name = format!("hawker_mirror_manifests_total{{by=\"{whom}\"}} ");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(&name));
        lines.next().map_or(0, |count| count.parse().unwrap())
    }

    /// Asks for ever new tags until a seed tells: on a busy machine its sign of life may be late.
    async fn wait_for_seed(&self) {
        for number in 0..20 {
            self.ask("HEAD", &format!("/v2/warm/manifests/v{number}"), &[])
                .await;
            if self.told_by("seed").await > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        panic!("no seed tells anything");
    }
}

/// Asks once for each host, at the same moment.
async fn all_ask(
    hosts: &[Host],
    method: &str,
    path: &str,
    shows: impl Fn(usize) -> String,
) -> Vec<Answer> {
    let asking = hosts.iter().enumerate().map(|(number, host)| {
        let shown = shows(number);
        async move {
            let headers = [("authorization", shown.as_str()), ("accept", OCI)];
            host.ask(method, path, &headers).await
        }
    });
    join_all(asking).await
}

async fn went_by_themselves(hosts: &[Host]) -> u64 {
    let counts = hosts.iter().map(|host| host.told_by("origin"));
    join_all(counts).await.into_iter().sum()
}

/// All hosts pull a tag as containerd does, again with another one while a seed is too late for one of
/// them. Returns the tag of a round in which it was not.
async fn pull(hosts: &[Host], repository: &str, shows: impl Fn(usize) -> String) -> String {
    for number in 0..20 {
        let tag = format!("v{number}");
        let (bytes, before) = (manifest(&tag), went_by_themselves(hosts).await);
        let path = format!("/v2/{repository}/manifests/{tag}");
        for told in all_ask(hosts, "HEAD", &path, &shows).await {
            let digest = Digest::of(&bytes).to_string();
            assert_eq!(told.status, 200);
            assert_eq!(told.header("docker-content-digest"), Some(digest.as_str()));
            assert_eq!(told.header("content-type"), Some(OCI));
            let length = bytes.len().to_string();
            assert_eq!(told.header("content-length"), Some(length.as_str()));
        }
        let path = digest_path(repository, &bytes);
        for given in all_ask(hosts, "GET", &path, &shows).await {
            assert_eq!((given.status, given.body), (200, Some(bytes.clone())));
        }
        if went_by_themselves(hosts).await == before {
            return tag;
        }
    }
    panic!("the seed was never in time for all");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_hosts_that_pull_one_image_cost_its_registry_one_question_of_each_kind() {
    let registry = registry().await;
    let lab = Lab::new(&registry);
    let _seed = lab.seed().await;
    let nodes = lab.nodes(5).await;
    let tag = pull(&nodes, "private", |_| "Bearer t".to_owned()).await;
    let path = format!("/v2/private/manifests/{tag}");
    let by_digest = digest_path("private", &manifest(&tag));
    let shown = |seen: &Seen| seen.header("authorization").is_some();
    let asked: Vec<_> = registry.seen().into_iter().filter(shown).collect();
    for (method, path) in [(Method::HEAD, path), (Method::GET, by_digest)] {
        let asked = asked
            .iter()
            .filter(|s| s.method == method && s.path == path);
        assert_eq!(asked.count(), 1, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_with_tokens_of_their_own_share_what_is_for_everybody_and_nothing_else() {
    let registry = registry().await;
    let lab = Lab::new(&registry);
    let _seed = lab.seed().await;
    let nodes = lab.nodes(3).await;
    let shows = |number| format!("Bearer t{number}");
    let tag = pull(&nodes, "public", shows).await;
    let path = format!("/v2/public/manifests/{tag}");
    let by_digest = digest_path("public", &manifest(&tag));
    assert_eq!(registry.count(Method::HEAD, &path), 1);
    assert_eq!(registry.count(Method::GET, &by_digest), 1);

    let tag = pull(&nodes, "private", shows).await;
    let path = format!("/v2/private/manifests/{tag}");
    assert!(registry.count(Method::HEAD, &path) >= nodes.len());
    let seen = registry.seen();
    let of_nobody = seen.iter().filter(|seen| {
        seen.path.starts_with("/v2/private/") && seen.header("authorization").is_none()
    });
    assert_eq!(of_nobody.count(), 1, "it is known now not to be public");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_the_registrys_own_word_to_the_client() {
    let registry = registry().await;
    let lab = Lab::new(&registry);
    let _seed = lab.seed().await;
    let node = lab.node("node").await;
    node.wait_for_seed().await;
    for shown in ["Bearer bad", "Basic YW5uOnB3"] {
        let headers = [("authorization", shown), ("user-agent", "client/1")];
        let path = "/v2/private/manifests/v0";
        let refused = node.ask("GET", path, &headers).await;
        assert_eq!(refused.status, 401);
        assert!(
            refused
                .header("www-authenticate")
                .unwrap()
                .starts_with("Bearer realm")
        );
        let seen = registry.seen();
        let last = seen.last().unwrap();
        assert_eq!(last.header("user-agent"), Some("client/1"));
        let asked = seen
            .iter()
            .filter(|seen| seen.header("authorization") == Some(shown));
        match shown {
            // A password is shown to the registry alone.
            "Basic YW5uOnB3" => assert_eq!(asked.count(), 1),
            _ => assert!(asked.count() >= 1),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_asks_under_conditions_goes_to_the_registry() {
    let registry = registry().await;
    let lab = Lab::new(&registry);
    let _seed = lab.seed().await;
    let node = lab.node("node").await;
    node.wait_for_seed().await;
    let path = "/v2/a/manifests/v0";
    for condition in [("if-none-match", "\"x\""), ("range", "bytes=0-1")] {
        let before = registry.seen().len();
        node.ask("GET", path, &[condition, ("user-agent", "client/1")])
            .await;
        let seen = registry.seen();
        let asked: Vec<_> = seen[before..]
            .iter()
            .map(|s| s.header("user-agent"))
            .collect();
        assert_eq!(asked, [Some("client/1")], "{condition:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_the_registrys_word_where_seeds_are_not_believed() {
    let registry = registry().await;
    let lab = Lab::new(&registry);
    let lie = manifest("rolled back");
    let said = GivenManifest {
        digest: Digest::of(&lie),
        media_type: OCI.to_owned(),
        length: lie.len() as u64,
        bytes: Some(lie.clone()),
    };
    let _seed = lab.lying_seed(Some(Resolution::Given(said))).await;
    let believing = lab.node("believing").await;
    believing.wait_for_seed().await;
    let change = |text: String| text.replace("[mirror]", "[mirror]\ntags_from_seeds = false");
    let wary = lab.host("wary", Role::Node, change).await;
    let path = "/v2/a/manifests/v0";
    for _ in 0..3 {
        assert_eq!(wary.get(path).await.body, Some(manifest("v0")));
    }
    assert_eq!(
        (wary.told_by("seed").await, wary.told_by("origin").await),
        (0, 3)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_seed_gives_no_wrong_manifest_and_stops_no_pull() {
    let (wanted, other) = (manifest("v0"), manifest("v1"));
    let right = GivenManifest {
        digest: Digest::of(&wanted),
        media_type: OCI.to_owned(),
        length: wanted.len() as u64,
        bytes: Some(wanted.clone()),
    };
    let another = GivenManifest {
        digest: Digest::of(&other),
        bytes: Some(other.clone()),
        ..right.clone()
    };
    let false_bytes = GivenManifest {
        digest: Digest::of(&wanted),
        ..another.clone()
    };
    let false_type = GivenManifest {
        media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
        ..right.clone()
    };
    let given = |manifest| Some(Resolution::Given(manifest));
    let denied = Resolution::Denied {
        status: 401,
        challenges: vec!["Basic realm=\"phish\"".to_owned()],
    };
    for says in [
        given(another),
        given(false_bytes),
        given(false_type),
        Some(denied),
        Some(Resolution::NotFound),
        Some(Resolution::Failed("no".to_owned())),
        None,
    ] {
        let registry = registry().await;
        let lab = Lab::new(&registry);
        let _seed = lab.lying_seed(says.clone()).await;
        let node = lab.node("node").await;
        let asked = Instant::now();
        let got = node.get(&digest_path("a", &wanted)).await;
        assert_eq!(
            (got.status, got.body),
            (200, Some(wanted.clone())),
            "{says:?}"
        );
        assert_eq!(got.headers["content-type"], OCI);
        // A second at most for one that is silent after it has heard; no judgement is waited for.
        assert!(asked.elapsed() < Duration::from_secs(20), "{says:?}");
        assert_eq!(node.told_by("origin").await, 1, "{says:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_that_hears_and_hangs_holds_up_a_question_or_two_and_not_all() {
    let registry = registry().await;
    let lab = Lab::new(&registry);
    let _seed = lab.lying_seed(None).await;
    let node = lab.node("node").await;
    let heard = || lab.heard.load(Ordering::Relaxed);
    // On a busy machine the seed is late with its sign of life, or the registry as slow as the seed.
    for asked in 0.. {
        if heard() > 0 {
            break;
        }
        assert!(asked < 100, "the seed is never asked");
        node.get("/v2/a/manifests/v0").await;
    }
    let before = heard();
    for number in 0..20 {
        let wanted = manifest(&format!("v{number}"));
        let got = node.get(&digest_path("a", &wanted)).await;
        assert_eq!((got.status, got.body), (200, Some(wanted)));
    }
    assert!(heard() - before <= 5, "{} of 20", heard() - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_seed_that_is_there_the_registry_is_asked_at_once() {
    let registry = registry().await;
    let lab = Lab::new(&registry);
    let node = lab.node("node").await;
    for _ in 0..3 {
        let got = node.get("/v2/a/manifests/v0").await;
        assert_eq!(got.body, Some(manifest("v0")));
    }
    assert_eq!(registry.count(Method::GET, "/v2/a/manifests/v0"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seeds_yes_counts_no_more_once_the_registry_has_refused_meanwhile() {
    let registry = Origin::start(|_| Reply::status(401)).await;
    let mut lab = Lab::new(&registry);
    lab.thinks = Duration::from_millis(500);
    let bytes = manifest("v0");
    let old_yes = Resolution::Given(GivenManifest {
        digest: Digest::of(&bytes),
        media_type: OCI.to_owned(),
        length: bytes.len() as u64,
        bytes: Some(bytes.clone()),
    });
    let _seed = lab.lying_seed(Some(old_yes)).await;
    let node = lab.node("node").await;
    let path = digest_path("a", &bytes);
    let token = ("authorization", "Bearer t");
    let meanwhile = async {
        for _ in 0..50 {
            if lab.heard.load(Ordering::Relaxed) > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Under a condition the registry itself is asked.
        let headers = [token, ("if-none-match", "\"x\"")];
        node.ask("GET", "/v2/a/manifests/v1", &headers).await
    };
    let headers = [token];
    let (given, refused) = tokio::join!(node.ask("GET", &path, &headers), meanwhile);
    assert_eq!((given.status, refused.status), (401, 401));
    assert_eq!(node.ask("GET", &path, &headers).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_remembers_nothing_asks_the_registry_each_time_and_no_seed() {
    let registry = registry().await;
    let lab = Lab::new(&registry);
    let _seed = lab.seed().await;
    let believing = lab.node("believing").await;
    believing.wait_for_seed().await;
    let change = |text: String| text.replace("[mirror]", "[mirror]\nkeep_rights = \"0s\"");
    let strict = lab.host("strict", Role::Node, change).await;
    let path = digest_path("a", &manifest("v0"));
    for _ in 0..3 {
        assert_eq!(strict.get(&path).await.status, 200);
    }
    let told = (strict.told_by("seed").await, strict.told_by("origin").await);
    assert_eq!(told, (0, 3));
    assert_eq!(registry.count(Method::GET, &path), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_seed_heard_refused_has_no_grace_left_when_the_seed_is_gone() {
    let is_down = Arc::new(AtomicBool::new(false));
    let down = Arc::clone(&is_down);
    let registry = Origin::start(move |seen| match down.load(Ordering::Relaxed) {
        true => Reply::status(503),
        false => answer(seen),
    })
    .await;
    let lab = Lab::new(&registry);
    let denied = Resolution::Denied {
        status: 401,
        challenges: Vec::new(),
    };
    let seed = lab.lying_seed(Some(denied)).await;
    let rights = "[mirror]\nkeep_rights = \"1ms\"\nrights_grace = \"10m\"";
    let change = |text: String| text.replace("[mirror]", rights);
    let node = lab.host("node", Role::Node, change).await;
    let path = digest_path("a", &manifest("v0"));
    let get = async || {
        let shown = [("authorization", "Bearer t")];
        node.ask("GET", &path, &shown).await.status
    };
    assert_eq!(get().await, 200);
    is_down.store(true, Ordering::Relaxed);
    // There is grace while nobody hears a refusal: the seed may be late on a busy machine.
    let mut heard = Vec::new();
    while heard.last() != Some(&401) {
        assert!(heard.len() < 50 && heard.iter().all(|status| *status == 200));
        heard.push(get().await);
    }
    seed.shutdown().await;
    drop(seed);
    for _ in 0..3 {
        assert_ne!(get().await, 200);
    }
}
