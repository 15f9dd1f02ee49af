//! Where the bytes of a layer come from. The plugin implements [`LayerSource`] over the piece
//! network; [`FileSource`] is the one for tests and tools.
//!
//! [`crate::unpack()`] is the caller: it takes all bytes in order, then asks for the proof, and
//! hands nothing on before it has it.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use hawker_model::Digest;
use sha2::{Digest as _, Sha256};

/// The compressed bytes of one layer, in order.
pub trait LayerSource: Send {
    /// The next bytes, of any length but zero; empty at the end, and then again at every call.
    /// Blocks until there are some.
    ///
    /// # Errors
    /// When the bytes cannot be had. The layer is given up then: there is no second try.
    fn next(&mut self) -> Result<Bytes, SourceError>;

    /// Called once, after the end: whether the bytes given were the blob that was asked for.
    ///
    /// # Errors
    /// When they were not, or when that cannot be said.
    fn prove(&mut self) -> Result<(), SourceError>;
}

/// Why the bytes of a layer cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file could not be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    /// The bytes are others than those asked for.
    #[error("the bytes are {found}, not {wanted}")]
    WrongDigest { wanted: Digest, found: Digest },
    /// Whatever the implementation says.
    #[error("{0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl SourceError {
    /// An error of the implementation's own.
    pub fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }
}

/// How much is read at once.
const STEP: usize = 256 * 1024;

/// A layer in a file.
pub struct FileSource {
    path: PathBuf,
    file: File,
    wanted: Digest,
    hash: Sha256,
}

impl FileSource {
    /// The blob at `path`, which should be `wanted`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, wanted: Digest) -> Result<Self, SourceError> {
        let file = File::open(path).map_err(|error| SourceError::Read {
            path: path.to_owned(),
            error,
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            wanted,
            hash: Sha256::new(),
        })
    }
}

impl LayerSource for FileSource {
    fn next(&mut self) -> Result<Bytes, SourceError> {
        let mut step = Vec::with_capacity(STEP);
        let read = (&mut self.file).take(STEP as u64).read_to_end(&mut step);
        read.map_err(|error| SourceError::Read {
            path: self.path.clone(),
            error,
        })?;
        self.hash.update(&step);
        Ok(step.into())
    }

    fn prove(&mut self) -> Result<(), SourceError> {
        let found = Digest::from_bytes(std::mem::take(&mut self.hash).finalize().into());
        let wanted = self.wanted;
        if found == wanted {
            return Ok(());
        }
        Err(SourceError::WrongDigest { wanted, found })
    }
}

impl fmt::Debug for FileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSource")
            .field("path", &self.path)
            .field("wanted", &self.wanted)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    fn read(source: &mut FileSource) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let step = source.next().unwrap();
            if step.is_empty() {
                return all;
            }
            all.extend_from_slice(&step);
        }
    }

    #[test]
    fn a_file_is_given_whole_and_proven() {
        let content: Vec<u8> = (0..2 * STEP + 7).map(|at| at as u8).collect();
        let file = file(&content);
        let mut source = FileSource::open(file.path(), Digest::of(&content)).unwrap();
        assert_eq!(read(&mut source), content);
        assert!(source.next().unwrap().is_empty());
        source.prove().unwrap();
    }

    #[test]
    fn other_bytes_are_not_proven() {
        let file = file(b"layer");
        let mut source = FileSource::open(file.path(), Digest::of(b"another")).unwrap();
        read(&mut source);
        let error = source.prove().unwrap_err();
        assert!(matches!(error, SourceError::WrongDigest { .. }), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = FileSource::open(Path::new("/nowhere/layer"), Digest::of(b"")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/layer"), "{error}");
    }
}
