//! The ring between the two threads of an unpack: a few buffers go round, full ones to the files'
//! thread, empty ones back, so that memory is bounded and either side waits for the other.
//!
//! The diff id is the SHA-256 of all that goes through, what follows the end of the archive
//! included. It is made where bytes are taken: inflating is what takes longest.
//!
//! The decoder's end (or its error) travels behind the last bytes, in order: the files' thread is
//! the one that reports, and knows at which entry it was.

use std::sync::{
    atomic::{AtomicBool, Ordering},
    mpsc::{Receiver, SyncSender, sync_channel},
};

use hawker_model::Digest;
use sha2::{Digest as _, Sha256};

use super::{
    error::{Fault, Refusal, TarFault},
    limits::Limits,
};
use crate::chain::DiffId;

/// Bytes of one buffer: small enough to stay in a core's cache on its way through both threads.
pub(super) const BUFFER: usize = 128 * 1024;

/// Buffers of one ring.
const BUFFERS: usize = 8;

/// Some bytes of the tar, and how many bytes of the blob had been read for all until here.
struct Chunk {
    bytes: Vec<u8>,
    blob_read: u64,
}

enum Message {
    Chunk(Chunk),
    End(Result<(), Fault>),
}

/// What is known of a tar at its end.
pub(super) struct Whole {
    pub(super) diff_id: DiffId,
    pub(super) size: u64,
}

/// The decoder's side.
pub(super) struct Writer {
    full: SyncSender<Message>,
    empty: Receiver<Vec<u8>>,
}

/// The files' side: an [`Input`] of tar bytes.
pub(super) struct Reader<'a> {
    full: Receiver<Message>,
    empty: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    read: u64,
    hash: Sha256,
    ended: bool,
    limits: Limits,
    cancelled: &'a AtomicBool,
}

/// Where the tar reader takes its bytes.
pub(super) trait Input {
    /// The bytes that come next, at least one; none at the end of the tar.
    fn fill(&mut self) -> Result<&[u8], Fault>;
    /// Counts `len` of those as taken.
    fn consume(&mut self, len: usize);
}

/// A ring with all its buffers empty.
pub(super) fn ring(limits: Limits, cancelled: &AtomicBool) -> (Writer, Reader<'_>) {
    let (full, to_read) = sync_channel(BUFFERS + 1);
    let (back, empty) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // There is room for all of them, and the other end is in hand.
        let _ = back.try_send(Vec::new());
    }
    let writer = Writer { full, empty };
    let reader = Reader {
        full: to_read,
        empty: back,
        chunk: Vec::new(),
        at: 0,
        read: 0,
        hash: Sha256::new(),
        ended: false,
        limits,
        cancelled,
    };
    (writer, reader)
}

impl Writer {
    /// An empty buffer of [`BUFFER`] bytes; none when the reader is gone.
    pub(super) fn buffer(&self) -> Option<Vec<u8>> {
        let mut buffer = self.empty.recv().ok()?;
        buffer.resize(BUFFER, 0);
        Some(buffer)
    }

    /// Hands a buffer on. A reader that is gone has said why itself.
    pub(super) fn send(&self, bytes: Vec<u8>, blob_read: u64) {
        let _ = self.full.send(Message::Chunk(Chunk { bytes, blob_read }));
    }

    /// Says how it ended.
    pub(super) fn end(self, end: Result<(), Fault>) {
        let _ = self.full.send(Message::End(end));
    }
}

impl Reader<'_> {
    /// What all bytes were; takes those that were not taken.
    pub(super) fn into_whole(mut self) -> Result<Whole, Fault> {
        while let len @ 1.. = self.fill()?.len() {
            self.consume(len);
        }
        Ok(Whole {
            diff_id: DiffId::from(Digest::from_bytes(self.hash.finalize().into())),
            size: self.read,
        })
    }

    fn advance(&mut self) -> Result<(), Fault> {
        match self.full.recv() {
            Ok(Message::Chunk(chunk)) => self.take(chunk),
            Ok(Message::End(end)) => {
                end?;
                self.ended = true;
                Ok(())
            }
            // Only a decoder that panicked ends without a word.
            Err(_) => Err(Fault::Tar(TarFault::Truncated)),
        }
    }

    fn take(&mut self, chunk: Chunk) -> Result<(), Fault> {
        let emptied = std::mem::replace(&mut self.chunk, chunk.bytes);
        if emptied.capacity() > 0 {
            let _ = self.empty.try_send(emptied);
        }
        self.at = 0;
        self.read += self.chunk.len() as u64;
        self.hash.update(&self.chunk);
        let limits = &self.limits;
        if self.read > limits.size {
            return Err(Refusal::TooLarge(limits.size).into());
        }
        if self.read > limits.ratio_from && self.read / chunk.blob_read.max(1) >= limits.ratio {
            return Err(Refusal::Ratio(limits.ratio).into());
        }
        Ok(())
    }
}

impl Input for Reader<'_> {
    fn fill(&mut self) -> Result<&[u8], Fault> {
        // At every block, since one buffer may hold hundreds of entries that cost much each.
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Fault::Cancelled);
        }
        while self.at == self.chunk.len() && !self.ended {
            self.advance()?;
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, len: usize) {
        self.at = (self.at + len).min(self.chunk.len());
    }
}

impl Input for &[u8] {
    fn fill(&mut self) -> Result<&[u8], Fault> {
        Ok(self)
    }

    fn consume(&mut self, len: usize) {
        *self = &self[len.min(self.len())..];
    }
}
