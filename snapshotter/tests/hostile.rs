//! Layers that must not be unpacked. Each case is a test: the layer is refused with an error that
//! names it and the entry, and nothing beside its directory has changed. `docs/unpack.md` holds the
//! same table; to write it anew, run this with `HAWKER_WRITE_DOCS=1`.

#![allow(clippy::unwrap_used, reason = "a test")]

mod layer;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use hawker_model::Digest;
use hawker_snapshotter::{Fault, LayerKind, LayerSource, Limits, SourceError};
use layer::{
    BLOCK, Item, Memory, Place, checksum, gzip, octal, open_tar, options, record, tar, zstd,
    zstd_with_window,
};

/// A layer that is refused.
struct Hostile {
    blob: Vec<u8>,
    kind: LayerKind,
    limits: Limits,
    entry: Option<String>,
}

fn upper(items: &[Item]) -> Hostile {
    let last = items.last().map(|item| item.name.clone());
    Hostile {
        blob: tar(items),
        kind: LayerKind::Upper,
        limits: Limits::default(),
        entry: last.map(|name| name.escape_ascii().to_string()),
    }
}

fn base(items: &[Item]) -> Hostile {
    Hostile {
        kind: LayerKind::Base,
        ..upper(items)
    }
}

/// A blob with something wrong at no entry.
fn blob(blob: Vec<u8>) -> Hostile {
    Hostile {
        blob,
        entry: None,
        ..upper(&[])
    }
}

impl Hostile {
    fn at(self, entry: &str) -> Self {
        let entry = Some(entry.to_owned());
        Self { entry, ..self }
    }

    fn limits(self, change: impl Fn(&mut Limits)) -> Self {
        let mut limits = self.limits;
        change(&mut limits);
        Self { limits, ..self }
    }

    /// Unpacks it, and gives what the error says behind the layer and the entry.
    fn refusal(self) -> String {
        let place = Place::new();
        let before = place.outside();
        let mut options = options(self.kind);
        options.limits = self.limits;
        let error = place.unpack(&self.blob, &options).unwrap_err();
        assert_eq!(place.outside(), before);
        assert!(error.is_hostile(), "{error}");
        let entry = self.entry.map(|entry| format!(", entry \"{entry}\""));
        let named = format!(
            "layer {}{}: ",
            Digest::of(b"layer"),
            entry.unwrap_or_default()
        );
        let text = error.to_string();
        let fault = text.strip_prefix(&named);
        fault
            .unwrap_or_else(|| panic!("{text} is not at {named}"))
            .to_owned()
    }
}

macro_rules! cases {
    ($($group:literal: $($name:ident => $fault:literal, $layer:expr;)*)*) => {
        $($(
            #[test]
            fn $name() {
                assert_eq!($layer.refusal(), $fault);
            }
        )*)*

        const CASES: &[(&str, &[(&str, &str)])] = &[
            $(($group, &[$((stringify!($name), $fault)),*])),*
        ];
    };
}

