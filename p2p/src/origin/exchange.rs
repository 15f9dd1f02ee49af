//! One request and what it takes to have it answered: time limits, redirects, the credential kept
//! to whom it belongs.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, COOKIE, LOCATION, PROXY_AUTHORIZATION, RETRY_AFTER},
};
use http_body_util::Full;
use hyper::body::Incoming;
use url::Url;

use super::{
    Http, Led, OriginClient, OriginError, Ours, Proxy, Refused, Wanted,
    auth::{Demand, Who},
    budget::Visit,
    challenge,
    endpoint::Endpoint,
    error::{shown, shown_text},
    link::ByProxy,
    pool::By,
    proxy::ProxyFailure,
    retry,
};

type Sent = Result<Response<Incoming>, OriginError>;

/// Redirects that are followed for one request.
const MOST_REDIRECTS: usize = 10;

/// A request for [`OriginClient::follow`].
#[derive(Clone, Debug)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    /// At whose word: what was wanted at first, which may have sent us to `url`.
    pub(super) on_behalf: &'a Url,
    /// Who chose `url`, where it is at the same server as `on_behalf`.
    pub(super) led: Led,
    pub(super) headers: &'a HeaderMap,
    /// Ours, for the scheme, host and port of `on_behalf` alone.
    pub(super) own_headers: &'a HeaderMap,
    /// Empty wherever redirects are followed.
    pub(super) body: Bytes,
    /// For the scheme, host and port of `url` alone.
    pub(super) authorization: Option<&'a HeaderValue>,
    pub(super) redirects: super::Redirects,
    pub(super) by: By,
}

/// What a server says, whatever that is.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    /// Who says it: the last of the redirects.
    pub(super) url: Url,
    pub(super) redirected: bool,
    /// Whether another server had a hand in it.
    pub(super) led: Led,
    /// What was shown to the first of the redirects.
    pub(super) authorization: Option<HeaderValue>,
    /// Which of a registry's endpoints was asked, where it has several places.
    pub(super) endpoint: Option<Arc<Endpoint>>,
    /// Counts as long as the body is read.
    pub(super) visit: Option<Visit>,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// When the server wants to be asked again, if it wants to be left in peace until then.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let busy = matches!(self.status().as_u16(), 429 | 503);
        let value = self.headers().get(RETRY_AFTER).filter(|_| busy)?;
        retry::parse_retry_after(value)
    }

    /// What a status other than success means.
    pub(super) fn error(&self) -> OriginError {
        let (url, status) = (shown(&self.url), self.status().as_u16());
        let retry_after = self.retry_after();
        match status {
            401 | 403 | 407 => OriginError::Denied {
                url,
                status,
                challenges: challenge::raw(self.headers()),
            },
            404 | 410 => OriginError::NotFound { url, status },
            429 => OriginError::TooManyRequests { url, retry_after },
            408 | 500..=599 => OriginError::Server {
                url,
                status,
                retry_after,
            },
            _ => OriginError::UnexpectedStatus { url, status },
        }
    }

    /// Where the answer sends us, if it does and we may go there.
    pub(super) fn location(&self, first: &Url) -> Result<Option<Url>, OriginError> {
        if !matches!(self.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let refused = |reason: String| OriginError::Redirect {
            url: shown(&self.url),
            reason,
        };
        let location = self
            .headers()
            .get(LOCATION)
            .ok_or_else(|| refused("without a location".to_owned()))
            .and_then(|value| {
                str::from_utf8(value.as_bytes()).map_err(|_| refused("to no URL".to_owned()))
            })?;
        let mut target = self
            .url
            .join(location)
            .map_err(|error| refused(format!("to {:?}: {error}", shown_text(location))))?;
        target.set_fragment(None);
        check_url(&target).map_err(|reason| refused(format!("to {}: {reason}", shown(&target))))?;
        if first.scheme() == "https" && target.scheme() == "http" {
            return Err(refused(format!("from https to {}", shown(&target))));
        }
        Ok(Some(target))
    }
}

