//! Memory for the data of pieces that arrive, used over and over.
//!
//! Fresh memory has to be mapped and cleared by the kernel page by page, which takes as long as
//! decrypting what comes into it. So what a piece lay in is kept for the next: as much as a busy host
//! needs at once, and nothing a few seconds after the last piece.
//!
//! Long pieces that are arriving have [`ROOM_LEN`] together, over all connections of the process: who
//! begins them without ever ending them holds some of that, and no more. While others wait for room,
//! who is slower than [`LEAST_RATE`] is given up.

use std::{
    mem,
    ops::{Deref, DerefMut},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Long pieces that are arriving, at most: twelve of the longest.
const ROOM_LEN: usize = 48 << 20;
/// Pieces up to this are let in at once: connections are few enough for as much each, and most blobs'
/// pieces are no longer.
pub(super) const SHORT_LEN: usize = 256 << 10;
/// Of a piece for whose room others wait, in bytes per second.
const LEAST_RATE: u64 = 32 << 10;
/// Nobody is judged by less time than this.
pub(super) const TRIAL: Duration = Duration::from_secs(2);

/// In use and kept together. What is in use is bounded by who receives; nothing is kept beside more
/// than this.
const MOST_LEN: usize = 24 << 20;

static MEMORY: Mutex<Memory> = Mutex::new(Memory::new());

/// That of the process.
pub(super) static ROOM: Room = Room::new(ROOM_LEN);

/// For how many bytes long pieces may be arriving.
#[derive(Debug)]
pub(super) struct Room {
    free: Semaphore,
    waiting: AtomicUsize,
}

impl Room {
    pub(super) const fn new(len: usize) -> Self {
        Self {
            free: Semaphore::const_new(len),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Waits for room for a long piece, which it has until the permit is dropped. First come, first
    /// served; cancel-safe but for the place in the queue.
    pub(super) async fn enter(&self, len: usize) -> Option<SemaphorePermit<'_>> {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        if let Ok(permit) = self.free.try_acquire_many(len) {
            return Some(permit);
        }
        let _waiting = Waiting::new(&self.waiting);
        // Nobody closes it.
        self.free.acquire_many(len).await.ok()
    }

    /// Whether who has had so much of a piece in so long is to make room for others.
    pub(super) fn is_needed_from(&self, len: usize, time: Duration) -> bool {
        let least = time.as_millis() * u128::from(LEAST_RATE) / 1000;
        time >= TRIAL && (len as u128) < least && self.waiting.load(Relaxed) > 0
    }
}

/// Somebody at the door.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

struct Memory {
    free: Vec<BytesMut>,
    /// Capacity of what is kept.
    free_len: usize,
    /// Capacity of what is in use.
    lent_len: usize,
    /// Nothing was taken since [`rest`] was called last.
    is_resting: bool,
}

impl Memory {
    const fn new() -> Self {
        Self {
            free: Vec::new(),
            free_len: 0,
            lent_len: 0,
            is_resting: true,
        }
    }

    fn take(&mut self, len: usize) -> Option<BytesMut> {
        self.is_resting = false;
        // Those that came last may still be in the processor's caches.
        let fits = |buffer: &BytesMut| (len..=len.saturating_mul(2)).contains(&buffer.capacity());
        let at = self.free.iter().rposition(fits)?;
        let buffer = self.free.remove(at);
        self.free_len -= buffer.capacity();
        Some(buffer)
    }

    /// Takes a buffer back; returns it if there is enough.
    fn give(&mut self, mut buffer: BytesMut) -> Option<BytesMut> {
        let len = buffer.capacity();
        if self.lent_len + self.free_len + len > MOST_LEN {
            return Some(buffer);
        }
        buffer.clear();
        self.free_len += len;
        self.free.push(buffer);
        None
    }

    /// What to free.
    fn rest(&mut self) -> Vec<BytesMut> {
        match mem::replace(&mut self.is_resting, true) {
            true => {
                self.free_len = 0;
                mem::take(&mut self.free)
            }
            false => Vec::new(),
        }
    }
}

/// Room for the data of a piece, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Lent {
    buffer: BytesMut,
    /// Of the buffer, when it was lent.
    len: usize,
}

/// An empty buffer with room for `len` bytes, and at most twice that.
pub(super) fn take(len: usize) -> Lent {
    let kept = memory().take(len);
    let buffer = kept.unwrap_or_else(|| BytesMut::with_capacity(len));
    let len = buffer.capacity();
    memory().lent_len += len;
    Lent { buffer, len }
}

impl Lent {
    /// Its bytes, whose memory is given back once nobody has them any more.
    pub(super) fn share(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Lent {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.buffer
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = mem::take(&mut self.buffer);
        let mut memory = memory();
        memory.lent_len -= self.len;
        let unused = memory.give(buffer);
        // Freed without the lock.
        drop(memory);
        drop(unused);
    }
}

/// Frees what is kept if no piece has come since the last call.
pub(crate) fn rest() {
    // Freed without the lock.
    let _unused = memory().rest();
}

fn memory() -> MutexGuard<'static, Memory> {
    MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_where_it_fits_and_comes_empty() {
        let mut memory = Memory::new();
        let mut buffer = BytesMut::with_capacity(1000);
        buffer.extend_from_slice(b"somebody's");
        assert!(memory.give(buffer).is_none());
        assert!(memory.take(1001).is_none());
        assert!(memory.take(100).is_none());
        let taken = memory.take(600).unwrap();
        assert!(taken.is_empty() && taken.capacity() >= 1000);
        assert!(memory.take(600).is_none() && memory.free_len == 0);
    }

    #[test]
    fn no_more_is_kept_than_is_allowed_beside_what_is_in_use() {
        const LEN: usize = 4 << 20;
        let mut memory = Memory::new();
        memory.lent_len = 2 * LEN;
        for _ in 0..10 {
            memory.give(BytesMut::with_capacity(LEN));
        }
        assert_eq!(
            (memory.free.len(), memory.free_len),
            (4, MOST_LEN - 2 * LEN)
        );
    }

    #[test]
    fn nothing_is_kept_once_no_pieces_come() {
        let mut memory = Memory::new();
        memory.give(BytesMut::with_capacity(4096));
        let taken = memory.take(4096).unwrap();
        memory.give(taken);
        assert!(memory.rest().is_empty());
        assert_eq!(memory.rest().len(), 1);
        assert_eq!(memory.free_len, 0);
    }
}