cases! {
    "Out of the root":
    a_name_climbs => "refused: the path climbs above the root",
        upper(&[Item::file("../outside/file", "x")]);
    a_name_climbs_in_its_middle => "refused: the path climbs above the root",
        upper(&[Item::file("a/../../outside/file", "x")]);
    an_absolute_name_climbs => "refused: the path climbs above the root",
        upper(&[Item::file("/../outside/file", "x")]);
    a_directory_climbs => "refused: the path climbs above the root",
        upper(&[Item::dir("../outside").mode(0o777)]);
    a_pax_path_climbs => "refused: the path climbs above the root",
        upper(&[Item::file("f", "x").pax("path", "../outside/file")]).at("../outside/file");
    a_gnu_name_climbs => "refused: the path climbs above the root",
        upper(&[Item::new(b'L', "l").gnu().data("../outside/file\0"), Item::file("f", "x").gnu()])
            .at("../outside/file");
    a_sparse_files_name_climbs => "refused: the path climbs above the root",
        upper(&[sparse("1", "0,1", "1").pax("GNU.sparse.name", "../outside/file")])
            .at("../outside/file");
    a_prefix_climbs => "refused: the path climbs above the root",
        upper(&[Item::file("file", "x").patch(345, "../outside")]).at("../outside/file");
    a_link_leads_out => "refused: a symbolic link on the way climbs above the root",
        upper(&[Item::symlink("out", "../outside"), Item::file("out/file", "x")]);
    a_chain_of_links_leads_out => "refused: a symbolic link on the way climbs above the root",
        upper(&[
            Item::dir("d"),
            Item::symlink("d/up", ".."),
            Item::symlink("d/out", "up/../outside"),
            Item::file("d/out/file", "x"),
        ]);
    an_absolute_link_leads_out => "refused: a symbolic link on the way climbs above the root",
        upper(&[Item::symlink("out", "/../outside"), Item::file("out/file", "x")]);
    a_link_leads_out_of_a_made_directory =>
        "refused: a symbolic link on the way climbs above the root",
        upper(&[Item::symlink("out", "made/../../outside"), Item::file("out/new/file", "x")]);
    a_directory_goes_through_a_link_that_leads_out =>
        "refused: a symbolic link on the way climbs above the root",
        upper(&[Item::symlink("out", ".."), Item::dir("out/outside").mode(0o777)]);
    a_whiteout_goes_through_a_link_that_leads_out =>
        "refused: a symbolic link on the way climbs above the root",
        base(&[Item::symlink("out", "../outside"), Item::file("out/.wh.file", "")]);
    an_opaque_mark_goes_through_a_link_that_leads_out =>
        "refused: a symbolic link on the way climbs above the root",
        upper(&[Item::symlink("out", "../outside"), Item::file("out/.wh..wh..opq", "")]);
    links_lead_in_a_circle => "refused: too many symbolic links on the way",
        upper(&[Item::symlink("a", "b"), Item::symlink("b", "a"), Item::file("a/f", "x")]);
    links_that_multiply => "refused: too many symbolic links on the way",
        upper(&[Item::dir("d"),
                Item::symlink("a", "").pax("linkpath", "d/../".repeat(600) + "d"),
                Item::symlink("b", "a/../a"),
                Item::file("b/f", "x")]);
    a_file_is_written_through_a_link => "refused: the entry is there twice",
        upper(&[Item::symlink("f", "../outside/file"), Item::file("f", "x")]);
    a_hard_link_climbs => "refused: the path climbs above the root",
        upper(&[Item::hard_link("f", "../outside/file")]);
    a_hard_link_goes_through_a_link_that_leads_out =>
        "refused: a symbolic link on the way climbs above the root",
        upper(&[Item::symlink("out", "../outside"), Item::hard_link("f", "out/file")]);
    a_hard_link_to_the_hosts_files => "refused: the hard link's target is not in the layer",
        upper(&[Item::hard_link("f", "/etc/passwd")]);

    "Links":
    a_hard_link_to_nothing => "refused: the hard link's target is not in the layer",
        upper(&[Item::hard_link("f", "g")]);
    a_hard_link_to_nothing_in_nothing => "refused: the hard link's target is not in the layer",
        upper(&[Item::hard_link("f", "d/g")]);
    a_hard_link_to_itself => "refused: the hard link's target is not in the layer",
        upper(&[Item::hard_link("f", "f")]);
    a_hard_link_to_a_directory => "refused: the hard link's target is a directory",
        upper(&[Item::dir("d"), Item::hard_link("f", "d")]);
    a_hard_link_to_the_directory_above => "refused: the hard link's target is a directory",
        upper(&[Item::dir("d"), Item::hard_link("f", "d/..")]);
    a_hard_link_to_the_root => "refused: the hard link's target is a directory",
        upper(&[Item::hard_link("f", "/")]);
    a_hard_link_without_a_target => "refused: the link has no target",
        upper(&[Item::hard_link("f", "")]);
    a_symbolic_link_without_a_target => "refused: the link has no target",
        upper(&[Item::symlink("f", "")]);
    a_symbolic_link_of_great_length =>
        "refused: the path is longer than 4095 bytes, or a name in it longer than 255",
        upper(&[Item::symlink("f", "").pax("linkpath", "t/".repeat(2048))]);

    "Names and places":
    an_entry_without_a_name => "refused: the entry has no name",
        blob(tar(&[Item::file("", "x")]));
    a_name_of_great_length =>
        "refused: the path is longer than 4095 bytes, or a name in it longer than 255",
        upper(&[Item::file("f", "").pax("path", "n".repeat(256))])
            .at(&format!("{}…", "n".repeat(200)));
    a_path_of_great_length =>
        "refused: the path is longer than 4095 bytes, or a name in it longer than 255",
        upper(&[Item::file("f", "").pax("path", "n/".repeat(2049))])
            .at(&format!("{}…", "n/".repeat(100)));
    a_path_of_great_depth => "refused: more than 256 directories lie above it",
        upper(&[Item::file("f", "").pax("path", "n/".repeat(258))])
            .at(&format!("{}…", "n/".repeat(100)));
    links_that_add_up_to_great_depth => "refused: more than 8 directories lie above it",
        upper(&[
            Item::symlink("l", "1/2/3/4"),
            Item::symlink("1/2/3/4/l", "5/6/7/8"),
            Item::file("l/l/9/f", "x"),
        ]).limits(|limits| limits.depth = 8);
    a_file_below_a_file => "refused: it lies below something that is no directory",
        upper(&[Item::file("a", ""), Item::file("a/b", "")]);
    a_file_below_a_pipe => "refused: it lies below something that is no directory",
        upper(&[Item::new(b'6', "a"), Item::file("a/b/c", "")]);
    a_file_below_a_whiteout => "refused: it lies below something that is no directory",
        upper(&[Item::file(".wh.a", ""), Item::file("a/b", "")]);
    a_file_below_a_link_to_a_file => "refused: it lies below something that is no directory",
        upper(&[Item::file("f", ""), Item::symlink("a", "f"), Item::file("a/b", "")]);
    a_whiteout_of_no_name => "refused: the whiteout names nothing",
        base(&[Item::file("d/.wh.", "")]);
    a_whiteout_of_its_own_directory => "refused: the whiteout names nothing",
        base(&[Item::file("d/.wh..", "")]);
    a_whiteout_of_the_directory_above => "refused: the whiteout names nothing",
        base(&[Item::file("d/.wh...", "")]);

    "Duplicates":
    a_file_twice => "refused: the entry is there twice",
        upper(&[Item::file("f", "1"), Item::file("./f", "2")]);
    a_directory_in_the_place_of_a_file => "refused: the entry is there twice",
        upper(&[Item::file("f", ""), Item::dir("f")]);
    a_file_in_the_place_of_a_directory => "refused: the entry is there twice",
        upper(&[Item::dir("f"), Item::file("f", "")]);
    a_directory_in_the_place_of_a_link => "refused: the entry is there twice",
        upper(&[Item::symlink("f", "../outside"), Item::dir("f").mode(0o777)]);
    a_link_in_the_place_of_a_directory => "refused: the entry is there twice",
        upper(&[Item::file("f/g", ""), Item::symlink("f", "/")]);
    a_hard_link_in_the_place_of_a_file => "refused: the entry is there twice",
        upper(&[Item::file("a", ""), Item::file("b", ""), Item::hard_link("b", "a")]);
    a_device_in_the_place_of_a_file => "refused: the entry is there twice",
        upper(&[Item::file("a", ""), Item::new(b'3', "a").device(1, 3)]);
    the_same_file_through_a_link => "refused: the entry is there twice",
        upper(&[Item::file("d/f", ""), Item::symlink("l", "d"), Item::file("l/f", "")]);
    a_whiteout_of_a_file_of_the_layer => "refused: the whiteout hides what the layer itself brings",
        upper(&[Item::file("f", ""), Item::file(".wh.f", "")]);
    a_whiteout_twice => "refused: the whiteout hides what the layer itself brings",
        upper(&[Item::file(".wh.f", ""), Item::file(".wh.f", "")]);
    an_opaque_mark_over_a_directory_without_an_entry => "refused: the opaque mark hides a directory that the layer itself brings without an entry",
        base(&[Item::dir("d"), Item::file("d/e/f", ""), Item::file("d/.wh..wh..opq", "")]);

    "Bad headers":
    a_wrong_checksum => "not a valid tar: the checksum of a header is wrong",
        blob(flipped(&[Item::file("f", "x")], 0));
    what_is_no_tar_at_all => "not a valid tar: the checksum of a header is wrong",
        blob(b"<html>404".repeat(100));
    a_size_that_is_no_number => "not a valid tar: the size is not a number, or out of range",
        upper(&[Item::file("f", "x").size("x")]);
    a_negative_size => "not a valid tar: the size is not a number, or out of range",
        upper(&[Item::file("f", "x").size([0xff; 12])]);
    a_size_beyond_64_bits => "not a valid tar: the size is not a number, or out of range",
        upper(&[Item::file("f", "x").size([0xbf; 12])]);
    a_negative_size_in_a_record => "not a valid tar: the size is not a number, or out of range",
        upper(&[Item::file("f", "x").pax("size", "-1")]);
    a_mode_that_is_no_number => "not a valid tar: the mode is not a number, or out of range",
        upper(&[Item::file("f", "x").patch(100, "rw-r--r-")]);
    a_time_that_is_no_number => "not a valid tar: the time is not a number, or out of range",
        upper(&[Item::file("f", "x").pax("mtime", "today")]).at("PaxHeaders/x");
    an_owner_that_is_no_number => "not a valid tar: the owner is not a number, or out of range",
        upper(&[Item::file("f", "x").pax("uid", "root")]).at("PaxHeaders/x");
    an_owner_that_does_not_exist => "refused: an owner that does not exist",
        upper(&[Item::file("f", "x").pax("uid", "4294967295")]);
    a_negative_group => "refused: an owner that does not exist",
        upper(&[Item::file("f", "x").patch(116, [0xff; 8])]);
    a_device_that_does_not_exist => "refused: a device with numbers that do not exist",
        upper(&[Item::new(b'3', "f").device(4096, 0)]);
    a_device_with_a_negative_number => "refused: a device with numbers that do not exist",
        upper(&[Item::new(b'4', "f").patch(337, [0xff; 8])]);
    an_entry_of_another_kind => "refused: entries of type 'V' are not known",
        upper(&[Item::new(b'V', "f")]);

    "Bad records":
    records_without_a_length => "not a valid tar: the PAX records are malformed",
        upper(&[Item::new(b'x', "x").data("path=f\n")]);
    a_record_longer_than_its_header => "not a valid tar: the PAX records are malformed",
        upper(&[Item::new(b'x', "x").data("99 path=f\n")]);
    a_record_without_a_value => "not a valid tar: the PAX records are malformed",
        upper(&[Item::new(b'x', "x").data("7 path\n")]);
    bad_records_for_all_entries => "not a valid tar: the PAX records are malformed",
        upper(&[Item::new(b'g', "g").data("x")]);
    a_nul_in_a_path => "not a valid tar: there is a NUL within the path",
        upper(&[Item::new(b'x', "x").data(record("path", b"f\0/../.."))]);
    a_nul_in_a_long_name => "not a valid tar: there is a NUL within a long name",
        upper(&[Item::new(b'L', "l").gnu().data("f\0/../..")]);
    two_sets_of_records => "not a valid tar: two PAX headers for one entry",
        upper(&[Item::new(b'x', "x").data(record("path", b"a")),
                Item::new(b'x', "y").data(record("path", b"b"))]);
    two_long_names => "not a valid tar: two long names for one entry",
        upper(&[Item::new(b'L', "l").gnu().data("a"), Item::new(b'L', "m").gnu().data("b")]);
    two_long_link_names => "not a valid tar: two long link names for one entry",
        upper(&[Item::new(b'K', "l").gnu().data("a"), Item::new(b'K', "m").gnu().data("b")]);
    records_without_an_entry => "not a valid tar: a PAX header without an entry behind it",
        upper(&[Item::new(b'x', "x").data(record("path", b"a"))]);
    a_long_name_without_an_entry => "not a valid tar: a long name without an entry behind it",
        upper(&[Item::new(b'L', "l").gnu().data("a")]);
    records_of_great_length => "refused: an extended header of more than 1048576 bytes",
        upper(&[Item::new(b'x', "x").data(vec![b'0'; (1 << 20) + 1])]);
    a_long_name_of_great_length => "refused: an extended header of more than 1048576 bytes",
        upper(&[Item::new(b'L', "l").gnu().size(octal(1 << 40, 12))]);

    "Bad holes":
    holes_that_overlap => "not a valid tar: the map of its holes is malformed or overlaps",
        upper(&[sparse("2", "0,2,1,2", "4").data("abcd")]);
    holes_out_of_order => "not a valid tar: the map of its holes is malformed or overlaps",
        upper(&[sparse("2", "8,1,0,1", "9").data("ab")]);
    holes_beyond_the_end => "not a valid tar: the map of its holes is malformed or overlaps",
        upper(&[sparse("1", "5,1", "5")]);
    holes_beyond_64_bits => "not a valid tar: the map of its holes is malformed or overlaps",
        upper(&[sparse("1", "9223372036854775807,9223372036854775807", "9223372036854775807")]);
    holes_at_negative_places => "not a valid tar: the map of its holes is malformed or overlaps",
        upper(&[sparse("1", "-1,1", "5")]);
    a_map_with_less_data_than_the_entry =>
        "not a valid tar: the map of its holes is malformed or overlaps",
        upper(&[sparse("1", "0,1", "5").data("abc")]);
    a_map_with_more_data_than_the_entry =>
        "not a valid tar: the map of its holes is malformed or overlaps",
        upper(&[sparse("1", "0,2", "5")]);
    a_map_of_another_length => "not a valid tar: the map of its holes is malformed or overlaps",
        upper(&[sparse("2", "0,1", "5")]);
    a_map_with_half_a_piece => "not a valid tar: the map of its holes is malformed or overlaps",
        upper(&[sparse("1", "0", "5")]);
    a_map_before_the_data_that_does_not_end =>
        "not a valid tar: the map of its holes is malformed or overlaps",
        upper(&[map_in_data("100000000\n1\n1\n")]);
    a_map_before_the_data_of_letters =>
        "not a valid tar: the map of its holes is malformed or overlaps",
        upper(&[map_in_data("one\n0\n1\n")]);
    a_map_before_the_data_of_great_length =>
        "refused: an extended header of more than 1048576 bytes",
        upper(&[map_in_data(&format!("{}\n{}", i64::MAX, "0\n".repeat(1 << 20)))]);
    a_gnu_map_in_another_header =>
        "not a valid tar: the map of its holes is malformed or overlaps",
        upper(&[Item::new(b'S', "f").data("x")]);
    a_gnu_map_without_end => "refused: an extended header of more than 1048576 bytes",
        upper(&[Item::new(b'S', "f").gnu().patch(482, [1]).data(endless_map())]);
    a_directory_with_holes => "not a valid tar: a map of holes for something that is no file",
        upper(&[Item::dir("d").pax("GNU.sparse.map", "0,0").pax("GNU.sparse.numblocks", "1")]);

    "Cut and continued":
    a_tar_cut_within_a_header => "not a valid tar: it ends within an entry",
        blob(cut(open_tar(&[Item::file("f", "x")]), 100));
    a_tar_cut_within_a_file => "not a valid tar: it ends within an entry",
        blob(cut(open_tar(&[Item::file("f", vec![0; 5000])]), 3000)).at("f");
    a_tar_cut_within_records => "not a valid tar: it ends within an entry",
        blob(cut(open_tar(&[Item::new(b'x', "x").data(vec![b' '; 5000])]), 3000)).at("x");
    a_tar_cut_behind_a_file => "not a valid tar: it ends without the two zero blocks of an end",
        blob(open_tar(&[Item::file("f", "x")]));
    a_tar_with_half_an_end => "not a valid tar: it ends without the two zero blocks of an end",
        blob([open_tar(&[Item::file("f", "x")]), vec![0; BLOCK]].concat());
    a_lone_zero_block => "not a valid tar: a single zero block is followed by something else",
        blob([vec![0; BLOCK], tar(&[Item::file("f", "x")])].concat());
    a_gzip_that_is_cut => "cannot decompress: incomplete deflate stream",
        blob(cut(gzip(&tar(&[Item::file("f", noise(100_000))])), 50_000)).at("f");
    a_gzip_without_its_last_byte => "cannot decompress: unexpected end of file",
        blob(but_last(gzip(&tar(&[])), 1));
    a_gzip_with_something_behind => "cannot decompress: invalid gzip header",
        blob([gzip(&tar(&[])), b"something behind".to_vec()].concat());
    a_gzip_with_a_little_behind => "cannot decompress: unexpected end of file",
        blob([gzip(&tar(&[])), b"\n".to_vec()].concat());
    a_gzip_with_zeros_behind => "cannot decompress: invalid gzip header",
        blob([gzip(&tar(&[])), vec![0; BLOCK]].concat());
    a_gzip_with_another_checksum => "cannot decompress: corrupt gzip stream does not have a matching checksum",
        blob(flip_last(gzip(&tar(&[])), 5));
    a_gzip_of_another_length => "cannot decompress: corrupt gzip stream does not have a matching checksum",
        blob(flip_last(gzip(&tar(&[])), 1));
    a_zstd_that_is_cut => "cannot decompress: incomplete frame",
        blob(cut(zstd(&tar(&[Item::file("f", noise(100_000))])), 50_000));
    a_zstd_with_something_behind => "cannot decompress: Unknown frame descriptor",
        blob([zstd(&tar(&[])), b"something".to_vec()].concat());
    a_zstd_that_wants_much_memory =>
        "cannot decompress: Frame requires too much memory for decoding",
        blob(zstd_with_window(&tar(&[]), 26));

    "Bombs":
    a_bomb_by_ratio => "refused: more than 100 times as large as its blob",
        Hostile { blob: gzip(&tar(&[Item::file("f", vec![0; 4 << 20])])), ..upper(&[]) }
            .at("f").limits(|limits| (limits.ratio, limits.ratio_from) = (100, 1 << 20));
    a_bomb_of_many_frames => "refused: more than 100 times as large as its blob",
        Hostile { blob: zstd(&tar(&[Item::file("f", vec![0; 4 << 20])])), ..upper(&[]) }
            .at("f").limits(|limits| (limits.ratio, limits.ratio_from) = (100, 1 << 20));
    a_bomb_behind_the_end => "refused: more than 100 times as large as its blob",
        blob(gzip(&vec![0; 4 << 20]))
            .limits(|limits| (limits.ratio, limits.ratio_from) = (100, 1 << 20));
    a_bomb_by_size => "refused: more than 1000000 bytes",
        upper(&[Item::file("f", vec![1; 600_000]), Item::file("g", vec![1; 600_000])])
            .limits(|limits| limits.size = 1_000_000);
    a_size_that_is_only_claimed => "refused: more than 68719476736 bytes",
        upper(&[Item::file("f", "x").size(octal(1 << 50, 12))]);
    a_bomb_by_holes => "refused: more than 68719476736 bytes",
        upper(&[sparse("1", "1125899906842624,1", "1125899906842625")]);
    a_bomb_by_count => "refused: more than 3 entries",
        upper(&[Item::dir("1"), Item::dir("2"), Item::dir("3"), Item::dir("4")])
            .limits(|limits| limits.entries = 3);
    a_bomb_by_directories_without_entries => "refused: more than 3 entries",
        upper(&[Item::file("1/2/3/f", ""), Item::file("4", "")])
            .limits(|limits| limits.entries = 3);
    a_bomb_by_paths_without_entries =>
        "refused: more than 10 bytes of paths of directories without an entry",
        upper(&[Item::file("1/2/3/4/f", "")]).limits(|limits| limits.implied = 10);
}

