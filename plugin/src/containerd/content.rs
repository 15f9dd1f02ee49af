//! containerd's content service: one short method for each call.
//!
//! Who calls: containerd's metadata layer, most of it inside its one write transaction: `Info`,
//! `Write` with `STAT` and `COMMIT`, `Abort`, and in its garbage collection `List` and `Delete`.
//! None of these waits for anything but memory and the local disk. Only `Read` waits for the network.
//!
//! containerd names namespaces in the names of uploads only, and forwards no labels: neither counts
//! here.

#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::containerd) mod fuzzing;
mod message;
mod metrics;
#[cfg(test)]
mod tests;
mod write;

use std::{collections::BTreeMap, future::Future, ops::Range};

use containerd_client::services::v1::{
    AbortRequest, DeleteContentRequest, InfoRequest, InfoResponse, ListContentRequest,
    ListContentResponse, ListStatusesRequest, ListStatusesResponse, ReadContentRequest,
    ReadContentResponse, StatusRequest, StatusResponse, UpdateRequest, UpdateResponse,
    WriteContentRequest, WriteContentResponse,
};
use futures::{StreamExt as _, stream, stream::BoxStream};
use hawker_model::Digest;
use hawker_snapshotter::Filter;
use tonic::{Code, Request, Response, Status, Streaming, async_trait};
use tracing::{debug, warn};

pub(crate) use self::metrics::ContentMetrics;
use self::write::Session;
use super::api::ContentApi;
use crate::content::{ContentReader, ContentStore};

/// So much content in one message of `List`, as containerd's own service does.
const PAGE_LEN: usize = 100;
/// Most bytes of one message of `Read`.
const CHUNK_LEN: usize = 1 << 20;

/// Answers containerd.
#[derive(Clone, Debug)]
pub(super) struct ContentService {
    store: ContentStore,
    metrics: ContentMetrics,
}

impl ContentService {
    pub(super) fn new(store: ContentStore, metrics: ContentMetrics) -> Self {
        Self { store, metrics }
    }

    /// Counts and logs one answer.
    async fn answer<T>(
        &self,
        method: &'static str,
        what: &str,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        self.store.note_used();
        let answered = answer.await;
        let failure = answered.as_ref().err();
        report(&self.metrics, method, what, failure);
        answered.map(Response::new)
    }
}

/// Counts and logs how a call ended.
fn report(metrics: &ContentMetrics, method: &'static str, what: &str, failure: Option<&Status>) {
    let code = failure.map_or(Code::Ok, Status::code);
    metrics.answered(method, code);
    match failure {
        Some(status) if matches!(code, Code::Internal | Code::Unknown) => {
            warn!(
                method,
                what,
                error = status.message(),
                "a content call failed"
            );
        }
        Some(status) => debug!(method, what, ?code, why = status.message(), "answered"),
        None => debug!(method, what, "answered"),
    }
}

#[async_trait]
impl ContentApi for ContentService {
    type ListStream = BoxStream<'static, Result<ListContentResponse, Status>>;
    type ReadStream = BoxStream<'static, Result<ReadContentResponse, Status>>;
    type WriteStream = BoxStream<'static, Result<WriteContentResponse, Status>>;

    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let text = request.into_inner().digest;
        let found = async {
            let Some(digest) = message::content_digest(&text)? else {
                return Err(message::unknown(&text));
            };
            let info = self.store.info(&digest);
            let info = info.ok_or_else(|| message::unknown(&text))?;
            Ok(InfoResponse {
                info: Some(message::info(info)),
            })
        };
        self.answer("Info", &text, found).await
    }

    async fn update(
        &self,
        request: Request<UpdateRequest>,
    ) -> Result<Response<UpdateResponse>, Status> {
        let UpdateRequest { info, update_mask } = request.into_inner();
        let info = info.unwrap_or_default();
        let mask = update_mask.unwrap_or_default().paths;
        let text = info.digest.clone();
        let updated = async {
            let Some(digest) = message::content_digest(&info.digest)? else {
                return Err(message::unknown(&info.digest));
            };
            let labels = BTreeMap::from_iter(info.labels);
            let updated = self.store.update(&digest, labels, &mask).await;
            let info = updated.map_err(|error| message::status(&error))?;
            Ok(UpdateResponse {
                info: Some(message::info(info)),
            })
        };
        self.answer("Update", &text, updated).await
    }

    async fn list(
        &self,
        request: Request<ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let texts = request.into_inner().filters;
        let listed = async {
            let filters = filters(&texts)?;
            Ok(list(self.store.clone(), filters).boxed())
        };
        self.answer("List", &texts.join(" or "), listed).await
    }

    async fn delete(&self, request: Request<DeleteContentRequest>) -> Result<Response<()>, Status> {
        let text = request.into_inner().digest;
        let deleted = async {
            // What is not here is deleted: an error would end containerd's garbage collection.
            let Some(digest) = message::content_digest(&text)? else {
                return Ok(());
            };
            self.store.delete(&digest).await;
            Ok(())
        };
        self.answer("Delete", &text, deleted).await
    }

    async fn read(
        &self,
        request: Request<ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let read = async {
            let Some(digest) = message::content_digest(&request.digest)? else {
                return Err(message::unknown(&request.digest));
            };
            let info = self.store.find(&digest);
            let info = info.ok_or_else(|| message::unknown(&request.digest))?;
            let range = range(&request, info.size)?;
            let reader = self.store.read(&digest, range).await;
            let reader = reader.map_err(|error| message::status(&error))?;
            Ok(chunks(reader, digest, self.metrics.clone()).boxed())
        };
        self.answer("Read", &request.digest, read).await
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let reference = request.into_inner().r#ref;
        let found = async {
            let status = self.store.status(&reference);
            let status = status.map_err(|error| message::status(&error))?;
            Ok(StatusResponse {
                status: Some(message::ingest(status)),
            })
        };
        self.answer("Status", &reference, found).await
    }

    async fn list_statuses(
        &self,
        request: Request<ListStatusesRequest>,
    ) -> Result<Response<ListStatusesResponse>, Status> {
        let texts = request.into_inner().filters;
        let listed = async {
            let filters = filters(&texts)?;
            let mut statuses = self.store.statuses();
            statuses.retain(|status| message::is_ingest_wanted(&filters, status));
            let statuses = statuses.into_iter().map(message::ingest).collect();
            Ok(ListStatusesResponse { statuses })
        };
        self.answer("ListStatuses", &texts.join(" or "), listed)
            .await
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        self.store.note_used();
        let session = Session::new(self.store.clone(), self.metrics.clone());
        Ok(Response::new(session.answers(request.into_inner()).boxed()))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<()>, Status> {
        let reference = request.into_inner().r#ref;
        let aborted = async {
            let aborted = self.store.abort(&reference).await;
            aborted.map_err(|error| message::status(&error))
        };
        self.answer("Abort", &reference, aborted).await
    }
}

