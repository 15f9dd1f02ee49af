//! Layers with bytes changed at random, and those that fuzzing has found worth keeping
//! (`fuzz/corpus`): whatever they are, nothing panics and nothing is touched beside the root.
//! `HAWKER_WRITE_CORPUS=1` writes the layers that all of it starts from.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../fuzz/harness.rs"]
mod harness;
mod layer;

use std::{
    fs,
    path::{Path, PathBuf},
};

use layer::{BLOCK, Item, gzip, octal, record, tar, zstd};
use proptest::{prelude::*, sample::Index};

/// Small layers with everything in them.
fn seeds() -> Vec<Vec<u8>> {
    let long = "d/".repeat(60);
    let mut map = b"1\n4096\n3\n".to_vec();
    map.resize(BLOCK, 0);
    map.extend(b"abc");
    vec![
        tar(&[
            Item::dir("d").mode(0o1777).owner(1, 2),
            Item::file("d/f", "content").mode(0o4755),
            Item::symlink("d/l", "../../outside"),
            Item::hard_link("h", "d/f"),
            Item::file("d/l/g", ""),
        ]),
        tar(&[
            Item::symlink("a", "/d/e"),
            Item::file("a/f", "x")
                .xattr("user.k", "v\n=")
                .xattr("security.k", "\0"),
            Item::file("d/.wh.gone", ""),
            Item::file("d/.wh..wh..opq", ""),
            Item::file("a/.wh.f", ""),
        ]),
        tar(&[
            Item::file("f", "x")
                .pax("path", &long)
                .pax("mtime", "5.25")
                .pax("atime", "-1.5")
                .pax("uid", "7")
                .pax("gid", "8")
                .pax("size", "1"),
            Item::new(b'g', "g").data(record("comment", b"all")),
            Item::new(b'L', "l").gnu().data(format!("{long}g\0")),
            Item::new(b'K', "l").gnu().data(format!("{long}\0")),
            Item::hard_link("h", "h").gnu(),
        ]),
        tar(&[
            Item::file("0.1", "abc")
                .pax("GNU.sparse.numblocks", "2")
                .pax("GNU.sparse.map", "0,1,4096,2")
                .pax("GNU.sparse.size", "8192"),
            Item::file("f", map)
                .pax("GNU.sparse.major", "1")
                .pax("GNU.sparse.minor", "0")
                .pax("GNU.sparse.name", "1.0")
                .pax("GNU.sparse.realsize", "8192"),
            Item::new(b'S', "gnu")
                .gnu()
                .data("abc")
                .patch(386, octal(4096, 12))
                .patch(398, octal(3, 12))
                .patch(483, octal(8192, 12)),
        ]),
        tar(&[
            Item::new(b'3', "char").device(1, 3),
            Item::new(b'4', "block").device(8, 1),
            Item::new(b'6', "fifo"),
            Item::new(0, "old/").patch(257, [0; 8]),
            Item::file("star", "s").patch(508, b"tar\0"),
            Item::file("base-256", "")
                .patch(136, [0xff; 12])
                .patch(108, octal(1 << 30, 8)),
        ]),
    ]
}

fn blobs() -> Vec<Vec<u8>> {
    let seed = &seeds()[0];
    let halves = seed.split_at(700);
    vec![
        gzip(seed),
        zstd(seed),
        [gzip(halves.0), gzip(halves.1)].concat(),
        [&b"\x50\x2a\x4d\x18\x02\0\0\0ab"[..], &zstd(seed)].concat(),
        gzip(b""),
        gzip(&vec![0; 200_000]),
    ]
}

fn corpus(target: &str) -> PathBuf {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    fuzz.join("corpus").join(target)
}

fn replay(target: &str, seeds: Vec<Vec<u8>>, run: impl Fn(&[u8])) {
    let dir = corpus(target);
    if std::env::var_os("HAWKER_WRITE_CORPUS").is_some() {
        fs::create_dir_all(&dir).unwrap();
        for (at, seed) in seeds.iter().enumerate() {
            fs::write(dir.join(format!("seed-{at}")), seed).unwrap();
        }
    }
    let files = fs::read_dir(&dir).unwrap();
    let mut count = 0;
    for file in files {
        run(&fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(
        count >= seeds.len(),
        "{} holds {count} files",
        dir.display()
    );
}

#[test]
fn the_corpus_of_tars_does_no_harm() {
    replay("tar", seeds(), harness::tar);
}

#[test]
fn the_corpus_of_blobs_does_no_harm() {
    replay("blob", blobs(), |bytes| drop(harness::blob(bytes)));
}

#[derive(Debug, Clone)]
enum Mutation {
    Set(Index, u8),
    Remove(Index, usize),
    Repeat(Index, usize),
    Swap(Index, Index),
    /// Something that means something, over what is there.
    Put(Index, &'static [u8]),
}

const WORDS: [&[u8]; 16] = [
    b"..",
    b"../",
    b"/",
    b"\0",
    b"\xff\xff\xff\xff",
    b"\x80\0\0\0\0\0\0\0",
    b"path=",
    b"size=9",
    b"7777777",
    b"-1",
    b".wh.",
    b".wh..wh..opq",
    b"GNU.sparse.map=",
    b"linkpath=",
    b"x",
    b"1",
];

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<Index>;
    prop_oneof![
        3 => (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        1 => (index(), 1..600_usize).prop_map(|(at, len)| Mutation::Remove(at, len)),
        1 => (index(), 1..4_usize).prop_map(|(at, len)| Mutation::Repeat(at, len)),
        1 => (index(), index()).prop_map(|(one, other)| Mutation::Swap(one, other)),
        3 => (index(), 0..WORDS.len()).prop_map(|(at, word)| Mutation::Put(at, WORDS[word])),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    if bytes.len() < BLOCK {
        return;
    }
    let len = bytes.len();
    let block = |at: &Index| at.index(len / BLOCK) * BLOCK;
    match mutation {
        Mutation::Set(at, byte) => bytes[at.index(len)] = *byte,
        Mutation::Remove(at, count) => {
            let start = at.index(len);
            bytes.drain(start..(start + count).min(len));
        }
        Mutation::Repeat(at, blocks) => {
            let start = block(at);
            let copy = bytes[start..(start + blocks * BLOCK).min(len)].to_vec();
            bytes.splice(start..start, copy);
        }
        Mutation::Swap(one, other) => {
            for at in 0..BLOCK {
                bytes.swap(block(one) + at, block(other) + at);
            }
        }
        Mutation::Put(at, word) => {
            let start = at.index(len);
            let end = (start + word.len()).min(len);
            bytes[start..end].copy_from_slice(&word[..end - start]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn changed_tars_do_no_harm(
        seed in 0..5_usize,
        mutations in proptest::collection::vec(mutation(), 1..5),
    ) {
        let mut bytes = seeds().swap_remove(seed);
        mutations.iter().for_each(|mutation| mutate(&mut bytes, mutation));
        harness::tar(&bytes);
    }

    #[test]
    fn changed_blobs_do_no_harm(
        seed in 0..6_usize,
        at in any::<Index>(),
        byte in any::<u8>(),
        len in any::<Index>(),
    ) {
        let mut bytes = blobs().swap_remove(seed);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(at.max(len.index(bytes.len())) + 1);
        harness::blob(&bytes);
    }
}
