//! One fetch from the origin: bytes to pieces to chain values to the store.
//!
//! Pieces whose chain value is known are checked against it. From the first unknown value on the
//! chain is computed, signed and reported piece by piece, so that others can have each piece while
//! the rest still comes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hawker_model::{Chain, Geometry, PieceIndex, PieceList, SignedStates, TaskId};
use hawker_swarm::{Source, TaskFailure};
use tokio::sync::mpsc;

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
        let mut body = self.open(known).await?;
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
        let mut cutter = Cutter::default();
        let mut chain = Chain::resume(geometry, self.first, before);
        let end = self.end.map_or_else(|| geometry.piece_count(), |end| end.0);
        for piece in (self.first.0..end).map(PieceIndex) {
            let data = self
                .next_piece(&mut body, &mut cutter, geometry.len_of(piece))
                .await?;
            chain = self.take(&blob, &list, chain, piece, data).await?;
        }
        Ok(())
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

    async fn next_piece(
        &self,
        body: &mut OriginBody,
        cutter: &mut Cutter,
        len: u32,
    ) -> Result<Bytes, Stop> {
        loop {
            if let Some(piece) = cutter.cut(len as usize) {
                return Ok(piece);
            }
            let chunk = body
                .next()
                .await
                .map_err(|error| Stop::Failed(failure(error)))?;
            let Some(chunk) = chunk else {
                let reason = "its content ends before its stated length";
                return Err(Stop::Failed(TaskFailure::Origin(reason.into())));
            };
            self.counters.add_origin(chunk.len() as u64);
            self.state.counters.add_origin(chunk.len() as u64);
            cutter.push(chunk);
        }
    }

    /// Checks or extends the chain by one piece and stores it.
    async fn take(
        &self,
        blob: &Arc<BlobFile>,
        list: &PieceList,
        mut chain: Chain,
        piece: PieceIndex,
        data: Bytes,
    ) -> Result<Chain, Stop> {
        let known = list.around(piece).is_some();
        let (task, signer, blob) = (self.task, self.signer.clone(), Arc::clone(blob));
        let job = move || {
            let taken = take_blocking(&task, &signer, &blob, &mut chain, piece, &data, known);
            taken.map(|batch| (chain, batch))
        };
        match tokio::task::spawn_blocking(job)
            .await
            .map_err(|_| Stop::Silent)?
        {
            Ok((chain, batch)) => {
                self.report(FetchEvent::Stored { piece, batch }).await?;
                Ok(chain)
            }
            Err(failure) => Err(Stop::Failed(failure)),
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

/// Blocking: hashes and writes one piece; returns the batch for a chain value that was not known.
fn take_blocking(
    task: &TaskId,
    signer: &ListSigner,
    blob: &BlobFile,
    chain: &mut Chain,
    piece: PieceIndex,
    data: &[u8],
    known: bool,
) -> Result<Option<SignedStates>, TaskFailure> {
    let state = chain
        .advance(data)
        .map_err(|error| TaskFailure::Origin(error.to_string()))?;
    let mut batch = None;
    if !known {
        let own = signer.sign(task, &blob.geometry(), piece, vec![state]);
        // Fails when the last value is not the digest, or when a peer's list says otherwise.
        blob.add_batch(own.clone())
            .map_err(|error| TaskFailure::WrongDigest(error.to_string()))?;
        batch = Some(own);
    }
    match blob.write_piece(piece, data) {
        Ok(_) => Ok(batch),
        Err(error) if error.is_rejection() => Err(TaskFailure::WrongDigest(error.to_string())),
        Err(error) => Err(TaskFailure::Store(error.to_string())),
    }
}

/// Cuts a stream of chunks into pieces.
#[derive(Default)]
struct Cutter {
    buffer: BytesMut,
}

impl Cutter {
    fn push(&mut self, chunk: Bytes) {
        self.buffer.extend_from_slice(&chunk);
    }

    fn cut(&mut self, len: usize) -> Option<Bytes> {
        (self.buffer.len() >= len).then(|| self.buffer.split_to(len).freeze())
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
