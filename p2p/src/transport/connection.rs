//! An established connection: who is there, and its two halves.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hawker_identity::CertificateId;
use hawker_model::{HostId, Role};
use hawker_swarm::Abilities;

use super::{
    FrameReader, FrameWriter,
    frame::Credentials,
    pulse::Pulse,
    stream::{ReadSide, WriteSide},
};

/// The other side of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name: proven by its certificate, except on a plain transport.
    pub host: HostId,
    /// Its role, which is `Node` or `Seed`; proven likewise.
    pub role: Role,
    /// What it can do beyond the version.
    pub abilities: Abilities,
    /// In which zone it says that it is; empty: it does not know.
    pub zone: String,
    /// Where the connection leads. An accepted connection's port is not the one it listens on.
    pub address: SocketAddr,
    /// The version spoken.
    pub version: u16,
    /// The certificate that proves it; `None` on a plain transport.
    pub certificate: Option<CertificateId>,
}

/// A connection to a peer. Its halves may be used in tasks of their own; the connection ends when
/// both are dropped, when either side says goodbye, or on an error.
#[derive(Debug)]
pub struct Connection {
    pub peer: Peer,
    pub reader: FrameReader,
    pub writer: FrameWriter,
}

/// When a connection is kept alive, and when it is given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// After so long without a frame of ours the peer gets a ping.
    pub(super) quiet: Duration,
    /// A peer of which no byte is heard for so long is dead: it pings long before.
    pub(super) silence: Duration,
    /// A peer that takes no byte for so long is given up.
    pub(super) stall: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            quiet: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            stall: Duration::from_secs(30),
        }
    }
}

