//! Seeds that judge credentials, and credentials that are renewed: real sockets and TLS.

#![allow(clippy::unwrap_used)] // a test's helpers may fail as its assertions do

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use hawker_model::{Digest, HostId, PieceIndex, RegistryHost, Role, TaskId};
use hawker_p2p::{
    Dialer, Login, NoSeed, Node, NodeRequest, NodeSettings, Race, RegistryEndpoint, Security,
    SeedAddress, Verdict,
};
use hawker_scheduler::{Scheduler, Security as SchedulerSecurity, Settings};
use hawker_swarm::{Envelope, GivenManifest, Message, Resolution, Secret, Source};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::support::{Cluster, Origin, content, fetch};

const GRANTED: Verdict = Verdict::Granted {
    length: Some(7),
    held: true,
};

fn claim(token: &str) -> (TaskId, Source) {
    let task = TaskId::Blob(Digest::of(b"layer"));
    let source = Source {
        url: "https://registry.example/v2/a/blobs/b".to_owned(),
        authorization: Some(Secret::new(format!("Bearer {token}"))),
    };
    (task, source)
}

async fn ask(node: &Node, token: &str) -> Result<Verdict, NoSeed> {
    let (task, source) = claim(token);
    node.ask_seed(task, &source, &Race::default()).await
}

/// As often as it takes on a busy machine, where a sign of life may come too late.
async fn ask_patiently(node: &Node, token: &str) -> Verdict {
    loop {
        match ask(node, token).await {
            Ok(verdict) => return verdict,
            Err(NoSeed::Silent(_) | NoSeed::Unreachable(_)) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

/// Grants the token "right" and denies all others.
fn judge(seed: &Node) {
    judge_from(seed.requests().unwrap());
}

fn judge_from(mut requests: mpsc::Receiver<NodeRequest>) {
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            let NodeRequest::Judge { source, reply, .. } = request else {
                continue;
            };
            let right = source.authorization == Some(Secret::new("Bearer right"));
            let denied = Verdict::Denied {
                status: 401,
                challenges: vec!["Bearer realm=\"r\"".to_owned()],
            };
            let _ = reply.send(if right { GRANTED } else { denied });
        }
    });
}

async fn scheduler(cluster: &Cluster) -> Scheduler {
    let Security::Tls(identity) = cluster.security("scheduler", Role::Scheduler) else {
        panic!("a cluster has TLS");
    };
    let settings = Settings::new(
        HostId::parse("scheduler").unwrap(),
        ([127, 0, 0, 1], 0).into(),
        SchedulerSecurity::Tls(identity),
    );
    Scheduler::start(settings).await.unwrap()
}