impl OriginClient {
    /// Sends a request, follows redirects as asked, and hands back what is said at the end.
    pub(super) async fn follow(&self, ask: Ask<'_>) -> Result<Answer, OriginError> {
        let mut method = ask.method;
        let mut url = ask.url.clone();
        let mut headers = ask.headers.clone();
        let mut led = match ask.url.origin() == ask.on_behalf.origin() {
            true => ask.led,
            false => Led::ByOthers,
        };
        if led == Led::ByNobody {
            for (name, value) in ask.own_headers {
                headers.append(name, value.clone());
            }
        }
        if let Some(authorization) = ask.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        for hops in 0..=MOST_REDIRECTS {
            let at = At {
                http: self.0.http(ask.on_behalf, led),
                on_behalf: ask.on_behalf,
                by: ask.by,
            };
            let response = self.send(at, &method, &url, &headers, &ask.body).await?;
            let answer = Answer {
                response,
                url,
                redirected: hops > 0,
                led,
                authorization: ask.authorization.cloned(),
                endpoint: None,
                visit: None,
            };
            let target = match ask.redirects {
                super::Redirects::Follow => answer.location(ask.url)?,
                super::Redirects::Return => None,
            };
            let Some(target) = target else {
                return Ok(answer);
            };
            if answer.status() == StatusCode::SEE_OTHER && method != Method::HEAD {
                method = Method::GET;
            }
            if target.origin() != answer.url.origin() {
                led = Led::ByOthers;
                // Not given back when a later redirect returns: whoever was in between chose it.
                headers.remove(AUTHORIZATION);
                headers.remove(COOKIE);
                for name in ask.own_headers.keys() {
                    headers.remove(name);
                }
            }
            url = target;
        }
        let reason = format!("more than {MOST_REDIRECTS} times");
        Err(OriginError::Redirect {
            url: shown(ask.url),
            reason,
        })
    }

    /// Asks for `wanted` in one place, with the credential that came along or one we have, and
    /// answers challenges: a credential that is refused is replaced by ours once where `wanted` says
    /// so, since what is asked may be public.
    pub(super) async fn ask_there(
        &self,
        method: Method,
        wanted: &Wanted,
        headers: &HeaderMap,
        own_headers: &HeaderMap,
        redirects: super::Redirects,
    ) -> Result<Answer, OriginError> {
        let mut url = wanted.url.clone();
        let mut led = Led::ByNobody;
        let mut credential = wanted.authorization.clone();
        let account = wanted.account.as_ref();
        let is_first = url.origin() == wanted.on_behalf.origin();
        let is_ours = matches!(self.in_whose_name(wanted, &url), Who::Configured);
        if is_first && (account.is_some() || (credential.is_none() && is_ours)) {
            let remembered = self.0.authorizer.remembered(self, &url, account).await;
            credential = remembered.or(credential);
        }
        // A cached token may be refused before its time: then a new one is asked for.
        for _ in 0..2 {
            let authorization = credential.as_ref();
            let ask = Ask {
                method: method.clone(),
                url: &url,
                on_behalf: &wanted.on_behalf,
                led,
                headers,
                own_headers,
                body: Bytes::new(),
                authorization,
                redirects,
                by: wanted.by,
            };
            let answer = self.follow(ask).await?;
            if answer.status() != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
            // A host that a redirect led to gets a token of nobody's at most, and so does ours where
            // another one chose what it is asked for.
            let is_elsewhere = answer.led == Led::ByOthers;
            let challenges = challenge::of_headers(answer.headers());
            let refused = credential
                .as_ref()
                .filter(|_| answer.url.origin() == url.origin());
            let who = match account {
                _ if is_elsewhere => Who::Nobody,
                Some(account) => Who::Account(account),
                None if refused.is_some() && wanted.refused == Refused::IsRefused => {
                    return Ok(answer);
                }
                None => self.in_whose_name(wanted, &answer.url),
            };
            let demand = Demand {
                url: &answer.url,
                on_behalf: &wanted.on_behalf,
                led: answer.led,
                who,
                challenges: &challenges,
            };
            match self.satisfy(demand, refused, wanted).await {
                Ok(Some(found)) => credential = Some(found),
                // Whoever brought the password is told what the registry says.
                Err(OriginError::Denied { .. })
                    if account.is_some() && wanted.refused == Refused::IsRefused =>
                {
                    return Ok(answer);
                }
                Err(error) if wanted.authorization.is_none() => return Err(error),
                Ok(None) | Err(_) => return Ok(answer),
            }
            (url, led) = (answer.url, answer.led);
        }
        let authorization = credential.as_ref();
        self.follow(Ask {
            method,
            url: &url,
            on_behalf: &wanted.on_behalf,
            led,
            headers,
            own_headers,
            body: Bytes::new(),
            authorization,
            redirects,
            by: wanted.by,
        })
        .await
    }

