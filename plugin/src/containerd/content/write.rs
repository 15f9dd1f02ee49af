//! One `Write`: the messages of one client to one upload, answered one by one.

use std::collections::BTreeMap;

use containerd_client::services::v1::{WriteAction, WriteContentRequest, WriteContentResponse};
use futures::{Stream, StreamExt as _, stream};
use hawker_model::Digest;
use tonic::Status;

use super::{message, metrics::ContentMetrics, report};
use crate::content::{Commit, ContentError, ContentStore, Writer};

/// Up to so many bytes are hashed and written where the call is answered: to wake another thread
/// costs as much.
const BRIEF_LEN: usize = 64 << 10;

/// A client's place in its upload.
pub(super) struct Session {
    store: ContentStore,
    metrics: ContentMetrics,
    reference: String,
    /// `None` before the first message, and after the commit.
    writer: Option<Writer>,
    /// What the client said last, or zero.
    total: u64,
    expected: Option<Digest>,
    is_over: bool,
}

impl Session {
    pub(super) fn new(store: ContentStore, metrics: ContentMetrics) -> Self {
        Self {
            store,
            metrics,
            reference: String::new(),
            writer: None,
            total: 0,
            expected: None,
            is_over: false,
        }
    }

    /// Answers until the client ends, commits, or something fails.
    pub(super) fn answers(
        self,
        requests: impl Stream<Item = Result<WriteContentRequest, Status>> + Send + Unpin + 'static,
    ) -> impl Stream<Item = Result<WriteContentResponse, Status>> {
        stream::unfold((self, requests), |(mut session, mut requests)| async move {
            if session.is_over {
                return None;
            }
            let answer = match requests.next().await? {
                Ok(request) => session.answer(request).await,
                // The client has gone.
                Err(status) => Err(status),
            };
            if answer.is_err() {
                // Whoever is told finds the upload free.
                session.writer = None;
                session.is_over = true;
            }
            Some((answer, (session, requests)))
        })
    }

    async fn answer(
        &mut self,
        request: WriteContentRequest,
    ) -> Result<WriteContentResponse, Status> {
        let method = match request.action() {
            WriteAction::Stat => "Write/STAT",
            WriteAction::Write => "Write/WRITE",
            WriteAction::Commit => "Write/COMMIT",
        };
        let answered = self.act(request).await;
        report(
            &self.metrics,
            method,
            &self.reference,
            answered.as_ref().err(),
        );
        answered
    }

    async fn act(&mut self, request: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        let action = WriteAction::try_from(request.action)
            .map_err(|_| Status::invalid_argument("unknown write action"))?;
        let total = u64::try_from(request.total).unwrap_or(0);
        if self.writer.is_none() {
            self.reference.clone_from(&request.r#ref);
            let opened = self.store.write(&self.reference, total).await;
            self.writer = Some(opened.map_err(|error| message::status(&error))?);
        }
        self.note(total, &request.expected)?;
        match action {
            WriteAction::Stat => self.state(action),
            WriteAction::Write => {
                self.append(request.offset, request.data).await?;
                self.state(action)
            }
            WriteAction::Commit => {
                self.append(request.offset, request.data).await?;
                let labels = BTreeMap::from_iter(request.labels);
                self.commit(labels).await
            }
        }
    }

    /// What the client says of the whole. The last word counts.
    fn note(&mut self, total: u64, expected: &str) -> Result<(), Status> {
        if total > 0 {
            self.total = total;
        }
        if !expected.is_empty() {
            let digest = message::content_digest(expected)?;
            self.expected = Some(digest.ok_or_else(|| {
                Status::unimplemented(format!(
                    "content {expected}: hawkerd keeps content with a sha256 only; the profiles \
                     mirror and default of `hawker setup containerd` leave containerd its own store, \
                     which takes others"
                ))
            })?);
        }
        let (total, expected) = (self.total, self.expected);
        let noted = self.writer_mut()?.expect(total, expected);
        noted.map_err(|error| message::status(&error))
    }

    async fn append(&mut self, offset: i64, data: Vec<u8>) -> Result<(), Status> {
        let at = message::length(self.writer()?.status().offset);
        if offset == 0 && at > 0 {
            self.work(0, Writer::truncate).await?;
        } else if offset != at {
            let text = format!("write @{offset} must occur at current offset {at}");
            return Err(Status::out_of_range(text));
        }
        if data.is_empty() {
            return Ok(());
        }
        let len = data.len();
        self.metrics.written(len as u64);
        self.work(len, move |writer| writer.append(&data)).await?;
        if let Some(sync) = self.writer()?.sync() {
            tokio::task::spawn_blocking(sync);
        }
        Ok(())
    }

    /// Blocking work on `len` bytes of the upload.
    async fn work(
        &mut self,
        len: usize,
        work: impl FnOnce(&mut Writer) -> Result<(), ContentError> + Send + 'static,
    ) -> Result<(), Status> {
        let mut writer = self.writer.take().ok_or_else(closed)?;
        let worked = match len {
            1..=BRIEF_LEN => work(&mut writer),
            _ => {
                let working = tokio::task::spawn_blocking(move || {
                    let worked = work(&mut writer);
                    (writer, worked)
                });
                let stopping = |_| message::status(&ContentError::Stopping);
                let (back, worked) = working.await.map_err(stopping)?;
                writer = back;
                worked
            }
        };
        self.writer = Some(writer);
        worked.map_err(|error| message::status(&error))
    }

    async fn commit(
        &mut self,
        labels: BTreeMap<String, String>,
    ) -> Result<WriteContentResponse, Status> {
        let mut answer = self.state(WriteAction::Commit)?;
        let writer = self.writer.take().ok_or_else(closed)?;
        let commit = Commit {
            total: self.total,
            expected: self.expected,
            labels,
        };
        let committed = self.store.commit(writer, commit).await;
        committed.map_err(|error| message::status(&error))?;
        self.is_over = true;
        answer.total = answer.offset;
        Ok(answer)
    }

    /// How far the upload is. The digest is always told: containerd takes it from the last answer
    /// before a commit that finds the content here.
    fn state(&self, action: WriteAction) -> Result<WriteContentResponse, Status> {
        let writer = self.writer()?;
        let status = writer.status();
        Ok(WriteContentResponse {
            action: action.into(),
            started_at: Some(status.started.into()),
            updated_at: Some(status.updated.into()),
            offset: message::length(status.offset),
            total: message::length(match self.total {
                0 => status.total,
                total => total,
            }),
            digest: writer.digest().to_string(),
        })
    }

    fn writer(&self) -> Result<&Writer, Status> {
        self.writer.as_ref().ok_or_else(closed)
    }

    fn writer_mut(&mut self) -> Result<&mut Writer, Status> {
        self.writer.as_mut().ok_or_else(closed)
    }
}

fn closed() -> Status {
    Status::failed_precondition("cannot write after the commit")
}
