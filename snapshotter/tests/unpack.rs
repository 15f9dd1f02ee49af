//! What layers become: every kind of entry, and everything it can have.

#![allow(clippy::unwrap_used, reason = "a test")]

mod layer;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
};

use hawker_snapshotter::{DiffId, LayerKind, Limits, Rights};
use layer::{BLOCK, Item, Place, gzip, octal, options, record, tar, zstd, zstd_with_window};

fn mode(place: &Place, name: &str) -> u32 {
    place.stat(name).mode() & 0o7777
}

#[test]
fn an_ordinary_layer_becomes_files() {
    let place = Place::new();
    let unpacked = place
        .unpack_upper(&[
            Item::dir("./").mode(0o700).owner(5, 5),
            Item::dir("etc/"),
            Item::file("etc/passwd", "root")
                .mode(0o640)
                .owner(0, 42)
                .time(77),
            Item::file("etc/empty", ""),
            Item::symlink("etc/link", "/etc/passwd").owner(7, 8).time(5),
            Item::hard_link("etc/hard", "etc/passwd")
                .mode(0o640)
                .owner(0, 42)
                .time(77),
            Item::dir("usr/bin").mode(0o711).time(99),
            Item::file("usr/bin/large", vec![7; 1_000_003])
                .mode(0o4755)
                .owner(3, 4),
        ])
        .unwrap();
    assert_eq!(unpacked.entries, 8);
    assert_eq!(unpacked.implied, ["", "usr"].map(std::path::PathBuf::from));
    assert_eq!(fs::read(place.root().join("etc/hard")).unwrap(), b"root");
    assert_eq!(place.stat("etc/hard").ino(), place.stat("etc/passwd").ino());
    assert_eq!(
        (mode(&place, "etc/passwd"), place.stat("etc/passwd").gid()),
        (0o640, 42)
    );
    assert_eq!(place.stat("etc/passwd").mtime(), 77);
    let link = place.stat("etc/link");
    assert!(link.is_symlink());
    assert_eq!((link.uid(), link.gid(), link.mtime()), (7, 8, 5));
    assert_eq!(mode(&place, "usr/bin/large"), 0o4755);
    assert_eq!(
        fs::read(place.root().join("usr/bin/large")).unwrap(),
        vec![7; 1_000_003]
    );
    // The times of directories are theirs, whatever was made in them later.
    assert_eq!(place.stat("usr/bin").mtime(), 99);
    assert_eq!(place.stat("etc").mtime(), 1_000_000_000);
    // The root belongs to the snapshot.
    assert_ne!(place.stat("").uid(), 5);
}

#[test]
fn the_diff_id_is_that_of_the_whole_tar_however_it_is_packed() {
    let mut bytes = tar(&[Item::file("a", "content"), Item::dir("d")]);
    // Tars are filled up, mostly with zeros.
    bytes.extend([0; 7000]);
    bytes.extend(b"and more");
    let expected = DiffId::from(hawker_model::Digest::of(&bytes));
    let skippable = [&b"\x53\x2a\x4d\x18\x04\0\0\0skip"[..], &zstd(&bytes)].concat();
    let halves = bytes.split_at(700);
    for blob in [
        bytes.clone(),
        gzip(&bytes),
        zstd(&bytes),
        zstd_with_window(&bytes, 25),
        skippable,
        [gzip(halves.0), gzip(halves.1)].concat(),
        [zstd(halves.0), zstd(halves.1)].concat(),
    ] {
        for step in [1, 7, 1 << 20] {
            let place = Place::new();
            let mut source = layer::Memory::new(blob.clone(), step);
            let unpacked = hawker_snapshotter::unpack(
                &place.root(),
                &mut source,
                &options(LayerKind::Base),
                &false.into(),
            )
            .unwrap();
            assert_eq!(unpacked.diff_id, expected);
            assert_eq!(unpacked.size, bytes.len() as u64);
            assert_eq!(fs::read(place.root().join("a")).unwrap(), b"content");
        }
    }
}

