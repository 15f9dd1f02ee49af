//! Whatever peers and shell say, in whatever order: nothing panics, and the swarm can still end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hawker_model::{
    ChainState, Digest, Geometry, HostId, PieceIndex, PieceSet, Role, SignedStates, TaskId,
};
use hawker_swarm::{
    Duty, Envelope, Message, Misbehaviour, Opening, Parent, Refusal, Secret, Source, Swarm,
    SwarmConfig, TaskFailure, Want,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Input {
    Say(Message),
    Open(Want),
    Waiting(u32),
    Close,
    Forget,
    Parents(Duty),
    Connected(bool),
    DialFailed,
    Disconnected,
    Silent,
    Heard,
    Misbehaviour,
    Stored(u32),
    Rejected(u32),
    StoreFailed,
    Uploaded(u32),
    OriginHead(u64),
    OriginBatch(u32, usize),
    OriginStored(u32),
    OriginDone(Option<TaskFailure>),
    Renewed(u8, Option<u8>),
    LostWords,
    Pass(u64),
}

fn piece() -> impl Strategy<Value = u32> {
    prop_oneof![9 => 0u32..9, 1 => Just(u32::MAX), 1 => any::<u32>()]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![8 => Just(8u64 << 16), 1 => 0u64..(1 << 21)]
}

fn batch(first: u32, count: usize) -> SignedStates {
    let value = |piece: u32| ChainState::from_bytes([piece as u8; 32]);
    SignedStates {
        first: PieceIndex(first),
        states: (0..count)
            .map(|at| value(first.wrapping_add(at as u32)))
            .collect(),
        origin: None,
        signer: Arc::from([]),
        signature: Vec::new(),
    }
}

/// The same place with one of a few credentials.
fn source(token: u8) -> Source {
    Source {
        url: "https://o.example/x".into(),
        authorization: (token > 0).then(|| Secret::new(token.to_string())),
    }
}

fn message() -> impl Strategy<Value = Message> {
    let refusals = prop_oneof![
        Just(Refusal::Busy),
        Just(Refusal::Missing),
        Just(Refusal::Denied),
        Just(Refusal::UnknownTask),
    ];
    prop_oneof![
        4 => prop::option::of((0u8..3).prop_map(source)).prop_map(|source| Message::Join { source }),
        2 => (0u8..3).prop_map(|token| Message::Renew { refused: source(token).mark() }),
        1 => Just(Message::Heard { number: 1 }),
        4 => length().prop_filter_map("sound", |length| Geometry::for_length(length).ok())
            .prop_map(|geometry| Message::Head { geometry }),
        2 => prop_oneof![8 => Just(8u32), 1 => 0u32..20]
            .prop_map(|count| Message::Have { pieces: PieceSet::full(count) }),
        2 => prop::collection::vec(piece().prop_map(PieceIndex), 0..4)
            .prop_map(|pieces| Message::Gained { pieces }),
        4 => (piece(), 0usize..10).prop_map(|(first, n)| Message::List { batch: batch(first, n) }),
        2 => piece().prop_map(|p| Message::Request { piece: PieceIndex(p) }),
        2 => any::<u16>().prop_map(|credit| Message::RequestAny { credit }),
        1 => piece().prop_map(|p| Message::Cancel { piece: PieceIndex(p) }),
        4 => piece().prop_map(|p| Message::Piece { piece: PieceIndex(p), data: bytes::Bytes::new() }),
        2 => (prop::option::of(piece().prop_map(PieceIndex)), refusals)
            .prop_map(|(piece, reason)| Message::Refuse { piece, reason }),
        1 => Just(Message::Leave),
        1 => piece().prop_map(|p| Message::Doubt { piece: PieceIndex(p) }),
    ]
}

fn end() -> impl Strategy<Value = Option<TaskFailure>> {
    prop_oneof![
        Just(None),
        Just(Some(TaskFailure::Origin("cut".into()))),
        Just(Some(TaskFailure::Denied("401".into()))),
        Just(Some(TaskFailure::NotFound("404".into()))),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    let duty = prop_oneof![Just(Duty::Wait), Just(Duty::Fetch)];
    let want = prop_oneof![Just(Want::Serve), Just(Want::Fetch)];
    prop_oneof![
        30 => message().prop_map(Input::Say),
        4 => want.prop_map(Input::Open),
        1 => piece().prop_map(Input::Waiting),
        1 => Just(Input::Close),
        1 => Just(Input::Forget),
        2 => duty.prop_map(Input::Parents),
        6 => any::<bool>().prop_map(Input::Connected),
        1 => Just(Input::DialFailed),
        1 => Just(Input::Disconnected),
        1 => Just(Input::Silent),
        1 => Just(Input::Heard),
        1 => Just(Input::Misbehaviour),
        6 => piece().prop_map(Input::Stored),
        2 => piece().prop_map(Input::Rejected),
        1 => Just(Input::StoreFailed),
        2 => piece().prop_map(Input::Uploaded),
        2 => length().prop_map(Input::OriginHead),
        2 => (piece(), 0usize..10).prop_map(|(first, n)| Input::OriginBatch(first, n)),
        2 => piece().prop_map(Input::OriginStored),
        2 => end().prop_map(Input::OriginDone),
        1 => (0u8..3, prop::option::of(0u8..3)).prop_map(|(old, new)| Input::Renewed(old, new)),
        1 => Just(Input::LostWords),
        4 => (0u64..4000).prop_map(Input::Pass),
    ]
}

fn feed(swarm: &mut Swarm, task: TaskId, host: &HostId, input: Input, now: &mut Instant) {
    let at = *now;
    match input {
        Input::Say(message) => swarm.handle_message(host, Envelope { task, message }, at),
        Input::Open(want) => {
            let source = Some(source(0));
            swarm.handle_open(
                task,
                Opening {
                    source,
                    stored: None,
                    want,
                },
                at,
            );
        }
        Input::Waiting(first) => swarm.handle_waiting(task, first..first.saturating_add(3), at),
        Input::Close => swarm.handle_close(task, at),
        Input::Forget => swarm.handle_forget(task, at),
        Input::Parents(duty) => {
            let parent = Parent {
                host: host.clone(),
                role: Role::Node,
            };
            swarm.handle_parents(task, vec![parent], duty, at);
        }
        Input::Connected(seed) => {
            let role = if seed { Role::Seed } else { Role::Node };
            swarm.handle_connected(host.clone(), role, at);
        }
        Input::DialFailed => swarm.handle_dial_failed(host, at),
        Input::Disconnected => swarm.handle_disconnected(host, at),
        Input::Silent => swarm.handle_silent(host, at),
        Input::Heard => swarm.handle_heard(host, at),
        Input::Misbehaviour => swarm.handle_misbehaviour(host, task, Misbehaviour::Protocol, at),
        Input::Stored(piece) => swarm.handle_stored(task, PieceIndex(piece), host, at),
        Input::Rejected(piece) => swarm.handle_rejected(task, PieceIndex(piece), host, at),
        Input::StoreFailed => swarm.handle_store_failed(task, "disk full".into(), at),
        Input::Uploaded(piece) => swarm.handle_uploaded(host, task, PieceIndex(piece), at),
        Input::OriginHead(length) => {
            if let Ok(geometry) = Geometry::for_length(length) {
                swarm.handle_origin_head(task, geometry, at);
            }
        }
        Input::OriginBatch(first, n) => swarm.handle_origin_batch(task, batch(first, n), at),
        Input::OriginStored(piece) => swarm.handle_origin_stored(task, PieceIndex(piece), at),
        Input::OriginDone(failure) => {
            swarm.handle_origin_done(task, failure.map_or(Ok(()), Err), at);
        }
        Input::Renewed(old, fresh) => {
            swarm.handle_renewed(task, source(old).mark(), fresh.map(source), at);
        }
        Input::LostWords => swarm.handle_lost_words(host, at),
        Input::Pass(millis) => {
            *now += Duration::from_millis(millis);
            swarm.handle_timeout(*now);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_input_in_any_order_is_survived(
        seed_role: bool,
        inputs in prop::collection::vec((0usize..3, input()), 0..120),
    ) {
        #[allow(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        let mut now = Instant::now();
        let hosts = ["a", "b", "c"].map(|name| HostId::parse(name).unwrap());
        let role = if seed_role { Role::Seed } else { Role::Node };
        let mut swarm = Swarm::new(SwarmConfig::new(HostId::parse("me").unwrap(), role), 1);
        let task = TaskId::Blob(Digest::from_bytes([7; 32]));
        for (host, input) in inputs {
            feed(&mut swarm, task, &hosts[host], input, &mut now);
            let actions = std::iter::from_fn(|| swarm.poll_action()).take(10_000).count();
            prop_assert!(actions < 10_000);
            swarm.status();
        }
        swarm.handle_forget(task, now);
        prop_assert!(!swarm.contains(&task));
    }
}
