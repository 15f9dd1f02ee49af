//! An origin over HTTP that counts, and clusters of nodes in this process.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use hawker_identity::{ClusterCa, Identity, Subject, TlsFiles, TlsPem};
use hawker_model::{Digest, HostId, Role, TaskId};
use hawker_p2p::{Node, NodeSettings, OriginConfig, Security, SeedAddress, StoreConfig};
use hawker_swarm::{Source, SwarmConfig};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{Request, Response, StatusCode, body::Frame, header};
use tempfile::TempDir;

/// Pseudo-random bytes that no compression and no luck helps with.
pub(crate) fn content(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// An HTTP server with files, a count of what left it, and faults.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    state: Arc<OriginState>,
}

#[derive(Default)]
struct OriginState {
    files: Mutex<BTreeMap<String, Bytes>>,
    bytes: AtomicU64,
    gets: AtomicUsize,
    chunk_delay: Mutex<Duration>,
    /// The `Authorization` that is asked for.
    required: Mutex<Option<String>>,
    /// Every one that was shown.
    shown: Mutex<BTreeSet<String>>,
}

impl Origin {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(OriginState::default());
        let served = Arc::clone(&state);
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let state = Arc::clone(&served);
                let service = hyper::service::service_fn(move |request| {
                    let state = Arc::clone(&state);
                    async move { Ok::<_, Infallible>(state.answer(&request)) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
                );
            }
        });
        Self { address, state }
    }

    /// Serves `content`; returns its task and source.
    pub(crate) fn add(&self, content: &Bytes) -> (TaskId, Source) {
        let digest = Digest::of(content);
        let path = format!("/v2/test/blobs/{digest}");
        self.state
            .files
            .lock()
            .unwrap()
            .insert(path.clone(), content.clone());
        let url = format!("http://{}{path}", self.address);
        (
            TaskId::Blob(digest),
            Source {
                url,
                authorization: None,
            },
        )
    }

    /// Puts other bytes under the address of `content`.
    pub(crate) fn falsify(&self, task: &TaskId, content: Bytes) {
        self.state
            .files
            .lock()
            .unwrap()
            .insert(format!("/v2/test/blobs/{task}"), content);
    }

    pub(crate) fn slow_down(&self, per_chunk: Duration) {
        *self.state.chunk_delay.lock().unwrap() = per_chunk;
    }

    pub(crate) fn require(&self, authorization: &str) {
        *self.state.required.lock().unwrap() = Some(authorization.to_owned());
    }

    /// Every credential that was shown here.
    pub(crate) fn shown(&self) -> BTreeSet<String> {
        self.state.shown.lock().unwrap().clone()
    }

    /// Body bytes that left the origin.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.bytes.load(SeqCst)
    }

    pub(crate) fn gets(&self) -> usize {
        self.state.gets.load(SeqCst)
    }
}

type Body = BoxBody<Bytes, Infallible>;

impl OriginState {
    fn answer(self: &Arc<Self>, request: &Request<hyper::body::Incoming>) -> Response<Body> {
        let given = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|v| v.to_str().ok());
        let mut shown = self.shown.lock().unwrap();
        shown.extend(given.map(str::to_owned));
        if let Some(required) = &*self.required.lock().unwrap()
            && given != Some(required)
        {
            return Response::builder()
                .status(StatusCode::UNAUTHORIZED)
                .header(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")
                .body(empty())
                .unwrap();
        }
        let Some(file) = self
            .files
            .lock()
            .unwrap()
            .get(request.uri().path())
            .cloned()
        else {
            return Response::builder().status(404).body(empty()).unwrap();
        };
        let len = file.len();
        let range = request
            .headers()
            .get(header::RANGE)
            .and_then(|v| v.to_str().ok());
        let range = range.and_then(|range| {
            let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
            let end = end.parse().map_or(len, |end: usize| (end + 1).min(len));
            Some(start.parse().ok()?..end)
        });
        let response = match &range {
            Some(range) => Response::builder().status(206).header(
                header::CONTENT_RANGE,
                format!("bytes {}-{}/{len}", range.start, range.end - 1),
            ),
            None => Response::builder(),
        };
        let body = file.slice(range.unwrap_or(0..len));
        let response = response.header(header::CONTENT_LENGTH, body.len());
        if request.method() == hyper::Method::HEAD {
            return response.body(empty()).unwrap();
        }
        self.gets.fetch_add(1, SeqCst);
        response.body(self.stream(body)).unwrap()
    }

