//! Every frame both ways, and against the examples of `docs/wire.md`.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use hawker_model::{
    ChainState, Digest, Geometry, HostId, OriginName, PieceIndex, PieceSet, Role, SignedStates,
    TaskId,
};
use hawker_swarm::{
    Envelope, GivenManifest, ManifestWish, Message, Refusal, Resolution, Secret, Source,
    SourceMark, Verdict,
};
use proptest::prelude::*;

use super::*;
use crate::transport::Decoder;

/// Appends any frame, whole.
fn encode(frame: &Frame, out: &mut BytesMut) {
    match frame {
        Frame::Hello(hello) => encode_hello(hello, out),
        Frame::Error { code, text } => encode_error(*code, text, out),
        Frame::Goodbye { reason } => encode_goodbye(reason, out),
        Frame::Ping { nonce } => encode_ping(*nonce, out),
        Frame::Pong { nonce } => encode_pong(*nonce, out),
        Frame::Message(envelope) => {
            let data = encode_message(envelope, Credentials::Send, None, out).unwrap();
            out.extend_from_slice(&data);
        }
        Frame::Ignored { kind } => out.put_slice(&[3, 0, 0, 0, *kind, 7, 7]),
    }
}

fn hello() -> Hello {
    Hello {
        min_version: 2,
        max_version: 2,
        capabilities: 0,
        role: Role::Node,
        host: HostId::parse("node-1").unwrap(),
        wanted: Some(HostId::parse("seed-1").unwrap()),
        zone: "rack-3".to_owned(),
    }
}

/// A decoder that has heard preface and hello.
fn greeted() -> Decoder {
    let mut bytes = BytesMut::from(&PREFACE[..]);
    encode_hello(&hello(), &mut bytes);
    let mut decoder = Decoder::new();
    assert_eq!(
        decode(&mut decoder, &bytes, usize::MAX),
        Ok(vec![Frame::Hello(hello())])
    );
    decoder
}

/// Feeds bytes, in reads of at most `step`, as far as they decode.
fn decode(decoder: &mut Decoder, mut bytes: &[u8], step: usize) -> Result<Vec<Frame>, FrameError> {
    let mut frames = Vec::new();
    loop {
        while let Some(frame) = decoder.next_frame()? {
            frames.push(frame);
        }
        if decoder.at_the_door().is_some() {
            decoder.let_in();
            continue;
        }
        if bytes.is_empty() {
            return Ok(frames);
        }
        let mut space = decoder.space();
        let len = step.min(bytes.len()).min(space.remaining_mut());
        space.put_slice(&bytes[..len]);
        bytes = &bytes[len..];
        assert!(
            decoder.capacity() <= MEMORY,
            "{} bytes held",
            decoder.capacity()
        );
    }
}

/// What a decoder may hold: a list and one read, doubled by growth, and a piece.
const MEMORY: usize = (512 << 10) + MAX_PIECE_LEN as usize;

fn task() -> TaskId {
    TaskId::Blob(Digest::from_bytes([0x11; 32]))
}

fn about(message: Message) -> Frame {
    let task = task();
    Frame::Message(Envelope { task, message })
}

