//! The bytes of a blob or file, in order and each once, whatever happens to connections meanwhile.
//!
//! A body that breaks off, stalls or is cut is asked for again from where it stopped, on the
//! condition that it is still the same; a server that ignores ranges has what precedes read and
//! dropped. Only attempts that bring no byte count against the retries.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{IF_RANGE, RANGE},
};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use tokio::time::Sleep;

use super::{
    ByteRange, OriginClient, OriginError, OriginHead, Redirects, Wanted,
    budget::{Errand, Visit},
    endpoint::Endpoint,
    error::{innermost, shown},
    exchange::Answer,
    head,
    hold::{HeldBy, Hold},
    pool::By,
    range::{self, ContentRange},
    retry::Backoff,
    silence::{self, Silence, Spoken},
};

/// A body that is being read. Dropping it ends the transfer.
pub struct OriginBody {
    client: OriginClient,
    wanted: Wanted,
    /// What the first answer said; later ones must not contradict.
    head: Option<OriginHead>,
    /// Who said it: others of the same registry have other tags and dates for the same bytes.
    said_by: Option<Arc<Endpoint>>,
    /// The next byte to deliver.
    position: u64,
    /// The byte before which to stop, once that is known.
    end: Option<u64>,
    answer: Option<Segment>,
    /// The request under way and the wait before it. Kept here so that a cancelled call of `next`
    /// does not begin them anew.
    asking: Option<Asking>,
    waiting: Option<Waiting>,
    backoff: Backoff,
    /// Bytes that were delivered and not yet counted.
    owed: u64,
    honours_ranges: bool,
    hold: Hold,
    /// Met while looking for what is at hand.
    failed: Option<OriginError>,
    /// There while the current answer gives nothing.
    silence: Option<Silence>,
}

/// A wait before the next request.
struct Waiting {
    sleep: Pin<Box<Sleep>>,
    /// Whether the server asked for it.
    is_asked_for: bool,
}

/// Bytes, or nothing of that kind: look again.
type Read = Result<Option<Bytes>, OriginError>;
type Asking = Pin<Box<dyn Future<Output = Result<Answer, OriginError>> + Send>>;

/// The body of one answer.
struct Segment {
    incoming: Incoming,
    /// Where its next byte lies in the whole.
    at: u64,
    /// Where it ends, if it says so.
    end: Option<u64>,
    /// Who sends it.
    endpoint: Option<Arc<Endpoint>>,
    /// What the registry gives counts against its budget.
    visit: Option<Visit>,
    /// Read before the answer was taken.
    ahead: Option<Bytes>,
}

impl Segment {
    async fn frame(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        match self.ahead.take() {
            Some(bytes) => Some(Ok(Frame::data(bytes))),
            None => self.incoming.frame().await,
        }
    }
}

impl OriginBody {
    /// Asks for `range` of what is wanted until the origin answers with success, or the retries are used up.
    pub(super) async fn open(
        client: &OriginClient,
        wanted: Wanted,
        range: ByteRange,
        hold: Hold,
    ) -> Result<Self, OriginError> {
        if range.end.is_some_and(|end| end <= range.start) {
            return Err(OriginError::RangeNotSatisfiable {
                url: shown(&wanted.url),
                offset: range.start,
                length: None,
            });
        }
        let mut body = Self {
            client: client.clone(),
            wanted,
            head: None,
            said_by: None,
            position: range.start,
            end: range.end,
            answer: None,
            asking: None,
            waiting: None,
            backoff: Backoff::for_body(&client.0.config),
            owed: 0,
            honours_ranges: true,
            hold,
            failed: None,
            silence: None,
        };
        body.resume().await?;
        Ok(body)
    }

    /// Bytes of the whole blob or file, once the origin has said it.
    pub fn total_length(&self) -> Option<u64> {
        self.head.as_ref().and_then(|head| head.length)
    }

    /// What the origin says of the whole: the same for every range of it, unless it changed.
    pub fn head(&self) -> OriginHead {
        self.head.clone().unwrap_or_default()
    }

    /// Offset in the whole of the next byte that is delivered.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the origin gives ranges. If not, several of them cost several times the whole.
    pub fn honours_ranges(&self) -> bool {
        self.honours_ranges
    }

