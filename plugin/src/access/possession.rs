//! Whether a registry holds the very bytes that are here under a digest it names.
//!
//! A registry's word counts for its own bytes only. Bytes that were read at it, or at one that it is
//! declared to trust, are known to be its own by the signed piece list. For all others it has to
//! show them: parts that it cannot foresee are fetched from it, with the asker's own credential, and
//! compared with ours.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, future::try_join_all};
use hawker_model::OriginName;
use hawker_p2p::{Blob, OriginClient, OriginError};
use hawker_swarm::{Source, TaskFailure};
use tracing::{debug, warn};

use super::{
    AccessError, Claim, PossessionError,
    claim::{Asker, Tie},
    right_key::RightKey,
    sample::Sampler,
};

/// How long a registry that failed the comparison, or could not be compared, is not compared with
/// again: its clients get what it gives itself meanwhile.
const KEEP_FAILED: Duration = Duration::from_secs(60);
/// Failed comparisons remembered at most.
const MOST_FAILED: usize = 1024;
/// How long our own side of a comparison may take: what is not here by then may be long in coming.
const OUR_PATIENCE: Duration = Duration::from_secs(1);

/// Compares, and remembers what failed.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    sampler: Sampler,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Comparisons that go on: the same asker makes one at a time.
    running: HashMap<RightKey, Arc<tokio::sync::Mutex<()>>>,
    failed: HashMap<RightKey, (Instant, PossessionError)>,
}

/// Whether it is known, without asking anybody, that the claim's own origin holds the bytes `range`,
/// which must be here already.
pub(super) fn is_known(claim: &Claim, blob: &Blob, range: Range<u64>) -> bool {
    claim.tie == Tie::Url && blob.is_held(range, &|origin| claim.group.contains(origin))
}

impl Proofs {
    /// Has the claim's origin show that it holds `blob`, by the source that goes with the claim.
    /// The comparison may take `patience`. `is_proven` says whether somebody else has seen to it
    /// meanwhile.
    pub(super) async fn prove(
        &self,
        origin: &OriginClient,
        claim: &Claim,
        source: &Source,
        blob: &Blob,
        patience: Duration,
        is_proven: impl Fn() -> bool,
    ) -> Result<(), PossessionError> {
        let running = Running::begin(self, claim.key);
        let _one_at_a_time = running.lock.lock().await;
        if is_proven() {
            return Ok(());
        }
        if let Some(error) = self.failure(&claim.key) {
            return Err(error);
        }
        let comparing = self.compare(origin, claim, source, blob);
        let compared = tokio::time::timeout(patience, comparing).await;
        let compared =
            compared.unwrap_or_else(|_| Err(unproven(claim, "it did not answer in time")));
        match &compared {
            Ok(()) => note(claim, blob),
            Err(PossessionError::Refused(_) | PossessionError::FalseList { .. }) => {}
            Err(error) => {
                match error {
                    PossessionError::Refuted { .. } => {
                        warn!(place = %claim.place, task = %claim.task, "{error}");
                    }
                    _ => debug!(task = %claim.task, %error, "possession is open"),
                }
                self.note_failed(claim.key, error.clone());
            }
        }
        compared
    }

    async fn compare(
        &self,
        origin: &OriginClient,
        claim: &Claim,
        source: &Source,
        blob: &Blob,
    ) -> Result<(), PossessionError> {
        let geometry = blob.geometry().await;
        let length = geometry
            .map_err(|failure| unproven(claim, failure))?
            .length();
        let name = OriginName::of_url(&claim.source.url);
        let name = name.ok_or_else(|| unproven(claim, "its address has no name"))?;
        let ranges = self.sampler.ranges(claim.task, name.as_str(), length);
        let parts = ranges.into_iter().map(|range| async move {
            let (theirs, ours) = tokio::join!(
                theirs(origin, claim, source, blob, range.clone(), length),
                ours(claim, blob, range)
            );
            match theirs? == ours? {
                true => Ok(()),
                false => Err(differs(claim, blob).await),
            }
        });
        try_join_all(parts).await.map(|_| ())
    }

    /// Whether a comparison goes on, or is waited for.
    pub(super) fn is_running(&self, key: &RightKey) -> bool {
        self.lock().running.contains_key(key)
    }

    /// Whether a comparison could not be made, and is not tried again yet.
    pub(super) fn is_open(&self, key: &RightKey) -> bool {
        let failure = self.failure(key);
        matches!(failure, Some(PossessionError::Unproven { .. }))
    }

