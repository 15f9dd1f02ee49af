//! Reads content: from the blob store; what was promised as it arrives; what is missing from where
//! it can be had again.

use std::{fmt, ops::Range};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use hawker_model::{Digest, TaskId};
use hawker_p2p::Blob;
use hawker_snapshotter::{LayerSource, SourceError};
use hawker_swarm::TaskFailure;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{ContentError, ContentStore, promises::Fetched};
use crate::layers::{ImageName, LayerError, NodeLayer};

/// Content that is being read, in order. Dropping it ends the reading.
pub(crate) struct ContentReader {
    store: ContentStore,
    digest: Digest,
    begin: u64,
    position: u64,
    end: u64,
    source: Source,
    origin: Origin,
    /// The images for which it did not come.
    tried: Vec<ImageName>,
}

/// Whose bytes are read.
enum Origin {
    /// Those that are whole in the blob store.
    Here,
    /// Those that come for an image.
    Image(ImageName),
    /// Those of other hosts, without an image.
    Peers,
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
    /// Reads `range` of content that is here, which lies within it.
    pub(super) fn stored(
        store: ContentStore,
        digest: Digest,
        source: Source,
        range: Range<u64>,
    ) -> Self {
        Self {
            store,
            digest,
            begin: range.start,
            position: range.start,
            end: range.end,
            source,
            origin: Origin::Here,
            tried: Vec::new(),
        }
    }

    /// The same of what is had now.
    pub(super) fn fetched(
        store: ContentStore,
        digest: Digest,
        fetched: Fetched,
        range: Range<u64>,
    ) -> Self {
        Self {
            origin: Origin::of(fetched.image),
            ..Self::stored(store, digest, fetched.source, range)
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

    /// What was here is not here any more, or did not come: it is had anew, for another image where
    /// it was had for one, unless its registry gave any bytes: they may be false, since only the last
    /// one proves them all.
    async fn heal(&mut self, failure: LayerError) -> Result<(), ContentError> {
        match std::mem::replace(&mut self.origin, Origin::Peers) {
            Origin::Here => {}
            Origin::Image(image) if self.position == self.begin => self.tried.push(image),
            Origin::Image(_) | Origin::Peers => {
                return Err(self.store.layer_error(self.digest, failure));
            }
        }
        warn!(digest = %self.digest, %failure, "content is damaged here or does not come: had anew");
        let rest = self.position..self.end;
        let fetched = self.store.fetch(self.digest, rest, &self.tried).await;
        match fetched {
            Ok(Fetched { source, image }) => {
                self.source = source;
                self.origin = Origin::of(image);
                Ok(())
            }
            Err(error) if self.tried.is_empty() => Err(error),
            // That there is no other says less.
            Err(_) => Err(self.store.layer_error(self.digest, failure)),
        }
    }
}

impl Origin {
    fn of(image: Option<ImageName>) -> Self {
        image.map_or(Self::Peers, Self::Image)
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
