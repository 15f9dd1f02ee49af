//! The one way by which a door reads what is in the network: nothing comes out before the right
//! stands, and nothing that the claim's own origin is not shown to hold.
//!
//! Who holds what is looked up for every chunk, since a blob may have been read at one registry in
//! part and at another for the rest. Where it is not known, the reading waits for a proof.

use std::ops::Range;

use bytes::Bytes;
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use hawker_p2p::Blob;
use hawker_swarm::TaskFailure;

use super::{Access, Claim, ReadError, Right, possession};

/// A reading, and where it is.
struct Reading {
    access: Access,
    claim: Claim,
    right: Right,
    blob: Blob,
    bytes: BoxStream<'static, Result<Bytes, TaskFailure>>,
    position: u64,
    is_proven: bool,
}

impl Access {
    /// The bytes `range` of `blob`, for whom `right` was granted `claim`.
    pub(crate) fn read(
        &self,
        claim: Claim,
        right: Right,
        blob: &Blob,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, ReadError>> + Send + use<> {
        let reading = Reading {
            access: self.clone(),
            is_proven: right.is_proven,
            claim,
            right,
            position: range.start,
            bytes: blob.read(range).boxed(),
            blob: blob.clone(),
        };
        stream::try_unfold(reading, |mut reading| async move {
            let chunk = reading.next().await?;
            Ok(chunk.map(|chunk| (chunk, reading)))
        })
    }

    /// Waits until all of `blob` is here, and the claim's own origin is known to hold it.
    pub(crate) async fn complete(
        &self,
        claim: &Claim,
        right: &Right,
        blob: &Blob,
    ) -> Result<(), ReadError> {
        blob.complete().await?;
        let length = blob.geometry().await?.length();
        if right.is_proven || possession::is_known(claim, blob, 0..length) {
            return Ok(());
        }
        Ok(self.prove(claim, right, blob).await?)
    }
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        let Some(chunk) = self.bytes.next().await.transpose()? else {
            return Ok(None);
        };
        let end = self.position + chunk.len() as u64;
        let is_known =
            self.is_proven || possession::is_known(&self.claim, &self.blob, self.position..end);
        if !is_known {
            let Self {
                access,
                claim,
                right,
                blob,
                ..
            } = self;
            access.prove(claim, right, blob).await?;
            self.is_proven = true;
        }
        self.position = end;
        Ok(Some(chunk))
    }
}
