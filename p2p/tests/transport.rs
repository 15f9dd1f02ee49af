//! Two hosts on real sockets.

#![allow(clippy::unwrap_used)]

mod cluster;

use std::{net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use cluster::Cluster;
use hawker_model::{
    ChainState, Digest, Geometry, HostId, PieceIndex, PieceSet, Role, SignedStates, TaskId,
};
use hawker_p2p::{
    AcceptError, Connection, DialError, Dialer, ErrorCode, Listener, Security, WireError,
    frame::{Hello, PREFACE, encode_hello},
};
use hawker_swarm::{Envelope, Message, Secret, Source};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

fn plain(host: &str, role: Role) -> Security {
    Security::Plain {
        host: HostId::parse(host).unwrap(),
        role,
    }
}

fn tls_pair() -> (Security, Security) {
    let cluster = Cluster::new("prod");
    let seed = Security::Tls(cluster.identity("seed-1", Role::Seed));
    (seed, Security::Tls(cluster.identity("node-1", Role::Node)))
}

fn plain_pair() -> (Security, Security) {
    (plain("seed-1", Role::Seed), plain("node-1", Role::Node))
}

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn listener(security: Security) -> (Listener, SocketAddr) {
    let listener = Listener::bind(loopback(), security).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn seed_1() -> HostId {
    HostId::parse("seed-1").unwrap()
}

async fn meet(
    acceptor: Security,
    dialer: Security,
    wanted: &str,
) -> (
    Result<Connection, AcceptError>,
    Result<Connection, DialError>,
) {
    let (mut listener, address) = listener(acceptor);
    let wanted = HostId::parse(wanted).unwrap();
    let dialer = Dialer::new(dialer);
    let both = async { tokio::join!(listener.accept(), dialer.dial(&wanted, address)) };
    timeout(Duration::from_secs(10), both).await.unwrap()
}

async fn connected((acceptor, dialer): (Security, Security)) -> (Connection, Connection) {
    let (accepted, dialed) = meet(acceptor, dialer, "seed-1").await;
    (accepted.unwrap(), dialed.unwrap())
}

fn about(message: Message) -> Envelope {
    let task = TaskId::Blob(Digest::of(b"layer"));
    Envelope { task, message }
}

fn piece(piece: u32, len: usize) -> Envelope {
    let data: Vec<u8> = (0..len).map(|at| (at * 31 + at / 251) as u8).collect();
    let (piece, data) = (PieceIndex(piece), Bytes::from(data));
    about(Message::Piece { piece, data })
}

fn conversation() -> Vec<Envelope> {
    let source = Source {
        url: "https://registry.example/v2/app/blobs/sha256:00".to_owned(),
        authorization: Some(Secret::new("Bearer xyz")),
    };
    vec![
        about(Message::Join {
            source: Some(source),
        }),
        about(Message::Head {
            geometry: Geometry::for_length(10 << 20).unwrap(),
        }),
        about(Message::Have {
            pieces: PieceSet::full(160),
        }),
        piece(0, 64 << 10),
        piece(159, 1),
        about(Message::Request {
            piece: PieceIndex(7),
        }),
        piece(3, 4 << 20),
        about(Message::Leave),
    ]
}

#[tokio::test]
async fn peers_know_each_other_by_their_certificates() {
    let (accepted, dialed) = connected(tls_pair()).await;
    assert_eq!(accepted.peer.host.as_str(), "node-1");
    assert_eq!(accepted.peer.role, Role::Node);
    assert_eq!((dialed.peer.host, dialed.peer.role), (seed_1(), Role::Seed));
    assert_eq!((accepted.peer.version, dialed.peer.version), (3, 3));
}

#[tokio::test]
async fn messages_arrive_as_they_were_sent_either_way() {
    let (mut accepted, mut dialed) = connected(tls_pair()).await;
    let there = async {
        for envelope in conversation() {
            dialed.writer.feed(&envelope).await.unwrap();
            accepted.writer.feed(&envelope).await.unwrap();
        }
        dialed.writer.flush().await.unwrap();
        accepted.writer.flush().await.unwrap();
    };
    let here = async {
        for envelope in conversation() {
            assert_eq!(accepted.reader.next().await.unwrap(), Some(envelope));
        }
    };
    let back = async {
        for envelope in conversation() {
            assert_eq!(dialed.reader.next().await.unwrap(), Some(envelope));
        }
    };
    tokio::join!(there, here, back);
}

#[tokio::test]
async fn plain_connections_carry_no_credentials() {
    let (mut accepted, mut dialed) = connected(plain_pair()).await;
    let there = async {
        for envelope in conversation() {
            dialed.writer.feed(&envelope).await.unwrap();
        }
        dialed.writer.flush().await.unwrap();
    };
    let here = async {
        for envelope in conversation() {
            let arrived = accepted.reader.next().await.unwrap().unwrap();
            match arrived.message {
                Message::Join { source } => assert_eq!(source.unwrap().authorization, None),
                _ => assert_eq!(arrived, envelope),
            }
        }
    };
    tokio::join!(there, here);
}

#[tokio::test]
async fn goodbye_is_told_from_a_lost_connection() {
    let (accepted, mut dialed) = connected(tls_pair()).await;
    accepted
        .writer
        .goodbye("not needed any more")
        .await
        .unwrap();
    assert_eq!(dialed.reader.next().await.unwrap(), None);
    assert_eq!(dialed.reader.goodbye(), Some("not needed any more"));
    for pair in [tls_pair(), plain_pair()] {
        let (accepted, mut dialed) = connected(pair).await;
        drop(accepted);
        let end = dialed.reader.next().await;
        assert!(matches!(end, Err(WireError::Closed)), "{end:?}");
    }
}

#[tokio::test]
async fn a_cancelled_receive_loses_nothing() {
    for pair in [tls_pair(), plain_pair()] {
        let (mut accepted, mut dialed) = connected(pair).await;
        let sent = async {
            for number in 0..4 {
                accepted.writer.feed(&piece(number, 1 << 20)).await.unwrap();
                accepted.writer.feed(&about(Message::Leave)).await.unwrap();
                accepted.writer.flush().await.unwrap();
            }
            accepted
        };
        let received = async {
            let (mut received, mut cancelled) = (Vec::new(), 0);
            while received.len() < 8 {
                tokio::select! {
                    biased;
                    envelope = dialed.reader.next() => received.push(envelope.unwrap().unwrap()),
                    () = tokio::task::yield_now() => cancelled += 1,
                }
            }
            assert!(cancelled > 0, "nothing was tested");
            received
        };
        let (_accepted, received) = tokio::join!(sent, received);
        for (number, pair) in (0..).zip(received.chunks(2)) {
            assert_eq!(pair, [piece(number, 1 << 20), about(Message::Leave)]);
        }
    }
}

#[tokio::test]
async fn what_cannot_be_sent_leaves_the_connection_as_it_was() {
    let (mut accepted, mut dialed) = connected(tls_pair()).await;
    let beyond = about(Message::Request {
        piece: PieceIndex(1 << 20),
    });
    let refused = dialed.writer.feed(&beyond).await;
    assert!(
        matches!(refused, Err(WireError::Unsendable(_))),
        "{refused:?}"
    );
    dialed.writer.feed(&about(Message::Leave)).await.unwrap();
    dialed.writer.flush().await.unwrap();
    assert_eq!(
        accepted.reader.next().await.unwrap(),
        Some(about(Message::Leave))
    );
}

#[tokio::test]
async fn a_refusal_after_the_set_up_is_told() {
    let (accepted, mut dialed) = connected(tls_pair()).await;
    let told = accepted
        .writer
        .refuse(ErrorCode::Protocol, "pieces nobody asked for");
    told.await.unwrap();
    let error = dialed.reader.next().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the peer ended the connection: pieces nobody asked for"
    );
}

#[tokio::test]
async fn a_hundred_peers_at_once_are_accepted() {
    let cluster = Cluster::new("prod");
    let (mut listener, address) = listener(Security::Tls(cluster.identity("seed-1", Role::Seed)));
    let dialer = Dialer::new(Security::Tls(cluster.identity("node-1", Role::Node)));
    let mut dials = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let dialer = dialer.clone();
        dials.spawn(async move { dialer.dial(&seed_1(), address).await.map(drop) });
    }
    for _ in 0..100 {
        listener.accept().await.unwrap();
    }
    while let Some(dialed) = dials.join_next().await {
        dialed.unwrap().unwrap();
    }
}