/// A sparse file whose map is in its records.
fn sparse(blocks: &str, map: &str, size: &str) -> Item {
    Item::file("f", "x")
        .pax("GNU.sparse.numblocks", blocks)
        .pax("GNU.sparse.map", map)
        .pax("GNU.sparse.size", size)
}

/// A sparse file whose map comes before its data.
fn map_in_data(map: &str) -> Item {
    let mut data = map.as_bytes().to_vec();
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    Item::file("f", data)
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
}

/// Blocks of a GNU map, each of which says that another follows.
fn endless_map() -> Vec<u8> {
    let mut block = [0; BLOCK];
    block[504] = 1;
    block.repeat(3000)
}

/// A tar with one bit turned in it.
fn flipped(items: &[Item], at: usize) -> Vec<u8> {
    let mut bytes = tar(items);
    bytes[at] ^= 1;
    bytes
}

fn cut(mut bytes: Vec<u8>, len: usize) -> Vec<u8> {
    bytes.truncate(len);
    bytes
}

fn but_last(mut bytes: Vec<u8>, len: usize) -> Vec<u8> {
    bytes.truncate(bytes.len() - len);
    bytes
}

fn flip_last(mut bytes: Vec<u8>, back: usize) -> Vec<u8> {
    let at = bytes.len() - back;
    bytes[at] ^= 1;
    bytes
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn absolute_links_lead_into_the_root() {
    let place = Place::new();
    let before = place.outside();
    place
        .unpack_upper(&[
            Item::symlink("a", "/outside"),
            Item::file("a/file", "inside"),
            Item::symlink(
                "b",
                place
                    .root()
                    .parent()
                    .unwrap()
                    .as_os_str()
                    .as_encoded_bytes(),
            ),
            Item::file("b/outside/file", "inside"),
            Item::hard_link("c", "/a/file"),
        ])
        .unwrap();
    assert_eq!(place.outside(), before);
    assert_eq!(
        fs::read(place.root().join("outside/file")).unwrap(),
        b"inside"
    );
    assert_eq!(fs::read(place.root().join("c")).unwrap(), b"inside");
}

#[test]
fn links_to_anywhere_are_only_links() {
    let place = Place::new();
    let before = place.outside();
    let items = [
        Item::symlink("a", "../outside/file")
            .mode(0o777)
            .owner(5, 5)
            .xattr("user.k", "v"),
        Item::hard_link("b", "a").mode(0o600).owner(6, 6).time(9),
    ];
    place.unpack_upper(&items).unwrap();
    assert_eq!(place.outside(), before);
}

#[test]
fn a_source_that_fails_is_not_the_layers_fault() {
    let tar = tar(&[Item::file("f", noise(100_000))]);
    let cut = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() - 50);
        bytes
    };
    for (blob, breaks) in [
        (tar.clone(), false),
        (cut(tar.clone()), true),
        (cut(gzip(&tar)), true),
        (cut(zstd(&tar)), true),
        (Vec::new(), true),
    ] {
        let place = Place::new();
        let mut source = Memory::new(blob, 100);
        source.breaks = breaks;
        source.proof = Err(());
        let options = options(LayerKind::Base);
        let error = hawker_snapshotter::unpack(&place.root(), &mut source, &options, &false.into())
            .unwrap_err();
        assert!(!error.is_hostile(), "{error}");
        let Fault::Source(failed) = error.fault else {
            panic!("{error}")
        };
        assert!(matches!(*failed, SourceError::Failed(_)));
        assert_eq!(source.proofs, usize::from(!breaks));
    }
}