    /// The next bytes; `None` when all have been delivered. Cancel-safe: what was not returned comes
    /// with the next call. After an error, a further call tries once more.
    pub async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        loop {
            if self.end.is_some_and(|end| self.position >= end) {
                self.answer = None;
                return Ok(None);
            }
            if self.answer.is_none() {
                self.resume().await?;
                continue;
            }
            self.settle().await;
            let read = self.read().await;
            if let Some(bytes) = self.note(read)? {
                return Ok(Some(bytes));
            }
        }
    }

    /// More bytes, if they are here already. It asks for nothing: a request that nobody goes on with
    /// would hold up all others of its registry. Where the answer ends or breaks off, `next` tells.
    pub(crate) fn at_hand(&mut self) -> Option<Bytes> {
        if self.end.is_some_and(|end| self.position >= end) || self.answer.is_none() {
            return None;
        }
        self.settle().now_or_never()?;
        let segment = self.answer.as_mut()?;
        let frame = segment.frame().now_or_never()?;
        self.silence = None;
        let taken = self.take(frame);
        let noted = self.note(taken);
        noted.unwrap_or_else(|error| {
            self.failed = Some(error);
            None
        })
    }

    /// Notes what reading brought: bytes, nothing, or an error that is got over by asking again. Of
    /// one that is not, `next` tells.
    fn note(&mut self, read: Read) -> Read {
        match read {
            Ok(bytes) => {
                if let Some(bytes) = &bytes {
                    self.owed += bytes.len() as u64;
                    self.backoff.progressed();
                }
                Ok(bytes)
            }
            Err(error) => {
                let sender = self.answer.take().and_then(|segment| segment.endpoint);
                if let Some(endpoint) = sender {
                    endpoint.note_failure();
                }
                self.retry_after(error).map(|()| None)
            }
        }
    }

    /// Waits until what was read last is within the registry's rate.
    async fn settle(&mut self) {
        let visit = self
            .answer
            .as_ref()
            .and_then(|segment| segment.visit.as_ref());
        match visit {
            Some(visit) => {
                let settling = visit.settle(&mut self.owed);
                self.hold.during(HeldBy::Limit, settling).await;
            }
            None => self.owed = 0,
        }
    }

    /// Asks for what is left, until there is an answer to read.
    async fn resume(&mut self) -> Result<(), OriginError> {
        loop {
            if let Some(Waiting {
                sleep,
                is_asked_for,
            }) = &mut self.waiting
            {
                match is_asked_for {
                    true => self.hold.during(HeldBy::Registry, sleep).await,
                    false => sleep.await,
                }
                self.waiting = None;
            }
            match self.request().await {
                Ok(segment) => {
                    self.answer = Some(segment);
                    return Ok(());
                }
                Err(error) => self.retry_after(error)?,
            }
        }
    }

    fn retry_after(&mut self, error: OriginError) -> Result<(), OriginError> {
        let Some(wait) = self.backoff.after(&error) else {
            return Err(error);
        };
        let is_asked_for = error.retry_after().is_some_and(|asked| !asked.is_zero());
        tracing::debug!(%error, position = self.position, ?wait, "origin is asked again");
        self.waiting = Some(Waiting {
            sleep: Box::pin(tokio::time::sleep(wait)),
            is_asked_for,
        });
        Ok(())
    }

    async fn request(&mut self) -> Result<Segment, OriginError> {
        let question = self.asking.take().unwrap_or_else(|| self.ask());
        let answer = self.asking.insert(question).await;
        self.asking = None;
        let answer = answer?;
        let (at, end) = match answer.status() {
            StatusCode::OK => self.whole(&answer)?,
            StatusCode::PARTIAL_CONTENT => self.part(&answer)?,
            StatusCode::RANGE_NOT_SATISFIABLE => self.nothing(&answer)?,
            _ => return Err(answer.error()),
        };
        Ok(Segment {
            incoming: answer.response.into_body(),
            at,
            end,
            endpoint: answer.endpoint,
            visit: answer.visit,
            ahead: None,
        })
    }

    /// Those of a request for what is left.
    fn headers(&self) -> HeaderMap {
        let mut headers = head::headers(&self.client);
        if let Some(range) = range::header(self.position, self.end) {
            headers.insert(RANGE, range);
            // Another endpoint would take its own bytes for others.
            let head = self.head.as_ref().filter(|_| self.said_by.is_none());
            let etag = head.and_then(OriginHead::strong_etag);
            if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
                headers.insert(IF_RANGE, etag);
            }
        }
        headers
    }

    fn ask(&self) -> Asking {
        let headers = self.headers();
        let (client, wanted) = (self.client.clone(), self.wanted.clone());
        let errand = Errand::Body(self.hold.clone());
        Box::pin(async move {
            client
                .ask(errand, Method::GET, &wanted, &headers, Redirects::Follow)
                .await
        })
    }

    /// An answer that holds everything: where it begins and ends.
    fn whole(&mut self, answer: &Answer) -> Result<(u64, Option<u64>), OriginError> {
        let now = self.agree(answer)?;
        // A later answer without a length is held to that of an earlier one.
        let length = now.length.or_else(|| self.total_length());
        if let Some(length) = length.filter(|length| self.position > 0 && self.position >= *length)
        {
            return Err(self.outside(Some(length)));
        }
        if self.position > 0 {
            self.honours_ranges = false;
            if self
                .client
                .0
                .config
                .discard_limit
                .is_some_and(|limit| self.position > limit)
            {
                let url = shown(&self.wanted.url);
                return Err(OriginError::RangeIgnored {
                    url,
                    offset: self.position,
                });
            }
        }
        self.learn(now, answer);
        Ok((0, length))
    }

    /// An answer that holds what was asked for, or the beginning of it.
    fn part(&mut self, answer: &Answer) -> Result<(u64, Option<u64>), OriginError> {
        let malformed = |reason: String| OriginError::Malformed {
            url: shown(&answer.url),
            reason,
        };
        let Some(ContentRange {
            bytes: Some(bytes), ..
        }) = ContentRange::of_headers(answer.headers())
        else {
            return Err(malformed("a part without a sound Content-Range".to_owned()));
        };
        if bytes.start != self.position || self.end.is_some_and(|end| bytes.end > end) {
            let asked = self.position;
            return Err(malformed(format!(
                "bytes {bytes:?} when asked for those from {asked}"
            )));
        }
        if head::content_length(answer.headers()).is_some_and(|len| len != bytes.end - bytes.start)
        {
            return Err(malformed(format!(
                "bytes {bytes:?} with another Content-Length"
            )));
        }
        let now = self.agree(answer)?;
        self.learn(now, answer);
        Ok((bytes.start, Some(bytes.end)))
    }

    /// An answer that says there are no such bytes, which is right when there are none at all.
    fn nothing(&mut self, answer: &Answer) -> Result<(u64, Option<u64>), OriginError> {
        let now = self.agree(answer)?;
        if self.position == 0 && now.length == Some(0) {
            self.learn(now, answer);
            return Ok((0, Some(0)));
        }
        // The last part did not say that it was the last.
        if self.head.is_some() && now.length == Some(self.position) {
            self.learn(now, answer);
            return Ok((self.position, Some(self.position)));
        }
        Err(self.outside(now.length))
    }

    /// Checks that an answer tells of the same bytes as those before.
    fn agree(&self, answer: &Answer) -> Result<OriginHead, OriginError> {
        if let Some(encoding) = head::encoding(answer.headers()) {
            return Err(OriginError::Encoded {
                url: shown(&answer.url),
                encoding,
            });
        }
        let now = OriginHead::of(answer);
        let is_same = match (&self.said_by, &answer.endpoint) {
            (Some(then), Some(now)) => Arc::ptr_eq(then, now),
            (then, now) => then.is_none() && now.is_none(),
        };
        let difference = |then: &OriginHead| match is_same {
            true => then.difference(&now),
            false => OriginHead::of_length(then.length).difference(&now),
        };
        match self.head.as_ref().and_then(difference) {
            Some(what) => Err(OriginError::Changed {
                url: shown(&self.wanted.url),
                what,
            }),
            None => Ok(now),
        }
    }

    fn learn(&mut self, now: OriginHead, answer: &Answer) {
        if let Some(length) = now.length {
            self.end = Some(self.end.unwrap_or(length).min(length));
        }
        match &mut self.head {
            Some(head) => head.length = head.length.or(now.length),
            None => {
                self.said_by = answer.endpoint.clone();
                self.head = Some(now);
            }
        }
    }

    fn outside(&self, length: Option<u64>) -> OriginError {
        let url = shown(&self.wanted.url);
        OriginError::RangeNotSatisfiable {
            url,
            offset: self.position,
            length,
        }
    }

    /// Reads the next bytes of the current answer that are to be delivered; of another one, where
    /// that is silent.
    async fn read(&mut self) -> Read {
        let config = &self.client.0.config;
        let (limit, patience) = (config.read_timeout, config.endpoint_timeout);
        loop {
            let Some(segment) = &mut self.answer else {
                return Ok(None);
            };
            let silence = self.silence.get_or_insert_with(|| Silence::begin(patience));
            let over_at = silence.since + limit;
            let spoken = tokio::select! {
                biased;
                frame = segment.frame() => {
                    self.silence = None;
                    return self.take(frame);
                }
                spoken = silence.next() => spoken,
                () = tokio::time::sleep_until(over_at.into()) => return Err(self.silent(limit)),
            };
            match spoken {
                Some(spoken) => self.turn_to(spoken),
                None => self.ask_again(),
            }
        }
    }

    /// Nothing came for too long. What is open may be dead: from now on new connections are made.
    fn silent(&mut self, limit: Duration) -> OriginError {
        self.silence = None;
        self.wanted.by = By::New;
        OriginError::Timeout {
            url: shown(&self.wanted.url),
            awaited: "further bytes",
            limit,
        }
    }

    /// The answer is silent: what is left is asked for once more, elsewhere first, if there is room
    /// for that.
    fn ask_again(&mut self) {
        let sender = self.answer.as_ref().and_then(|s| s.endpoint.as_ref());
        if let Some(endpoint) = sender {
            endpoint.note_failure();
        }
        let ledger = self.client.0.ledger(&self.wanted.on_behalf);
        let spare = ledger.spare().filter(|_| self.honours_ranges);
        let again = spare.map(|spare| {
            tracing::debug!(
                position = self.position,
                "silence; asking by another connection"
            );
            let (client, wanted) = (self.client.clone(), self.wanted.clone());
            silence::ask_again(client, wanted, self.headers(), spare)
        });
        if let Some(silence) = &mut self.silence {
            silence.ask(again);
        }
    }

    /// Goes on with an answer that has spoken where the other is silent, if it tells of the bytes
    /// that are wanted.
    fn turn_to(&mut self, spoken: Spoken) {
        let Spoken {
            answer,
            bytes,
            visit,
        } = spoken;
        let fits = match answer.status() {
            StatusCode::PARTIAL_CONTENT => self.part(&answer),
            StatusCode::OK if self.position == 0 => self.whole(&answer),
            _ => return,
        };
        let Ok((at, end)) = fits else {
            return;
        };
        self.silence = None;
        self.answer = Some(Segment {
            incoming: answer.response.into_body(),
            at,
            end,
            endpoint: answer.endpoint,
            visit: Some(visit),
            ahead: Some(bytes),
        });
    }

    /// What the current answer brought, as far as it is to be delivered.
    fn take(&mut self, frame: Option<Result<Frame<Bytes>, hyper::Error>>) -> Read {
        let Some(segment) = &mut self.answer else {
            return Ok(None);
        };
        let url = &self.wanted.url;
        let short = |at, reason| OriginError::TooShort {
            url: shown(url),
            position: at,
            reason,
        };
        let data = match frame {
            None => return self.ended(),
            Some(Err(error)) => return Err(short(segment.at, innermost(&error))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(_trailers) => return Ok(None),
            },
        };
        let start = segment.at;
        segment.at += data.len() as u64;
        if let Some(end) = segment.end.filter(|end| segment.at > *end) {
            return Err(OriginError::TooLong {
                url: shown(url),
                length: end,
            });
        }
        Ok(self.deliver(start, data))
    }

    /// What of `data`, which lies at `start`, is still to be delivered.
    fn deliver(&mut self, start: u64, mut data: Bytes) -> Option<Bytes> {
        let skipped = self.position.saturating_sub(start);
        if skipped >= data.len() as u64 {
            return None;
        }
        // Both cuts are below the length of `data`, so they fit a usize.
        data = data.split_off(skipped as usize);
        let wanted = self.end.map_or(u64::MAX, |end| end - self.position);
        data.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        self.position += data.len() as u64;
        Some(data)
    }

    /// The current answer ended as HTTP ends answers.
    fn ended(&mut self) -> Result<Option<Bytes>, OriginError> {
        let Some(segment) = self.answer.take() else {
            return Ok(None);
        };
        match segment.end {
            Some(end) if segment.at < end => Err(OriginError::TooShort {
                url: shown(&self.wanted.url),
                position: segment.at,
                reason: format!("{end} bytes were stated"),
            }),
            // A part that was shorter than asked for: the rest comes with the next.
            Some(_) => Ok(None),
            None if segment.at < self.position => Err(self.outside(Some(segment.at))),
            None => {
                self.end = Some(self.position);
                if let Some(head) = &mut self.head {
                    head.length = Some(self.position);
                }
                Ok(None)
            }
        }
    }
}

impl fmt::Debug for OriginBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OriginBody")
            .field("url", &shown(&self.wanted.url))
            .field("position", &self.position)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
