//! What must hold for any bytes that peers and origins send. The fuzz targets (`fuzz/`) call this,
//! and the tests here replay their corpus.

use std::sync::OnceLock;

use bytes::{BufMut as _, BytesMut};
use hawker_identity::{CertificateRequest, ClusterCa, PeerCertificate};
use hawker_model::{HostId, Role};

pub use hawker_scheduler_api::fuzzing::{host_message, scheduler_message};

pub use crate::origin::fuzzing::{challenges, content_range, heads, hosts_toml, token_answer};
use crate::transport::{
    Decoder, FrameError,
    frame::{Credentials, Frame, Hello, PREFACE, Signers, encode_hello, encode_message},
};

/// What a decoder may hold: the longest piece, the longest frame and a read, doubled by growth.
const MEMORY: usize = 5 << 20;

/// Bytes as what a peer sends. The first one says how: its highest bit, after preface and hello;
/// the others, in reads of which length.
pub fn wire(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else {
        return;
    };
    let said = said(*how, bytes);
    let step = match how & 0x7f {
        0x7f => usize::MAX,
        step => usize::from(step) + 1,
    };
    match decode(&said, step) {
        Ok(frames) => {
            check_numbered(&frames);
            frames.into_iter().for_each(check);
        }
        Err(error) => assert!(error.to_string().len() < 1000),
    }
}

/// Bytes as what hosts show and authorities sign: a certificate, a request for one, lists of what is
/// revoked. None is believed, since none is signed by the authority here.
pub fn certificates(bytes: &[u8]) {
    static AUTHORITY: OnceLock<Option<ClusterCa>> = OnceLock::new();
    if let Ok(owner) = PeerCertificate::parse(bytes) {
        assert!(owner.spiffe_id().starts_with("spiffe://"));
    }
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = CertificateRequest::from_pem(text);
    }
    let authority = AUTHORITY.get_or_init(|| ClusterCa::create("fuzzed", 1).ok());
    if let Some(authority) = authority {
        match authority.own_lists(bytes) {
            Ok(own) => assert!(own.is_empty()),
            Err(error) => assert!(error.to_string().len() < 1000),
        }
    }
}

fn said(how: u8, bytes: &[u8]) -> BytesMut {
    let mut said = BytesMut::new();
    if how & 0x80 != 0 {
        said.put_slice(&PREFACE);
        encode_hello(&hello(), &mut said);
    }
    said.put_slice(bytes);
    said
}

fn hello() -> Hello {
    Hello {
        min_version: 1,
        max_version: 1,
        capabilities: 0,
        role: Role::Seed,
        host: name(),
        wanted: None,
        zone: String::new(),
    }
}

#[allow(clippy::expect_used, reason = "a constant of a test")]
fn name() -> HostId {
    HostId::parse("peer").expect("a sound name")
}

fn decode(mut bytes: &[u8], step: usize) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = Decoder::new();
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
        assert!(space.get_ref().capacity() <= MEMORY);
        bytes = &bytes[len..];
    }
}

/// What was understood can be said, and is understood as the same.
fn check(frame: Frame) {
    let Frame::Message(envelope) = &frame else {
        return;
    };
    let mut said = BytesMut::from(&PREFACE[..]);
    encode_hello(&hello(), &mut said);
    if let Ok(data) = encode_message(envelope, Credentials::Send, None, &mut said) {
        said.extend_from_slice(&data);
        let again = decode(&said, usize::MAX).map(|mut frames| frames.pop());
        assert_eq!(again, Ok(Some(frame)));
    }
}