#[test]
fn a_refused_layer_is_neither_read_on_nor_proven() {
    let place = Place::new();
    let tar = tar(&[Item::file("../f", ""), Item::file("g", vec![0; 50 << 20])]);
    let mut source = Memory::new(tar, 1 << 16);
    let options = options(LayerKind::Base);
    let unpacked = hawker_snapshotter::unpack(&place.root(), &mut source, &options, &false.into());
    assert!(unpacked.unwrap_err().is_hostile());
    assert!(
        source.rest.len() > 40 << 20,
        "{} bytes left",
        source.rest.len()
    );
    assert_eq!(source.proofs, 0);
}

#[test]
fn a_cancelled_layer_says_so() {
    let place = Place::new();
    let mut source = Memory::new(tar(&[Item::file("f", "x")]), 100);
    let options = options(LayerKind::Base);
    let error =
        hawker_snapshotter::unpack(&place.root(), &mut source, &options, &true.into()).unwrap_err();
    assert!(matches!(error.fault, Fault::Cancelled), "{error}");
    assert!(!error.is_hostile());
}

/// Frames without data, and a caller who gives up after the tenth.
struct Nothing {
    given: usize,
    cancelled: Arc<AtomicBool>,
}

impl LayerSource for Nothing {
    fn next(&mut self) -> Result<Bytes, SourceError> {
        self.given += 1;
        let is_late = self.given >= 10;
        self.cancelled.store(is_late, Ordering::Relaxed);
        match self.given {
            ..1000 => Ok(Bytes::from_static(b"\x50\x2a\x4d\x18\0\0\0\0")),
            _ => Ok(Bytes::new()),
        }
    }

