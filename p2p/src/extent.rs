//! Bytes of a file on their way to a peer.
//!
//! What is in memory is read where the caller stands, which costs less than waking another thread;
//! what is not is waited for on the blocking pool, so that a slow disk does not hold up the network.
//! Where the file system cannot tell, it is found out by reading, at the cost of one wait a second.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, sync::Arc};

use crate::{
    brief::{self, Stopping},
    sys,
};

/// How far apart bytes are looked at.
const STEP_LEN: usize = 256 << 10;

/// A range of an open file, all of which is there.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    file: Arc<File>,
    range: Range<u64>,
}

impl Extent {
    pub(crate) fn new(file: Arc<File>, range: Range<u64>) -> Self {
        Self { file, range }
    }

    pub(crate) fn len(&self) -> usize {
        (self.range.end - self.range.start) as usize
    }

    /// The file, and where in it a part of this range begins.
    pub(crate) fn place(&self, at: usize) -> (&File, u64) {
        (&self.file, self.range.start + at as u64)
    }

    /// Fills `buffer` with what begins at `at`, and gives it back.
    pub(crate) async fn read(&self, at: usize, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
        let (file, offset) = self.place(at);
        match sys::read_in_memory(file, &mut buffer, offset) {
            Ok(len) if len == buffer.len() => return Ok(buffer),
            Err(error) if is_unsupported(&error) && brief::is_quick() => {
                brief::at_once(|| file.read_exact_at(&mut buffer, offset))?;
                return Ok(buffer);
            }
            _ => {}
        }
        let file = Arc::clone(&self.file);
        let read = tokio::task::spawn_blocking(move || {
            file.read_exact_at(&mut buffer, offset)?;
            Ok(buffer)
        });
        read.await.unwrap_or_else(|_| Err(Stopping.into()))
    }

    /// Sees to it that a part of the range is in memory, as far as a look at a byte here and there
    /// tells.
    pub(crate) async fn warm(&self, at: usize, len: usize) -> io::Result<()> {
        let end = at + len;
        let mut begins_warm = self.is_warm(at)?;
        for step in (at..end).step_by(STEP_LEN) {
            let step_end = end.min(step + STEP_LEN);
            let ends_warm = self.is_warm(step_end - 1)?;
            if !(begins_warm && ends_warm) {
                // The kernel reads ahead from here on; this is for what it has not read yet.
                self.read(step, vec![0; step_end - step]).await?;
            }
            begins_warm = true;
        }
        Ok(())
    }

    /// Whether a byte is in memory. Where the file system cannot tell, it is read, and taken to have
    /// been there as long as that is quick.
    fn is_warm(&self, at: usize) -> io::Result<bool> {
        let (file, offset) = self.place(at);
        match sys::read_in_memory(file, &mut [0], offset) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(true),
            Err(error) if is_unsupported(&error) && brief::is_quick() => {
                brief::at_once(|| file.read_exact_at(&mut [0], offset))?;
                Ok(brief::is_quick())
            }
            Err(_) => Ok(false),
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EOPNOTSUPP)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn extent(range: Range<u64>) -> Extent {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..1000u32).map(|at| at as u8).collect();
        file.write_all(&bytes).unwrap();
        Extent::new(Arc::new(file), range)
    }

    #[tokio::test]
    async fn parts_are_read_from_where_the_range_begins() {
        let extent = extent(100..900);
        assert_eq!(extent.len(), 800);
        extent.warm(0, 800).await.unwrap();
        let read = extent.read(10, vec![0; 3]).await.unwrap();
        assert_eq!(read, [110, 111, 112]);
    }

    #[tokio::test]
    async fn a_file_that_ends_early_is_an_error() {
        let extent = extent(900..1100);
        let error = extent.warm(0, 200).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let error = extent.read(0, vec![0; 200]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