/// The same of all of them together, certificates of signers being carried once.
fn check_numbered(frames: &[Frame]) {
    let (mut said, mut signers) = (BytesMut::from(&PREFACE[..]), Signers::default());
    encode_hello(&hello(), &mut said);
    let mut sayable = Vec::new();
    for frame in frames {
        let Frame::Message(envelope) = frame else {
            continue;
        };
        let carried = Some(&mut signers);
        if let Ok(data) = encode_message(envelope, Credentials::Send, carried, &mut said) {
            said.extend_from_slice(&data);
            sayable.push(frame);
        }
    }
    let again = decode(&said, usize::MAX).unwrap_or_default();
    assert!(again.iter().skip(1).eq(sayable), "the hello is the first");
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use base64::Engine as _;
    use hawker_identity::{NewKey, Subject};
    use hawker_model::{Digest, TaskId};
    use hawker_scheduler_api::{self as api, HostMessage, SchedulerMessage};

    use super::*;

    /// Runs a target over its corpus. With `HAWKER_WRITE_CORPUS` the seeds are written first.
    fn replay(target: &str, seeds: &[Vec<u8>], run: impl Fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let dir = corpus.join(target);
        if std::env::var_os("HAWKER_WRITE_CORPUS").is_some() {
            fs::create_dir_all(&dir).unwrap();
            for (at, seed) in seeds.iter().enumerate() {
                fs::write(dir.join(format!("seed-{at}")), seed).unwrap();
            }
        }
        let mut count = 0;
        for file in fs::read_dir(&dir).unwrap() {
            run(&fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count >= seeds.len(), "{} holds {count}", dir.display());
    }

    fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn corpus_of_challenges_is_survived() {
        let seeds = texts(&[
            "Bearer realm=\"https://auth.example/token\",service=\"r\",scope=\"repository:a:pull\"",
            "Basic realm=\"Registry Realm\"\nBearer realm=\"https://a/\"",
            "Negotiate, NTLM abc==, Digest realm=x, nonce=\"a\\\"b\", qop=\"auth,auth-int\"",
            "Bearer realm=\"/token\",error=\"insufficient_scope\"",
            "Bearer realm=http://169.254.169.254/,,,=,\"",
            ",, , Bearer",
        ]);
        replay("challenges", &seeds, challenges);
    }

    #[test]
    fn corpus_of_ranges_is_survived() {
        let seeds = texts(&[
            "bytes 0-9/10",
            "bytes */10",
            "bytes 5-5/*",
            "BYTES=0-18446744073709551615/18446744073709551615",
            "bytes 9-0/10",
            "bytes 0-9/10\nbytes 1-9/10",
        ]);
        replay("content_range", &seeds, content_range);
    }

    #[test]
    fn corpus_of_hosts_files_is_survived() {
        let seeds = texts(&[
            "server = \"https://r.example\"\n[host.\"http://127.0.0.1:65001\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
            "[host.\"https://m.example/x\"]\noverride_path = true\nca = \"ca.pem\"\nskip_verify = true\n",
            "[host.\"m:5000\"]\nca = [\"a.pem\", \"/b.pem\"]\nclient = [[\"c.pem\", \"k.pem\"], [\"d.pem\", \"\"]]\n",
            "[host.\"https://m\".header]\nx-a = \"1\"\nx-b = [\"2\", \"3\"]\n",
            "host = 1\n",
            "server = \"\"\nca = [1]\n",
        ]);
        replay("hosts_toml", &seeds, hosts_toml);
    }

    #[test]
    fn corpus_of_token_answers_is_survived() {
        let seeds = texts(&[
            "{\"token\":\"t\",\"expires_in\":300,\"issued_at\":\"2026-01-01T00:00:00Z\"}",
            "{\"access_token\":\"t\",\"token\":\"\",\"expires_in\":1e308}",
            "{\"token\":\"a\\nb\"}",
            "{\"token\":null,\"expires_in\":-1}",
            "[[[[[[",
        ]);
        replay("token_answer", &seeds, token_answer);
    }

    #[test]
    fn corpus_of_heads_is_survived() {
        let seeds = texts(&[
            "Basic YW5uOnB3",
            "basic PHRva2VuPjppZA",
            "HTTP/1.1 200 Connection established\r\n\r\n",
            "HTTP/1.0 407 x\r\n",
            "Wed, 21 Oct 2026 07:28:00 GMT",
            "4294967295",
        ]);
        replay("heads", &seeds, heads);
    }

    #[test]
    fn corpus_of_certificates_is_survived() {
        let authority = ClusterCa::create("seeds", 30).unwrap();
        let subject = Subject {
            host: name(),
            role: Role::Seed,
            names: Vec::new(),
        };
        let issued = authority.issue(&subject, 30).unwrap();
        let list = authority.revoke(&[issued.serial], None).unwrap();
        let pem = issued
            .cert_pem
            .lines()
            .filter(|line| !line.starts_with('-'));
        let der = base64::engine::general_purpose::STANDARD.decode(pem.collect::<String>());
        let seeds = [
            der.unwrap(),
            list.into_bytes(),
            NewKey::generate(&name()).unwrap().request_pem.into_bytes(),
            authority.cert_pem().as_bytes().to_vec(),
            b"-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n".to_vec(),
        ];
        replay("certificates", &seeds, certificates);
    }

    #[test]
    fn corpus_of_messages_of_hosts_and_schedulers_is_survived() {
        let task = TaskId::Blob(Digest::of(b"x"));
        let hello = api::Hello {
            host: name(),
            role: Role::Node,
            version: "1".to_owned(),
            listener: None,
            zone: "z".to_owned(),
            protocol: 1..=1,
        };
        let holding = api::Holding {
            task,
            pieces: 1,
            total: 2,
            complete: false,
        };
        let said = [
            HostMessage::Hello(hello),
            HostMessage::Announce(vec![holding; 3]),
            HostMessage::Lookup { task, attempt: 1 },
            HostMessage::Withdraw { task },
        ];
        let seeds: Vec<_> = said.into_iter().map(api::fuzzing::said_by_host).collect();
        replay("host_message", &seeds, host_message);
        let peer = api::PeerAddress {
            host: name(),
            role: Role::Seed,
            addresses: vec!["[::1]:4005".parse().unwrap(); 2],
        };
        let parents = api::Parents {
            task,
            parents: vec![peer.clone()],
            duty: api::Duty::Fetch,
            fetcher: Some(name()),
        };
        let welcome = api::Welcome {
            observed: [127, 0, 0, 1].into(),
            scheduler: "s".to_owned(),
            progress_interval: std::time::Duration::from_secs(1),
            protocol: 1,
            version: "1".to_owned(),
        };
        let notice = SchedulerMessage::Notice {
            level: api::Level::Warning,
            text: "mind".to_owned(),
        };
        let said = [
            SchedulerMessage::Welcome(welcome),
            SchedulerMessage::Parents(parents),
            SchedulerMessage::Seeds(vec![peer]),
            notice,
            SchedulerMessage::Revocations(vec![vec![0x30, 0]]),
            SchedulerMessage::Liars(vec![name(); 2]),
        ];
        let seeds: Vec<_> = said
            .into_iter()
            .map(api::fuzzing::said_by_scheduler)
            .collect();
        replay("scheduler_message", &seeds, scheduler_message);
    }

    #[test]
    fn corpus_of_the_wire_is_survived() {
        let task = [&[0][..], &[0x11; 32]].concat();
        let frame = |kind: u8, body: &[u8]| {
            let len = u32::try_from(body.len() + 1).unwrap();
            [&len.to_le_bytes()[..], &[kind], body].concat()
        };
        let mut greeting = BytesMut::from(&[0x03][..]);
        greeting.put_slice(&PREFACE);
        encode_hello(&hello(), &mut greeting);
        let mut seeds = vec![greeting.to_vec(), b"\x7fGET / HTTP/1.1\r\n\r\n".to_vec()];
        // Every kind there is or may be, with bodies of several lengths.
        let bare = |kind: u8, rest: usize| {
            let body = [&task[..], &vec![1; rest]].concat();
            [&[0xff][..], &frame(kind, &body)].concat()
        };
        for kind in (0x01..=0x05).chain(0x10..=0x20) {
            seeds.extend([0, 1, 8, 40, 200].map(|rest| bare(kind, rest)));
        }
        // One sound frame of every kind, in two ways of reading.
        for example in examples() {
            for how in [0x83, 0xff] {
                seeds.push([&[how][..], &example].concat());
            }
        }
        for kind in 0x81..=0x83 {
            seeds.extend([0, 1, 8, 40, 200].map(|rest| bare(kind, rest)));
        }
        // A list whose signer came with the one before.
        for example in examples() {
            if example[4] == 0x14 {
                let end = example.len() - 1 - 64;
                let (before, certificate) = example[..end].split_at(end - 4);
                assert_eq!(certificate, [2, 0, 0x30, 0]);
                let body = [&before[5..], &[0, 0x80], &example[end..]].concat();
                seeds.push([&[0xff][..], &example, &frame(0x14, &body)].concat());
            }
        }
        replay("wire", &seeds, wire);
    }

    /// The frames of `docs/wire.md` but for `Hello`, and one of a kind that is to come.
    fn examples() -> Vec<Vec<u8>> {
        let document = include_str!("../docs/wire.md");
        let (_, examples) = document.split_once("\n## Examples\n").unwrap();
        let lines = examples
            .lines()
            .filter_map(|line| line.strip_prefix("    "));
        let frames = lines.filter_map(|line| line.split_once(": "));
        let frames = frames.filter(|(name, _)| !matches!(*name, "Preface" | "Hello"));
        let of_hex = |hex: &str| {
            let digits: Vec<_> = hex.bytes().filter(|byte| *byte != b' ').collect();
            let pairs = digits.chunks(2).map(|pair| str::from_utf8(pair).unwrap());
            pairs
                .map(|pair| u8::from_str_radix(pair, 16).unwrap())
                .collect()
        };
        let mut frames: Vec<Vec<u8>> = frames.map(|(_, hex)| of_hex(hex)).collect();
        frames.push(vec![3, 0, 0, 0, 0x80, 7, 7]);
        frames
    }

    /// Whether all of a corpus' file is understood, and which kinds of frames are in it.
    fn kinds(bytes: &[u8]) -> Option<BTreeSet<u8>> {
        let (how, mut frames) = bytes.split_first()?;
        decode(&said(*how, frames), usize::MAX).ok()?;
        let mut kinds = BTreeSet::new();
        while let Some((len, rest)) = frames.split_first_chunk() {
            let frame = rest.get(..u32::from_le_bytes(*len) as usize)?;
            kinds.insert(*frame.first()?);
            frames = &rest[frame.len()..];
        }
        Some(kinds)
    }

    #[test]
    fn corpus_of_the_wire_holds_a_sound_frame_of_every_kind() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/wire");
        let mut understood = BTreeSet::new();
        for file in fs::read_dir(corpus).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            if bytes.first().is_some_and(|how| how & 0x80 != 0) {
                understood.extend(kinds(&bytes).unwrap_or_default());
            }
        }
        let all = (0x02..=0x05).chain(0x10..=0x1e).chain(0x80..=0x83);
        let missing: Vec<_> = all.filter(|kind| !understood.contains(kind)).collect();
        assert!(missing.is_empty(), "{missing:x?}");
    }
}
