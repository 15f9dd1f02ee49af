//! A body that proves its digest before it ends.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hawker_model::Digest;
use http_body::Frame;
use http_body_util::BodyExt;
use sha2::{Digest as _, Sha256};
use tracing::warn;

use crate::body::{Body, BodyError};

/// Passes `body` on, always one chunk behind, and cuts it instead of ending it when its bytes do
/// not have `digest`: a client never holds a whole blob that is not the one it asked for.
pub(crate) fn verified(body: Body, digest: Digest) -> Body {
    Verified {
        body,
        digest,
        hasher: Some(Sha256::new()),
        held: None,
    }
    .boxed_unsync()
}

struct Verified {
    body: Body,
    digest: Digest,
    /// `None` once the end was reached.
    hasher: Option<Sha256>,
    held: Option<Bytes>,
}

/// The bytes were not those of the digest.
#[derive(Debug, thiserror::Error)]
#[error("the origin's bytes have digest {got}, wanted {wanted}")]
pub(crate) struct WrongBytes {
    /// The digest asked for.
    pub wanted: Digest,
    /// What came.
    pub got: Digest,
}

impl Verified {
    fn end(&mut self, hasher: Sha256) -> Option<Result<Frame<Bytes>, BodyError>> {
        let got = Digest::from_bytes(hasher.finalize().into());
        if got == self.digest {
            return self.held.take().map(|bytes| Ok(Frame::data(bytes)));
        }
        self.held = None;
        let wrong = WrongBytes {
            wanted: self.digest,
            got,
        };
        warn!(wanted = %wrong.wanted, got = %wrong.got, "the origin sent wrong bytes");
        Some(Err(wrong.into()))
    }
}

impl http_body::Body for Verified {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if self.hasher.is_none() {
                return Poll::Ready(None);
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.hasher = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    let hasher = self.hasher.take();
                    return Poll::Ready(hasher.and_then(|hasher| self.end(hasher)));
                }
            };
            // Trailers prove nothing and no client of ours reads them.
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&bytes);
            }
            if let Some(before) = self.held.replace(bytes) {
                return Poll::Ready(Some(Ok(Frame::data(before))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;
    use crate::body;

    fn chunks(parts: &[&'static str]) -> Body {
        let parts: Vec<_> = parts
            .iter()
            .map(|p| Ok::<_, BodyError>(Bytes::from_static(p.as_bytes())))
            .collect();
        body::stream(stream::iter(parts))
    }

    #[tokio::test]
    async fn right_bytes_pass_unchanged() {
        for parts in [&["ab", "", "c"][..], &["abc"], &[]] {
            let digest = Digest::of(parts.concat().as_bytes());
            let got = verified(chunks(parts), digest).collect().await.unwrap();
            assert_eq!(got.to_bytes(), parts.concat());
        }
    }

    #[tokio::test]
    async fn wrong_bytes_never_come_to_their_end() {
        let mut body = verified(chunks(&["ab", "d"]), Digest::of(b"abc"));
        let first = body.frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "ab");
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
    }
}
