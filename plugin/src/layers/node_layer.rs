//! A layer as its unpacker reads it: in order, from a thread that may block.

use std::{fmt, ops::Range};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use hawker_model::Digest;
use hawker_p2p::Blob;
use hawker_snapshotter::{LayerSource, SourceError};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{ImageName, LayerError, Layers, Opened};
use crate::access::{Claim, ReadError, Recourse};

/// How often the registry is asked anew, after refusals, without a further byte: tokens live for
/// minutes, layers sometimes take longer.
pub(super) const MOST_RENEWALS: u32 = 3;

/// A layer in the piece network, being read. Dropping it ends the reading.
pub(crate) struct NodeLayer {
    layers: Layers,
    image: ImageName,
    digest: Digest,
    blob: Blob,
    claim: Claim,
    recourse: Recourse,
    length: u64,
    position: u64,
    end: u64,
    bytes: BoxStream<'static, Result<Bytes, ReadError>>,
    /// Since the last byte.
    renewals: u32,
    stop: CancellationToken,
    runtime: Handle,
}

impl NodeLayer {
    /// Reads `range`, which lies within the blob.
    pub(super) fn new(
        layers: Layers,
        image: ImageName,
        digest: Digest,
        opened: Opened,
        range: Range<u64>,
        recourse: Recourse,
    ) -> Self {
        let Opened {
            blob,
            length,
            claim,
            right,
        } = opened;
        let (position, end) = (range.start, range.end);
        let access = &layers.0.access;
        let bytes = access.read(claim.clone(), right, &blob, range, recourse);
        Self {
            bytes: bytes.boxed(),
            claim,
            recourse,
            layers,
            image,
            digest,
            blob,
            length,
            position,
            end,
            renewals: 0,
            stop: CancellationToken::new(),
            runtime: Handle::current(),
        }
    }

    /// Ends the reading from elsewhere: the one who waits gets [`LayerError::Stopped`].
    pub(crate) fn stopper(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// The next bytes; empty at the end.
    pub(crate) async fn next_bytes(&mut self) -> Result<Bytes, LayerError> {
        loop {
            let next = self.stop.run_until_cancelled(self.bytes.next()).await;
            match next.ok_or(LayerError::Stopped)? {
                Some(Ok(bytes)) => {
                    self.position += bytes.len() as u64;
                    self.renewals = 0;
                    return Ok(bytes);
                }
                None => return Ok(Bytes::new()),
                Some(Err(failure)) => self.renew(failure).await?,
            }
        }
    }

    /// Asks for the blob anew after a refusal, and goes on where the reading stopped.
    async fn renew(&mut self, failure: ReadError) -> Result<(), LayerError> {
        let failure = LayerError::of_read(&self.image, failure);
        if !failure.is_refusal() || self.renewals >= MOST_RENEWALS {
            return Err(failure);
        }
        self.renewals += 1;
        info!(image = %self.image, digest = %self.digest, %failure, "asking for the layer anew");
        let opening = self.layers.reopen(&self.image, self.digest, &self.claim);
        let opened = self.stop.run_until_cancelled(opening).await;
        let opened = opened.ok_or(LayerError::Stopped)??;
        if opened.length != self.length {
            return Err(LayerError::Length {
                told: self.length,
                network: opened.length,
            });
        }
        let rest = self.position..self.end;
        let access = &self.layers.0.access;
        let (claim, recourse) = (opened.claim.clone(), self.recourse);
        let bytes = access.read(claim, opened.right, &opened.blob, rest, recourse);
        self.bytes = bytes.boxed();
        self.claim = opened.claim;
        self.blob = opened.blob;
        Ok(())
    }

    /// After the end: all of the blob was read and has its digest.
    async fn proven(&self) -> Result<(), LayerError> {
        if self.position != self.end {
            return Err(LayerError::WrongBytes);
        }
        let complete = self.stop.run_until_cancelled(self.blob.complete()).await;
        complete
            .ok_or(LayerError::Stopped)?
            .map_err(LayerError::Network)
    }
}

impl LayerSource for NodeLayer {
    fn next(&mut self) -> Result<Bytes, SourceError> {
        let runtime = self.runtime.clone();
        let next = runtime.block_on(self.next_bytes());
        next.map_err(SourceError::failed)
    }

    fn prove(&mut self) -> Result<(), SourceError> {
        let proven = self.runtime.block_on(self.proven());
        proven.map_err(SourceError::failed)
    }
}

impl fmt::Debug for NodeLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeLayer")
            .field("digest", &self.digest)
            .field("position", &self.position)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}