#[tokio::test]
async fn each_side_hears_in_which_zone_the_other_is() {
    let (acceptor, dialer) = plain_pair();
    let (listener, address) = listener(acceptor);
    let mut listener = listener.in_zone("rack-1");
    let dialer = Dialer::new(dialer).in_zone("rack-2");
    let wanted = seed_1();
    let both = async { tokio::join!(listener.accept(), dialer.dial(&wanted, address)) };
    let (accepted, dialed) = timeout(Duration::from_secs(10), both).await.unwrap();
    assert_eq!(accepted.unwrap().peer.zone, "rack-2");
    assert_eq!(dialed.unwrap().peer.zone, "rack-1");
}

/// How many bytes each of two lists with one signer takes to a host of these capabilities.
async fn lens_of_lists(capabilities: u64) -> [usize; 2] {
    let (mut listener, address) = listener(plain("seed-1", Role::Seed));
    let mut dialed = TcpStream::connect(address).await.unwrap();
    let hello = Hello {
        min_version: 3,
        max_version: 3,
        capabilities,
        role: Role::Node,
        host: HostId::parse("node-1").unwrap(),
        wanted: None,
        zone: String::new(),
    };
    let mut said = BytesMut::from(&PREFACE[..]);
    encode_hello(&hello, &mut said);
    dialed.write_all(&said).await.unwrap();
    let mut accepted = listener.accept().await.unwrap();
    for first in [0, 1] {
        let batch = SignedStates {
            first: PieceIndex(first),
            states: vec![ChainState::initial()],
            origin: None,
            signer: vec![0x30; 500].into(),
            signature: vec![0; 64],
        };
        let list = about(Message::List { batch });
        accepted.writer.feed(&list).await.unwrap();
    }
    accepted.writer.flush().await.unwrap();
    dialed.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
    let mut lens = [0; 3];
    for len in &mut lens {
        *len = dialed.read_u32_le().await.unwrap() as usize;
        dialed.read_exact(&mut vec![0; *len]).await.unwrap();
    }
    [lens[1], lens[2]]
}

#[tokio::test]
async fn certificates_go_out_by_number_to_those_who_understand_that() {
    let [before, after] = lens_of_lists(1).await;
    assert_eq!(before, after, "a host of an older version gets each whole");
    let [whole, numbered] = lens_of_lists(3).await;
    assert_eq!([whole, numbered], [before, before - 500]);
}