/// One frame of every kind, under its name in `docs/wire.md`.
fn examples() -> Vec<(&'static str, Frame)> {
    let piece = PieceIndex(5);
    let mut pieces = PieceSet::empty(10);
    pieces.insert_range(0..3);
    pieces.insert(PieceIndex(9));
    let source = Source {
        url: "http://o/b".to_owned(),
        authorization: Some(Secret::new("Basic eA==")),
    };
    let batch = SignedStates {
        first: PieceIndex(0),
        states: vec![ChainState::from_bytes([0x22; 32])],
        origin: OriginName::of_url("http://o/b"),
        signer: Arc::from([0x30, 0x00]),
        signature: vec![0x33; 64],
    };
    let control = [
        ("Hello", Frame::Hello(hello())),
        (
            "Error",
            Frame::Error {
                code: ErrorCode::Version,
                text: "no".to_owned(),
            },
        ),
        (
            "Goodbye",
            Frame::Goodbye {
                reason: "bye".to_owned(),
            },
        ),
        ("Ping", Frame::Ping { nonce: 1 }),
        ("Pong", Frame::Pong { nonce: 1 }),
    ];
    let geometry = Geometry::new(600_000, 64 << 10).unwrap();
    let data = Bytes::from_static(b"data");
    let verdict = |verdict| Message::Verdict { number: 7, verdict };
    let resolved = |resolution| Message::Resolved {
        number: 7,
        resolution,
    };
    let manifest = |bytes| Some(Resolution::Given(given(b"{}", bytes)));
    let messages = [
        ("Join", Message::Join { source: None }),
        (
            "Join with source",
            Message::Join {
                source: Some(source.clone()),
            },
        ),
        ("Head", Message::Head { geometry }),
        ("Have", Message::Have { pieces }),
        (
            "Gained",
            Message::Gained {
                pieces: vec![piece, PieceIndex(6)],
            },
        ),
        ("List", Message::List { batch }),
        ("Request", Message::Request { piece }),
        ("RequestAny", Message::RequestAny { credit: 16 }),
        ("Cancel", Message::Cancel { piece }),
        ("Piece", Message::Piece { piece, data }),
        (
            "Refuse",
            Message::Refuse {
                piece: Some(piece),
                reason: Refusal::Missing,
            },
        ),
        (
            "Refuse task",
            Message::Refuse {
                piece: None,
                reason: Refusal::UnknownTask,
            },
        ),
        ("Leave", Message::Leave),
        (
            "Claim",
            Message::Claim {
                number: 7,
                source: source.clone(),
            },
        ),
        ("Heard", Message::Heard { number: 7 }),
        ("Verdict unjudged", verdict(None)),
        (
            "Verdict granted",
            verdict(Some(Verdict::Granted {
                length: Some(600_000),
                held: true,
            })),
        ),
        (
            "Verdict denied",
            verdict(Some(Verdict::Denied {
                status: 401,
                challenges: vec!["Basic".to_owned()],
            })),
        ),
        ("Verdict not found", verdict(Some(Verdict::NotFound))),
        (
            "Verdict failed",
            verdict(Some(Verdict::Failed("no".to_owned()))),
        ),
        (
            "Renew",
            Message::Renew {
                refused: source.mark(),
            },
        ),
        ("Doubt", Message::Doubt { piece }),
        (
            "Resolve",
            Message::Resolve {
                number: 7,
                wish: ManifestWish {
                    source,
                    accept: "*/*".to_owned(),
                    whole: true,
                },
            },
        ),
        ("Resolved unjudged", resolved(None)),
        ("Resolved given", resolved(manifest(true))),
        ("Resolved told", resolved(manifest(false))),
        (
            "Resolved denied",
            resolved(Some(Resolution::Denied {
                status: 401,
                challenges: vec!["Basic".to_owned()],
            })),
        ),
        ("Resolved not found", resolved(Some(Resolution::NotFound))),
        (
            "Resolved failed",
            resolved(Some(Resolution::Failed("no".to_owned()))),
        ),
    ];
    let messages = messages.map(|(name, message)| (name, about(message)));
    control.into_iter().chain(messages).collect()
}

/// A manifest of type `a/b`.
fn given(bytes: &[u8], whole: bool) -> GivenManifest {
    GivenManifest {
        digest: Digest::of(bytes),
        media_type: "a/b".to_owned(),
        length: bytes.len() as u64,
        bytes: whole.then(|| Bytes::copy_from_slice(bytes)),
    }
}

