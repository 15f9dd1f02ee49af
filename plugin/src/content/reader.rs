//! Reads content: from the blob store; what was promised as it arrives; what is missing from where
//! it can be had again.

use std::{fmt, ops::Range};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream::BoxStream};
use hawker_model::{Digest, TaskId};
use hawker_p2p::Blob;
use hawker_snapshotter::{LayerSource, SourceError};
use hawker_swarm::TaskFailure;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{ContentError, ContentStore};
use crate::layers::{LayerError, NodeLayer};

/// Content that is being read, in order. Dropping it ends the reading.
pub(crate) struct ContentReader {
    store: ContentStore,
    digest: Digest,
    position: u64,
    end: u64,
    source: Source,
    /// It was missing once, and was had again.
    is_healed: bool,
}

/// Where bytes come from.
pub(super) enum Source {
    /// Whole in the blob store, or from peers without further ado.
    Stored(BoxStream<'static, Result<Bytes, TaskFailure>>),
    /// On its way, for whom a registry granted it.
    Granted(Box<NodeLayer>),
}

impl Source {
    pub(super) fn stored(blob: &Blob, range: Range<u64>) -> Self {
        Self::Stored(blob.read(range).boxed())
    }

    pub(super) fn granted(layer: NodeLayer) -> Self {
        Self::Granted(Box::new(layer))
    }

    /// The next bytes; empty at the end.
    async fn next(&mut self) -> Result<Bytes, LayerError> {
        match self {
            Self::Stored(bytes) => {
                let next = bytes.next().await.transpose();
                Ok(next.map_err(LayerError::Network)?.unwrap_or_default())
            }
            Self::Granted(layer) => layer.next_bytes().await,
        }
    }
}

impl ContentReader {
    /// Reads `range` of content, which lies within it. What fails is fetched anew once, unless it
    /// `is_healed` already.
    pub(super) fn new(
        store: ContentStore,
        digest: Digest,
        source: Source,
        range: Range<u64>,
        is_healed: bool,
    ) -> Self {
        Self {
            store,
            digest,
            position: range.start,
            end: range.end,
            source,
            is_healed,
        }
    }

    /// Where the next bytes are.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes; empty at the end. Cancel safe, but for the bytes that were on their way.
    pub(crate) async fn next(&mut self) -> Result<Bytes, ContentError> {
        loop {
            match self.source.next().await {
                Ok(bytes) => {
                    self.position += bytes.len() as u64;
                    return Ok(bytes);
                }
                Err(failure) => self.heal(failure).await?,
            }
        }
    }

    /// What was here is not here any more, or did not come.
    async fn heal(&mut self, failure: LayerError) -> Result<(), ContentError> {
        if self.is_healed {
            return Err(self.store.layer_error(self.digest, failure));
        }
        warn!(digest = %self.digest, %failure, "content is damaged here: fetched anew");
        self.is_healed = true;
        let rest = self.position..self.end;
        self.source = self.store.fetch(self.digest, rest).boxed().await?;
        Ok(())
    }
}

impl fmt::Debug for ContentReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentReader")
            .field("digest", &self.digest)
            .field("position", &self.position)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// Content as an unpacker reads it: from a thread that may block.
#[derive(Debug)]
pub(super) struct ContentLayer {
    reader: ContentReader,
    stop: CancellationToken,
    runtime: Handle,
}

impl ContentLayer {
    /// All of it. Must be called within a runtime.
    pub(super) fn new(reader: ContentReader) -> Self {
        Self {
            reader,
            stop: CancellationToken::new(),
            runtime: Handle::current(),
        }
    }

    pub(super) fn stopper(&self) -> CancellationToken {
        self.stop.clone()
    }
}

impl LayerSource for ContentLayer {
    fn next(&mut self) -> Result<Bytes, SourceError> {
        let Self {
            reader,
            stop,
            runtime,
        } = self;
        let next = runtime.block_on(stop.run_until_cancelled(reader.next()));
        let next = next.ok_or_else(|| SourceError::failed(LayerError::Stopped))?;
        next.map_err(SourceError::failed)
    }

    /// What the blob store gives was checked piece by piece.
    fn prove(&mut self) -> Result<(), SourceError> {
        match self.reader.position == self.reader.end {
            true => Ok(()),
            false => Err(SourceError::failed(LayerError::WrongBytes)),
        }
    }
}

/// What names the content in the piece network.
pub(super) fn task(digest: Digest) -> TaskId {
    TaskId::Blob(digest)
}
