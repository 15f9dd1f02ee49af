//! From the blob's bytes to the tar's: chosen by the first bytes, as containerd does, and not by
//! the media type, which lies too often.
//!
//! What follows the end of the compressed stream is refused: gzip members and zstd frames may be
//! many, skippable frames anywhere, but nothing else.

use std::{
    io::{self, BufRead, Read},
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::{Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;

use super::{
    error::Fault,
    pipe::{BUFFER, Writer},
};
use crate::source::{LayerSource, SourceError};

/// The largest window that a zstd frame may ask for, as a power of two: 32 MiB, which is four times
/// what `zstd -19` needs. Every layer that is unpacked may hold as much; what asks for more is
/// containerd's.
const ZSTD_WINDOW: u32 = 25;

const GZIP: [u8; 3] = [0x1f, 0x8b, 8];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Skippable frames have sixteen magics, `184d2a50` to `184d2a5f`, the lowest byte first.
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
/// A skippable frame is taken for one when its length is there as well.
const LONGEST_MAGIC: usize = 8;

/// How decoding ended without an error.
enum End {
    /// All was read.
    Reached,
    /// The other side is gone, and has said why.
    Unwanted,
}

/// The blob as a reader. Its own errors travel through the decoders as [`io::Error`]s and are told
/// apart again by what is inside.
struct Blob<'a> {
    source: &'a mut dyn LayerSource,
    /// Looked at here too: frames and members without data never reach the other side.
    cancelled: &'a AtomicBool,
    step: Bytes,
    read: u64,
    ended: bool,
}

/// Decodes all of `source` into the ring. Returns when the other side is gone, too.
pub(super) fn decode(source: &mut dyn LayerSource, ring: Writer, cancelled: &AtomicBool) {
    let mut blob = Blob {
        source,
        cancelled,
        step: Bytes::new(),
        read: 0,
        ended: false,
    };
    match run(&mut blob, &ring) {
        Ok(End::Unwanted) => {}
        Ok(End::Reached) => ring.end(blob.source.prove().map_err(Fault::from)),
        // It broke off at the next bytes, and the decoder has made an error of its own of that.
        Err(_) if cancelled.load(Ordering::Relaxed) => ring.end(Err(Fault::Cancelled)),
        Err(fault) => ring.end(Err(fault)),
    }
}

fn run(blob: &mut Blob<'_>, ring: &Writer) -> Result<End, Fault> {
    blob.prefetch(LONGEST_MAGIC).map_err(fault)?;
    let start: &[u8] = &blob.step;
    if start.starts_with(&GZIP) {
        let mut decoder = MultiGzDecoder::new(blob);
        pump(&mut decoder, |decoder| decoder.get_ref().read, ring)
    } else if is_zstd(start) {
        let mut decoder = zstd::Decoder::with_buffer(blob).map_err(Fault::Decode)?;
        decoder.window_log_max(ZSTD_WINDOW).map_err(Fault::Decode)?;
        pump(&mut decoder, |decoder| decoder.get_ref().read, ring)
    } else {
        pump(blob, |blob| blob.read, ring)
    }
}

fn is_zstd(start: &[u8]) -> bool {
    start.starts_with(&ZSTD)
        || (start.len() >= LONGEST_MAGIC
            && start[0] & 0xf0 == 0x50
            && start[1..].starts_with(&SKIPPABLE))
}

/// Reads `decoder` to its end, or until the other side is gone.
fn pump<D: Read>(
    decoder: &mut D,
    blob_read: impl Fn(&D) -> u64,
    ring: &Writer,
) -> Result<End, Fault> {
    while let Some(mut buffer) = ring.buffer() {
        let (len, end) = read_full(decoder, &mut buffer);
        buffer.truncate(len);
        // What came before an error counts: the entry where it happened is known by it.
        ring.send(buffer, blob_read(decoder));
        end.map_err(fault)?;
        if len < BUFFER {
            return Ok(End::Reached);
        }
    }
    Ok(End::Unwanted)
}

/// Fills the buffer as far as there is something.
fn read_full(decoder: &mut impl Read, buffer: &mut [u8]) -> (usize, io::Result<()>) {
    let mut len = 0;
    while len < buffer.len() {
        match decoder.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (len, Err(error)),
        }
    }
    (len, Ok(()))
}

/// An error of a decoder: the source's own, or about what was decoded.
fn fault(error: io::Error) -> Fault {
    match error.downcast::<SourceError>() {
        Ok(error) => error.into(),
        Err(error) => Fault::Decode(error),
    }
}

impl Blob<'_> {
    /// Has at least `len` bytes at hand, unless there are no more.
    fn prefetch(&mut self, len: usize) -> io::Result<()> {
        self.fill_buf()?;
        while self.step.len() < len && !self.ended {
            let mut start = BytesMut::from(&*std::mem::take(&mut self.step));
            start.extend_from_slice(self.fill_buf()?);
            self.step = start.freeze();
        }
        Ok(())
    }
}

impl Read for Blob<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut from = self.fill_buf()?;
        let len = from.read(into)?;
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for Blob<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.step.is_empty() && !self.ended {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(io::Error::other("cancelled"));
            }
            self.step = self.source.next().map_err(io::Error::other)?;
            self.read += self.step.len() as u64;
            self.ended = self.step.is_empty();
        }
        Ok(&self.step)
    }

    fn consume(&mut self, len: usize) {
        let _ = self.step.split_to(len.min(self.step.len()));
    }
}
