//! The one way by which a door reads what is in the network: nothing comes out before the right
//! stands, and nothing that the claim's own origin is not shown to hold.
//!
//! Who holds what is looked up for every chunk, since a blob may have been read at one registry in
//! part and at another for the rest. Where it is not known, the reading waits for a proof: for how
//! long, and how dear it may be, is a matter of what the reader can do instead ([`Recourse`]).

use std::ops::Range;

use bytes::Bytes;
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use hawker_p2p::Blob;
use hawker_swarm::TaskFailure;

use super::{Access, Claim, ReadError, Right, possession};

/// What a reader can do who gets nothing here, since nothing shows yet that the claim's own origin
/// holds the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recourse {
    /// It goes to its registry itself: it is told soon.
    Registry,
    /// Nothing: containerd believes that it has these bytes and asks nobody else for them. The
    /// proof waits for what is on its way, and is made at any price.
    Nothing,
}

/// A reading, and where it is.
struct Reading {
    access: Access,
    claim: Claim,
    right: Right,
    recourse: Recourse,
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
        recourse: Recourse,
    ) -> impl Stream<Item = Result<Bytes, ReadError>> + Send + use<> {
        let reading = Reading {
            access: self.clone(),
            is_proven: right.is_proven,
            claim,
            right,
            recourse,
            position: range.start,
            bytes: blob.read(range).boxed(),
            blob: blob.clone(),
        };
        stream::try_unfold(reading, |mut reading| async move {
            let chunk = reading.next().await?;
            Ok(chunk.map(|chunk| (chunk, reading)))
        })
    }

    /// Waits until all of `blob` is here, and the claim's own origin is known to hold it: for whom
    /// has no other recourse.
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
        Ok(self.prove(claim, right, blob, Recourse::Nothing).await?)
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
                recourse,
                blob,
                ..
            } = self;
            if *recourse == Recourse::Nothing {
                // Ours in full first: half of it cannot be compared.
                blob.complete().await?;
            }
            access.prove(claim, right, blob, *recourse).await?;
            self.is_proven = true;
        }
        self.position = end;
        Ok(Some(chunk))
    }
}