    fn prove(&mut self) -> Result<(), SourceError> {
        Ok(())
    }
}

#[test]
fn a_cancelled_layer_ends_although_it_decodes_to_nothing() {
    let place = Place::new();
    let cancelled = Arc::default();
    let mut source = Nothing {
        given: 0,
        cancelled: Arc::clone(&cancelled),
    };
    let options = options(LayerKind::Base);
    let error =
        hawker_snapshotter::unpack(&place.root(), &mut source, &options, &cancelled).unwrap_err();
    assert!(matches!(error.fault, Fault::Cancelled), "{error}");
    assert_eq!(source.given, 10);
}

#[test]
fn no_turned_bit_of_a_header_goes_unseen_or_does_harm() {
    let items = [
        Item::dir("d"),
        Item::symlink("d/l", "../outside").pax("path", "d/link"),
        Item::file("d/f", "data"),
    ];
    let bytes = tar(&items);
    for at in (0..BLOCK * 8).step_by(13) {
        let place = Place::new();
        let before = place.outside();
        let mut bytes = bytes[..bytes.len().min(4096)].to_vec();
        if at < bytes.len() {
            bytes[at] ^= 1 << (at % 8);
            // With a checksum that is right again, so that more than the checksum is tried.
            let start = at - at % BLOCK;
            let block: &mut [u8; BLOCK] = (&mut bytes[start..start + BLOCK]).try_into().unwrap();
            checksum(block);
        }
        drop(place.unpack(&bytes, &options(LayerKind::Upper)));
        assert_eq!(place.outside(), before, "{at}");
    }
}

const START: &str = "<!-- made by tests/hostile.rs -->\n";
const END: &str = "<!-- end -->\n";

#[test]
fn the_table_in_the_docs_is_this_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/unpack.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(START).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let mut table = String::new();
    for (group, cases) in CASES {
        table += &format!("\n### {group}\n\n| case | the error says |\n|---|---|\n");
        for (name, fault) in *cases {
            table += &format!("| {} | {fault} |\n", name.replace('_', " "));
        }
    }
    table += "\n";
    if std::env::var_os("HAWKER_WRITE_DOCS").is_some() {
        fs::write(&path, format!("{before}{START}{table}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(found, table, "HAWKER_WRITE_DOCS=1 writes it anew");
}
