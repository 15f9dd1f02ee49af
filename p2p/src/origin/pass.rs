//! Requests of the mirror's clients, passed on as they were made.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hawker_model::RegistryHost;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, HOST, LOCATION, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;
use url::Url;

use super::{
    By, Led, OriginClient, OriginError,
    auth::{Demand, Who},
    budget::{Errand, Visit},
    challenge, config,
    endpoint::Standing,
    error::{innermost, shown, shown_text},
    exchange::{self, Answer, Ask},
    hold::Hold,
    registries::Way,
    ways::Ways,
};

/// What to do with an answer that redirects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirects {
    /// Ask there, without credentials where that is another host.
    Follow,
    /// Hand it back.
    Return,
}

/// What to do with an answer that wants a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenges {
    /// Hand it back: the client answers it.
    Return,
    /// Answer it where the client brought no credential and one is configured for the registry.
    AnswerIfConfigured,
}

/// One request to a registry. It has no body: pulls are GET and HEAD.
#[derive(Clone, Debug)]
pub struct PassRequest<'a> {
    pub method: Method,
    pub registry: &'a RegistryHost,
    /// Path and query as the client asked for them, with its leading `/v2/`. The parameter `ns`,
    /// which is meant for us, is not passed on.
    pub path: &'a str,
    /// As the client sent them; those of the client's connection to us are dropped.
    pub headers: &'a HeaderMap,
    pub redirects: Redirects,
    pub challenges: Challenges,
}

/// Sends `request` and hands back the answer, without what concerns our connection alone.
pub(super) async fn pass(
    client: &OriginClient,
    request: PassRequest<'_>,
) -> Result<Response<PassBody>, OriginError> {
    let url = url_of(client, &request)?;
    let mut headers = end_to_end(request.headers);
    merge_accept(&mut headers);
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let authorization = headers.remove(AUTHORIZATION);
    let passing = Passing {
        client,
        request: &request,
        headers,
        authorization,
    };
    let mut ways = Ways::new(
        client.0.registries.ways(&url),
        client.0.config.endpoint_timeout,
    );
    let unanswered = || OriginError::InvalidUrl {
        url: shown(&url),
        reason: "no endpoint is left".to_owned(),
    };
    let asking = async {
        loop {
            // There is always one way, and the last one settles.
            let way = ways.take().ok_or_else(unanswered)?;
            let asked = ways.within(&way, passing.by(&way)).await;
            if let Some(stands) = ways.settle(&way, asked) {
                return stands;
            }
        }
    };
    // The client waits, and may know another way.
    let patience = client.0.config.header_timeout / 4;
    let is_blob = request.method != Method::HEAD && url.path().contains("/blobs/");
    let errand = match is_blob {
        true => Errand::Body(Hold::default()),
        false => Errand::Question,
    };
    let answer = client.in_budget(&url, (errand, patience), asking).await?;
    Ok(response(answer, client.0.config.read_timeout))
}

/// A request that is being passed on.
struct Passing<'a> {
    client: &'a OriginClient,
    request: &'a PassRequest<'a>,
    headers: HeaderMap,
    authorization: Option<HeaderValue>,
}

impl Passing<'_> {
    /// Asks in one place. A mirror sees no credential of the client, and is given ours.
    async fn by(&self, way: &Way) -> Result<Answer, OriginError> {
        let (client, url) = (self.client, &way.url);
        let is_mirror = way.standing() == Standing::Mirror;
        let mut authorization = self.authorization.clone().filter(|_| !is_mirror);
        let is_ours_to_answer = is_mirror
            || (self.request.challenges == Challenges::AnswerIfConfigured
                && authorization.is_none()
                && client.0.accounts.contains_key(&url.origin()));
        if is_ours_to_answer {
            authorization = client.0.authorizer.remembered(client, url, None).await;
        }
        let own_headers = way.headers();
        let ask = |authorization| Ask {
            method: self.request.method.clone(),
            url,
            on_behalf: url,
            led: Led::ByNobody,
            headers: &self.headers,
            own_headers: &own_headers,
            body: Bytes::new(),
            authorization,
            redirects: self.request.redirects,
            by: By::Any,
        };
        let answer = client.follow(ask(authorization.as_ref())).await?;
        let is_challenge =
            answer.status() == StatusCode::UNAUTHORIZED && answer.led == Led::ByNobody;
        if !is_ours_to_answer || !is_challenge {
            return Ok(answer);
        }
        let challenges = challenge::of_headers(answer.headers());
        let demand = Demand {
            url,
            on_behalf: url,
            led: answer.led,
            who: Who::Configured,
            challenges: &challenges,
        };
        let refused = authorization.as_ref();
        match client.0.authorizer.answer(client, demand, refused).await {
            Ok(Some(found)) => client.follow(ask(Some(&found))).await,
            // The client would wait for the same token server.
            Err(error) if error.is_outage() => Err(error),
            // Without a token the client sees the challenge, and may know better.
            Ok(None) | Err(_) => Ok(answer),
        }
    }
}