async fn next_claim(requests: &mut mpsc::Receiver<NodeRequest>) -> (HostId, NodeRequest) {
    let request = requests.recv().await.unwrap();
    match &request {
        NodeRequest::Judge { host, .. } => (host.clone(), request),
        NodeRequest::Renew { .. } | NodeRequest::Resolve { .. } => panic!("{request:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_judges_for_all_who_ask() {
    let mut cluster = Cluster::new();
    let seed = cluster.seed("seed").await;
    judge(&seed);
    let mut nodes = Vec::new();
    for number in 0..4 {
        nodes.push(cluster.node(&format!("n{number}")).await);
    }
    for node in &nodes {
        let (right, wrong) = tokio::join!(ask_patiently(node, "right"), ask_patiently(node, "no"));
        assert_eq!(right, GRANTED);
        assert!(
            matches!(wrong, Verdict::Denied { status: 401, challenges } if challenges.len() == 1)
        );
    }
    assert!(seed.requests().is_none(), "taken before");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_seed_to_ask_is_told_at_once() {
    let mut cluster = Cluster::new();
    let alone = cluster.node("alone").await;
    assert_eq!(ask(&alone, "right").await, Err(NoSeed::Unknown));
    let seed = cluster.seed("seed").await;
    assert_eq!(ask(&seed, "right").await, Err(NoSeed::Ourselves));
    let node = cluster.node("node").await;
    assert_eq!(ask(&node, &"x".repeat(20_000)).await, Err(NoSeed::TooLong));
    node.shutdown().await;
    assert_eq!(ask(&node, "right").await, Err(NoSeed::Stopping));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_whose_owner_does_not_listen_judges_nothing() {
    let mut cluster = Cluster::new();
    let _seed = cluster.seed("seed").await;
    let node = cluster.node("node").await;
    let host = HostId::parse("seed").unwrap();
    loop {
        match ask(&node, "right").await {
            Err(NoSeed::Silent(_) | NoSeed::Unreachable(_)) => continue,
            other => break assert_eq!(other, Err(NoSeed::Busy(host))),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_seed_dies_while_it_judges_another_does() {
    let mut cluster = Cluster::new();
    let seeds = [cluster.seed("one").await, cluster.seed("two").await];
    let mut requests = seeds.each_ref().map(|seed| seed.requests().unwrap());
    let node = cluster.node("node").await;
    let asking = tokio::spawn(async move { ask_patiently(&node, "right").await });
    let [one, two] = &mut requests;
    let (first, (asker, _held)) = tokio::select! {
        claim = next_claim(one) => (0, claim),
        claim = next_claim(two) => (1, claim),
    };
    assert_eq!(asker.as_str(), "node");
    seeds[first].shutdown().await;
    let NodeRequest::Judge { reply, .. } = next_claim(&mut requests[1 - first]).await.1 else {
        panic!("no claim");
    };
    reply.send(Verdict::NotFound).unwrap();
    assert_eq!(asking.await.unwrap(), Verdict::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_learns_that_the_host_that_asked_is_gone() {
    let mut cluster = Cluster::new();
    let seed = cluster.seed("seed").await;
    let mut requests = seed.requests().unwrap();
    let node = cluster.node("node").await;
    let asker = node.clone();
    let asking = tokio::spawn(async move { ask_patiently(&asker, "right").await });
    let NodeRequest::Judge { mut reply, .. } = next_claim(&mut requests).await.1 else {
        panic!("no claim");
    };
    asking.abort();
    node.shutdown().await;
    reply.closed().await;
}

/// A host of the cluster says such words to the seed until it is told goodbye; returns the reason.
async fn flood(cluster: &Cluster, seed: &Node, word: impl Fn(u64) -> Message) -> String {
    let security = cluster.security("rogue", Role::Node);
    let (name, address) = (HostId::parse("seed").unwrap(), seed.peer_address().unwrap());
    let connection = Dialer::new(security).dial(&name, address).await.unwrap();
    let (mut reader, mut writer) = (connection.reader, connection.writer);
    let (task, _) = claim("wrong");
    let saying = async {
        for number in 0.. {
            let message = word(number);
            let envelope = Envelope { task, message };
            if writer.feed(&envelope).await.is_err() || writer.flush().await.is_err() {
                break;
            }
        }
        std::future::pending().await
    };
    let hearing = async {
        while let Ok(Some(_)) = reader.next().await {}
        reader.goodbye().unwrap_or_default().to_owned()
    };
    let limit = Duration::from_secs(60);
    let ended = tokio::time::timeout(limit, async {
        tokio::select! {
            () = saying => unreachable!("it never ends"),
            reason = hearing => reason,
        }
    });
    ended.await.expect("a flood ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_claims_doubts_and_answers_end_and_others_are_judged() {
    let piece = PieceIndex(0);
    let claims = |number| {
        let (_, source) = claim("wrong");
        Message::Claim { number, source }
    };
    let not_judged = |number| {
        let verdict = None;
        Message::Verdict { number, verdict }
    };
    let bytes = Bytes::from(vec![b'm'; 256 << 10]);
    let manifest = GivenManifest {
        digest: Digest::of(&bytes),
        media_type: "a/b".to_owned(),
        length: bytes.len() as u64,
        bytes: Some(bytes),
    };
    let given = |number| {
        let resolution = Some(Resolution::Given(manifest.clone()));
        Message::Resolved { number, resolution }
    };
    // One after another: who floods is shut out for ten minutes.
    for kind in 0..5 {
        let mut cluster = Cluster::new();
        let seed = cluster.seed("seed").await;
        // Nobody judges before the flood is over.
        let requests = seed.requests().unwrap();
        let reason = match kind {
            0 => flood(&cluster, &seed, claims).await,
            1 => flood(&cluster, &seed, |_| Message::Doubt { piece }).await,
            2 => flood(&cluster, &seed, |number| Message::Heard { number }).await,
            3 => flood(&cluster, &seed, not_judged).await,
            _ => flood(&cluster, &seed, given).await,
        };
        assert_eq!(reason, "you said too much that is of no use", "kind {kind}");
        judge_from(requests);
        let node = cluster.node("node").await;
        assert_eq!(ask_patiently(&node, "right").await, GRANTED);
    }
}

/// A way to a seed on which everything that it says takes this long.
async fn slow_way_back(seed: &Node, delay: Duration) -> SeedAddress {
    let target = seed.peer_address().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(target).await.unwrap();
        let ((mut hears, mut asks), (mut says, mut takes)) = (near.into_split(), far.into_split());
        tokio::spawn(async move { tokio::io::copy(&mut hears, &mut takes).await });
        let mut said = vec![0; 64 << 10];
        while let Ok(len @ 1..) = says.read(&mut said).await {
            tokio::time::sleep(delay).await;
            asks.write_all(&said[..len]).await.unwrap();
        }
    });
    let host = HostId::parse("seed").unwrap();
    SeedAddress { host, address }
}

/// A node on a thread of its own, which is held up from the moment when its claim has reached the
/// seed. Returns what comes of the claim.
fn ask_and_be_held_up(
    settings: NodeSettings,
    reached: Arc<AtomicBool>,
) -> std::thread::JoinHandle<Result<Verdict, NoSeed>> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let node = Node::start(settings).await.unwrap();
            ask_patiently(&node, "first").await;
            let asker = node.clone();
            let asking = tokio::spawn(async move { ask(&asker, "right").await });
            while !reached.load(SeqCst) {
                tokio::task::yield_now().await;
            }
            std::thread::sleep(Duration::from_millis(350));
            asking.await.unwrap()
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_waits_while_the_loop_is_held_up_is_heard() {
    let mut cluster = Cluster::new();
    let seed = cluster.seed("seed").await;
    let mut requests = seed.requests().unwrap();
    let reached = Arc::new(AtomicBool::new(false));
    // So that the word comes after the node is held up.
    let way = slow_way_back(&seed, Duration::from_millis(30)).await;
    let settings = NodeSettings {
        seeds: vec![way],
        ..cluster.settings("node", Role::Node)
    };
    let asking = ask_and_be_held_up(settings, Arc::clone(&reached));
    loop {
        let NodeRequest::Judge { source, reply, .. } = next_claim(&mut requests).await.1 else {
            panic!("no claim");
        };
        if source == claim("right").1 {
            reached.store(true, SeqCst);
            // The seed has said that it heard: the verdict may take its time.
            tokio::time::sleep(Duration::from_secs(1)).await;
            reply.send(GRANTED).unwrap();
            break;
        }
        let _ = reply.send(GRANTED);
    }
    let asked = tokio::task::spawn_blocking(|| asking.join().unwrap()).await;
    assert_eq!(asked.unwrap(), Ok(GRANTED));
}

/// Judges so many claims at once as hawkerd does, of which those of the host "flood" never end.
fn judge_in_256_places(seed: &Node) {
    let mut requests = seed.requests().unwrap();
    tokio::spawn(async move {
        let mut hanging = Vec::new();
        while hanging.len() < 256 {
            let (host, request) = next_claim(&mut requests).await;
            match request {
                NodeRequest::Judge { reply, .. } if host.as_str() != "flood" => {
                    let _ = reply.send(GRANTED);
                }
                request => hanging.push(request),
            }
        }
        std::future::pending::<()>().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_claims_all_hang_leaves_room_for_those_of_others() {
    let mut cluster = Cluster::new();
    let seed = cluster.seed("seed").await;
    judge_in_256_places(&seed);
    let flood = Dialer::new(cluster.security("flood", Role::Node));
    let wanted = HostId::parse("seed").unwrap();
    let mut flood = flood
        .dial(&wanted, seed.peer_address().unwrap())
        .await
        .unwrap();
    let (task, source) = claim("slow");
    for number in 0..256 {
        let source = source.clone();
        let message = Message::Claim { number, source };
        flood
            .writer
            .feed(&Envelope { task, message })
            .await
            .unwrap();
    }
    flood.writer.flush().await.unwrap();
    let (mut heard, mut refused) = (0, 0);
    while heard + refused < 256 {
        match flood.reader.next().await.unwrap().unwrap().message {
            Message::Heard { .. } => heard += 1,
            Message::Verdict { verdict: None, .. } => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard, 32);
    let node = cluster.node("node").await;
    let judged = tokio::time::timeout(Duration::from_secs(10), ask_patiently(&node, "right"));
    assert_eq!(judged.await, Ok(GRANTED));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_network_carries_claims_without_credentials_only() {
    let mut cluster = Cluster::new();
    let seed = cluster.plain("seed", Role::Seed).await;
    judge(&seed);
    cluster.know("seed", &seed);
    let node = cluster.plain("node", Role::Node).await;
    assert_eq!(ask(&node, "right").await, Err(NoSeed::Plain));
    let (task, mut source) = claim("right");
    source.authorization = None;
    let verdict = loop {
        match node.ask_seed(task, &source, &Race::default()).await {
            Err(NoSeed::Silent(_) | NoSeed::Unreachable(_)) => continue,
            verdict => break verdict,
        }
    };
    assert!(matches!(verdict, Ok(Verdict::Denied { .. })), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_ask_the_seeds_that_the_scheduler_names() {
    let mut cluster = Cluster::new();
    let scheduler = scheduler(&cluster).await;
    cluster.schedule(scheduler.address());
    // Known to nobody but the scheduler.
    let seed = Node::start(cluster.settings("seed", Role::Seed)).await;
    let seed = seed.unwrap();
    judge(&seed);
    let node = cluster.node("node").await;
    let verdict = loop {
        match ask(&node, "right").await {
            Ok(verdict) => break verdict,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    assert_eq!(verdict, GRANTED);
    seed.shutdown().await;
    while ask(&node, "right").await != Err(NoSeed::Unknown) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_credential_is_renewed_by_the_host_that_brought_it() {
    let (mut cluster, origin) = (Cluster::new(), Origin::start().await);
    let data = content(7, 1 << 20);
    let (task, mut source) = origin.add(&data);
    origin.require("Bearer fresh");
    let seed = cluster.seed("seed").await;
    cluster.swarm(|config| config.first_piece_deadline = Duration::from_secs(60));
    let node = cluster.node("node").await;
    let mut requests = node.requests().unwrap();
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            let NodeRequest::Renew { source, reply, .. } = request else {
                continue;
            };
            let mut fresh = source.clone();
            fresh.authorization = Some(Secret::new("Bearer fresh"));
            let _ = reply.send(Some(fresh));
        }
    });
    source.authorization = Some(Secret::new("Bearer old"));
    assert_eq!(fetch(&node, task, &source).await.unwrap(), data);
    assert_eq!(node.bytes().origin, 0, "the seed fetched it");
    assert_eq!(seed.bytes().origin, data.len() as u64);
}

/// A seed with a login of its own at the origin.
async fn seed_with_login(cluster: &mut Cluster, origin: &Origin) -> Node {
    let login = Login {
        username: "ann".to_owned(),
        password: Secret::new("pw"),
    };
    let endpoint = RegistryEndpoint {
        login: Some(login),
        ..RegistryEndpoint::default()
    };
    let name = RegistryHost::parse(&origin.address.to_string()).unwrap();
    let mut settings = cluster.settings("seed", Role::Seed);
    settings.origin.registries.insert(name, endpoint);
    let seed = Node::start(settings).await.unwrap();
    cluster.know("seed", &seed);
    seed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_shows_its_own_login_to_no_origin_that_another_host_names() {
    let (mut cluster, origin) = (Cluster::new(), Origin::start().await);
    let data = content(8, 1 << 20);
    let (task, mut source) = origin.add(&data);
    // ann:pw
    let login = "Basic YW5uOnB3";
    origin.require(login);
    let seed = seed_with_login(&mut cluster, &origin).await;
    let node = cluster.node("node").await;
    for authorization in [None, Some("Bearer bad")] {
        source.authorization = authorization.map(Secret::new);
        let error = fetch(&node, task, &source).await.unwrap_err();
        assert!(error.contains("denied"), "{error}");
    }
    assert!(!origin.shown().contains(login));
    assert_eq!(seed.bytes().origin, 0);
    // Its own readers have it.
    source.authorization = None;
    assert_eq!(fetch(&seed, task, &source).await.unwrap(), data);
}