fn filters(texts: &[String]) -> Result<Vec<Filter>, Status> {
    let filters = texts.iter().map(|text| Filter::parse(text));
    let filters: Result<_, _> = filters.collect();
    filters.map_err(|error| Status::invalid_argument(error.to_string()))
}

/// Pages are read from memory as they are sent: containerd deletes what it is told meanwhile.
fn list(
    store: ContentStore,
    filters: Vec<Filter>,
) -> impl futures::Stream<Item = Result<ListContentResponse, Status>> {
    let begin = Some(None::<Digest>);
    let pages = stream::unfold(
        (store, filters, begin),
        |(store, filters, next)| async move {
            let page = store.list(next?.as_ref(), PAGE_LEN);
            let mut content = page.content;
            content.retain(|info| message::is_content_wanted(&filters, info));
            let info: Vec<_> = content.into_iter().map(message::info).collect();
            let next = page.last.map(Some);
            Some((ListContentResponse { info }, (store, filters, next)))
        },
    );
    pages
        .filter(|page| std::future::ready(!page.info.is_empty()))
        .map(Ok)
}

/// What of the content is wanted.
fn range(request: &ReadContentRequest, size: u64) -> Result<Range<u64>, Status> {
    let offset = u64::try_from(request.offset).unwrap_or(0);
    if offset > size {
        let text = format!("read past object length {size} bytes");
        return Err(Status::out_of_range(text));
    }
    let wanted = u64::try_from(request.size).unwrap_or(0);
    let end = match wanted {
        0 => size,
        wanted => size.min(offset.saturating_add(wanted)),
    };
    Ok(offset..end)
}

/// The messages of one `Read`.
fn chunks(
    reader: ContentReader,
    digest: Digest,
    metrics: ContentMetrics,
) -> impl futures::Stream<Item = Result<ReadContentResponse, Status>> {
    let parts = stream::try_unfold((reader, metrics), move |(mut reader, metrics)| async move {
        let offset = reader.position();
        let bytes = reader.next().await.map_err(|error| {
            let status = message::status(&error);
            report(&metrics, "Read", &digest.to_string(), Some(&status));
            status
        })?;
        metrics.read(bytes.len() as u64);
        Ok(match bytes.is_empty() {
            true => None,
            false => Some(((offset, bytes), (reader, metrics))),
        })
    });
    parts.flat_map(|part| match part {
        Ok((offset, bytes)) => stream::iter(messages(offset, &bytes)),
        Err(status) => stream::iter(vec![Err(status)]),
    })
}

fn messages(offset: u64, bytes: &[u8]) -> Vec<Result<ReadContentResponse, Status>> {
    let mut offset = i64::try_from(offset).unwrap_or(i64::MAX);
    let messages = bytes.chunks(CHUNK_LEN).map(|chunk| {
        let message = ReadContentResponse {
            offset,
            data: chunk.to_vec(),
        };
        offset = offset.saturating_add(chunk.len() as i64);
        Ok(message)
    });
    messages.collect()
}
