//! One fetch from the origin: bytes to pieces to chain values to the store.
//!
//! Pieces whose chain value is known are checked against it. From the first unknown value on the
//! chain is computed, signed and reported as the bytes come, so that others can have each piece while
//! the rest still comes.
//!
//! The origin may be anybody's: a client names it. So nothing it says is taken as it is. A length is
//! a claim until the digest proves it, bytes that do not come fast enough end the fetch, and of a
//! file without a digest no two versions are mixed, as far as the origin tells them apart.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use hawker_model::{Chain, Digest, Geometry, OriginName, PieceIndex, PieceList, TaskId};
use hawker_swarm::{Behalf, Source, TaskFailure};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};
use url::Url;

use super::{
    event::{Event, FetchEvent},
    signer::ListSigner,
};
use crate::{
    blob::TaskState,
    brief::brief,
    counters::Counters,
    origin::{ByteRange, HeldBy, Hold, OriginBody, OriginClient, OriginError, OriginHead},
    store::{BlobFile, CreateError, Store},
    throttle::TaskPace,
};

/// Pieces that are signed, stored and reported together, if they are at hand.
const MOST_TOGETHER: u32 = 16;
/// The same in bytes; a larger piece comes alone.
const MOST_BYTES_TOGETHER: usize = 1 << 20;

/// A piece may take so long to come,
const PIECE_TIME: Duration = Duration::from_secs(60);
/// and longer for as many bytes of it per second. An origin that is slower only holds up others.
const SLOWEST: u32 = 4 << 10;

/// A fetch that is held up by a limit says so this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// What to fetch, and all it takes.
pub(crate) struct Fetch {
    pub(crate) task: TaskId,
    pub(crate) id: u64,
    pub(crate) source: Source,
    pub(crate) behalf: Behalf,
    pub(crate) first: PieceIndex,
    pub(crate) end: Option<PieceIndex>,
    /// What is known of the chain; `None` while the geometry is unknown.
    pub(crate) list: Option<PieceList>,
    pub(crate) origin: OriginClient,
    pub(crate) store: Store,
    pub(crate) signer: ListSigner,
    pub(crate) counters: Arc<Counters>,
    pub(crate) state: Arc<TaskState>,
    /// The limits of what origins send.
    pub(crate) pace: TaskPace,
    pub(crate) events: mpsc::Sender<Event>,
    /// Ends it as soon as what is being stored is reported.
    pub(crate) cancel: CancellationToken,
    /// Held as long as the file may be used.
    pub(crate) _user: TaskTrackerToken,
}

/// Why a fetch ends early.
enum Stop {
    /// Said already, or nobody listens any more.
    Silent,
    Failed(TaskFailure),
}

impl Fetch {
    pub(crate) async fn run(self) {
        let result = match self.fetch().await {
            Ok(()) => Ok(()),
            Err(Stop::Failed(failure)) => Err(failure),
            Err(Stop::Silent) => return,
        };
        let _ = self.report(FetchEvent::Done(result)).await;
    }

    async fn fetch(&self) -> Result<(), Stop> {
        let known = self.list.as_ref().map(|list| *list.geometry());
        let hold = Hold::default();
        let opening = self.in_time(Duration::MAX, &hold, self.open(known, hold.clone()));
        let body = self.unless_cancelled(opening).await?;
        let geometry = self.check_length(&body, known)?;
        self.check_version(&body)?;
        let blob = self.create(geometry).await?;
        self.report(FetchEvent::Head {
            geometry,
            blob: Arc::clone(&blob),
        })
        .await?;
        let list = self
            .list
            .clone()
            .unwrap_or_else(|| PieceList::new(&self.task, geometry));
        let before = list.before(self.first).ok_or_else(|| {
            Stop::Failed(TaskFailure::Origin(
                "cannot start in the middle of the chain".into(),
            ))
        })?;
        let mut stream = PieceStream::new(body);
        let mut chain = Chain::resume(geometry, self.first, before);
        let end = self.end.map_or_else(|| geometry.piece_count(), |end| end.0);
        while chain.next().0 < end {
            let limit = slowest(geometry.len_of(chain.next()));
            let pieces = self.next_pieces(&mut stream, &chain, end);
            let pieces = self.in_time(limit, &hold, pieces);
            let data = self.unless_cancelled(pieces).await?;
            self.unless_cancelled(self.hold(data.len())).await?;
            chain = self.take(&blob, chain, data).await?;
        }
        Ok(())
    }

