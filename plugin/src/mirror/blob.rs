//! Blobs: the right first, then the bytes through the piece network, as far as the client's registry
//! is known to hold them.

use std::{future::Future, mem, ops::Range, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use hawker_model::{Digest, Geometry, RegistryHost, Repository, TaskId};
use hawker_p2p::Blob;
use hawker_swarm::{Source, TaskFailure};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use tracing::{debug, info, warn};

use super::{
    Mirror,
    call::Call,
    failure::{Failure, Remedy},
    range::Wanted,
    reply,
};
use crate::{
    access::{Claim, PossessionError, ReadError, Recourse, Right, both},
    body::{self, Body},
    metrics::Served,
};

/// How long an answer's headers wait for its first bytes, so that a failure still has a status. While
/// it is found out whether these may be handed out, they wait on.
const FIRST_BYTES_PATIENCE: Duration = Duration::from_secs(1);

/// So many false piece lists of one blob are got over before the client gets what the registry gives.
const MOST_FALSE_LISTS: usize = 3;

/// How long a blob whose bytes proved wrong is sent only when all of it is here: the client tries
/// again soon, and others may still be spreading what they got.
const DOUBTED_FOR: Duration = Duration::from_secs(30);

/// How long a client waits for all of such a blob, as long as pieces come.
const WHOLE_PATIENCE: Duration = Duration::from_secs(120);

/// Bytes of a blob on their way to a client.
type Chunks = BoxStream<'static, Result<Bytes, ReadError>>;

/// Whether a blob's bytes proved wrong a moment ago where it is asked for.
struct Doubt {
    name: (RegistryHost, Digest),
    holds: bool,
}

/// A blob that is being had through the network.
struct Opened {
    blob: Blob,
    geometry: Geometry,
    served: Served,
}

/// Why a blob is not had through the network.
enum NotOpened {
    Failed(Remedy),
    /// The network knows nothing of it within the time.
    Silent,
}

impl Mirror {
    /// Answers for a blob by SHA-256 digest.
    pub(super) async fn blob(
        &self,
        call: &Call,
        repository: &Repository,
        digest: Digest,
    ) -> Result<Response<Body>, Failure> {
        let access = self.layers.access();
        let credential = call.credential.as_ref();
        let claim = Claim::blob(
            access.origin(),
            &call.registry,
            repository,
            digest,
            credential,
        )?;
        let right = self.upstream.right(access, call, &claim);
        if call.method == Method::HEAD {
            return match right.await?.length {
                Some(length) => Ok(whole(digest, length, body::empty())),
                None => self.pass(call).await,
            };
        }
        let (right, opened) = match access.likely_source(&claim) {
            Some(source) => both(right, self.open(digest, source)).await?,
            // A refusal is likely enough not to trouble the network before.
            None => match right.await? {
                Right { length: None, .. } => return self.pass(call).await,
                right => {
                    let source = access.source(&claim, &right);
                    (right, self.open(digest, source).await)
                }
            },
        };
        self.answer_blob(call, claim, right, opened).await
    }

    async fn open(&self, digest: Digest, source: Source) -> Result<Opened, NotOpened> {
        let opening = async {
            let opened = self.node.open(TaskId::Blob(digest), Some(source)).await;
            let blob = opened.map_err(|error| {
                warn!(%digest, %error, "cannot open the blob: it is passed through");
                NotOpened::Failed(Remedy::PassThrough)
            })?;
            let served = match blob.is_local() {
                true => Served::Local,
                false => Served::Network,
            };
            let geometry = blob.geometry().await;
            let geometry = geometry.map_err(|failure| failed(digest, failure))?;
            Ok(Opened {
                blob,
                geometry,
                served,
            })
        };
        let patience = self.settings.network_patience;
        let opened = tokio::time::timeout(patience, opening).await;
        opened.unwrap_or(Err(NotOpened::Silent))
    }

    async fn answer_blob(
        &self,
        call: &Call,
        claim: Claim,
        right: Right,
        opened: Result<Opened, NotOpened>,
    ) -> Result<Response<Body>, Failure> {
        let TaskId::Blob(digest) = claim.task() else {
            return self.pass(call).await;
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(NotOpened::Failed(Remedy::Answer(failure))) => return Err(failure),
            Err(NotOpened::Failed(Remedy::PassThrough)) => return self.pass(call).await,
            Err(NotOpened::Silent) => {
                warn!(%digest, "the network has not found the blob in time: it is passed through");
                return self.pass(call).await;
            }
        };
        let length = opened.geometry.length();
        if right.length != Some(length) {
            info!(%digest, network = length, origin = ?right.length, "lengths differ: passed through");
            return self.pass(call).await;
        }
        let (range, is_part) = match Wanted::parse(call.range(), length) {
            Wanted::Whole => (0..length, false),
            Wanted::Part(range) => (range, true),
            Wanted::Unsatisfiable => return Ok(unsatisfiable(digest, length)),
        };
        let access = self.layers.access();
        if access.is_unproven(&claim, &right, &opened.blob, range.clone()) {
            debug!(%digest, "nobody could tell lately whether the registry holds it: passed through");
            return self.pass(call).await;
        }
        let served = opened.served;
        let doubt = self.doubt(call, digest);
        let (is_doubted, blob) = (doubt.holds, opened.blob.clone());
        let reading = self.read(doubt, opened, claim, right, range.clone());
        let bytes = match is_doubted {
            true => in_time(reading).await,
            false => reading.await,
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(ReadError::Network(failure)) if is_doubted => {
                info!(%digest, %failure, "its bytes were wrong, and are not here now: passed through");
                let passed = self.pass(call).await?;
                // Meanwhile the network goes on: who asks next may find it whole.
                let held = move |_| _ = &blob;
                return Ok(passed.map(|body| body::counted(body, held)));
            }
            Err(error) => match remedy(digest, error) {
                Remedy::Answer(failure) => return Err(failure),
                Remedy::PassThrough => return self.pass(call).await,
            },
        };
        let count = self.metrics.served(served);
        let body = body::counted(body::stream(bytes), move |bytes| {
            count.inc_by(bytes);
        });
        Ok(match is_part {
            true => partial(digest, range, length, body),
            false => whole(digest, length, body),
        })
    }

    /// The bytes of a range. Where they fail for a false piece list, the blob is opened again: the
    /// network knows whose list it was, and goes on with the next. Of one whose bytes proved wrong a
    /// moment ago nothing comes before all of it is here.
    async fn read(
        &self,
        doubt: Doubt,
        opened: Opened,
        claim: Claim,
        right: Right,
        range: Range<u64>,
    ) -> Result<Chunks, ReadError> {
        let access = self.layers.access();
        let (digest, length) = (doubt.name.1, opened.geometry.length());
        let mut blob = opened.blob;
        // While one of them is held, the network goes on with the next.
        let mut held = Vec::new();
        loop {
            let (whose, range) = (claim.clone(), range.clone());
            let bytes = access.read(whose, right.clone(), &blob, range, Recourse::Registry);
            let first = match doubt.holds {
                true => self.whole_first(&blob).await,
                false => Ok(()),
            };
            let first = match first {
                Ok(()) => first_bytes(bytes, || access.is_proving(&claim)).await,
                Err(failure) => Err(failure.into()),
            };
            let error = match first {
                Ok(bytes) => return Ok(self.watched(doubt.name, bytes)),
                Err(error) if error.is_false_list() && held.len() < MOST_FALSE_LISTS => error,
                Err(error) => {
                    if error.is_of_bytes() {
                        self.doubted.note(doubt.name, DOUBTED_FOR);
                    }
                    return Err(error);
                }
            };
            match self.open(digest, access.source(&claim, &right)).await {
                Ok(again) if again.geometry.length() == length => {
                    held.push(mem::replace(&mut blob, again.blob));
                }
                _ => return Err(error),
            }
        }
    }

    /// Waits until all of a blob is here and checked, as long as pieces come.
    async fn whole_first(&self, blob: &Blob) -> Result<(), TaskFailure> {
        let mut complete = pin!(blob.complete());
        let (mut stored, _) = blob.progress();
        loop {
            match tokio::time::timeout(self.settings.network_patience, &mut complete).await {
                Ok(complete) => return complete,
                Err(_) if blob.progress().0 == stored => return Err(TaskFailure::NoSource),
                Err(_) => (stored, _) = blob.progress(),
            }
        }
    }

    fn doubt(&self, call: &Call, digest: Digest) -> Doubt {
        let name = (call.registry.clone(), digest);
        let holds = self.doubted.holds(&name);
        Doubt { name, holds }
    }

    /// The same bytes. If they prove wrong, it is remembered for those that ask next.
    fn watched(&self, name: (RegistryHost, Digest), bytes: Chunks) -> Chunks {
        let doubted = Arc::clone(&self.doubted);
        let bytes = bytes.inspect(move |chunk| {
            let Err(error) = chunk else { return };
            warn!(digest = %name.1, %error, "cut an answer: the client resumes or goes to the registry");
            if error.is_of_bytes() {
                doubted.note(name.clone(), DOUBTED_FOR);
            }
        });
        bytes.boxed()
    }
}

/// What comes of a reading that begins when all is here.
async fn in_time(
    reading: impl Future<Output = Result<Chunks, ReadError>>,
) -> Result<Chunks, ReadError> {
    let read = tokio::time::timeout(WHOLE_PATIENCE, reading).await;
    read.unwrap_or(Err(TaskFailure::NoSource.into()))
}

/// The bytes of a range, once the first are there or have been waited for.
async fn first_bytes(
    bytes: impl Stream<Item = Result<Bytes, ReadError>> + Send + 'static,
    is_proving: impl Fn() -> bool,
) -> Result<Chunks, ReadError> {
    let mut bytes = bytes.boxed();
    let first = loop {
        match tokio::time::timeout(FIRST_BYTES_PATIENCE, bytes.next()).await {
            Ok(Some(Err(failure))) => return Err(failure),
            Ok(first) => break first,
            Err(_) if is_proving() => {}
            Err(_) => break None,
        }
    };
    Ok(stream::iter(first).chain(bytes).boxed())
}

fn failed(digest: Digest, failure: TaskFailure) -> NotOpened {
    debug!(%digest, %failure, "the network cannot give the blob");
    NotOpened::Failed(failure.into())
}

/// What to do when nothing has been sent yet.
fn remedy(digest: Digest, error: ReadError) -> Remedy {
    debug!(%digest, %error, "the blob is not handed out");
    match error {
        ReadError::Network(failure) => failure.into(),
        ReadError::Possession(error @ PossessionError::Refuted { .. }) => {
            Remedy::Answer(Failure::Forbidden(error.to_string()))
        }
        // What the registry itself gives is the client's in any case.
        ReadError::Possession(
            PossessionError::Unproven { .. } | PossessionError::FalseList { .. },
        ) => Remedy::PassThrough,
        ReadError::Possession(PossessionError::Refused(error)) => Remedy::Answer(error.into()),
    }
}

fn whole(digest: Digest, length: u64, body: Body) -> Response<Body> {
    described(StatusCode::OK, digest, length, body)
}

fn partial(digest: Digest, range: Range<u64>, length: u64, body: Body) -> Response<Body> {
    let mut response = described(
        StatusCode::PARTIAL_CONTENT,
        digest,
        range.end - range.start,
        body,
    );
    let part = format!("bytes {}-{}/{length}", range.start, range.end - 1);
    insert(response.headers_mut(), header::CONTENT_RANGE, &part);
    response
}

fn unsatisfiable(digest: Digest, length: u64) -> Response<Body> {
    let status = StatusCode::RANGE_NOT_SATISFIABLE;
    let mut response = described(status, digest, 0, body::empty());
    let part = format!("bytes */{length}");
    insert(response.headers_mut(), header::CONTENT_RANGE, &part);
    response
}

fn described(status: StatusCode, digest: Digest, length: u64, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let bytes = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, bytes);
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    insert(headers, header::ETAG, &format!("\"{digest}\""));
    let name = http::HeaderName::from_static("docker-content-digest");
    insert(headers, name, &digest.to_string());
    reply::mark(headers);
    response
}

/// Digests and numbers are always valid values.
fn insert(headers: &mut HeaderMap, name: http::HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}
