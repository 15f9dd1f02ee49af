//! Layers that hold everything that layers may hold.

use super::{Item, record};

const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Everything that a base layer may have.
pub(crate) fn base() -> Vec<Item> {
    vec![
        Item::dir("./").mode(0o700).owner(7, 7),
        Item::dir("etc/"),
        Item::file("etc/passwd", "root").mode(0o640).owner(0, 42),
        Item::symlink("bin", "usr/bin"),
        Item::dir("usr/bin").mode(0o1777).owner(3, 4).time(55),
        Item::file("bin/prog", vec![b'x'; 300_000])
            .mode(0o6755)
            .owner(3, 4),
        Item::hard_link("usr/bin/hard", "usr/bin/prog")
            .mode(0o6755)
            .owner(3, 4),
        Item::hard_link("usr/bin/absolute", "/bin/prog")
            .mode(0o4700)
            .owner(9, 4)
            .time(66),
        Item::symlink("link", "/etc/passwd").owner(5, 6),
        Item::hard_link("hard-to-link", "link").owner(8, 8).time(77),
        Item::new(b'3', "dev/null").device(1, 3).mode(0o666),
        Item::new(b'4', "dev/loop")
            .device(7, 200)
            .mode(0o660)
            .owner(0, 6),
        Item::new(b'6', "fifo").mode(0o622),
        Item::new(b'6', "fifo-with-attributes")
            .xattr("user.k", "left out")
            .xattr("security.k", "v"),
        Item::file("ping", "elf")
            .owner(1, 1)
            .mode(0o755)
            .xattr("security.capability", CAPABILITY)
            .xattr("user.newline", "b\nc=\0"),
        Item::hard_link("ping-again", "ping")
            .owner(1, 1)
            .mode(0o755),
        Item::file("before-1970", "").pax("mtime", "-5.5"),
        Item::file("far", "").pax("mtime", "99999999999"),
        Item::file("fraction", "")
            .pax("mtime", "1350244992.0239601089")
            .pax("atime", "1500000000.5"),
        Item::file("short", "long").pax("path", format!("{}/{}", "a".repeat(100), "b".repeat(200))),
        Item::new(b'L', "l")
            .gnu()
            .data(format!("{}/gnu\0", "c".repeat(120))),
        Item::file("cut", "").gnu(),
        Item::new(b'g', "pax_global_header").data(record("comment", b"nothing")),
        Item::dir("group").mode(0o2770).owner(0, 77),
        Item::file("group/f", "").mode(0o640),
        Item::dir("group/d"),
        Item::file("group/g", "").owner(0, 77),
        Item::file("gone/f", "1"),
        Item::file(".wh.gone", ""),
        Item::file("etc/.wh.nothing", ""),
        Item::dir("opaque"),
        Item::file("opaque/.wh..wh..opq", ""),
        Item::file("opaque/f", "2"),
        Item::dir("closed").mode(0),
        Item::file("closed/f", "").mode(0),
        Item::dir("to/there"),
        Item::symlink("absolute", "/to/there"),
        Item::file("absolute/f", ""),
        Item::symlink("dangling", "not/there"),
        Item::file("dangling/f", ""),
        Item::dir("etc").mode(0o711).time(99),
        Item::file("x/../y", "y"),
        Item::file("/rooted", ""),
        Item::dir("trusted")
            .xattr("trusted.overlay.opaque", "y")
            .xattr("user.empty", ""),
        Item::symlink("link-with-attributes", "q").xattr("user.k", "left out"),
        Item::file("sparse", "abc")
            .pax("GNU.sparse.major", "0")
            .pax("GNU.sparse.minor", "1")
            .pax("GNU.sparse.numblocks", "2")
            .pax("GNU.sparse.map", "100000,1,200000,2")
            .pax("GNU.sparse.size", "300000"),
    ]
}

/// Everything that only a layer upon others may have.
pub(crate) fn upper() -> Vec<Item> {
    vec![
        Item::file("etc/.wh.passwd", "").owner(3, 4),
        Item::file("usr/bin/.wh..wh..opq", ""),
        Item::file("usr/bin/new", "n"),
        Item::file(".wh.fifo", ""),
        Item::file(".wh.ping", ""),
        Item::file("ping", "new"),
        Item::file(".wh.opaque", ""),
        Item::dir("opaque"),
        Item::file("opaque/z", ""),
        Item::dir(".wh..wh.plnk/"),
        Item::file(".wh..wh.aufs", ""),
        Item::file("group/.wh.f", ""),
        Item::file("new/deep/dir/f", "f"),
        Item::new(b'3', "whiteout-by-number").mode(0o600),
        Item::dir("d").mode(0o750).time(123),
        Item::file("d/.wh.x", ""),
        Item::file("d/y", ""),
    ]
}