    /// Waits as the limits of origins want it, and says from time to time that it lives.
    async fn hold(&self, bytes: usize) -> Result<(), Stop> {
        let mut held = std::pin::pin!(self.pace.pass(bytes as u64));
        loop {
            tokio::select! {
                () = &mut held => return Ok(()),
                () = tokio::time::sleep(SIGN_OF_LIFE) => {
                    self.report(FetchEvent::Held).await?;
                }
            }
        }
    }

    async fn unless_cancelled<T>(
        &self,
        wait: impl Future<Output = Result<T, Stop>>,
    ) -> Result<T, Stop> {
        let done = self.cancel.run_until_cancelled(wait).await;
        done.unwrap_or(Err(Stop::Silent))
    }

    /// Waits for the origin for so long, limits and its own wish not counted.
    async fn in_time<T>(
        &self,
        limit: Duration,
        hold: &Hold,
        wait: impl Future<Output = Result<T, Stop>>,
    ) -> Result<T, Stop> {
        let held = || self.report(FetchEvent::Held);
        in_time(limit, hold, held, wait).await
    }

    async fn open(&self, known: Option<Geometry>, hold: Hold) -> Result<OriginBody, Stop> {
        let (start, end) = match known {
            Some(geometry) => {
                let end = self.end.map(|end| geometry.range(end).start);
                (geometry.range(self.first).start, end)
            }
            None => (0, None),
        };
        let range = ByteRange { start, end };
        let (origin, source) = (&self.origin, &self.source);
        let opened = origin.fetch_held(self.behalf, source, range, hold).await;
        opened.map_err(|error| Stop::Failed(failure(error)))
    }

    fn check_length(&self, body: &OriginBody, known: Option<Geometry>) -> Result<Geometry, Stop> {
        let Some(length) = body.total_length() else {
            let reason = "it does not tell the length, so the content cannot be shared";
            return Err(Stop::Failed(TaskFailure::Origin(reason.into())));
        };
        let found = Geometry::for_length(length)
            .map_err(|error| Stop::Failed(TaskFailure::Origin(error.to_string())))?;
        match known {
            Some(known) if known.length() != length => {
                let reason = format!("{length} bytes, where {} are expected", known.length());
                Err(Stop::Failed(TaskFailure::WrongDigest(reason)))
            }
            Some(known) => Ok(known),
            None => Ok(found),
        }
    }

    async fn create(&self, geometry: Geometry) -> Result<Arc<BlobFile>, Stop> {
        let (store, task, list) = (self.store.clone(), self.task, self.list.clone());
        let create = move || {
            let blob = store.create(task, geometry)?;
            for batch in list.iter().flat_map(|list| list.batches_from(0)) {
                // What contradicts shows when the chain reaches it.
                let _ = blob.add_batch(batch.clone());
            }
            Ok(blob)
        };
        tokio::task::spawn_blocking(create)
            .await
            .map_err(|_| Stop::Silent)?
            .map_err(|error| Stop::Failed(create_failure(&error)))
    }

    /// That what comes now is of the same version as what was read before, where only the origin
    /// can tell. What has a digest may be read at several origins, each with its own tags.
    fn check_version(&self, body: &OriginBody) -> Result<(), Stop> {
        match self.task {
            TaskId::Blob(_) => Ok(()),
            TaskId::Url(_) => {
                same_version(&self.state.first_head, body.head()).map_err(Stop::Failed)
            }
        }
    }

    /// The next piece, and with it those that are at hand already.
    async fn next_pieces(
        &self,
        stream: &mut PieceStream,
        chain: &Chain,
        end: u32,
    ) -> Result<Bytes, Stop> {
        let geometry = chain.geometry();
        let start = geometry.range(chain.next()).start;
        let len_to = |end: u32| (geometry.range(PieceIndex(end - 1)).end - start) as usize;
        let one = chain.next().0 + 1;
        let most = end.min(one.saturating_add(MOST_TOGETHER - 1));
        while stream.buffer.len() < len_to(one) {
            let chunk = stream
                .body
                .next()
                .await
                .map_err(|error| Stop::Failed(failure(error)))?;
            let Some(chunk) = chunk else {
                let reason = "its content ends before its stated length";
                return Err(Stop::Failed(TaskFailure::Origin(reason.into())));
            };
            self.take_chunk(stream, &chunk);
        }
        while stream.buffer.len() < len_to(most).min(MOST_BYTES_TOGETHER)
            && let Some(chunk) = stream.body.at_hand()
        {
            self.take_chunk(stream, &chunk);
        }
        let mut whole = one;
        while whole < most && len_to(whole + 1) <= stream.buffer.len() {
            whole += 1;
        }
        Ok(stream.buffer.split_to(len_to(whole)).freeze())
    }