/// Both halves of a socket on which nothing was sent yet.
pub(super) fn halves(
    (read, write): (ReadSide, WriteSide),
    credentials: Credentials,
    timing: Timing,
) -> (FrameReader, FrameWriter) {
    let pulse = Arc::new(Pulse::default());
    let reader = FrameReader::new(read, timing, pulse.clone());
    (reader, FrameWriter::new(write, credentials, timing, pulse))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use hawker_model::{Digest, PieceIndex, TaskId};
    use hawker_swarm::{Envelope, Message};
    use tokio::{
        io::AsyncWriteExt as _,
        net::{TcpListener, TcpStream},
        task::JoinSet,
        time::{Instant, timeout},
    };

    use super::*;
    use crate::{
        extent::Extent,
        transport::{
            WireError,
            frame::{Hello, PREFACE, encode_hello, encode_piece_header},
            piece_memory::{Room, SHORT_LEN, TRIAL},
            stream,
        },
    };

    /// Fast enough to test, slow enough for a busy machine.
    const FAST: Timing = Timing {
        quiet: Duration::from_millis(100),
        silence: Duration::from_millis(800),
        stall: Duration::from_millis(400),
    };

    type Halves = (FrameReader, FrameWriter);

    async fn pair() -> (Halves, Halves) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
        let sockets = [one.unwrap(), other.unwrap().0];
        let [one, other] = sockets.map(|tcp| halves(stream::plain(tcp), Credentials::Strip, FAST));
        let ((mut one, mut other), hello) = ((one, other), hello());
        one.1.hello(&hello).await.unwrap();
        other.1.hello(&hello).await.unwrap();
        assert_eq!(one.0.hello().await.unwrap(), hello);
        assert_eq!(other.0.hello().await.unwrap(), hello);
        (one, other)
    }

    fn hello() -> Hello {
        Hello {
            min_version: 2,
            max_version: 2,
            capabilities: 0,
            role: Role::Node,
            host: HostId::parse("node-1").unwrap(),
            wanted: None,
            zone: String::new(),
        }
    }

    fn piece() -> Envelope {
        let message = Message::Piece {
            piece: PieceIndex(0),
            data: vec![0; 4 << 20].into(),
        };
        let task = TaskId::Blob(Digest::of(b"layer"));
        Envelope { task, message }
    }

    fn leave() -> Envelope {
        let message = Message::Leave;
        Envelope { message, ..piece() }
    }

    async fn live(writer: &mut FrameWriter) {
        loop {
            writer.keep_alive().await;
            writer.flush().await.unwrap();
        }
    }

    #[tokio::test]
    async fn quiet_peers_keep_each_other_alive() {
        let (mut one, mut other) = pair().await;
        let lives = async {
            tokio::select! {
                () = live(&mut one.1) => {}
                () = live(&mut other.1) => {}
                end = one.0.next() => panic!("{end:?}"),
                end = other.0.next() => panic!("{end:?}"),
            }
        };
        assert!(timeout(FAST.silence * 2, lives).await.is_err());
    }

    #[tokio::test]
    async fn pings_are_answered() {
        let (mut one, mut other) = pair().await;
        one.1.keep_alive().await;
        one.1.flush().await.unwrap();
        let pong = [9, 0, 0, 0, 5, 1, 0, 0, 0, 0, 0, 0, 0];
        let answered = async {
            while !other.1.fed().starts_with(&pong) {
                // Its own pings go out.
                other.1.flush().await.unwrap();
                tokio::select! {
                    () = other.1.keep_alive() => {}
                    end = other.0.next() => panic!("{end:?}"),
                }
            }
        };
        timeout(FAST.silence, answered).await.unwrap();
    }

    #[tokio::test]
    async fn a_living_peer_gives_a_sign_of_life_when_it_is_asked() {
        let (mut one, mut other) = pair().await;
        let pulse = one.0.pulse().clone();
        let asked = async { pulse.is_answered(pulse.ask(), FAST.quiet / 2).await };
        tokio::select! {
            answered = asked => assert!(answered),
            () = live(&mut one.1) => {}
            () = live(&mut other.1) => {}
            end = one.0.next() => panic!("{end:?}"),
            end = other.0.next() => panic!("{end:?}"),
        }
    }

    #[tokio::test]
    async fn a_peer_that_hangs_gives_no_sign_of_life_before_it_goes_on() {
        let (mut one, mut other) = pair().await;
        let pulse = one.0.pulse().clone();
        let asked = async {
            let asked = pulse.ask();
            assert!(!pulse.is_answered(asked, FAST.quiet / 2).await);
            assert!(timeout(FAST.quiet / 2, pulse.answer(asked)).await.is_err());
            tokio::select! {
                () = pulse.answer(asked) => {}
                () = live(&mut other.1) => {}
                end = other.0.next() => panic!("{end:?}"),
            }
        };
        tokio::select! {
            () = asked => {}
            () = live(&mut one.1) => {}
            end = one.0.next() => panic!("{end:?}"),
        }
    }

    /// It is we who do not read.
    #[tokio::test]
    async fn who_does_not_read_takes_nobody_for_silent() {
        let (mut one, _other) = pair().await;
        let pulse = one.0.pulse().clone();
        let asked = async { pulse.is_answered(pulse.ask(), FAST.quiet / 2).await };
        tokio::select! {
            answered = timeout(FAST.quiet * 4, asked) => assert!(answered.is_err()),
            () = live(&mut one.1) => {}
        }
    }

    #[tokio::test]
    async fn a_dead_peer_is_noticed() {
        let (mut one, _other) = pair().await;
        let start = Instant::now();
        let error = one.0.next().await.unwrap_err();
        assert!(matches!(error, WireError::Silent(_)), "{error}");
        assert!(start.elapsed() >= FAST.silence / 2);
    }

    #[tokio::test]
    async fn a_late_reader_does_not_take_a_living_peer_for_dead() {
        let (mut one, mut other) = pair().await;
        tokio::time::sleep(FAST.silence * 2).await;
        let envelope = leave();
        other.1.feed(&envelope).await.unwrap();
        other.1.flush().await.unwrap();
        tokio::time::sleep(FAST.silence / 3).await;
        assert_eq!(one.0.next().await.unwrap(), Some(envelope));
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (mut one, _other) = pair().await;
        let error = loop {
            if let Err(error) = one.1.feed(&piece()).await {
                break error;
            }
        };
        assert!(matches!(error, WireError::Stalled(_)), "{error}");
        let after = one.1.flush().await;
        assert!(matches!(after, Err(WireError::Broken)), "{after:?}");
    }

    /// The range of a file that has the bytes of [`patterned`] behind `before` others; the file ends
    /// at `len`.
    fn extent(before: usize, len: u64) -> Extent {
        let path = tempfile::NamedTempFile::new().unwrap();
        let Message::Piece { data, .. } = patterned().message else {
            panic!("no piece");
        };
        std::fs::write(&path, [&vec![7; before][..], &data[..]].concat()).unwrap();
        let file = std::fs::File::options().write(true).read(true).open(&path);
        let file = file.unwrap();
        file.set_len(len.min(before as u64 + data.len() as u64))
            .unwrap();
        let start = before as u64;
        Extent::new(Arc::new(file), start..start + data.len() as u64)
    }

    fn patterned() -> Envelope {
        let data: Vec<u8> = (0..3 << 20).map(|at| (at * 31 + at / 251) as u8).collect();
        let message = Message::Piece {
            piece: PieceIndex(5),
            data: data.into(),
        };
        Envelope { message, ..piece() }
    }

    #[tokio::test]
    async fn a_piece_in_a_file_arrives_between_other_frames() {
        let (mut one, mut other) = pair().await;
        let (wanted, leave) = (patterned(), leave());
        let sent = async {
            one.1.feed(&leave).await.unwrap();
            let extent = extent(1000, u64::MAX);
            let piece = PieceIndex(5);
            one.1
                .feed_extent(&wanted.task, piece, &extent)
                .await
                .unwrap();
            one.1.feed(&leave).await.unwrap();
            one.1.flush().await.unwrap();
        };
        let received = async {
            for wanted in [&leave, &wanted, &leave] {
                assert_eq!(other.0.next().await.unwrap().as_ref(), Some(wanted));
            }
        };
        tokio::join!(sent, received);
    }

    #[tokio::test]
    async fn a_piece_that_cannot_be_read_at_all_leaves_the_connection_sound() {
        let (mut one, mut other) = pair().await;
        let (task, extent) = (patterned().task, extent(0, 0));
        let fed = one.1.feed_extent(&task, PieceIndex(5), &extent).await;
        // Where the file system cannot tell before the header is out, the connection is broken.
        match (fed, one.1.feed(&leave()).await) {
            (Err(WireError::Unreadable(_)), Err(WireError::Broken)) => {}
            (Err(WireError::Unreadable(_)), Ok(())) => {
                one.1.flush().await.unwrap();
                assert_eq!(other.0.next().await.unwrap(), Some(leave()));
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_file_that_ends_within_a_piece_breaks_the_connection() {
        let (mut one, mut other) = pair().await;
        let (task, extent) = (patterned().task, extent(0, 1 << 20));
        let sent = async {
            let fed = one.1.feed_extent(&task, PieceIndex(5), &extent).await;
            assert!(matches!(fed, Err(WireError::Unreadable(_))), "{fed:?}");
            let after = one.1.flush().await;
            assert!(matches!(after, Err(WireError::Broken)), "{after:?}");
            drop(one);
        };
        let received = async {
            let end = other.0.next().await;
            assert!(matches!(end, Err(WireError::Closed)), "{end:?}");
        };
        tokio::join!(sent, received);
    }

    /// A reader that shares a room, and the socket of its peer, which has begun to send a piece.
    async fn beginner(room: &'static Room) -> (FrameReader, FrameWriter, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (peer, own) = tokio::join!(TcpStream::connect(address), listener.accept());
        let own = stream::plain(own.unwrap().0);
        let (mut reader, writer) = halves(own, Credentials::Strip, FAST);
        reader.room = room;
        let mut said = BytesMut::from(&PREFACE[..]);
        encode_hello(&hello(), &mut said);
        encode_piece_header(&piece().task, PieceIndex(0), 4 << 20, &mut said).unwrap();
        let mut peer = peer.unwrap();
        peer.write_all(&said).await.unwrap();
        assert_eq!(reader.hello().await.unwrap(), hello());
        (reader, writer, peer)
    }

    /// Sends a piece's bytes so many at a time, until it is out or nobody takes it.
    async fn trickle(peer: &mut TcpStream, len: usize) {
        for _ in 0..(4 << 20) / len {
            if peer.write_all(&vec![0; len]).await.is_err() {
                return;
            }
            tokio::time::sleep(FAST.silence / 8).await;
        }
    }

    #[tokio::test]
    async fn a_slow_piece_takes_its_time_where_nobody_waits_for_room() {
        let room = Box::leak(Box::new(Room::new(8 << 20)));
        let (mut reader, _writer, mut peer) = beginner(room).await;
        let start = Instant::now();
        let (next, ()) = tokio::join!(reader.next(), trickle(&mut peer, 1 << 17));
        assert_eq!(next.unwrap(), Some(piece()));
        assert!(start.elapsed() > 2 * FAST.silence);
    }

    #[tokio::test]
    async fn pieces_that_never_end_hold_no_more_than_the_room_and_are_given_up_for_others() {
        let room = Box::leak(Box::new(Room::new(8 << 20)));
        let mut lies = JoinSet::new();
        for _ in 0..2 {
            let (mut reader, _writer, mut peer) = beginner(room).await;
            lies.spawn(async move {
                tokio::select! {
                    end = reader.next() => end,
                    () = trickle(&mut peer, 1) => panic!("it was to be given up"),
                }
            });
        }
        tokio::time::sleep(FAST.quiet).await;
        let (mut reader, _writer, mut peer) = beginner(room).await;
        let honest = async {
            let (next, ()) = tokio::join!(reader.next(), trickle(&mut peer, 1 << 20));
            next.unwrap()
        };
        assert_eq!(timeout(3 * TRIAL, honest).await.unwrap(), Some(piece()));
        let end = lies.join_next().await.unwrap().unwrap();
        assert!(matches!(end, Err(WireError::Tardy(_))), "{end:?}");
    }

    #[tokio::test]
    async fn short_pieces_do_not_wait_for_those_that_never_end() {
        let room = Box::leak(Box::new(Room::new(0)));
        let (mut one, mut other) = pair().await;
        one.0.room = room;
        let data = vec![7; SHORT_LEN].into();
        let message = Message::Piece {
            piece: PieceIndex(1),
            data,
        };
        let short = Envelope { message, ..piece() };
        let sent = async {
            other.1.feed(&short).await.unwrap();
            other.1.flush().await.unwrap();
        };
        let (next, ()) = tokio::join!(one.0.next(), sent);
        assert_eq!(next.unwrap(), Some(short));
    }

    #[tokio::test]
    async fn a_host_has_one_long_piece_arriving_over_all_its_connections() {
        let room = Box::leak(Box::new(Room::new(64 << 20)));
        let (mut one, _writer, _peer) = beginner(room).await;
        let (mut two, _other_writer, mut other_peer) = beginner(room).await;
        two.share_with(one.share());
        assert!(timeout(FAST.quiet, one.next()).await.is_err());
        let both = async { tokio::join!(two.next(), trickle(&mut other_peer, 4 << 20)).0 };
        assert!(timeout(FAST.quiet, both).await.is_err());
        drop(one);
        let both = async { tokio::join!(two.next(), trickle(&mut other_peer, 4 << 20)).0 };
        assert_eq!(both.await.unwrap(), Some(piece()));
    }

    #[tokio::test]
    async fn a_piece_has_its_room_until_the_next_call() {
        let room = Box::leak(Box::new(Room::new(4 << 20)));
        let (mut one, _writer, mut peer) = beginner(room).await;
        let (next, ()) = tokio::join!(one.next(), trickle(&mut peer, 4 << 20));
        assert_eq!(next.unwrap(), Some(piece()));
        assert!(timeout(FAST.quiet, room.enter(1)).await.is_err());
        assert!(timeout(FAST.quiet, one.next()).await.is_err());
        assert!(timeout(FAST.quiet, room.enter(1)).await.is_ok());
    }

    #[tokio::test]
    async fn a_cancelled_write_breaks_the_connection_instead_of_confusing_the_peer() {
        let (mut one, _other) = pair().await;
        let (fed, start) = (piece(), Instant::now());
        while timeout(FAST.stall / 10, one.1.feed(&fed)).await.is_ok() {
            assert!(start.elapsed() < Duration::from_secs(5), "nobody reads");
        }
        let after = one.1.feed(&fed).await;
        assert!(matches!(after, Err(WireError::Broken)), "{after:?}");
    }
}