    fn failure(&self, key: &RightKey) -> Option<PossessionError> {
        let inner = self.lock();
        let (at, error) = inner.failed.get(key)?;
        (at.elapsed() < KEEP_FAILED).then(|| error.clone())
    }

    fn note_failed(&self, key: RightKey, error: PossessionError) {
        let mut inner = self.lock();
        if inner.failed.len() >= MOST_FAILED {
            inner.failed.clear();
        }
        inner.failed.insert(key, (Instant::now(), error));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the blob's own record may say from now on. A file at a URL is no registry: that one holds
/// the bytes says nothing of who may have them elsewhere on that server.
fn note(claim: &Claim, blob: &Blob) {
    let name = OriginName::of_url(&claim.source.url);
    if let Some(name) = name.filter(|_| claim.tie == Tie::Url) {
        blob.note_holder(name);
    }
}

/// What the origin gives.
async fn theirs(
    origin: &OriginClient,
    claim: &Claim,
    source: &Source,
    blob: &Blob,
    range: Range<u64>,
    length: u64,
) -> Result<Bytes, PossessionError> {
    let failed = |error: OriginError| match error {
        OriginError::Denied { .. } => PossessionError::Refused(AccessError::Origin(error)),
        other => unproven(claim, other),
    };
    if range.is_empty() {
        // A blob of no bytes has no secret.
        return Ok(Bytes::new());
    }
    let asked = range.clone().into();
    let mut body = match claim.asker {
        Asker::Here => origin.fetch(source, asked).await,
        Asker::Elsewhere => origin.fetch_for_others(source, asked).await,
    }
    .map_err(failed)?;
    if range.start > 0 && !body.honours_ranges() {
        return Err(unproven(claim, "it gives no ranges"));
    }
    if body.total_length().is_some_and(|told| told != length) {
        return Err(differs(claim, blob).await);
    }
    let most = (range.end - range.start) as usize;
    let mut bytes = BytesMut::new();
    while bytes.len() < most
        && let Some(chunk) = body.next().await.map_err(failed)?
    {
        bytes.extend_from_slice(&chunk);
    }
    bytes.truncate(most);
    Ok(bytes.freeze())
}

/// What is here, or arrives at once.
async fn ours(claim: &Claim, blob: &Blob, range: Range<u64>) -> Result<Bytes, PossessionError> {
    let reading = async {
        let mut bytes = BytesMut::new();
        let mut chunks = std::pin::pin!(blob.read(range));
        while let Some(chunk) = chunks.next().await {
            bytes.extend_from_slice(&chunk.map_err(|failure| failed(claim, failure))?);
        }
        Ok(bytes.freeze())
    };
    let read = tokio::time::timeout(OUR_PATIENCE, reading).await;
    read.unwrap_or_else(|_| Err(unproven(claim, "what is to be compared is not here yet")))
}

/// What a difference means. Until the digest of our own bytes is proven it may be them that are
/// wrong: then their piece list is false, and that shows soon.
async fn differs(claim: &Claim, blob: &Blob) -> PossessionError {
    match tokio::time::timeout(OUR_PATIENCE, blob.complete()).await {
        Ok(Ok(())) => refuted(claim),
        Ok(Err(failure)) => failed(claim, failure),
        Err(_) => unproven(claim, "the two differ, and ours are not proven yet"),
    }
}

/// Our own bytes are not to be had.
fn failed(claim: &Claim, failure: TaskFailure) -> PossessionError {
    match failure {
        TaskFailure::FalseList => PossessionError::FalseList {
            content: claim.task.to_string(),
        },
        failure => unproven(claim, failure),
    }
}

fn refuted(claim: &Claim) -> PossessionError {
    PossessionError::Refuted {
        place: claim.place.to_string(),
        content: claim.task.to_string(),
    }
}

fn unproven(claim: &Claim, reason: impl std::fmt::Display) -> PossessionError {
    PossessionError::Unproven {
        place: claim.place.to_string(),
        content: claim.task.to_string(),
        reason: reason.to_string(),
    }
}

/// A comparison that goes on or is waited for.
struct Running<'a> {
    proofs: &'a Proofs,
    key: RightKey,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl<'a> Running<'a> {
    fn begin(proofs: &'a Proofs, key: RightKey) -> Self {
        let lock = Arc::clone(proofs.lock().running.entry(key).or_default());
        Self { proofs, key, lock }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut inner = self.proofs.lock();
        // The table's and this one.
        if Arc::strong_count(&self.lock) <= 2 {
            inner.running.remove(&self.key);
        }
    }
}