    fn take_chunk(&self, stream: &mut PieceStream, chunk: &[u8]) {
        self.counters.add_origin(chunk.len() as u64);
        self.state.counters.add_origin(chunk.len() as u64);
        stream.buffer.extend_from_slice(chunk);
    }

    /// Checks or extends the chain by whole pieces and stores them.
    async fn take(
        &self,
        blob: &Arc<BlobFile>,
        mut chain: Chain,
        data: Bytes,
    ) -> Result<Chain, Stop> {
        let (task, signer, blob) = (self.task, self.signer.clone(), Arc::clone(blob));
        let len = data.len();
        let first = chain.next().0;
        let origin = origin_of(&self.task, &self.source.url);
        let job = move || {
            let geometry = blob.geometry();
            let sign = |first, states| signer.sign(&task, &geometry, first, states, origin);
            let batch = blob.write_chained(&mut chain, &data, sign);
            batch.map(|batch| (chain, batch))
        };
        let written = brief(len, job).await.map_err(|_| Stop::Silent)?;
        match written {
            Ok((chain, batch)) => {
                let pieces = first..chain.next().0;
                self.report(FetchEvent::Stored { pieces, batch }).await?;
                Ok(chain)
            }
            Err(error) if error.is_rejection() => {
                Err(Stop::Failed(TaskFailure::WrongDigest(error.to_string())))
            }
            Err(error) => Err(Stop::Failed(TaskFailure::Store(error.to_string()))),
        }
    }

    async fn report(&self, event: FetchEvent) -> Result<(), Stop> {
        let event = Event::Fetch {
            task: self.task,
            fetch: self.id,
            event,
        };
        self.events.send(event).await.map_err(|_| Stop::Silent)
    }
}

/// The origin's bytes, of which those not yet used are kept.
struct PieceStream {
    body: OriginBody,
    buffer: BytesMut,
}

impl PieceStream {
    fn new(body: OriginBody) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
        }
    }
}

/// The longest that a piece of `len` bytes may take to come.
fn slowest(len: u32) -> Duration {
    PIECE_TIME + Duration::from_secs((len / SLOWEST).into())
}

/// Waits for so long, while nothing else holds up what is waited for. While a limit of ours does,
/// `held` tells so from time to time; of a registry that wants peace nothing is told, so that another
/// source may be tried.
async fn in_time<T, H: Future<Output = Result<(), Stop>>>(
    limit: Duration,
    hold: &Hold,
    held: impl Fn() -> H,
    wait: impl Future<Output = Result<T, Stop>>,
) -> Result<T, Stop> {
    let mut wait = std::pin::pin!(wait);
    let mut left = limit;
    while !left.is_zero() {
        let step = SIGN_OF_LIFE.min(left);
        if let Ok(done) = tokio::time::timeout(step, &mut wait).await {
            return done;
        }
        match hold.by() {
            Some(HeldBy::Limit) => held().await?,
            Some(HeldBy::Registry) => {}
            None => left -= step,
        }
    }
    let reason = format!("a piece did not come within {} s", limit.as_secs());
    Err(Stop::Failed(TaskFailure::Origin(reason)))
}

fn same_version(first: &OnceLock<OriginHead>, now: OriginHead) -> Result<(), TaskFailure> {
    let difference = first.get_or_init(|| now.clone()).difference(&now);
    difference.map_or(Ok(()), |what| {
        let reason = format!("the file changed while it was read: {what}");
        Err(TaskFailure::WrongDigest(reason))
    })
}

/// An origin that says there are no bytes lies, where the digest says otherwise: that is no trouble
/// of our store, and no reason to refuse those who name another origin.
fn create_failure(error: &CreateError) -> TaskFailure {
    match error {
        CreateError::NotEmpty { .. } => TaskFailure::WrongDigest(error.to_string()),
        error => TaskFailure::Store(error.to_string()),
    }
}

fn failure(error: OriginError) -> TaskFailure {
    let text = error.to_string();
    match error {
        OriginError::Denied { .. } => TaskFailure::Denied(text),
        OriginError::NotFound { .. } => TaskFailure::NotFound(text),
        _ => TaskFailure::Origin(text),
    }
}

/// Whose bytes they are, for the rules of access: the origin's whose URL names the task. That the
/// digest of a file at some URL was guessed right makes its server no registry of that digest, where
/// others may have it under another path.
fn origin_of(task: &TaskId, url: &str) -> Option<OriginName> {
    let is_named = match task {
        TaskId::Url(_) => true,
        TaskId::Blob(digest) => Url::parse(url).is_ok_and(|url| names(&url, digest)),
    };
    is_named.then(|| OriginName::of_url(url)).flatten()
}

