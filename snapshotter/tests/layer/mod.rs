//! Layers for tests, written byte by byte, so that they can be as wrong as a test wants; and what
//! became of them.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test takes what it needs"
)]

pub(crate) mod everything;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::Write as _,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use bytes::Bytes;
use hawker_model::Digest;
use hawker_snapshotter::{
    LayerKind, LayerSource, SourceError, UnpackError, UnpackOptions, Unpacked,
};

pub(crate) const BLOCK: usize = 512;

/// One entry to be written.
#[derive(Clone, Default)]
pub(crate) struct Item {
    pub(crate) kind: u8,
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) data: Vec<u8>,
    pub(crate) size: Option<Vec<u8>>,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) time: u64,
    pub(crate) device: (u32, u32),
    pub(crate) records: Vec<u8>,
    /// Fields written over the finished header, before its checksum is made.
    pub(crate) patches: Vec<(usize, Vec<u8>)>,
    pub(crate) gnu: bool,
}

impl Item {
    pub(crate) fn new(kind: u8, name: impl AsRef<[u8]>) -> Self {
        Self {
            kind,
            name: name.as_ref().to_vec(),
            mode: 0o644,
            time: 1_000_000_000,
            ..Self::default()
        }
    }

    pub(crate) fn file(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        let mut item = Self::new(b'0', name);
        item.data = data.as_ref().to_vec();
        item
    }

    pub(crate) fn dir(name: impl AsRef<[u8]>) -> Self {
        Self::new(b'5', name).mode(0o755)
    }

    pub(crate) fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::new(b'2', name).link(target).mode(0o777)
    }

    pub(crate) fn hard_link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::new(b'1', name).link(target)
    }

    pub(crate) fn link(mut self, target: impl AsRef<[u8]>) -> Self {
        self.link = target.as_ref().to_vec();
        self
    }

    pub(crate) fn data(mut self, data: impl AsRef<[u8]>) -> Self {
        self.data = data.as_ref().to_vec();
        self
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = (uid, gid);
        self
    }

    pub(crate) fn time(mut self, time: u64) -> Self {
        self.time = time;
        self
    }

    pub(crate) fn device(mut self, major: u32, minor: u32) -> Self {
        self.device = (major, minor);
        self
    }

    /// What the size field says, whatever the data are.
    pub(crate) fn size(mut self, field: impl AsRef<[u8]>) -> Self {
        self.size = Some(field.as_ref().to_vec());
        self
    }

    pub(crate) fn patch(mut self, at: usize, bytes: impl AsRef<[u8]>) -> Self {
        self.patches.push((at, bytes.as_ref().to_vec()));
        self
    }

    /// A PAX record, with its length counted.
    pub(crate) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        let record = record(key, value.as_ref());
        self.records.extend_from_slice(&record);
        self
    }

    pub(crate) fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    pub(crate) fn gnu(mut self) -> Self {
        self.gnu = true;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if !self.records.is_empty() {
            bytes.extend(Self::new(b'x', "PaxHeaders/x").data(&self.records).bytes());
        }
        bytes.extend(self.header());
        bytes.extend(&self.data);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn header(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, &octal(self.mode.into(), 8));
        put(108, &octal(self.owner.0.into(), 8));
        put(116, &octal(self.owner.1.into(), 8));
        match &self.size {
            Some(size) => put(124, size),
            None => put(124, &octal(self.data.len() as u64, 12)),
        }
        put(136, &octal(self.time, 12));
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(
            257,
            if self.gnu {
                b"ustar  \0"
            } else {
                b"ustar\x0000"
            },
        );
        if matches!(self.kind, b'3' | b'4') {
            put(329, &octal(self.device.0.into(), 8));
            put(337, &octal(self.device.1.into(), 8));
        }
        for (at, bytes) in &self.patches {
            put(*at, bytes);
        }
        checksum(&mut block);
        block
    }
}

/// Writes the right checksum into a header.
pub(crate) fn checksum(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(&[&octal(sum, 7)[..], b" "].concat());
}

/// Octal digits and a NUL; base 256 for what has no room.
pub(crate) fn octal(value: u64, width: usize) -> Vec<u8> {
    let digits = format!("{value:0width$o}\0", width = width - 1);
    if digits.len() == width {
        return digits.into_bytes();
    }
    let mut bytes = vec![0; width];
    let len = width.min(8);
    bytes[width - len..].copy_from_slice(&value.to_be_bytes()[8 - len..]);
    bytes[0] |= 0x80;
    bytes
}

pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A tar of these entries, with its end.
pub(crate) fn tar(items: &[Item]) -> Vec<u8> {
    let mut bytes = open_tar(items);
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

/// The same without an end.
pub(crate) fn open_tar(items: &[Item]) -> Vec<u8> {
    items.iter().flat_map(Item::bytes).collect()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// A frame that asks for a window of 2 to the power of `log` bytes.
pub(crate) fn zstd_with_window(bytes: &[u8], log: u32) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(log).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A layer in memory, given in steps.
pub(crate) struct Memory {
    pub(crate) rest: Bytes,
    pub(crate) step: usize,
    pub(crate) proof: Result<(), ()>,
    /// Whether it fails where it should end.
    pub(crate) breaks: bool,
    pub(crate) proofs: usize,
}

impl Memory {
    pub(crate) fn new(bytes: impl Into<Bytes>, step: usize) -> Self {
        Self {
            rest: bytes.into(),
            step,
            proof: Ok(()),
            breaks: false,
            proofs: 0,
        }
    }
}

impl LayerSource for Memory {
    fn next(&mut self) -> Result<Bytes, SourceError> {
        if self.rest.is_empty() && self.breaks {
            return Err(SourceError::failed("no more of it"));
        }
        let len = self.step.min(self.rest.len());
        Ok(self.rest.split_to(len))
    }

    fn prove(&mut self) -> Result<(), SourceError> {
        self.proofs += 1;
        let proof = self.proof;
        proof.map_err(|()| SourceError::failed("these are other bytes"))
    }
}

/// A directory with another beside it, that a layer which breaks out would find.
pub(crate) struct Place {
    temp: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("root")).unwrap();
        fs::create_dir(temp.path().join("outside")).unwrap();
        fs::write(temp.path().join("outside/file"), "outside").unwrap();
        Self { temp }
    }

    /// Where the layer goes.
    pub(crate) fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    /// What is beside the root, and whether something was added.
    pub(crate) fn outside(&self) -> Vec<String> {
        let mut names: Vec<_> = describe(self.temp.path());
        names.retain(|line| !line.starts_with("root"));
        names
    }

    pub(crate) fn unpack(
        &self,
        blob: &[u8],
        options: &UnpackOptions,
    ) -> Result<Unpacked, UnpackError> {
        let mut source = Memory::new(blob.to_vec(), 1 << 16);
        let cancelled = AtomicBool::new(false);
        hawker_snapshotter::unpack(&self.root(), &mut source, options, &cancelled)
    }

    pub(crate) fn unpack_upper(&self, items: &[Item]) -> Result<Unpacked, UnpackError> {
        self.unpack(&tar(items), &options(LayerKind::Upper))
    }

    pub(crate) fn unpack_base(&self, items: &[Item]) -> Result<Unpacked, UnpackError> {
        self.unpack(&tar(items), &options(LayerKind::Base))
    }

    /// One file of the layer.
    pub(crate) fn stat(&self, name: &str) -> fs::Metadata {
        let path = self.root().join(name);
        fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.root().join(name)).is_ok()
    }

    pub(crate) fn xattr(&self, name: &str, attribute: &str) -> Option<Vec<u8>> {
        xattr::get(self.root().join(name), attribute).unwrap()
    }

    pub(crate) fn tree(&self) -> Vec<String> {
        describe(&self.root())
    }
}

/// Ordinary options, with a digest that errors should name.
pub(crate) fn options(kind: LayerKind) -> UnpackOptions {
    UnpackOptions::new(Digest::of(b"layer"), kind)
}

/// Everything below a directory, a line each.
pub(crate) fn describe(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut first_names = BTreeMap::new();
    walk(root, Path::new(""), &mut first_names, &mut lines);
    lines
}

fn walk(
    root: &Path,
    relative: &Path,
    first_names: &mut BTreeMap<u64, PathBuf>,
    lines: &mut Vec<String>,
) {
    let mut names: Vec<_> = fs::read_dir(root.join(relative))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    for name in names {
        let relative = relative.join(name);
        let path = root.join(&relative);
        let stat = fs::symlink_metadata(&path).unwrap();
        let mut line = format!(
            "{} {:o} {}:{} {}.{:09}",
            relative.display(),
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            stat.mtime_nsec(),
        );
        let kind = stat.file_type();
        if kind.is_file() {
            let digest = Digest::of(&fs::read(&path).unwrap());
            write!(line, " {} bytes {digest}", stat.len()).unwrap();
        } else if kind.is_symlink() {
            write!(line, " -> {:?}", fs::read_link(&path).unwrap()).unwrap();
        } else if kind.is_char_device() || kind.is_block_device() {
            write!(line, " device {:x}", stat.rdev()).unwrap();
        }
        if !kind.is_dir() && stat.nlink() > 1 {
            let first = first_names
                .entry(stat.ino())
                .or_insert_with(|| relative.clone());
            write!(line, " is {}", first.display()).unwrap();
        }
        for attribute in xattr::list(&path).unwrap() {
            let value = xattr::get(&path, &attribute).unwrap().unwrap_or_default();
            write!(line, " {attribute:?}={}", value.escape_ascii()).unwrap();
        }
        lines.push(line);
        if kind.is_dir() {
            walk(root, &relative, first_names, lines);
        }
    }
}