#[test]
fn an_empty_blob_is_an_empty_layer() {
    for blob in [&b""[..], &gzip(b""), &tar(&[])] {
        let place = Place::new();
        let unpacked = place.unpack(blob, &options(LayerKind::Base)).unwrap();
        assert_eq!(unpacked.entries, 0);
        assert!(place.tree().is_empty());
    }
}

#[test]
fn modes_come_out_whatever_they_are() {
    for bits in [
        0, 0o1, 0o444, 0o666, 0o777, 0o1777, 0o2755, 0o4711, 0o6755, 0o7777,
    ] {
        for owner in [(0, 0), (1000, 1000), (0, 50)] {
            let place = Place::new();
            let item = |item: Item| item.mode(bits).owner(owner.0, owner.1);
            place
                .unpack_upper(&[
                    item(Item::dir("d")),
                    item(Item::file("d/f", "x")),
                    item(Item::dir("d/e")),
                    item(Item::new(b'6', "fifo")),
                    item(Item::new(b'3', "null").device(1, 3)),
                ])
                .unwrap();
            for name in ["d", "d/f", "d/e", "fifo", "null"] {
                let stat = place.stat(name);
                assert_eq!(stat.mode() & 0o7777, bits, "{name} {owner:?}");
                assert_eq!((stat.uid(), stat.gid()), owner, "{name} {bits:o}");
            }
        }
    }
}

#[test]
fn directories_without_an_entry_do_not_inherit_a_bit() {
    let place = Place::new();
    place
        .unpack_base(&[
            Item::dir("group").mode(0o2775).owner(0, 50),
            Item::file("group/made/f", ""),
            Item::dir("group/d").mode(0o755),
        ])
        .unwrap();
    assert_eq!(mode(&place, "group"), 0o2775);
    assert_eq!(mode(&place, "group/made"), 0o755);
    assert_eq!(mode(&place, "group/d"), 0o755);
    assert_eq!(place.stat("group/made/f").gid(), 0);
}

#[test]
fn nodes_keep_their_numbers() {
    let place = Place::new();
    place
        .unpack_base(&[
            Item::new(b'3', "char").device(4, 64),
            Item::new(b'4', "block").device(259, 1_000_000),
            Item::new(b'6', "fifo").time(12),
        ])
        .unwrap();
    assert!(place.stat("char").file_type().is_char_device());
    assert_eq!(place.stat("char").rdev(), nix::sys::stat::makedev(4, 64));
    assert!(place.stat("block").file_type().is_block_device());
    assert_eq!(
        place.stat("block").rdev(),
        nix::sys::stat::makedev(259, 1_000_000)
    );
    assert!(place.stat("fifo").file_type().is_fifo());
    assert_eq!(place.stat("fifo").mtime(), 12);
}

#[test]
fn times_are_bounded_as_containerd_bounds_them() {
    let place = Place::new();
    place
        .unpack_base(&[
            Item::file("fraction", "").pax("mtime", "1350244992.023960108"),
            Item::file("negative", "").pax("mtime", "-5.5"),
            Item::file("future", "").pax("mtime", "99999999999"),
            Item::file("last", "").pax("mtime", "9223372036.854775807"),
            Item::file("accessed", "").pax("atime", "1500000000.5"),
            Item::file("accessed-before", "").pax("atime", "5"),
            Item::file("base-256", "").patch(136, [0xff; 12]),
        ])
        .unwrap();
    let time = |name: &str| {
        let stat = place.stat(name);
        (stat.mtime(), stat.mtime_nsec())
    };
    assert_eq!(time("fraction"), (1_350_244_992, 23_960_108));
    assert_eq!(time("negative"), (0, 0));
    assert_eq!(time("future"), (0, 0));
    assert_eq!(time("last"), (9_223_372_036, 854_775_807));
    assert_eq!(time("base-256"), (0, 0));
    let accessed = place.stat("accessed");
    assert_eq!(
        (accessed.atime(), accessed.atime_nsec()),
        (1_500_000_000, 500_000_000)
    );
    assert_eq!(place.stat("accessed-before").atime(), 1_000_000_000);
}