/// The example of `docs/wire.md` with this name, as hex digits.
fn documented(name: &str) -> Option<String> {
    let document = include_str!("../../../docs/wire.md");
    let line = document
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.chars().filter(char::is_ascii_hexdigit).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn frames_are_as_documented() {
    for (name, frame) in examples() {
        let mut bytes = BytesMut::new();
        encode(&frame, &mut bytes);
        let documented = documented(name).unwrap_or_default();
        assert_eq!(hex(&bytes), documented, "{name}");
    }
    assert_eq!(documented("Preface"), Some(hex(&PREFACE)));
}

/// The numbers of a table's cell: `34–24,615`.
fn numbers(cell: &str) -> Vec<usize> {
    let parts = cell.trim().split('–');
    parts
        .map(|part| part.replace(',', "").parse().unwrap())
        .collect()
}

#[test]
fn limits_are_as_documented() {
    let document = include_str!("../../../docs/wire.md");
    let rows = document.lines().filter(|line| line.starts_with("| 0x"));
    let mut seen = 0;
    for row in rows {
        let cells: Vec<_> = row.split('|').collect();
        let byte = cells[1].trim().trim_start_matches("0x");
        let kind = Kind::from_byte(u8::from_str_radix(byte, 16).unwrap()).unwrap();
        assert_eq!(cells[2].trim(), format!("`{kind}`"));
        let (min, max) = kind.body_len();
        let documented = numbers(cells[3]);
        let ends = [documented.first(), documented.last()];
        assert_eq!(ends, [Some(&min), Some(&max)], "{kind}");
        seen += 1;
    }
    assert_eq!(seen, 23);
}

#[test]
fn documented_frames_decode() {
    for (name, frame) in examples() {
        let mut bytes = BytesMut::new();
        encode(&frame, &mut bytes);
        match frame {
            Frame::Hello(_) => {
                let repeated = decode(&mut greeted(), &bytes, 1);
                assert_eq!(repeated, Err(FrameError::SecondHello));
            }
            frame => {
                let decoded = decode(&mut greeted(), &bytes, 1);
                assert_eq!(decoded, Ok(vec![frame]), "{name}");
            }
        }
    }
}

#[test]
fn optional_frames_are_skipped_and_others_not() {
    let mut bytes = BytesMut::new();
    encode(&Frame::Ignored { kind: 0x91 }, &mut bytes);
    encode(&Frame::Ping { nonce: 9 }, &mut bytes);
    let frames = decode(&mut greeted(), &bytes, usize::MAX).unwrap();
    assert_eq!(
        frames,
        [Frame::Ignored { kind: 0x91 }, Frame::Ping { nonce: 9 }]
    );
    let unknown = decode(&mut greeted(), &[1, 0, 0, 0, 0x40], usize::MAX);
    assert_eq!(unknown, Err(FrameError::UnknownKind(0x40)));
}

#[test]
fn lengths_are_refused_before_memory_is_taken() {
    for byte in 0..=u8::MAX {
        let mut bytes = u32::MAX.to_le_bytes().to_vec();
        bytes.push(byte);
        assert!(
            decode(&mut greeted(), &bytes, usize::MAX).is_err(),
            "kind {byte:#x}"
        );
    }
    let empty = decode(&mut greeted(), &[0, 0, 0, 0, 0x04], usize::MAX);
    assert!(matches!(empty, Err(FrameError::Length { len: 0, .. })));
}

#[test]
fn appended_fields_of_a_later_hello_are_ignored() {
    let mut bytes = BytesMut::from(&PREFACE[..]);
    framed(Kind::Hello, &mut bytes, |out| {
        hello().encode(out);
        out.put_slice(b"something new");
    });
    let frames = decode(&mut Decoder::new(), &bytes, 3).unwrap();
    assert_eq!(frames, [Frame::Hello(hello())]);
}

#[test]
fn a_hello_of_a_version_without_zones_names_none() {
    let mut bytes = BytesMut::from(&PREFACE[..]);
    framed(Kind::Hello, &mut bytes, |out| {
        hello().encode(out);
        out.truncate(out.len() - 7);
    });
    let zone = String::new();
    let frames = decode(&mut Decoder::new(), &bytes, 3).unwrap();
    assert_eq!(frames, [Frame::Hello(Hello { zone, ..hello() })]);
}

#[test]
fn a_zone_with_control_characters_or_beyond_its_length_is_an_error() {
    for zone in ["\u{1b}[31m".to_owned(), "z".repeat(129)] {
        let mut bytes = BytesMut::from(&PREFACE[..]);
        framed(Kind::Hello, &mut bytes, |out| {
            hello().encode(out);
            out.truncate(out.len() - 7);
            out.put_u8(zone.len() as u8);
            out.put_slice(zone.as_bytes());
        });
        let decoded = decode(&mut Decoder::new(), &bytes, 3);
        assert!(
            matches!(decoded, Err(FrameError::Body { .. })),
            "{decoded:?}"
        );
    }
}

#[test]
fn long_gains_become_several_frames() {
    let pieces: Vec<_> = (0..10_000).map(PieceIndex).collect();
    let mut bytes = BytesMut::new();
    encode(
        &about(Message::Gained {
            pieces: pieces.clone(),
        }),
        &mut bytes,
    );
    let frames = decode(&mut greeted(), &bytes, usize::MAX).unwrap();
    assert_eq!(frames.len(), 3);
    let mut gained = Vec::new();
    for frame in frames {
        let Frame::Message(Envelope {
            message: Message::Gained { pieces },
            ..
        }) = frame
        else {
            panic!("{frame:?}");
        };
        gained.extend(pieces);
    }
    assert_eq!(gained, pieces);
}

#[test]
fn what_the_other_side_would_refuse_is_not_sent() {
    let beyond = PieceIndex(MAX_PIECES);
    let long = |url: usize, secret: usize| Source {
        url: "u".repeat(url),
        authorization: Some(Secret::new("s".repeat(secret))),
    };
    let source = |url, secret| Message::Join {
        source: Some(long(url, secret)),
    };
    let claim = |url, secret| Message::Claim {
        number: 0,
        source: long(url, secret),
    };
    let resolve = |source, accept: &str| Message::Resolve {
        number: 0,
        wish: ManifestWish {
            source,
            accept: accept.to_owned(),
            whole: true,
        },
    };
    let list = |first: u32, states: usize, signer: usize, signature: usize| Message::List {
        batch: SignedStates {
            first: PieceIndex(first),
            states: vec![ChainState::initial(); states],
            origin: None,
            signer: vec![0; signer].into(),
            signature: vec![0; signature],
        },
    };
    let data = |len: usize| Bytes::from(vec![0; len]);
    let unsendable = [
        source(0, 1),
        source(MAX_URL_LEN + 1, 1),
        source(1, MAX_AUTHORIZATION_LEN + 1),
        claim(0, 1),
        claim(MAX_URL_LEN + 1, 1),
        claim(1, MAX_AUTHORIZATION_LEN + 1),
        resolve(long(0, 1), ""),
        resolve(long(MAX_URL_LEN + 1, 1), ""),
        resolve(long(1, 1), &"a".repeat(MAX_ACCEPT_LEN + 1)),
        resolve(long(1, 1), "a/b\r\nx: y"),
        Message::Have {
            pieces: PieceSet::empty(MAX_PIECES + 1),
        },
        Message::Gained {
            pieces: vec![beyond],
        },
        list(0, 0, 0, 0),
        list(0, MAX_STATES_PER_BATCH + 1, 0, 0),
        list(MAX_PIECES - 1, 2, 0, 0),
        list(u32::MAX, 1, 0, 0),
        list(0, 1, MAX_SIGNER_LEN + 1, 64),
        list(0, 1, 1, 63),
        Message::Request { piece: beyond },
        Message::Cancel { piece: beyond },
        Message::Piece {
            piece: beyond,
            data: data(1),
        },
        Message::Piece {
            piece: PieceIndex(0),
            data: data(0),
        },
        Message::Piece {
            piece: PieceIndex(0),
            data: data(MAX_PIECE_LEN as usize + 1),
        },
        Message::Refuse {
            piece: Some(beyond),
            reason: Refusal::Busy,
        },
    ];
    for message in unsendable {
        let mut out = BytesMut::from(&b"before"[..]);
        let envelope = Envelope {
            task: task(),
            message,
        };
        assert!(encode_message(&envelope, Credentials::Send, None, &mut out).is_err());
        assert_eq!(&out[..], b"before");
    }
}

/// A list whose values have a signer.
fn signed_by(signer: &[u8]) -> Envelope {
    let batch = SignedStates {
        first: PieceIndex(0),
        states: vec![ChainState::from_bytes([0x22; 32])],
        origin: None,
        signer: signer.into(),
        signature: vec![0x33; 64],
    };
    let (task, message) = (task(), Message::List { batch });
    Envelope { task, message }
}

#[test]
fn certificates_of_signers_are_carried_once() {
    let (mut decoder, mut signers) = (greeted(), Signers::default());
    let certificates = [[1; 500], [2; 500], [1; 500], [1; 500], [2; 500]];
    let mut lens = Vec::new();
    for certificate in certificates {
        let (envelope, mut out) = (signed_by(&certificate), BytesMut::new());
        let carried = Some(&mut signers);
        encode_message(&envelope, Credentials::Send, carried, &mut out).unwrap();
        lens.push(out.len());
        let frames = decode(&mut decoder, &out, 100);
        assert_eq!(frames, Ok(vec![Frame::Message(envelope)]));
    }
    let (whole, short) = (lens[0], lens[0] - 500);
    assert_eq!(lens, [whole, whole, short, short, short]);
}

#[test]
fn no_certificate_is_taken_for_another_however_many_there_are() {
    let (mut decoder, mut signers) = (greeted(), Signers::default());
    for round in 0..3 {
        for number in 0..200_u16 {
            let signer = match number % 50 {
                0 => Vec::new(),
                _ => [&number.to_le_bytes()[..], &[7; 600]].concat(),
            };
            let (envelope, mut out) = (signed_by(&signer), BytesMut::new());
            let carried = Some(&mut signers);
            encode_message(&envelope, Credentials::Send, carried, &mut out).unwrap();
            let frames = decode(&mut decoder, &out, usize::MAX);
            assert_eq!(
                frames,
                Ok(vec![Frame::Message(envelope)]),
                "{round} {number}"
            );
        }
    }
}

#[test]
fn number_of_a_certificate_that_never_came_is_refused() {
    let mut out = BytesMut::new();
    encode_message(&signed_by(&[]), Credentials::Send, None, &mut out).unwrap();
    let place = out.len() - 1 - 64 - 2;
    out[place..place + 2].copy_from_slice(&0x8000_u16.to_le_bytes());
    let error = decode(&mut greeted(), &out, usize::MAX).unwrap_err();
    assert!(
        error.to_string().contains("number of a certificate"),
        "{error}"
    );
}

#[test]
fn the_largest_of_every_kind_fit() {
    let source = Source {
        url: "u".repeat(MAX_URL_LEN),
        authorization: Some(Secret::new("s".repeat(MAX_AUTHORIZATION_LEN))),
    };
    let largest = [
        Message::Join {
            source: Some(source.clone()),
        },
        Message::Claim {
            number: 1,
            source: source.clone(),
        },
        Message::Resolve {
            number: 1,
            wish: ManifestWish {
                source,
                accept: "a".repeat(MAX_ACCEPT_LEN),
                whole: false,
            },
        },
        Message::Resolved {
            number: u64::MAX,
            resolution: Some(Resolution::Given(GivenManifest {
                media_type: "m".repeat(MAX_MEDIA_TYPE_LEN),
                ..given(&vec![7; MAX_MANIFEST_LEN], true)
            })),
        },
        Message::Verdict {
            number: u64::MAX,
            verdict: Some(Verdict::Denied {
                status: 401,
                challenges: vec!["c".repeat(MAX_CHALLENGE_LEN); MAX_CHALLENGES],
            }),
        },
        Message::Have {
            pieces: PieceSet::full(MAX_PIECES),
        },
        Message::Gained {
            pieces: vec![PieceIndex(MAX_PIECES - 1); MAX_GAINED],
        },
        Message::List {
            batch: SignedStates {
                first: PieceIndex(MAX_PIECES - MAX_STATES_PER_BATCH as u32),
                states: vec![ChainState::initial(); MAX_STATES_PER_BATCH],
                origin: Some(longest_origin()),
                signer: vec![1; MAX_SIGNER_LEN].into(),
                signature: vec![2; 64],
            },
        },
        Message::Piece {
            piece: PieceIndex(MAX_PIECES - 1),
            data: Bytes::from(vec![7; MAX_PIECE_LEN as usize]),
        },
    ];
    for message in largest {
        let mut bytes = BytesMut::new();
        encode(&about(message.clone()), &mut bytes);
        let decoded = decode(&mut greeted(), &bytes, usize::MAX);
        assert!(decoded == Ok(vec![about(message)]));
    }
}

#[test]
fn what_is_too_much_of_a_verdict_is_left_out() {
    let denied = |challenges| {
        about(Message::Verdict {
            number: 1,
            verdict: Some(Verdict::Denied {
                status: 401,
                challenges,
            }),
        })
    };
    let mut challenges = vec!["fine".to_owned(); MAX_CHALLENGES + 3];
    challenges[0] = "c".repeat(MAX_CHALLENGE_LEN + 1);
    challenges[1] = "Basic\r\nSet-Cookie: forged".to_owned();
    let mut bytes = BytesMut::new();
    encode(&denied(challenges), &mut bytes);
    let decoded = decode(&mut greeted(), &bytes, usize::MAX);
    let left = vec!["fine".to_owned(); MAX_CHALLENGES];
    assert_eq!(decoded, Ok(vec![denied(left)]));
}

#[test]
fn a_manifest_that_fits_into_no_frame_is_said_to_have_failed() {
    let long = given(&vec![7; MAX_MANIFEST_LEN + 1], true);
    let mut short = given(b"{}", true);
    short.length = 3;
    let mut split = given(b"{}", true);
    split.media_type = "a/b\r\nx: y".to_owned();
    let mut nameless = given(b"{}", false);
    nameless.media_type = String::new();
    for manifest in [long, short, split, nameless] {
        let mut bytes = BytesMut::new();
        let resolution = Some(Resolution::Given(manifest));
        let number = 1;
        let message = Message::Resolved { number, resolution };
        encode(&about(message), &mut bytes);
        let frames = decode(&mut greeted(), &bytes, usize::MAX).unwrap();
        let Frame::Message(envelope) = &frames[0] else {
            panic!("{frames:?}");
        };
        let Message::Resolved { resolution, .. } = &envelope.message else {
            panic!("{envelope:?}");
        };
        assert!(matches!(resolution, Some(Resolution::Failed(_))));
    }
}

#[test]
fn bytes_that_are_not_the_manifest_end_the_connection() {
    let message = Message::Resolved {
        number: 1,
        resolution: Some(Resolution::Given(given(b"manifest", true))),
    };
    let mut bytes = BytesMut::new();
    encode(&about(message), &mut bytes);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let decoded = decode(&mut greeted(), &bytes, usize::MAX);
    let (kind, reason) = (Kind::Resolved, BodyError::WrongDigest);
    assert_eq!(decoded, Err(FrameError::Body { kind, reason }));
}

#[test]
fn texts_are_cut_and_cannot_forge_log_lines() {
    let mut bytes = BytesMut::new();
    encode_goodbye(&format!("a\nb\x1b{}", "ä".repeat(600)), &mut bytes);
    let frames = decode(&mut greeted(), &bytes, usize::MAX).unwrap();
    let Frame::Goodbye { reason } = &frames[0] else {
        panic!("{frames:?}");
    };
    assert!(reason.starts_with("a b ä") && reason.len() <= MAX_TEXT_LEN);
}

fn any_task() -> impl Strategy<Value = TaskId> {
    (any::<bool>(), any::<[u8; 32]>()).prop_map(|(blob, id)| match blob {
        true => TaskId::Blob(Digest::from_bytes(id)),
        false => TaskId::Url(id),
    })
}

fn any_piece() -> impl Strategy<Value = PieceIndex> {
    (0..MAX_PIECES).prop_map(PieceIndex)
}

fn any_refusal() -> impl Strategy<Value = Refusal> {
    prop::sample::select(vec![
        Refusal::Busy,
        Refusal::Missing,
        Refusal::Denied,
        Refusal::NotFound,
        Refusal::OriginFailed,
        Refusal::UnknownTask,
    ])
}

fn any_source() -> impl Strategy<Value = Source> {
    let secret = prop::option::of("[ -~]{0,300}".prop_map(Secret::new));
    ("[ -~]{1,300}", secret).prop_map(|(url, authorization)| Source { url, authorization })
}

fn any_verdict() -> impl Strategy<Value = Option<Verdict>> {
    let length = prop::option::of(any::<u64>());
    let challenges = prop::collection::vec("[ -~]{0,50}", 0..=MAX_CHALLENGES);
    prop_oneof![
        Just(None),
        (length, any::<bool>()).prop_map(|(length, held)| Some(Verdict::Granted { length, held })),
        (any::<u16>(), challenges)
            .prop_map(|(status, challenges)| Some(Verdict::Denied { status, challenges })),
        Just(Some(Verdict::NotFound)),
        "[ -~ä]{0,50}".prop_map(|why| Some(Verdict::Failed(why))),
    ]
}

fn any_pieces() -> impl Strategy<Value = PieceSet> {
    let members = prop::collection::vec(0u32..2000, 0..50);
    (0u32..2000, members).prop_map(|(capacity, members)| {
        let mut pieces = PieceSet::empty(capacity);
        for piece in members {
            pieces.insert(PieceIndex(piece));
        }
        pieces
    })
}

/// As long as a name may be.
fn longest_origin() -> OriginName {
    let host = [
        "a".repeat(60),
        "b".repeat(60),
        "c".repeat(60),
        "d".repeat(60),
    ]
    .join(".");
    let rest = OriginName::MAX_LEN - "https://.:65535".len() - host.len();
    let name = format!("https://{}.{host}:65535", "e".repeat(rest));
    OriginName::parse(&name).unwrap()
}

fn any_origin() -> impl Strategy<Value = OriginName> {
    "https?://[a-z0-9]{1,20}\\.example(:[1-9][0-9]{3})?"
        .prop_map(|name| OriginName::parse(&name).unwrap())
}

fn any_batch() -> impl Strategy<Value = SignedStates> {
    let origin = prop::option::of(any_origin());
    let states = prop::collection::vec(any::<[u8; 32]>(), 1..40);
    let signer = prop::collection::vec(any::<u8>(), 0..700);
    (0..MAX_PIECES - 40, states, origin, signer, any::<bool>()).prop_map(
        |(first, states, origin, signer, signed)| SignedStates {
            first: PieceIndex(first),
            states: states.into_iter().map(ChainState::from_bytes).collect(),
            origin,
            signer: signer.into(),
            signature: vec![0x5a; if signed { 64 } else { 0 }],
        },
    )
}

fn any_message() -> impl Strategy<Value = Message> {
    let data = prop::collection::vec(any::<u8>(), 1..5000).prop_map(Bytes::from);
    prop_oneof![
        prop::option::of(any_source()).prop_map(|source| Message::Join { source }),
        (0u64..1 << 36, 16u32..23).prop_map(|(length, power)| Message::Head {
            geometry: Geometry::new(length, 1 << power).unwrap(),
        }),
        any_pieces().prop_map(|pieces| Message::Have { pieces }),
        prop::collection::vec(any_piece(), 1..200).prop_map(|pieces| Message::Gained { pieces }),
        any_batch().prop_map(|batch| Message::List { batch }),
        any_piece().prop_map(|piece| Message::Request { piece }),
        any::<u16>().prop_map(|credit| Message::RequestAny { credit }),
        any_piece().prop_map(|piece| Message::Cancel { piece }),
        (any_piece(), data).prop_map(|(piece, data)| Message::Piece { piece, data }),
        (prop::option::of(any_piece()), any_refusal())
            .prop_map(|(piece, reason)| Message::Refuse { piece, reason }),
        Just(Message::Leave),
        any_piece().prop_map(|piece| Message::Doubt { piece }),
        any_claim(),
    ]
}

fn any_claim() -> impl Strategy<Value = Message> {
    let number = any::<u64>();
    prop_oneof![
        any::<[u8; 32]>().prop_map(|mark| Message::Renew {
            refused: SourceMark::from_bytes(mark),
        }),
        (number, any_source()).prop_map(|(number, source)| Message::Claim { number, source }),
        number.prop_map(|number| Message::Heard { number }),
        (number, any_verdict()).prop_map(|(number, verdict)| Message::Verdict { number, verdict }),
        (number, any_wish()).prop_map(|(number, wish)| Message::Resolve { number, wish }),
        (number, any_resolution())
            .prop_map(|(number, resolution)| Message::Resolved { number, resolution }),
    ]
}

fn any_wish() -> impl Strategy<Value = ManifestWish> {
    let parts = (any_source(), "[ -~]{0,300}", any::<bool>());
    parts.prop_map(|(source, accept, whole)| ManifestWish {
        source,
        accept,
        whole,
    })
}

fn any_resolution() -> impl Strategy<Value = Option<Resolution>> {
    let challenges = prop::collection::vec("[ -~]{0,200}", 0..MAX_CHALLENGES);
    let bytes = prop::collection::vec(any::<u8>(), 0..3000);
    prop_oneof![
        Just(None),
        (bytes, "[ -~]{1,256}", any::<bool>()).prop_map(|(bytes, media_type, whole)| {
            let given = given(&bytes, whole);
            Some(Resolution::Given(GivenManifest {
                media_type,
                ..given
            }))
        }),
        (any::<u16>(), challenges)
            .prop_map(|(status, challenges)| Some(Resolution::Denied { status, challenges })),
        Just(Some(Resolution::NotFound)),
        "[ -~ä]{0,50}".prop_map(|why| Some(Resolution::Failed(why))),
    ]
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let message = (any_task(), any_message());
    prop_oneof![
        1 => (any::<u16>(), "[ -~]{0,50}").prop_map(|(code, text)| Frame::Error {
            code: ErrorCode::from_u16(code),
            text,
        }),
        1 => "[ -~ä]{0,50}".prop_map(|reason| Frame::Goodbye { reason }),
        1 => any::<u64>().prop_map(|nonce| Frame::Ping { nonce }),
        1 => any::<u64>().prop_map(|nonce| Frame::Pong { nonce }),
        1 => (0x84..=u8::MAX).prop_map(|kind| Frame::Ignored { kind }),
        10 => message.prop_map(|(task, message)| Frame::Message(Envelope { task, message })),
    ]
}

fn any_frames() -> impl Strategy<Value = Vec<Frame>> {
    prop::collection::vec(any_frame(), 1..8)
}

fn encode_all(frames: &[Frame]) -> BytesMut {
    let mut bytes = BytesMut::new();
    for frame in frames {
        encode(frame, &mut bytes);
    }
    bytes
}

proptest! {
    #[test]
    fn frames_survive_any_cutting_into_reads(frames in any_frames(), step in 1usize..9000) {
        let bytes = encode_all(&frames);
        let mut decoder = greeted();
        prop_assert_eq!(decode(&mut decoder, &bytes, step), Ok(frames));
        prop_assert!(decoder.is_between_frames());
    }

    #[test]
    fn truncated_frames_wait_for_more(frames in any_frames(), cut in any::<prop::sample::Index>()) {
        let bytes = encode_all(&frames);
        let cut = cut.index(bytes.len());
        let decoded = decode(&mut greeted(), &bytes[..cut], usize::MAX).unwrap();
        prop_assert!(decoded.len() < frames.len());
        prop_assert_eq!(&decoded[..], &frames[..decoded.len()]);
    }

    #[test]
    fn changed_bytes_are_frames_or_errors(
        frames in any_frames(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..10),
    ) {
        let mut bytes = encode_all(&frames);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        // No panic and no large buffer (asserted by `decode`).
        let _ = decode(&mut greeted(), &bytes, 100);
    }

    #[test]
    fn any_bytes_are_frames_or_errors(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = decode(&mut Decoder::new(), &bytes, 100);
        let _ = decode(&mut greeted(), &bytes, 100);
    }

    #[test]
    fn any_body_of_any_kind_is_a_frame_or_an_error(
        byte in any::<u8>(),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = (body.len() as u32 + 1).to_le_bytes().to_vec();
        bytes.push(byte);
        bytes.extend(body);
        let decoded = decode(&mut greeted(), &bytes, usize::MAX);
        // What decodes encodes to the same bytes: there is one form of everything.
        if let Ok([frame @ Frame::Message(_)]) = decoded.as_deref() {
            prop_assert_eq!(hex(&encode_all(std::slice::from_ref(frame))), hex(&bytes));
        }
    }

    #[test]
    fn hellos_survive(versions in any::<(u16, u16)>(), capabilities in any::<u64>(), named in any::<bool>()) {
        let hello = Hello {
            min_version: versions.0,
            max_version: versions.1,
            capabilities,
            wanted: hello().wanted.filter(|_| named),
            ..hello()
        };
        let mut bytes = BytesMut::from(&PREFACE[..]);
        encode_hello(&hello, &mut bytes);
        prop_assert_eq!(decode(&mut Decoder::new(), &bytes, 5), Ok(vec![Frame::Hello(hello)]));
    }
}