    fn stream(self: &Arc<Self>, body: Bytes) -> Body {
        let state = Arc::clone(self);
        let chunks = (0..body.len())
            .step_by(64 << 10)
            .map(move |at| body.slice(at..(at + (64 << 10)).min(body.len())));
        let frames = futures::stream::iter(chunks).then(move |chunk| {
            let state = Arc::clone(&state);
            async move {
                let delay = *state.chunk_delay.lock().unwrap();
                tokio::time::sleep(delay).await;
                state.bytes.fetch_add(chunk.len() as u64, SeqCst);
                Ok(Frame::data(chunk))
            }
        });
        BodyExt::boxed(StreamBody::new(frames))
    }
}

fn empty() -> Body {
    http_body_util::Empty::new().boxed()
}

/// Hosts in one cluster, in this process, with TLS and no scheduler: seeds by configuration.
pub(crate) struct Cluster {
    pub(crate) ca: ClusterCa,
    dir: TempDir,
    seeds: Vec<SeedAddress>,
    schedulers: Vec<String>,
    swarm: fn(&mut SwarmConfig),
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let ca = ClusterCa::create("test", 1).unwrap();
        Self {
            ca,
            dir: tempfile::tempdir().unwrap(),
            seeds: Vec::new(),
            schedulers: Vec::new(),
            swarm: |_| {},
        }
    }

    /// Changes the swarm's timing and bounds of later hosts.
    pub(crate) fn swarm(&mut self, change: fn(&mut SwarmConfig)) {
        self.swarm = change;
    }

    /// Later hosts ask this scheduler.
    pub(crate) fn schedule(&mut self, address: SocketAddr) {
        self.schedulers.push(address.to_string());
    }

    /// Later hosts find this one without a scheduler.
    pub(crate) fn know(&mut self, host: &str, node: &Node) {
        let address = node.peer_address().unwrap().to_string();
        self.seeds.push(SeedAddress {
            host: HostId::parse(host).unwrap(),
            address,
        });
    }

    pub(crate) fn security(&self, host: &str, role: Role) -> Security {
        let host = HostId::parse(host).unwrap();
        let issued = self
            .ca
            .issue(
                &Subject {
                    host,
                    role,
                    names: vec![],
                },
                1,
            )
            .unwrap();
        let pem = TlsPem {
            ca: self.ca.cert_pem().as_bytes(),
            cert: issued.cert_pem.as_bytes(),
            key: issued.key_pem.as_bytes(),
        };
        let files = TlsFiles {
            ca: "ca".into(),
            cert: "cert".into(),
            key: "key".into(),
            crl: "crl".into(),
        };
        let own = Identity::from_pem(pem, &files, std::time::SystemTime::now());
        Security::Tls(Arc::new(own.unwrap()))
    }

    /// A host without certificates.
    pub(crate) async fn plain(&self, name: &str, role: Role) -> Node {
        let host = HostId::parse(name).unwrap();
        let settings = NodeSettings {
            security: Security::Plain { host, role },
            ..self.settings(name, role)
        };
        Node::start(settings).await.unwrap()
    }

    pub(crate) fn settings(&self, host: &str, role: Role) -> NodeSettings {
        let name = HostId::parse(host).unwrap();
        let mut swarm = SwarmConfig::new(name.clone(), role);
        (self.swarm)(&mut swarm);
        NodeSettings {
            host: name,
            role,
            security: self.security(host, role),
            peer_listen: Some("127.0.0.1:0".parse().unwrap()),
            advertise: vec![],
            zone: String::new(),
            schedulers: self.schedulers.clone(),
            seeds: self.seeds.clone(),
            store_dir: self.dir.path().join(host),
            store: StoreConfig::default(),
            origin: OriginConfig {
                allow_private: vec!["127.0.0.0/8".parse().unwrap()],
                ..OriginConfig::default()
            },
            swarm,
        }
    }

    /// A seed that later hosts know.
    pub(crate) async fn seed(&mut self, host: &str) -> Node {
        let node = Node::start(self.settings(host, Role::Seed)).await.unwrap();
        self.know(host, &node);
        node
    }

    pub(crate) async fn node(&self, host: &str) -> Node {
        Node::start(self.settings(host, Role::Node)).await.unwrap()
    }
}

/// Reads a task to its end.
pub(crate) async fn fetch(node: &Node, task: TaskId, source: &Source) -> Result<Vec<u8>, String> {
    let blob = node
        .open(task, Some(source.clone()))
        .await
        .map_err(|e| e.to_string())?;
    let mut read = Box::pin(blob.read(0..u64::MAX));
    let mut all = Vec::new();
    while let Some(bytes) = read.next().await {
        all.extend_from_slice(&bytes.map_err(|e| e.to_string())?);
    }
    blob.complete().await.map_err(|e| e.to_string())?;
    Ok(all)
}