    /// Who asks at `url` where the request brings nobody: whoever is configured, unless that is to be
    /// withheld.
    fn in_whose_name(&self, wanted: &Wanted, url: &Url) -> Who<'static> {
        let knows_somebody = self.0.accounts.contains_key(&url.origin());
        match wanted.ours {
            Ours::Withheld if knows_somebody => Who::Nobody,
            _ => Who::Configured,
        }
    }

    /// What answers a challenge: the account's credential. Where an account that came as a mere
    /// header gets none, ours does: the header alone would have been replaced as well.
    async fn satisfy(
        &self,
        demand: Demand<'_>,
        refused: Option<&HeaderValue>,
        wanted: &Wanted,
    ) -> Result<Option<HeaderValue>, OriginError> {
        let authorizer = &self.0.authorizer;
        let ours = Demand {
            who: self.in_whose_name(wanted, demand.url),
            ..demand
        };
        let is_replaceable = matches!(demand.who, Who::Account(_))
            && wanted.authorization.is_some()
            && wanted.refused == Refused::MayBePublic;
        match authorizer.answer(self, demand, refused).await {
            Ok(None) | Err(_) if is_replaceable => authorizer.answer(self, ours, refused).await,
            answer => answer,
        }
    }

    /// One request and its answer's head. A request that dies with a connection from the pool is
    /// sent once more: servers close idle connections without asking.
    async fn send(
        &self,
        at: At<'_>,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response<Incoming>, OriginError> {
        let limit = self.0.config.header_timeout;
        // On the heap: every call of the origin has what is sent twice or thrice within it.
        let first = Box::pin(async {
            match self.send_once(at, method, url, headers, body).await {
                Err(OriginError::TooShort { .. }) if method.is_safe() => {
                    self.send_once(at, method, url, headers, body).await
                }
                result => result,
            }
        });
        let sending = async {
            if at.by == By::New || !method.is_safe() {
                return first.await;
            }
            let anew = At { by: By::New, ..at };
            let again = Box::pin(self.send_once(anew, method, url, headers, body));
            self.first_to_speak(at.on_behalf, first, again).await
        };
        tokio::time::timeout(limit, sending)
            .await
            .unwrap_or_else(|_| {
                Err(OriginError::Timeout {
                    url: shown(url),
                    awaited: "answer",
                    limit,
                })
            })
    }

    /// The answer to `first`, or that to `again`, which is asked where the first stays away. That the
    /// second fails means nothing while the first may still be answered.
    async fn first_to_speak(
        &self,
        registry: &Url,
        first: impl Future<Output = Sent>,
        again: impl Future<Output = Sent>,
    ) -> Sent {
        let mut first = std::pin::pin!(first);
        let patience = self.0.config.endpoint_timeout;
        if let Ok(answer) = tokio::time::timeout(patience, &mut first).await {
            return answer;
        }
        let Some(_spare) = self.0.ledger(registry).spare() else {
            return first.await;
        };
        tracing::debug!(registry = %shown(registry), "no answer; asking by another connection");
        tokio::select! {
            answer = &mut first => answer,
            answer = again => match answer {
                Ok(answer) if !is_trouble(answer.status()) => Ok(answer),
                _ => first.await,
            },
        }
    }

    async fn send_once(
        &self,
        at: At<'_>,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response<Incoming>, OriginError> {
        let uri: Uri = url
            .as_str()
            .parse()
            .map_err(|error: http::uri::InvalidUri| OriginError::InvalidUrl {
                url: shown(url),
                reason: error.to_string(),
            })?;
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers.clone();
        let proxy = self.0.forward_proxy(url, at.on_behalf);
        if let Some(value) = proxy.and_then(Proxy::authorization) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, value);
        }
        let response = at.http.request(at.by, request).await.map_err(|error| {
            let about = || self.0.about(url, at.on_behalf);
            OriginError::of_request(&error, url, error.is_connect(), about)
        })?;
        match proxy.filter(|_| response.extensions().get::<ByProxy>().is_some()) {
            Some(proxy) if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(OriginError::Proxy {
                    url: shown(url),
                    reason: ProxyFailure::refused(proxy, "", Some(407)).to_string(),
                })
            }
            _ => Ok(response),
        }
    }
}

/// Whether a server says that it cannot answer now.
fn is_trouble(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// Over which connections a request goes, and why over these.
#[derive(Clone, Copy)]
struct At<'a> {
    http: &'a Http,
    on_behalf: &'a Url,
    by: By,
}

/// Whether a URL can be asked at all.
pub(super) fn check_url(url: &Url) -> Result<(), String> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!(
            "the scheme {:?} is neither http nor https",
            url.scheme()
        ));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("it names no host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds a user name: give credentials beside it".to_owned());
    }
    Ok(())
}
