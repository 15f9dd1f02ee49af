//! One fetch from the origin: bytes to pieces to chain values to the store.
//!
//! Pieces whose chain value is known are checked against it. From the first unknown value on the
//! chain is computed, signed and reported as the bytes come, so that others can have each piece while
//! the rest still comes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use hawker_model::{Chain, Geometry, OriginName, PieceIndex, PieceList, TaskId};
use hawker_swarm::{Source, TaskFailure};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use super::{
    event::{Event, FetchEvent},
    signer::ListSigner,
};
use crate::{
    blob::TaskState,
    counters::Counters,
    origin::{ByteRange, OriginBody, OriginClient, OriginError},
    store::{BlobFile, Store},
};

/// Pieces that are signed, stored and reported together, if they are at hand.
const MOST_TOGETHER: u32 = 16;
/// The same in bytes; a larger piece comes alone.
const MOST_BYTES_TOGETHER: usize = 1 << 20;

/// What to fetch, and all it takes.
pub(crate) struct Fetch {
    pub(crate) task: TaskId,
    pub(crate) id: u64,
    pub(crate) source: Source,
    pub(crate) first: PieceIndex,
    pub(crate) end: Option<PieceIndex>,
    /// What is known of the chain; `None` while the geometry is unknown.
    pub(crate) list: Option<PieceList>,
    pub(crate) origin: OriginClient,
    pub(crate) store: Store,
    pub(crate) signer: ListSigner,
    pub(crate) counters: Arc<Counters>,
    pub(crate) state: Arc<TaskState>,
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
        let body = self.unless_cancelled(self.open(known)).await?;
        let geometry = self.check_length(&body, known)?;
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
            let data = self
                .unless_cancelled(self.next_pieces(&mut stream, &chain, end))
                .await?;
            chain = self.take(&blob, chain, data).await?;
        }
        Ok(())
    }

    async fn unless_cancelled<T>(
        &self,
        wait: impl Future<Output = Result<T, Stop>>,
    ) -> Result<T, Stop> {
        let done = self.cancel.run_until_cancelled(wait).await;
        done.unwrap_or(Err(Stop::Silent))
    }

    async fn open(&self, known: Option<Geometry>) -> Result<OriginBody, Stop> {
        let (start, end) = match known {
            Some(geometry) => {
                let end = self.end.map(|end| geometry.range(end).start);
                (geometry.range(self.first).start, end)
            }
            None => (0, None),
        };
        let range = ByteRange { start, end };
        self.origin
            .fetch(&self.source, range)
            .await
            .map_err(|error| Stop::Failed(failure(error)))
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
            .map_err(|error: crate::store::CreateError| {
                Stop::Failed(TaskFailure::Store(error.to_string()))
            })
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
            && let Some(chunk) = stream.next_at_hand()
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
        let first = chain.next().0;
        let origin = OriginName::of_url(&self.source.url);
        let job = move || {
            let geometry = blob.geometry();
            let sign = |first, states| signer.sign(&task, &geometry, first, states, origin);
            let batch = blob.write_chained(&mut chain, &data, sign);
            batch.map(|batch| (chain, batch))
        };
        let written = tokio::task::spawn_blocking(job)
            .await
            .map_err(|_| Stop::Silent)?;
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
    /// Met while looking for what is at hand.
    failed: Option<OriginError>,
}

impl PieceStream {
    fn new(body: OriginBody) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            failed: None,
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.body.next().await,
        }
    }

    /// More bytes, if no waiting is needed.
    fn next_at_hand(&mut self) -> Option<Bytes> {
        match self.body.next().now_or_never()? {
            Ok(chunk) => chunk,
            Err(error) => {
                self.failed = Some(error);
                None
            }
        }
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