#[test]
fn records_and_long_names_stand_above_the_header() {
    let deep = "d/".repeat(100);
    let long = format!("{deep}file");
    let place = Place::new();
    place
        .unpack_base(&[
            Item::file("short", "1")
                .pax("path", &long)
                .pax("uid", "100000")
                .pax("gid", "3000000000")
                .pax("size", "1")
                .pax("comment", "\n\0"),
            Item::new(b'L', "././@LongLink")
                .gnu()
                .data(format!("{long}2\0")),
            Item::file("cut", "22").gnu(),
            Item::new(b'K', "././@LongLink")
                .gnu()
                .data(format!("{long}\0")),
            Item::hard_link("hard", "cut").gnu(),
            Item::new(b'g', "pax_global_header").data(record("path", b"everywhere")),
            Item::file("prefixed", "").patch(345, "pre/fix"),
            Item::file("octal", "").patch(108, octal(0o7777_7777, 8)),
        ])
        .unwrap();
    let stat = place.stat(&long);
    assert_eq!(
        (stat.uid(), stat.gid()),
        (0, 0),
        "the hard link's entry came last"
    );
    assert_eq!(fs::read(place.root().join("hard")).unwrap(), b"1");
    assert_eq!(
        fs::read(place.root().join(format!("{long}2"))).unwrap(),
        b"22"
    );
    assert!(place.has("pre/fix/prefixed"));
    assert_eq!(place.stat("octal").uid(), 0o7777_7777);
    assert!(!place.has("everywhere") && !place.has("pax_global_header"));
}

#[test]
fn old_tars_are_read() {
    let place = Place::new();
    let v7 = |item: Item| item.patch(257, [0; 8]);
    place
        .unpack_base(&[
            v7(Item::new(0, "dir/")),
            v7(Item::new(0, "dir/file").data("v7")),
            Item::file("star", "s")
                .patch(508, b"tar\0")
                .patch(476, octal(7, 12)),
            Item::file("go", "g")
                .gnu()
                .patch(345, "before/1.8/was/here"),
        ])
        .unwrap();
    assert!(place.stat("dir").is_dir());
    assert_eq!(fs::read(place.root().join("dir/file")).unwrap(), b"v7");
    assert!(place.has("star"));
    assert!(place.has("before/1.8/was/here/go"));
}

#[test]
fn attributes_are_set_after_owners_and_on_all_kinds() {
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let place = Place::new();
    place
        .unpack_base(&[
            Item::file("ping", "elf")
                .owner(1, 1)
                .mode(0o755)
                .xattr("security.capability", capability)
                .xattr("user.newline", "a\nb=c\0"),
            Item::dir("d")
                .xattr("user.k", "")
                .xattr("trusted.overlay.opaque", "y"),
            Item::symlink("link", "ping").xattr("user.k", "v"),
            Item::new(b'6', "fifo")
                .xattr("user.k", "v")
                .xattr("security.k", "v"),
        ])
        .unwrap();
    assert_eq!(
        place.xattr("ping", "security.capability").unwrap(),
        capability
    );
    assert_eq!(place.xattr("ping", "user.newline").unwrap(), b"a\nb=c\0");
    assert_eq!(place.xattr("d", "user.k").unwrap(), b"");
    assert_eq!(place.xattr("d", "trusted.overlay.opaque"), None);
    assert_eq!(place.xattr("fifo", "security.k").unwrap(), b"v");
}

#[test]
fn lists_of_rights_do_not_change_the_modes_of_what_comes_later() {
    // Version 2: user::rwx, group::r-x, other::---
    let list = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    let place = Place::new();
    let unpacked = place.unpack_base(&[
        Item::dir("d").xattr("system.posix_acl_default", list),
        Item::file("d/f", "").mode(0o666),
        Item::dir("d/e").mode(0o777),
        Item::file("d/implied/f", ""),
    ]);
    unpacked.unwrap();
    assert_eq!(mode(&place, "d/f"), 0o666);
    assert_eq!(mode(&place, "d/e"), 0o777);
    assert_eq!(mode(&place, "d/implied"), 0o755);
}

