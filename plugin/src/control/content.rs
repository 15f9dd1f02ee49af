//! `/v1/content/…`: containerd's content comes here, and goes back.
//!
//! `POST /v1/content/import` and `POST /v1/content/export` take `{"dir": "…"}`, the directory of a
//! content store of containerd's own, and answer in lines of JSON: how far it is, and as the last
//! one `{"done": …}` or `{"error": "…"}`. `POST /v1/content/try` takes the same, and tells whether an
//! export could write there. `POST /v1/content/release` ends the use of content here.

use std::{convert::Infallible, path::PathBuf};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::{Value, json as object};
use tokio::sync::mpsc;

use super::{error, json_response};
use crate::{
    body::{self, Body, BodyError},
    content::{ContentError, ContentStore, Listener, MoveProgress, Moved},
};

/// Longest request, in bytes.
const MAX_REQUEST_LEN: usize = 64 << 10;
/// Lines that wait for the client.
const LINES: usize = 64;

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    pub(super) dir: PathBuf,
}

/// Which way content goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Import,
    Export,
}

/// Answers in lines, as it goes on.
pub(super) async fn move_all<B>(store: &ContentStore, way: Way, body: B) -> Response<Body>
where
    B: http_body::Body,
    B::Error: Into<BodyError>,
{
    let wish = match wish(body).await {
        Ok(wish) => wish,
        Err(text) => return error(StatusCode::BAD_REQUEST, &text),
    };
    let (listener, progress) = mpsc::channel(LINES);
    let working = work(store.clone(), way, wish.dir, listener);
    let lines = stream::unfold(Some((working, progress)), next_line);
    let lines = lines.map(|line| Ok::<_, Infallible>(Bytes::from(format!("{line}\n"))));
    let mut response = Response::new(body::stream(lines));
    let lines = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, lines);
    response
}

/// Whether content could be given back to a directory.
pub(super) async fn try_export<B>(store: &ContentStore, body: B) -> Response<Body>
where
    B: http_body::Body,
    B::Error: Into<BodyError>,
{
    let wish = match wish(body).await {
        Ok(wish) => wish,
        Err(text) => return error(StatusCode::BAD_REQUEST, &text),
    };
    match store.try_export(&wish.dir).await {
        Ok(()) => json_response(StatusCode::OK, object!({"tried": wish.dir}).to_string()),
        Err(failure) => error(StatusCode::CONFLICT, &failure),
    }
}

/// Ends the use of content here.
pub(super) async fn release(store: &ContentStore) -> Response<Body> {
    match store.release_all().await {
        Ok(released) => {
            let text = object!({"released": released}).to_string();
            json_response(StatusCode::OK, text)
        }
        Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, &failure),
    }
}

type Working = BoxFuture<'static, Result<Moved, ContentError>>;

fn work(store: ContentStore, way: Way, dir: PathBuf, listener: Listener) -> Working {
    async move {
        match way {
            Way::Import => store.import(&dir, listener).await,
            Way::Export => store.export(&dir, listener).await,
        }
    }
    .boxed()
}

type Lines = Option<(Working, mpsc::Receiver<MoveProgress>)>;

/// The work goes on as long as somebody reads how far it is.
async fn next_line(lines: Lines) -> Option<(Value, Lines)> {
    let (mut working, mut progress) = lines?;
    tokio::select! {
        biased;
        Some(now) = progress.recv() => {
            // A line for each blob would be many: the last that waits says it all.
            let mut last = now;
            while let Ok(later) = progress.try_recv() {
                last = later;
            }
            Some((object!(last), Some((working, progress))))
        }
        done = &mut working => {
            let last = match done {
                Ok(moved) => object!({"done": moved}),
                Err(failure) => object!({"error": failure.to_string()}),
            };
            Some((last, None))
        }
    }
}

pub(super) async fn wish<B>(body: B) -> Result<Wish, String>
where
    B: http_body::Body,
    B::Error: Into<BodyError>,
{
    let body = Limited::new(body, MAX_REQUEST_LEN).collect().await;
    let body = body.map_err(|error| format!("the request cannot be read: {error}"))?;
    let wish: Wish = serde_json::from_slice(&body.to_bytes())
        .map_err(|error| format!("the request is not {{\"dir\": \"…\"}}: {error}"))?;
    match wish.dir.is_absolute() {
        true => Ok(wish),
        false => Err(format!("{} is not an absolute path", wish.dir.display())),
    }
}
