//! Bodies of the responses that this crate gives.
//!
//! Every body is pulled by the connection it goes to: a client that reads slowly holds back its
//! source, and a client that leaves drops it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};

/// What a body ends with when it cannot be told to its end. The connection is cut then, so that
/// the client does not take the part for the whole.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a response.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body without bytes.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of bytes that are there already.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body of bytes that come as they come.
pub(crate) fn stream<S, E>(bytes: S) -> Body
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<BodyError> + 'static,
{
    StreamBody::new(bytes.map_ok(Frame::data).map_err(Into::into)).boxed_unsync()
}

/// Calls `count` with the length of every chunk that is handed to the client.
pub(crate) fn counted(body: Body, count: impl Fn(u64) + Send + Unpin + 'static) -> Body {
    Counted { body, count }.boxed_unsync()
}

struct Counted<F> {
    body: Body,
    count: F,
}

impl<F: Fn(u64) + Unpin> http_body::Body for Counted<F> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(data) = frame.as_ref().and_then(|f| f.as_ref().ok()?.data_ref()) {
            (self.count)(data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