/// Whether it is where a registry has the blob: neither its name nor what is behind `?` or `#` counts.
fn names(url: &Url, digest: &Digest) -> bool {
    let is_plain = url.query().is_none() && url.fragment().is_none();
    let named = url.path().rsplit_once("/blobs/");
    let named =
        named.is_some_and(|(place, named)| place.contains("/v2/") && named == digest.to_string());
    is_plain && named
}

#[cfg(test)]
mod tests {
    use hawker_model::UrlTask;

    use super::*;

    fn head(etag: Option<&str>, length: u64) -> OriginHead {
        OriginHead {
            etag: etag.map(str::to_owned),
            length: Some(length),
            ..OriginHead::default()
        }
    }

    #[test]
    fn versions_of_a_file_are_not_mixed() {
        let first = OnceLock::new();
        assert_eq!(same_version(&first, head(Some("\"1\""), 9)), Ok(()));
        assert_eq!(same_version(&first, head(Some("\"1\""), 9)), Ok(()));
        for other in [head(Some("\"2\""), 9), head(Some("\"1\""), 8)] {
            let error = same_version(&first, other).unwrap_err();
            assert!(matches!(error, TaskFailure::WrongDigest(_)), "{error}");
        }
        // The first is still what counts.
        assert_eq!(same_version(&first, head(Some("\"1\""), 9)), Ok(()));
    }

    #[test]
    fn nothing_in_place_of_something_is_the_origin_s_fault() {
        let task = TaskId::Blob(Digest::of(b"x"));
        let error = create_failure(&CreateError::NotEmpty { task });
        assert!(matches!(error, TaskFailure::WrongDigest(_)), "{error}");
        let (length, quota) = (9, 8);
        let task = UrlTask::default().id();
        let error = create_failure(&CreateError::LargerThanQuota {
            task,
            length,
            quota,
        });
        assert!(matches!(error, TaskFailure::Store(_)), "{error}");
    }

    #[tokio::test]
    async fn a_piece_that_never_comes_ends_the_fetch() {
        let never = std::future::pending::<Result<(), Stop>>();
        let (hold, told) = (Hold::default(), || std::future::ready(Ok(())));
        let ended = in_time(Duration::from_millis(1), &hold, told, never).await;
        assert!(matches!(ended, Err(Stop::Failed(TaskFailure::Origin(_)))));
        let comes = async { Ok(()) };
        assert!(in_time(slowest(1), &hold, told, comes).await.is_ok());
        assert!(slowest(4 << 20) > slowest(64 << 10));
    }

    #[tokio::test]
    async fn waits_for_limits_and_at_a_registry_s_wish_are_not_its_slowness() {
        let limit = SIGN_OF_LIFE / 2;
        for (by, expected) in [(HeldBy::Limit, 1), (HeldBy::Registry, 0)] {
            let (hold, told) = (Hold::default(), std::cell::Cell::new(0));
            let tell = || {
                told.set(told.get() + 1);
                std::future::ready(Ok(()))
            };
            let wait = async {
                let long = tokio::time::sleep(limit * 3 / 2);
                hold.during(by, long).await;
                Ok(())
            };
            assert!(in_time(limit, &hold, tell, wait).await.is_ok());
            assert_eq!(told.get(), expected);
        }
    }

    #[test]
    fn only_urls_that_name_the_task_vouch_for_it() {
        let digest = Digest::of(b"x");
        let blob = TaskId::Blob(digest);
        let of = |task, url: String| origin_of(&task, &url).map(|name| name.to_string());
        let registry = format!("https://r.io/prefix/v2/a/b/blobs/{digest}");
        assert_eq!(of(blob, registry).as_deref(), Some("https://r.io"));
        let other = format!("https://r.io/v2/a/blobs/{}", Digest::of(b"y"));
        for url in [
            "https://r.io/f".to_owned(),
            format!("https://r.io/f/{digest}"),
            other,
            format!("https://v2/f/blobs/{digest}"),
            format!("https://r.io/f?x=/v2/a/blobs/{digest}"),
            format!("https://r.io/f#/v2/a/blobs/{digest}"),
            format!("https://r.io/v2/a/blobs/{digest}?x=1"),
        ] {
            assert_eq!(of(blob, url.clone()), None, "{url}");
        }
        let file = TaskId::Url([0; 32]);
        assert_eq!(
            of(file, "https://r.io/f".to_owned()).as_deref(),
            Some("https://r.io")
        );
    }
}
