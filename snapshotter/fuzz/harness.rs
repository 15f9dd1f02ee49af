//! What must hold for any bytes whatever. The fuzz targets and the tests that replay their corpus
//! call this.

use std::{fs, path::Path, sync::atomic::AtomicBool};

use bytes::Bytes;
use hawker_model::Digest;
use hawker_snapshotter::{DiffId, LayerKind, LayerSource, SourceError, UnpackOptions, Unpacked};

const BLOCK: usize = 512;

/// Bytes in memory, given in steps of odd length.
struct Memory(Bytes);

impl LayerSource for Memory {
    fn next(&mut self) -> Result<Bytes, SourceError> {
        Ok(self.0.split_to(self.0.len().min(4099)))
    }

    fn prove(&mut self) -> Result<(), SourceError> {
        Ok(())
    }
}

/// Bytes as a tar, with the checksums of its headers put right, so that the parser behind them is
/// reached. The length decides what the layer lies on.
pub(crate) fn tar(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(BLOCK) {
        if block[257..262] == *b"ustar" {
            put_checksum(block);
        }
    }
    // Not a compressed one, that is for the other target.
    if bytes
        .first()
        .is_none_or(|byte| matches!(byte, 0x1f | 0x28 | 0x50..=0x5f))
    {
        return;
    }
    if let Some(unpacked) = blob(&bytes) {
        assert_eq!(unpacked.diff_id, DiffId::from(Digest::of(&bytes)));
        assert_eq!(unpacked.size, bytes.len() as u64);
    }
}

/// Bytes as a blob, compressed or not.
pub(crate) fn blob(bytes: &[u8]) -> Option<Unpacked> {
    let place = tempfile::tempdir().expect("a directory");
    let (root, outside) = (place.path().join("root"), place.path().join("outside"));
    fs::create_dir(&root).expect("a directory");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("file"), "outside").expect("a file");
    let unpacked = unpack(bytes, &root);
    check(place.path(), &outside);
    unpacked
}

fn unpack(bytes: &[u8], root: &Path) -> Option<Unpacked> {
    let kind = match bytes.len() % 2 {
        0 => LayerKind::Base,
        _ => LayerKind::Upper,
    };
    let mut options = UnpackOptions::new(Digest::of(b"layer"), kind);
    options.limits.size = 8 << 20;
    options.limits.entries = 1000;
    let mut source = Memory(Bytes::copy_from_slice(bytes));
    let cancelled = AtomicBool::new(false);
    match hawker_snapshotter::unpack(root, &mut source, &options, &cancelled) {
        Ok(unpacked) => Some(unpacked),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(&options.layer.to_string()) && !text.contains("panicked"));
            None
        }
    }
}

/// Nothing beside the root has changed.
fn check(place: &Path, outside: &Path) {
    let names = |path: &Path| fs::read_dir(path).expect("a directory").count();
    assert_eq!((names(place), names(outside)), (2, 1));
    let content = fs::read(outside.join("file")).expect("a file");
    assert_eq!(content, b"outside");
}

fn put_checksum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