#[test]
fn a_hard_links_entry_sets_the_file_again() {
    let place = Place::new();
    place
        .unpack_base(&[
            Item::file("a", "").xattr(
                "security.capability",
                b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
            Item::hard_link("b", "./a").mode(0o600).owner(9, 9).time(33),
            Item::symlink("s", "nowhere"),
            Item::hard_link("t", "/s").owner(4, 4).time(44),
        ])
        .unwrap();
    let stat = place.stat("a");
    assert_eq!(
        (stat.uid(), stat.mode() & 0o7777, stat.mtime()),
        (9, 0o600, 33)
    );
    // As with containerd: the second entry has no capabilities, so the file has none.
    assert_eq!(place.xattr("a", "security.capability"), None);
    assert_eq!((place.stat("s").uid(), place.stat("s").mtime()), (4, 44));
    assert_eq!(place.stat("s").ino(), place.stat("t").ino());
}

#[test]
fn whiteouts_of_an_upper_layer_are_overlays() {
    let place = Place::new();
    place
        .unpack_upper(&[
            Item::dir("d").time(50),
            Item::file("d/.wh.gone", "").owner(3, 4),
            Item::file("d/.wh..wh..opq", ""),
            Item::file(".wh..wh.plnk", ""),
            Item::file("d/.wh.again", ""),
            Item::file("d/again", "new"),
            Item::file(".wh.tree", ""),
            Item::dir("tree"),
            Item::file("tree/f", ""),
        ])
        .unwrap();
    for name in ["d/gone", ".wh.plnk"] {
        let stat = place.stat(name);
        assert!(
            stat.file_type().is_char_device() && stat.rdev() == 0,
            "{name}"
        );
        assert_eq!(stat.mode() & 0o7777, 0);
    }
    assert_eq!(
        (place.stat("d/gone").uid(), place.stat("d/gone").gid()),
        (3, 4)
    );
    assert_eq!(place.xattr("d", "trusted.overlay.opaque").unwrap(), b"y");
    assert_eq!(fs::read(place.root().join("d/again")).unwrap(), b"new");
    assert!(place.has("tree/f"));
    assert!(!place.has("d/.wh..wh..opq"));
    assert_eq!(place.stat("d").mtime(), 50);
}

#[test]
fn whiteouts_of_a_base_layer_take_away_what_it_brought() {
    let place = Place::new();
    let unpacked = place
        .unpack_base(&[
            Item::dir("d").time(50),
            Item::file("d/f", ""),
            Item::file("d/.wh.f", ""),
            Item::file("d/.wh.never", ""),
            Item::file("implied/tree/f", ""),
            Item::symlink("link", "d"),
            Item::file(".wh.implied", ""),
            Item::file(".wh.link", ""),
            Item::file("d/.wh..wh..opq", ""),
            Item::file("d/f", "again"),
            Item::file("link/f", "a directory now"),
        ])
        .unwrap();
    assert_eq!(fs::read(place.root().join("d/f")).unwrap(), b"again");
    assert!(!place.has("implied"));
    assert!(place.stat("link").is_dir());
    assert_eq!(unpacked.implied, ["", "link"].map(std::path::PathBuf::from));
    assert_eq!(place.xattr("d", "trusted.overlay.opaque"), None);
    assert_eq!(place.stat("d").mtime(), 50);
}

#[test]
fn a_link_that_a_whiteout_took_away_leads_nowhere() {
    let place = Place::new();
    let unpacked = place.unpack_base(&[
        Item::dir("d"),
        Item::symlink("d/link", "."),
        Item::file("d/link/f", ""),
        // Removes the very link that led here.
        Item::file("d/link/.wh.link", ""),
        Item::file("d/link/g", ""),
    ]);
    let implied = unpacked.unwrap().implied;
    assert_eq!(implied, ["", "d/link"].map(std::path::PathBuf::from));
    assert!(place.has("d/f") && place.has("d/link/g") && !place.has("d/g"));
}

#[test]
fn directories_that_a_whiteout_took_away_count_no_more() {
    let place = Place::new();
    let mut items = vec![Item::file("a-b/f", ""), Item::file("a0/f", "")];
    for _ in 0..10 {
        items.extend([Item::file("a/b/f", ""), Item::file(".wh.a", "")]);
    }
    let mut options = options(LayerKind::Base);
    options.limits.implied = 9;
    let unpacked = place.unpack(&tar(&items), &options).unwrap();
    let implied = ["", "a-b", "a0"].map(std::path::PathBuf::from);
    assert_eq!(unpacked.implied, implied);
}

#[test]
fn whiteouts_and_devices_in_a_user_namespace() {
    let place = Place::new();
    let mut options = options(LayerKind::Upper);
    options.rights = Rights::UserNamespace;
    let items = [
        Item::dir("d"),
        Item::file("d/.wh..wh..opq", ""),
        Item::file("f", "")
            .xattr("user.overlay.redirect", "/x")
            .xattr("user.k", "v"),
        Item::new(b'3', "null").device(1, 3),
        Item::new(b'6', "fifo"),
        Item::file(".wh.gone", ""),
    ];
    place.unpack(&tar(&items), &options).unwrap();
    assert_eq!(place.xattr("d", "user.overlay.opaque").unwrap(), b"y");
    assert_eq!(place.xattr("f", "user.overlay.redirect"), None);
    assert!(place.xattr("f", "user.k").is_some());
    assert!(!place.has("null") && place.has("fifo") && place.has("gone"));
}

#[test]
fn directories_without_an_entry_are_made_and_told() {
    let place = Place::new();
    let unpacked = place
        .unpack_upper(&[
            Item::file("a/b/c/f", ""),
            Item::dir("a/b").mode(0o700).owner(5, 6).time(8),
            Item::symlink("to-x", "x/y"),
            Item::file("to-x/f", ""),
            Item::symlink("absolute", "/a/b"),
            Item::file("absolute/g", ""),
            Item::file("x/z/.wh.gone", ""),
        ])
        .unwrap();
    let implied = ["", "a", "a/b/c", "x", "x/y", "x/z"];
    assert_eq!(unpacked.implied, implied.map(std::path::PathBuf::from));
    let stat = place.stat("a/b");
    assert_eq!(
        (stat.mode() & 0o7777, stat.uid(), stat.mtime()),
        (0o700, 5, 8)
    );
    assert!(place.has("x/y/f") && place.has("a/b/g"));
    assert_eq!(mode(&place, "a/b/c"), 0o755);
}

#[test]
fn directories_get_their_times_whatever_the_order() {
    let place = Place::new();
    let mut items = vec![Item::dir("late/d").time(1)];
    // More directories than stay open, each visited again when all others were.
    for round in 0..3 {
        for at in 0..40 {
            if round == 0 {
                items.push(Item::dir(format!("d{at}")).time(100 + at));
            }
            items.push(Item::file(format!("d{at}/f{round}"), "x"));
        }
    }
    items.push(Item::dir("late").time(2));
    items.push(Item::symlink("alias", "d7"));
    items.push(Item::file("alias/f", ""));
    items.push(Item::dir("d8").time(5));
    items.push(Item::file("d7/g", ""));
    items.push(Item::file("alias/g2", ""));
    place.unpack_upper(&items).unwrap();
    for at in 0..40 {
        let expected = if at == 8 { 5 } else { 100 + at };
        assert_eq!(place.stat(&format!("d{at}")).mtime(), expected, "d{at}");
    }
    assert_eq!(
        (place.stat("late").mtime(), place.stat("late/d").mtime()),
        (2, 1)
    );
}

/// 1 MiB of hole, 1000 bytes, a hole, 4 bytes, and a hole to the end.
const SPARSE: [(u64, u64); 2] = [(1 << 20, 1000), (2 << 20, 4)];
const SPARSE_SIZE: u64 = 4 << 20;

fn sparse_data() -> Vec<u8> {
    [vec![b'a'; 1000], vec![b'b'; 4]].concat()
}

fn assert_sparse(place: &Place, name: &str) {
    let content = fs::read(place.root().join(name)).unwrap();
    assert_eq!(content.len() as u64, SPARSE_SIZE, "{name}");
    let mut expected = vec![0; content.len()];
    expected[1 << 20..(1 << 20) + 1000].fill(b'a');
    expected[2 << 20..(2 << 20) + 4].fill(b'b');
    assert_eq!(content, expected, "{name}");
    let blocks = place.stat(name).blocks();
    assert!(blocks <= 32, "{name}: {blocks} blocks");
}

#[test]
fn holes_stay_holes_in_all_forms() {
    let map = SPARSE
        .map(|(offset, len)| format!("{offset},{len}"))
        .join(",");
    let size = SPARSE_SIZE.to_string();
    let mut single = Item::file("0.0", sparse_data())
        .pax("GNU.sparse.size", &size)
        .pax("GNU.sparse.numblocks", "2");
    for (offset, len) in SPARSE {
        single = single
            .pax("GNU.sparse.offset", offset.to_string())
            .pax("GNU.sparse.numbytes", len.to_string());
    }
    let listed = Item::file("GNUSparseFile.0/f", sparse_data())
        .pax("GNU.sparse.size", &size)
        .pax("GNU.sparse.numblocks", "2")
        .pax("GNU.sparse.name", "0.1")
        .pax("GNU.sparse.map", &map);
    let mut before = format!("2\n{}\n", map.replace(',', "\n")).into_bytes();
    before.resize(BLOCK, 0);
    let in_data = Item::file("GNUSparseFile.1/f", [before, sparse_data()].concat())
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", "1.0")
        .pax("GNU.sparse.realsize", &size);
    let place = Place::new();
    let items = [
        single,
        listed,
        in_data,
        gnu_sparse(),
        Item::file("after", "x"),
    ];
    place.unpack_base(&items).unwrap();
    for name in ["0.0", "0.1", "1.0", "gnu"] {
        assert_sparse(&place, name);
    }
    assert!(place.has("after") && !place.has("GNUSparseFile.0"));
}

fn gnu_sparse() -> Item {
    let mut item = Item::new(b'S', "gnu").gnu().data(sparse_data());
    for (at, (offset, len)) in SPARSE.iter().enumerate() {
        item = item
            .patch(386 + at * 24, octal(*offset, 12))
            .patch(398 + at * 24, octal(*len, 12));
    }
    item.patch(483, octal(SPARSE_SIZE, 12))
}

#[test]
fn gnu_maps_go_on_in_blocks_of_their_own() {
    // Thirty pieces of one byte each, a MiB apart: 4 in the header, 21 and 5 in blocks.
    let pieces: Vec<u64> = (0..30).map(|at| at << 20).collect();
    let put = |block: &mut [u8], pieces: &[u64]| {
        for (at, offset) in pieces.iter().enumerate() {
            block[at * 24..at * 24 + 12].copy_from_slice(&octal(*offset, 12));
            block[at * 24 + 12..at * 24 + 24].copy_from_slice(&octal(1, 12));
        }
    };
    let mut head = vec![0; 4 * 24];
    put(&mut head, &pieces[..4]);
    let mut more = [0; 2 * BLOCK];
    put(&mut more, &pieces[4..25]);
    more[504] = 1;
    put(&mut more[BLOCK..], &pieces[25..]);
    // The size counts the data, and not the blocks before them.
    let item = Item::new(b'S', "gnu")
        .gnu()
        .size(octal(30, 12))
        .data([&more[..], &[b'x'; 30]].concat())
        .patch(386, head)
        .patch(482, [1])
        .patch(483, octal(30 << 20, 12));
    let place = Place::new();
    place.unpack_base(&[item, Item::file("after", "")]).unwrap();
    let content = fs::read(place.root().join("gnu")).unwrap();
    assert_eq!(content.len(), 30 << 20);
    assert_eq!(content.iter().filter(|byte| **byte == b'x').count(), 30);
    assert!(place.stat("gnu").blocks() <= 30 * 8 + 8);
    assert!(place.has("after"));
}

#[test]
fn a_layer_at_its_limits_passes() {
    let place = Place::new();
    let mut options = options(LayerKind::Base);
    options.limits = Limits {
        size: 3072,
        entries: 2,
        path: 5,
        depth: 1,
        ..Limits::default()
    };
    let items = [Item::file("a/bcd", vec![0; 1024])];
    place.unpack(&tar(&items), &options).unwrap();
}
