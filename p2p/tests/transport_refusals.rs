//! Hosts that do not become peers: both sides learn why, in words.

#![allow(clippy::unwrap_used)]

mod cluster;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::BytesMut;
use cluster::{Cluster, subject};
use hawker_identity::{Identity, TlsFiles, TlsPem, explain_io, server_name};
use hawker_model::{HostId, Role};
use hawker_p2p::{
    Dialer, ErrorCode, Listener, Security,
    frame::{Hello, PREFACE, encode_hello},
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{Connect, TlsConnector, rustls};

fn plain(host: &str, role: Role) -> Security {
    Security::Plain {
        host: HostId::parse(host).unwrap(),
        role,
    }
}

fn tls(cluster: &Cluster, host: &str, role: Role) -> Security {
    Security::Tls(cluster.identity(host, role))
}

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// What acceptor and dialer say when `dialer` looks for seed-1 at `acceptor`.
async fn reasons(acceptor: Security, dialer: Security) -> (String, String) {
    let mut listener = Listener::bind(loopback(), acceptor).unwrap();
    let address = listener.local_addr().unwrap();
    let (wanted, dialer) = (HostId::parse("seed-1").unwrap(), Dialer::new(dialer));
    let accepted = async {
        match listener.accept().await {
            // A dialer may be refused, or refuse, only after the acceptor is content.
            Ok(mut peer) => peer.reader.next().await.unwrap_err().to_string(),
            Err(error) => error.to_string(),
        }
    };
    let dialed = async { dialer.dial(&wanted, address).await.unwrap_err().to_string() };
    let both = async { tokio::join!(accepted, dialed) };
    timeout(Duration::from_secs(4), both).await.unwrap()
}

/// A host that believes another cluster's authority too.
fn believer(own: &Cluster, other: &Cluster, host: &str, role: Role) -> Security {
    let issued = own.authority.issue(&subject(host, role), 30).unwrap();
    let both = [own.authority.cert_pem(), other.authority.cert_pem()].concat();
    let pem = TlsPem {
        ca: both.as_bytes(),
        cert: issued.cert_pem.as_bytes(),
        key: issued.key_pem.as_bytes(),
    };
    let files = TlsFiles::in_dir("/test".as_ref());
    let identity = Identity::from_pem(pem, &files, SystemTime::now()).unwrap();
    Security::Tls(Arc::new(identity))
}

/// A host that has learned what is revoked.
fn knowing(host: Security, list: &str) -> Security {
    let list = CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap();
    if let Security::Tls(identity) = &host {
        identity.learn(&list).unwrap();
    }
    host
}

struct Case {
    name: &'static str,
    acceptor: Security,
    dialer: Security,
    acceptor_says: &'static str,
    dialer_says: &'static str,
}

fn certificate_cases() -> Vec<Case> {
    let (cluster, other) = (Cluster::new("prod"), Cluster::new("prod"));
    let seed = || tls(&cluster, "seed-1", Role::Seed);
    let node = || tls(&cluster, "node-1", Role::Node);
    let of_day = |host, role, from| Security::Tls(cluster.identity_of_day(host, role, from));
    let revoked_seed = cluster.identity("seed-1", Role::Seed);
    let revoked_node = cluster.identity("node-1", Role::Node);
    let list = |of: &Identity| cluster.authority.revoke(&[of.serial()], None).unwrap();
    let (seed_list, node_list) = (list(&revoked_seed), list(&revoked_node));
    let unknown = "unknown authority (another cluster's?)";
    let clock = "expired or not yet valid by the peer's clock";
    vec![
        Case {
            name: "acceptor of another cluster",
            acceptor: tls(&other, "seed-1", Role::Seed),
            dialer: node(),
            acceptor_says: "the peer refused our certificate: unknown authority",
            dialer_says: "we refused the peer's certificate: unknown authority",
        },
        Case {
            name: "dialer of another cluster",
            acceptor: seed(),
            dialer: believer(&other, &cluster, "node-1", Role::Node),
            acceptor_says: unknown,
            dialer_says: "the peer refused our certificate: unknown authority",
        },
        Case {
            name: "acceptor expired",
            acceptor: of_day("seed-1", Role::Seed, -10),
            dialer: node(),
            acceptor_says: clock,
            dialer_says: "we refused the peer's certificate: it expired on 20",
        },
        Case {
            name: "dialer expired",
            acceptor: seed(),
            dialer: of_day("node-1", Role::Node, -10),
            acceptor_says: "we refused the peer's certificate: it expired on 20",
            dialer_says: clock,
        },
        Case {
            name: "acceptor revoked",
            acceptor: Security::Tls(revoked_seed),
            dialer: knowing(node(), &seed_list),
            acceptor_says: "the peer refused our certificate: it was revoked",
            dialer_says: "we refused the peer's certificate: it was revoked",
        },
        Case {
            name: "dialer revoked",
            acceptor: knowing(seed(), &node_list),
            dialer: Security::Tls(revoked_node),
            acceptor_says: "we refused the peer's certificate: it was revoked",
            dialer_says: "the peer refused our certificate: it was revoked",
        },
        Case {
            name: "acceptor not yet valid",
            acceptor: of_day("seed-1", Role::Seed, 10),
            dialer: node(),
            acceptor_says: clock,
            dialer_says: "it is not valid before 20",
        },
        Case {
            name: "dialer not yet valid",
            acceptor: seed(),
            dialer: of_day("node-1", Role::Node, 10),
            acceptor_says: "and our clock says 20",
            dialer_says: clock,
        },
        Case {
            name: "dialer is a scheduler",
            acceptor: seed(),
            dialer: tls(&cluster, "sched-1", Role::Scheduler),
            acceptor_says: "sched-1 has the role scheduler, and only nodes and seeds",
            dialer_says: "the peer refused: your role is scheduler",
        },
        Case {
            name: "acceptor is a scheduler",
            acceptor: tls(&cluster, "seed-1", Role::Scheduler),
            dialer: node(),
            acceptor_says: "the peer refused: your role is scheduler",
            dialer_says: "seed-1 has the role scheduler",
        },
    ]
}

fn other_cases() -> Vec<Case> {
    let cluster = Cluster::new("prod");
    let node = || tls(&cluster, "node-1", Role::Node);
    vec![
        Case {
            name: "another host than wanted",
            acceptor: tls(&cluster, "seed-2", Role::Seed),
            dialer: node(),
            acceptor_says: "the peer refused: you are seed-2, and seed-1 was wanted",
            dialer_says: "it is seed-2, not seed-1",
        },
        Case {
            name: "another host than wanted, plain",
            acceptor: plain("seed-2", Role::Seed),
            dialer: plain("node-1", Role::Node),
            acceptor_says: "the peer wanted seed-1, and this is seed-2",
            dialer_says: "the peer refused: this is seed-2, and you wanted seed-1",
        },
        Case {
            name: "the same name",
            acceptor: tls(&cluster, "seed-1", Role::Seed),
            dialer: tls(&cluster, "seed-1", Role::Node),
            // Both see it in the certificates, at the same time.
            acceptor_says: "called seed-1 as this host is",
            dialer_says: "called seed-1 as this host is",
        },
        Case {
            name: "a scheduler, plain",
            acceptor: plain("seed-1", Role::Seed),
            dialer: plain("sched-1", Role::Scheduler),
            acceptor_says: "sched-1 has the role scheduler",
            dialer_says: "the peer refused: your role is scheduler",
        },
        Case {
            name: "plain dialer, TLS acceptor",
            acceptor: tls(&cluster, "seed-1", Role::Seed),
            dialer: plain("node-1", Role::Node),
            acceptor_says: "the peer does not speak TLS: is its transport set to \"plain\"?",
            dialer_says: "the peer speaks TLS, and this host is set to transport \"plain\"",
        },
        Case {
            name: "TLS dialer, plain acceptor",
            acceptor: plain("seed-1", Role::Seed),
            dialer: node(),
            acceptor_says: "the peer speaks TLS, and this host is set to transport \"plain\"",
            dialer_says: "the peer does not speak TLS: is its transport set to \"plain\"?",
        },
    ]
}

#[tokio::test]
async fn both_sides_learn_why_they_do_not_become_peers() {
    for case in certificate_cases().into_iter().chain(other_cases()) {
        let (acceptor, dialer) = reasons(case.acceptor, case.dialer).await;
        println!("{}:\n  acceptor: {acceptor}\n  dialer: {dialer}", case.name);
        assert!(
            acceptor.contains(case.acceptor_says),
            "{}: {acceptor}",
            case.name
        );
        assert!(dialer.contains(case.dialer_says), "{}: {dialer}", case.name);
    }
}

fn hello(host: &str, versions: (u16, u16), wanted: &str) -> BytesMut {
    let mut bytes = BytesMut::from(&PREFACE[..]);
    let hello = Hello {
        min_version: versions.0,
        max_version: versions.1,
        capabilities: 0,
        role: Role::Node,
        host: HostId::parse(host).unwrap(),
        wanted: HostId::parse(wanted).ok(),
        zone: String::new(),
    };
    encode_hello(&hello, &mut bytes);
    bytes
}

/// Says something to a listener; what it reports, and what it answers.
async fn say<S: AsyncRead + AsyncWrite + Unpin>(
    mut listener: Listener,
    mut stream: S,
    words: &[u8],
) -> (String, Vec<u8>) {
    let said = async {
        stream.write_all(words).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is no matter.
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    let heard = async { listener.accept().await.unwrap_err().to_string() };
    let both = async { tokio::join!(heard, said) };
    timeout(Duration::from_secs(4), both).await.unwrap()
}

/// The code of the `Error` frame that an answer consists of, and its text.
fn refusal(answer: &[u8]) -> (u16, String) {
    assert_eq!(answer[..8], PREFACE);
    assert_eq!(answer[12], 0x02, "an Error frame");
    let code = u16::from_le_bytes([answer[13], answer[14]]);
    (code, String::from_utf8_lossy(&answer[17..]).into_owned())
}

async fn plain_link() -> (Listener, TcpStream) {
    let listener = Listener::bind(loopback(), plain("seed-1", Role::Seed)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, TcpStream::connect(address).await.unwrap())
}

#[tokio::test]
async fn a_newer_dialer_is_told_the_versions() {
    let (listener, stream) = plain_link().await;
    let words = hello("node-1", (4, 5), "seed-1");
    let (heard, answer) = say(listener, stream, &words).await;
    assert!(
        heard.contains("this host speaks 3 to 3, the peer 4 to 5"),
        "{heard}"
    );
    let (code, text) = refusal(&answer);
    assert_eq!(code, ErrorCode::Version.to_u16());
    assert!(
        text.contains("this host speaks 3 to 3, you 4 to 5"),
        "{text}"
    );
}

#[tokio::test]
async fn a_newer_acceptor_is_told_the_versions() {
    let tcp = TcpListener::bind(loopback()).await.unwrap();
    let address = tcp.local_addr().unwrap();
    let answered = async {
        let (mut stream, _) = tcp.accept().await.unwrap();
        let words = hello("seed-1", (4, 5), "");
        stream.write_all(&words).await.unwrap();
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        String::from_utf8_lossy(&heard).into_owned()
    };
    let (wanted, dialer) = (
        HostId::parse("seed-1").unwrap(),
        plain("node-1", Role::Node),
    );
    let dialer = Dialer::new(dialer);
    let (heard, dialed) = tokio::join!(answered, dialer.dial(&wanted, address));
    let error = dialed.unwrap_err();
    assert!(error.to_string().contains("the peer 4 to 5"), "{error}");
    assert!(!error.is_retryable());
    assert!(
        heard.contains("this host speaks 3 to 3, you 4 to 5"),
        "{heard}"
    );
}

#[tokio::test]
async fn a_version_in_between_is_spoken() {
    let (mut listener, mut stream) = plain_link().await;
    stream
        .write_all(&hello("node-1", (0, 9), ""))
        .await
        .unwrap();
    let peer = listener.accept().await.unwrap().peer;
    assert_eq!(peer.version, 3);
}

#[tokio::test]
async fn strangers_are_named() {
    let cases: [(&[u8], &str); 5] = [
        (b"GET / HTTP/1.1\r\n\r\n", "speaks HTTP"),
        (b"PRI * HTTP/2.0\r\n", "speaks HTTP"),
        (b"\x16\x03\x01\x02\x00", "speaks TLS"),
        (b"SSH-2.0-OpenSSH_9\r\n", "does not speak Hawker's protocol"),
        (
            b"HAWKER\r\n\x05\x00\x00\x40\x18",
            "Piece frame before the hello",
        ),
    ];
    for (words, expected) in cases {
        let (listener, stream) = plain_link().await;
        let (heard, answer) = say(listener, stream, words).await;
        assert!(heard.contains(expected), "{heard}");
        let (code, text) = refusal(&answer);
        assert_eq!(code, ErrorCode::Protocol.to_u16());
        assert!(text.contains(expected), "{text}");
    }
}

/// A listener whose certificate also names 127.0.0.1, and a client on its way to it.
async fn tls_link(
    client: Arc<rustls::ClientConfig>,
    cluster: &Cluster,
) -> (Listener, Connect<TcpStream>) {
    let mut seed = subject("seed-1", Role::Seed);
    seed.names = vec!["127.0.0.1".to_owned()];
    let issued = cluster.authority.issue(&seed, 30).unwrap();
    let identity = cluster.load(&issued, SystemTime::now()).unwrap();
    let listener = Listener::bind(loopback(), Security::Tls(Arc::new(identity))).unwrap();
    let address = listener.local_addr().unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    let connect = TlsConnector::from(client).connect(server_name(), tcp);
    (listener, connect)
}

#[tokio::test]
async fn a_hello_that_contradicts_the_certificate_is_refused() {
    let cluster = Cluster::new("prod");
    let client = cluster
        .identity("node-1", Role::Node)
        .client_config(&[b"hawker/1"]);
    let (mut listener, connect) = tls_link(client, &cluster).await;
    let said = async {
        let mut stream = connect.await.unwrap();
        stream
            .write_all(&hello("node-2", (3, 3), ""))
            .await
            .unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    let (heard, answer) = tokio::join!(listener.accept(), said);
    let heard = heard.unwrap_err().to_string();
    assert!(heard.contains("calls itself node node-2, and its certificate says node node-1"));
    let (code, text) = refusal(&answer);
    assert_eq!(code, ErrorCode::FalseHello.to_u16());
    assert!(text.contains("your certificate says node node-1"), "{text}");
}

#[tokio::test]
async fn no_certificate_is_refused() {
    let cluster = Cluster::new("prod");
    let authority = CertificateDer::from_pem_slice(cluster.authority.cert_pem().as_bytes());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.unwrap()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut client = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"hawker/1".to_vec()];
    let (mut listener, connect) = tls_link(client.into(), &cluster).await;
    let said = async {
        let mut stream = connect.await.unwrap();
        explain_io(&stream.read(&mut [0; 8]).await.unwrap_err())
    };
    let (heard, said) = tokio::join!(listener.accept(), said);
    let heard = heard.unwrap_err().to_string();
    assert!(
        heard.contains("the peer presented no certificate"),
        "{heard}"
    );
    assert!(
        said.contains("none was presented, and the peer requires one"),
        "{said}"
    );
}

#[tokio::test]
async fn a_silent_stranger_holds_up_nobody_and_is_dropped() {
    let (mut listener, mut stranger) = plain_link().await;
    let address = listener.local_addr().unwrap();
    let dialer = Dialer::new(plain("node-1", Role::Node));
    let wanted = HostId::parse("seed-1").unwrap();
    let (accepted, dialed) = tokio::join!(listener.accept(), dialer.dial(&wanted, address));
    assert_eq!(accepted.unwrap().peer.host.as_str(), "node-1");
    dialed.unwrap();
    let heard = timeout(Duration::from_secs(7), listener.accept())
        .await
        .unwrap();
    let heard = heard.unwrap_err().to_string();
    assert!(
        heard.contains("did not complete the handshake in 5s"),
        "{heard}"
    );
    assert_eq!(stranger.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn probes_of_the_port_are_told_from_peers() {
    let cluster = Cluster::new("prod");
    let seeds = [
        plain("seed-1", Role::Seed),
        tls(&cluster, "seed-1", Role::Seed),
    ];
    for seed in seeds {
        let mut listener = Listener::bind(loopback(), seed).unwrap();
        let address = listener.local_addr().unwrap();
        drop(TcpStream::connect(address).await.unwrap());
        let probed = listener.accept().await.unwrap_err();
        assert!(probed.is_probe(), "{probed}");
        let mut stranger = TcpStream::connect(address).await.unwrap();
        stranger.write_all(b"SSH-2.0-OpenSSH_9\r\n").await.unwrap();
        let refused = listener.accept().await.unwrap_err();
        assert!(!refused.is_probe(), "{refused}");
    }
}

#[tokio::test]
async fn nobody_at_the_address_is_said_so() {
    let free = TcpListener::bind(loopback())
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let dialer = Dialer::new(plain("node-1", Role::Node));
    let error = dialer
        .dial(&HostId::parse("seed-1").unwrap(), free)
        .await
        .unwrap_err();
    assert!(error.is_retryable());
    let text = error.to_string();
    assert!(
        text.contains("cannot connect to seed-1 at 127.0.0.1"),
        "{text}"
    );
}