fn url_of(client: &OriginClient, request: &PassRequest<'_>) -> Result<Url, OriginError> {
    let base = client.base_url(request.registry)?;
    let (path, query) = match request.path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (request.path, None),
    };
    let invalid = |reason: &str| OriginError::InvalidUrl {
        url: shown_text(request.path),
        reason: reason.to_owned(),
    };
    if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic()) || climbs(path) {
        return Err(invalid("that is no path of a registry"));
    }
    let mut url = config::under(&base, path);
    let kept: Vec<&str> = query
        .unwrap_or_default()
        .split('&')
        .filter(|part| !part.is_empty() && *part != "ns" && !part.starts_with("ns="))
        .collect();
    url.set_query((!kept.is_empty()).then(|| kept.join("&")).as_deref());
    exchange::check_url(&url).map_err(|reason| invalid(&reason))?;
    Ok(url)
}

/// Whether a path leads elsewhere than it says: out of the endpoint's prefix, or past what rules
/// were checked for. URLs take backslashes for slashes.
fn climbs(path: &str) -> bool {
    let is_dots = |part: &str| {
        let part = part.to_ascii_lowercase().replace("%2e", ".");
        matches!(part.as_str(), "." | "..")
    };
    path.contains('\\') || path.split('/').any(is_dots)
}

/// The headers that are for the other end, not for the next hop (RFC 9110, 7.6.1).
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    let mut kept = headers.clone();
    for name in named
        .into_iter()
        .chain([CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE])
    {
        kept.remove(name);
    }
    for name in [
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "proxy-authenticate",
    ] {
        kept.remove(name);
    }
    for name in ["x-dragonfly-registry", "expect"] {
        kept.remove(name);
    }
    kept.remove(HOST);
    kept
}

/// Docker sends a line per type; some registries read only the first.
fn merge_accept(headers: &mut HeaderMap) {
    let lines = headers.get_all(ACCEPT).iter();
    let merged = lines
        .map(HeaderValue::as_bytes)
        .collect::<Vec<_>>()
        .join(&b", "[..]);
    if let Ok(value) = HeaderValue::from_bytes(&merged)
        && !value.is_empty()
    {
        headers.insert(ACCEPT, value);
    }
}

pub(super) fn response(answer: Answer, limit: Duration) -> Response<PassBody> {
    let (mut head, incoming) = answer.response.into_parts();
    head.headers = end_to_end(&head.headers);
    // Relative to the registry, not to us.
    let location = head
        .headers
        .get(LOCATION)
        .and_then(|value| value.to_str().ok());
    if let Some(target) = location.and_then(|location| answer.url.join(location).ok())
        && let Ok(value) = HeaderValue::from_str(target.as_str())
    {
        head.headers.insert(LOCATION, value);
    }
    head.version = http::Version::default();
    head.extensions = http::Extensions::default();
    let body = PassBody {
        pacing: answer.visit.map(Pacing::new),
        incoming,
        url: answer.url,
        limit,
        silence: None,
        position: 0,
    };
    Response::from_parts(head, body)
}

/// The body of an answer as it comes. Ends with an error when nothing comes for too long.
#[derive(Debug)]
pub struct PassBody {
    incoming: Incoming,
    url: Url,
    limit: Duration,
    silence: Option<Pin<Box<Sleep>>>,
    /// Bytes that came.
    position: u64,
    pacing: Option<Pacing>,
}

/// Holds a body to its registry's rate.
struct Pacing {
    visit: Arc<Visit>,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl Pacing {
    fn new(visit: Visit) -> Self {
        Self {
            visit: Arc::new(visit),
            waiting: None,
        }
    }

    /// So many bytes came.
    fn note(&mut self, bytes: u64) {
        if self.visit.has_rate() {
            let visit = Arc::clone(&self.visit);
            self.waiting = Some(Box::pin(async move {
                let mut owed = bytes;
                visit.settle(&mut owed).await;
            }));
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
        Poll::Ready(())
    }
}

impl std::fmt::Debug for Pacing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pacing")
            .field("visit", &self.visit)
            .finish_non_exhaustive()
    }
}

impl Body for PassBody {
    type Data = Bytes;
    type Error = OriginError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, OriginError>>> {
        let this = &mut *self;
        if let Some(pacing) = &mut this.pacing {
            ready!(pacing.poll(cx));
        }
        if let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) {
            this.silence = None;
            if let Some(Ok(frame)) = &frame {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                this.position += bytes;
                if let Some(pacing) = &mut this.pacing {
                    pacing.note(bytes);
                }
            }
            let (url, position) = (&this.url, this.position);
            return Poll::Ready(frame.map(|frame| {
                frame.map_err(|error| OriginError::TooShort {
                    url: shown(url),
                    position,
                    reason: innermost(&error),
                })
            }));
        }
        let limit = this.limit;
        let silence = this
            .silence
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(silence.as_mut().poll(cx));
        this.silence = None;
        let url = shown(&this.url);
        Poll::Ready(Some(Err(OriginError::Timeout {
            url,
            awaited: "further bytes",
            limit,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
