//! Memory for the data of pieces that arrive, used over and over.
//!
//! Fresh memory has to be mapped and cleared by the kernel page by page, which takes as long as
//! decrypting what comes into it. So what a piece lay in is kept for the next: as much as a busy host
//! needs at once, and nothing a few seconds after the last piece.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

/// Kept, at most. More may be in use: that is bounded by who receives.
const KEPT_LEN: usize = 16 << 20;

static FREE: Mutex<Free> = Mutex::new(Free {
    buffers: Vec::new(),
    len: 0,
    is_resting: true,
});

struct Free {
    buffers: Vec<BytesMut>,
    /// Their capacity.
    len: usize,
    /// Nothing was taken since [`rest`] was called last.
    is_resting: bool,
}

impl Free {
    fn take(&mut self, len: usize) -> Option<BytesMut> {
        self.is_resting = false;
        // Those that came last may still be in the processor's caches.
        let fits = |buffer: &BytesMut| (len..=len.saturating_mul(2)).contains(&buffer.capacity());
        let at = self.buffers.iter().rposition(fits)?;
        let buffer = self.buffers.remove(at);
        self.len -= buffer.capacity();
        Some(buffer)
    }

    fn give(&mut self, mut buffer: BytesMut) {
        if self.len + buffer.capacity() <= KEPT_LEN {
            buffer.clear();
            self.len += buffer.capacity();
            self.buffers.push(buffer);
        }
    }

    /// What to free.
    fn rest(&mut self) -> Vec<BytesMut> {
        match std::mem::replace(&mut self.is_resting, true) {
            true => {
                self.len = 0;
                std::mem::take(&mut self.buffers)
            }
            false => Vec::new(),
        }
    }
}

/// An empty buffer with room for `len` bytes, and at most twice that.
pub(super) fn take(len: usize) -> BytesMut {
    let kept = free().take(len);
    kept.unwrap_or_else(|| BytesMut::with_capacity(len))
}

/// The bytes of a buffer, which is kept once nobody has them any more.
pub(super) fn share(buffer: BytesMut) -> Bytes {
    Bytes::from_owner(Lent(buffer))
}

/// Frees what is kept if no piece has come since the last call.
pub(crate) fn rest() {
    // Freed without the lock.
    let _unused = free().rest();
}

fn free() -> MutexGuard<'static, Free> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Lent(BytesMut);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        free().give(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free() -> Free {
        Free {
            buffers: Vec::new(),
            len: 0,
            is_resting: true,
        }
    }

    #[test]
    fn memory_is_used_again_where_it_fits_and_comes_empty() {
        let mut free = free();
        let mut buffer = BytesMut::with_capacity(1000);
        buffer.extend_from_slice(b"somebody's");
        free.give(buffer);
        assert!(free.take(1001).is_none());
        assert!(free.take(100).is_none());
        let taken = free.take(600).unwrap();
        assert!(taken.is_empty() && taken.capacity() >= 1000);
        assert!(free.take(600).is_none() && free.len == 0);
    }

    #[test]
    fn no_more_is_kept_than_is_allowed() {
        let mut free = free();
        for _ in 0..10 {
            free.give(BytesMut::with_capacity(4 << 20));
        }
        assert_eq!((free.buffers.len(), free.len), (4, KEPT_LEN));
    }

    #[test]
    fn nothing_is_kept_once_no_pieces_come() {
        let mut free = free();
        free.give(BytesMut::with_capacity(4096));
        let taken = free.take(4096).unwrap();
        free.give(taken);
        assert!(free.rest().is_empty());
        assert_eq!(free.rest().len(), 1);
        assert_eq!(free.len, 0);
    }
}
