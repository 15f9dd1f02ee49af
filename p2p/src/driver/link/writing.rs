//! What goes out on one connection.

use std::sync::Arc;

use hawker_model::{HostId, PieceIndex, TaskId};
use hawker_swarm::{Envelope, Message, Refusal};
use tokio::sync::mpsc;

use super::queue::{Next, Receiver};
use crate::{
    blob::TaskState,
    brief::{Stopping, brief},
    counters::Counters,
    driver::{event::Event, outbox::Parcel},
    store::{BlobFile, ReadError},
    transport::{FrameWriter, WireError},
};

/// What is sent at once.
pub(super) enum Word {
    /// The last of a connection.
    Close(String),
    Frame(Parcel),
}

/// A piece, read when its turn comes.
pub(super) struct Upload {
    pub(super) piece: PieceIndex,
    pub(super) blob: Arc<BlobFile>,
    /// Of the task.
    pub(super) state: Arc<TaskState>,
}

pub(super) struct Writing {
    pub(super) host: HostId,
    pub(super) link: u64,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) counters: Arc<Counters>,
}

impl Writing {
    /// Sends what is queued, until a good-bye or an error, which is told.
    pub(super) async fn run(self, mut writer: FrameWriter, mut queue: Receiver<Word, Upload>) {
        let error = loop {
            let next = tokio::select! {
                biased;
                next = queue.next() => next,
                () = writer.keep_alive() => match writer.flush().await {
                    Ok(()) => continue,
                    Err(error) => break error,
                },
            };
            let Some(Next { words, piece }) = next else {
                return;
            };
            // Whoever closes has no use for what stands before it.
            if let Some(Word::Close(reason)) = words.last() {
                let _ = writer.goodbye(reason).await;
                return;
            }
            let said = match words.is_empty() {
                true => Ok(()),
                false => say(&mut writer, words).await,
            };
            let written = match (said, piece) {
                (Ok(()), Some(upload)) => self.upload(&mut writer, upload).await,
                (said, _) => said,
            };
            if let Err(error) = written {
                break error;
            }
        };
        let (host, link, reason) = (self.host, self.link, error.to_string());
        let _ = self
            .events
            .send(Event::Disconnected { host, link, reason })
            .await;
    }

    /// Sends a piece; frees its slot whatever comes of it.
    async fn upload(&self, writer: &mut FrameWriter, upload: Upload) -> Result<(), WireError> {
        let Upload { piece, blob, state } = upload;
        let (task, len) = (state.task, blob.geometry().len_of(piece).into());
        match send_piece(writer, &task, piece, blob).await {
            Ok(()) => {
                self.counters.add_sent(len);
                state.counters.add_sent(len);
            }
            Err(UploadError::Wire(error)) => return Err(error),
            Err(UploadError::Read(error)) => {
                tracing::warn!(%task, %piece, %error, "cannot read a piece to send it");
                let _ = self.events.send(Event::Lost { task }).await;
                let (piece, reason) = (Some(piece), Refusal::Missing);
                let message = Message::Refuse { piece, reason };
                feed(writer, &Envelope { task, message }).await?;
            }
            Err(UploadError::Stopping) => return Ok(()),
        }
        writer.flush().await?;
        let host = self.host.clone();
        let _ = self
            .events
            .send(Event::Uploaded { host, task, piece })
            .await;
        Ok(())
    }
}

/// Why a piece is not sent.
enum UploadError {
    Read(ReadError),
    Wire(WireError),
    /// The runtime is going down.
    Stopping,
}

/// Sends a piece straight from its file; one that another program may change is read and looked at
/// before.
async fn send_piece(
    writer: &mut FrameWriter,
    task: &TaskId,
    piece: PieceIndex,
    blob: Arc<BlobFile>,
) -> Result<(), UploadError> {
    if let Some(extent) = blob.extent(piece).map_err(UploadError::Read)? {
        return match writer.feed_extent(task, piece, &extent).await {
            Ok(()) => Ok(()),
            Err(WireError::Unreadable(cause)) => Err(UploadError::Read(blob.lose(piece, cause))),
            Err(error) => Err(UploadError::Wire(error)),
        };
    }
    let len = blob.geometry().len_of(piece) as usize;
    let read = brief(len, move || blob.read_piece(piece)).await;
    let read = read.map_err(|Stopping| UploadError::Stopping)?;
    let data = read.map_err(UploadError::Read)?;
    let message = Message::Piece { piece, data };
    let task = *task;
    let fed = feed(writer, &Envelope { task, message }).await;
    fed.map_err(UploadError::Wire)
}

/// Sends words together.
async fn say(writer: &mut FrameWriter, words: Vec<Word>) -> Result<(), WireError> {
    for word in words {
        // A close is always the last of its queue, and was looked for before.
        if let Word::Frame(parcel) = word {
            feed(writer, parcel.envelope()).await?;
        }
    }
    writer.flush().await
}

/// Feeds a message; one that does not fit the protocol is dropped, since the connection is sound.
async fn feed(writer: &mut FrameWriter, envelope: &Envelope) -> Result<(), WireError> {
    match writer.feed(envelope).await {
        Err(WireError::Unsendable(error)) => {
            tracing::error!(task = %envelope.task, %error, "a message cannot be sent");
            Ok(())
        }
        other => other,
    }
}
