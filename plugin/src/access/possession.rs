//! Whether a registry holds the very bytes that are here under a digest it names.
//!
//! A registry's word counts for its own bytes only. Bytes that were read at it, or at one that it is
//! declared to trust, are known to be its own by the signed piece list. For all others it has to
//! show them: parts that it cannot foresee are fetched from it, with the asker's own credential, and
//! compared with ours. One that gives no parts may have to give the whole, which is hashed.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, future::try_join_all};
use hawker_model::{Digest, OriginName};
use hawker_p2p::{Blob, ByteRange, OriginBody, OriginClient, OriginError, Recorder};
use hawker_swarm::{Source, TaskFailure};
use tracing::{debug, warn};

use super::{
    AccessError, Claim, PossessionError, Recourse,
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
    /// Has an origin show that it holds a blob. `is_proven` says whether somebody else has seen to
    /// it meanwhile.
    pub(super) async fn prove(
        &self,
        question: &Question<'_>,
        is_proven: impl Fn() -> bool,
    ) -> Result<(), PossessionError> {
        let (claim, since) = (question.claim, Instant::now());
        let running = Running::begin(self, claim.key);
        let _one_at_a_time = question.wait_for(&running.lock).await?;
        if is_proven() || question.is_known_of_all().await {
            return Ok(());
        }
        if let Some(error) = self.failure_that_counts(question, since) {
            return Err(error);
        }
        let shown = question.ask(&self.sampler).await;
        match &shown {
            Ok(()) => note(claim, question.blob),
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
        shown
    }

    /// The failure of before that stands for this question too. Who can do nothing else asks again
    /// for what was not answered, unless that was while they waited.
    fn failure_that_counts(
        &self,
        question: &Question<'_>,
        since: Instant,
    ) -> Option<PossessionError> {
        let (at, error) = self.failure(&question.claim.key)?;
        let is_open = matches!(error, PossessionError::Unproven { .. });
        let asks_again = is_open && at < since && question.recourse == Recourse::Nothing;
        (!asks_again).then_some(error)
    }

    /// Whether a comparison goes on, or is waited for.
    pub(super) fn is_running(&self, key: &RightKey) -> bool {
        self.lock().running.contains_key(key)
    }

    /// Whether a comparison could not be made, and is not tried again yet.
    pub(super) fn is_open(&self, key: &RightKey) -> bool {
        let failure = self.failure(key);
        matches!(failure, Some((_, PossessionError::Unproven { .. })))
    }

    fn failure(&self, key: &RightKey) -> Option<(Instant, PossessionError)> {
        let inner = self.lock();
        let failure = inner.failed.get(key)?;
        (failure.0.elapsed() < KEEP_FAILED).then(|| failure.clone())
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

/// Whether an origin holds a blob.
pub(super) struct Question<'q> {
    pub(super) origin: &'q OriginClient,
    pub(super) claim: &'q Claim,
    /// That goes with the claim.
    pub(super) source: &'q Source,
    pub(super) blob: &'q Blob,
    /// How long a comparison may take.
    pub(super) patience: Duration,
    pub(super) recourse: Recourse,
}

impl Question<'_> {
    /// Waits for who asks the same. One that asks for the whole may take long: who can go elsewhere
    /// does not wait for that.
    async fn wait_for<'l>(
        &self,
        lock: &'l tokio::sync::Mutex<()>,
    ) -> Result<tokio::sync::MutexGuard<'l, ()>, PossessionError> {
        let patience = match self.recourse {
            Recourse::Registry => self.patience,
            Recourse::Nothing => Duration::MAX,
        };
        let waited = tokio::time::timeout(patience, lock.lock()).await;
        waited.map_err(|_| unproven(self.claim, "another proof takes long"))
    }

    /// Whether the origin is known by now to hold all of it.
    async fn is_known_of_all(&self) -> bool {
        // Of what is not here nothing is known.
        if self.recourse == Recourse::Registry {
            return false;
        }
        let geometry = self.blob.geometry().await;
        geometry.is_ok_and(|geometry| is_known(self.claim, self.blob, 0..geometry.length()))
    }

    /// Compares parts. Where those are not to be had, and whoever asks has no other way, the origin
    /// has to give the whole.
    async fn ask(&self, sampler: &Sampler) -> Result<(), PossessionError> {
        let comparing = tokio::time::timeout(self.patience, self.compare(sampler)).await;
        let compared =
            comparing.unwrap_or_else(|_| Err(unproven(self.claim, "it did not answer in time")));
        match (compared, self.claim.task.digest()) {
            (Err(PossessionError::Unproven { reason, .. }), Some(digest))
                if self.recourse == Recourse::Nothing =>
            {
                debug!(task = %self.claim.task, reason, "the origin is asked for the whole");
                self.hash(digest).await
            }
            (compared, _) => compared,
        }
    }

    async fn compare(&self, sampler: &Sampler) -> Result<(), PossessionError> {
        let length = self.length().await?;
        let name = OriginName::of_url(&self.claim.source.url);
        let name = name.ok_or_else(|| unproven(self.claim, "its address has no name"))?;
        let ranges = sampler.ranges(self.claim.task, name.as_str(), length);
        let parts = ranges.into_iter().map(|range| async move {
            let (theirs, ours) = tokio::join!(self.theirs(range.clone(), length), self.ours(range));
            match theirs? == ours? {
                true => Ok(()),
                false => Err(self.differs().await),
            }
        });
        try_join_all(parts).await.map(|_| ())
    }

    /// What the origin gives of a range.
    async fn theirs(&self, range: Range<u64>, length: u64) -> Result<Bytes, PossessionError> {
        if range.is_empty() {
            // A blob of no bytes has no secret.
            return Ok(Bytes::new());
        }
        let mut body = self.fetch(range.clone().into()).await?;
        if range.start > 0 && !body.honours_ranges() {
            return Err(unproven(self.claim, "it gives no ranges"));
        }
        if body.total_length().is_some_and(|told| told != length) {
            return Err(self.differs().await);
        }
        let most = (range.end - range.start) as usize;
        let mut bytes = BytesMut::new();
        while bytes.len() < most
            && let Some(chunk) = body.next().await.map_err(|error| self.refused(error))?
        {
            bytes.extend_from_slice(&chunk);
        }
        bytes.truncate(most);
        Ok(bytes.freeze())
    }

    /// Has the origin give all of it, which is hashed and not kept: its digest is what ours have. A
    /// transfer that stalls ends as every other.
    async fn hash(&self, digest: Digest) -> Result<(), PossessionError> {
        let length = self.length().await?;
        let mut body = self.fetch(ByteRange::ALL).await?;
        let (mut hash, mut count) = (Recorder::new(), 0);
        while count <= length
            && let Some(chunk) = body.next().await.map_err(|error| self.refused(error))?
        {
            hash.update(&chunk);
            count += chunk.len() as u64;
        }
        match count == length && hash.digest() == digest {
            true => Ok(()),
            false => Err(refuted(self.claim)),
        }
    }

    async fn fetch(&self, range: ByteRange) -> Result<OriginBody, PossessionError> {
        let body = match self.claim.asker {
            Asker::Here => self.origin.fetch(self.source, range).await,
            Asker::Elsewhere => self.origin.fetch_for_others(self.source, range).await,
        };
        body.map_err(|error| self.refused(error))
    }

    fn refused(&self, error: OriginError) -> PossessionError {
        match error {
            OriginError::Denied { .. } => PossessionError::Refused(AccessError::Origin(error)),
            other => unproven(self.claim, other),
        }
    }

    async fn length(&self) -> Result<u64, PossessionError> {
        let geometry = self.blob.geometry().await;
        let geometry = geometry.map_err(|failure| unproven(self.claim, failure))?;
        Ok(geometry.length())
    }

    /// What is here, or arrives at once.
    async fn ours(&self, range: Range<u64>) -> Result<Bytes, PossessionError> {
        let reading = async {
            let mut bytes = BytesMut::new();
            let mut chunks = std::pin::pin!(self.blob.read(range));
            while let Some(chunk) = chunks.next().await {
                bytes.extend_from_slice(&chunk.map_err(|failure| failed(self.claim, failure))?);
            }
            Ok(bytes.freeze())
        };
        let read = tokio::time::timeout(self.our_patience(), reading).await;
        read.unwrap_or_else(|_| {
            Err(unproven(
                self.claim,
                "what is to be compared is not here yet",
            ))
        })
    }

    /// What a difference means. Until the digest of our own bytes is proven it may be them that are
    /// wrong: then their piece list is false, and that shows soon.
    async fn differs(&self) -> PossessionError {
        match tokio::time::timeout(self.our_patience(), self.blob.complete()).await {
            Ok(Ok(())) => refuted(self.claim),
            Ok(Err(failure)) => failed(self.claim, failure),
            Err(_) => unproven(self.claim, "the two differ, and ours are not proven yet"),
        }
    }

    /// All of ours is here where there is no other recourse: a busy disk may take its time.
    fn our_patience(&self) -> Duration {
        match self.recourse {
            Recourse::Registry => OUR_PATIENCE,
            Recourse::Nothing => self.patience.max(OUR_PATIENCE),
        }
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
